"""Stage 2: train a network without its unimportant activations, so that it merges exactly.

The network is trained unmerged, with all padding of a region at its front (``repad``) and the free
activation after it; its weights keep the original's names, and their metadata name the plan that
they are for.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dshrink.merge.fading import Fade
from dshrink.merge.merged_network import network_of
from dshrink.merge.merged_weights import MergedWeights, merged_module
from dshrink.merge.recording import RegionOutputs, recorded_module
from dshrink.merge.unmerged import unmerged_module
from dshrink.network.mask_changes import Rewriting
from dshrink.network.models import Network, state_digest, weights_digest, with_state
from dshrink.network.torch_device import best_device
from dshrink.network.weights.metadata import MERGED, WEIGHTS_KEY
from dshrink.progress import Notice, OnProgress, no_notice, no_progress
from dshrink.train.checkpoint import NAME as CHECKPOINT
from dshrink.train.checkpoint import save_tensors
from dshrink.train.feed import Feed
from dshrink.train.loop import Fitted, fit
from dshrink.train.merged_norms import add_norms, fold_norms
from dshrink.train.objectives import BlockPair, distilled
from dshrink.train.settings import Training
from dshrink.train.tuning import Batch, prepared
from latency_tables.csv_lines import write_csv

WEIGHTS, HISTORY = "weights.safetensors", "history.csv"
#: Images from which the norms of merged convolutions learn what they normalise, at most so many at
#: a time.
NORM_IMAGES, NORM_BATCH = 320, 64
#: Only so trained is a merge free and exact (docs/methods.md).
PADDING = "repad"


@dataclass(frozen=True, kw_only=True)
class FineTuned:
    """``network`` is the original with the trained weights: merged by the same changes, under
    ``repad``, it equals what was trained. Trained in the merged form, it is the merged network."""

    network: Network
    fitted: Fitted
    weights: Path


def finetune(
    network: Network,
    changes: Rewriting | None,
    feed: Feed,
    folder: Path,
    *,
    merged: MergedWeights | None = None,
    teacher: nn.Module | None = None,
    progress: OnProgress = no_progress,
    notice: Notice = no_notice,
) -> FineTuned:
    """Train ``network`` rewritten as ``changes`` says (as it is where they are None).

    With distillation in the settings of ``feed`` the ``teacher`` takes part, the network as it came
    in if not given; block outputs are compared where there are regions. With ``fade_epochs`` the
    changes of activations fade in (``Fade``), and the history says how far they are.

    With ``merged`` the network is trained in its merged form, from those weights, with norms that
    are folded away in the end (``merged_norms``): its activations are gone, so nothing fades.

    The folder takes the checkpoint, the history and the weights; the same call resumes an
    interrupted run. Raises as ``loop.fit`` does.
    """
    settings = feed.settings
    blocks = _compared_blocks(changes, settings)
    fading = settings.fade_epochs and merged is None and _changes_activations(changes)
    fade = Fade() if fading else None
    outputs = blocks.student if blocks else None
    if changes is None:
        module = copy.deepcopy(network.module)
    elif merged is None:
        module = unmerged_module(network, changes, padding=PADDING, fade=fade, outputs=outputs)
    else:
        module = merged_module(network, changes, merged, outputs)
        # A checkpoint holds the norms as they are by then.
        some = () if (folder / CHECKPOINT).exists() else _some_images(feed)
        add_norms(module.to(best_device()), network, some)
        if outputs is not None:
            outputs.take()
    about = weights_about(network, changes, merged_padding=merged.padding if merged else None)
    identity = identity_of(about, network.module)
    if merged is not None:
        identity["merged_weights"] = state_digest(merged.state)
    objective = None
    if settings.distillation or blocks:
        objective = distilled(_teacher(network, teacher, changes, blocks), settings, blocks)
        identity |= {"teacher": weights_digest(teacher)} if teacher else {}
    fitted = fit(
        module,
        feed,
        folder=folder,
        identity=identity,
        objective=objective,
        before_step=partial(_advance, fade, settings.fade_epochs * feed.steps) if fade else None,
        observe=(lambda: {"fade": fade.value}) if fade else None,
        progress=progress,
        notice=notice,
    )
    file = folder / WEIGHTS
    if merged is not None:
        fitted = replace(fitted, state=fold_norms(module.cpu(), fitted.state))
    if fitted.main:
        entry = {**about, "accuracy_percent": fitted.accuracy}
        save_tensors(fitted.state, file, {WEIGHTS_KEY: json.dumps(entry)})
        write_history(fitted.history, folder / HISTORY)
    if merged is None:
        tuned = with_state(network, fitted.state)
    else:
        assert changes is not None
        trained = replace(merged, state=fitted.state)
        tuned = network_of(network, merged_module(network, changes, trained))
    return FineTuned(network=tuned, fitted=fitted, weights=file)


def _some_images(feed: Feed) -> Iterator[Batch]:
    """The first training images, few at a time."""
    batches = prepared(feed.training(0, 0, 1), feed.preprocessing, best_device())
    parts = (
        part
        for images, labels in batches
        for part in zip(
            torch.split(images, NORM_BATCH), torch.split(labels, NORM_BATCH), strict=True
        )
    )
    return islice(parts, -(-NORM_IMAGES // min(NORM_BATCH, feed.settings.batch)))


def _changes_activations(changes: Rewriting | None) -> bool:
    if changes is None:
        return False
    inside = any(region.removed for region in changes.regions)
    return inside or bool(changes.removed or changes.activated)


def _advance(fade: Fade, steps: int, done: int) -> None:
    """By an equal share each step, the last of ``steps`` with all of it."""
    fade.value = min(1.0, (done + 1) / steps)


def _compared_blocks(changes: Rewriting | None, settings: Training) -> BlockPair | None:
    """None without regions: there is nothing to compare."""
    if changes is None or not changes.regions or not settings.block_distillation:
        return None
    return BlockPair(student=RegionOutputs(), teacher=RegionOutputs())


def _teacher(
    network: Network, teacher: nn.Module | None, changes: Rewriting | None, blocks: BlockPair | None
) -> nn.Module:
    """A copy, for it is moved to the device of the images."""
    if changes is None or blocks is None:
        return copy.deepcopy(teacher or network.module)
    whole = with_state(network, teacher.state_dict()) if teacher else network
    return recorded_module(whole, changes.regions, blocks.teacher)


def weights_about(
    network: Network, changes: Rewriting | None, *, merged_padding: str | None = None
) -> dict[str, Any]:
    """What trained weights are for, as their file says it (``WeightsAbout``).

    ``merged_padding`` is given for weights of the merged network.
    """
    form = {} if merged_padding is None else {"form": MERGED}
    padding = PADDING if merged_padding is None else merged_padding
    return {
        "model": network.name,
        "resolution": list(network.resolution),
        "classes": network.spec.shapes[-1][0],
        "in_channels": network.spec.input_shape[0],
        "segments": changes.segments if changes else "",
        "mask": changes.mask if changes else "",
        "free_activation": changes.free_activation if changes else True,
        "padding": padding if changes and changes.regions else "",
        **form,
    }


def identity_of(about: Mapping[str, Any], module: nn.Module) -> dict[str, Any]:
    """What a training of ``module`` depends on besides settings and images."""
    # The digest of the weights says how many channels they read.
    known = {name: value for name, value in about.items() if name != "in_channels"}
    return {**known, "weights": weights_digest(module)}


def write_history(history: tuple[Mapping[str, Any], ...], file: Path) -> None:
    """A CSV with a line an epoch, of the numbers in its entries."""
    columns = [name for name, value in history[-1].items() if isinstance(value, int | float)]
    write_csv(file, columns, history)
