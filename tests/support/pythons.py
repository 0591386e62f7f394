"""The other Pythons of this machine, for tests of what must run under them."""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest


@cache
def interpreter(version: str) -> str | None:
    """A Python of this version that really runs: on the path, or one of pyenv's."""
    candidates = [shutil.which(f"python{version}")]
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    candidates += map(str, root.glob(f"versions/{version}.*/bin/python"))
    # A shim of pyenv is there for every version, and fails for those that are not chosen.
    works = (one for one in candidates if one and _runs(one))
    return next(works, None)


def needs(version: str) -> Any:
    """A parameter that is skipped where this Python is not installed."""
    found = interpreter(version)
    missing = pytest.mark.skipif(found is None, reason=f"no Python {version} is installed here")
    return pytest.param(found, marks=missing, id=version)


def _runs(python: str) -> bool:
    return subprocess.run([python, "--version"], capture_output=True).returncode == 0
