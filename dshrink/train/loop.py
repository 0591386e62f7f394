"""The training loop of every stage: one SGD step after another, through Accelerate.

On a CPU, on a GPU, or in each process of ``accelerate launch``. What a step sees depends on the
seed, the epoch and the step alone, so a run that was killed resumes from its last checkpoint with
the same result: on a CPU to the last bit.
"""

from __future__ import annotations

import importlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn

from dshrink.network.precision import exact_float32
from dshrink.network.tracing import import_timm
from dshrink.progress import Notice, OnProgress, no_notice, no_progress
from dshrink.train.batches import drawn_seed
from dshrink.train.checkpoint import (
    FIX,
    NAME,
    Checkpoint,
    TrainingState,
    held,
    load_checkpoint,
    require_tensors,
    save_checkpoint,
    save_tensors,
)
from dshrink.train.errors import CheckpointError, DivergedError
from dshrink.train.feed import Feed
from dshrink.train.objectives import Objective, smoothed
from dshrink.train.optimiser import sgd_along_cosine
from dshrink.train.processes import by_main, make_accelerator, without_casts
from dshrink.train.trackers import Log, require_trackers, tracked
from dshrink.train.tuning import Batch, Score, evaluate, prepared
from dshrink.train.unreadable import UnreadableImages

