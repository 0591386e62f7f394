"""Thousands of broken messages to one live agent, and thousands of broken pushes.

The messages are changes of legal ones, drawn with a fixed seed: whatever fails, fails again.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import signal
import string
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from devices.agent import lock, store
from devices.agent.checks import ERROR_TYPES
from devices.agent.protocol import MAX_LINE_BYTES, PROTOCOL, file_digest
from devices.connection import AGENT_FOLDER

MESSAGES = 10_000
PUSHES = 3_000
PATIENCE_S = 60.0
#: For a thousand requests, on the slowest machine.
ASK_PATIENCE_S = 300.0
#: What the agent may grow by: its allocator keeps what the longest lines took.
MOST_GROWTH_KIB = 64 * 1024
QUICK = {
    "warmup_s": 0.0,
    "warmup_cap_s": 0.0,
    "window_s": 0.0,
    "sample_s": 0.0,
    "min_samples": 1,
    "min_total_s": 0.0,
    "cap_s": 0.0,
}
#: No number among them makes a legal job long.
VALUES: list[Any] = [
    None,
    True,
    -1,
    0,
    0.01,
    -1e308,
    10**29,
    "",
    "\0",
    "\ud800",
    "é" * 5000,
    [],
    [[]],
    {},
    {"": {}},
    "../../../etc/passwd",
    "/proc/kmsg",
    "measure",
]
RAW = ["NaN", "-Infinity", "1e999", "9" * 5000, "[" * 3000, "{" * 10, '"\\ud800', "tru", "\\"]

Draw = random.Random
Message = dict[str, Any]


def job(file: str, runtime: str = "fake", **fields: Any) -> Message:
    """A legal request to measure a file; its digest is right where it can be known."""
    readable = not file.startswith("/proc") and is_file(Path(file))
    digest = file_digest(file) if readable else "0" * 64
    named = {"protocol": PROTOCOL, "do": "measure", "runtime": runtime, "file": file}
    # With two threads no idle core is looked for, which would take most of the time.
    return named | {"sha256": digest, "rule": QUICK, "threads": 2, "seed": 0} | fields


def is_file(path: Path) -> bool:
    """Whether there is a file; also where the path is a circle or too long to be one."""
    try:
        return path.is_file()
    except (OSError, RuntimeError):
        return False


def model(location: str | None) -> bytes:
    """A small ONNX file; with a location, its data is there."""
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [4])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])
    weight = helper.make_tensor("w", TensorProto.FLOAT, [4], [1.0, 2.0, 3.0, 4.0])
    if location:
        weight.ClearField("float_data")
        weight.data_location = TensorProto.EXTERNAL
        weight.external_data.add(key="location", value=location)
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", [value], [out])
    graph.initializer.append(weight)
    opset = helper.make_opsetid("", 13)
    whole: bytes = helper.make_model(graph, opset_imports=[opset], ir_version=7).SerializeToString()
    assert onnx.ModelProto.FromString(whole)
    return whole


def odd_files(folder: Path) -> list[str]:
    """Paths that are no file to measure, or no file at all."""
    os.mkfifo(folder / "pipe")
    (folder / "loop").symlink_to(folder / "loop")
    (folder / "empty").touch()
    (folder / "locked").write_text("{}")
    (folder / "endless").symlink_to("/dev/zero")
    ours = ("", "pipe", "loop", "empty", "locked", "endless", "gone", "locked/below")
    ours += ("../" * 9 + "etc/passwd", "./../" + folder.name + "/pipe", "name" * 100)
    names = "kmsg self/mem self/environ self/fd/0 self/fd/1 kcore 1/maps self self/pagemap"
    system = ["/", "/etc", "/etc/passwd", "/dev/zero", "/dev/null", "/dev/tty", "/dev/stdin"]
    return (
        [str(folder / name) for name in ours] + system + [f"/proc/{one}" for one in names.split()]
    )


def odd_models(folder: Path) -> list[str]:
    """ONNX files that are cut off, changed, or point elsewhere."""
    whole, draw = model(None), Draw(3)
    contents = [whole[:size] for size in range(1, len(whole), 7)]
    contents += [model("../../../etc/passwd"), model("/etc/passwd"), model("*/_ORT_MEM_ADDR_/*")]
    contents += [spoiled(whole, draw) for _ in range(40)]
    for index, content in enumerate(contents):
        (folder / f"{index}.onnx").write_bytes(content)
    return [str(folder / f"{index}.onnx") for index in range(len(contents))]


def spoiled(content: bytes, draw: Draw) -> bytes:
    """The content with some bytes changed, cut out or put in."""
    changed = bytearray(content)
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(len(changed) + 1)
        kind = draw.randrange(3)
        if kind == 0:
            changed[at : at + 1] = bytes([draw.randrange(256)])
        elif kind == 1:
            del changed[at : at + draw.randint(1, 20)]
        else:
            changed[at:at] = draw.randbytes(draw.randint(1, 5))
    return bytes(changed).replace(b"\n", b" ")


class Legal:
    """Legal messages to change.  What would end the agent or set clocks has a field too many."""

    def __init__(self, folder: Path) -> None:
        fake = folder / "work.json"
        fake.write_text(json.dumps({"behaviour": "work", "busy_us": 1}))
        self.good = job(str(fake), timeout_s=600)
        self._odd = [job(path) for path in odd_files(folder)]
        self._models = [job(path, "onnxruntime") for path in odd_models(folder)]

    def draw(self, draw: Draw) -> Message:
        """One of them."""
        kind = draw.randrange(10)
        if kind < 4:
            message = self.good
        elif kind < 6:
            message = draw.choice(self._odd)
        elif kind == 6:
            message = draw.choice(self._models)
        else:
            plain = {"protocol": PROTOCOL, "do": draw.choice(["hello", "probe", "hold", "quit"])}
            message = {**plain, "surplus": 1}
        return {"id": str(draw.randrange(1000)), **message}


def change_value(message: Message, draw: Draw) -> bytes:
    """A wrong type or a number out of range, at the top or within the rule."""
    changed: Message = {**message}
    if "rule" in changed and draw.randrange(3) == 0:
        changed["rule"] = {**changed["rule"], draw.choice(list(QUICK)): draw.choice(VALUES)}
    else:
        changed[draw.choice(list(changed))] = draw.choice(VALUES)
    if changed.get("rule") == {}:
        changed["rule"] = QUICK
    return json.dumps(changed).encode()


def change_key(message: Message, draw: Draw) -> bytes:
    """An unknown field, or one that lacks."""
    changed = dict(message)
    if draw.randrange(2):
        changed["".join(draw.choices(string.printable, k=5))] = draw.choice(VALUES)
    elif "surplus" not in changed:
        # Without its rule a job would take as long as a real one.
        del changed[draw.choice([name for name in changed if name != "rule"])]
    return json.dumps(changed).encode()


def change_digest(message: Message, draw: Draw) -> bytes:
    """A digest of something else, or none."""
    other = draw.choice([f"{draw.getrandbits(256):064x}", "g" * 64, "0" * 63, "A" * 64])
    return json.dumps({**message, "sha256": other}).encode()


def change_text(message: Message, draw: Draw) -> bytes:
    """JSON that is none, has a key twice, or nests deeply."""
    line = json.dumps(message)
    kind = draw.randrange(4)
    if kind == 0:
        return (line[:-1] + f', "id": "{draw.randrange(9)}"}}').encode()
    if kind == 1:
        return line.replace("1", draw.choice(RAW), 1).encode()
    if kind == 2:
        return (line[:-1] + ', "x": ' + "[" * draw.choice([10, 900, 50_000]) + "}").encode()
    return line.replace(", ", draw.choice([",,", "\t", "\r", ": ", "\\u0000"]), 1).encode()


def change_bytes(message: Message, draw: Draw) -> bytes:
    """Bytes changed, cut out or put in: invalid UTF-8 among them."""
    return spoiled(json.dumps(message).encode(), draw)


def cut(message: Message, draw: Draw) -> bytes:
    """The start of the line, or nothing, or blanks."""
    line = json.dumps(message).encode()
    return draw.choice([line[: draw.randrange(len(line))], b"", b"  ", b"\r"])


def noise(message: Message, draw: Draw) -> bytes:
    """Bytes that never were a message."""
    return draw.randbytes(draw.randrange(200)).replace(b"\n", b"")


def unchanged(message: Message, draw: Draw) -> bytes:
    """Legal but for what it asks for; few of them, for these take time."""
    return json.dumps(message).encode() if draw.randrange(4) == 0 else cut(message, draw)


CHANGES: list[Callable[[Message, Draw], bytes]] = [
    change_value,
    change_key,
    change_digest,
    change_text,
    change_bytes,
    cut,
    noise,
    unchanged,
]


def lines(legal: Legal, count: int) -> Iterator[bytes]:
    """So many lines without their end; a few are huge."""
    draw = Draw(20240229)
    for index in range(count):
        if index % 500 == 250:
            yield b'{"id": "' + b"x" * draw.choice([MAX_LINE_BYTES, 3_000_000]) + b'"}'
        else:
            yield draw.choice(CHANGES)(legal.draw(draw), draw)


class LiveAgent:
    """One agent process that is written to while its replies are read."""

    def __init__(self, folder: Path, errors: Path) -> None:
        self._errors = errors.open("wb")
        environment = os.environ | {"HOME": str(folder), "TMPDIR": str(folder)}
        self.process = subprocess.Popen(
            [sys.executable, str(AGENT_FOLDER / "__main__.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            cwd=folder,
            env=environment,
        )

    def ask(self, requests: list[bytes]) -> list[Any]:
        """Send all of them, return a parsed reply for each."""
        stdin, stdout = self.process.stdin, self.process.stdout
        assert stdin is not None and stdout is not None

        def write() -> None:
            for request in requests:
                stdin.write(request + b"\n")
            stdin.flush()

        writer = threading.Thread(target=write)
        # A lost reply would be waited for for ever: at the agent's end there is an empty line.
        deadline = threading.Timer(ASK_PATIENCE_S, self.process.kill)
        writer.start()
        deadline.start()
        try:
            return [json.loads(stdout.readline()) for _ in requests]
        finally:
            deadline.cancel()
            writer.join(PATIENCE_S)

    def memory_kib(self) -> int:
        """What the process has in memory; 0 where the system does not tell."""
        try:
            status = Path(f"/proc/{self.process.pid}/status").read_text()
        except OSError:
            return 0
        return next(int(one.split()[1]) for one in status.splitlines() if "VmRSS" in one)

    def end(self) -> bytes:
        """Close its input; return all it still had to say."""
        rest, _ = self.process.communicate(timeout=PATIENCE_S)
        return rest

    def close(self) -> None:
        """Leave nothing behind."""
        self.process.kill()
        self.process.communicate()
        self._errors.close()


@pytest.fixture
def live(tmp_path: Path) -> Iterator[LiveAgent]:
    """An agent that runs in a folder of its own."""
    (tmp_path / "home").mkdir()
    agent = LiveAgent(tmp_path / "home", tmp_path / "errors")
    yield agent
    agent.close()


def is_well_formed(reply: Any) -> bool:
    """Whether a reply is one of the protocol's."""
    if not isinstance(reply, dict) or reply["protocol"] != PROTOCOL:
        return False
    if reply["ok"]:
        return set(reply) == {"protocol", "id", "ok", "result"} and isinstance(
            reply["result"], dict
        )
    error = reply["error"]
    texts = all(isinstance(text, str) and text for text in error.values())
    return set(error) == {"type", "message", "advice"} and texts and error["type"] in ERROR_TYPES


