"""Overhead of the agent: its latencies compared with a bare ONNX Runtime loop in one process.

    python benchmarks/agent_overhead.py [--model NAME ...] [--rounds N]

Exports each network, then measures it by turns in a fresh bare process (``BARE_LOOP``, which has no
code of dshrink) and by a fresh agent with the rule of a profile, the order alternating. Writes a
CSV of all rounds and a page with the summary, machine, versions and date into results/. The
networks must take 1 ms or more: a sample of the agent is then one run, as it is in the bare loop.
25 rounds of three networks take about two and a half minutes; nothing else should run meanwhile.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from devices.agent.protocol import file_digest
from devices.connection import LocalConnection
from devices.environment import Environment
from dshrink.merge.export import export_onnx
from dshrink.network.models import load_network
from dshrink.version import __version__
from latency_tables.schema import STATISTICS
from profiler.planning.jobs import PROFILE_RULE
from profiler.statistics import latency, median, quantile

MODELS = ("mobilenetv2_100", "mobilenetv2_035", "tf_efficientnet_lite0")
ROUNDS = 25
RESULTS = Path(__file__).parent / "results"
LIMIT_PERCENT = 1.0
TIMEOUT_S = 120.0
RESAMPLES = 2000

Samples = dict[str, list[int]]

#: Warms up on each core and stays on the one where the network ran fastest, as the agent goes where
#: its probe does; then times run by run, for as long as the rule of a profile lets the agent do it.
BARE_LOOP = """
import json, os, sys, time
import numpy, onnxruntime
file, warmup_s, min_samples, cap_s = sys.argv[1], *map(float, sys.argv[2:])
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
start = time.perf_counter()
session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
load_s = time.perf_counter() - start
(source,), (result,) = session.get_inputs(), session.get_outputs()
value, binding = onnxruntime.OrtValue, session.io_binding()
image = numpy.random.RandomState(0).standard_normal(source.shape).astype("float32")
binding.bind_ortvalue_input(source.name, value.ortvalue_from_numpy(image))
empty = value.ortvalue_from_shape_and_type(result.shape, numpy.float32)
binding.bind_ortvalue_output(result.name, empty)
def loop(least, seconds):
    wall_ns, cpu_ns = [], []
    while len(wall_ns) < least or sum(wall_ns) < seconds * 1e9:
        cpu, wall = time.thread_time_ns(), time.perf_counter_ns()
        session.run_with_iobinding(binding)
        wall_ns.append(time.perf_counter_ns() - wall)
        cpu_ns.append(time.thread_time_ns() - cpu)
    return wall_ns, cpu_ns
cores = {}
for core in sorted(os.sched_getaffinity(0)):
    os.sched_setaffinity(0, [core])
    cores[core] = min(loop(2, warmup_s)[1])
