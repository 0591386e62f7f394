"""A device that follows a script: for tests of whatever measures, and for trying a command dry.

Its latencies are a function of the piece, its clock advances only by what it is asked to do, and
crashes, hangs and throttling come when the script says so. The files it "runs" hold the piece as
a pickle; ``write_spec`` makes them in place of ONNX.
"""

from __future__ import annotations

import hashlib
import math
import pickle
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, NoReturn, Self

from devices.agent.protocol import PROTOCOL, Rule
from devices.connection import PushedFile
from devices.environment import Environment
from devices.errors import AgentLostError, JobFailedError
from latency_tables.opspec import OpSpec

RUNTIME = "onnxruntime"
RUNTIME_VERSION = "1.0-fake"

#: What a script may ask for; anything else must be an error type of the protocol.
CRASH, HANG, THROTTLED, DISTURBED = "crash", "hang", "throttled", "disturbed"
#: Those that are no failures.
SLOWED = (THROTTLED, DISTURBED)
#: How many times as long a run takes beside a neighbour on the core.
DISTURBANCE = 1.2


def write_spec(spec: OpSpec, *, batch: int = 1, seed: int = 0, precision: str = "fp32") -> bytes:
    """The file of a piece that the fake device understands."""
    return pickle.dumps((spec, batch, seed, precision))


@dataclass(slots=True)
class FakeClock:
    """Seconds that pass only by ``advance``; call it to read it."""

    now_s: float = 0.0

    def __call__(self) -> float:
        return self.now_s

    def advance(self, seconds: float) -> None:
        self.now_s += seconds


@dataclass(kw_only=True)
class FakeConnection:
    """A connection to a scripted device.

    ``speed(now_s)`` multiplies every latency (drift), ``noise`` and ``round_noise`` are relative
    standard deviations of a sample and of an agent process, and ``fault(spec, call)`` names what
    goes wrong when a piece is measured for the ``call``-th time (from 0), or None. ``layers`` gives
    the names and milliseconds of a network's layers; without it the runtime has no such profile.
    A device of some ``watts`` counts its energy.
    """

    latency_ms: Callable[[OpSpec], float]
    name: str = "fake"
    runtime_version: str = RUNTIME_VERSION
    noise: float = 0.0
    round_noise: float = 0.0
    speed: Callable[[float], float] = lambda now_s: 1.0
    fault: Callable[[OpSpec, int], str | None] = lambda spec, call: None
    layers: Callable[[OpSpec], Sequence[tuple[str, float]]] | None = None
    seed: int = 0
    clock: FakeClock = field(default_factory=FakeClock)
    cpu_model: str = "scripted"
    governor: str = "performance"
    board: str | None = None
    threads_counted: bool = True
    watts: float = 0.0
    agents_started: int = 0
    calls: dict[str, int] = field(default_factory=dict)

    def start_agent(self) -> FakeAgent:
        """Start an agent with its own random factor."""
        self.agents_started += 1
        luck = random.Random(f"{self.seed}/agent/{self.agents_started}/{self.clock.now_s}")
        return FakeAgent(device=self, factor=math.exp(luck.gauss(0.0, self.round_noise)))

    def push(self, files: Sequence[Path]) -> tuple[PushedFile, ...]:
        """Files are where they are."""
        return tuple(
            PushedFile(
                path=str(file.resolve()), sha256=hashlib.sha256(file.read_bytes()).hexdigest()
            )
            for file in files
        )

    def close(self) -> None:
        """Nothing was brought anywhere."""

    @property
    def left_behind(self) -> str:
        return ""

    def environment(self) -> Environment:
        """What a hello answers."""
        return Environment(
            python="3.6",
            os="none",
            kernel="none",
            machine="fake",
            cpu_model=self.cpu_model,
            cores=1,
            cpu_affinity=(0,),
            governor=self.governor,
            board=self.board,
            frequency_mhz=None,
            load_average=0.0,
            memory_gib=None,
            runtimes={RUNTIME: self.runtime_version},
            agent_digest="0" * 16,
            protocol=PROTOCOL,
        )


