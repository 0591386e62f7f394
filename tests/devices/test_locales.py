"""File names on hosts and devices whose locale is not UTF-8: the same bytes on both sides."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pythons import needs
from ssh_server import PATIENCE_S, SshServer

from devices.agent.protocol import PROTOCOL, file_digest
from devices.connection import AGENT_FOLDER, LocalConnection
from devices.errors import JobFailedError
from latency_tables.opspec import Conv, OpSpec
from profiler.workloads import build_onnx

Job = Callable[..., dict[str, Any]]
#: From 3.7 on Python takes UTF-8 in the locale C unless it is told not to.
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
NAME = "m\u00fc\u4e16 \U0001f642"
SOME = [needs(version) for version in ("3.6", "3.8")]


@pytest.fixture(scope="session")
def latin1(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a locale of Latin-1, made here."""
    folder = tmp_path_factory.mktemp("locales")
    if shutil.which("localedef") is None:
        pytest.skip("there is no localedef here")
    made = folder / "en_US.ISO-8859-1"
    command = ["localedef", "-i", "en_US", "-f", "ISO-8859-1", str(made)]
    done = subprocess.run(command, capture_output=True, text=True)
    if not made.exists():
        pytest.skip(f"no locale of Latin-1 can be made: {done.stderr.strip()}")
    return {"LOCPATH": str(folder), "LC_ALL": made.name}


def talk(python: str, environment: dict[str, str], *requests: dict[str, Any]) -> list[Any]:
    """What an agent of that Python and locale answers."""
    whole = [{"protocol": PROTOCOL, "id": "a", **request} for request in requests]
    done = subprocess.run(
        [python, str(AGENT_FOLDER / "__main__.py")],
        input="".join(f"{json.dumps(one)}\n" for one in whole).encode(),
        capture_output=True,
        env=os.environ | environment,
        timeout=PATIENCE_S,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    return [json.loads(line) for line in done.stdout.splitlines()]


def requests(fake_job: Job, folder: Path) -> list[dict[str, Any]]:
    """Measure a file with the name, in the agent and in a worker; measure one that is not there."""
    job = fake_job("work")
    file = folder / f"{NAME}.json"
    shutil.copy(job["file"], file)
    here = job | {"file": str(file)}
    return [
        here,
        here | {"runtime": "isolated_fake"},
        here | {"file": f"{file}.none"},
        {"do": "quit"},
    ]


def check_replies(replies: list[Any], folder: Path, *, shown: bool) -> None:
    measured, isolated, missing, _ = replies
    assert len(measured["result"]["wall_ns"]) >= 3
    assert len(isolated["result"]["wall_ns"]) >= 3
    assert missing["error"]["type"] == "missing_file"
    if shown:
        assert f"{folder / NAME}.json.none" in missing["error"]["message"]


@pytest.mark.parametrize("python", SOME)
def test_an_agent_under_ascii_opens_files_of_any_name_and_names_them(
    python: str, fake_job: Job, tmp_path: Path
) -> None:
    replies = talk(python, ASCII, *requests(fake_job, tmp_path))
    check_replies(replies, tmp_path, shown=True)


@pytest.mark.parametrize("python", SOME)
def test_an_agent_under_latin1_opens_files_of_any_name(
    python: str, fake_job: Job, tmp_path: Path, latin1: dict[str, str]
) -> None:
    replies = talk(python, latin1, *requests(fake_job, tmp_path))
    check_replies(replies, tmp_path, shown=False)


@pytest.mark.parametrize("python", SOME)
def test_an_agent_under_ascii_answers_texts_that_are_no_characters(python: str) -> None:
    [refused] = talk(python, ASCII, {"do": "\ud800\udcff"})
    assert refused["error"]["type"] == "bad_request"


def test_onnx_runtime_opens_files_of_any_name_under_ascii(tmp_path: Path) -> None:
    file = tmp_path / f"{NAME}.onnx"
    conv = Conv(inputs=(0,), out_channels=2, kernel=(1, 1))
    file.write_bytes(build_onnx(OpSpec(input_shape=(2, 4, 4), ops=(conv,))))
    job = {"do": "measure", "runtime": "onnxruntime", "file": str(file)}
    job |= {"sha256": file_digest(str(file)), "rule": {"cap_s": 0.2, "min_total_s": 0.0}}
    [measured] = talk(sys.executable, ASCII, job)
    assert measured["ok"], measured


@pytest.mark.parametrize("python", [needs("3.6")])
@pytest.mark.parametrize("locale", ["ascii", "latin1"])
def test_a_device_that_is_not_utf_8_takes_its_folder_and_lock_from_a_host_that_is(
    ssh_server: SshServer,
    fake_job: Job,
    python: str,
    locale: str,
    request: pytest.FixtureRequest,
) -> None:
    said = ASCII if locale == "ascii" else request.getfixturevalue("latin1")
    ssh_server.stop()
    variables = " ".join(f"{name}={value}" for name, value in said.items())
    ssh_server.configure(
        f"SetEnv XDG_CACHE_HOME={ssh_server.home / 'cache'} {variables}",
    )
    ssh_server.start()
    folder, lock = ssh_server.home / NAME, ssh_server.home / f"{NAME}.lock"
    connection = ssh_server.connect(python=python, folder=str(folder), lock=str(lock))
    with connection.start_agent() as agent:
        job = fake_job("work")
        [pushed] = connection.push([Path(job["file"])])
        assert Path(pushed.path).parent == folder / "files"
        assert agent.request(job | {"file": pushed.path}, PATIENCE_S)["wall_ns"]
    assert lock.exists()
    connection.close()
    assert connection.left_behind == ""
    assert not folder.exists()


def test_a_name_that_is_not_utf_8_is_refused_before_it_is_sent(tmp_path: Path) -> None:
    file = Path(os.fsdecode(os.fsencode(tmp_path) + b"/z\xff.onnx"))
    file.write_bytes(b"")
    with pytest.raises(JobFailedError, match=r"is not UTF-8: .*rename it"):
        LocalConnection().push([file])


def test_a_lock_that_the_hosts_locale_cannot_write_is_no_obstacle(tmp_path: Path) -> None:
    """The host itself under ASCII."""
    code = (
        "from devices.connection import LocalConnection\n"
        f"with LocalConnection(lock={str(tmp_path / NAME)!a}).start_agent() as agent:\n"
        "    print(agent.environment.python)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | ASCII | {"PYTHONPATH": str(AGENT_FOLDER.parents[1])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_a_command_that_the_hosts_locale_cannot_write_is_one_line() -> None:
    code = (
        "from devices.errors import AgentLostError\n"
        "from devices.line_process import LineProcess\n"
        "try: LineProcess(['k\\u00fcche'])\n"
        "except AgentLostError as error: print(ascii(str(error)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | ASCII | {"PYTHONPATH": str(AGENT_FOLDER.parents[1])},
        capture_output=True,
        text=True,
    )
    assert "cannot be written in this locale, which is ascii" in done.stdout, done
