"""Whether what is timed is the network: launches, what the agent adds, other clocks, a long run.

Two ways of running are compared by turns, and by the median over the turns: machines are shared.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from devices.errors import JobFailedError
from dshrink.operations.selftest.asking import AskedDevice
from dshrink.operations.selftest.check import Check, State
from latency_tables.schema import Conditions
from latency_tables.wording import counted
from profiler.planning.jobs import PROFILE_RULE
from profiler.replies import Samples
from profiler.runtimes import processor_of, traits_of
from profiler.settings import settings_for
from profiler.statistics import median

TURNS = 5
#: So far apart may two ways lie that should be the same.
NOTED_SHARE = 0.05
#: Two timers that differ by more than this factor do not time the same runs.
FAILED_FACTOR = 2.0
#: Above this a job's own time is worth knowing; a table has hundreds of jobs.
NOTED_JOB_S = 1.0
#: How long the device is kept busy: a board without a fan is hot after that.
LOAD_S = 20.0
#: That is in so few visits, since the device idles between them, while a file is loaded.
LEAST_VISITS = 8
#: Of each end of a long run this share is compared.
END_SHARE = 0.25
MIB = 1 << 20

_NS_PER_MS = 1e6
A = TypeVar("A")
B = TypeVar("B")


def check_launch(device: AskedDevice, conditions: Conditions, file: Path) -> Check:
    """Compare a recorded CUDA graph with kernels that are launched one by one.

    ``conditions`` are those of the plain launch. A graph may not be slower: both are of one engine,
    where one is built.
    """
    graph = replace(conditions, launch="cuda_graph")
    plain_samples, graph_samples = _by_turns(
        _measuring(device, file, conditions), _measuring(device, file, graph)
    )
    plain_ms, graph_ms = _ms(plain_samples, conditions), _ms(graph_samples, graph)
    enqueue_ms = median([median(one.enqueue_ns or (0,)) for one in plain_samples]) / _NS_PER_MS
    ratio = plain_ms / graph_ms
    return Check(
        name="launch",
        of=f"{conditions.runtime} {conditions.precision}",
        state="noted" if ratio < 1.0 - NOTED_SHARE else "passed",
        finding=f"a CUDA graph takes {graph_ms:.4g} ms, kernels launched one by one {plain_ms:.4g} "
        f"ms, of which the host needs {enqueue_ms:.3g} ms: {ratio:.2f} times as fast",
        figures={"plain_ms": plain_ms, "graph_ms": graph_ms, "enqueue_ms": enqueue_ms},
    )


def check_agent(device: AskedDevice, conditions: Conditions, file: Path) -> Check:
    """Find what a job takes beside loading (or building) and timing, and what else is measured."""
    rule = settings_for(conditions).rule
    first = device.measure(file, conditions, rule, resources=True)
    spent_s = []
    for _ in range(TURNS):
        start = time.monotonic()
        samples = device.measure(file, conditions, rule)
        sampled_s = sum(samples.wall_ns) * samples.runs_per_sample / 1e9
        timed_s = samples.prepare_s + samples.warmup_s + sampled_s + samples.waited_s
        spent_s.append(max(0.0, time.monotonic() - start - timed_s))
    overhead_s = median(spent_s)
    figures = {"overhead_s": overhead_s, "prepare_s": first.prepare_s}
    told = []
    if first.peak_memory_bytes is not None:
        figures["peak_memory_mib"] = first.peak_memory_bytes / MIB
        told.append(f"memory {figures['peak_memory_mib']:.1f} MiB")
    if first.energy_j is not None:
        figures["energy_mj"] = first.energy_j * 1000
        told.append(f"energy {figures['energy_mj']:.3g} mJ a run")
    lacking = [
        name
        for name, value in (("memory", first.peak_memory_bytes), ("energy", first.energy_j))
        if value is None
    ]
    prepared = "building" if traits_of(conditions).builds else "loading"
    without = f"; does not report {' and '.join(lacking)}" if lacking else ""
    return Check(
        name="agent",
        of=f"{conditions.runtime} {conditions.precision}",
        state="noted" if overhead_s > NOTED_JOB_S or "memory" in lacking else "passed",
        finding=f"a job takes {overhead_s:.2g} s beside {prepared} ({first.prepare_s:.2g} s) and "
        f"timing; {', '.join(told) or 'no resources'}{without}",
        figures=figures,
    )


def check_second_timer(
    device: AskedDevice, conditions: Conditions, second: Conditions, file: Path
) -> Check:
    """Compare the latency with that of another program under the conditions ``second``.

    Both run one engine, as two builds of a file differ; one that does not take it, as it is of
    another version, builds its own.
    """
    ours = _measuring(device, file, conditions)
    engine = ours().engine
    whose = f"{second.runtime} with the same engine"
    try:
        theirs = _measuring(device, file, second, engine)
        theirs()
        ours_ns, theirs_ns = _by_turns(ours, theirs)
    except JobFailedError:
        # Of a file one engine is kept: by turns, each would be built each time.
        whose = f"{second.runtime} {second.runtime_version} with an engine of its own"
        theirs = _measuring(device, file, second)
        ours_ns, theirs_ns = ([one() for _ in range(TURNS)] for one in (ours, theirs))
    return _compared(
        "second timer", conditions, _ms(ours_ns, conditions), whose, _ms(theirs_ns, second)
    )


def check_host_clock(device: AskedDevice, conditions: Conditions, file: Path) -> Check:
    """Compare the GPU's events with the host's clock around the same blocks of runs.

    The host sees one run more a block: the one before the first event.
    """
    measure = _measuring(device, file, conditions)
    visits = [measure() for _ in range(TURNS)]
    host_ms = [
        median(one.wall_ns) * one.runs_per_sample / (one.runs_per_sample + 1) / _NS_PER_MS
        for one in visits
    ]
    return _compared(
        "host clock", conditions, _ms(visits, conditions), "the host's clock", median(host_ms)
    )


def check_plain_loop(device: AskedDevice, conditions: Conditions, file: Path) -> Check:
    """Compare the latency with a plain loop over ONNX Runtime in this process, by the wall clock.

    For this machine's CPU alone.
    """
    ours, here_ms = _by_turns(
        _measuring(device, file, conditions), lambda: _loop_ms(file, conditions.threads)
    )
    ours_ms = _ms(ours, replace(conditions, clock="wall"))
    return _compared("second timer", conditions, ours_ms, "a plain loop", median(here_ms))


def check_load(
    device: AskedDevice,
    conditions: Conditions,
    file: Path,
    *,
    seconds: float = LOAD_S,
    clock: Callable[[], float] = time.monotonic,
) -> Check:
    """Keep the device busy, and compare the latency at the end with that at the beginning."""
    visit_s = seconds / LEAST_VISITS
    rule = settings_for(conditions).rule._replace(min_total_s=visit_s, cap_s=1.5 * visit_s)
    first = device.measure(file, conditions, rule)
    visits, end = [first], clock() + seconds
    while clock() < end:
        visits.append(device.measure(file, conditions, rule))
    each_ms = [_ms([visit], conditions) for visit in visits]
    count = max(1, round(END_SHARE * len(each_ms)))
    change = median(each_ms[-count:]) / median(each_ms[:count]) - 1.0
    slowed = [why for one in visits if (why := one.throttled(conditions.clock))]
    start_c, end_c = (_temperature_c(one, conditions) for one in (visits[0], visits[-1]))
    figures = {"change_percent": 100 * change, "visits": float(len(visits))}
    parts = [f"after {seconds:.0f} s of work the latency is {_more(change)}"]
    if start_c is not None and end_c is not None:
        figures.update(start_c=start_c, end_c=end_c)
        parts.append(f"{start_c:g} to {end_c:g} °C")
    else:
        parts.append("no temperature reported")
    parts.append(
        f"slowed in {len(slowed)} of {counted(len(visits), 'visit')}: {slowed[-1]}"
        if slowed
        else "never throttled"
    )
    is_steady = abs(change) <= NOTED_SHARE and not slowed
    return Check(
        name="load",
        of=f"{conditions.runtime} {conditions.precision}",
        state="passed" if is_steady else "noted",
        finding=", ".join(parts),
        figures=figures,
    )


def _measuring(
    device: AskedDevice, file: Path, conditions: Conditions, engine: str = ""
) -> Callable[[], Samples]:
    """What measures the file once more."""
    return lambda: device.measure(file, conditions, settings_for(conditions).rule, engine=engine)


def _by_turns(first: Callable[[], A], second: Callable[[], B]) -> tuple[list[A], list[B]]:
    pairs = [(first(), second()) for _ in range(TURNS)]
    return [one for one, _ in pairs], [one for _, one in pairs]


def _ms(visits: Sequence[Samples], conditions: Conditions) -> float:
    return median([median(one.times_ns(conditions.clock)) for one in visits]) / _NS_PER_MS


def _loop_ms(file: Path, threads: int) -> float:
    """The median latency of a loop such as anybody writes."""
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    image = {given.name: np.random.default_rng(0).standard_normal(given.shape, np.float32)}
    times_ms: list[float] = []
    end = time.perf_counter() + PROFILE_RULE.warmup_s + PROFILE_RULE.cap_s
    while not times_ms or time.perf_counter() < end:
        start = time.perf_counter()
        session.run(None, image)
        times_ms.append(1000 * (time.perf_counter() - start))
    return median(times_ms)


def _compared(
    name: str, conditions: Conditions, ours_ms: float, whose: str, theirs_ms: float
) -> Check:
    difference = ours_ms / theirs_ms - 1.0
    is_other = not 1 / FAILED_FACTOR <= ours_ms / theirs_ms <= FAILED_FACTOR
    near: State = "passed" if abs(difference) <= NOTED_SHARE else "noted"
    return Check(
        name=name,
        of=f"{conditions.runtime} {conditions.precision}",
        state="failed" if is_other else near,
        finding=f"{ours_ms:.4g} ms, {_more(difference)} than the {theirs_ms:.4g} ms of {whose}",
        figures={"ours_ms": ours_ms, "second_ms": theirs_ms},
    )


def _more(share: float) -> str:
    return f"{100 * abs(share):.1f} % {'higher' if share >= 0 else 'lower'}"


def _temperature_c(visit: Samples, conditions: Conditions) -> float | None:
    health = visit.health_after
    if processor_of(conditions) == "gpu":
        health = health.get("gpu") or {}
    found = health.get("temperature_c")
    return None if found is None else float(found)
