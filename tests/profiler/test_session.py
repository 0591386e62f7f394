"""Sessions on a scripted device; what they left behind is read from the journal by other means."""

import dataclasses
import json
import statistics
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from small_network import (
    CONDITIONS,
    latency_ms,
    merged,
    original,
    restless_device,
    run,
    session,
    small_plan,
)

from latency_tables.opspec import OpSpec, OpSpecError
from profiler.duration import DurationEstimate
from profiler.errors import JournalError, SessionError
from profiler.fake_device import FakeConnection, write_spec
from profiler.planning.jobs import PROFILE_RULE, FileJob, JobPlan, expected_s
from profiler.schedule import FixedRounds, Known
from profiler.settings import ProfileSettings


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]


def accepted(folder: Path) -> Counter[tuple[str, int]]:
    """Replies less those taken back, a (job, round)."""
    count: Counter[tuple[str, int]] = Counter()
    for line in lines(folder):
        if line["line"] == "reply":
            count[line["job"], line["round"]] += 1
        if line["line"] == "discard":
            count.subtract((job, line["round"]) for job in line["jobs"])
    return +count


def quiet(**changes: Any) -> FakeConnection:
    return FakeConnection(**{"latency_ms": latency_ms, "noise": 0.001} | changes)


def test_every_job_is_measured_once_a_round_and_reads_what_the_device_does(
    tmp_path: Path,
) -> None:
    result = run(tmp_path, quiet(noise=0.0))
    plan = small_plan()
    for job in plan.jobs:
        m = result.measurements[job.id]
        assert (m.verdict, m.rounds) == ("ok", 3)
        assert m.latency_ms == pytest.approx(latency_ms(job.spec), rel=1e-5)
    assert accepted(tmp_path) == {(job.id, n): 1 for job in plan.jobs for n in range(3)}
    counts = (result.reused, result.measured, result.remeasured, result.failed)
    assert counts == (0, 3 * len(plan.jobs), 0, 0)
    assert result.warnings == ()


def test_memory_and_energy_are_asked_for_in_the_first_rounds_alone(tmp_path: Path) -> None:
    device = quiet(noise=0.0, watts=10.0)
    result = run(tmp_path, device, ProfileSettings(resource_rounds=2))
    told = {
        line["round"]: "resources" in line["result"]
        for line in lines(tmp_path)
        if line["line"] == "reply"
    }
    assert told == {0: True, 1: True, 2: False}
    for job in small_plan().jobs:
        m = result.measurements[job.id]
        assert m.energy_j == pytest.approx(10.0 * latency_ms(job.spec) / 1e3, rel=1e-5)
    unasked = run(tmp_path / "unasked", quiet(watts=10.0))
    assert all(m.energy_j is None for m in unasked.measurements.values())


def test_rounds_are_shuffled_and_each_has_a_fresh_agent(tmp_path: Path) -> None:
    device = quiet()
    run(tmp_path, device)
    assert device.agents_started == 3
    orders = [
        [line["job"] for line in lines(tmp_path) if line["line"] == "reply" and line["round"] == n]
        for n in range(3)
    ]
    assert sorted(orders[0]) == sorted(orders[1]) == sorted(orders[2])
    assert orders[0] != orders[1] != orders[2]
    assert orders[0] != [job.id for job in small_plan().jobs]
    again = tmp_path / "again"
    run(again, quiet())
    assert orders[0] == [x["job"] for x in lines(again) if x["line"] == "reply"][: len(orders[0])]


def test_a_second_run_measures_nothing_and_starts_no_agent(tmp_path: Path) -> None:
    first = run(tmp_path, quiet())
    device = quiet()
    second = run(tmp_path, device)
    assert device.agents_started == 0
    assert (second.reused, second.measured) == (first.measured, 0)
    assert second.measurements == first.measurements


