"""The processes that train together, as Accelerate finds them: one, or those of a launcher."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import gather_object
from torch import nn

from dshrink.errors import DshrinkError
from dshrink.train.settings import Training

Result = TypeVar("Result")


def make_accelerator(settings: Training, folder: Path | None = None) -> Accelerator:
    """For one run; a process may train several networks, each in its own precision.

    ``folder`` is for what trackers write to the disk.
    """
    AcceleratorState._reset_state()
    return Accelerator(
        # Several processes on a CPU are found only where the CPU is asked for.
        cpu=_on_cpu(),
        mixed_precision="no" if settings.precision == "fp32" else settings.precision,
        gradient_accumulation_steps=settings.accumulate,
        log_with=list(settings.log_with) or None,
        project_dir=folder,
    )


def together() -> PartialState:
    """How many processes there are, and which one this is.

    Accelerate decides that once, by how it is asked first: everybody asks here.
    """
    return PartialState(cpu=_on_cpu())


def is_main_process() -> bool:
    """Whether this process reports and writes: the only one, or the first of several."""
    return bool(together().is_main_process)


def by_main(act: Callable[[], Result]) -> Result | None:
    """What ``act`` gives in the process that writes, None in the others. All of them come here.

    What it raises, such as of a full disk, is raised in all: none waits for one that has given up.
    """
    result, error = None, None
    if is_main_process():
        try:
            result = act()
        except (DshrinkError, OSError) as caught:
            error = caught
    for one in gather_object([error]):
        if one is not None:
            raise one
    return result


@contextmanager
def without_casts(module: nn.Module) -> Iterator[None]:
    """Meanwhile ``module`` computes in its weights' precision, not in the accelerator's mixed one.

    Accelerate wraps ``forward`` in casts, and no autocast around a call takes them off.
    """
    wrapped: Any = module
    forward = module.forward
    wrapped.forward = module.__dict__.get("_original_forward", forward)
    try:
        yield
    finally:
        wrapped.forward = forward


def _on_cpu() -> bool:
    return not torch.accelerator.is_available()
