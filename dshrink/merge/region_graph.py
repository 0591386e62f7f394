"""The region of a network that a mask merges, as the graph that merging works on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from dshrink.errors import NotMergeable
from dshrink.merge.linear_graph import LinearGraph, from_spec
from dshrink.network.mask_changes import Region
from dshrink.network.sections import part_of
from latency_tables.onnx_file import Arrays
from latency_tables.opspec import OpSpec


def region_graph(
    spec: OpSpec,
    region: Region,
    weights: Sequence[Arrays] | None = None,
    layers: Sequence[str] = (),
) -> LinearGraph:
    """The region without its activations, as what the merge works on.

    ``weights`` and ``layers`` are those of the whole network; without weights it has shapes only.
    Raises NotMergeable.
    """
    return from_spec(
        part_of(spec, region.enters, region.ops),
        None if weights is None else [weights[n] for n in region.ops],
        names=[layers[n] for n in region.ops] if layers else (),
        removed={region.ops.index(n) for n in region.removed},
    )


@contextmanager
def naming(region: Region) -> Iterator[None]:
    """Say which region it is that cannot merge, in the NotMergeable that passes."""
    try:
        yield
    except NotMergeable as error:
        raise NotMergeable(f"{region.label}: {error}") from error
