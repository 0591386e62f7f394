import dataclasses
import json
from contextlib import closing
from pathlib import Path

import pytest

from profiler.errors import JournalError
from profiler.journal import Journal, JournalState
from profiler.journal_lines import EnvironmentLine, Header, SharedLine, WarningLine, write_entry
from profiler.replies import Failure, LayerTimes, Reply, Samples

HEADER = Header(
    conditions={"device": "local", "batch": 1}, seed=0, plan="12345678", rule={"cap_s": 1.0}
)
SAMPLES = Samples(wall_ns=(1, 2, 3))


def reply(job: str, number: int = 0, attempt: int = 0) -> Reply:
    return Reply(job_id=job, round=number, attempt=attempt, board="b", outcome=SAMPLES, took_s=0.5)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new" / "journal.jsonl"


def reopened(path: Path) -> JournalState:
    with closing(Journal(path, HEADER)) as journal:
        return journal.state


def filled(path: Path) -> None:
    journal = Journal(path, HEADER)
    journal.record(EnvironmentLine(round=0, board="b", environment={"cpu_model": "x"}))
    journal.record(SharedLine(reply("a")))
    journal.record(reply("a"))
    slow = Failure(type="timeout", message="slow")
    journal.record(Reply(job_id="b", round=0, attempt=0, board="b", outcome=slow))
    journal.discard(0, ["a"], cause="disturbed", reason="3 of 3 samples disturbed")
    journal.record(reply("a", attempt=1))
    journal.record(WarningLine(board="b", reason="too warm"))
    journal.close()


def test_what_was_written_is_read_again(path: Path) -> None:
    filled(path)
    state = reopened(path)
    assert state.accepted[("a", 0)].attempt == 1
    assert str(state.accepted[("b", 0)].failure) == "timeout: slow"
    assert [r.job_id for r in state.discarded] == ["a"]
    assert state.environments == [{"cpu_model": "x"}]
    assert state.warnings == ["too warm"]
    assert state.shared == {("a", 0, "b"): reply("a")}
    assert state.replies("a") == (reply("a", attempt=1),)


def test_every_outcome_is_on_disk_before_the_next(path: Path) -> None:
    with closing(Journal(path, HEADER)) as journal:
        for number in range(3):
            journal.record(reply("a", number))
            assert len(path.read_text().splitlines()) == number + 2


@pytest.mark.parametrize("kept", [1, 20, 60])
def test_an_unfinished_last_line_is_dropped_and_written_over(path: Path, kept: int) -> None:
    filled(path)
    whole = path.read_bytes()
    line = json.dumps(write_entry(reply("c"))).encode()
    path.write_bytes(whole + line[:kept])
    with closing(Journal(path, HEADER)) as journal:
        assert ("c", 0) not in journal.state.accepted
        journal.record(reply("c"))
    assert path.read_bytes().startswith(whole)
    assert ("c", 0) in reopened(path).accepted


def test_an_unfinished_header_is_begun_again(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b'{"line":"header","sch')
    reopened(path)
    assert len(path.read_text().splitlines()) == 1
    assert reopened(path).accepted == {}


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"conditions": {"device": "local", "batch": 8}}, "batch was 1, now 8"),
        ({"rule": {"cap_s": 2.0}}, "cap_s was 1.0, now 2.0"),
        ({"seed": 5}, "seed was 0, now 5"),
        ({"plan": "87654321"}, "the pieces and networks to measure are not the same"),
    ],
)
def test_another_run_s_journal_is_refused_and_the_difference_named(
    path: Path, change: dict[str, object], what: str
) -> None:
    filled(path)
    before = path.read_bytes()
    with pytest.raises(JournalError, match=what) as caught:
        Journal(path, dataclasses.replace(HEADER, **change))  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == before


