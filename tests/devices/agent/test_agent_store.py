"""Files that arrive on a device, the folder they are kept in, and its end."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ssh_server import wait_until

from devices.agent import protocol, store
from devices.connection import AGENT_FOLDER

PATIENCE_S = 60.0
AGENT = [sys.executable, str(AGENT_FOLDER / "__main__.py")]


def sha256(content: bytes) -> str:
    """The digest of the content, which is its name."""
    return hashlib.sha256(content).hexdigest()


def announcement(*contents: bytes) -> bytes:
    """The first line of a push."""
    files = [[sha256(content), len(content)] for content in contents]
    return json.dumps({"files": files}).encode() + b"\n"


def push(root: Path, stream: bytes) -> tuple[int, list[dict[str, Any]]]:
    """What the agent answers to this stream, and its exit status."""
    replies = io.BytesIO()
    status = store.receive(str(root), io.BytesIO(stream), replies)
    return status, [json.loads(line) for line in replies.getvalue().splitlines()]


def refusal(root: Path, stream: bytes) -> dict[str, str]:
    """The error that ends a push; nothing half written is left."""
    status, replies = push(root, stream)
    assert status == 1
    assert [reply["ok"] for reply in replies[-2:]] in ([False], [True, False])
    assert not list(root.rglob("*.part"))
    error: dict[str, str] = replies[-1]["error"]
    assert set(error) == {"type", "message", "advice"} and all(error.values())
    return error


def names(folder: Path) -> list[str]:
    """What the folder holds."""
    return [path.name for path in folder.iterdir()]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The folder on the device, made by the boot program."""
    made = tmp_path / "root"
    made.mkdir(mode=0o700)
    return made


def test_lacking_files_arrive_under_the_digest_of_their_content(root: Path) -> None:
    contents = [b"first", b"", b"x" * 3_000_000]
    status, replies = push(root, announcement(*contents) + b"".join(contents))
    assert status == 0
    assert replies[0] == {
        "ok": True,
        "folder": str(root / "files"),
        "lacking": [sha256(content) for content in contents],
    }
    for content, reply in zip(contents, replies[1:], strict=True):
        path = root / "files" / f"{sha256(content)}.onnx"
        assert reply == {"ok": True, "sha256": sha256(content), "path": str(path)}
        assert path.read_bytes() == content
    assert {path.name for path in root.iterdir()} == {"files", "in-use"}


def test_a_file_that_is_there_is_not_asked_for_again(root: Path) -> None:
    push(root, announcement(b"old") + b"old")
    status, replies = push(root, announcement(b"old", b"new", b"new") + b"new")
    assert status == 0 and len(replies) == 2
    assert replies[0]["lacking"] == [sha256(b"new")]


def test_a_file_of_another_size_is_replaced(root: Path) -> None:
    push(root, announcement(b"whole") + b"whole")
    path = root / "files" / f"{sha256(b'whole')}.onnx"
    path.write_bytes(b"who")
    assert push(root, announcement(b"whole") + b"whole")[0] == 0
    assert path.read_bytes() == b"whole"


def test_a_file_that_was_damaged_at_its_size_is_sent_again(root: Path) -> None:
    push(root, announcement(b"whole") + b"whole")
    path = root / "files" / f"{sha256(b'whole')}.onnx"
    path.write_bytes(b"whale")
    status, replies = push(root, announcement(b"whole") + b"whole")
    assert status == 0 and replies[0]["lacking"] == [sha256(b"whole")]
    assert path.read_bytes() == b"whole"


def test_a_link_in_a_file_s_place_is_replaced_and_not_followed(root: Path, tmp_path: Path) -> None:
    (root / "files").mkdir()
    victim = tmp_path / "victim"
    victim.write_bytes(b"12345")
    path = root / "files" / f"{sha256(b'whole')}.onnx"
    path.symlink_to(victim)
    assert push(root, announcement(b"whole") + b"whole")[0] == 0
    assert victim.read_bytes() == b"12345" and not path.is_symlink()


