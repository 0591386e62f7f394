from __future__ import annotations

import errno
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from devices.agent import checks, protocol, service
from devices.agent.checks import RequestError, as_request_error
from devices.agent.runtimes.fake.model import FakeModel

DIGEST = "0" * 64
HELLO = {"protocol": 1, "id": "a", "do": "hello"}
MEASURE = {
    "protocol": 1,
    "id": "a",
    "do": "measure",
    "runtime": "fake",
    "file": "/f",
    "sha256": DIGEST,
}


def ask(*lines: bytes) -> list[dict[str, Any]]:
    """What the agent's loop answers to these lines."""
    replies = io.BytesIO()
    service.serve(io.BytesIO(b"\n".join(lines)), replies)
    return [json.loads(line) for line in replies.getvalue().splitlines()]


def error_of(message: Any) -> dict[str, str]:
    """The error of the one reply to a message (bytes as they are, all else as JSON)."""
    line = message if isinstance(message, bytes) else json.dumps(message).encode()
    (reply,) = ask(line)
    assert not reply["ok"]
    error: dict[str, str] = reply["error"]
    assert set(error) == {"type", "message", "advice"} and all(error.values())
    return error


def test_a_whole_request_has_what_was_asked_and_defaults_for_the_rest() -> None:
    given = {"rule": {"cap_s": 3, "min_samples": 7}, "options": {"x": 1}, "timeout_s": 60}
    request = protocol.parse_request(MEASURE | given)
    assert request.measure == protocol.Measure(
        runtime="fake",
        file="/f",
        sha256=DIGEST,
        threads=1,
        seed=0,
        options={"x": 1},
        rule=protocol.Rule(cap_s=3.0, min_samples=7),
        timeout_s=60.0,
    )
    assert protocol.parse_request(MEASURE).measure == protocol.Measure(
        runtime="fake", file="/f", sha256=DIGEST, options={}, rule=protocol.Rule()
    )


@pytest.mark.parametrize(
    "line",
    [
        b"garbage",
        b"",
        b"[1, 2]",
        b"null",
        b"\xff\xfe{}",
        b'{"protocol": 1, "protocol": 1, "id": "a", "do": "hello"}',
        b'{"protocol": NaN}',
        b'{"protocol": 1, "id": "a", "do": "hello"',
        b"[" * 100_000,
        b'{"protocol": ' + b"9" * 5000 + b"}",
        b'{"a": ' * 30_000,
        b'"' + b"x" * protocol.MAX_LINE_BYTES,
    ],
)
def test_a_line_that_is_no_request_gets_an_error_and_the_next_one_its_answer(line: bytes) -> None:
    refused, welcome = ask(line, json.dumps(HELLO).encode())
    assert refused["error"]["type"] == "bad_request"
    assert refused["id"] == ""
    assert welcome["ok"] and welcome["id"] == "a"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"do": "reboot"}, "do must be"),
        ({"do": ["hello"]}, "do must be"),
        ({"id": 7}, "id must be"),
        ({"id": ""}, "id must be"),
        ({"id": "x" * 201}, "id must be"),
        ({"surprise": 1}, "surprise"),
        ({"runtime": ""}, "measure.runtime"),
        ({"runtime": 5}, "measure.runtime"),
        ({"file": "relative/path"}, "measure.file"),
        ({"file": "/with\0nul"}, "measure.file"),
        ({"file": "/lone\ud800surrogate"}, "measure.file"),
        ({"file": "/" + "x" * 5000}, "measure.file"),
        ({"sha256": "F" * 64}, "measure.sha256"),
        ({"sha256": "f" * 63}, "measure.sha256"),
        ({"sha256": None}, "measure.sha256"),
        ({"threads": 0}, "measure.threads"),
        ({"threads": True}, "measure.threads"),
        ({"threads": 1.0}, "measure.threads"),
        ({"seed": -1}, "measure.seed"),
        ({"seed": 2**32}, "measure.seed"),
        ({"timeout_s": 0}, "measure.timeout_s"),
        ({"timeout_s": 86401}, "measure.timeout_s"),
        ({"timeout_s": "1"}, "measure.timeout_s"),
        ({"options": []}, "measure.options"),
        ({"options": {"warp": 9}}, "options has unknown fields ['warp']"),
        ({"options": {"memory_limit_mib": "all"}}, "options.memory_limit_mib"),
        ({"rule": 3}, "measure.rule"),
        ({"rule": {"speed": 1}}, "rule has unknown fields ['speed']"),
        ({"rule": {"cap_s": "long"}}, "rule.cap_s"),
        ({"rule": {"cap_s": 10**20}}, "rule.cap_s"),
        ({"rule": {"min_samples": 0}}, "rule.min_samples"),
        ({"rule": {"half_width": -0.1}}, "rule.half_width"),
        ({"rule": {"warmup_s": 3, "warmup_cap_s": 2}}, "cap"),
        ({"rule": {"min_total_s": 30}}, "cap"),
    ],
)
def test_a_field_that_cannot_be_is_refused_by_name(change: dict[str, Any], named: str) -> None:
    error = error_of(MEASURE | change)
    assert error["type"] == "bad_request"
    assert named in error["message"]


