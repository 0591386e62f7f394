"""Images per second of mask search and fine-tuning, compared with timm's own training.

    python benchmarks/training_speed.py [--model mobilenetv2_140] [--batch 256] [--resolution 224]
        [--precision fp32|fp16|bf16] [--device cpu|cuda] [--steps N] [--rounds N] [--name local]

Five ways to train one network take turns in one process, in a new order each round:

- ``timm``: the loop of timm's training script, on timm's own module: SGD with Nesterov's momentum,
  label smoothing, the cosine schedule, autocast and, for fp16, timm's loss scaler;
- ``accelerate``: the same loop with what Accelerate prepares;
- ``fit``: the original network in dshrink's loop, which runs through Accelerate;
- ``finetune``: stage 2, the network unmerged with the mask's activations removed (``repad``);
- ``search``: stage 1, the activations of all blocks behind learnable gates.

All read the same random images, which lie in memory as bytes, go to the device and are normalised
there: only training is measured, neither decoding nor augmentation. The first steps of each turn,
validation and checkpoints are not counted. Writes a CSV of all turns and a page into --out, which
is results/, next to this file, if not given.
"""

from __future__ import annotations

import argparse
import csv
import gc
import importlib
import os
import platform
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn

from devices.agent.system import cpu_model
from dshrink.network.mask_changes import rewriting
from dshrink.network.models import Network, load_network
from dshrink.network.tracing import import_timm
from dshrink.search.goal import Goal
from dshrink.train.feed import Feed
from dshrink.train.finetune import finetune
from dshrink.train.image_sets import Preprocessing, preprocessing_of
from dshrink.train.mask_search import search_masks
from dshrink.train.settings import PRECISIONS, Training
from dshrink.train.unreadable import UnreadableImages
from dshrink.version import __version__
from profiler.statistics import median

RESULTS = Path(__file__).parent / "results"
#: DS-A of the paper's Table 9; fits every MobileNetV2.
MASK = "10011010101101111"
CLASSES = 1000
#: So many different batches, again and again.
POOL = 4
#: Low, so that random labels blow up nothing.
LEARNING_RATE = 1e-3


class RandomImages(Feed):
    """A feed of random bytes and labels in memory; one image to validate."""

    def __init__(
        self, preprocessing: Preprocessing, settings: Training, steps: int, *, pin: bool
    ) -> None:
        self.preprocessing, self.settings, self.length = preprocessing, settings, steps
        self.unreadable = UnreadableImages()
        draw = torch.Generator().manual_seed(0)
        shape = (settings.batch, preprocessing.channels, *preprocessing.size)
        self.pool = [
            (
                torch.randint(256, shape, dtype=torch.uint8, generator=draw),
                torch.randint(CLASSES, (settings.batch,), generator=draw),
            )
            for _ in range(POOL)
        ]
        if pin:
            self.pool = [(images.pin_memory(), labels.pin_memory()) for images, labels in self.pool]

    @property
    def steps(self) -> int:
        return self.length

    @property
    def identity(self) -> dict[str, Any]:
        return {"data": "random"}

    def training(
        self, epoch: int, rank: int, world: int, start: int = 0
    ) -> Iterator[tuple[Tensor, Tensor]]:
        for step in range(start, self.length):
            yield self.pool[step % POOL]

    def validation(self, rank: int, world: int) -> Iterator[tuple[Tensor, Tensor]]:
        images, labels = self.pool[0]
        yield images[:1], labels[:1]


class Clock:
    """Times the steps after the first ``skipped`` ones; called with the number of those done."""

    def __init__(self, device: torch.device, skipped: int, total: int) -> None:
        self.device, self.skipped, self.total = device, skipped, total
        self.started = self.seconds = 0.0

    def __call__(self, done: int, total: int = 0, label: str = "") -> None:
        if done in (self.skipped, self.total):
            if self.device.type == "cuda":
                torch.cuda.synchronize()
            now = time.perf_counter()
            self.started, self.seconds = now, now - self.started


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One turn: what to train, on what, and who counts the steps."""

    network: Network
    feed: RandomImages
    settings: Training
    mask: str
    device: torch.device
    clock: Clock
    folder: Path


def train_as_timm(trial: Trial) -> None:
    """What the loop of timm's train.py does between two lines of its log."""
    settings, device = trial.settings, trial.device
    model = _timm_module(trial).to(device)
    optimiser, scheduler, loss_of = _recipe(model, settings, trial.feed.steps)
    half = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(settings.precision)
    autocast = torch.autocast(device.type, half) if half else nullcontext()
    utils = importlib.import_module("timm.utils")
    scaler = utils.NativeScaler(device=device.type) if half == torch.float16 else None
    model.train()
    for step, (images, labels) in enumerate(_on_device(trial, device), start=1):
        with autocast:
            loss = loss_of(model(images), labels)
        if scaler is None:
            loss.backward()
            optimiser.step()
        else:
            scaler(loss, optimiser, parameters=model.parameters())
        optimiser.zero_grad()
        scheduler.step_update(step)
        trial.clock(step)