def test_a_disturbed_visit_is_repeated_at_the_end_of_its_round(tmp_path: Path) -> None:
    target = original(1).digest
    device = quiet(
        noise=0.0,
        fault=lambda spec, call: "disturbed" if spec.digest == target and call == 1 else None,
    )
    result = run(tmp_path, device)
    [taken_back] = [line for line in lines(tmp_path) if line["line"] == "discard"]
    assert (taken_back["cause"], taken_back["round"], taken_back["jobs"]) == (
        "disturbed",
        1,
        [target],
    )
    assert taken_back["reason"] == "5 of 5 samples disturbed"
    second = [x["job"] for x in lines(tmp_path) if x["line"] == "reply" and x["round"] == 1]
    assert second[-1] == target and second.count(target) == 2
    measurement = result.measurements[target]
    assert [part.undisturbed for part in measurement.parts] == [True, True, True]
    assert measurement.latency_ms == pytest.approx(latency_ms(original(1)), rel=1e-5)
    assert result.remeasured == 1
    assert set(accepted(tmp_path).values()) == {1}


@pytest.mark.parametrize("repeats", [0, 2])
def test_what_is_disturbed_again_and_again_is_kept_in_the_end(tmp_path: Path, repeats: int) -> None:
    target = original(1).digest
    device = quiet(fault=lambda spec, call: "disturbed" if spec.digest == target else None)
    settings = ProfileSettings(repeats=repeats)
    result = run(tmp_path, device, settings)
    assert device.calls[target] == 3 * (1 + repeats)
    assert result.remeasured == 3 * repeats
    measurement = result.measurements[target]
    assert measurement.rounds == 3
    assert not any(part.undisturbed for part in measurement.parts)
    kept = [reply.attempt for reply in measurement.replies]
    assert kept == [repeats] * 3


def test_a_visit_whose_repetition_a_kill_prevented_is_repeated_all_the_same(
    tmp_path: Path,
) -> None:
    run(tmp_path, restless_device(3))
    journal = tmp_path / "journal.jsonl"
    written = journal.read_text().splitlines(keepends=True)
    first = next(n for n, line in enumerate(written) if '"cause":"disturbed"' in line)
    journal.write_text("".join(written[:first]))
    run(tmp_path, quiet())
    after = lines(tmp_path)[first:]
    assert after[0] == json.loads(written[first])
    again = [x for x in after if x["line"] == "reply" and x["job"] == after[0]["jobs"][0]]
    assert (again[0]["round"], again[0]["attempt"]) == (after[0]["round"], 1)


@dataclasses.dataclass
class Recorded:
    """A schedule that remembers what it was asked and what it answered."""

    schedule: FixedRounds
    asked: dict[int, tuple[list[str], float]] = dataclasses.field(default_factory=dict)

    def next_round(self, number: int, known: Known) -> list[str]:
        chosen = list(self.schedule.next_round(number, known))
        self.asked[number] = (chosen, known.spent_s)
        return chosen

    def estimate(self, number: int, known: Known) -> tuple[int, str]:
        return self.schedule.estimate(number, known)


def test_a_schedule_is_told_the_same_after_a_kill(tmp_path: Path) -> None:
    rounds = FixedRounds(rounds=3, most_rounds=8, effort=0.5)
    whole = Recorded(rounds)

    def device() -> FakeConnection:
        return quiet(round_noise=0.02)

    run(tmp_path / "whole", device(), schedule=whole)
    assert len(whole.asked) > 4
    assert whole.asked[0][1] == 0.0
    written = (tmp_path / "whole" / "journal.jsonl").read_text().splitlines(keepends=True)
    for share in (0.2, 0.5, 0.8, 0.97):
        folder = tmp_path / str(share)
        folder.mkdir()
        kept = written[: int(share * len(written))]
        (folder / "journal.jsonl").write_text("".join(kept))
        last = max(line.get("round", 0) for line in map(json.loads, kept))
        resumed = Recorded(rounds)
        run(folder, device(), schedule=resumed)
        for number in range(last + 1):
            assert resumed.asked[number] == whole.asked[number]


def test_the_time_spent_is_that_of_all_visits_of_the_rounds_before(tmp_path: Path) -> None:
    asked = Recorded(FixedRounds(rounds=3))
    run(tmp_path, restless_device(3), schedule=asked)
    for number, (_, spent_s) in asked.asked.items():
        taken = [x for x in lines(tmp_path) if x["line"] == "reply" and x["round"] < number]
        assert spent_s == pytest.approx(sum(line["took_s"] for line in taken))


