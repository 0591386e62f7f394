"""Agents and their files, shared by the tests of this folder."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from devices.agent.protocol import file_digest
from devices.agent_process import AgentProcess
from devices.connection import LocalConnection

#: Over in milliseconds: these tests are about what is measured, not how well.
QUICK = {
    "warmup_s": 0.0,
    "warmup_cap_s": 0.01,
    "window_s": 0.001,
    "min_samples": 3,
    "min_total_s": 0.0,
    "cap_s": 0.05,
}


def measure(file: Path, runtime: str = "onnxruntime", **fields: Any) -> dict[str, Any]:
    """A request to measure a file quickly."""
    request = {"do": "measure", "runtime": runtime, "file": str(file)}
    return request | {"sha256": file_digest(str(file)), "rule": QUICK} | fields


@pytest.fixture(scope="module")
def agent() -> Iterator[AgentProcess]:
    """One agent a module, for the jobs that do not end it."""
    with LocalConnection().start_agent() as process:
        yield process


@pytest.fixture
def new_agent() -> Iterator[AgentProcess]:
    """An agent that the test may break."""
    with LocalConnection().start_agent() as process:
        yield process


@pytest.fixture
def fake_job(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """``fake_job("crash", at="run")``: a request to measure what the fake runtime then does."""

    def make(behaviour: str, **script: Any) -> dict[str, Any]:
        options = script.pop("options", {})
        file = tmp_path / f"{behaviour}.json"
        file.write_text(json.dumps({"behaviour": behaviour, **script}))
        return measure(file, runtime="fake", options=options)

    return make


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk that holds 2 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if shutil.which("mount") is None:
        pytest.skip("there is no mount command here")
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    refused = subprocess.run(mount, capture_output=True, text=True)
    if refused.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {refused.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)
