"""What training minimises: cross-entropy with label smoothing, and self-distillation.

A teacher is run once a batch, whatever it is compared by: its logits, its block outputs, or both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dshrink.merge.recording import RegionOutputs
from dshrink.train.errors import TrainError
from dshrink.train.settings import Training

#: (outputs, images, labels) -> the mean loss of a batch.
Objective = Callable[[Tensor, Tensor, Tensor], Tensor]


def smoothed(label_smoothing: float) -> Objective:
    """Cross-entropy with label smoothing."""

    def loss(outputs: Tensor, images: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(outputs, labels, label_smoothing=label_smoothing)

    return loss


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockPair:
    """What the blocks of the network that is trained, and of its teacher, gave last."""

    student: RegionOutputs
    teacher: RegionOutputs


def distilled(teacher: nn.Module, settings: Training, blocks: BlockPair | None = None) -> Objective:
    """``(1 - w) * CE + w * KL`` to the teacher's outputs (paper, Sec. 4.3; docs/methods.md).

    The teacher is the original network with all its activations, in eval mode; it is moved to the
    device of the images. Both outputs are divided by the temperature, the KL term is multiplied by
    its square (Hinton et al., 2015). With ``blocks`` their ``block_difference`` is added, times the
    weight of the settings.
    """
    own = smoothed(settings.label_smoothing)
    weight, temperature = settings.distillation, settings.temperature
    teacher.eval().requires_grad_(False)
    place: torch.device | None = None

    def loss(outputs: Tensor, images: Tensor, labels: Tensor) -> Tensor:
        nonlocal place
        if place != images.device:
            place = images.device
            teacher.to(place)
        with torch.no_grad():
            taught = F.log_softmax(teacher(images).float() / temperature, dim=1)
        total = own(outputs, images, labels)
        if weight:
            said = F.log_softmax(outputs / temperature, dim=1)
            divergence = F.kl_div(said, taught, reduction="batchmean", log_target=True)
            total = (1 - weight) * total + weight * temperature**2 * divergence
        if blocks is not None:
            difference = block_difference(blocks.student.take(), blocks.teacher.take())
            total = total + settings.block_distillation * difference
        return total

    return loss


def block_difference(student: Mapping[str, Tensor], teacher: Mapping[str, Tensor]) -> Tensor:
    """The mean squared error of each block's output in units of the teacher's variance, averaged.

    FitNets (Romero et al., 2015) without regressors: the shapes are the same, else TrainError. In
    float32; the variance is that of all values in the batch, so that all blocks count alike.
    """
    errors = []
    for label, taught in teacher.items():
        given = student[label]
        if given.shape != taught.shape:
            raise TrainError(
                f"{label} gives {_size(given)}, its teacher's {_size(taught)}: block outputs of "
                "different sizes cannot be compared; give --block-distillation 0"
            )
        taught = taught.float()
        variance = taught.var(correction=0)
        # A constant output has no unit of its own.
        unit = torch.where(variance > 0, variance, torch.ones_like(variance))
        errors.append(F.mse_loss(given.float(), taught) / unit)
    return torch.stack(errors).mean()


def _size(batch: Tensor) -> str:
    return "x".join(map(str, batch.shape[1:]))
