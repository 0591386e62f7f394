"""Engines as files beside the model that they were built from, and how they are asked for.

A serialized engine is executable: one is loaded only if its digest is the one that the request
names, which the host knows from the reply to the request that built it.  The file is called by that
digest too.  Of each model the engine that was built last is kept.
"""

import glob
import hashlib
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, Dict, Optional

from ...checks import Check, absolute_path, integer, one_of, sha256_hex
from ...store import whole_file

MOST_BUILDS = 1000
#: Options of a request that all who build engines take.
OPTIONS: Dict[str, Check] = {
    "precision": one_of("fp32", "fp16", "int8"),
    "launch": one_of("plain", "cuda_graph"),
    "cache": one_of("hot", "cold"),
    "build": integer(0, MOST_BUILDS),
    "engine_sha256": sha256_hex,
    "timing_cache": absolute_path,
    "timing_cache_sha256": sha256_hex,
}

#: What an engine's file ends with, after the model's name and the engine's digest.
ENGINE_SUFFIX = ".engine"


def path_of(model: str, sha256: str) -> str:
    """Where the engine of this digest lies."""
    return f"{model}.{sha256}{ENGINE_SUFFIX}"


def digest_of(plan: bytes) -> str:
    """The SHA-256 that names an engine."""
    return hashlib.sha256(plan).hexdigest()


def save(model: str, plan: bytes) -> str:
    """Write an engine beside its model, in place of earlier ones; returns its digest.

    It is readable by its owner alone.
    """
    sha256 = digest_of(plan)
    for earlier in glob.glob(path_of(glob.escape(model), "[0-9a-f]" * 64)):
        with suppress(OSError):  # another run's, which is gone already
            os.remove(earlier)
    with whole_file(path_of(model, sha256)) as stream:
        stream.write(plan)
    return sha256


def load(model: str, sha256: Optional[str]) -> Optional[bytes]:
    """The engine of this digest; None where none is named, it is gone, or is not what it was."""
    return None if sha256 is None else _content(path_of(model, sha256), sha256)


def timing_cache(options: Dict[str, Any]) -> Optional[bytes]:
    """The host's timing cache, empty where none is named; None where it is lost.

    A cache only makes builds faster and alike, so a lost one is no reason to fail.
    """
    path = options.get("timing_cache")
    return b"" if path is None else _content(path, options.get("timing_cache_sha256"))


def _content(path: str, sha256: Optional[str]) -> Optional[bytes]:
    """What a file holds; None where it is gone, or has another digest."""
    try:
        content = Path(path).read_bytes()
    except OSError:
        return None
    return content if digest_of(content) == sha256 else None