def train_through_accelerate(trial: Trial) -> None:
    """The same loop, with what Accelerate prepares."""
    settings = trial.settings
    AcceleratorState._reset_state()
    precision = settings.precision
    accelerator = Accelerator(mixed_precision="no" if precision == "fp32" else precision)
    model = _timm_module(trial).to(accelerator.device)
    optimiser, scheduler, loss_of = _recipe(model, settings, trial.feed.steps)
    model, optimiser = accelerator.prepare(model, optimiser)
    model.train()
    for step, (images, labels) in enumerate(_on_device(trial, accelerator.device), start=1):
        with accelerator.autocast():
            loss = loss_of(model(images), labels)
        accelerator.backward(loss)
        optimiser.step()
        optimiser.zero_grad()
        scheduler.step_update(step)
        trial.clock(step)


def train_with_fit(trial: Trial) -> None:
    finetune(trial.network, None, trial.feed, trial.folder, progress=trial.clock)


def train_finetune(trial: Trial) -> None:
    changes = rewriting(trial.network, trial.mask)
    finetune(trial.network, changes, trial.feed, trial.folder, progress=trial.clock)


def train_search(trial: Trial) -> None:
    search_masks(
        trial.network,
        trial.feed,
        goal=Goal(budget_ms=None, keep=trial.mask.count("1")),
        folder=trial.folder,
        progress=trial.clock,
    )


#: The first one is what the others are compared with.
WAYS: Mapping[str, Callable[[Trial], None]] = {
    "timm": train_as_timm,
    "accelerate": train_through_accelerate,
    "fit": train_with_fit,
    "finetune": train_finetune,
    "search": train_search,
}


def _timm_module(trial: Trial) -> nn.Module:
    module: nn.Module = import_timm().create_model(trial.network.name, num_classes=CLASSES)
    return module


def _recipe(module: nn.Module, settings: Training, steps: int) -> tuple[Any, Any, nn.Module]:
    """timm's optimiser, scheduler and loss for these settings."""
    optimiser = importlib.import_module("timm.optim").create_optimizer_v2(
        module,
        opt="sgd",
        lr=settings.learning_rate,
        weight_decay=settings.weight_decay,
        momentum=settings.momentum,
    )
    scheduler, _ = importlib.import_module("timm.scheduler").create_scheduler_v2(
        optimiser,
        sched="cosine",
        num_epochs=settings.epochs,
        step_on_epochs=False,
        updates_per_epoch=steps,
    )
    losses = importlib.import_module("timm.loss")
    return optimiser, scheduler, losses.LabelSmoothingCrossEntropy(settings.label_smoothing)