@pytest.mark.parametrize(
    ("message", "named"),
    [
        ({}, "lacks the fields files"),
        ({"files": [], "folder": "/etc"}, "unknown fields"),
        ({"files": {}}, "must be a list"),
        ({"files": [["0" * 64, 1]] * 2001}, "at most 2000"),
        ({"files": ["0" * 64]}, r"[sha256, size]"),
        ({"files": [["0" * 64]]}, r"[sha256, size]"),
        ({"files": [["../../../etc/cron.d/x", 1]]}, "64 lower-case hexadecimal"),
        ({"files": [["F" * 64, 1]]}, "64 lower-case hexadecimal"),
        ({"files": [["0" * 64 + "\n", 1]]}, "64 lower-case hexadecimal"),
        ({"files": [["0" * 64, -1]]}, "size"),
        ({"files": [["0" * 64, True]]}, "size"),
        ({"files": [["0" * 64, protocol.MAX_FILE_BYTES + 1]]}, "size"),
        ({"files": [["0" * 64, 1], ["0" * 64, 2]]}, "two sizes"),
    ],
)
def test_an_announcement_that_cannot_be_is_refused(root: Path, message: Any, named: str) -> None:
    error = refusal(root, json.dumps(message).encode() + b"\n")
    assert error["type"] == "bad_request"
    assert named in error["message"]


@pytest.mark.parametrize("line", [b"", b"\n", b"\xff\n", b"[" * 50_000, b"x" * 300_000])
def test_a_first_line_that_is_no_message_is_refused(root: Path, line: bytes) -> None:
    assert refusal(root, line)["type"] == "bad_request"


def test_the_longest_announcement_fits_in_a_line(root: Path) -> None:
    pair = ["f" * 64, protocol.MAX_FILE_BYTES]
    line = json.dumps({"files": [pair] * protocol.MAX_FILES}).encode() + b"\n"
    assert len(line) <= protocol.MAX_LINE_BYTES


def test_a_push_that_breaks_off_is_refused_and_the_files_before_it_stay(root: Path) -> None:
    status, replies = push(root, announcement(b"first", b"second") + b"firstsec")
    assert status == 1 and [reply["ok"] for reply in replies] == [True, True, False]
    assert replies[-1]["error"]["type"] == "bad_request"
    assert "3 bytes before the end" in replies[-1]["error"]["message"]
    assert names(root / "files") == [f"{sha256(b'first')}.onnx"]


def test_content_of_another_digest_is_refused(root: Path) -> None:
    error = refusal(root, announcement(b"right") + b"wrong")
    assert error["type"] == "wrong_digest"
    assert names(root / "files") == []


def test_a_full_disk_is_an_error_and_leaves_room(small_disk: Path) -> None:
    content = os.urandom(3_000_000)
    done = subprocess.run(
        [*AGENT, "receive", str(small_disk)],
        input=announcement(b"small", content) + b"small" + content,
        capture_output=True,
    )
    assert done.returncode == 1, done.stderr
    first, small, error = map(json.loads, done.stdout.splitlines())
    assert first["ok"] and small["ok"]
    assert error["error"]["type"] == "disk_full" and "No space left" in error["error"]["message"]
    assert names(small_disk / "files") == [f"{sha256(b'small')}.onnx"]
    assert push(small_disk, announcement(b"y" * 500_000) + b"y" * 500_000)[0] == 0


def test_a_folder_that_is_not_there_is_an_error(root: Path) -> None:
    assert refusal(root / "gone", announcement(b"a") + b"a")["type"] == "runtime_error"


