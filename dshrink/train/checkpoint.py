"""The state of a training run on disk: a safetensors file, and JSON that names it.

The tensors are written first, under a new name; then the JSON is replaced in one step; then older
tensors go. A process that is killed at any moment leaves a checkpoint that loads. Nothing is
pickled, so a checkpoint from elsewhere runs no code.
"""

from __future__ import annotations

import fcntl
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
from latency_tables.records import format_record, parse_record, plain

SCHEMA = "dshrink.checkpoint"
SCHEMA_VERSION = 1
NAME = "checkpoint.json"
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
    scaler: dict[str, Any] | None = None

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


def save_checkpoint(folder: Path, identity: Mapping[str, Any], checkpoint: Checkpoint) -> None:
    """Replace the folder's checkpoint by this one; the older stays until this one is whole."""
    old = list(folder.glob("checkpoint-*.safetensors"))
    number = 1 + max((int(path.stem.rpartition("-")[2]) for path in old), default=0)
    file = folder / f"checkpoint-{number:06}.safetensors"
    save_tensors(checkpoint.tensors, file)
    # The state of a resumed run is the one that was stored.
    about = {**plain(checkpoint.state), "identity": identity, "tensors": file.name}
    write_atomically(folder / NAME, format_record(_Stored(**about), SCHEMA, SCHEMA_VERSION))
    for path in old:
        path.unlink(missing_ok=True)


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
    stored = parse_record(
        path.read_text(encoding="utf-8"),
        _Stored,
        where=str(path),
        error=CheckpointError,
        fix="delete the folder to start afresh",
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
        tensors = load_file(file)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{file}: the tensors of {NAME} cannot be read ({error}); delete the folder to start "
            "afresh"
        ) from None
    return Checkpoint(state=stored, tensors=tensors)


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
