"""How long a study takes on this machine: a few real optimiser steps, counted up.

Each form of network that is trained (the original, with gates, unmerged, pruned, narrower, with a
teacher beside it) takes some steps of SGD on random images; a run takes as many of them as it has
batches. Reading and augmenting images is not in it: on a GPU loaders do that meanwhile.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dshrink.merge.unmerged import unmerged_module
from dshrink.network.models import Network, load_network
from dshrink.network.rewriting import rewriting
from dshrink.search.published import published_mask
from dshrink.study.recipe import ImageCounts, Recipe
from dshrink.study.steps import SEARCH, TRAIN, Step
from dshrink.train.data import Images
from dshrink.train.gates import gated_module, searchable_blocks
from dshrink.train.objectives import distilled, smoothed
from dshrink.train.optimiser import sgd_along_cosine
from dshrink.train.pruning import pruned_network
from dshrink.train.settings import Training
from dshrink.train.width import scaled_network

#: A step on a CPU is measured with so many pixels in all, on a GPU with more.
CPU_PIXELS, GPU_PIXELS = 1 << 16, 1 << 22
#: Steps that are measured, after one that warms up.
MEASURED_STEPS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """Seconds an image of one form of network: to train on it, and to look at it."""

    training_s: float
    validation_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Seconds of each step by its name, those of all of them, and how many run at a time."""

    seconds: Mapping[str, float]
    total_s: float
    jobs: int
    device: str


def form_of(step: Step) -> str:
    """What kind of network a step trains: steps of one form take equally long an image."""
    if step.kind == SEARCH:
        return "gated"
    if step.kind != TRAIN or step.method == "original":
        return "original"
    if step.method == "layer_pruning":
        target = step.target.name if step.target else ""
        return f"pruned {target}"
    if step.method == "width":
        return f"width {step.width:g}"
    return "distilled" if step.method == "distilled" else "unmerged"


def estimate(
    steps: Sequence[Step],
    counts: ImageCounts,
    pace: Callable[[Step], Pace],
    *,
    jobs: int,
    device: str,
) -> Estimate:
    """Seconds of ``steps``; ``pace`` is asked once for each form."""
    paces: dict[str, Pace] = {}
    seconds: dict[str, float] = {}
    for step in steps:
        if step.training is None:
            continue
        form = form_of(step)
        if form not in paces:
            paces[form] = pace(step)
        seconds[step.name] = _seconds(step.training, counts, paces[form])
    return Estimate(
        seconds=seconds, total_s=_makespan(steps, seconds, jobs), jobs=jobs, device=device
    )


def _seconds(training: Training, counts: ImageCounts, pace: Pace) -> float:
    seen = counts.training // training.batch * training.batch
    epoch = seen * pace.training_s + counts.validation * pace.validation_s
    return training.epochs * epoch


def _makespan(steps: Sequence[Step], seconds: Mapping[str, float], jobs: int) -> float:
    """When the last one ends where each starts once a process is free and what it needs is done."""
    free = [0.0] * jobs
    ends: dict[str, float] = {}
    for step in steps:
        if step.name not in seconds:
            continue
        first = min(range(jobs), key=free.__getitem__)
        start = max([free[first], *(ends.get(need, 0.0) for need in step.needs)])
        free[first] = ends[step.name] = start + seconds[step.name]
    return max(free)


class Stopwatch:
    """Measures paces with the recipe's network, random weights and random images."""

    def __init__(self, recipe: Recipe, classes: int, *, jobs: int) -> None:
        self.recipe = recipe
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._jobs = jobs
        self._network = load_network(recipe.model, resolution=recipe.resolution, classes=classes)

    def __call__(self, step: Step) -> Pace:
        """The pace of the form that ``step`` trains."""
        assert step.training is not None
        threads = torch.get_num_threads()
        torch.set_num_threads(1 if self._jobs > 1 else threads)
        try:
            return self._pace(step, step.training)
        finally:
            torch.set_num_threads(threads)

    def _pace(self, step: Step, training: Training) -> Pace:
        module = self._module(step).to(self.device)
        images, labels = self._batch(training)
        loss = smoothed(training.label_smoothing)
        if training.distillation:
            loss = distilled(copy.deepcopy(self._network.module), training)
        optimiser, _ = sgd_along_cosine(module, training, steps=MEASURED_STEPS)
        # A CPU computes in half precision, but not in an hour what a GPU does in a second.
        precision = training.precision if self.device.type == "cuda" else "fp32"
        scaled = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(precision)
        scaler = torch.amp.GradScaler(self.device.type, enabled=precision == "fp16")

        def train() -> None:
            with torch.autocast(self.device.type, scaled, enabled=scaled is not None):
                value = loss(module(images), images, labels)
            scaler.scale(value).backward()  # type: ignore[no-untyped-call]
            scaler.step(optimiser)
            scaler.update()
            optimiser.zero_grad()

        @torch.no_grad()
        def look() -> None:
            module(images)

        module.train()
        trained = self._timed(train)
        module.eval()
        return Pace(training_s=trained / len(images), validation_s=self._timed(look) / len(images))

    def _timed(self, run: Callable[[], None]) -> float:
        """Seconds of one run, the mean of some after a first one."""
        run()
        self._wait()
        start = time.perf_counter()
        for _ in range(MEASURED_STEPS):
            run()
        self._wait()
        return (time.perf_counter() - start) / MEASURED_STEPS

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def _batch(self, training: Training) -> tuple[Tensor, Tensor]:
        """Random images, as many as a step here can surely hold; a batch is a multiple of them."""
        channels, height, width = self._network.spec.input_shape
        pixels = GPU_PIXELS if self.device.type == "cuda" else CPU_PIXELS
        part = training.batch // training.accumulate
        count = max(2, min(part, pixels // (height * width)))
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(count, channels, height, width, generator=generator)
        labels = torch.randint(0, self._network.spec.shapes[-1][0], (count,), generator=generator)
        return images.to(self.device), labels.to(self.device)

    def _module(self, step: Step) -> nn.Module:
        network = self._network
        form = form_of(step)
        if form == "original":
            return copy.deepcopy(network.module)
        if form == "gated":
            blocks = searchable_blocks(network)
            kept = [number % 2 == 0 for number in range(len(blocks))]
            return gated_module(network, blocks, lambda values: kept)
        if step.width is not None:
            return scaled_network(network, step.width).module
        mask = _example_mask(network, step)
        if step.method == "layer_pruning":
            return pruned_network(network, mask).module
        return unmerged_module(network, rewriting(network, mask), padding="repad")


def _example_mask(network: Network, step: Step) -> str:
    """A mask like the one that the step will have: its kept blocks are the last ones.

    How long training takes hardly depends on which blocks they are; for a budget it is half of
    them.
    """
    blocks = network.blocks
    target = step.target
    count = len(blocks) // 2
    if target is not None and target.keep is not None:
        count = target.keep
    elif target is not None and target.mask:
        return published_mask(target.mask).keep_mask
    mergeable = [block.index for block in blocks if not block.unmergeable]
    shrunk = set(mergeable[: max(0, len(blocks) - count)])
    return "".join("0" if block.index in shrunk else "1" for block in blocks)


def counts_of(images: Images) -> ImageCounts:
    """How large an opened data set is."""
    return ImageCounts(
        training=len(images.train),
        validation=len(images.validation),
        classes=len(images.classes),
    )
