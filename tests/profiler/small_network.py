"""A small network of inverted residuals and its pieces; run as a script, a session that can be
killed from outside."""

import json
import random
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

from latency_tables.opspec import (
    Activation,
    Add,
    BiasMap,
    Conv,
    Flatten,
    GlobalPool,
    Linear,
    Op,
    OpSpec,
)
from latency_tables.pieces import NetworkPieces, Piece
from latency_tables.places import Place
from latency_tables.schema import Conditions
from profiler.fake_device import RUNTIME, RUNTIME_VERSION, FakeConnection, write_spec
from profiler.planning.jobs import JobPlan
from profiler.planning.profile_plan import ProfilePlan, plan_jobs
from profiler.profile import ProfileRequest
from profiler.schedule import FixedRounds, Schedule
from profiler.scheduling.serial import SerialScheduler
from profiler.session import Session, SessionResult
from profiler.settings import ProfileSettings

CHANNELS = (8, 8, 16, 16, 16, 24, 24)
SIZE = 12
CONDITIONS = Conditions(
    device="fake",
    runtime=RUNTIME,
    runtime_version=RUNTIME_VERSION,
    power_mode="performance",
    clock="thread_cpu",
)


def conv(tensor: int, out: int, kernel: int, groups: int = 1) -> Conv:
    pad = kernel // 2
    return Conv(
        inputs=(tensor,), out_channels=out, kernel=(kernel, kernel), pads=(pad,) * 4, groups=groups
    )


def relu6(tensor: int) -> Activation:
    return Activation(inputs=(tensor,), function="relu6")


def original(block: int) -> OpSpec:
    into, out = CHANNELS[block], CHANNELS[block + 1]
    wide = 6 * into
    ops: list[Op] = [conv(0, wide, 1), relu6(1), conv(2, wide, 3, wide), relu6(3), conv(4, out, 1)]
    if into == out:
        ops.append(Add(inputs=(0, 5)))
    return OpSpec(input_shape=(into, SIZE, SIZE), ops=tuple(ops))


def merged(block: int, bias_map: bool) -> OpSpec:
    ops: list[Op] = [conv(0, CHANNELS[block + 1], 3)]
    if bias_map:
        ops.append(BiasMap(inputs=(1,)))
    ops.append(relu6(len(ops)))
    return OpSpec(input_shape=(CHANNELS[block], SIZE, SIZE), ops=tuple(ops))


STEM = OpSpec(input_shape=(3, SIZE, SIZE), ops=(conv(0, CHANNELS[0], 3), relu6(1)))
HEAD = OpSpec(
    input_shape=(CHANNELS[-1], SIZE, SIZE),
    ops=(GlobalPool(inputs=(0,)), Flatten(inputs=(1,)), Linear(inputs=(2,), out_features=10)),
)


def network_pieces(unmergeable: dict[int, str] | None = None) -> NetworkPieces:
    unmergeable = unmergeable or {}
    blocks = range(len(CHANNELS) - 1)
    pieces = [Piece(kind="stem", block=None, layers=("stem",), spec=STEM)]
    for block in blocks:
        specs = {"original": original(block)}
        if block not in unmergeable:
            specs |= {"merged": merged(block, False), "merged_bias_map": merged(block, True)}
        pieces += [
            Piece(kind=kind, block=block, layers=(f"b{block}.in", f"b{block}.out"), spec=spec)
            for kind, spec in specs.items()
        ]
    pieces.append(Piece(kind="head", block=None, layers=("fc",), spec=HEAD))
    return NetworkPieces(
        model="small",
        resolution=(SIZE, SIZE),
        in_channels=3,
        block_names=tuple(f"b{block}" for block in blocks),
        pieces=tuple(pieces),
        unmergeable=unmergeable,
    )


def parts(keep_mask: str, padding: str) -> list[tuple[Place, OpSpec]]:
    """The pieces of a network and their places, one after the other."""
    found: list[tuple[Place, OpSpec]] = [(("stem", None), STEM)]
    for block, keep in enumerate(keep_mask):
        has_map = padding == "bias_map"
        kind = "original" if keep == "1" else "merged_bias_map" if has_map else "merged"
        spec = original(block) if keep == "1" else merged(block, has_map)
        found.append(((kind, block), spec))
    return [*found, (("head", None), HEAD)]


