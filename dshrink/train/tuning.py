"""Accuracy of a network, recalibration of its batch norms, and a short fine-tuning."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dshrink.train.errors import DivergedError, TrainError
from dshrink.train.image_sets import Preprocessing
from dshrink.train.optimiser import sgd_along_cosine
from dshrink.train.settings import Training

#: Images on the network's device, normalised, and their labels.
Batch = tuple[Tensor, Tensor]
#: Adds a tensor of each process up.
Reduce = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Mean cross-entropy, and the top-1 accuracy in percent."""

    loss: float
    accuracy: float


@dataclass(slots=True)
class _Tally:
    loss: float = 0.0
    correct: int = 0
    images: int = 0

    def add(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Count a batch, which may be empty; returns its mean loss."""
        if not len(labels):
            return outputs.sum()
        loss = F.cross_entropy(outputs, labels)
        self.loss += loss.item() * len(labels)
        self.correct += int((outputs.argmax(dim=1) == labels).sum())
        self.images += len(labels)
        return loss

    def score(self, what: str, reduce: Reduce | None = None) -> Score:
        if reduce:
            sums = torch.tensor([self.loss, self.correct, self.images], dtype=torch.float64)
            loss, correct, images = reduce(sums).tolist()
            self.loss, self.correct, self.images = loss, round(correct), round(images)
        if not self.images:
            raise TrainError(f"no image could be read: there is no loss {what}")
        loss = self.loss / self.images
        if not math.isfinite(loss):
            raise DivergedError(f"the loss {what} is {loss}")
        return Score(loss=loss, accuracy=100 * self.correct / self.images)


def prepared(
    batches: Iterable[tuple[Tensor, Tensor]], preprocessing: Preprocessing, device: torch.device
) -> Iterator[Batch]:
    """Batches of bytes as a network on ``device`` reads them."""
    for batch in batches:
        images, labels = (one.to(device, non_blocking=True) for one in batch)
        yield preprocessing.normalise(images), labels


@torch.no_grad()
def evaluate(module: nn.Module, batches: Iterable[Batch], reduce: Reduce | None = None) -> Score:
    """The score of a network in eval mode. Raises DivergedError where it computes no numbers.

    Where several processes have a share of the images each, ``reduce`` adds their sums up.
    """
    module.eval()
    return _tally(module, batches).score("of the validation images", reduce)


@torch.no_grad()
def recalibrate(module: nn.Module, batches: Iterable[Batch]) -> Score:
    """Recalibrate all batch norms: their statistics become the mean over ``batches``.

    Returns the score of what was seen on the way, in training mode. In place.
    """
    norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch's word for the plain mean over all batches
    module.train()
    tally = _tally(module, batches)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    module.eval()
    return tally.score("while the norms were recalibrated")


def _tally(module: nn.Module, batches: Iterable[Batch]) -> _Tally:
    tally = _Tally()
    for images, labels in batches:
        tally.add(module(images), labels)
    return tally


def tune(
    module: nn.Module,
    batches: Iterable[Batch],
    steps: int,
    *,
    learning_rate: float,
    weight_decay: float,
) -> Score:
    """One SGD step a batch, the learning rate down to 0 along a cosine over ``steps``.

    Returns the score of what was seen on the way. Raises DivergedError, with the step, at the first
    loss that is not finite. In place.
    """
    settings = Training(epochs=1, learning_rate=learning_rate, weight_decay=weight_decay)
    optimiser, scheduler = sgd_along_cosine(module, settings, steps=steps)
    module.train()
    tally = _Tally()
    for step, (images, labels) in enumerate(batches):
        scheduler.step_update(step)
        optimiser.zero_grad()
        loss = tally.add(module(images), labels)
        if not torch.isfinite(loss):
            raise DivergedError(
                f"the loss became {loss.item()} at step {step + 1} of {steps}; lower --lr"
            )
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    module.eval()
    return tally.score("while tuning")
