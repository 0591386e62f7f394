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

from dshrink.merge.merged_network import merge_network
from dshrink.network.mask_changes import rewriting
from dshrink.network.models import Network, load, weights_digest
from dshrink.network.precision import exact_float32
from dshrink.network.references import ModelChoice
from dshrink.network.torch_device import best_device
from dshrink.network.weights.metadata import WEIGHTS_KEY
from dshrink.operations.known import known_of_plan, known_size
from dshrink.operations.merged_weights import require_whole
from dshrink.pieces.plan_binding import bind_to_network
from dshrink.progress import Notice, OnProgress, no_notice, no_progress
from dshrink.refit.agreement import Closeness, compare
from dshrink.refit.fitting import UnitFit
from dshrink.refit.images import calibration_images
from dshrink.refit.journal import RefitError, RefitJournal
from dshrink.refit.network_refit import refit_network
from dshrink.search.plan import parse_plan, save_plan
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


def refit_by_plan(
    choice: ModelChoice,
    plan: str,
    data: str,
    folder: Path,
    *,
    images: int = 256,
    padding: str | None = None,
    free_activation: bool | None = None,
    merged_only: bool = False,
    loaders: int = 0,
    unreadable: Unreadable = Unreadable.SKIP,
    on_progress: OnProgress = no_progress,
    notice: Notice = no_notice,
) -> RefitResult:
    """Refit the merged convolutions of a plan on ``images`` images of ``data``.

    ``folder`` takes the weights of the merged network, the plan and a report. The same call resumes
    an interrupted run. ``free_activation`` None: a plan's blocks get none, for that only costs
    accuracy without training; its spans those that they were rated with. Raises DshrinkError where
    plan, network and images do not go together.
    """
    start = time.perf_counter()
    if choice.weights in ("initial", "random"):
        raise RefitError(
            f"--weights {choice.weights}: a refit keeps what trained weights compute, and these "
            "are not trained; give a state-dict file, or pretrained"
        )
    require_whole(choice.weights, "a refit")
    require_trainable(choice)
    wanted = parse_plan(plan)
    size = known_size(choice.weights)
    network = load(choice.knowing(known_of_plan(wanted, plan), size), notice)
    bound = bind_to_network(wanted, network)
    if free_activation is None:  # those of a span plan were chosen, and rated with what they do
        free_activation = bound.segments == "spans"
    changes = rewriting(
        network, bound.mask, segments=bound.segments, free_activation=free_activation
    )
    padding = padding or bound.padding
    split, labelled = open_unlabelled(data, network.spec.input_shape[0])
    bad = UnreadableImages(unreadable)
    device = best_device()
    calibration = calibration_images(
        split,
        preprocessing_for(network),
        count=images,
        seed=choice.seed,
        device=device,
        loaders=loaders,
        unreadable=bad,
    )
    algebraic = merge_network(network, changes, padding=padding).module(torch.float32)
    network.module.to(device)
    identity = {
        "model": network.name,
        "resolution": list(network.resolution),
        "weights": weights_digest(network.module),
        "segments": bound.segments,
        "mask": bound.mask,
        "padding": padding,
        "free_activation": free_activation,
        "merged_only": merged_only,
        "data": split.digest,
        "images": images,
        "seed": choice.seed,
    }
    with held(folder), exact_float32():
        journal = RefitJournal.open(folder, identity)
        if journal.fitted:
            notice(f"{folder}: resumed after {len(journal.fitted)} fitted convolutions")
        found = refit_network(
            network,
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
        held_out = compare(network.module, networks, unlabelled)
        validation = None
        if labelled is not None:
            settings = Training(batch=min(VALIDATION_BATCH, len(labelled.train)), loaders=loaders)
            feed = feed_of(labelled, network, settings, unreadable)
            validation = compare(network.module, networks, _validation(feed, network, device))
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
        _write(
            result, folder, found.module, weights_about(network, changes, merged_padding=padding)
        )
        save_plan(replace(bound, padding=padding), folder / PLAN)
        report = {"dshrink_version": __version__, **identity, **plain(result)}
        write_atomically(folder / REPORT, json.dumps(report, indent=2) + "\n")
    if bad.line:
        notice(bad.line)
    return result


def _validation(
    feed: Feed, network: Network, device: torch.device
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Validation images; their labels where they have as many classes as the network."""
    known = len(feed.images.classes) == network.spec.shapes[-1][0]
    for batch, labels in feed.validation_on(device):
        yield batch, labels if known else None


def _write(result: RefitResult, folder: Path, module: nn.Module, about: Mapping[str, Any]) -> None:
    accuracy = result.validation.accuracy if result.validation else {}
    entry = {**about, "accuracy_percent": accuracy.get("refitted")}
    save_tensors(module.state_dict(), folder / WEIGHTS, {WEIGHTS_KEY: json.dumps(entry)})