class OneJob:
    """Measures one job of the plan in each of two rounds."""

    def next_round(self, number: int, known: Known) -> list[str]:
        return sorted(known.measurements)[number : number + 1] if number < 2 else []

    def estimate(self, number: int, known: Known) -> tuple[int, str]:
        return 2 - number, "error 1.3 %"


def test_a_session_measures_what_its_schedule_chooses_and_stops_when_that_says_so(
    tmp_path: Path,
) -> None:
    device = quiet()
    calls: list[tuple[int, int, str]] = []
    with session(tmp_path, device, schedule=OneJob()) as opened:
        estimate = opened.estimate
        result = opened.run(lambda *call: calls.append(call))
    first, second = sorted(job.id for job in small_plan().jobs)[:2]
    assert accepted(tmp_path) == {(first, 0): 1, (second, 1): 1}
    assert device.agents_started == 2
    assert (estimate.jobs, estimate.remaining) == (1, 2)
    labels = {job.id: job.label for job in small_plan().jobs}
    assert calls == [
        (0, 2, f"error 1.3 %, {labels[first]}"),
        (1, 2, f"error 1.3 %, {labels[second]}"),
        (2, 2, "done"),
    ]
    never = set(result.measurements) - {first, second}
    assert {result.measurements[name].reason for name in never} == {"never measured"}


def disturbed_in(job: str, rounds: set[int]) -> FakeConnection:
    """A device on which a piece takes a tenth longer in some rounds."""
    calls = Counter[str]()

    def latency(spec: OpSpec) -> float:
        calls[spec.digest] += 1
        slow = spec.digest == job and calls[spec.digest] - 1 in rounds
        return latency_ms(spec) * (1.1 if slow else 1.0)

    return quiet(latency_ms=latency)


def test_jobs_that_have_not_converged_get_further_rounds_and_the_others_do_not(
    tmp_path: Path,
) -> None:
    noisy = original(0).digest
    device = disturbed_in(noisy, {1})
    result = run(tmp_path, device, schedule=FixedRounds(rounds=3, most_rounds=20))
    further = {x["job"] for x in lines(tmp_path) if x["line"] == "reply" and x["round"] > 2}
    assert noisy in further
    assert all(noisy in name for name in further)
    measurement = result.measurements[noisy]
    # So many that the one that was off is not in the interval of their median.
    assert (measurement.verdict, measurement.rounds) == ("ok", 9)
    assert measurement.latency_ms == pytest.approx(latency_ms(original(0)), rel=0.01)


def test_a_file_is_measured_like_a_piece_and_is_not_deleted(tmp_path: Path) -> None:
    mine = tmp_path / "mine.json"
    mine.write_bytes(write_spec(original(3)))
    file_job = FileJob(id="mine", kind="network", label="my network", file=mine)
    piece = small_plan().jobs[0]
    plan = JobPlan(jobs=(file_job, piece))
    for expected in (6, 0):
        with session(tmp_path / "run", quiet(noise=0.0), plan=plan) as opened:
            result = opened.run()
            opened.workloads.delete()
        assert result.measured == expected
    assert result.measurements["mine"].latency_ms == pytest.approx(
        latency_ms(original(3)), rel=1e-5
    )
    assert result.measurements[piece.id].latency_ms == pytest.approx(
        latency_ms(piece.spec), rel=1e-5
    )
    assert mine.exists()
    assert accepted(tmp_path / "run") == {(job.id, n): 1 for job in plan.jobs for n in range(3)}
    # Another content is another plan.
    mine.write_bytes(write_spec(original(4)))
    with pytest.raises(JournalError, match="pieces and networks to measure are not the same"):
        session(tmp_path / "run", quiet(), plan=plan)


