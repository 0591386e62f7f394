"""The certificate of a merge: how far the merged network is from the one that it replaces.

Errors are the largest absolute difference on random images, and the same relative to the largest
value of the reference; a block or span by interior and border, in float64 and float32
(docs/methods.md, "Certificate").
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from dshrink.errors import CertificateError
from dshrink.merge.merged_network import MergedNetwork, MergedRegion
from dshrink.merge.padding import border_mask, reference
from dshrink.network.tracing import only_batch
from latency_tables.span_masks import Span

#: Largest relative error of a merge that is called exact.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Largest absolute error, and relative to the largest value of the reference."""

    absolute: float
    relative: float

    @classmethod
    def between(cls, result: Tensor, expected: Tensor, scale: float) -> Difference:
        absolute = float((result - expected).abs().max()) if result.numel() else 0.0
        return cls(absolute=absolute, relative=absolute / scale if scale else absolute)


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionCertificate:
    """One merged block or span: its differences, away from the border and on it."""

    label: str
    name: str
    index: int | None
    span: Span | None
    interior_float64: Difference
    border_float64: Difference
    interior_float32: Difference
    border_float32: Difference


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """``problem`` is empty where every difference that the padding mode promises is in tolerance.

    ``rounding_float32`` is what float32 alone does to the unmerged network's result (relative): a
    network that amplifies rounding, as one without activations does, is not blamed on the merge.
    """

    model: str
    segments: str
    mask: str
    padding: str
    free_activation: bool
    regions: tuple[RegionCertificate, ...]
    network_float64: Difference
    network_float32: Difference
    rounding_float32: float

    @property
    def problem(self) -> str:
        """Which difference is out of tolerance, or an empty text."""
        for what, place, kind, difference, limit in self._promised():
            if not difference.relative <= limit:
                return (
                    f"{what} differs by {difference.relative:.2g} (relative, {place}, {kind}) from "
                    f"what it replaces, more than {limit:.2g}"
                )
        return ""

    def _promised(self) -> Iterator[tuple[str, str, str, Difference, float]]:
        """What differs, where, in which precision, by how much, and the limit of that."""
        places = ("interior",) if self.padding == "interior" else ("interior", "border")
        for region in self.regions:
            for dtype, limit in TOLERANCE.items():
                kind = _name(dtype)
                for place in places:
                    yield region.label, place, kind, getattr(region, f"{place}_{kind}"), limit
        if self.padding != "interior":
            result, limit = "the network's result", TOLERANCE[torch.float64]
            yield result, "whole", "float64", self.network_float64, limit
            limit = allowed_float32(self.rounding_float32)
            yield result, "whole", "float32", self.network_float32, limit

    @property
    def line(self) -> str:
        """In one line: the worst region, away from the border and on it, and the network."""
        if not self.regions:
            return "nothing merged"
        interior = max(region.interior_float64.relative for region in self.regions)
        border = max(region.border_float64.relative for region in self.regions)
        return (
            f"certificate ({self.padding}), relative errors: "
            f"worst {self.segments.removesuffix('s')} {interior:.1e} inside and {border:.1e} at "
            f"the border in float64; whole network {self.network_float64.relative:.1e} in "
            f"float64, {self.network_float32.relative:.1e} in float32"
        )

    def require(self) -> None:
        """Raise CertificateError unless the merge is within tolerance."""
        if self.problem:
            raise CertificateError(
                f"{self.model}, mask {self.mask}: the merge is refused: {self.problem}"
            )

    def to_json(self) -> dict[str, Any]:
        tolerances = {f"tolerance_{_name(dtype)}": value for dtype, value in TOLERANCE.items()}
        data = asdict(self)
        data["keep_mask" if self.segments == "blocks" else "span_mask"] = data.pop("mask")
        data[self.segments] = data.pop("regions")
        return {**data, **tolerances, "problem": self.problem}


def allowed_float32(rounding: float) -> float:
    """Relative error in float32 that is still called equal, for a network of this rounding error.

    Above a rounding of 1 % nothing is proven, so nothing is allowed.
    """
    return max(TOLERANCE[torch.float32], 10 * rounding) if rounding < 0.01 else 0.0


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def certify(merged: MergedNetwork, *, images: int = 2, seed: int = 0) -> Certificate:
    """Compare every merged region, and the whole network, with what they replace."""
    generator = torch.Generator().manual_seed(seed)
    images = only_batch(merged.source.module) or images
    image = torch.randn(images, *merged.source.spec.input_shape, generator=generator)
    expected, result = {}, {}
    for dtype in TOLERANCE:
        with torch.inference_mode():
            expected[dtype] = merged.unmerged(dtype)(image.to(dtype)).double()
            result[dtype] = merged.module(dtype)(image.to(dtype)).double()
    scale = float(expected[torch.float64].abs().max())
    network = {t: Difference.between(result[t], expected[t], scale) for t in TOLERANCE}
    rounding = Difference.between(expected[torch.float32], expected[torch.float64], scale)
    return Certificate(
        model=merged.source.name,
        segments=merged.changes.segments,
        mask=merged.changes.mask,
        padding=merged.padding,
        free_activation=merged.changes.free_activation,
        regions=tuple(_certify_region(entry, generator) for entry in merged.regions),
        network_float64=network[torch.float64],
        network_float32=network[torch.float32],
        rounding_float32=rounding.relative,
    )


def _certify_region(entry: MergedRegion, generator: torch.Generator) -> RegionCertificate:
    shape = entry.graph.input_shape
    x = torch.randn(1, *shape, generator=generator, dtype=torch.float64)
    graph = reference(entry.graph, entry.merged.padding)
    differences = {}
    for dtype in TOLERANCE:
        with torch.inference_mode():
            expected = graph.to(dtype).run(x.to(dtype))
            result = entry.merged.to(dtype).run(x.to(dtype))
        border = border_mask(entry.merged.border, (result.shape[2], result.shape[3]))
        scale = float(expected.abs().max())
        for place, mask in (("interior", ~border), ("border", border)):
            differences[f"{place}_{_name(dtype)}"] = Difference.between(
                result[..., mask], expected[..., mask], scale
            )
    region = entry.region
    return RegionCertificate(
        label=region.label, name=region.name, index=region.block, span=region.span, **differences
    )
