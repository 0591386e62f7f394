"""The agent under the oldest Python it promises, and under one that is too old."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pythons import needs

from devices.connection import AGENT_FOLDER, LocalConnection
from devices.errors import AgentLostError, JobFailedError

Job = Callable[..., dict[str, Any]]
PATIENCE_S = 60.0
ALLOWED_ROOTS = sys.stdlib_module_names


@pytest.mark.parametrize("python", [needs("3.6")])
def test_the_oldest_python_says_hello_measures_and_survives_bad_requests(
    python: str, fake_job: Job
) -> None:
    with LocalConnection(python=python).start_agent() as agent:
        assert agent.environment.python.startswith("3.6.")
        result = agent.request(fake_job("work"), PATIENCE_S)
        assert len(result["wall_ns"]) >= 3
        for wrong in ({"do": "reboot"}, {"do": "hello", "x": [1]}, {"do": "hello", "id": 3}):
            with pytest.raises(JobFailedError):
                agent.request(wrong, PATIENCE_S)
        with pytest.raises(JobFailedError, match="fake runtime fails"):
            agent.request(fake_job("fail"), PATIENCE_S)
        limit = {"memory_limit_mib": 2048}
        with pytest.raises(JobFailedError) as caught:
            agent.request(fake_job("allocate", mib=4096, options=limit), PATIENCE_S)
        assert caught.value.type == "out_of_memory"
        with pytest.raises(AgentLostError, match="SIGKILL"):
            agent.request(fake_job("crash"), PATIENCE_S)


@pytest.mark.parametrize("python", [needs("3.6")])
def test_a_python_without_the_runtime_says_so_with_the_line_that_installs_it(
    python: str, fake_job: Job
) -> None:
    with LocalConnection(python=python).start_agent() as agent:
        if "onnxruntime" in agent.environment.runtimes:
            pytest.skip(f"{python} has ONNX Runtime")
        with pytest.raises(JobFailedError, match="pip install") as caught:
            agent.request(fake_job("work") | {"runtime": "onnxruntime"}, PATIENCE_S)
        assert caught.value.type == "missing_runtime"
        assert agent.alive


@pytest.mark.parametrize("python", [needs("2.7")])
def test_a_python_that_is_too_old_says_so_itself(python: str) -> None:
    with pytest.raises(AgentLostError, match=r"needs Python 3\.6 or newer") as caught:
        LocalConnection(python=python).start_agent()
    assert caught.value.type == "start_failed"


def test_no_syntax_or_library_of_a_newer_python_is_used() -> None:
    vermin = Path(sys.executable).with_name("vermin")
    if not vermin.exists():
        pytest.skip("vermin is not installed beside this Python")
    command = [vermin, "-t=3.6-", "--violations", "--no-tips", AGENT_FOLDER]
    check = subprocess.run(command, capture_output=True, text=True)
    assert check.returncode == 0, check.stdout


def test_the_agent_imports_the_standard_library_and_itself_alone() -> None:
    foreign = []
    for file in AGENT_FOLDER.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [one.name for one in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            foreign += [(file.name, one) for one in names if one.split(".")[0] not in ALLOWED_ROOTS]
    assert foreign == []


def test_the_folder_runs_under_another_name_wherever_it_is_copied_to(tmp_path: Path) -> None:
    copy = tmp_path / "a folder" / "v17"
    shutil.copytree(AGENT_FOLDER, copy, ignore=shutil.ignore_patterns("__pycache__"))
    hello = json.dumps({"protocol": 1, "id": "a", "do": "hello"}) + "\n"
    done = subprocess.run(
        [sys.executable, copy / "__main__.py"],
        input=hello,
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    reply = json.loads(done.stdout)
    with LocalConnection().start_agent() as agent:
        assert reply["result"]["environment"]["agent_digest"] == agent.environment.agent_digest