def _on_device(trial: Trial, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    for images, labels in trial.feed.training(0, 0, 1):
        moved = images.to(device, non_blocking=True)
        yield trial.feed.preprocessing.normalise(moved), labels.to(device, non_blocking=True)


@dataclass(frozen=True, kw_only=True)
class Turn:
    """What a way did in a round. ``peak_memory_mib`` is the GPU's, 0 on a CPU."""

    round: int
    way: str
    model: str
    batch: int
    resolution: int
    precision: str
    device: str
    steps: int
    images_per_second: float
    peak_memory_mib: float


def take_turns(given: argparse.Namespace, device: torch.device) -> Iterator[Turn]:
    """Every way in every round, in a new order each time."""
    network = load_network(given.model, resolution=given.resolution, classes=CLASSES)
    settings = Training(
        epochs=1,
        batch=given.batch,
        learning_rate=LEARNING_RATE,
        precision=given.precision,
    )
    total = given.skipped + given.steps
    preprocessing = preprocessing_of(given.model, network.resolution)
    feed = RandomImages(preprocessing, settings, total, pin=device.type == "cuda")
    for number in range(given.rounds):
        for way in random.Random(number).sample(list(WAYS), len(WAYS)):
            clock = Clock(device, given.skipped, total)
            _forget(device)
            with tempfile.TemporaryDirectory() as folder:
                WAYS[way](
                    Trial(
                        network=network,
                        feed=feed,
                        settings=settings,
                        mask=given.mask,
                        device=device,
                        clock=clock,
                        folder=Path(folder),
                    )
                )
            on_gpu = device.type == "cuda"
            peak = torch.cuda.max_memory_allocated() / 1024**2 if on_gpu else 0.0
            yield Turn(
                round=number,
                way=way,
                model=given.model,
                batch=given.batch,
                resolution=given.resolution,
                precision=given.precision,
                device=_name(device),
                steps=given.steps,
                images_per_second=given.steps * given.batch / clock.seconds,
                peak_memory_mib=peak,
            )


def _forget(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name()
    return f"{cpu_model()}, torch threads: {torch.get_num_threads()}"


def ratios(turns: Sequence[Turn]) -> Mapping[str, list[float]]:
    """Each way's images a second over those of the first way in the same round."""
    base = {turn.round: turn.images_per_second for turn in turns if turn.way == next(iter(WAYS))}
    return {
        way: [t.images_per_second / base[t.round] for t in turns if t.way == way] for way in WAYS
    }


def page(turns: Sequence[Turn], command: str, mask: str) -> str:
    one = turns[0]
    versions = {name: importlib.import_module(name).__version__ for name in ("timm", "accelerate")}
    text = [
        "# Images per second of mask search and fine-tuning, compared with timm's training",
        "",
        f"{one.device}, Python {platform.python_version()}, torch {torch.__version__}, timm "
        f"{versions['timm']}, Accelerate {versions['accelerate']}, dshrink {__version__}, "
        f"{date.today().isoformat()}. `{command}`.",
        "",
        f"{one.model} at {one.resolution}x{one.resolution}, batch {one.batch}, {one.precision}, "
        f"{one.steps} steps per turn, {1 + max(turn.round for turn in turns)} rounds in "
        "alternation in one process. Random images in memory. The mask of `finetune` is "
        f"{mask}; `search` keeps as many blocks. Ratios are to `timm`, within each round: the "
        "median, smallest and largest.",
        "",
        "| way | images per second | ratio | smallest | largest | peak GPU memory, MiB |",
        "|---|---|---|---|---|---|",
    ]
    for way, values in ratios(turns).items():
        rates = [turn.images_per_second for turn in turns if turn.way == way]
        peak = max(turn.peak_memory_mib for turn in turns if turn.way == way)
        text.append(
            f"| {way} | {median(rates):.1f} | {median(values):.3f} | {min(values):.3f} "
            f"| {max(values):.3f} | {f'{peak:.0f}' if peak else ''} |"
        )
    return "\n".join(text) + "\n"


def write(turns: Sequence[Turn], text: str, out: Path, name: str) -> None:
    out.mkdir(parents=True, exist_ok=True)
    with (out / f"training_speed_{name}.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(Turn.__dataclass_fields__), lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(turn) for turn in turns)
    (out / f"training_speed_{name}.md").write_text(text)


def _arguments() -> argparse.Namespace:
    gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--model", default="mobilenetv2_140", help="one of timm's")
    parser.add_argument("--mask", default=MASK, help="keep mask of the fine-tuning")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--resolution", type=int, default=224)
    parser.add_argument("--precision", choices=PRECISIONS, default="fp16" if gpu else "fp32")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if gpu else "cpu")
    parser.add_argument("--steps", type=int, default=60, help="counted steps of each turn")
    parser.add_argument("--skipped", type=int, default=10, help="steps before them, 1 or more")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--name", default="local")
    return parser.parse_args()


def main() -> None:
    given = _arguments()
    if given.device == "cpu":
        os.environ["ACCELERATE_USE_CPU"] = "true"  # what Accelerate goes by
    turns = list(take_turns(given, torch.device(given.device)))
    command = (
        f"python benchmarks/training_speed.py --model {given.model} --batch {given.batch} "
        f"--resolution {given.resolution} --precision {given.precision} --device {given.device} "
        f"--steps {given.steps} --skipped {given.skipped} --rounds {given.rounds}"
    )
    text = page(turns, command, given.mask)
    write(turns, text, given.out, given.name)
    print(text)


if __name__ == "__main__":
    main()