def test_a_host_that_goes_away_leaves_nothing_half_written(root: Path) -> None:
    with subprocess.Popen(
        [*AGENT, "receive", str(root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as receiver:
        assert receiver.stdin is not None and receiver.stdout is not None
        receiver.stdin.write(announcement(b"x" * 100) + b"x" * 50)
        receiver.stdin.flush()
        assert json.loads(receiver.stdout.readline())["ok"]
        receiver.stdout.close()
        receiver.stdin.close()
        assert receiver.wait(PATIENCE_S) == 1
    assert names(root / "files") == []


def test_what_a_killed_push_left_half_written_is_deleted_by_the_next(root: Path) -> None:
    with subprocess.Popen(
        [*AGENT, "receive", str(root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as receiver:
        assert receiver.stdin is not None and receiver.stdout is not None
        receiver.stdin.write(announcement(b"a", b"b" * 100) + b"a" + b"b" * 50)
        receiver.stdin.flush()
        receiver.stdout.readline()
        receiver.stdout.readline()
        assert wait_until(lambda: list(root.rglob("*.part")))
        (root / "files" / f"{sha256(b'c')}.left.part").write_bytes(b"c")
        push(root, announcement(b"d") + b"d")
        assert not list(root.rglob("*.left.part"))
        [written] = root.rglob("*.part")  # somebody else is still at work on this one
        assert written.name.startswith(sha256(b"b" * 100))
        receiver.kill()
    push(root, announcement(b"e") + b"e")
    assert not list(root.rglob("*.part"))
    assert len(names(root / "files")) == 3


def test_a_part_that_was_taken_for_a_dead_one_before_it_was_locked_is_begun_anew(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "files").mkdir()
    real, deleted = store.flock, []

    def delete_first(file: int, shared: bool = False, wait: bool = True) -> bool:
        for part in root.rglob("*.part") if not deleted else ():
            part.unlink()
            deleted.append(part)
        return real(file, shared, wait)

    monkeypatch.setattr(store, "flock", delete_first)
    status, replies = push(root, announcement(b"a") + b"a")
    assert status == 0 and len(deleted) == 1
    assert Path(replies[-1]["path"]).read_bytes() == b"a"


def run(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    """Start the agent with these arguments and nothing to read."""
    return subprocess.run([*AGENT, *arguments], input=b"", capture_output=True, timeout=PATIENCE_S)


def test_removing_leaves_nothing(root: Path) -> None:
    push(root, announcement(b"a") + b"a")
    (root / "files" / f"{sha256(b'b')}.x.part").touch()
    code = root / "agent-0123456789abcdef" / "runtimes"
    code.mkdir(parents=True)
    (code / "x.py").touch()
    done = run("remove", str(root))
    assert done.returncode == 0
    assert json.loads(done.stdout) == {"ok": True, "removed": True}
    assert not root.exists()


def test_removing_takes_engines_and_what_a_killed_trtexec_left(root: Path) -> None:
    push(root, announcement(b"a") + b"a")
    model = root / "files" / f"{sha256(b'a')}.onnx"
    Path(f"{model}.{sha256(b'plan')}.engine").touch()
    Path(f"{model}.x1y2.part").touch()
    work = root / "files" / "trtexec-ab_c12d9"
    work.mkdir()
    for name in ("run.engine", "times.json"):
        (work / name).touch()
    assert store.remove(str(root))
    assert not root.exists()


def test_folders_that_are_only_called_like_trtexec_s_stay(root: Path, tmp_path: Path) -> None:
    push(root, announcement(b"a") + b"a")
    other = tmp_path / "other"
    kept = [root / "files" / name for name in ("trtexec-9", "trtexec-ab_c12d9.bak", "my-trtexec")]
    for folder in (other, *kept):
        folder.mkdir()
        (folder / "precious").touch()
    (root / "files" / "trtexec-linked00").symlink_to(other)
    (root / "files" / "trtexec-afile000").touch()
    assert store.remove(str(root))
    assert all((folder / "precious").exists() for folder in (other, *kept))
    assert {"trtexec-linked00", "trtexec-afile000"} < set(names(root / "files"))


def test_what_is_not_ours_stays(root: Path, tmp_path: Path) -> None:
    push(root, announcement(b"a") + b"a")
    for name in ("thesis.tex", "files/notes", "agent-smith"):
        (root / name).write_text("precious")
    assert store.remove(str(root))
    left = sorted(str(path.relative_to(root)) for path in root.rglob("*"))
    assert left == ["agent-smith", "files", "files/notes", "thesis.tex"]


def test_links_are_not_followed(root: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / f"{'0' * 64}.onnx").touch()
    (root / "in-use").touch()
    (root / "files").symlink_to(victim)
    assert store.remove(str(root))
    assert list(victim.iterdir())


def test_a_folder_without_the_marker_is_left_alone(root: Path) -> None:
    (root / "files").mkdir()
    (root / "files" / f"{'0' * 64}.onnx").touch()
    done = run("remove", str(root))
    assert done.returncode == 1
    assert json.loads(done.stdout)["error"]["type"] == "bad_request"
    assert list((root / "files").iterdir())


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_another_user_is_left_alone(root: Path) -> None:
    push(root, b"")
    os.chown(root, 65534, 65534)
    assert run("remove", str(root)).returncode == 1
    assert (root / "in-use").exists()


@pytest.mark.parametrize("mode", ["serve", "receive"])
def test_a_folder_in_use_is_not_removed_until_its_user_ends(root: Path, mode: str) -> None:
    with subprocess.Popen(
        [*AGENT, mode, str(root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as user:
        assert user.stdin is not None and user.stdout is not None
        hello = {"protocol": protocol.PROTOCOL, "id": "a", "do": "hello"}
        first = json.dumps(hello).encode() + b"\n" if mode == "serve" else announcement(b"a")
        user.stdin.write(first)
        user.stdin.flush()
        assert json.loads(user.stdout.readline())["ok"]
        done = run("remove", str(root))
        assert done.returncode == 0
        assert json.loads(done.stdout) == {"ok": True, "removed": False}
        user.kill()
        user.wait()
    assert store.remove(str(root)) and not root.exists()


def test_a_folder_that_goes_while_it_is_opened_is_an_error(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = store.flock

    def remove_first(file: int, shared: bool = False, wait: bool = True) -> bool:
        if shared:
            (root / "in-use").unlink()
        return real(file, shared, wait)

    monkeypatch.setattr(store, "flock", remove_first)
    assert refusal(root, announcement(b"a"))["type"] == "device_busy"


def test_who_removes_second_takes_nothing_from_the_run_that_came_after_the_first(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(root, announcement(b"a") + b"a")
    opened = store._open_ours

    def remove_and_come_back(folder: str) -> int:
        in_use = opened(folder)
        monkeypatch.undo()
        assert store.remove(folder) and not root.exists()
        root.mkdir()
        push(root, announcement(b"b") + b"b")
        return in_use

    monkeypatch.setattr(store, "_open_ours", remove_and_come_back)
    assert not store.remove(str(root))
    assert names(root / "files") == [f"{sha256(b'b')}.onnx"]


def test_an_agent_whose_folder_is_gone_says_so(root: Path) -> None:
    done = run("serve", str(root / "gone"))
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1 and b"gone" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("measure",),
        ("serve", "relative"),
        ("serve", "/a", "/b"),
        ("receive",),
        ("remove",),
        ("receive", "relative"),
        ("remove", "/a", "/b"),
        ("",),
        ("--help",),
    ],
)
def test_arguments_that_make_no_sense_are_refused_in_one_line(arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert done.returncode == 2 and done.stdout == b""
    assert len(done.stderr.splitlines()) == 1 and b"usage" in done.stderr


def test_serving_is_what_is_done_without_arguments(root: Path) -> None:
    for arguments in ((), ("serve",), ("serve", str(root))):
        assert run(*arguments).returncode == 0
    assert names(root) == ["in-use"]


@pytest.mark.parametrize(
    "name",
    [
        "agent-0123456789abcdef-mine",
        "agent-0123456789abcdef.notes.txt",
        f"files/{'0' * 64}.onnx.bak",
        f"files/{'0' * 64}.my thesis.part",
    ],
)
def test_a_name_that_only_begins_as_ours_is_left_alone(root: Path, name: str) -> None:
    for folder in ("agent-0123456789abcdef", "agent-0123456789abcdef.a1b2c3d4.old", "files"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / name).mkdir()
    (root / store.MARKER).touch()
    assert store.remove(str(root))
    left = sorted(str(path.relative_to(root)) for path in root.rglob("*"))
    assert left == sorted({name, str(Path(name).parent)} - {"."})
