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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from dshrink.train.errors import CheckpointError
from latency_tables.files import write_atomically
from latency_tables.records import format_record, parse_record, plain

SCHEMA = "dshrink.checkpoint"
SCHEMA_VERSION = 1
NAME = "checkpoint.json"
#: Processes that read images hold the lock for some seconds after the one that trains was killed.
LOCK_TRIES, LOCK_WAIT_S = 51, 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingState:
    """Where a run is: in ``epoch``, counted from 0, after ``step`` steps with their mean losses.

    ``history`` has an entry a finished epoch. ``seconds`` and ``images`` are of training alone,
    ``unreadable`` maps files to reasons, ``scaler`` is that of losses in half precision.
    """

    epoch: int
    step: int
    losses: tuple[float, ...]
    history: tuple[dict[str, Any], ...]
    seconds: float
    images: int
    unreadable: dict[str, str]
    scaler: dict[str, Any] | None

    def __str__(self) -> str:
        """What was done last; epochs count from 1."""
        return f"epoch {self.epoch + 1}, step {self.step}" if self.step else f"epoch {self.epoch}"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """``tensors`` have a name each."""

    state: TrainingState
    tensors: Mapping[str, Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stored(TrainingState):
    """What the file holds; ``tensors`` is the name of theirs."""

    identity: Mapping[str, Any]
    tensors: str


def save_checkpoint(folder: Path, identity: Mapping[str, Any], checkpoint: Checkpoint) -> None:
    """Replace the folder's checkpoint by this one; the older stays until this one is whole."""
    old = _tensors_of(folder)
    number = 1 + max((int(path.stem.rpartition("-")[2]) for path in old), default=0)
    file = folder / f"checkpoint-{number:06}.safetensors"
    save_tensors(checkpoint.tensors, file)
    stored = _Stored(identity=identity, tensors=file.name, **plain(checkpoint.state))
    write_atomically(folder / NAME, format_record(stored, SCHEMA, SCHEMA_VERSION))
    for path in old:
        path.unlink(missing_ok=True)


def save_tensors(
    tensors: Mapping[str, Tensor], file: Path, metadata: Mapping[str, str] | None = None
) -> None:
    """Write a safetensors file, which stands at ``file`` only once it is whole on the disk."""
    # safetensors refuses two names for one memory.
    own = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    about = dict(metadata) if metadata else None
    write_atomically(file, lambda part: save_file(own, part, metadata=about))


def load_checkpoint(folder: Path, identity: Mapping[str, Any]) -> Checkpoint | None:
    """The folder's checkpoint, None where it has none.

    Raises CheckpointError for one of another run (its plan, data, settings...), and for one that
    cannot be read.
    """
    path = folder / NAME
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    stored = parse_record(
        text,
        _Stored,
        where=str(path),
        error=CheckpointError,
        fix="delete the folder to start afresh",
        schema=SCHEMA,
        version=SCHEMA_VERSION,
    )
    _check_identity(path, stored.identity, identity)
    file = folder / stored.tensors
    try:
        tensors = load_file(file)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{file}: the tensors of {NAME} cannot be read ({error}); delete the folder to start "
            "afresh"
        ) from None
    return Checkpoint(state=stored, tensors=tensors)


def _check_identity(path: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    before, now = _flat(before), _flat(plain(now))
    differences = [
        f"{name} was {_short(before.get(name))}, now {_short(now.get(name))}"
        for name in sorted({*before, *now})
        if before.get(name) != now.get(name)
    ]
    if differences:
        raise CheckpointError(
            f"{path} is the checkpoint of another run ({'; '.join(differences)}): ask for the same "
            "again, choose another --out, or delete the folder"
        )


def _flat(document: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """What stands in nested mappings, by dotted name."""
    found: dict[str, Any] = {}
    for name, value in document.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value
    return found


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _tensors_of(folder: Path) -> list[Path]:
    return sorted(folder.glob("checkpoint-*.safetensors"))


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
