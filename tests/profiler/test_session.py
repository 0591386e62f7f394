"""Sessions on a scripted device; what they left behind is read from the journal by other means."""

import dataclasses
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from small_network import (
    CONDITIONS,
    duplicates_of,
    latency_ms,
    merged,
    original,
    restless_device,
    run,
    session,
    small_plan,
)

from latency_tables.opspec import OpSpec, OpSpecError
from profiler.errors import JournalError, SessionError
from profiler.fake_device import FakeAgent, FakeConnection, write_spec
from profiler.planning.jobs import FileJob, JobPlan
from profiler.settings import ProfileSettings
from profiler.time_budget import DurationEstimate

LEFT_ALONE = dataclasses.replace(CONDITIONS, statistic="quiet")


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


def test_anchors_stand_around_stretches_of_the_given_length(tmp_path: Path) -> None:
    run(tmp_path, quiet())
    kinds = [line["line"] for line in lines(tmp_path) if line.get("round") == 0]
    assert kinds[:2] == ["environment", "anchor"]
    assert kinds[-1] == "anchor"
    stretches = "".join("|" if kind == "anchor" else "." for kind in kinds[1:]).strip("|")
    assert {len(stretch) for stretch in stretches.split("|")[:-1]} == {6}


def test_a_second_run_measures_nothing_and_starts_no_agent(tmp_path: Path) -> None:
    first = run(tmp_path, quiet())
    device = quiet()
    second = run(tmp_path, device)
    assert device.agents_started == 0
    assert (second.reused, second.measured) == (first.measured, 0)
    assert second.measurements == first.measurements


def test_a_stretch_in_which_the_machine_changed_is_measured_again(tmp_path: Path) -> None:
    # The clock jumps once for good, in the middle of the first round.
    device = quiet(speed=lambda now_s: 1.05 if now_s > 5.0 else 1.0)
    result = run(tmp_path, device, ProfileSettings(anchor_every=6, extra_rounds=0))
    drifted = [line for line in lines(tmp_path) if line["line"] == "discard"]
    assert [(line["round"], line["cause"], len(line["jobs"])) for line in drifted] == [
        (0, "drift", 6)
    ]
    assert re.fullmatch(r"the anchor moved by \+(4\.9|5\.[01]) %", drifted[0]["reason"])
    assert result.remeasured == 6
    assert set(accepted(tmp_path).values()) == {1}
    again = [(name, 0) for name in drifted[0]["jobs"]]
    replies = [line for line in lines(tmp_path) if line["line"] == "reply"]
    assert all(sum((r["job"], r["round"]) == key for r in replies) == 2 for key in again)


def test_a_machine_that_never_rests_costs_a_bounded_time_and_a_warning(tmp_path: Path) -> None:
    restless = quiet(speed=lambda now_s: 1.0 + 0.05 * (int(now_s) % 2))
    calm = quiet()
    run(tmp_path / "calm", calm, ProfileSettings(anchor_every=6, extra_rounds=0))
    settings = ProfileSettings(anchor_every=6)
    result = run(tmp_path / "restless", restless, settings)
    assert any("although the anchor moved" in warning for warning in result.warnings)
    found = accepted(tmp_path / "restless")
    assert set(found.values()) == {1}
    # What is measured again, and the anchors that go with it.
    assert restless.clock.now_s < (1.15 + settings.extra_share) * calm.clock.now_s


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_drift_may_take_its_share_of_the_time_and_no_more(tmp_path: Path, share: float) -> None:
    restless = quiet(speed=lambda now_s: 1.0 + 0.05 * (int(now_s) % 2))
    settings = ProfileSettings(anchor_every=6, extra_rounds=0, drift_share=share, extra_share=1.0)
    result = run(tmp_path, restless, settings)
    planned = 3 * len(small_plan().jobs)
    # Jobs of this device take about equally long; what is too much is known from those so far.
    assert result.remeasured <= 1.1 * share * planned
    assert result.remeasured > 0.5 * share * planned or share == 0.0


def test_noise_of_an_anchor_is_not_drift(tmp_path: Path) -> None:
    run(tmp_path, quiet(noise=0.05))
    assert not [line for line in lines(tmp_path) if line.get("cause") == "drift"]


def disturbed_in(job: str, rounds: set[int]) -> FakeConnection:
    """A device on which a piece takes a tenth longer in some rounds."""
    calls = Counter[str]()

    def latency(spec: OpSpec) -> float:
        calls[spec.digest] += 1
        slow = spec.digest == job and calls[spec.digest] - 1 in rounds
        return latency_ms(spec) * (1.1 if slow else 1.0)

    return quiet(latency_ms=latency)


def extra_jobs(folder: Path) -> set[str]:
    return {x["job"] for x in lines(folder) if x["line"] == "reply" and x["round"] > 2}


