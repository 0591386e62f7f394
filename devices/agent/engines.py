"""Engines as files beside the model that they were built from.

A serialized engine is executable: one is loaded only if its digest is the one that the request
names, which the host knows from the reply that told of its building.  The file is called by that
digest too, so one model may have several.
"""

import hashlib
import os
import tempfile
from contextlib import suppress
from typing import Optional

#: What an engine's file ends with, after the model's name and the engine's digest.
ENGINE_SUFFIX = ".engine"


def path_of(model: str, sha256: str) -> str:
    """Where the engine of this digest lies."""
    return f"{model}.{sha256}{ENGINE_SUFFIX}"


def digest_of(plan: bytes) -> str:
    """The SHA-256 that names an engine."""
    return hashlib.sha256(plan).hexdigest()


def save(model: str, plan: bytes) -> str:
    """Write an engine beside its model, readable by its owner alone; returns its digest.

    The file has its name only when it is whole.
    """
    sha256 = digest_of(plan)
    path = path_of(model, sha256)
    handle, part = tempfile.mkstemp(  # 0600
        prefix=os.path.basename(model) + ".", suffix=".part", dir=os.path.dirname(model)
    )
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(plan)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(part, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(part)
        raise
    return sha256


def load(model: str, sha256: str) -> Optional[bytes]:
    """The engine of this digest; None where it is gone, or is not what it was."""
    try:
        with open(path_of(model, sha256), "rb") as stream:
            plan = stream.read()
    except OSError:
        return None
    return plan if digest_of(plan) == sha256 else None