def operators(keep_mask: str, padding: str) -> tuple[Place, ...]:
    return tuple(place for place, spec in parts(keep_mask, padding) for _ in spec.ops)


def compose(keep_mask: str, padding: str) -> OpSpec:
    ops: list[Op] = []
    for _, spec in parts(keep_mask, padding):
        offset = len(ops)
        for op in spec.ops:
            ops.append(replace(op, inputs=tuple(tensor + offset for tensor in op.inputs)))
    return OpSpec(input_shape=STEM.input_shape, ops=tuple(ops))


def is_whole_network(spec: OpSpec) -> bool:
    return spec.input_shape == STEM.input_shape and len(spec.output_shape) == 1


def latency_ms(spec: OpSpec) -> float:
    """Additive, but for a whole network, which costs 0.95 of its pieces and 0.3 ms."""
    pieces_ms = 1e-5 * spec.macs + 0.01 * len(spec.ops)
    return 0.95 * pieces_ms + 0.3 if is_whole_network(spec) else pieces_ms


def layers(spec: OpSpec) -> list[tuple[str, float]]:
    """A profile of a whole network by operators; the profiler slows all of them."""
    outputs = [*(f"t{number + 1}" for number in range(len(spec.ops) - 1)), "result"]
    return [
        (
            f"{output}/{op.kind}",
            1.4 * (1e-5 * op.macs([spec.shapes[tensor] for tensor in op.inputs]) + 0.01),
        )
        for output, op in zip(outputs, spec.ops, strict=True)
    ]


@cache
def small_plan(
    check: int = 8, candidates: int = 6, seed: int = 0, profiles: bool = False
) -> ProfilePlan:
    return plan_jobs(
        network_pieces(),
        compose,
        operators,
        check=check,
        candidates=candidates,
        seed=seed,
        profiles=profiles,
    )


def request(folder: Path, **changes: object) -> ProfileRequest:
    wanted = ProfileRequest(
        pieces=network_pieces(),
        compose=compose,
        operators=operators,
        build=write_spec,
        conditions=CONDITIONS,
        folder=folder,
        date="2026-01-01",
        dshrink_version="1",
        check=8,
    )
    return replace(wanted, **changes)  # type: ignore[arg-type]


def jobs_by_round(folder: Path) -> list[set[str]]:
    """The jobs that each round of a journal has an accepted reply about."""
    found: dict[int, set[str]] = {}
    for line in map(json.loads, (folder / "journal.jsonl").read_text().splitlines()):
        jobs = found.setdefault(line.get("round", 0), set())
        if line["line"] == "reply":
            jobs.add(line["job"])
        if line["line"] == "discard":
            jobs.difference_update(line["jobs"])
    return [found[number] for number in sorted(found)]


def session(
    folder: Path,
    device: FakeConnection,
    settings: ProfileSettings | None = None,
    plan: JobPlan | None = None,
    conditions: Conditions = CONDITIONS,
    schedule: Schedule | None = None,
) -> Session:
    settings = settings or ProfileSettings()
    return Session(
        plan=plan or small_plan(),
        conditions=conditions,
        scheduler=SerialScheduler(device),
        build=write_spec,
        folder=folder,
        schedule=schedule or FixedRounds(rounds=settings.rounds),
        settings=settings,
        clock=device.clock,
    )


def run(
    folder: Path,
    device: FakeConnection,
    settings: ProfileSettings | None = None,
    conditions: Conditions = CONDITIONS,
    schedule: Schedule | None = None,
) -> SessionResult:
    with session(folder, device, settings, conditions=conditions, schedule=schedule) as opened:
        return opened.run()


def restless_device(seed: int) -> FakeConnection:
    """Noise, visits that are disturbed, and a job that crashes now and then."""
    fragile = merged(2, False).digest

    def fault(spec: OpSpec, call: int) -> str | None:
        if spec.digest == fragile and call % 4 == 0:
            return "crash"
        return "disturbed" if random.Random(f"{seed}/{spec.digest}/{call}").random() < 0.1 else None

    return FakeConnection(
        latency_ms=latency_ms,
        noise=0.004,
        round_noise=0.004,
        fault=fault,
        seed=seed,
    )


def report(done: int, total: int, label: str) -> None:
    sys.stdout.write(f"{done}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    with session(Path(sys.argv[1]), restless_device(int(sys.argv[2]))) as opened:
        opened.run(report)