def test_a_row_that_stays_noisy_says_so_after_the_last_round(tmp_path: Path) -> None:
    device = quiet(round_noise=0.05)
    result = run(tmp_path, device, schedule=FixedRounds(rounds=3, most_rounds=4))
    noisy = [m for m in result.measurements.values() if m.verdict == "noisy"]
    assert noisy
    assert {m.rounds for m in noisy} == {4}
    assert all("which differ by" in m.reason for m in noisy)


@pytest.mark.parametrize("fault", ["crash", "hang"])
def test_a_job_that_always_ends_its_agent_fails_alone_and_is_given_up(
    tmp_path: Path, fault: str
) -> None:
    fragile = merged(2, False).digest
    device = quiet(fault=lambda spec, call: fault if spec.digest == fragile else None)
    result = run(tmp_path, device)
    failed = {name: m for name, m in result.measurements.items() if m.failed}
    assert set(failed) == {fragile}
    assert failed[fragile].verdict == "failed"
    assert ("SIGSEGV" if fault == "crash" else "no reply within") in failed[fragile].reason
    # A crash is tried once more at once: someone may have killed the agent.
    assert device.calls[fragile] == (4 if fault == "crash" else 2)
    assert result.failed == 1
    assert device.agents_started == 3 + (4 if fault == "crash" else 2)


def test_a_job_that_crashes_once_is_measured_in_a_further_round(tmp_path: Path) -> None:
    fragile = merged(4, False).digest
    device = quiet(
        fault=lambda spec, call: "crash" if spec.digest == fragile and call == 0 else None
    )
    result = run(tmp_path, device, schedule=FixedRounds(rounds=3, most_rounds=4))
    assert result.measurements[fragile].verdict == "ok"
    assert result.measurements[fragile].rounds == 3


@pytest.mark.parametrize("fault", ["bad_model", "out_of_memory"])
def test_a_failure_that_no_second_try_mends_is_not_tried_again(tmp_path: Path, fault: str) -> None:
    broken = merged(4, True).digest
    device = quiet(fault=lambda spec, call: fault if spec.digest == broken else None)
    result = run(tmp_path, device)
    assert result.measurements[broken].reason == f"{fault}: the script says so"
    assert device.calls[broken] == 1


def test_a_piece_that_no_file_can_be_written_for_fails_alone(tmp_path: Path) -> None:
    odd = merged(0, True).digest

    def build(spec: OpSpec, *, batch: int = 1, seed: int = 0, precision: str = "fp32") -> bytes:
        if spec.digest == odd:
            raise OpSpecError("no words for roi_align")
        return write_spec(spec, batch=batch, seed=seed)

    for _ in range(2):
        device = quiet()
        with session(tmp_path, device) as opened:
            opened.workloads = dataclasses.replace(opened.workloads, build=build)
            opened._run.workloads = opened.workloads
            result = opened.run()
        assert result.measurements[odd].reason == "bad_model: no words for roi_align"
        assert sum(m.failed for m in result.measurements.values()) == 1
    assert device.agents_started == 0


def test_a_throttled_reply_is_measured_again_and_kept_when_it_stays(tmp_path: Path) -> None:
    warm, hot = merged(0, False).digest, merged(5, False).digest

    def fault(spec: OpSpec, call: int) -> str | None:
        once = spec.digest == warm and call == 0
        return "throttled" if once or spec.digest == hot else None

    result = run(tmp_path, quiet(fault=fault))
    assert result.measurements[warm].verdict == "ok"
    assert result.measurements[hot].verdict == "throttled"
    taken_back = [line for line in lines(tmp_path) if line.get("cause") == "throttled"]
    assert taken_back[0]["reason"].startswith("the CPU throttled itself once")
    assert set(accepted(tmp_path).values()) == {1}


def test_a_missing_runtime_ends_the_run_with_advice(tmp_path: Path) -> None:
    device = quiet(fault=lambda spec, call: "missing_runtime")
    with pytest.raises(SessionError, match="change the script"):
        run(tmp_path, device)
    other = dataclasses.replace(CONDITIONS, runtime_version="9.9")
    with (
        session(tmp_path / "other", quiet(), conditions=other) as opened,
        pytest.raises(SessionError, match=r"fake has onnxruntime 1\.0-fake"),
    ):
        opened.run()