@pytest.mark.parametrize("missing", ["runtime", "file", "sha256"])
def test_a_field_that_is_missing_is_named(missing: str) -> None:
    request = {name: value for name, value in MEASURE.items() if name != missing}
    assert f"lacks the fields {missing}" in error_of(request)["message"]


@pytest.mark.parametrize("do", protocol.PLAIN_REQUESTS)
def test_what_is_no_measurement_takes_no_further_fields(do: str) -> None:
    assert "file" in error_of(HELLO | {"do": do, "file": "/f"})["message"]


def test_a_probe_tells_all_that_is_known_of_the_machine() -> None:
    (reply,) = ask(json.dumps(HELLO | {"do": "probe"}).encode())
    assert set(reply["result"]) >= {"environment", "health", "clocks", "processes"}


class Clocks:
    """Clocks that can be held, and count how often they were."""

    def __init__(self, refusal: RequestError | None = None) -> None:
        self.descriptions = ["the governor is performance"]
        self.events: list[str] = []
        self._refusal = refusal

    def hold(self) -> Clocks:
        self.events.append("hold")
        if self._refusal:
            raise self._refusal
        return self

    def release(self) -> None:
        self.events.append("release")


def test_clocks_are_held_once_until_the_agent_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    # The clocks of the machine that runs the tests are not ours to set.
    clocks = Clocks()
    monkeypatch.setattr(service.power, "hold", clocks.hold)
    hold = json.dumps(HELLO | {"do": "hold"}).encode()
    first, second, _ = ask(hold, hold, json.dumps(HELLO).encode())
    assert first["result"]["held"] == second["result"]["held"] == clocks.descriptions
    assert first["result"]["environment"]["protocol"] == protocol.PROTOCOL
    assert clocks.events == ["hold", "release"]


def test_clocks_that_may_not_be_set_are_an_error_and_can_be_asked_for_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clocks = Clocks(RequestError("not_permitted", "only root may", "sudo"))
    monkeypatch.setattr(service.power, "hold", clocks.hold)
    hold = json.dumps(HELLO | {"do": "hold"}).encode()
    for reply in ask(hold, hold):
        assert reply["error"] == {
            "type": "not_permitted",
            "message": "only root may",
            "advice": "sudo",
        }
    assert clocks.events == ["hold", "hold"]


def test_clocks_are_released_when_the_host_takes_no_reply(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Gone(io.BytesIO):
        def flush(self) -> None:
            raise BrokenPipeError

    clocks = Clocks()
    monkeypatch.setattr(service.power, "hold", clocks.hold)
    with pytest.raises(BrokenPipeError):
        service.serve(io.BytesIO(json.dumps(HELLO | {"do": "hold"}).encode()), Gone())
    assert clocks.events == ["hold", "release"]


def test_an_infinite_number_is_refused() -> None:
    line = json.dumps(MEASURE | {"rule": {"cap_s": 1}}).replace('"cap_s": 1', '"cap_s": 1e999')
    assert "rule.cap_s" in error_of(line.encode())["message"]


@pytest.mark.parametrize("version", [0, 2, "1", None, True, [[[]]]])
def test_another_protocol_version_has_an_error_of_its_own(version: Any) -> None:
    assert error_of(HELLO | {"protocol": version})["type"] == "protocol_version"


def test_a_refused_request_is_answered_under_its_id() -> None:
    (reply,) = ask(json.dumps(MEASURE | {"threads": 0}).encode())
    assert reply["id"] == "a"


def test_a_file_that_is_not_there_is_missing(tmp_path: Path) -> None:
    error = error_of(MEASURE | {"file": str(tmp_path / "gone")})
    assert error["type"] == "missing_file"
    assert "gone" in error["message"]


def test_a_folder_and_a_device_are_no_files_to_measure(tmp_path: Path) -> None:
    for path in (str(tmp_path), "/dev/zero"):
        assert error_of(MEASURE | {"file": path})["type"] == "bad_request"


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="there is no /proc here")
def test_an_empty_file_is_a_bad_model_and_what_only_looks_empty_is_not_read(
    tmp_path: Path,
) -> None:
    (tmp_path / "f").touch()
    for path in (str(tmp_path / "f"), "/proc/self/environ"):
        error = error_of(MEASURE | {"file": path})
        assert error["type"] == "bad_model" and path in error["message"]


