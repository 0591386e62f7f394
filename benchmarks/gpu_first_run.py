"""All that waits for a GPU, within a time limit: for a machine that is lent for some minutes.

    python benchmarks/gpu_first_run.py --out DIR [--runtime pytorch|tensorrt] [--minutes 9]

One command after the other, each with its own output and time limit: the self-test; block tables of
MobileNetV2-1.4 at the paper's batch in fp32 and fp16, by plain launches and by CUDA graphs, each
with its hold-out error; the speed-ups of the paper's masks beside that;
training speed beside timm's. What fails or takes too long is said on the page, ``first_run.md``,
and the next one begins. The same command goes on where it ended.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from dshrink.markdown import markdown_table
from dshrink.version import __version__

ROOT = Path(__file__).parents[1]
MASKS = tuple(f"paper:MBV2-1.4-DS-{letter}" for letter in "ABCDEF")
#: Less than that is not worth a start.
LEAST_S = 20.0
#: What a command gets to end by itself.
PATIENCE_S = 10.0


@dataclass(frozen=True)
class Step:
    """A command; ``most_s`` is its time limit."""

    name: str
    words: tuple[str, ...]
    most_s: float


@dataclass(frozen=True)
class Ended:
    """How a command ended: "done", "exit N", "cut" (at its time limit) or "not begun"."""

    step: Step
    how: str
    took_s: float


def steps(asked: argparse.Namespace) -> Iterator[Step]:
    """The commands in the order of their worth."""
    dshrink = (sys.executable, "-m", "dshrink")
    on = ("--device", asked.device, "--runtime", asked.runtime)
    network = (asked.model, *(("--resolution", asked.resolution) if asked.resolution else ()))
    out = Path(asked.out)
    yield Step(
        "selftest",
        (
            *dshrink,
            *("devices", "selftest", asked.device, "--runtime", asked.runtime),
            *("--time-limit", "30", "--out", str(out / "selftest")),
        ),
        180.0,
    )
    for precision in asked.precisions:
        for launch in asked.launches:
            name = f"table_{precision}_{launch}"
            conditions = (*on, "--precision", precision, "--launch", launch)
            words = ("profile", *network, *conditions, "--time-limit", "45")
            yield Step(name, (*dshrink, *words, "--out", str(out / name)), 120.0)
    plans = [word for mask in asked.masks for word in ("--plan", mask)]
    for precision in asked.precisions:
        words = ("bench", *network, *on, "--precision", precision, *plans)
        table = ("--table", str(out / f"table_{precision}_{asked.launches[0]}"))
        name = f"masks_{precision}"
        yield Step(name, (*dshrink, *words, *table, "--out", str(out / f"{name}.csv")), 120.0)
    if not asked.no_training:
        script = str(ROOT / "benchmarks" / "training_speed.py")
        words = ("--device", "cuda", "--precision", "fp16", "--batch", "256", "--rounds", "2")
        yield Step(
            "training",
            (sys.executable, script, *words, "--name", "first_run", "--out", str(out)),
            180.0,
        )


def run(step: Step, folder: Path, left_s: float) -> Ended:
    """Run a command to its end, or to that of its time; what it says goes to NAME.log."""
    if left_s < LEAST_S:
        return Ended(step, "not begun", 0.0)
    start = time.monotonic()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with (folder / f"{step.name}.log").open("wb") as log:
        process = subprocess.Popen(
            step.words, stdout=log, stderr=log, env=environment, start_new_session=True
        )
        try:
            status = process.wait(min(step.most_s, left_s - PATIENCE_S))
            how = "done" if status == 0 else f"exit {status}"
        except subprocess.TimeoutExpired:
            how = "cut"
            _end(process)
    return Ended(step, how, time.monotonic() - start)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Let it end as after Ctrl-C, then kill all that it started."""
    process.send_signal(signal.SIGINT)
    with suppress(subprocess.TimeoutExpired):
        process.wait(PATIENCE_S)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def page(ended: Sequence[Ended], folder: Path) -> str:
    """What was run, and the last lines of each."""
    rows = [(one.step.name, one.how, f"{one.took_s:.0f}") for one in ended]
    lines = [
        "# First run on a GPU",
        "",
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, dshrink {__version__}",
        "",
        *markdown_table(("step", "ended", "seconds"), rows),
    ]
    for one in ended:
        log = folder / f"{one.step.name}.log"
        if log.exists():
            said = log.read_text("utf-8", "replace").splitlines()[-25:]
            lines += ["", f"## {one.step.name}", "", "```", *said, "```"]
    return "\n".join(lines) + "\n"


def main(words: Sequence[str] | None = None) -> int:
    """Run all of it; the exit status is 1 where something did not end well."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", required=True)
    parser.add_argument("--device", default="local_gpu")
    parser.add_argument("--runtime", default="pytorch")
    parser.add_argument("--model", default="mobilenetv2_140")
    parser.add_argument("--resolution", default="")
    parser.add_argument("--precisions", nargs="+", default=["fp32", "fp16"])
    parser.add_argument("--launches", nargs="+", default=["plain", "cuda_graph"])
    parser.add_argument("--masks", nargs="*", default=MASKS)
    parser.add_argument("--no-training", action="store_true")
    parser.add_argument("--minutes", type=float, default=9.0)
    asked = parser.parse_args(words)
    folder = Path(asked.out)
    folder.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60.0 * asked.minutes
    ended: list[Ended] = []
    for step in steps(asked):
        ended.append(run(step, folder, end - time.monotonic()))
        print(f"{step.name}: {ended[-1].how}, {ended[-1].took_s:.0f} s", flush=True)
        (folder / "first_run.md").write_text(page(ended, folder), "utf-8")
    return int(any(one.how != "done" for one in ended))


if __name__ == "__main__":
    sys.exit(main())
