"""Trackers of experiments during training, through Accelerate: W&B, MLflow, TensorBoard and others.

Only the first of several processes tracks: Accelerate's own tracker of W&B would start a run in
each. A training that resumes starts a run of its own, and tells it the earlier epochs first, so
that every run is whole.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
from accelerate.utils import LoggerType

from dshrink.errors import first_line
from dshrink.train.errors import TrainError

#: What W&B calls a project, MLflow an experiment, unless their own variables name another.
PROJECT = "dshrink"
#: Takes values and the number of steps done.
Log = Callable[[Mapping[str, Any], int], None]


def require_trackers(names: Collection[str]) -> None:
    """Raise TrainError for a tracker that Accelerate does not know, or whose package is missing.

    Accelerate itself leaves out what is missing, and says nothing.
    """
    available = [str(one) for one in get_available_trackers()]
    for name in names:
        if name not in LOGGER_TYPE_TO_CLASS:
            known = ", ".join(sorted(map(str, LOGGER_TYPE_TO_CLASS)))
            raise TrainError(f"--log-with {name}: no such tracker; known are {known}")
        if name in map(str, LoggerType) and name not in available:
            package = name.replace("_", "-")
            raise TrainError(
                f"--log-with {name}: its package is not installed: python -m pip install {package}"
            )


@contextmanager
def tracked(accelerator: Accelerator, folder: Path, about: Mapping[str, Any]) -> Iterator[Log]:
    """Meanwhile the accelerator's trackers have a run named like ``folder``, which ends with it.

    ``about`` is what the training depends on, as the run's configuration. Raises TrainError where
    a tracker does not start, as W&B does not without a login.
    """
    if not accelerator.log_with or not accelerator.is_main_process:
        yield lambda values, step: None
        return
    name = str(folder)
    try:
        accelerator.init_trackers(
            os.environ.get("WANDB_PROJECT") or PROJECT,
            config=dict(_flat(about)),
            init_kwargs={"wandb": {"name": name}, "mlflow": {"run_name": name}},
        )
    except Exception as error:
        with suppress(Exception):  # one that did not start may not know how to end
            _finish(accelerator)
        names = ", ".join(map(str, accelerator.log_with))
        raise TrainError(
            f"--log-with: {names} did not start ({first_line(error)}): set it up, or leave it out"
        ) from error
    try:
        yield lambda values, step: accelerator.log(_numbers(values), step=step)
    finally:
        _finish(accelerator)


def _finish(accelerator: Accelerator) -> None:
    # Not end_training(): that ends the process group, too, and a study goes on to its next step.
    trackers, accelerator.trackers = accelerator.trackers, []
    for tracker in trackers:
        tracker.finish()


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name, value in values.items() if isinstance(value, int | float)}


def _flat(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Nested names joined by dots; lists as texts, which all trackers take."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{name}.")
        elif value is not None:
            plain = isinstance(value, bool | int | float | str)
            yield f"{before}{name}", value if plain else str(value)