def test_a_file_of_another_content_has_the_wrong_digest(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("other")
    error = error_of(MEASURE | {"file": str(tmp_path / "f")})
    assert error["type"] == "wrong_digest"


def test_an_unknown_runtime_is_missing_and_the_known_ones_are_listed() -> None:
    error = error_of(MEASURE | {"runtime": "abacus"})
    assert error["type"] == "missing_runtime"
    assert "onnxruntime" in error["advice"]


def test_a_job_that_raises_is_a_runtime_error(fake_job: Callable[..., dict[str, Any]]) -> None:
    job = {"protocol": 1, "id": "a"} | fake_job("fail", message="the moon is full")
    error = error_of(job)
    assert error["type"] == "runtime_error"
    assert "the moon is full" in error["message"]


def test_an_error_as_long_as_a_novel_is_cut(fake_job: Callable[..., dict[str, Any]]) -> None:
    error = error_of({"protocol": 1, "id": "a"} | fake_job("fail", message="x" * 10_000))
    assert len(error["message"]) <= checks.MAX_MESSAGE_CHARACTERS


def test_a_measured_job_is_answered_with_its_samples(
    fake_job: Callable[..., dict[str, Any]],
) -> None:
    (reply,) = ask(json.dumps({"protocol": 1, "id": "a"} | fake_job("work")).encode())
    result = reply["result"]
    assert len(result["wall_ns"]) >= 3
    assert result["health_before"].keys() == result["health_after"].keys()
    assert result["stopped"] in ("interval", "stable", "cap")
    assert result["waited_s"] >= 0


def test_health_is_read_around_a_measurement_and_never_within(
    fake_job: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    monkeypatch.setattr(service, "read_health", lambda: events.append("health") or {})
    monkeypatch.setattr(FakeModel, "run", lambda self, times: events.append("run"))
    monkeypatch.setattr(FakeModel, "close", lambda self: events.append("close"))
    ask(json.dumps({"protocol": 1, "id": "a"} | fake_job("work")).encode())
    assert events[0] == "health" and events[-2:] == ["health", "close"]
    assert len(events) > 5 and set(events[1:-2]) == {"run"}


def test_a_model_is_closed_even_when_its_run_fails(
    fake_job: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    monkeypatch.setattr(FakeModel, "close", lambda self: events.append("close"))
    error_of({"protocol": 1, "id": "a"} | fake_job("fail"))
    assert events == ["close"]


def test_after_quit_nothing_is_answered() -> None:
    quit_line = json.dumps(HELLO | {"do": "quit"}).encode()
    (reply,) = ask(quit_line, json.dumps(HELLO).encode())
    assert reply == {"protocol": 1, "id": "a", "ok": True, "result": {}}


def test_an_error_type_that_is_not_in_the_protocol_is_refused() -> None:
    with pytest.raises(ValueError, match="no error type"):
        RequestError("bad_luck", "m", "a")


def test_the_folder_digest_changes_with_name_and_content_of_its_python_files(
    tmp_path: Path,
) -> None:
    def digest(**files: str) -> str:
        for path in tmp_path.iterdir():
            path.unlink()
        for stem, content in files.items():
            (tmp_path / f"{stem}.py").write_text(content)
        (tmp_path / "cache.pyc").write_text(str(files))
        return protocol.folder_digest(str(tmp_path))

    assert digest(a="1", b="2") == digest(b="2", a="1")
    assert len({digest(a="1", b="2"), digest(a="1", b="3"), digest(a="1", c="2"), digest()}) == 4


#: A loaded machine is no failure.
ANY_SPEED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3)
    ),
    max_leaves=8,
)


@ANY_SPEED
@given(
    st.dictionaries(st.sampled_from([*MEASURE, "rule", "options", "threads", "x"]), json_values),
    st.sets(st.sampled_from(list(MEASURE))),
)
def test_whatever_comes_is_answered_by_one_line(change: dict[str, Any], kept: set[str]) -> None:
    message = MEASURE | change | {name: MEASURE[name] for name in kept}
    assert error_of(message)["type"] in checks.ERROR_TYPES


@ANY_SPEED
@given(st.binary().filter(lambda line: b"\n" not in line))
def test_whatever_bytes_come_are_answered_by_one_line(line: bytes) -> None:
    assert error_of(line + b"\n")["type"] == "bad_request"


def test_a_full_disk_is_told_from_other_errors_of_the_system(
    capfd: pytest.CaptureFixture[str],
) -> None:
    full = as_request_error(OSError(errno.ENOSPC, "No space left on device", "/x/model.engine"))
    assert full.kind == "disk_full" and "/x/model.engine" in full.message
    assert capfd.readouterr().err == ""
    other = as_request_error(OSError(errno.EIO, "Input/output error", "/x"), "look at the disk")
    assert (other.kind, other.advice) == ("runtime_error", "look at the disk")
    assert "Input/output error" in capfd.readouterr().err