#: Losses stay on the device for so many steps before they are looked at: looking waits for it.
FETCH_EVERY = 20
#: The weights of the last checkpoint before a loss that was not finite, to start from again.
LAST_GOOD = "last_good.safetensors"
#: What an epoch's entry of the history holds besides what is observed.
_SCORES = ("train_loss", "val_loss", "val_accuracy", "learning_rate")
_MODEL, _OPTIMISER, _AVERAGE = "model.", "optimiser.", "average."


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A finished run: the weights that are kept (the average's where there is one), by name.

    ``history`` has an entry an epoch; ``accuracy`` is the last one's in percent, ``loss`` its mean
    cross-entropy, both of the validation images in float32, whatever it was trained in. Of several
    ``processes`` the ``main`` one writes.
    """

    state: Mapping[str, Tensor]
    history: tuple[Mapping[str, Any], ...]
    images_per_second: float
    processes: int = 1
    main: bool = True

    @property
    def accuracy(self) -> float:
        return float(self.history[-1]["val_accuracy"])

    @property
    def loss(self) -> float:
        return float(self.history[-1]["val_loss"])


def fit(
    module: nn.Module,
    feed: Feed,
    *,
    folder: Path,
    identity: Mapping[str, Any],
    objective: Objective | None = None,
    before_step: Callable[[int], None] | None = None,
    observe: Callable[[], Mapping[str, Any]] | None = None,
    progress: OnProgress = no_progress,
    notice: Notice = no_notice,
) -> Fitted:
    """Train ``module`` in place as ``feed.settings`` say, validate after every epoch.

    ``folder`` takes a checkpoint, and the same call resumes an interrupted one;
    ``identity`` says what the result depends on besides the settings and the images.
    ``before_step`` is told how many steps are done, before each; all that it changes must follow
    from that number, which is all that a resumed run has. What ``observe`` gives after an epoch
    goes into its entry of the history. Notices say where a run resumes, and which images cannot be
    read. Only the first of several processes writes.

    Raises DivergedError at the first loss that is not finite, with the step and the last good
    state, and before such weights would be kept; CheckpointError where ``folder`` holds another
    run, or is not the same for all processes; TrainError for a batch that cannot be divided evenly.
    """
    settings = feed.settings
    require_trackers(settings.log_with)
    accelerator = make_accelerator(settings, folder)
    with ExitStack() as stack:
        by_main(lambda: stack.enter_context(held(folder)))
        run = _Run(
            accelerator=accelerator,
            feed=feed,
            folder=folder,
            identity={**identity, "training": settings.identity, "images": feed.identity},
            objective=objective or smoothed(settings.label_smoothing),
            before_step=before_step,
            observe=observe or dict,
            progress=progress if accelerator.is_main_process else no_progress,
            notice=notice if accelerator.is_main_process else no_notice,
        )
        return run.fit(module)


@dataclass(kw_only=True)
class _Run:
    accelerator: Accelerator
    feed: Feed
    folder: Path
    identity: Mapping[str, Any]
    objective: Objective
    before_step: Callable[[int], None] | None
    observe: Callable[[], Mapping[str, Any]]
    progress: OnProgress
    notice: Notice
    at: TrainingState = field(default_factory=TrainingState)
    #: Takes what is known after so many steps.
    log: Log = field(default=lambda values, step: None)
    #: Mean losses of the latest steps, still on the device.
    waiting: list[Tensor] = field(default_factory=list)
    since: float = 0.0
    #: Unreadable files that a notice has named.
    named: set[str] = field(default_factory=set)

    def fit(self, module: nn.Module) -> Fitted:
        self._prepare(module)
        if self.at.epoch < self.feed.settings.epochs:
            with tracked(self.accelerator, self.folder, self.identity) as self.log:
                self._train()
        # Takes the casts of mixed precision off the module again.
        self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)
        state = self.kept.state_dict()
        return Fitted(
            state={name: value.detach().cpu() for name, value in state.items()},
            history=tuple(self.at.history),
            images_per_second=self.at.images / self.at.seconds if self.at.seconds else 0.0,
            processes=self.accelerator.num_processes,
            main=self.accelerator.is_main_process,
        )

    @property
    def kept(self) -> nn.Module:
        """What is validated, and saved in the end."""
        return self.average.module if self.average else self.bare

    def _prepare(self, module: nn.Module) -> None:
        settings, accelerator = self.feed.settings, self.accelerator
        # Loaded before the module is distributed and averaged.
        found = self._found()
        if found:
            self._check(found, module)
            module.load_state_dict(_named(found.tensors, _MODEL))
        self.bare = module.to(accelerator.device)
        self.average = None
        if settings.ema is not None:
            self.average = _timm_utils().ModelEmaV3(self.bare, decay=settings.ema, use_warmup=True)
        optimiser, self.scheduler = sgd_along_cosine(self.bare, settings, steps=self.feed.steps)
        if found:
            self._resume(found, optimiser)
        self.named = set(self.feed.unreadable.reasons)
        self.model, self.optimiser = accelerator.prepare(self.bare, optimiser)
        # Half precision scales losses by a factor that adapts during training.
        if accelerator.scaler is not None and self.at.scaler:
            if set(self.at.scaler) != set(accelerator.scaler.state_dict()):
                raise CheckpointError(f"{self.folder / NAME}: scaler is none of torch's: {FIX}")
            accelerator.scaler.load_state_dict(self.at.scaler)

    def _found(self) -> Checkpoint | None:
        """The folder's checkpoint; CheckpointError unless all processes find the same."""
        found = load_checkpoint(self.folder, self.identity)
        places = gather_object([str(found.state) if found else "its start"])
        for rank, place in enumerate(places):
            if place != places[0]:
                raise CheckpointError(
                    f"{self.folder}: process 0 would resume after {places[0]}, process {rank} "
                    f"after {place}: --out must lie on a disk that all processes share"
                )
        return found

    def _check(self, found: Checkpoint, module: nn.Module) -> None:
        """Raise CheckpointError for one that no run of these settings writes."""
        state, settings, steps = found.state, self.feed.settings, self.feed.steps
        where = self.folder / NAME
        ended = state.epoch == settings.epochs and not state.step
        if not ended and not (state.epoch < settings.epochs and state.step < steps):
            raise CheckpointError(
                f"{where}: {state} is none of {settings.epochs} epochs of {steps} steps: {FIX}"
            )
        if [entry.get("epoch") for entry in state.history] != list(range(1, state.epoch + 1)):
            raise CheckpointError(
                f"{where}: history is not of the epochs 1 to {state.epoch}: {FIX}"
            )
        form = {**dict.fromkeys(_SCORES, 0.0), **self.observe()}
        for entry in state.history:
            for name, value in form.items():
                if not _is_like(entry.get(name), value):
                    raise CheckpointError(
                        f"{where}: history: epoch {entry['epoch']}: {name} is missing, or is none "
                        f"of this run: {FIX}"
                    )
        now = module.state_dict()
        needed = {f"{_MODEL}{name}": value for name, value in now.items()}
        if settings.ema is not None:
            needed |= {f"{_AVERAGE}{name}": value for name, value in now.items()}
        momenta = {f"{_OPTIMISER}{name}": one for name, one in module.named_parameters()}
        require_tensors(self.folder, found.tensors, needed, momenta)

    def _resume(self, found: Checkpoint, optimiser: torch.optim.Optimizer) -> None:
        self.at = found.state
        self.feed.unreadable.reasons.update(found.state.unreadable)
        if self.at.epoch < self.feed.settings.epochs:
            self.notice(f"{self.folder}: resumed after {self.at}")
        if self.average:
            self.average.module.load_state_dict(_named(found.tensors, _AVERAGE))
        known = _named(found.tensors, _OPTIMISER)
        for name, parameter in self.bare.named_parameters():
            if name in known:
                buffer = known[name].to(parameter.device)
                optimiser.state[parameter]["momentum_buffer"] = buffer

    def _train(self) -> None:
        for entry in self.at.history:
            self.log(entry, entry["epoch"] * self.feed.steps)
        while self.at.epoch < self.feed.settings.epochs:
            self._train_epoch()
            self._end_epoch()

    def _train_epoch(self) -> None:
        at, settings, steps = self.at, self.feed.settings, self.feed.steps
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        self.since = time.perf_counter()
        self.model.train()
        parts = prepared(
            self.feed.training(at.epoch, rank, world, at.step),
            self.feed.preprocessing,
            self.accelerator.device,
        )
        while at.step < steps:
            done = at.epoch * steps + at.step
            self.scheduler.step_update(done)
            if self.before_step:
                self.before_step(done)
            # Dropout and the like draw from the step's own numbers: there is no state to keep.
            torch.manual_seed(drawn_seed(settings.seed, at.epoch, at.step, rank))
            self.waiting.append(self._one_step(parts))
            if self.average:
                self.average.update(self.bare, step=done + 1)
            at.step += 1
            at.images += settings.batch
            due = settings.checkpoint_steps and at.step % settings.checkpoint_steps == 0
            if len(self.waiting) >= FETCH_EVERY or due or at.step == steps:
                self._fetch_losses()
            if due and at.step < steps:
                self._keep()
            label = f"epoch {at.epoch + 1} of {settings.epochs}"
            self.progress(done + 1, settings.epochs * steps, label)

    def _one_step(self, parts: Iterator[Batch]) -> Tensor:
        """All parts of a batch, then one step; returns the mean loss, still on the device."""
        accelerator, settings, losses = self.accelerator, self.feed.settings, []
        for images, labels in islice(parts, settings.accumulate):
            with accelerator.accumulate(self.model):
                outputs = self.model(images)
                with accelerator.autocast():
                    loss = self.objective(outputs, images, labels)
                accelerator.backward(loss)
                if accelerator.sync_gradients and settings.clip is not None:
                    accelerator.clip_grad_norm_(self.model.parameters(), settings.clip)
                self.optimiser.step()
                self.optimiser.zero_grad()
            losses.append(loss.detach())
        return torch.stack(losses).mean()

    def _fetch_losses(self) -> None:
        """Fetch the losses from the device. Raises DivergedError for one that is not finite."""
        mean = self.accelerator.reduce(torch.stack(self.waiting).float(), reduction="mean")
        self.waiting = []
        for value in mean.tolist():
            if not math.isfinite(value):
                raise DivergedError(
                    f"the loss became {value} in epoch {self.at.epoch + 1}, step "
                    f"{len(self.at.losses) + 1} of {self.feed.steps}; {self._last_good()}"
                )
            self.at.losses.append(value)
        done = self.at.epoch * self.feed.steps + len(self.at.losses)
        self.log({"loss": math.fsum(mean.tolist()) / len(mean)}, done)
        now = time.perf_counter()
        self.at.seconds += now - self.since
        self.since = now

    def _last_good(self) -> str:
        found = load_checkpoint(self.folder, self.identity)
        if found is None:
            return "no state was kept before that; lower --lr"
        file = self.folder / LAST_GOOD
        if self.accelerator.is_main_process:
            save_tensors(_named(found.tensors, _AVERAGE if self.average else _MODEL), file)
        return (
            f"the last good state is {self.folder / NAME} (after {found.state}), its "
            f"weights are {file}; lower --lr and choose another --out, from the start or with "
            "these --weights"
        )

    def _end_epoch(self) -> None:
        at, world = self.at, self.accelerator.num_processes
        if world > 1:
            for module in dict.fromkeys((self.bare, self.kept)):
                _timm_utils().distribute_bn(module, world, reduce=True)
        score = self._validate(self.kept)
        at.history.append(
            {
                "epoch": at.epoch + 1,
                "train_loss": math.fsum(at.losses) / len(at.losses),
                "val_loss": score.loss,
                "val_accuracy": score.accuracy,
                "learning_rate": self.optimiser.param_groups[0]["lr"],
                **self.observe(),
            }
        )
        at.epoch, at.step, at.losses = at.epoch + 1, 0, []
        self.log(at.history[-1], at.epoch * self.feed.steps)
        self._keep()

    def _validate(self, module: nn.Module) -> Score:
        accelerator = self.accelerator
        rank, world = accelerator.process_index, accelerator.num_processes
        batches = self.feed.validation_on(accelerator.device, rank, world)

        def total(sums: Tensor) -> Tensor:
            summed: Tensor = accelerator.reduce(sums.to(accelerator.device), reduction="sum")
            return summed

        try:
            with without_casts(module), exact_float32():
                return evaluate(module, batches, total)
        except DivergedError as error:
            raise DivergedError(
                f"{error} after epoch {self.at.epoch + 1}; {self._last_good()}"
            ) from None

    def _keep(self) -> None:
        self._share_unreadable()
        checkpoint = self._checkpoint()
        self._check_numbers(checkpoint)
        by_main(lambda: save_checkpoint(self.folder, self.identity, checkpoint))

    def _share_unreadable(self) -> None:
        """All processes know what one could not read; the first one names what is new."""
        reasons = self.feed.unreadable.reasons
        found = dict(gather_object(list(reasons.items())))
        new = {file: reason for file, reason in found.items() if file not in self.named}
        reasons.update(found)
        self.named |= new.keys()
        if new:
            self.notice(UnreadableImages(reasons=new).line)

    def _check_numbers(self, checkpoint: Checkpoint) -> None:
        """A loss may be finite, its gradients not. Raises DivergedError in all processes."""
        floats = [one for one in checkpoint.tensors.values() if one.is_floating_point()]
        norm = nn.utils.get_total_norm(floats)
        bad = self.accelerator.reduce((~norm.isfinite()).sum(), reduction="sum")
        if bad.item():
            raise DivergedError(
                f"NaN or infinite weights after {checkpoint.state}, although the losses were "
                f"finite; {self._last_good()}"
            )

    def _checkpoint(self) -> Checkpoint:
        tensors = {f"{_MODEL}{name}": value for name, value in self.bare.state_dict().items()}
        if self.average:
            average = self.average.module.state_dict()
            tensors |= {f"{_AVERAGE}{name}": value for name, value in average.items()}
        states = self.optimiser.optimizer.state
        for name, parameter in self.bare.named_parameters():
            if (buffer := states.get(parameter, {}).get("momentum_buffer")) is not None:
                tensors[f"{_OPTIMISER}{name}"] = buffer
        scaler = self.accelerator.scaler
        self.at.scaler = scaler.state_dict() if scaler else None
        self.at.unreadable = self.feed.unreadable.reasons
        return Checkpoint(state=self.at, tensors=tensors)


def _is_like(value: object, like: object) -> bool:
    """Whether a value from a file has the form of one: its type, and as many entries."""
    if isinstance(like, float):
        return isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(like, list):
        if not isinstance(value, list) or len(value) != len(like):
            return False
        return all(map(_is_like, value, like))
    return type(value) is type(like) and len(str(value)) == len(str(like))


def _timm_utils() -> Any:
    import_timm()
    return importlib.import_module("timm.utils")


def _named(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