os.sched_setaffinity(0, [min(cores, key=cores.get)])
loop(2, warmup_s / 4)
wall_ns, cpu_ns = loop(min_samples, cap_s)
print(json.dumps({"wall_ns": wall_ns, "cpu_ns": cpu_ns, "load_s": load_s}))
"""

#: What is compared: the statistics of latency tables, and the clock that they read.
COMPARED = {
    "quiet, CPU time": ("cpu_ns", STATISTICS["quiet"]),
    "median, CPU time": ("cpu_ns", STATISTICS["median"]),
    "median, wall clock": ("wall_ns", STATISTICS["median"]),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """One network in one round by both ways; samples in ns a run, and where the agent's time went.

    ``rest_s`` is what a job takes in addition to loading, warming up and the samples that count:
    request, lock, digest of the file, choice of the core, health, and samples that were dropped.
    """

    model: str
    round: int
    first: str
    bare: Samples
    agent: Samples
    bare_load_s: float
    start_s: float
    load_s: float
    warmup_s: float
    samples_s: float
    rest_s: float
    dropped: int


def excess_percent(visits: Sequence[Visit], name: str) -> float:
    """How much more the agent says than the bare loop, over all rounds."""
    agent_ms, bare_ms = both_ms(visits, name)
    return 100.0 * (agent_ms / bare_ms - 1.0)


def excess_interval(visits: Sequence[Visit], name: str) -> tuple[float, float]:
    """Its 95 % interval: the rounds drawn again with replacement, both ways of a round together."""
    draw = random.Random(0)
    found = [excess_percent(draw.choices(visits, k=len(visits)), name) for _ in range(RESAMPLES)]
    return quantile(found, 0.025), quantile(found, 0.975)


def both_ms(visits: Sequence[Visit], name: str) -> tuple[float, float]:
    """The latency by the agent and by the bare loop."""
    agent, bare = [one.agent for one in visits], [one.bare for one in visits]
    return value_ms(agent, name), value_ms(bare, name)


def value_ms(rounds: Sequence[Samples], name: str) -> float:
    """What a latency table would say."""
    clock, shares = COMPARED[name]
    return latency([samples[clock] for samples in rounds], shares) / 1e6


def run_bare(file: Path) -> dict[str, Any]:
    """What the bare loop prints."""
    rule = PROFILE_RULE
    numbers = (rule.warmup_s, rule.min_samples, rule.cap_s)
    done = subprocess.run(
        [sys.executable, "-c", BARE_LOOP, file, *map(str, numbers)],
        capture_output=True,
        check=True,
        timeout=TIMEOUT_S,
    )
    printed: dict[str, Any] = json.loads(done.stdout)
    return printed


def run_agent(file: Path) -> dict[str, Any]:
    """What a fresh agent answers, with the seconds that its start and the job took."""
    request = {"do": "measure", "runtime": "onnxruntime", "file": str(file), "threads": 1}
    request |= {"sha256": file_digest(str(file)), "rule": PROFILE_RULE._asdict()}
    start = time.monotonic()
    with LocalConnection().start_agent() as agent:
        started = time.monotonic()
        result = agent.request(request, TIMEOUT_S)
        return {**result, "start_s": started - start, "took_s": time.monotonic() - started}


def visit(model: str, file: Path, number: int) -> Visit:
    """Both ways, one after the other; odd rounds begin with the agent."""
    ways: dict[str, Callable[[Path], dict[str, Any]]] = {"bare": run_bare, "agent": run_agent}
    order = sorted(ways, reverse=number % 2 == 0)
    results = {way: ways[way](file) for way in order}
    bare, agent = results["bare"], results["agent"]
    # A low percentile depends on how many samples it is of: both have the same number.
    count = min(len(bare["cpu_ns"]), len(agent["cpu_ns"]))
    samples_s = sum(agent["wall_ns"]) * agent["runs_per_sample"] / 1e9
    known_s = agent["prepare_s"] + agent["warmup_s"] + samples_s
    return Visit(
        model=model,
        round=number,
        first=order[0],
        bare={clock: bare[clock][:count] for clock in ("cpu_ns", "wall_ns")},
        agent={clock: agent[clock][:count] for clock in ("cpu_ns", "wall_ns")},
        bare_load_s=bare["load_s"],
        start_s=agent["start_s"],
        load_s=agent["prepare_s"],
        warmup_s=agent["warmup_s"],
        samples_s=samples_s,
        rest_s=agent["took_s"] - known_s,
        dropped=agent["dropped"],
    )


def measure(models: Sequence[str], rounds: int) -> list[Visit]:
    """Every network in every round; the files live as long as it takes."""
    with tempfile.TemporaryDirectory() as folder:
        files = {model: Path(folder) / f"{model}.onnx" for model in models}
        for model, file in files.items():
            export_onnx(load_network(model), file)
        visits = []
        for number in range(rounds):
            visits += [visit(model, file, number) for model, file in files.items()]
            print(f"round {number + 1} of {rounds}", file=sys.stderr)
    return visits


def write(visits: Sequence[Visit], machine: Environment, load: float, name: str) -> None:
    """The CSV of all rounds, and the page with the summary."""
    RESULTS.mkdir(exist_ok=True)
    with (RESULTS / f"{name}.csv").open("w", newline="") as file:
        rows = [_row(one) for one in visits]
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    (RESULTS / f"{name}.md").write_text(page(visits, machine, load))


def _row(one: Visit) -> dict[str, Any]:
    facts = asdict(one)
    for way in ("bare", "agent"):
        samples = facts.pop(way)
        facts["samples"] = len(samples["cpu_ns"])
        for name in COMPARED:
            facts[f"{way} ms, {name}"] = value_ms([samples], name)
    return {key: f"{fact:.4f}" if isinstance(fact, float) else fact for key, fact in facts.items()}


def page(visits: Sequence[Visit], machine: Environment, load: float) -> str:
    """The summary as a page."""
    models = list(dict.fromkeys(one.model for one in visits))
    rounds = len(visits) // len(models)
    lines = [
        "# Overhead of the agent",
        "",
        f"Machine: {machine.cpu_model}, {machine.cores} cores, {machine.os}, kernel "
        f"{machine.kernel}; load average {load:.1f} before the start. onnxruntime "
        f"{machine.runtimes['onnxruntime']}, fp32, 1 thread, batch 1, 224x224. dshrink "
        f"{__version__}. {datetime.now(UTC):%Y-%m-%d %H:%M} UTC.",
        "",
        f"`python benchmarks/agent_overhead.py --rounds {rounds}`. A fresh process with only "
        "ONNX Runtime and a loop, and a fresh agent with a profile's timing rule, in alternation, "
        "with alternating order. The agent moves to the least loaded core; the bare loop stays on "
        "the core where the network ran fastest in its warm-up, so that both avoid a core that "
        "another process uses. The agent drops disturbed samples, the bare loop keeps all; equally "
        "many of both are compared. Inputs and outputs are bound.",
        "",
        f"Latencies are a table's statistics over {rounds} rounds: `quiet` is the lower quartile "
        "over rounds of the 5th percentile within a round, `median` the median of medians. Excess "
        "is the agent's latency relative to the bare loop, with a 95 % bootstrap interval over "
        f"rounds. The target is {LIMIT_PERCENT:g} %.",
        "",
        "| network | statistic | bare ms | agent ms | excess | 95 % | within the target |",
        "|---|---|---|---|---|---|---|",
    ]
    for model in models:
        mine = [one for one in visits if one.model == model]
        lines += [_line(name, mine) for name in COMPARED]
    lines += [
        "",
        "The agent's time by phase, median seconds. Start is once per round, the rest once per "
        "job; everything other than loading, warm-up and kept samples (request, lock, digest, "
        "choice of the core, health, dropped samples) is in the last column.",
        "",
        "| network | start | load | load, bare | warm-up | samples | rest |",
        "|---|---|---|---|---|---|---|",
    ]
    columns = ("start_s", "load_s", "bare_load_s", "warmup_s", "samples_s", "rest_s")
    for model in models:
        mine = [one for one in visits if one.model == model]
        cells = [f"{median([getattr(one, name) for one in mine]):.3f}" for name in columns]
        lines.append(f"| {model} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _line(name: str, visits: Sequence[Visit]) -> str:
    excess, (low, high) = excess_percent(visits, name), excess_interval(visits, name)
    verdict = "no" if abs(excess) > LIMIT_PERCENT else "yes"
    if verdict == "yes" and max(-low, high) > LIMIT_PERCENT:
        verdict = "yes, the interval is wider"
    agent_ms, bare_ms = both_ms(visits, name)
    return (
        f"| {visits[0].model} | {name} | {bare_ms:.3f} | {agent_ms:.3f} | {excess:+.2f} % "
        f"| {low:+.2f} to {high:+.2f} % | {verdict} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--model", nargs="+", default=MODELS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--name", default="agent_overhead_local")
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    with LocalConnection().start_agent() as agent:
        machine = agent.environment
    visits = measure(arguments.model, arguments.rounds)
    write(visits, machine, load, arguments.name)
    print(page(visits, machine, load))


if __name__ == "__main__":
    main()