def tree(folder: Path) -> dict[str, int]:
    """Every path below the folder, with its size."""
    return {str(path): path.lstat().st_size for path in folder.rglob("*")}


def test_a_lost_reply_is_not_waited_for_for_ever(
    live: LiveAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules[__name__], "ASK_PATIENCE_S", 0.3)
    os.kill(live.process.pid, signal.SIGSTOP)
    with pytest.raises(json.JSONDecodeError):
        live.ask([b"{}"])


def test_ten_thousand_broken_messages_leave_the_agent_as_it_was(
    live: LiveAgent, tmp_path: Path
) -> None:
    legal = Legal(tmp_path)
    hello = json.dumps({"protocol": PROTOCOL, "id": "h", "do": "hello"}).encode()
    good = json.dumps({"id": "g", **legal.good}).encode()
    assert all(reply["ok"] for reply in live.ask([hello, good]))
    requests = list(lines(legal, MESSAGES))
    before, memory_kib = tree(tmp_path), 0
    seen: dict[str, int] = {}
    for start in range(0, MESSAGES, 1000):
        replies = live.ask(requests[start : start + 1000])
        assert all(map(is_well_formed, replies))
        for reply in replies:
            kind = "ok" if reply["ok"] else reply["error"]["type"]
            seen[kind] = seen.get(kind, 0) + 1
        # The first thousand had a longest line and a model in it, which load what is needed once.
        memory_kib = memory_kib or live.memory_kib()
    assert live.memory_kib() - memory_kib < MOST_GROWTH_KIB
    assert live.process.poll() is None
    again, measured = live.ask([hello, good])
    assert again["id"] == "h" and again["result"]["environment"]["protocol"] == PROTOCOL
    assert measured["id"] == "g" and measured["result"]["wall_ns"]
    errors = (tmp_path / "errors").read_text(errors="replace")
    assert "Traceback" not in errors, errors
    assert tree(tmp_path) | {str(tmp_path / "errors"): 0} == before | {str(tmp_path / "errors"): 0}
    assert live.end() == b""
    # The messages were of every kind, and most of them were broken.
    expected = {"bad_request", "protocol_version", "missing_file", "wrong_digest", "bad_model"}
    assert expected < set(seen) and sum(seen.values()) == MESSAGES
    assert 10 < seen["ok"] < MESSAGES / 10 and "device_busy" not in seen
    assert Path(os.environ[lock.PATH_VARIABLE]).stat().st_size == 0


