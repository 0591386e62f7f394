"""What one opaque operator is in a traced graph."""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx

from latency_tables.opspec import Shape


@dataclass(frozen=True, kw_only=True, eq=False)
class Closure:
    """Nodes that together make one tensor of others, in order; ``inputs`` are those others."""

    nodes: tuple[fx.Node, ...]
    inputs: tuple[fx.Node, ...]
    shapes: tuple[Shape, ...]
