"""Merge a plan's blocks or spans and refit them to what the original gave, without labels."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dshrink.limits import MOST_IMAGES, MOST_LOADERS, require_within
from dshrink.merge.merged_network import merge_network, network_of
from dshrink.network.mask_changes import rewriting
from dshrink.network.models import Network, weights_digest
from dshrink.network.onnx_files.source import source_of
from dshrink.network.precision import exact_float32
from dshrink.network.references import ModelChoice
from dshrink.network.torch_device import best_device, on_device
from dshrink.network.weights.metadata import WEIGHTS_KEY
from dshrink.operations.given import AnyPlan, opened_plan, plan_words
from dshrink.operations.known import known_of_plan
from dshrink.operations.merged_weights import check_whole, require_whole
from dshrink.operations.opening import AnyNetwork, chosen, opened, size_of_weights
from dshrink.pieces.plan_binding import bind_to_network
from dshrink.progress import Notice, OnProgress, no_notice, no_progress
from dshrink.refit.agreement import Closeness, compare
from dshrink.refit.fitting import UnitFit
from dshrink.refit.images import calibration_images
from dshrink.refit.journal import RefitError, RefitJournal
from dshrink.refit.network_refit import refit_network
from dshrink.search.plan import Plan, save_plan
from dshrink.train.checkpoint import held, save_tensors
from dshrink.train.feed import Feed
from dshrink.train.finetune import WEIGHTS, weights_about
from dshrink.train.image_sets import open_unlabelled
from dshrink.train.opening import (
    VALIDATION_BATCH,
    feed_of,
    preprocessing_for,
    require_trainable,
)
from dshrink.train.settings import Training
from dshrink.train.unreadable import Unreadable, UnreadableImages
from dshrink.version import __version__
from latency_tables.files import write_atomically
from latency_tables.records import plain

REPORT, PLAN = "refit.json", "plan.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class RefitResult:
    """What was fitted and written.

    ``images`` were fitted, in ``seconds``. ``held_out`` compares the merged networks with the
    original on the images that were held out, ``validation`` on the validation images, where the
    data have them. ``norms_matched``: whether the norms behind were matched to the original's
    moments.
    """

    fits: Sequence[UnitFit]
    norms_matched: bool
    images: int
    held_out: Closeness
    validation: Closeness | None
    seconds: float
    weights: str
    plan: str
    unreadable: Mapping[str, str]


@dataclass(frozen=True, kw_only=True, eq=False)
class Refitted:
    """A merged network with fitted weights: ``network.module`` computes it, in eval mode.

    ``plan`` names what was merged, under the padding that was fitted.
    """

    network: Network
    plan: Plan
    result: RefitResult


def refit_by_plan(
    network: AnyNetwork,
    plan: AnyPlan,
    data: str | Path,
    folder: Path | str,
    *,
    images: int = 256,
    padding: str | None = None,
    free_activation: bool | None = None,
    merged_only: bool = False,
    loaders: int = 0,
    unreadable: Unreadable = Unreadable.SKIP,
    seed: int | None = None,
    on_progress: OnProgress = no_progress,
    notice: Notice = no_notice,
) -> Refitted:
    """Refit the merged convolutions of a plan on ``images`` images of ``data``.

    ``data`` is a folder of images, with or without classes; of one with train/ and val/ the first
    is fitted, the second only measured. With ``merged_only`` the convolutions behind are left as
    they are. ``folder`` takes the weights of the merged network, the plan and a report. The same
    call resumes an interrupted run. ``free_activation`` None: a plan's blocks get none, for that
    only costs accuracy without training; its spans those that they were rated with. ``seed`` draws
    crops and the images that are held out; None: the choice's, or 0. Raises DshrinkError where
    plan, network and images do not go together.
    """
    require_within("images", images, 2, MOST_IMAGES)
    require_within("loaders", loaders, 0, MOST_LOADERS)
    start = time.perf_counter()
    data, folder = str(data), Path(folder)
    require_refittable(network)
    wanted = opened_plan(plan)
    of_plan = known_of_plan(wanted, plan_words(plan))
    source = opened(network, of_plan, size_of_weights(network), notice=notice)
    if seed is None:
        seed = 0 if isinstance(network, Network) else chosen(network).seed
    bound = bind_to_network(wanted, source)
    if free_activation is None:  # those of a span plan were chosen, and rated with what they do
        free_activation = bound.segments == "spans"
    changes = rewriting(
        source, bound.mask, segments=bound.segments, free_activation=free_activation
    )
    padding = padding or bound.padding
    split, labelled = open_unlabelled(data, source.spec.input_shape[0])
    bad = UnreadableImages(unreadable)
    device = best_device()
    calibration = calibration_images(
        split,
        preprocessing_for(source),
        count=images,
        seed=seed,
        device=device,
        loaders=loaders,
        unreadable=bad,
    )
    algebraic = merge_network(source, changes, padding=padding).module(torch.float32)
    identity = {
        "model": source.name,
        "resolution": list(source.resolution),
        "weights": weights_digest(source.module),
        "segments": bound.segments,
        "mask": bound.mask,
        "padding": padding,
        "free_activation": free_activation,
        "merged_only": merged_only,
        "data": split.digest,
        "images": images,
        "seed": seed,
    }
    with held(folder), exact_float32(), on_device(source.module, device):
        journal = RefitJournal.open(folder, identity)
        if journal.fitted:
            notice(f"{folder}: resumed after {len(journal.fitted)} fitted convolutions")
        found = refit_network(
            source,
            changes,
            calibration.fit,
            calibration.held_out,
            padding=padding,
            merged_only=merged_only,
            known=journal.fitted,
            keep=journal.add,
            progress=on_progress,
        )
        seconds = time.perf_counter() - start
        networks = {"algebraic": algebraic.to(device), "refitted": found.module}
        unlabelled = ((batch, None) for batch in calibration.held_out)
        held_out = compare(source.module, networks, unlabelled)
        validation = None
        if labelled is not None:
            settings = Training(batch=min(VALIDATION_BATCH, len(labelled.train)), loaders=loaders)
            feed = feed_of(labelled, source, settings, unreadable)
            validation = compare(source.module, networks, _validation(feed, source, device))
            bad.reasons.update(feed.unreadable.reasons)
        result = RefitResult(
            fits=found.fits,
            norms_matched=found.norms_matched,
            images=sum(map(len, calibration.fit)),
            held_out=held_out,
            validation=validation,
            seconds=seconds,
            weights=str(folder / WEIGHTS),
            plan=str(folder / PLAN),
            unreadable=dict(bad.reasons),
        )
        _write(result, folder, found.module, weights_about(source, changes, merged_padding=padding))
        fitted = replace(bound, padding=padding)
        save_plan(fitted, folder / PLAN)
        report = {"dshrink_version": __version__, **identity, **plain(result)}
        write_atomically(folder / REPORT, json.dumps(report, indent=2) + "\n")
    if bad.line:
        notice(bad.line)
    module = found.module.cpu().eval()
    return Refitted(network=network_of(source, module), plan=fitted, result=result)


def require_refittable(network: AnyNetwork) -> None:
    """Raise DshrinkError for a network whose weights are not trained, or not its own to change."""
    if isinstance(network, Network):
        weights = network.weights
        check_whole(network.trained, weights, "a refit")
        if source_of(network.module) is not None:
            require_trainable(ModelChoice(model=network.name))
    else:
        choice = chosen(network)
        weights = choice.weights
        require_whole(weights, "a refit")
        require_trainable(choice)
    if weights in ("initial", "random"):
        raise RefitError(
            f"--weights {weights}: a refit keeps what trained weights compute, and these "
            "are not trained; give a state-dict file, or pretrained"
        )


def _validation(
    feed: Feed, network: Network, device: torch.device
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Validation images; their labels where they have as many classes as the network."""
    known = len(feed.images.classes) == network.spec.shapes[-1][0]
    for batch, labels in feed.validation_on(device):
        yield batch, labels if known else None


def _write(result: RefitResult, folder: Path, module: nn.Module, about: Mapping[str, Any]) -> None:
    accuracy = result.validation.accuracy_percent if result.validation else {}
    entry = {**about, "accuracy_percent": accuracy.get("refitted")}
    save_tensors(module.state_dict(), folder / WEIGHTS, {WEIGHTS_KEY: json.dumps(entry)})
