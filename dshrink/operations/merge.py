"""Merge the blocks or spans of a plan with real weights, verify, and export to ONNX."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dshrink.errors import DshrinkError
from dshrink.merge.agreement import Agreement
from dshrink.merge.certified_export import export_merged
from dshrink.merge.export import require_same_when_written
from dshrink.network.mask_changes import rewriting
from dshrink.network.models import load
from dshrink.network.references import NAMED_WEIGHTS, Known, ModelChoice
from dshrink.network.weights.metadata import WeightsAbout, about_weights
from dshrink.operations.known import known_of_plan
from dshrink.pieces.plan_binding import bind_to_network
from dshrink.progress import Notice, no_notice
from dshrink.search.plan import Plan, parse_plan
from dshrink.train.opening import open_to_validate
from dshrink.train.unreadable import Unreadable

_COSTS = ("macs", "parameters")


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeResult:
    """What was merged and written; each ``cost`` is that before and after the merge.

    ``agreement`` is None without images, ``unreadable`` maps those that could not be read to the
    reasons. ``onnx_difference`` is that of the file from torch, relative.
    """

    file: str
    certificate: str
    certificate_line: str
    segments: str
    keep_mask: str
    span_mask: str
    padding: str
    blocks_merged: int
    spans_merged: int
    merge_s: float
    onnx_difference: float
    agreement: Agreement | None
    unreadable: Mapping[str, str]
    cost: Mapping[str, tuple[int, int]]


def merge_by_plan(
    choice: ModelChoice,
    plan: str,
    file: Path,
    *,
    data: str | None = None,
    loaders: int = 0,
    unreadable: Unreadable = Unreadable.SKIP,
    padding: str | None = None,
    free_activation: bool | None = None,
    batch: int = 1,
    notice: Notice = no_notice,
) -> MergeResult:
    """Merge, certify, export; the certificate is written next to the file.

    With ``data`` the top-1 agreement is checked on its validation images. Raises DshrinkError where
    plan, weights and options do not go together, and as ``export_merged``.
    """
    wanted = parse_plan(plan)
    weights = choice.weights
    trained = about_weights(Path(weights)) if weights not in NAMED_WEIGHTS else None
    size = Known(whose=weights, resolution=trained.resolution) if trained else None
    network = load(choice.knowing(known_of_plan(wanted, plan), size), notice)
    require_same_when_written(network)
    bound = bind_to_network(wanted, network)
    if free_activation is None:
        free_activation = trained.free_activation if trained and trained.padding else True
    form = _padding(bound, padding, free_activation, trained, weights)
    feed = None
    if data is not None:
        feed = open_to_validate(
            data, network, weights=weights, loaders=loaders, unreadable=unreadable
        )
    certificate_file = file.with_name(f"{file.name}.certificate.json")
    done = export_merged(
        network,
        rewriting(network, bound.mask, segments=bound.segments, free_activation=free_activation),
        file,
        padding=form,
        certificate_file=certificate_file,
        batch=batch,
        images=feed,
        about={"plan": bound.source or plan},
    )
    if feed and feed.unreadable.line:
        notice(feed.unreadable.line)
    merged = len(done.merged.regions)
    before, after = network.spec, done.merged.network.spec
    return MergeResult(
        file=str(file),
        certificate=str(certificate_file),
        certificate_line=done.certificate.line,
        segments=bound.segments,
        keep_mask=bound.keep_mask,
        span_mask=bound.span_mask,
        padding=form,
        blocks_merged=merged if bound.segments == "blocks" else 0,
        spans_merged=merged if bound.segments == "spans" else 0,
        merge_s=done.merge_s,
        onnx_difference=done.onnx_difference,
        agreement=done.agreement,
        unreadable=dict(feed.unreadable.reasons) if feed else {},
        cost={name: (getattr(before, name), getattr(after, name)) for name in _COSTS},
    )


def _padding(
    plan: Plan,
    asked: str | None,
    free_activation: bool,
    trained: WeightsAbout | None,
    weights: str,
) -> str:
    """The padding mode: as asked for, as the weights were trained, or as planned.

    Raises DshrinkError where weights of ``dshrink finetune`` were trained for something else: then
    the merged network would be none that anybody trained.
    """
    if trained is None or not trained.padding:
        return asked or plan.padding
    form = trained.padding
    now = {"mask": plan.mask, "padding": asked or form, "free_activation": free_activation}
    if differences := [
        f"{name} {before}, now {value}"
        for name, value in now.items()
        if (before := getattr(trained, name)) != value
    ]:
        raise DshrinkError(
            f"{weights}: these weights were fine-tuned for {'; '.join(differences)}: give that "
            "plan (plan.json next to them), or fine-tune for this one"
        )
    return form
