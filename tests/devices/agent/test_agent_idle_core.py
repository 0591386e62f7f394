"""Cores and their neighbours are made up; time passes only when the code loops or sleeps."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest

from devices.agent.idle_core import PATIENCE, PROBES, TOLERANCE, Neighbourhood

LOOP_S = 30e-6


class Machine:
    """A fake ``os`` and ``time`` in one: ``slowdown(core, now_s)`` is what a neighbour makes of a
    loop; ``refused`` are the cores that the system does not let anyone have."""

    def __init__(
        self,
        cores: Iterable[int],
        slowdown: Callable[[int, float], float],
        refused: Iterable[int] = (),
    ) -> None:
        self.allowed = frozenset(cores)
        self.current = self.allowed
        self.refused = frozenset(refused)
        self.slowdown = slowdown
        self.now_s = 0.0
        self.sleeps: list[float] = []

    def sched_getaffinity(self, pid: int) -> set[int]:
        assert pid == 0  # the calling thread
        return set(self.allowed)

    def sched_setaffinity(self, pid: int, cores: Iterable[int]) -> None:
        assert pid == 0
        wanted = frozenset(cores)
        assert wanted, "a thread needs a core"
        if len(wanted) == 1 and wanted <= self.refused:
            raise PermissionError(1, "Operation not permitted")
        self.current = wanted

    def perf_counter(self) -> float:
        # A probe reads the clock before and after its loop, so each reading is one loop later.
        self.now_s += LOOP_S * self.slowdown(min(self.current), self.now_s)
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.now_s += seconds

    @property
    def neighbourhood(self) -> Neighbourhood:
        return Neighbourhood(system=self, clock=self)


def busy_on(*cores: int) -> Callable[[int, float], float]:
    return lambda core, now_s: 1.8 if core in cores else 1.0


@pytest.mark.parametrize("idle", [2, 3, 5])
def test_the_idle_core_is_taken_wherever_it_stands(idle: int) -> None:
    # A core that is slow throughout looks steady by itself: only the others show that it is slow.
    machine = Machine([2, 3, 5], busy_on(*{2, 3, 5} - {idle}))
    assert machine.neighbourhood.settle() == idle
    assert machine.current == {idle}
    assert machine.sleeps == []


def test_a_neighbour_that_comes_and_goes_counts_for_the_share_of_its_time() -> None:
    def slowdown(core: int, now_s: float) -> float:
        mostly_busy = now_s % 1e-3 < (0.4e-3 if core == 0 else 0.2e-3)
        return 1.8 if mostly_busy else 1.0

    assert Machine([0, 1], slowdown).neighbourhood.settle() == 1


def test_of_equally_idle_cores_the_first_is_taken() -> None:
    assert Machine([7, 4, 6], busy_on()).neighbourhood.settle() == 4


def test_while_no_core_is_idle_it_waits_but_not_for_ever() -> None:
    machine = Machine([0, 1], busy_on())
    neighbourhood = machine.neighbourhood
    neighbourhood.settle()  # learns how fast a loop is
    machine.slowdown = lambda core, now_s: 1.8
    assert neighbourhood.settle() in {0, 1}
    assert len(machine.sleeps) == PATIENCE
    assert machine.current in ({0}, {1})


def test_a_neighbour_that_leaves_while_it_waits_is_not_held_against_a_core() -> None:
    machine = Machine([0, 1], busy_on())
    neighbourhood = machine.neighbourhood
    neighbourhood.settle()
    # At first core 0 is the better one, after the pause core 1 is idle.
    machine.slowdown = lambda core, now_s: 1.0 if machine.sleeps and core == 1 else 1.8
    assert neighbourhood.settle() == 1
    assert len(machine.sleeps) == 1


def test_the_best_core_is_the_best_of_the_last_look() -> None:
    machine = Machine([0, 1], busy_on())
    neighbourhood = machine.neighbourhood
    neighbourhood.settle()

    def slowdown(core: int, now_s: float) -> float:
        idle_share = {0: 0.05, 1: 0.15}[core] if machine.sleeps else {0: 0.25, 1: 0.05}[core]
        return 1.0 if now_s % 1e-3 < idle_share * 1e-3 else 1.8

    machine.slowdown = slowdown
    assert neighbourhood.settle() == 1


def test_release_allows_all_cores_again() -> None:
    machine = Machine([1, 2, 3], busy_on(1))
    neighbourhood = machine.neighbourhood
    neighbourhood.settle()
    assert machine.current == {2}
    neighbourhood.release()
    assert machine.current == {1, 2, 3}


def test_idle_is_about_the_current_core_and_just_now() -> None:
    machine = Machine([0, 1], busy_on())
    neighbourhood = machine.neighbourhood
    neighbourhood.settle()
    assert neighbourhood.is_idle()
    machine.slowdown = busy_on(0)
    assert not neighbourhood.is_idle()
    machine.slowdown = lambda core, now_s: TOLERANCE - 0.05
    assert neighbourhood.is_idle()


def test_one_core_is_probed_but_never_left() -> None:
    machine = Machine([4], busy_on())
    neighbourhood = machine.neighbourhood
    assert neighbourhood.settle() is None
    assert machine.now_s == 0.0
    assert neighbourhood.is_idle()
    machine.slowdown = busy_on(4)
    assert not neighbourhood.is_idle()
    neighbourhood.release()
    assert machine.current == {4}


class NoAffinity(Machine):
    """macOS, Windows: the functions are not there."""

    sched_getaffinity = property()  # type: ignore[assignment]
    sched_setaffinity = property()  # type: ignore[assignment]


def test_without_affinity_the_thread_stays_where_it_is_and_is_still_watched() -> None:
    machine = NoAffinity([0, 1], busy_on())
    neighbourhood = machine.neighbourhood
    assert neighbourhood.settle() is None
    neighbourhood.release()
    assert neighbourhood.is_idle()
    machine.slowdown = lambda core, now_s: 1.8
    assert not neighbourhood.is_idle()


@pytest.mark.parametrize("refused", [{0, 1, 2}, {2}])
def test_a_system_that_refuses_is_left_alone_with_all_cores_allowed(refused: set[int]) -> None:
    machine = Machine([0, 1, 2], busy_on(), refused)
    neighbourhood = machine.neighbourhood
    assert neighbourhood.settle() is None
    assert machine.current == {0, 1, 2}
    before_s = machine.now_s
    assert neighbourhood.settle() is None
    assert machine.now_s == before_s
    assert neighbourhood.is_idle()


def test_of_many_cores_only_the_first_few_are_tried() -> None:
    machine = Machine(range(64), busy_on())
    machine.neighbourhood.settle()
    assert machine.now_s < 10 * PROBES * 2 * LOOP_S
