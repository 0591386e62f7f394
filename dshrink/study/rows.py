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

from dshrink.merge.activations import WeightsOrigin
from dshrink.merge.certified_export import CertifiedExport, export_merged
from dshrink.merge.export import export_onnx
from dshrink.network.mask_changes import Rewriting, rewriting
from dshrink.network.models import Network, with_state
from dshrink.network.references import ModelChoice
from dshrink.pieces.plan_binding import bind_to_network
from dshrink.progress import OnProgress, no_progress
from dshrink.search.goal import Goal
from dshrink.search.greedy import random_plan
from dshrink.search.plan import load_plan, parse_plan, save_plan
from dshrink.study.folders import (
    MergedStep,
    PretrainedStep,
    SearchedStep,
    StepFolders,
    StepResult,
    TrainedStep,
)
from dshrink.study.recipe import INITIAL, MaskGoal, Recipe
from dshrink.study.steps import MERGE, PRETRAIN, SEARCH, TRAIN, Step, StudyError
from dshrink.train.feed import Feed
from dshrink.train.finetune import PADDING, WEIGHTS, FineTuned, finetune
from dshrink.train.image_sets import Images
from dshrink.train.mask_search import search_masks, write_mask_history
from dshrink.train.opening import feed_of, load_for
from dshrink.train.processes import by_main
from dshrink.train.pruning import pruned_network
from dshrink.train.settings import Training
from dshrink.train.unreadable import Unreadable, UnreadableImages
from latency_tables.io import load_table

PLAN, HISTORY = "plan.json", "mask_history.csv"
#: A process keeps so many networks.
MOST_NETWORKS = 4


@dataclass(frozen=True, kw_only=True)
class StudyContext:
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
class StepRunner:
    """Runs steps, and keeps between them what takes long to load: one for each process.

    Of several processes that do a step together only the ``main`` one writes.
    """

    context: StudyContext
    images: Images
    main: bool = True
    progress: OnProgress = no_progress
    missing: UnreadableImages = field(default_factory=UnreadableImages)
    #: Nothing changes a network that it is given.
    networks: dict[ModelChoice, Network] = field(default_factory=dict)

    def do(self, step: Step) -> StepResult:
        """Do a step; returns what came out. Raises what training, merging and searching raise."""
        return _DO[step.kind](self, step)

    def network(self, weights: str, seed: int = 0, narrower: str | None = None) -> Network:
        """The recipe's network, or a narrower one by its name, for these images.

        ``seed`` draws initial weights.
        """
        recipe = self.context.recipe
        # The average of the weights is asked for of the recipe's own file, not of our checkpoints.
        ema = recipe.weights_ema and weights == recipe.weights
        choice = replace(recipe.choice, weights=weights, weights_ema=ema, seed=seed)
        if narrower:
            choice = replace(choice, model=narrower, model_args=())
        if choice not in self.networks:
            if len(self.networks) >= MOST_NETWORKS:
                self.networks.clear()
            self.networks[choice] = load_for(self.images, choice)
        return self.networks[choice]

    def start(self, step: Step) -> Network:
        """The whole network that a step starts from."""
        recipe = self.context.recipe
        if step.from_initial:
            return self.network(INITIAL, step.seed, step.narrower)
        if recipe.pretrain is None:
            return self.network(recipe.weights)
        return self.network(str(self.context.folders.folder(PRETRAIN) / WEIGHTS))

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
            self.context.folders.folder(step.name),
            progress=self.progress,
        )


def _pretrain(runner: StepRunner, step: Step) -> PretrainedStep:
    tuned = runner.fine_tune(step, runner.start(step), None)
    return PretrainedStep(accuracy_percent=tuned.fitted.accuracy)


def _search(runner: StepRunner, step: Step) -> SearchedStep:
    assert step.training is not None and step.goal is not None
    context, network = runner.context, runner.start(step)
    folder = context.folders.folder(step.name)
    found = search_masks(
        network,
        runner.feed(network, step.training),
        goal=Goal(budget_ms=step.goal.budget_ms, keep=step.goal.keep),
        folder=folder,
        table=load_table(context.table),
        decay=step.decay,
        limit=step.limit,
        allow_unfit=context.allow_unfit,
        progress=runner.progress,
    )
    if runner.main:
        save_plan(found.plan, folder / PLAN)
        write_mask_history(found, folder / HISTORY)
    return SearchedStep(keep_mask=found.plan.keep_mask)


def _train(runner: StepRunner, step: Step) -> TrainedStep:
    network = runner.start(step)
    mask = keep_mask(runner, step, network)
    network, changes = row_network(step, network, mask)
    tuned = runner.fine_tune(step, network, changes)
    return TrainedStep(keep_mask=mask, accuracy_percent=tuned.fitted.accuracy)


