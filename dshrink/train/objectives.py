"""What training minimises: cross-entropy with label smoothing, and self-distillation."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dshrink.train.settings import Training

#: (outputs, images, labels) -> the mean loss of a batch.
Objective = Callable[[Tensor, Tensor, Tensor], Tensor]


def smoothed(label_smoothing: float) -> Objective:
    """Cross-entropy with label smoothing."""

    def loss(outputs: Tensor, images: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(outputs, labels, label_smoothing=label_smoothing)

    return loss


def distilled(teacher: nn.Module, settings: Training) -> Objective:
    """``(1 - w) * CE + w * KL`` to the teacher's outputs (paper, Sec. 4.3; docs/methods.md).

    The teacher is the original network with all its activations, in eval mode; it is moved to the
    device of the images. Both outputs are divided by the temperature, the KL term is multiplied by
    its square (Hinton et al., 2015).
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
        said = F.log_softmax(outputs / temperature, dim=1)
        divergence = F.kl_div(said, taught, reduction="batchmean", log_target=True)
        entropy = own(outputs, images, labels)
        return (1 - weight) * entropy + weight * temperature**2 * divergence

    return loss
