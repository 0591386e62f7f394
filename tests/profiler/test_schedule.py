"""Fixed rounds: which jobs each of them has, and when there are no more."""

from __future__ import annotations

import pytest

from profiler.errors import InvalidJobError
from profiler.measurement import Measurement
from profiler.replies import Failure, Reply, Samples
from profiler.schedule import FixedRounds, Known

CRASH = Failure(type="agent_crashed", message="ended by signal 11")


def measured(
    name: str, *rounds_ms: float | Failure, took_s: float = 1.0, first: int = 0
) -> Measurement:
    """A job with one outcome a round, each of which took so long."""

    def outcome(ms: float | Failure) -> Samples | Failure:
        return ms if isinstance(ms, Failure) else Samples(wall_ns=(round(ms * 1e6),) * 5)

    replies = tuple(
        Reply(job_id=name, round=number, attempt=0, board="b", outcome=outcome(ms), took_s=took_s)
        for number, ms in enumerate(rounds_ms, start=first)
    )
    return Measurement(job_id=name, replies=replies, clock="wall", rounds_wanted=2)


def known(*measurements: Measurement) -> Known:
    return Known(measurements={one.job_id: one for one in measurements}, spent_s=0.0)


def test_every_job_is_in_every_round_until_those_are_over() -> None:
    schedule = FixedRounds(rounds=2)
    before = known(measured("a"), measured("b"))
    assert schedule.next_round(0, before) == ["a", "b"]
    assert schedule.estimate(0, before) == (4, "")
    half = known(measured("a", 1.0), measured("b", 5.0))
    assert schedule.next_round(1, half) == ["a", "b"]
    assert schedule.estimate(1, half) == (2, "")
    whole = known(measured("a", 1.0, 2.0), measured("b", 5.0, 9.0))
    assert not schedule.next_round(2, whole)
    assert schedule.estimate(2, whole) == (0, "")


def test_what_is_given_up_is_in_no_further_round() -> None:
    schedule = FixedRounds(rounds=3, most_rounds=9)
    found = known(measured("a", 1.0, 1.0), measured("b", CRASH, CRASH), measured("c", CRASH, 1.0))
    assert schedule.next_round(2, found) == ["a", "c"]
    assert schedule.estimate(2, found) == (2, "")
    assert schedule.next_round(3, found) == ["c"]


def test_further_rounds_are_for_what_has_not_converged_the_worst_first() -> None:
    schedule = FixedRounds(rounds=2, most_rounds=4)
    found = known(measured("ok", 1.0, 1.0), measured("bad", 1.0, 1.1), measured("worse", 1.0, 1.5))
    assert schedule.next_round(2, found) == ["worse", "bad"]
    assert schedule.estimate(2, found) == (2, "")
    assert not schedule.next_round(4, found)


def test_further_rounds_take_no_more_than_the_effort_allows() -> None:
    bad, worse = (measured(n, 1.0, top, took_s=2.0) for n, top in (("bad", 1.1), ("worse", 1.5)))
    # Two rounds of both took 8 s.
    for effort, chosen in ((0.0, []), (0.25, ["worse"]), (0.5, ["worse", "bad"])):
        schedule = FixedRounds(rounds=2, most_rounds=9, effort=effort)
        assert schedule.next_round(2, known(bad, worse)) == chosen
    spent = measured("worse", 1.0, 1.5, 1.5, took_s=2.0)
    schedule = FixedRounds(rounds=2, most_rounds=9, effort=0.5)
    assert schedule.next_round(3, known(bad, spent)) == ["worse"]
    # Too long for what is left, but something shorter is not.
    long = measured("long", 1.0, 2.0, took_s=9.0)
    short = measured("short", 1.0, 1.1, took_s=1.0)
    schedule = FixedRounds(rounds=2, most_rounds=9, effort=0.1)
    assert schedule.next_round(2, known(long, short)) == ["short"]


@pytest.mark.parametrize("wrong", [{"rounds": 0}, {"rounds": 1, "effort": -1.0}])
def test_a_schedule_without_a_round_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InvalidJobError, match=r"rounds \(\d\) must be 1 or more"):
        FixedRounds(**wrong)  # type: ignore[arg-type]
