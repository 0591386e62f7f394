"""The device that torch computes on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


def best_device() -> torch.device:
    """The GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@contextmanager
def on_device(module: nn.Module, device: torch.device) -> Iterator[None]:
    """Meanwhile the module is there; afterwards on the CPU, where networks are kept."""
    module.to(device)
    try:
        yield
    finally:
        module.cpu()
