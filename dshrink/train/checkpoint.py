"""Where a training run stands, on disk: a safetensors file, and JSON that names it.

The tensors are written first, under a new name; then the JSON is replaced in one step; then older
tensors go. A process that is killed at any moment leaves a checkpoint that loads. Nothing is
pickled, so a checkpoint from elsewhere runs no code.
"""

from __future__ import annotations

import fcntl
import json
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

SCHEMA = "dshrink.checkpoint"
SCHEMA_VERSION = 1
NAME = "checkpoint.json"
#: Processes that read images hold the lock for some seconds after the one that trains was killed.
LOCK_TRIES, LOCK_WAIT_S = 51, 0.2


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """``state`` is plain data, ``tensors`` have a name each."""

    state: Mapping[str, Any]
    tensors: Mapping[str, Tensor]


def save_checkpoint(folder: Path, identity: Mapping[str, Any], checkpoint: Checkpoint) -> None:
    """Replace the folder's checkpoint by this one; the older stays until this one is whole."""
    old = _tensors_of(folder)
    number = 1 + max((int(path.stem.rpartition("-")[2]) for path in old), default=0)
    file = folder / f"checkpoint-{number:06}.safetensors"
    save_tensors(checkpoint.tensors, file)
    document = {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "identity": dict(identity),
        "tensors": file.name,
        **checkpoint.state,
    }
    write_atomically(folder / NAME, json.dumps(document, indent=1, allow_nan=False) + "\n")
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
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["schema"] != SCHEMA:
            raise ValueError(f"schema {document['schema']!r}")
        version = int(document["schema_version"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path}: not a readable checkpoint ({error}); delete the folder to start afresh"
        ) from None
    if version > SCHEMA_VERSION:
        raise CheckpointError(
            f"{path} has schema version {version}, this dshrink reads {SCHEMA_VERSION}: update "
            "dshrink or choose another --out"
        )
    _check_identity(path, document.get("identity") or {}, identity)
    file = folder / str(document.get("tensors"))
    try:
        tensors = load_file(file)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{file}: the tensors of {NAME} cannot be read ({error}); delete the folder to start "
            "afresh"
        ) from None
    return Checkpoint(state=document, tensors=tensors)


def _check_identity(path: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    # As JSON gives it back: tuples are lists there.
    before, now = _flat(before), _flat(json.loads(json.dumps(dict(now))))
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
