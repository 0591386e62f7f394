"""Networks are made once a run: tracing costs seconds, and no test changes what it is given."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest

from dshrink.models import Network, load_network


@cache
def _load(name: str, resolution: int, weights: str) -> Network:
    return load_network(name, resolution=resolution, weights=weights)


@pytest.fixture(scope="session")
def network() -> Callable[..., Network]:
    """``network(name, resolution=224, weights="initial")``, shared: do not change what it gives."""

    def load(name: str, resolution: int = 224, weights: str = "initial") -> Network:
        return _load(name, resolution, weights)

    return load