def test_a_file_of_someone_else_is_left_alone(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("my diary")
    with pytest.raises(JournalError, match="no journal of dshrink"):
        Journal(path, HEADER)
    assert path.read_text() == "my diary"


def test_a_newer_journal_is_refused_with_advice(path: Path) -> None:
    filled(path)
    path.write_text(path.read_text().replace('"schema_version":2', '"schema_version":3'))
    with pytest.raises(JournalError, match="update dshrink"):
        Journal(path, HEADER)


def test_a_journal_of_an_earlier_version_is_refused_and_left_alone(path: Path) -> None:
    filled(path)
    path.write_text(path.read_text().replace('"schema_version":2', '"schema_version":1'))
    before = path.read_bytes()
    with pytest.raises(JournalError, match=r"earlier version .*: choose another folder") as caught:
        Journal(path, HEADER)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == before


def test_the_time_spent_is_counted_by_round_and_divided_by_its_boards(path: Path) -> None:
    filled(path)
    # In round 0 one board: shared, taken back, counted, and a failure that took no time.
    with closing(Journal(path, HEADER)) as journal:
        other = dataclasses.replace(reply("a", 1), board="other", took_s=2.0)
        journal.record(reply("b", 1), other)
        spent = [journal.state.spent_s(number) for number in range(4)]
    assert spent == [0.0, 1.5, 1.5 + 1.25, 1.5 + 1.25]


@pytest.mark.parametrize(
    "line",
    [
        "not JSON",
        "[]",
        '{"line":"reply"}',
        json.dumps({**write_entry(reply("c")), "result": 3}),
        '{"line":"new invention"}',
        '{"line":"discard","round":0,"jobs":["nobody"],"cause":"disturbed","reason":""}',
        '{"line":"discard","round":0,"jobs":["a"],"cause":"drift","reason":""}',
        json.dumps(write_entry(SharedLine(reply("a")))),
        json.dumps(write_entry(reply("a", attempt=2))),
        json.dumps(write_entry(reply("c", attempt=1))),
        json.dumps({**write_entry(reply("c")), "result": {"wall_ns": []}}),
    ],
)
def test_a_damaged_line_is_an_error_that_names_it(path: Path, line: str) -> None:
    filled(path)
    with path.open("a") as file:
        file.write(line + "\n" + '{"line":"warning","reason":""}' + "\n")
    with pytest.raises(JournalError, match="line 9: "):
        Journal(path, HEADER)


def test_two_runs_cannot_share_a_journal(path: Path) -> None:
    with (
        closing(Journal(path, HEADER)),
        pytest.raises(JournalError, match="in use by another run"),
    ):
        Journal(path, HEADER)
    reopened(path)


def test_a_journal_of_version_2_still_loads(tmp_path: Path) -> None:
    stored = Path(__file__).parent / "stored" / "journal_v2.jsonl"
    path = tmp_path / "journal.jsonl"
    path.write_bytes(stored.read_bytes())
    conditions = {"device": "local", "runtime": "onnxruntime", "batch": 1}
    header = dataclasses.replace(HEADER, conditions=conditions, rule={"cap_s": 0.2})
    with closing(Journal(path, header)) as journal:
        state = journal.state
    assert {key: reply.attempt for key, reply in state.accepted.items()} == {
        ("p1", 0): 1,
        ("p2", 0): 0,
        ("p3", 0): 0,
        ("p4", 0): 0,
        ("layers", 0): 0,
    }
    assert state.accepted["p1", 0].samples == Samples(
        wall_ns=(2100, 2000),
        cpu_ns=(1900, 1800),
        runs_per_sample=4,
        dropped=1,
        disturbed=1,
        stopped="interval",
        warmup_s=0.2,
        prepare_s=0.05,
        health_before={"throttle_events": 0},
        health_after={"throttle_events": 0},
    )
    assert state.accepted["p3", 0].failure == Failure(
        type="out_of_memory", message="killed", advice="less"
    )
    layers = (("t1/Conv", (5, 6)), ("result/Gemm", (7, 8)))
    assert state.accepted["layers", 0].layers == LayerTimes(layers=layers)
    assert state.accepted["p4", 0].built == {"precision": "fp16", "engine_sha256": "e" * 64}
    assert [reply.job_id for reply in state.discarded] == ["p1"]
    assert list(state.shared) == [("p1", 0, "local")]
    assert state.warnings == ["local took no further part"]
    assert path.read_bytes() == stored.read_bytes()


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("not JSON", "JSON is malformed"),
        ('{"line":"new invention"}', "unknown line 'new invention'"),
        (
            '{"line":"environment","round":"0","board":"b","environment":{}}',
            "field 'round' must be an integer",
        ),
        ('{"line":"warning","reason":""}', "field 'board' is missing"),
    ],
)
def test_what_is_wrong_with_a_line_is_one_line_with_advice(
    path: Path, line: str, problem: str
) -> None:
    filled(path)
    with path.open("a") as file:
        file.write(line + "\n")
    with pytest.raises(JournalError, match=f"line 9: .*{problem}.*: delete the lines") as caught:
        Journal(path, HEADER)
    assert "\n" not in str(caught.value)