def test_rows_that_are_not_settled_get_extra_rounds_and_the_others_do_not(tmp_path: Path) -> None:
    noisy = original(0).digest
    result = run(tmp_path, disturbed_in(noisy, {0, 1}), conditions=LEFT_ALONE)
    assert noisy in extra_jobs(tmp_path)
    assert all(noisy in name for name in extra_jobs(tmp_path))
    # A second undisturbed round is all that is needed to believe the first.
    measurement = result.measurements[noisy]
    assert (measurement.verdict, measurement.rounds) == ("ok", 4)
    assert measurement.latency_ms == pytest.approx(latency_ms(original(0)), rel=0.01)


def test_one_disturbed_round_is_no_matter_for_what_a_piece_costs_when_left_alone(
    tmp_path: Path,
) -> None:
    noisy = original(0).digest
    result = run(tmp_path, disturbed_in(noisy, {1}), conditions=LEFT_ALONE)
    assert extra_jobs(tmp_path) == set()
    assert result.measurements[noisy].verdict == "ok"
    assert result.measurements[noisy].statistic == "quiet"


def test_the_median_of_rounds_that_disagree_is_known_after_many_more(
    tmp_path: Path,
) -> None:
    noisy = original(0).digest
    result = run(tmp_path, disturbed_in(noisy, {1}))
    assert extra_jobs(tmp_path)
    # With fewer than nine the interval of their median reaches to the one that is off.
    assert result.measurements[noisy].rounds >= 9
    assert result.measurements[noisy].verdict == "ok"
    assert result.measurements[noisy].latency_ms == pytest.approx(latency_ms(original(0)), rel=0.01)


def test_a_round_beside_a_busy_neighbour_is_journalled_as_such(tmp_path: Path) -> None:
    target = original(1).digest

    class Crowded(FakeAgent):
        """In the second round a neighbour is there whenever the target is measured."""

        def request(self, message: Any, timeout_s: float) -> dict[str, Any]:
            result = super().request(message, timeout_s)
            busy = target in message["file"] and self.device.agents_started == 2
            return result | {"disturbed": len(result["wall_ns"]) if busy else 0}

    class CrowdedDevice(FakeConnection):
        def start_agent(self) -> FakeAgent:
            return Crowded(device=self, factor=super().start_agent().factor)

    result = run(tmp_path, CrowdedDevice(latency_ms=latency_ms))
    m = result.measurements[target]
    assert [part.undisturbed for part in m.parts] == [True, False, True]
    assert (m.verdict, m.rounds, m.samples) == ("ok", 3, 2 * len(m.parts[0].wall_ns))


def test_a_file_is_measured_like_a_piece_and_is_not_deleted(tmp_path: Path) -> None:
    mine = tmp_path / "mine.json"
    mine.write_bytes(write_spec(original(3)))
    file_job = FileJob(id="mine", kind="network", label="my network", file=mine)
    piece = small_plan().jobs[0]
    plan = JobPlan(jobs=(file_job, piece), anchors=(file_job.as_anchor(),))
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


def test_a_row_that_stays_noisy_says_so_after_the_cap(tmp_path: Path) -> None:
    settings = ProfileSettings(anchor_every=6, extra_rounds=1)
    result = run(tmp_path, quiet(round_noise=0.05), settings)
    noisy = [m for m in result.measurements.values() if m.verdict == "noisy"]
    assert noisy
    assert max(m.rounds for m in noisy) == 4
    assert all("which differ by" in m.reason for m in noisy)


@pytest.mark.parametrize("fault", ["crash", "hang"])
def test_a_job_that_always_ends_its_agent_fails_alone_and_is_given_up(
    tmp_path: Path, fault: str
) -> None:
    fragile = merged(2, False).digest
    device = quiet(fault=lambda spec, call: fault if spec.digest == fragile else None)
    plan = small_plan(duplicates=0)
    plan = dataclasses.replace(
        plan, anchors=tuple(a for a in plan.anchors if a.spec.digest != fragile)
    )
    with session(tmp_path, device, plan=plan) as opened:
        result = opened.run()
    failed = {name: m for name, m in result.measurements.items() if m.failed}
    assert set(failed) == {fragile}
    assert failed[fragile].verdict == "failed"
    assert ("SIGSEGV" if fault == "crash" else "no reply within") in failed[fragile].reason
    # A crash is tried once more at once: someone may have killed the agent.
    assert device.calls[fragile] == (4 if fault == "crash" else 2)
    assert result.failed == 1
    assert device.agents_started == 3 + (4 if fault == "crash" else 2)


def test_a_job_that_crashes_once_is_measured_in_an_extra_round(tmp_path: Path) -> None:
    fragile = merged(4, False).digest
    device = quiet(
        fault=lambda spec, call: "crash" if spec.digest == fragile and call == 0 else None
    )
    result = run(tmp_path, device)
    assert result.measurements[fragile].verdict == "ok"
    assert result.measurements[fragile].rounds == 3


