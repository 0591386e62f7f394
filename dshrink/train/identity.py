"""What a result depends on, compared with what an earlier one in the same place depended on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from latency_tables.records import plain

#: So many differences are listed, the others counted.
SHOWN = 5


def differences(
    before: Mapping[str, Any], now: Mapping[str, Any]
) -> dict[str, tuple[object, object]]:
    """Values before and now, by dotted name, where they differ; what is missing is None."""
    old, new = _flat(before), _flat(plain(now))
    names = sorted(name for name in {*old, *new} if old.get(name) != new.get(name))
    return {name: (old.get(name), new.get(name)) for name in names}


def listed(found: Mapping[str, tuple[object, object]]) -> str:
    """As in "training.seed was 0, now 5; mask was 0011, now 0111"; the first ones of many."""
    texts = [f"{name} was {_short(old)}, now {_short(new)}" for name, (old, new) in found.items()]
    more = [f"and {len(texts) - SHOWN} more"] if len(texts) > SHOWN else []
    return "; ".join([*texts[:SHOWN], *more])


def _flat(document: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in document.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value
    return found


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
