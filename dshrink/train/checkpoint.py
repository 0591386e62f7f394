"""The state of a training run on disk: a safetensors file, and JSON that names it.

The tensors are written first, under a new name; then the JSON is replaced in one step; then older
tensors go. A process that is killed at any moment leaves a checkpoint that loads. Nothing is
pickled, so a checkpoint from elsewhere runs no code; and what is read is checked as if it were from
elsewhere, before anything starts from it.
"""

from __future__ import annotations

import fcntl
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from dshrink.train.errors import CheckpointError
from dshrink.train.identity import differences, listed
from latency_tables.files import write_atomically
from latency_tables.reading import require_regular
from latency_tables.records import format_record, load_record, plain

SCHEMA = "dshrink.checkpoint"
SCHEMA_VERSION = 1
NAME = "checkpoint.json"
FIX = "delete the folder to start afresh"
#: Counts of a run are below it: fixed-width integers of torch and numpy hold their sums.
_MOST = 1 << 48
_TENSORS = re.compile(r"checkpoint-(\d{6,12})\.safetensors")
#: Processes that read images hold the lock for some seconds after the one that trains was killed.
LOCK_TRIES, LOCK_WAIT_S = 51, 0.2


@dataclass(slots=True, kw_only=True)
class TrainingState:
    """Where a run is: in ``epoch``, counted from 0, after ``step`` steps with their mean losses.

    ``history`` has an entry a finished epoch. ``seconds`` and ``images`` are of training alone,
    ``unreadable`` maps files to reasons, ``scaler`` is that of losses in half precision.
    """

    epoch: int = 0
    step: int = 0
    losses: list[float] = field(default_factory=list)
    history: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0
    images: int = 0
    unreadable: dict[str, str] = field(default_factory=dict)
    scaler: dict[str, float | int] | None = None

    def __post_init__(self) -> None:
        counts = {"epoch": self.epoch, "step": self.step, "images": self.images}
        for name, count in counts.items():
            if not 0 <= count < _MOST:
                raise CheckpointError(f"{name} {count} is no count")
        if not 0 <= self.seconds < math.inf:
            raise CheckpointError(f"seconds {self.seconds} are no time")
        if len(self.losses) != self.step:
            raise CheckpointError(f"{len(self.losses)} losses for {self.step} steps")

    def __str__(self) -> str:
        """What was done last; epochs count from 1."""
        return f"epoch {self.epoch + 1}, step {self.step}" if self.step else f"epoch {self.epoch}"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """``tensors`` have a name each."""

    state: TrainingState
    tensors: Mapping[str, Tensor]


@dataclass(slots=True, kw_only=True)
class _Stored(TrainingState):
    """What the file holds; ``tensors`` is the name of theirs."""

    identity: Mapping[str, Any]
    tensors: str

    def __post_init__(self) -> None:
        TrainingState.__post_init__(self)
        if not _TENSORS.fullmatch(self.tensors):
            raise CheckpointError(f"tensors {self.tensors!r} is no such name as {_tensors_name(1)}")


def save_checkpoint(folder: Path, identity: Mapping[str, Any], checkpoint: Checkpoint) -> None:
    """Replace the folder's checkpoint by this one; the older stays until this one is whole."""
    known = {path: _TENSORS.fullmatch(path.name) for path in folder.glob("checkpoint-*")}
    old = {path: int(named[1]) for path, named in known.items() if named}
    file = folder / _tensors_name(1 + max(old.values(), default=0))
    save_tensors(checkpoint.tensors, file)
    # The state of a resumed run is the one that was stored.
    about = {**plain(checkpoint.state), "identity": identity, "tensors": file.name}
    try:
        write_atomically(folder / NAME, format_record(_Stored(**about), SCHEMA, SCHEMA_VERSION))
    except OSError:
        file.unlink()  # nothing names it, and the disk may be full
        raise
    for path in old:
        path.unlink(missing_ok=True)


def _tensors_name(number: int) -> str:
    return f"checkpoint-{number:06}.safetensors"


def save_tensors(
    tensors: Mapping[str, Tensor], file: Path, metadata: dict[str, str] | None = None
) -> None:
    """Write a safetensors file, whole or not at all."""
    # safetensors refuses two names for one memory.
    own = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    write_atomically(file, save(own, metadata=metadata))


def load_checkpoint(folder: Path, identity: Mapping[str, Any]) -> Checkpoint | None:
    """The folder's checkpoint, None where it has none.

    Raises CheckpointError for one of another run (its plan, data, settings...), and for one that
    cannot be read.
    """
    path = folder / NAME
    if not path.exists():
        return None
    stored = load_record(
        path,
        _Stored,
        error=CheckpointError,
        fix=FIX,
        schema=SCHEMA,
        version=SCHEMA_VERSION,
    )
    if found := differences(stored.identity, identity):
        raise CheckpointError(
            f"{path} is the checkpoint of another run ({listed(found)}): ask for the same again, "
            "choose another --out, or delete the folder"
        )
    file = folder / stored.tensors
    try:
        require_regular(file)
        tensors = load_file(file)
    except (OSError, SafetensorError, ValueError) as error:
        raise CheckpointError(
            f"{file}: the tensors of {NAME} cannot be read ({error}): {FIX}"
        ) from None
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise CheckpointError(f"{file}: tensor {name!r} holds NaN or infinity: {FIX}")
    return Checkpoint(state=stored, tensors=tensors)


def require_tensors(
    folder: Path,
    found: Mapping[str, Tensor],
    needed: Mapping[str, Tensor],
    possible: Mapping[str, Tensor],
) -> None:
    """Raise CheckpointError unless ``found`` has all that are needed, and else only possible ones.

    Shapes and types are to be the same.
    """
    known = {**needed, **possible}
    for name in sorted({*found, *needed}):
        if name not in found:
            problem = f"tensor {name!r} is missing"
        elif name not in known:
            problem = f"tensor {name[:200]!r} is none of the run's"
        elif found[name].shape != known[name].shape or found[name].dtype != known[name].dtype:
            problem = f"tensor {name!r} is {_kind(found[name])}, the run's is {_kind(known[name])}"
        else:
            continue
        raise CheckpointError(f"{folder / NAME}: {problem}: {FIX}")


def _kind(tensor: Tensor) -> str:
    return f"{'x'.join(map(str, tensor.shape)) or 'one'} {str(tensor.dtype).rpartition('.')[2]}"


@contextmanager
def held(folder: Path, wait: Callable[[float], None] = time.sleep) -> Iterator[None]:
    """Keep other processes out of the folder.

    Raises CheckpointError where one is at work, and still is ten seconds later.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a") as file:
        for left in reversed(range(LOCK_TRIES)):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not left:
                    raise CheckpointError(
                        f"{folder} is in use by another run: wait until it is done"
                    ) from None
            wait(LOCK_WAIT_S)
        yield
