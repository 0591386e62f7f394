"""What one job costs the host of a fleet, and so how many devices one host can feed.

    python benchmarks/fleet_host_cost.py [--boards 8 40 100]

A real Dask scheduler, a process that holds one real worker a board, and this process as the host,
with its journal on disk. Only the devices are simulated: a job sleeps for as long as a real one
lasts and answers with as many samples. The host's cost is its CPU time (it waits for the disk
besides), the scheduler's that of its process; both divided by the number of jobs, those by which
boards are compared included.
"""

from __future__ import annotations

import argparse
import asyncio
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from latency_tables.files import write_atomically
from latency_tables.opspec import Conv, OpSpec
from latency_tables.schema import Conditions
from profiler.fake_device import RUNTIME, RUNTIME_VERSION, FakeClock, FakeConnection, write_spec
from profiler.planning.jobs import PROFILE_RULE, Job, JobPlan
from profiler.schedule import FixedRounds
from profiler.scheduling import fleet
from profiler.scheduling.fleet import DaskScheduler
from profiler.session import Session
from profiler.settings import ProfileSettings

RESULTS = Path(__file__).parent / "results" / "fleet_host_cost"
#: A job on a Raspberry Pi or a server CPU: warm-up, samples, loading (see profiler.planning.jobs).
JOB_S = 0.4
#: Samples of a real reply of 0.08 s or more.
SAMPLES = 60
TARGET = 200
CONDITIONS = Conditions(
    device="sim",
    runtime=RUNTIME,
    runtime_version=RUNTIME_VERSION,
    power_mode="performance",
    clock="thread_cpu",
)


class SleepingClock(FakeClock):
    """A job of the script lasts as long as a real one."""

    def advance(self, seconds: float) -> None:
        super().advance(seconds)
        time.sleep(JOB_S / 2)  # an agent's job advances twice: warm-up, and samples


def latency_ms(spec: OpSpec) -> float:
    return 0.05 + 2e-7 * spec.macs


def simulated(resource: str, hold: bool) -> Any:
    return FakeConnection(latency_ms=latency_ms, noise=0.002, clock=SleepingClock())


async def serve_boards(address: str, count: int) -> None:
    from distributed import Worker

    from profiler.scheduling import board_tasks

    board_tasks.connection_of = simulated
    workers = [
        Worker(address, nthreads=1, name=f"{number:03d}", resources={"sim": 1}, dashboard=False)
        for number in range(count)
    ]
    await asyncio.gather(*workers)
    await asyncio.gather(*(worker.finished() for worker in workers))


@dataclass(frozen=True, kw_only=True)
class Cost:
    boards: int
    as_if: int
    jobs: int
    wall_s: float
    host_cpu_s: float
    scheduler_cpu_s: float
    journal_bytes: int

    @property
    def host_ms(self) -> float:
        return 1e3 * self.host_cpu_s / self.jobs

    @property
    def scheduler_ms(self) -> float:
        return 1e3 * self.scheduler_cpu_s / self.jobs

    @property
    def busy(self) -> float:
        """Share of the time in which the boards worked."""
        return self.jobs * JOB_S / (self.boards * self.wall_s)

    @property
    def devices(self) -> int:
        """How many devices the busier of the two processes could feed with one core."""
        return int(JOB_S / (max(self.host_ms, self.scheduler_ms) / 1e3))


