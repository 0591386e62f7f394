"""The processes that train together, as Accelerate finds them: one, or those of a launcher."""

from __future__ import annotations

import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState

from dshrink.train.settings import Training


def make_accelerator(settings: Training) -> Accelerator:
    """For one run; a process may train several networks, each in its own precision."""
    AcceleratorState._reset_state()
    return Accelerator(
        # Several processes on a CPU are found only where the CPU is asked for.
        cpu=_on_cpu(),
        mixed_precision="no" if settings.precision == "fp32" else settings.precision,
        gradient_accumulation_steps=settings.accumulate,
    )


def is_main_process() -> bool:
    """Whether this process speaks and writes: the only one, or the first of several."""
    return bool(PartialState(cpu=_on_cpu()).is_main_process)


def _on_cpu() -> bool:
    return not torch.accelerator.is_available()
