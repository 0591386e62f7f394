"""What the steps of a study do, each in whatever process it is given to.

All rows of a comparison are trained by one function with one set of settings, on the same images
in the same order (``Feed``); they differ in the network that they start from and in what becomes
of its activations.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from dshrink.merge.certified_export import export_merged
from dshrink.merge.export import export_onnx
from dshrink.network.models import Network, with_state
from dshrink.network.rewriting import Rewriting, rewriting
from dshrink.pieces.plan_binding import bind_to_network
from dshrink.progress import OnProgress, no_progress
from dshrink.search.goal import Goal
from dshrink.search.plan import load_plan, parse_plan, save_plan
from dshrink.search.random_search import random_plan
from dshrink.study.recipe import INITIAL, Recipe, Target
from dshrink.study.steps import (
    MERGE,
    PRETRAIN,
    SEARCH,
    TRAIN,
    Step,
    StepFolders,
    StudyError,
)
from dshrink.train.data import Images
from dshrink.train.feed import Feed
from dshrink.train.finetune import PADDING, WEIGHTS, FineTuned, finetune
from dshrink.train.mask_search import search_masks, write_mask_history
from dshrink.train.opening import feed_of, load_for
from dshrink.train.pruning import pruned_network
from dshrink.train.settings import Training
from dshrink.train.unreadable import Unreadable, UnreadableImages
from dshrink.train.width import scaled_network
from latency_tables.io import load_table

PLAN, HISTORY = "plan.json", "mask_history.csv"
#: A process keeps so many networks.
MOST_NETWORKS = 4


@dataclass(frozen=True, kw_only=True)
class Workplace:
    """All that a step needs to know, as plain data that goes to other processes.

    ``table`` is the folder of the latency table, ``allow_unfit`` whether masks may come from one
    that is not fit for search.
    """

    recipe: Recipe
    data: str
    table: Path
    folders: StepFolders
    allow_unfit: bool = False
    unreadable: Unreadable = Unreadable.SKIP


@dataclass(frozen=True, kw_only=True)
class Worker:
    """Does steps, and keeps between them what takes long to load: one for each process.

    Of several processes that do a step together only the ``main`` one writes.
    """

    place: Workplace
    images: Images
    main: bool = True
    progress: OnProgress = no_progress
    missing: UnreadableImages = field(default_factory=UnreadableImages)
    #: By weights and seed; nothing changes a network that it is given.
    networks: dict[tuple[str, int], Network] = field(default_factory=dict)

    def do(self, step: Step) -> dict[str, Any]:
        """Do a step; returns what came out. Raises what training, merging and searching raise."""
        return _DO[step.kind](self, step)

    def network(self, weights: str, seed: int = 0) -> Network:
        """The recipe's network for these images; ``seed`` draws initial weights."""
        recipe, key = self.place.recipe, (weights, seed)
        if key not in self.networks:
            if len(self.networks) >= MOST_NETWORKS:
                self.networks.clear()
            self.networks[key] = load_for(
                self.images, recipe.model, resolution=recipe.resolution, weights=weights, seed=seed
            )
        return self.networks[key]

    def start(self, step: Step) -> Network:
        """The whole network that a step starts from."""
        recipe = self.place.recipe
        if step.from_initial:
            return self.network(INITIAL, step.seed)
        if recipe.pretrain is None:
            return self.network(recipe.weights)
        return self.network(str(self.place.folders.folder(PRETRAIN) / WEIGHTS))

    def feed(self, network: Network, settings: Training) -> Feed:
        """The images for a network."""
        return replace(feed_of(self.images, network, settings), unreadable=self.missing)

    def fine_tune(self, step: Step, network: Network, changes: Rewriting | None) -> FineTuned:
        """Train with the step's settings in its folder."""
        assert step.training is not None
        return finetune(
            network,
            changes,
            self.feed(network, step.training),
            step.training,
            self.place.folders.folder(step.name),
            progress=self.progress,
        )


def _pretrain(worker: Worker, step: Step) -> dict[str, Any]:
    tuned = worker.fine_tune(step, worker.start(step), None)
    return {"accuracy_percent": tuned.accuracy}


def _search(worker: Worker, step: Step) -> dict[str, Any]:
    assert step.training is not None and step.target is not None
    place, network = worker.place, worker.start(step)
    folder = place.folders.folder(step.name)
    found = search_masks(
        network,
        worker.feed(network, step.training),
        step.training,
        goal=Goal.of(budget_ms=step.target.budget_ms, keep=step.target.keep),
        folder=folder,
        table=load_table(place.table),
        decay=step.decay,
        limit=step.limit,
        allow_unfit=place.allow_unfit,
        progress=worker.progress,
    )
    if worker.main:
        save_plan(found.plan, folder / PLAN)
        write_mask_history(found, folder / HISTORY)
    return {"keep_mask": found.plan.keep_mask}


def _train(worker: Worker, step: Step) -> dict[str, Any]:
    network = worker.start(step)
    mask = keep_mask(worker, step, network)
    network, changes = row_network(step, network, mask)
    tuned = worker.fine_tune(step, network, changes)
    return {"keep_mask": mask, "accuracy_percent": tuned.accuracy}