def keep_mask(runner: StepRunner, step: Step, network: Network) -> str:
    """The mask of a row's network; empty for a narrower one, which is none of its shrunk forms."""
    context, goal = runner.context, step.goal
    if goal is None:
        return "" if step.narrower else "1" * len(network.blocks)
    if step.method == "random" or goal.keep == 0:
        known = parse_plan(f"paper:{goal.mask}").kept_count if goal.mask else goal.keep
        plan = random_plan(
            load_table(context.table),
            budget_ms=goal.budget_ms,
            keep=known,
            seed=drawn_by(step.seed, goal),
            padding=PADDING,
            allow_unfit=context.allow_unfit,
        )
    elif goal.mask:
        plan = parse_plan(f"paper:{goal.mask}")
    else:
        (search,) = (name for name in step.needs if name.startswith(f"{SEARCH}/"))
        plan = load_plan(context.folders.folder(search) / PLAN)
    bound = bind_to_network(plan, network)
    by_main(lambda: save_plan(bound, context.folders.folder(step.name) / PLAN))
    return bound.keep_mask


def drawn_by(seed: int, goal: MaskGoal) -> int:
    """What ``random_plan`` draws the mask of a goal with.

    It removes blocks in a drawn order: one order for all goals would make the masks of a seed
    parts of each other.
    """
    return random.Random(f"{seed} {goal.name}").getrandbits(32)


def row_network(step: Step, network: Network, mask: str) -> tuple[Network, Rewriting | None]:
    """What a row trains: a network, and what becomes of its activations.

    ``network`` is the whole one that the step starts from; ``mask`` as ``keep_mask`` gives it.
    """
    if step.method == "layer_pruning":
        return pruned_network(network, mask, seed=step.seed), None
    if step.goal is None:
        return network, None
    return network, rewriting(network, mask, free_activation=step.free_activation)


def _merge(runner: StepRunner, step: Step) -> MergedStep:
    """Merge what was trained, verify it on random and on all validation images, write ONNX."""
    folders = runner.context.folders
    (trained,) = step.needs
    known = folders.result(trained, TrainedStep)
    assert known is not None
    whole = runner.network(INITIAL, narrower=step.narrower)
    network, changes = row_network(step, whole, known.keep_mask)
    network = with_state(network, _weights(folders.folder(trained) / WEIGHTS))
    folder = folders.folder(step.name)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{trained.replace('/', '_')}.onnx"
    origin = {"method": step.method, "seed": step.seed, "recipe": runner.context.recipe.name}
    if changes is None:
        exported = _exported(runner, step, network, known, file, origin)
    else:
        done = export_merged(
            network,
            changes,
            file,
            padding=PADDING,
            certificate_file=folder / "certificate.json",
            origin=WeightsOrigin(trained="without", whose=f"the weights of {trained}"),
            batch=step.batch or 1,
            images=runner.feed(network, runner.context.recipe.finetune),
            about=origin,
        )
        exported, network = _found(done), done.merged.network
    return MergedStep(
        **exported,
        file=file.name,
        keep_mask=known.keep_mask,
        structure=network.spec.digest,
        macs=network.spec.macs,
        parameters=network.spec.parameters,
    )


def _exported(
    runner: StepRunner,
    step: Step,
    network: Network,
    known: TrainedStep,
    file: Path,
    origin: Mapping[str, Any],
) -> dict[str, Any]:
    """Write a network as ONNX in which nothing is merged; it is as accurate as when trained."""
    images = runner.images
    accuracy = {
        "accuracy_percent": known.accuracy_percent,
        "validation_images": len(images.validation),
    }
    about = {
        "model": network.name,
        "resolution": list(network.resolution),
        "keep_mask": known.keep_mask,
        # Tables know merged blocks, not removed ones: no prediction for these.
        "free_activation": step.method != "layer_pruning",
        **origin,
        **accuracy,
        "data": images.digest,
    }
    difference = export_onnx(network, file, batch=step.batch or 1, metadata=about)
    return {**accuracy, "onnx_difference": difference}


def _found(done: CertifiedExport) -> dict[str, Any]:
    assert done.agreement is not None
    return {
        "accuracy_percent": done.agreement.merged_accuracy_percent,
        "unmerged_accuracy_percent": done.agreement.unmerged_accuracy_percent,
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


_DO: Mapping[str, Callable[[StepRunner, Step], StepResult]] = {
    PRETRAIN: _pretrain,
    SEARCH: _search,
    TRAIN: _train,
    MERGE: _merge,
}
