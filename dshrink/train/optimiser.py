"""SGD with Nesterov's momentum along timm's cosine, for parameters at several rates."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from dshrink.tracing import import_timm
from dshrink.train.errors import TrainError
from dshrink.train.settings import Training


def sgd_along_cosine(
    module: nn.Module, settings: Training, rates: Mapping[str, float], *, steps: int
) -> tuple[torch.optim.Optimizer, Any]:
    """The optimiser and timm's scheduler, which takes the number of steps done (``step_update``).

    ``rates`` multiplies the learning rate of parameters, by name; ``steps`` is those of an epoch.
    Raises TrainError for a module without weights.
    """
    optimiser = torch.optim.SGD(
        _groups(module, settings, rates),
        lr=settings.learning_rate,
        momentum=settings.momentum,
        nesterov=settings.momentum > 0,
    )
    import_timm()
    scheduler, _ = importlib.import_module("timm.scheduler").create_scheduler_v2(
        optimiser,
        sched="cosine",
        num_epochs=settings.epochs,
        min_lr=settings.min_learning_rate,
        warmup_epochs=settings.warmup_epochs,
        warmup_lr=0.0,
        step_on_epochs=False,
        updates_per_epoch=steps,
    )
    return optimiser, scheduler


def _groups(
    module: nn.Module, settings: Training, rates: Mapping[str, float]
) -> list[dict[str, Any]]:
    """Parameters by weight decay (none for norms and biases, as in timm) and by rate."""
    decayed, plain, own = [], [], []
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        if name in rates:
            own.append({"params": [parameter], "weight_decay": 0.0, "lr_scale": rates[name]})
        elif parameter.ndim <= 1 or name.endswith(".bias"):
            plain.append(parameter)
        else:
            decayed.append(parameter)
    groups = [
        {"params": decayed, "weight_decay": settings.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    found = [group for group in groups if group["params"]] + own
    if not found:
        raise TrainError("the network has no weights to train")
    return found