def test_when_every_job_fails_the_run_ends_and_the_next_one_tries_them_again(
    tmp_path: Path,
) -> None:
    with pytest.raises(SessionError, match="5 jobs failed one after the other"):
        run(tmp_path, quiet(fault=lambda spec, call: "crash"))
    result = run(tmp_path, quiet())
    assert result.failed == 0
    assert set(accepted(tmp_path).values()) == {1}


def test_another_machine_cannot_go_on(tmp_path: Path) -> None:
    run(tmp_path, quiet(), ProfileSettings(rounds=1))
    with pytest.raises(JournalError, match="cpu_model is scripted, on fake it is another"):
        run(tmp_path, quiet(cpu_model="another"))


def test_a_device_without_thread_time_is_refused_where_it_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(SessionError, match='use the clock "wall"'):
        run(tmp_path, quiet(threads_counted=False))
    wall = dataclasses.replace(CONDITIONS, clock="wall")
    with session(tmp_path / "wall", quiet(threads_counted=False), conditions=wall) as opened:
        assert opened.run().failed == 0


def test_the_estimate_counts_the_plan_and_what_is_done(tmp_path: Path) -> None:
    jobs = len(small_plan().jobs)
    with session(tmp_path, quiet()) as opened:
        fresh = opened.estimate
        assert (fresh.jobs, fresh.reused, fresh.remaining) == (jobs, 0, 3 * jobs)
        assert fresh.remaining_s == pytest.approx(3 * jobs * expected_s(PROFILE_RULE))
        calls: list[tuple[int, int, str]] = []
        opened.run(lambda *call: calls.append(call))
        done = opened.estimate
        assert (done.reused, done.remaining, done.remaining_s) == (3 * jobs, 0, 0.0)
    assert [done for done, _, _ in calls] == list(range(3 * jobs + 1))
    assert {total for _, total, _ in calls} == {3 * jobs}
    assert str(fresh).startswith(f"{jobs} jobs in the first round, about {3 * jobs} measurements")


def test_the_estimate_of_an_interrupted_run_is_about_the_rest(tmp_path: Path) -> None:
    jobs = len(small_plan().jobs)

    def stop(done: int, total: int, label: str) -> None:
        assert total == 3 * jobs
        if done == jobs + 5:
            raise KeyboardInterrupt

    with session(tmp_path, quiet()) as opened, pytest.raises(KeyboardInterrupt):
        opened.run(stop)
    with session(tmp_path, quiet()) as opened:
        rest = opened.estimate
    assert (rest.jobs, rest.reused, rest.remaining) == (jobs, jobs + 5, 2 * jobs - 5)
    took = [line["took_s"] for line in lines(tmp_path) if line["line"] == "reply"]
    assert rest.remaining_s == pytest.approx(rest.remaining * statistics.median(took))
    assert f", {jobs + 5} more in the journal: about " in str(rest)


def test_a_session_of_one_round_can_be_deepened_later(tmp_path: Path) -> None:
    jobs = len(small_plan().jobs)
    run(tmp_path, quiet(), ProfileSettings(rounds=1))
    result = run(tmp_path, quiet())
    assert (result.reused, result.measured) == (jobs, 2 * jobs)


def test_workload_files_can_be_deleted_and_are_written_again(tmp_path: Path) -> None:
    with session(tmp_path, quiet()) as opened:
        opened.run()
        specs = {job.spec.digest for job in small_plan().jobs}
        files = list((tmp_path / "workloads").iterdir())
        assert len(files) == len(specs)
        opened.workloads.delete()
        assert not (tmp_path / "workloads").exists()