def legal_push(draw: Draw) -> tuple[Message, bytes]:
    """An announcement of a few files and their bytes; the digest is mostly the right one."""
    contents = [draw.randbytes(draw.choice([0, 1, 50])) for _ in range(draw.randint(0, 3))]
    files: list[Any] = [[hashlib.sha256(one).hexdigest(), len(one)] for one in contents]
    return {"files": files}, b"".join(contents)


def broken_push(draw: Draw) -> bytes:
    """What a host, or someone else, may send to an agent that receives."""
    message, content = legal_push(draw)
    kind = draw.randrange(5)
    if kind == 0 and message["files"]:
        message["files"][0][draw.randrange(2)] = draw.choice(VALUES)
    elif kind == 1:
        message = {"files": draw.choice(VALUES)} if draw.randrange(2) else message | {"a": 1}
    line = json.dumps(message).encode()
    if kind == 2:
        line = spoiled(line, draw)
    elif kind == 3:
        content = content[: draw.randrange(len(content) + 1)]
    elif kind == 4:
        content = spoiled(content, draw)
    return line + b"\n" + content


def test_thousands_of_broken_pushes_write_nothing_but_files_named_by_their_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda file: None)  # the disk is not what is tried here
    root = tmp_path / "outer" / "root"
    root.mkdir(parents=True)
    draw, statuses = Draw(7), {0: 0, 1: 0}
    for _ in range(PUSHES):
        replies = io.BytesIO()
        status = store.receive(str(root), io.BytesIO(broken_push(draw)), replies)
        answers = [json.loads(line) for line in replies.getvalue().splitlines()]
        assert answers and all(answer["ok"] for answer in answers[:-1])
        assert answers[-1]["ok"] == (status == 0)
        assert status == 0 or answers[-1]["error"]["type"] in ("bad_request", "wrong_digest")
        statuses[status] += 1
    assert min(statuses.values()) > PUSHES / 10
    assert [path.name for path in (tmp_path / "outer").iterdir()] == ["root"]
    assert {path.name for path in root.iterdir()} == {"files", "in-use"}
    for path in (root / "files").iterdir():
        assert path.name == f"{file_digest(str(path))}.onnx"


@pytest.mark.parametrize("seed", range(8))
def test_a_process_that_receives_answers_a_broken_push_and_ends(tmp_path: Path, seed: int) -> None:
    agent = [sys.executable, str(AGENT_FOLDER / "__main__.py"), "receive", str(tmp_path)]
    stream = broken_push(Draw(seed))
    done = subprocess.run(agent, input=stream, capture_output=True, timeout=PATIENCE_S)
    last = json.loads(done.stdout.splitlines()[-1])
    assert done.returncode == (0 if last["ok"] else 1) and done.stderr == b""
    assert not list(tmp_path.rglob("*.part"))