def keep_mask(worker: Worker, step: Step, network: Network) -> str:
    """The mask of a row's network; empty for a narrower one, which is none of its shrunk forms."""
    if step.target is None:
        blocks = network.blocks
        return "1" * len(blocks) if step.width is None else ""
    place, target = worker.place, step.target
    if step.method == "random" or target.keep == 0:
        known = parse_plan(f"paper:{target.mask}").kept_count if target.mask else target.keep
        plan = random_plan(
            load_table(place.table),
            budget_ms=target.budget_ms,
            keep=known,
            seed=drawn_by(step.seed, target),
            padding=PADDING,
            allow_unfit=place.allow_unfit,
        )
    elif target.mask:
        plan = parse_plan(f"paper:{target.mask}")
    else:
        (search,) = (name for name in step.needs if name.startswith(f"{SEARCH}/"))
        plan = load_plan(place.folders.folder(search) / PLAN)
    bound = bind_to_network(plan, network)
    if worker.main:
        save_plan(bound, place.folders.folder(step.name) / PLAN)
    return bound.keep_mask


def drawn_by(seed: int, target: Target) -> int:
    """What ``random_plan`` draws the mask of a target with.

    It removes blocks in a drawn order: one order for all targets would make the masks of a seed
    parts of each other.
    """
    return random.Random(f"{seed} {target.name}").getrandbits(32)


def row_network(step: Step, network: Network, mask: str) -> tuple[Network, Rewriting | None]:
    """What a row trains: a network, and what becomes of its activations.

    ``network`` is the whole one that the step starts from; ``mask`` as ``keep_mask`` gives it.
    """
    if step.method == "width":
        assert step.width is not None
        return scaled_network(network, step.width, step.seed), None
    if step.method == "layer_pruning":
        return pruned_network(network, mask, seed=step.seed), None
    if step.target is None:
        return network, None
    return network, rewriting(network, mask, free_activation=step.free_activation)


def _merge(worker: Worker, step: Step) -> dict[str, Any]:
    """Merge what was trained, prove it on random and on all validation images, write ONNX."""
    folders = worker.place.folders
    (trained,) = step.needs
    known = folders.result(trained)
    assert known is not None
    mask = known["keep_mask"]
    network, changes = row_network(step, worker.network(INITIAL), mask)
    network = with_state(network, _weights(folders.folder(trained) / WEIGHTS))
    folder = folders.folder(step.name)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{trained.replace('/', '_')}.onnx"
    about = {"method": step.method, "seed": step.seed, "recipe": worker.place.recipe.name}
    if changes is None:
        result = _exported(worker, step, network, file, {**about, **known})
    else:
        network, result = _merged(worker, step, network, changes, file, about)
    return {
        **result,
        "file": file.name,
        "keep_mask": mask,
        "structure": network.spec.digest,
        "macs": network.spec.macs,
        "parameters": network.spec.parameters,
    }


def _exported(
    worker: Worker, step: Step, network: Network, file: Path, about: Mapping[str, Any]
) -> dict[str, Any]:
    """Write a network as ONNX in which nothing is merged; it is as accurate as when trained."""
    images = worker.images
    result = {
        "accuracy_percent": about["accuracy_percent"],
        "validation_images": len(images.validation),
    }
    metadata = {
        "model": network.name,
        "resolution": list(network.resolution),
        # Tables know merged blocks, not removed ones: no prediction for these.
        "free_activation": step.method != "layer_pruning",
        **about,
        **result,
        "data": images.digest,
    }
    difference = export_onnx(network, file, batch=step.batch or 1, metadata=metadata)
    return {**result, "onnx_difference": difference}


def _merged(
    worker: Worker,
    step: Step,
    network: Network,
    changes: Rewriting,
    file: Path,
    about: Mapping[str, Any],
) -> tuple[Network, dict[str, Any]]:
    """The merged network, and what was found out about it."""
    done = export_merged(
        network,
        changes,
        file,
        padding=PADDING,
        certificate_file=file.with_name("certificate.json"),
        batch=step.batch or 1,
        images=worker.feed(network, worker.place.recipe.finetune),
        about=about,
    )
    assert done.agreement is not None
    return done.merged.network, {
        "accuracy_percent": done.agreement.merged_accuracy,
        "unmerged_accuracy_percent": done.agreement.unmerged_accuracy,
        "validation_images": done.agreement.images,
        "differing": done.agreement.differing,
        "certificate": done.certificate.network_float64.relative,
        "onnx_difference": done.onnx_difference,
    }


def _weights(file: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(file)
    except SafetensorError as error:
        raise StudyError(
            f"{file}: cannot be read ({error}); remove the folder {file.parent} to train it again"
        ) from None


_DO: Mapping[str, Callable[[Worker, Step], dict[str, Any]]] = {
    PRETRAIN: _pretrain,
    SEARCH: _search,
    TRAIN: _train,
    MERGE: _merge,
}
