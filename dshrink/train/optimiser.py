"""SGD with Nesterov's momentum along a cosine; the groups and the schedule are timm's."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import nn

from dshrink.network.tracing import import_timm
from dshrink.train.errors import TrainError
from dshrink.train.settings import Training


def sgd_along_cosine(
    module: nn.Module, settings: Training, *, steps: int
) -> tuple[torch.optim.Optimizer, Any]:
    """The optimiser and timm's scheduler, which takes the number of steps done (``step_update``).

    ``steps`` is those of an epoch. Norms and biases do not decay. Raises TrainError for a module
    without weights.
    """
    import_timm()
    optim = importlib.import_module("timm.optim")
    groups = optim.param_groups_weight_decay(module, settings.weight_decay)
    if not groups:
        raise TrainError("the network has no weights to train")
    optimiser = torch.optim.SGD(
        groups,
        lr=settings.learning_rate,
        momentum=settings.momentum,
        nesterov=settings.momentum > 0,
    )
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
