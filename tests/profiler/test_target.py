"""What a device can be asked for, by what it reports of itself."""

from __future__ import annotations

from dataclasses import replace

import pytest

from devices.inventory import load_inventory
from profiler.errors import SessionError
from profiler.fake_device import FakeConnection
from profiler.scheduling.serial import SerialScheduler
from profiler.target import Target, probe_conditions


class Reporting(FakeConnection):
    """A device that reports four cores, and whatever else of them."""

    def __init__(self, **facts: object) -> None:
        super().__init__(latency_ms=lambda spec: 1.0, runtime_version="1.23.0")
        self._facts = {"cores": 4, "cpu_affinity": (0, 1, 2, 3)} | facts

    def environment(self):
        return replace(super().environment(), **self._facts)


def conditions(threads: int, **facts: object):
    device = load_inventory().get("local")
    return probe_conditions(device, SerialScheduler(Reporting(**facts)), Target(threads=threads))


@pytest.mark.parametrize(
    ("facts", "most", "says"),
    [
        ({}, 4, "has 4 cores: ask for --threads 1 to 4"),
        ({"cpu_affinity": (2,)}, 1, "lets this job run on 1 core (its CPU set): ask for"),
        ({"cpu_affinity": (0, 2)}, 2, "on 2 cores (its CPU set): ask for --threads 1 to 2"),
        ({"cpu_quota": 2.5}, 2, "leaves this job 2.5 cores' worth of time"),
        ({"cpu_quota": 0.5}, 1, "leaves this job 0.5 cores' worth of time"),
        ({"cpu_quota": 8.0, "cpu_affinity": None}, 4, "has 4 cores"),
        ({"cpu_quota": 3.0, "cpu_affinity": (0, 1)}, 2, "on 2 cores (its CPU set)"),
    ],
)
def test_more_threads_than_a_job_may_run_at_once_are_refused(
    facts: dict[str, object], most: int, says: str
) -> None:
    assert conditions(most, **facts).threads == most
    with pytest.raises(SessionError) as refused:
        conditions(most + 1, **facts)
    assert says in str(refused.value)