@dataclass(kw_only=True)
class FakeAgent:
    """A running agent of a scripted device; ``factor`` is random, one a process."""

    device: FakeConnection
    factor: float = 1.0
    held: tuple[str, ...] = ()
    lost: bool = False

    @property
    def environment(self) -> Environment:
        return self.device.environment()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()

    def close(self) -> None:
        self.lost = True

    def request(self, message: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
        """Measure as the script says; raises as ``AgentProcess`` does."""
        if self.lost:
            raise AgentLostError("agent_crashed", "the agent is gone", "start another one")
        content = Path(message["file"]).read_bytes()
        if hashlib.sha256(content).hexdigest() != message["sha256"]:
            raise JobFailedError("wrong_digest", f"{message['file']} has changed", "push it again")
        spec: OpSpec = pickle.loads(content)[0]
        if message["do"] == "profile":
            return self._profile(spec, Rule(**message["rule"]))
        call = self.device.calls.get(spec.digest, 0)
        self.device.calls[spec.digest] = call + 1
        fault = self.device.fault(spec, call)
        if fault is not None and fault not in SLOWED:
            self._fail(fault, timeout_s)
        result = self._measure(spec, call, Rule(**message["rule"]), fault)
        if message.get("resources") and self.device.watts:
            energy_j = self.device.watts * median(result["wall_ns"]) / 1e9
            result["resources"] = {"energy_j": energy_j, "energy_source": "scripted"}
        return result

    def _fail(self, fault: str, timeout_s: float = 0.0) -> NoReturn:
        if fault == CRASH:
            self.lost = True
            raise AgentLostError("agent_crashed", "ended by signal 11 (SIGSEGV)", "start another")
        if fault == HANG:
            self.lost = True
            self.device.clock.advance(timeout_s)
            raise AgentLostError("timeout", f"no reply within {timeout_s:g} s", "it hangs")
        raise JobFailedError(fault, "the script says so", "change the script")

    def _profile(self, spec: OpSpec, rule: Rule) -> dict[str, Any]:
        clock, layers = self.device.clock, self.device.layers
        clock.advance(rule.warmup_s + rule.min_total_s)
        if layers is None:
            self._fail("runtime_error")
        luck = random.Random(f"{self.device.seed}/layers/{spec.digest}/{clock.now_s}")
        usual_ns = 1e6 * self.factor * self.device.speed(clock.now_s)
        return {
            "layers": [
                [
                    name,
                    [
                        round(ms * usual_ns * (1.0 + abs(luck.gauss(0.0, self.device.noise))))
                        for _ in range(rule.min_samples)
                    ],
                ]
                for name, ms in layers(spec)
            ]
        }

    def _measure(self, spec: OpSpec, call: int, rule: Rule, slowed: str | None) -> dict[str, Any]:
        clock = self.device.clock
        clock.advance(rule.warmup_s)
        usual_ms = self.device.latency_ms(spec) * self.factor * self.device.speed(clock.now_s)
        if slowed == DISTURBED:
            usual_ms *= DISTURBANCE
        runs = max(1, math.ceil(rule.sample_s * 1e3 / usual_ms))
        luck = random.Random(f"{self.device.seed}/{spec.digest}/{call}/{clock.now_s}")
        wall_ns = [
            max(1, round(usual_ms * 1e6 * (1.0 + abs(luck.gauss(0.0, self.device.noise)))))
            for _ in range(rule.min_samples)
        ]
        clock.advance(max(rule.min_total_s, sum(wall_ns) * runs / 1e9))
        return {
            "wall_ns": wall_ns,
            "cpu_ns": wall_ns if self.device.threads_counted else None,
            "runs_per_sample": runs,
            "dropped": 0,
            "disturbed": len(wall_ns) if slowed == DISTURBED else 0,
            "stopped": "interval",
            "warmup_s": rule.warmup_s,
            "prepare_s": 0.0,
            "health_before": {"throttle_events": 0},
            "health_after": {"throttle_events": int(slowed == THROTTLED)},
        }
