"""Merge the blocks or spans of a plan with real weights, verify, and export to ONNX.

The merged network is given back as a module as well; a file is written where one is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dshrink.limits import require_within
from dshrink.merge.activations import ChangedActivations
from dshrink.merge.agreement import Agreement
from dshrink.merge.certified_export import export_merged
from dshrink.merge.export import (
    accuracy_metadata,
    export_onnx,
    plan_metadata,
    require_same_when_written,
)
from dshrink.merge.merged_network import network_of
from dshrink.merge.merged_weights import merged_module
from dshrink.merge.verify import Certificate
from dshrink.network.mask_changes import rewriting
from dshrink.network.models import Network
from dshrink.network.precision import exact_float32
from dshrink.network.torch_device import best_device
from dshrink.network.weights.metadata import WeightsAbout
from dshrink.operations.given import AnyPlan, opened_plan, plan_words
from dshrink.operations.known import known_of_plan
from dshrink.operations.merged_weights import (
    MergedChoice,
    about_merged,
    open_merged,
    require_same_plan,
)
from dshrink.operations.opening import AnyNetwork, chosen, opened, size_of_weights
from dshrink.operations.weights_origin import origin_of
from dshrink.pieces.plan_binding import bind_to_network
from dshrink.progress import Notice, no_notice
from dshrink.search.plan import Plan
from dshrink.train.feed import Feed
from dshrink.train.opening import open_to_validate
from dshrink.train.tuning import evaluate
from dshrink.train.unreadable import Unreadable
from profiler.target import MOST_BATCH

_COSTS = ("macs", "parameters")


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeResult:
    """What was merged and written; each ``cost`` is that before and after the merge.

    ``agreement`` is None without images, and for weights of a merged network, of which there is no
    other form and no ``certificate``, nor anything to say of ``activations``: whether the weights
    were trained without those that are removed. ``accuracy_percent`` is the top-1 accuracy of what
    was written. ``unreadable`` maps images that could not be read to the reasons.
    ``onnx_difference`` is that of the file from torch, relative. It and ``file`` are None where
    none was asked for.
    """

    file: str | None
    certificate: str | None
    certificate_line: str
    segments: str
    keep_mask: str
    span_mask: str
    padding: str
    blocks_merged: int
    spans_merged: int
    merge_s: float | None
    onnx_difference: float | None
    activations: ChangedActivations | None
    agreement: Agreement | None
    accuracy_percent: float | None
    validation_images: int
    unreadable: Mapping[str, str]
    cost: Mapping[str, tuple[int, int]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Merged:
    """A merged network: ``network.module`` computes it, in eval mode and float32.

    ``plan`` names what was merged as this network does. ``certificate`` says how far the merged
    network is from the unmerged one; None where its weights were fitted or trained as merged ones.
    """

    network: Network
    plan: Plan
    certificate: Certificate | None
    result: MergeResult


def merge_by_plan(
    network: AnyNetwork,
    plan: AnyPlan,
    file: Path | str | None = None,
    *,
    data: str | Path | None = None,
    loaders: int = 0,
    unreadable: Unreadable = Unreadable.SKIP,
    padding: str | None = None,
    free_activation: bool | None = None,
    batch: int = 1,
    notice: Notice = no_notice,
) -> Merged:
    """Merge, certify, and export to ONNX where ``file`` is given, the certificate next to it.

    ``padding`` is how merged convolutions treat the border: "bias_map", "repad" or "interior"
    (None: as the plan says). With ``free_activation`` a ReLU6 follows merged blocks (None: as
    fine-tuned weights say, else it does). ``batch`` is the file's. With ``data``, a folder of
    images, the top-1 agreement is checked on its validation images, or on all of one without
    classes. Weights that were not trained without the activations that the plan removes are merged
    all the same: the result and the certificate say so. Weights of a merged network
    (``refit_by_plan``) need no merge: a choice names them, and the plan. The module of ``network``
    is not changed. Raises DshrinkError where plan, weights and options do not go together, and as
    ``export_merged``.
    """
    require_within("batch", batch, 1, MOST_BATCH)
    file = None if file is None else Path(file)
    data = None if data is None else str(data)
    if not isinstance(network, Network) and (about := about_merged(chosen(network))):
        choice = chosen(network)
        known = open_merged(choice, opened_plan(plan), about, notice)
        require_same_plan(
            known.plan, about, choice.weights, padding=padding, free_activation=free_activation
        )
        return _write_merged(
            known,
            file,
            plan=plan_words(plan),
            data=data,
            loaders=loaders,
            unreadable=unreadable,
            batch=batch,
            notice=notice,
        )
    wanted = opened_plan(plan)
    of_plan = known_of_plan(wanted, plan_words(plan))
    source = opened(network, of_plan, size_of_weights(network), notice=notice)
    weights, trained = source.weights, source.trained
    require_same_when_written(source)
    bound = bind_to_network(wanted, source)
    if free_activation is None:
        free_activation = trained.free_activation if trained and trained.padding else True
    form = _padding(bound, padding, free_activation, trained, weights)
    feed = None
    if data is not None:
        feed = open_to_validate(
            data, source, weights=weights, loaders=loaders, unreadable=unreadable
        )
    certificate_file = file.with_name(f"{file.name}.certificate.json") if file else None
    done = export_merged(
        source,
        rewriting(source, bound.mask, segments=bound.segments, free_activation=free_activation),
        file,
        padding=form,
        certificate_file=certificate_file,
        origin=origin_of(source, network, plan_words(plan), data),
        batch=batch,
        images=feed,
        about={"plan": bound.source or plan_words(plan)},
    )
    if feed and feed.unreadable.line:
        notice(feed.unreadable.line)
    merged = len(done.merged.regions)
    before, after = source.spec, done.merged.network.spec
    result = MergeResult(
        file=_text(file),
        certificate=_text(certificate_file),
        certificate_line=done.certificate.line,
        segments=bound.segments,
        keep_mask=bound.keep_mask,
        span_mask=bound.span_mask,
        padding=form,
        blocks_merged=merged if bound.segments == "blocks" else 0,
        spans_merged=merged if bound.segments == "spans" else 0,
        merge_s=done.merge_s,
        onnx_difference=done.onnx_difference,
        activations=done.activations,
        agreement=done.agreement,
        accuracy_percent=done.agreement.merged_accuracy_percent if done.agreement else None,
        validation_images=done.agreement.images if done.agreement else 0,
        unreadable=dict(feed.unreadable.reasons) if feed else {},
        cost={name: (getattr(before, name), getattr(after, name)) for name in _COSTS},
    )
    return Merged(
        network=done.merged.network, plan=bound, certificate=done.certificate, result=result
    )


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


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
    require_same_plan(plan, trained, weights, padding=asked, free_activation=free_activation)
    return trained.padding


def _write_merged(
    known: MergedChoice,
    file: Path | None,
    *,
    plan: str,
    data: str | None,
    loaders: int,
    unreadable: Unreadable,
    batch: int,
    notice: Notice,
) -> Merged:
    """Write weights that are those of the merged network already: there is nothing to prove."""
    source, whose = known.network, known.weights.where
    network = network_of(source, merged_module(source, known.changes, known.weights))
    about: dict[str, Any] = {
        **plan_metadata(source, known.changes, known.weights.padding),
        "plan": known.plan.source or plan,
    }
    feed, accuracy, images = None, None, 0
    if data is not None:
        feed = open_to_validate(data, source, weights=whose, loaders=loaders, unreadable=unreadable)
        accuracy, images = _accuracy(network, feed)
        about |= accuracy_metadata(accuracy, images, feed.digest)
    difference = export_onnx(network, file, batch=batch, metadata=about) if file else None
    if feed and feed.unreadable.line:
        notice(feed.unreadable.line)
    merged, segments = len(known.changes.regions), known.plan.segments
    result = MergeResult(
        file=_text(file),
        certificate=None,
        certificate_line=f"{whose} are weights of the merged network: nothing was left to merge",
        segments=segments,
        keep_mask=known.plan.keep_mask,
        span_mask=known.plan.span_mask,
        padding=known.weights.padding,
        blocks_merged=merged if segments == "blocks" else 0,
        spans_merged=merged if segments == "spans" else 0,
        merge_s=None,
        onnx_difference=difference,
        activations=None,
        agreement=None,
        accuracy_percent=accuracy,
        validation_images=images,
        unreadable=dict(feed.unreadable.reasons) if feed else {},
        cost={name: (getattr(source.spec, name), getattr(network.spec, name)) for name in _COSTS},
    )
    return Merged(network=network, plan=known.plan, certificate=None, result=result)


def _accuracy(network: Network, feed: Feed) -> tuple[float, int]:
    """Top-1, in percent, and the number of validation images that could be read."""
    device = best_device()
    with exact_float32():
        score = evaluate(network.module.to(device), feed.validation_on(device))
    network.module.cpu()
    return score.accuracy, len(feed.images.validation) - len(feed.unreadable.reasons)