@pytest.mark.parametrize("fault", ["bad_model", "out_of_memory"])
def test_a_failure_that_no_second_try_mends_is_not_tried_again(tmp_path: Path, fault: str) -> None:
    broken = merged(4, True).digest
    device = quiet(fault=lambda spec, call: fault if spec.digest == broken else None)
    result = run(tmp_path, device)
    assert result.measurements[broken].reason == f"{fault}: the script says so"
    assert device.calls[broken] == 1 + (f"duplicate {broken}" in result.measurements)


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
        assert sum(m.failed for m in result.measurements.values()) <= 2
    assert device.agents_started == 0


def test_a_throttled_reply_is_measured_again_and_kept_when_it_stays(tmp_path: Path) -> None:
    warm, hot = merged(0, False).digest, merged(5, False).digest

    def fault(spec: OpSpec, call: int) -> str | None:
        once = spec.digest == warm and call == 0
        return "throttled" if once or spec.digest == hot else None

    result = run(tmp_path, quiet(fault=fault), ProfileSettings(anchor_every=6, extra_share=10.0))
    assert result.measurements[warm].verdict == "ok"
    assert result.measurements[hot].verdict == "throttled"
    taken_back = [line for line in lines(tmp_path) if line.get("cause") == "throttled"]
    assert taken_back[0]["reason"].startswith("the CPU throttled itself 1 time(s)")
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


def test_anchors_that_fail_are_replaced_and_where_none_is_left_the_table_is_warned(
    tmp_path: Path,
) -> None:
    plan = small_plan(duplicates=0)
    bad = {anchor.spec.digest for anchor in plan.anchors}
    device = quiet(fault=lambda spec, call: "bad_model" if spec.digest in bad else None)
    with session(tmp_path, device, plan=plan) as opened:
        result = opened.run()
    assert any("no anchor could be measured" in warning for warning in result.warnings)
    assert result.failed == len(bad)


def test_another_machine_cannot_go_on(tmp_path: Path) -> None:
    run(tmp_path, quiet(), ProfileSettings(anchor_every=6, rounds=1, extra_rounds=0))
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
        assert (fresh.jobs, fresh.rounds, fresh.reused) == (jobs, 3, 0)
        assert fresh.remaining == 3 * jobs
        assert 3 * jobs * 0.35 < fresh.remaining_s < fresh.longest_s
        calls: list[tuple[int, int, str]] = []
        opened.run(lambda *call: calls.append(call))
        assert opened.estimate.remaining == 0
        assert opened.estimate.remaining_s == 0.0
    assert [done for done, _, _ in calls] == list(range(3 * jobs + 1))
    assert {total for _, total, _ in calls} == {3 * jobs}
    assert f"{jobs} jobs in 3 rounds: {3 * jobs} measurements; about" in str(fresh)


def test_a_session_of_one_round_can_be_deepened_later(tmp_path: Path) -> None:
    jobs = len(small_plan().jobs)
    run(tmp_path, quiet(), ProfileSettings(anchor_every=6, rounds=1, extra_rounds=0))
    result = run(tmp_path, quiet())
    assert (result.reused, result.measured) == (jobs, 2 * jobs)


def test_suspects_are_measured_in_one_extra_round(tmp_path: Path) -> None:
    wanted = small_plan().jobs[3].id
    with session(tmp_path, quiet()) as opened:
        opened.suspects = lambda measurements: {wanted}
        result = opened.run()
    assert result.measurements[wanted].rounds == 4
    assert result.remeasured == 1


def test_workload_files_can_be_deleted_and_are_written_again(tmp_path: Path) -> None:
    with session(tmp_path, quiet()) as opened:
        opened.run()
        specs = {job.spec.digest for job in small_plan().jobs}
        files = list((tmp_path / "workloads").iterdir())
        assert len(files) == len(specs) + len(duplicates_of(small_plan()))
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
    """Just before and just after each line that takes replies back, and within the anchor's."""
    starts = [n for n in range(len(whole)) if whole.startswith(b'{"line":"discard"', n)]
    return [
        cut for start in starts[:2] for cut in (start - 3, start, whole.index(b"\n", start) + 1)
    ]


def _taken_back(folder: Path, before: bytes) -> int:
    def count(text: bytes) -> int:
        found = [json.loads(line) for line in text.splitlines(keepends=True) if line[-1:] == b"\n"]
        return sum(len(line["jobs"]) for line in found if line["line"] == "discard")

    return count((folder / "journal.jsonl").read_bytes()) - count(before)


def test_the_estimate_says_what_the_missing_files_take(tmp_path: Path) -> None:
    plan = small_plan()
    specs = {(job.digest, job.weights_seed): job.spec for job in (*plan.jobs, *plan.anchors)}
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
    known = {"jobs": 1, "rounds": 1, "reused": 0, "remaining": 1}
    for file_bytes, words in ((1_650_000_000, "machine; about 1.6 GB of files"), (900, "machine")):
        said = DurationEstimate(**known, remaining_s=1.0, longest_s=2.0, file_bytes=file_bytes)
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