def test_a_journal_cut_anywhere_is_finished_with_one_reply_a_job_and_round(
    tmp_path: Path,
) -> None:
    run(tmp_path, restless_device(3))
    whole = (tmp_path / "journal.jsonl").read_bytes()
    ends = [n + 1 for n, byte in enumerate(whole) if byte == ord("\n")]
    assert b'"discard"' in whole
    cuts = sorted({*ends[::31], *(end + 7 for end in ends[5::43]), *_around_discards(whole)})
    for cut in cuts:
        folder = tmp_path / str(cut)
        folder.mkdir()
        (folder / "journal.jsonl").write_bytes(whole[:cut])
        result = run(folder, restless_device(4))
        found = accepted(folder)
        assert set(found.values()) == {1}, cut
        wanted = {(job.id, n) for job in small_plan().jobs for n in range(3)}
        given_up = {name for name, m in result.measurements.items() if m.given_up}
        assert {key for key in wanted if key[0] not in given_up} <= set(found), cut
        assert len(found) == result.reused + result.measured - _taken_back(folder, whole[:cut])


def _around_discards(whole: bytes) -> list[int]:
    """Just before and just after each line that takes replies back, and within the one before."""
    starts = [n for n in range(len(whole)) if whole.startswith(b'{"line":"discard"', n)]
    return [
        cut for start in starts[:2] for cut in (start - 3, start, whole.index(b"\n", start) + 1)
    ]


def _taken_back(folder: Path, before: bytes) -> int:
    def count(text: bytes) -> int:
        found = [json.loads(line) for line in text.splitlines(keepends=True) if line[-1:] == b"\n"]
        return sum(len(line["jobs"]) for line in found if line["line"] == "discard")

    return count((folder / "journal.jsonl").read_bytes()) - count(before)


def test_a_file_that_is_gone_from_the_board_is_brought_again(tmp_path: Path) -> None:
    target = small_plan().jobs[3].spec.digest
    # Once when it is asked for, and once more after the board itself has tried to mend it.
    device = quiet(
        fault=lambda spec, call: "missing_file" if spec.digest == target and call < 2 else None
    )
    result = run(tmp_path, device)
    assert result.failed == 0
    assert set(accepted(tmp_path).values()) == {1}


def test_a_file_that_stays_away_is_a_failure(tmp_path: Path) -> None:
    target = small_plan().jobs[3].spec.digest
    device = quiet(fault=lambda spec, call: "missing_file" if spec.digest == target else None)
    result = run(tmp_path, device)
    assert result.failed == 1
    assert "missing_file" in result.measurements[target].reason


def test_the_estimate_says_what_the_missing_files_take(tmp_path: Path) -> None:
    plan = small_plan()
    specs = {(job.digest, job.weights_seed): job.spec for job in plan.jobs}
    with session(tmp_path, quiet()) as opened:
        assert opened.estimate.file_bytes == sum(4 * spec.parameters for spec in specs.values())
        first = plan.jobs[0]
        opened.workloads.file(first)
        there = 4 * first.spec.parameters
        assert there
        assert opened.estimate.file_bytes == (
            sum(4 * spec.parameters for spec in specs.values()) - there
        )
        halves = dataclasses.replace(opened.workloads, precision="fp16")
        assert halves.missing_bytes([first, first]) == there / 2
        given = FileJob(id="f", kind="network", label="f", file=opened.workloads.file(first))
        assert opened.workloads.missing_bytes([given]) == given.file.stat().st_size
        opened.run()
        opened.workloads.delete()
        assert opened.estimate.file_bytes == 0


def test_files_worth_a_word_are_in_the_line_of_the_estimate() -> None:
    for file_bytes, words in ((1_650_000_000, "1 s; about 1.6 GB of files"), (900, "1 s")):
        said = DurationEstimate(
            jobs=1, reused=0, remaining=1, remaining_s=1.0, file_bytes=file_bytes
        )
        assert str(said).endswith(words)


def test_a_profile_that_the_disk_cannot_hold_is_refused_before_a_file_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with session(tmp_path, quiet()) as opened:
        needed = opened.estimate.file_bytes
        free = needed - 1
        monkeypatch.setattr("shutil.disk_usage", lambda folder: _Usage(free))
        with pytest.raises(SessionError, match=r"GB free, the files to measure take about .* room"):
            opened.run()
        assert not (tmp_path / "workloads").exists()
        free = needed
        assert opened.run().failed == 0


@dataclasses.dataclass
class _Usage:
    free: int
