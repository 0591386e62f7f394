import dataclasses
from collections.abc import Mapping

import pytest
from small_network import CONDITIONS, conv, network_pieces, operators, relu6

from latency_tables.opspec import Activation, Conv, OpSpec
from profiler.measurement import Measurement
from profiler.planning.jobs import Job
from profiler.planning.profile_plan import ProfilePlan
from profiler.replies import Reply, Samples
from profiler.table.audit import (
    CPU_THREAD,
    audit,
    does_more,
    machine_warnings,
    speed_limit,
)


def measured(job_id: str, *rounds_ms: float) -> Measurement:
    replies = tuple(
        Reply(
            job_id=job_id,
            round=n,
            attempt=0,
            board="b",
            outcome=Samples(wall_ns=(round(ms * 1e6),)),
        )
        for n, ms in enumerate(rounds_ms)
    )
    return Measurement(job_id=job_id, replies=replies, clock="wall")


def dense(into: int, out: int, kernel: int, size: int = 14) -> OpSpec:
    return OpSpec(input_shape=(into, size, size), ops=(conv(0, out, kernel), relu6(1)))


def plan_of(specs: Mapping[str, OpSpec]) -> ProfilePlan:
    jobs = [Job(id=s.digest, kind="piece", label=name, spec=s) for name, s in specs.items()]
    return ProfilePlan(pieces=network_pieces(), jobs=tuple(jobs), networks=(), operators=operators)


def audit_of(
    specs: Mapping[str, OpSpec], latencies: Mapping[str, tuple[float, ...]]
) -> tuple[str, ...]:
    plan = plan_of(specs)
    found = {s.digest: measured(s.digest, *latencies[name]) for name, s in specs.items()}
    return audit(plan.jobs, found, CONDITIONS)


SPECS = {
    "small": dense(8, 8, 3),
    "more channels": dense(8, 16, 3),
    "larger kernel": dense(8, 8, 5),
    "smaller map": dense(8, 16, 3, size=7),
}


def test_doing_more_of_the_same_and_being_faster_is_suspicious() -> None:
    times = {"small": (1.0,), "more channels": (0.9,), "larger kernel": (1.1,)}
    assert audit_of(SPECS, times | {"smaller map": (0.1,)}) == (
        "more channels (0.9 ms; small: 1 ms): faster than one with fewer channels or smaller "
        "kernels; if that is not the runtime's choice of kernels, profile again",
    )


def test_a_warning_names_two_pieces_and_counts_the_others() -> None:
    specs = {f"{channels} channels": dense(8, channels, 3) for channels in (8, 16, 24, 32)}
    times = {name: (1.0 / spec.macs * 1e6,) for name, spec in specs.items()}
    (warning,) = audit_of(specs, times)
    # Each of the six pairs is the wrong way round.
    assert " and 4 more: faster than one with fewer channels" in warning
    assert warning.count(" ms; ") == 2


def test_within_noise_nothing_is_faster() -> None:
    times = {"small": (0.8, 1.0, 1.2), "more channels": (0.9,), "larger kernel": (1.1,)}
    assert not audit_of(SPECS, times | {"smaller map": (0.1,)})


@pytest.mark.parametrize(
    ("larger", "smaller", "expected"),
    [
        (dense(8, 16, 3), dense(8, 8, 3), True),
        (dense(16, 8, 3), dense(8, 8, 3), True),
        (dense(8, 8, 5), dense(8, 8, 3), True),
        (dense(8, 8, 3), dense(8, 8, 3), False),
        (dense(8, 16, 1), dense(8, 8, 3), False),
        (dense(8, 8, 3, size=28), dense(8, 8, 3), False),
        (OpSpec(input_shape=(8, 14, 14), ops=(conv(0, 16, 3),)), dense(8, 8, 3), False),
        (
            OpSpec(
                input_shape=(8, 14, 14),
                ops=(conv(0, 16, 3), Activation(inputs=(1,), function="silu")),
            ),
            dense(8, 8, 3),
            False,
        ),
    ],
)
def test_only_what_differs_in_channels_and_kernels_is_compared(
    larger: OpSpec, smaller: OpSpec, expected: bool
) -> None:
    assert does_more(larger, smaller) is expected


def test_depthwise_is_compared_with_depthwise_only() -> None:
    def depthwise(channels: int, groups: int) -> OpSpec:
        return OpSpec(input_shape=(channels, 9, 9), ops=(conv(0, channels, 3, groups),))

    assert does_more(depthwise(16, 16), depthwise(8, 8))
    assert not does_more(depthwise(16, 1), depthwise(8, 8))


def test_a_strided_convolution_is_not_compared_with_a_dense_one() -> None:
    strided = Conv(inputs=(0,), out_channels=32, kernel=(3, 3), stride=(2, 2), pads=(7, 7, 8, 8))
    spec = OpSpec(input_shape=(8, 14, 14), ops=(strided, relu6(1)))
    assert spec.shapes[1][1:] == (14, 14)
    assert not does_more(spec, dense(8, 8, 3))


def test_what_is_faster_than_arithmetic_is_reported() -> None:
    spec = dense(64, 64, 3, size=56)
    # 115.6 million MACs at a million million a second.
    assert CPU_THREAD.least_ms(spec, 1) == pytest.approx(0.1156, rel=1e-3)
    assert CPU_THREAD.least_ms(spec, 8) == pytest.approx(8 * 0.1156, rel=1e-3)
    assert not audit_of({"x": spec}, {"x": (0.2,)})
    assert "faster than any such machine" in audit_of({"x": spec}, {"x": (0.1,)})[0]


def test_what_is_faster_than_memory_is_reported() -> None:
    spec = OpSpec(input_shape=(1000, 100, 100), ops=(relu6(0),))
    assert CPU_THREAD.least_ms(spec, 1) == pytest.approx(0.08)
    assert audit_of({"x": spec}, {"x": (0.05,)})


def test_no_limit_is_claimed_for_machines_that_are_not_known() -> None:
    assert speed_limit(dataclasses.replace(CONDITIONS, precision="int8")) is None
    bf16_on_gpu = dataclasses.replace(CONDITIONS, precision="bf16", clock="cuda_events")
    assert speed_limit(bf16_on_gpu) is None
    four = dataclasses.replace(CONDITIONS, threads=4, clock="wall")
    limit = speed_limit(four)
    assert limit is not None
    assert limit.macs_per_s == 4 * CPU_THREAD.macs_per_s


def test_a_powersaving_or_busy_machine_is_warned_about() -> None:
    calm = {"governor": "performance", "load_average": 0.3, "cores": 2}
    assert machine_warnings(calm, CONDITIONS) == () == machine_warnings({}, CONDITIONS)
    powersave = calm | {"governor": "powersave"}
    assert "powersave" in machine_warnings(powersave, CONDITIONS)[0]
    (busy,) = machine_warnings(calm | {"load_average": 1.8}, CONDITIONS)
    assert "load average was 1.8 on 2 cores" in busy


def test_on_a_gpu_its_own_clock_matters_and_the_governor_does_not() -> None:
    on_gpu = dataclasses.replace(CONDITIONS, runtime="tensorrt", clock="cuda_events")
    (free,) = machine_warnings({"governor": "powersave", "gpu": {"held_mhz": None}}, on_gpu)
    assert "--hold-clocks" in free
    assert machine_warnings({"gpu": {"held_mhz": 1380}}, on_gpu) == ()
    assert machine_warnings({"gpu": {"held_mhz": None}, "power_mode": "MAXN"}, on_gpu) == ()
