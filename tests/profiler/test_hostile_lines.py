"""Results and journals as strangers would damage them: refused, or fit to compute with."""

from __future__ import annotations

import json
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from mutations import mutations

from devices.replies import parse_line
from profiler.errors import JournalError, MeasurementError
from profiler.journal import Journal
from profiler.journal_lines import Header, read_entry, write_entry
from profiler.measurement import Measurement
from profiler.replies import Reply, parse_result

RESULT: dict[str, Any] = {
    "wall_ns": [2100, 2000, 2200, 2050],
    "cpu_ns": [1900, 1800, 2000, 1850],
    "runs_per_sample": 3,
    "dropped": 0,
    "disturbed": 1,
    "warmup_s": 0.2,
    "stopped": "interval",
    "device_ns": None,
    "enqueue_ns": None,
    "prepare_s": 0.05,
    "waited_s": 0.0,
    "built": {"build_s": 1.5, "precision": "fp16", "engine_sha256": "e" * 64, "engine_bytes": 5},
    "resources": {"peak_memory_bytes": 1000, "energy_j": 0.5, "energy_source": "rapl"},
    "health_before": {"throttle_events": 0, "throttle_bits": 0, "gpu": {"slowed_by": []}},
    "health_after": {"throttle_events": 1, "power_mode": "MAXN", "cooling_level": 0},
}
JOURNAL = Path(__file__).parent / "stored" / "journal_v2.jsonl"
LINES = [json.loads(line) for line in JOURNAL.read_text().splitlines()]
HEADER = Header(**{name: LINES[0][name] for name in ("conditions", "seed", "plan", "rule")})
RUN = settings(
    deadline=5000, suppress_health_check=[HealthCheck.function_scoped_fixture], database=None
)


def compute_with(replies: tuple[Reply, ...]) -> None:
    """What a session does with replies; only the errors of a user may come of it."""
    for clock in ("thread_cpu", "wall"):
        for reply in replies:
            if reply.samples is not None:
                reply.samples.throttled(clock)
        one = Measurement(job_id="j", replies=replies, clock=clock, rounds_wanted=1)
        with suppress(MeasurementError):  # no times of that clock
            _ = (one.reason, one.failed, one.built_precision, one.latency_ms)
            _ = (one.peak_memory_bytes, one.energy_j)


def check_result(line: bytes) -> None:
    try:
        outcome = parse_result(parse_line(line), do="measure")
    except ValueError as error:
        assert "\n" not in str(error) and str(error).isprintable()
        return
    reply = Reply(job_id="j", round=0, attempt=0, board="b", outcome=outcome)
    text = json.dumps(write_entry(reply), allow_nan=False)
    assert read_entry(json.loads(text), "here") == reply
    compute_with((reply,))


def check_journal(content: bytes, folder: Path) -> None:
    path = folder / "journal.jsonl"
    path.write_bytes(content)
    try:
        with closing(Journal(path, HEADER)) as journal:
            state = journal.state
            for name in {reply.job_id for reply in state.accepted.values()}:
                compute_with(state.replies(name))
            state.spent_s(5)
    except JournalError as error:
        assert "\n" not in str(error)
        assert path.read_bytes() == content  # nothing is lost


@settings(RUN, max_examples=100)
@given(line=mutations(RESULT))
def test_any_result_of_a_job_is_refused_or_fit_to_compute_with(line: bytes) -> None:
    check_result(line)


@settings(RUN, max_examples=60)
@given(whole=mutations(LINES))
def test_any_journal_is_refused_or_fit_to_resume(whole: bytes, tmp_path: Path) -> None:
    check_journal(as_lines(whole), tmp_path)


def as_lines(whole: bytes) -> bytes:
    """The JSON list of a journal's lines as a journal, as far as it still is one."""
    separator = b'}, {"line"'
    return whole[1:-1].replace(separator, b'}\n{"line"').replace(b'{"line": ', b'{"line":') + b"\n"


def test_a_journal_of_absurd_rounds_is_refused(tmp_path: Path) -> None:
    text = JOURNAL.read_bytes().replace(b'"p2","round":0', b'"p2","round":1000000000')
    (tmp_path / "journal.jsonl").write_bytes(text)
    with pytest.raises(JournalError, match=r"line 5: round 1000000000.*delete the lines"):
        Journal(tmp_path / "journal.jsonl", HEADER)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"wall_ns": [1, 2]}, "cpu_ns holds 4 samples, wall_ns 2"),
        ({"cpu_ns": [0, 1, 1, 1]}, "from 0 to 1; need at least one, all positive"),
        ({"wall_ns": [10**17] * 4}, "up to 10000000000000000"),
        ({"dropped": 2}, "dropped 2, disturbed 1; need"),
        ({"waited_s": -1.0}, "waited_s is -1.0; need 0 to"),
        ({"built": {"build_s": "x"}}, "built.build_s must be a number, got 'x'"),
        ({"health_after": {"throttle_bits": 1e300}}, "health_after.throttle_bits must be an int"),
    ],
)
def test_samples_that_contradict_themselves_are_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(MeasurementError, match=said):
        parse_result(RESULT | change)


def test_a_profile_in_place_of_samples_is_refused() -> None:
    with pytest.raises(MeasurementError, match="'wall_ns' is missing"):
        parse_result({"layers": [["a", [1, 2]]]}, do="measure")


@pytest.mark.slow
@settings(RUN, max_examples=10_000)
@given(line=mutations(RESULT))
def test_ten_thousand_results_are_refused_or_fit_to_compute_with(line: bytes) -> None:
    check_result(line)


@pytest.mark.slow
@settings(RUN, max_examples=10_000)
@given(whole=mutations(LINES))
def test_ten_thousand_journals_are_refused_or_fit_to_resume(whole: bytes, tmp_path: Path) -> None:
    check_journal(as_lines(whole), tmp_path)