def plan_of(count: int) -> JobPlan:
    """So many different pieces: convolutions of 8 channels and more."""
    specs = [
        OpSpec(
            input_shape=(8 + number % 64, 14, 14),
            ops=(Conv(inputs=(0,), out_channels=8 + number // 64, kernel=(1, 1)),),
        )
        for number in range(count)
    ]
    jobs = [Job(id=spec.digest, kind="piece", label="piece", spec=spec) for spec in specs]
    return JobPlan(jobs=jobs, shared=[job.id for job in jobs[:3]])


def measure(boards: int, jobs_per_board: int, as_if: int) -> Cost:
    """Measure with so many boards; tasks carry as many jobs as with ``as_if`` boards."""
    fleet.BOARDS_A_JOB = max(1, 10 * boards // as_if)
    plan = plan_of(boards * jobs_per_board)
    rule = PROFILE_RULE._replace(min_samples=SAMPLES)
    settings = ProfileSettings(rounds=1, rule=rule, half_width=1.0)
    port = 18786
    address = f"tcp://127.0.0.1:{port}"
    python = sys.executable
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    dask = [python, "-m", "dask", "scheduler", "--host", "127.0.0.1", "--port", str(port)]
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen([*dask, "--no-dashboard"], **quiet) as scheduler_process,  # type: ignore[call-overload]
        subprocess.Popen(
            [python, __file__, "--serve", address, "--boards", str(boards)], **quiet
        ) as board_process,
    ):
        try:
            scheduler = DaskScheduler(address, ("sim",))
            while len(scheduler.boards()) < boards:
                time.sleep(0.5)
            session = Session(
                plan=plan,
                conditions=CONDITIONS,
                scheduler=scheduler,
                build=write_spec,
                folder=Path(folder),
                schedule=FixedRounds(rounds=1),
                settings=settings,
            )
            watched = psutil.Process(scheduler_process.pid)
            cpu_before, wall_before = time.process_time(), time.monotonic()
            scheduler_before = sum(watched.cpu_times()[:2])
            with session:
                session.run()
            host_cpu_s = time.process_time() - cpu_before
            wall_s = time.monotonic() - wall_before
            scheduler_cpu_s = sum(watched.cpu_times()[:2]) - scheduler_before
            journal = Path(folder) / "journal.jsonl"
            lines = journal.read_text().splitlines()
            jobs = sum(line.startswith(('{"line":"reply"', '{"line":"shared"')) for line in lines)
            return Cost(
                boards=boards,
                as_if=as_if,
                jobs=jobs,
                wall_s=wall_s,
                host_cpu_s=host_cpu_s,
                scheduler_cpu_s=scheduler_cpu_s,
                journal_bytes=journal.stat().st_size,
            )
        finally:
            board_process.kill()
            scheduler_process.kill()


def page(costs: list[Cost]) -> str:
    import distributed

    lines = [
        "# Cost of a job on the host of a fleet",
        "",
        f"`python benchmarks/fleet_host_cost.py` on {datetime.now(UTC):%Y-%m-%d}: "
        f"{psutil.cpu_count()} cores of {cpu_model()}, Python {platform.python_version()}, "
        f"Dask {distributed.__version__}. Real scheduler, workers, host and journal; devices "
        f"simulated ({JOB_S:g} s per job, {SAMPLES} samples per reply).",
        "",
        "| boards | jobs per task as with | jobs | boards busy | host, ms per job "
        "| Dask scheduler, ms per job | devices that one core serves |",
        "|---:|---:|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {c.boards} | {c.as_if} boards | {c.jobs} | {100 * c.busy:.0f} % | {c.host_ms:.2f} "
        f"| {c.scheduler_ms:.2f} | {c.devices} |"
        for c in costs
    ]
    lines += [
        "",
        "Host and scheduler are separate processes, so each has a core. The last column is "
        f"{JOB_S:g} s divided by the larger of the two costs; the target is {TARGET}. All boards "
        "share this machine's two cores with host and scheduler, so they are not fully busy, and "
        "the costs may be overestimated. This machine cannot run 200 simulated boards; the last "
        "line has the jobs per task that 200 boards would get.",
        "",
        "File transfers are not included. Each file goes to one board, and the largest (whole "
        "networks of MobileNetV2) have 14 MB; a table needs about 0.4 GB in total, not per board.",
        "",
    ]
    return "\n".join(lines)


def cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--boards", type=int, nargs="+", default=[8, 40, 100])
    parser.add_argument("--jobs-per-board", type=int, default=40)
    parser.add_argument("--serve", metavar="ADDRESS", help="used by the script itself")
    arguments = parser.parse_args()
    if arguments.serve:
        asyncio.run(serve_boards(arguments.serve, arguments.boards[0]))
        return
    costs = [measure(boards, arguments.jobs_per_board, boards) for boards in arguments.boards]
    costs.append(measure(arguments.boards[-1], arguments.jobs_per_board, TARGET))
    text = page(costs)
    print(text)
    RESULTS.parent.mkdir(exist_ok=True)
    write_atomically(RESULTS.with_suffix(".md"), text)


if __name__ == "__main__":
    main()
