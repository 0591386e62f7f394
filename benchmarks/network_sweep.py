"""What dshrink makes of the networks of timm and torchvision, one row each.

    python benchmarks/network_sweep.py --name before          # resumes where it was interrupted
    python benchmarks/network_sweep.py --name before --run    # also runs each piece in ONNX Runtime
    python benchmarks/network_sweep.py --name before --expected FILE

Each network of ``networks.txt`` is loaded and lowered; its multiply-accumulates are compared with
those that torch counts in the eager network, and its result with the eager one's; every piece that
a table would hold is written as ONNX; and the network merged throughout is certified. Each has a
process of its own with a limit of time and memory, forked from one that has imported everything.
Writes a CSV and a page into results/, next to this file. ``--expected`` measures nothing: it writes
what ``tests/dshrink/network/test_network_sweep.py`` expects (its network_sweep.csv).
"""

from __future__ import annotations

import argparse
import csv
import importlib
import io
import multiprocessing
import os
import platform
import re
import resource
import time
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import date
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

import onnx
import onnxruntime
import torch
from sweep_steps import COUNT_TOLERANCE, YES, Row, sweep

from dshrink.network.tracing import import_timm, import_torchvision_models
from dshrink.version import __version__
from latency_tables.files import write_atomically

HERE = Path(__file__).parent
NETWORKS = HERE / "networks.txt"
RESULTS = HERE / "results"
PROCESSES = 2
TIME_LIMIT_S = 240.0
MEMORY_LIMIT_BYTES = 8 * 1024**3
FIELDS = tuple(Row.__dataclass_fields__)
#: What a test finds again in seconds: structure, and the counts of both.
EXPECTED = (
    *("name", "resolution", "parameters", "macs", "torch_macs", "macs_right"),
    *("blocks", "positions", "spans", "by_blocks", "by_spans"),
)
#: What differs between reasons of one kind: layers and numbers.
ONE_OF_MANY = re.compile(r"(?!torch\.)\b[\w@]+(?:\.[\w@]+)+|\b\d+(?:x\d+)*\b")


@dataclass(slots=True, kw_only=True)
class Running:
    """A process that sweeps one network: what it has reported, and when it must be done."""

    row: Row
    process: BaseProcess
    reports: Connection
    start: float

    @property
    def seconds_left(self) -> float:
        return self.start + TIME_LIMIT_S - time.monotonic()

    @classmethod
    def begin(cls, row: Row, *, run: bool) -> Running:
        receive, send = multiprocessing.Pipe(duplex=False)
        # Forked: importing torch and timm again takes longer than most networks.
        context = multiprocessing.get_context("fork")
        process = context.Process(target=_child, args=(row, run, send), daemon=True)
        process.start()
        send.close()
        return cls(row=row, process=process, reports=receive, start=time.monotonic())

    def read(self) -> bool:
        """Take one report; whether it was the last."""
        try:
            facts = self.reports.recv()
        except EOFError:
            self._end(f"its process ended with {self._exit_code()}")
            return True
        self.row = replace(self.row, **facts)
        return "seconds" in facts

    def stop(self) -> None:
        self.process.kill()
        self._end(f"not within {TIME_LIMIT_S:.0f} s")

    def _end(self, why: str) -> None:
        """The step that was not finished has no result: this is it."""
        steps = ("traced", "macs_right", "by_blocks", "by_spans", "merged")
        unfinished = next((step for step in steps if not getattr(self.row, step)), steps[-1])
        seconds = round(time.monotonic() - self.start, 1)
        self.row = replace(self.row, **{unfinished: why, "seconds": seconds})

    def _exit_code(self) -> int | None:
        self.process.join(10)
        return self.process.exitcode


def _child(row: Row, run: bool, send: Connection) -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_LIMIT_BYTES, MEMORY_LIMIT_BYTES))
    warnings.simplefilter("ignore")
    # torch prints the traceback of what it then raises.
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    start = time.monotonic()
    sweep(row.name, row.resolution, lambda **facts: send.send(facts), run=run)
    send.send({"seconds": round(time.monotonic() - start, 1)})


def sweep_all(rows: Iterable[Row], *, run: bool) -> Iterator[Row]:
    """Each row filled, as soon as it is done."""
    waiting, running = list(reversed(list(rows))), list[Running]()
    while waiting or running:
        while waiting and len(running) < PROCESSES:
            running.append(Running.begin(waiting.pop(), run=run))
        least = max(0.0, min(one.seconds_left for one in running))
        ready = wait([one.reports for one in running], least)
        for one in list(running):
            done = one.reports in ready and one.read()
            if not done and one.seconds_left <= 0:
                one.stop()
                done = True
            if done:
                running.remove(one)
                one.process.join()
                one.reports.close()
                yield one.row


def listed() -> list[Row]:
    """The networks of the list: a name and a resolution a line."""
    lines = [line.partition("#")[0].split() for line in NETWORKS.read_text("utf-8").splitlines()]
    return [Row(name=line[0], resolution=int(line[1])) for line in lines if line]


def read(file: Path) -> list[Row]:
    """The rows of a CSV; numbers are read as texts."""
    with suppress(FileNotFoundError), file.open(newline="", encoding="utf-8") as lines:
        return [
            Row(**{**line, "resolution": int(line["resolution"])}) for line in csv.DictReader(lines)
        ]
    return []


def write(file: Path, rows: Sequence[Row], columns: Sequence[str] = FIELDS) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    write_atomically(file, text.getvalue())


def expected(rows: Iterable[Row]) -> list[Row]:
    """The traced ones; what is not "yes" is "no": reasons may change their words."""
    verdicts = ("macs_right", "by_blocks", "by_spans")
    return [
        replace(row, **{one: YES if getattr(row, one) == YES else "no" for one in verdicts})
        for row in rows
        if row.traced == YES and row.torch_macs
    ]


def kinds(rows: Iterable[Row], column: str) -> list[tuple[str, list[str]]]:
    """Reasons without the names of networks and layers, most frequent first, and who has them."""
    found: dict[str, list[str]] = {}
    for row in rows:
        why = str(getattr(row, column))
        if why not in ("", YES):
            plain = why.removeprefix(f"{row.name}: ").replace(row.name, "the network")
            found.setdefault(ONE_OF_MANY.sub("...", plain), []).append(row.name)
    return sorted(found.items(), key=lambda kind: -len(kind[1]))


def page(rows: Sequence[Row], command: str) -> str:
    """Counts, what is counted wrongly, and the reasons of everything that cannot be done."""
    traced = [row for row in rows if row.traced == YES]
    versions = (
        f"Python {platform.python_version()}, torch {torch.__version__}, timm "
        f"{import_timm().__version__}, torchvision {torchvision_version()}, onnx "
        f"{onnx.__version__}, onnxruntime {onnxruntime.__version__}, dshrink {__version__}"
    )
    table = {
        "networks": len(rows),
        "traced": len(traced),
        f"MACs right (within {100 * COUNT_TOLERANCE:g} % of torch's)": having(traced, "macs_right"),
        "MACs too few": sum(row.macs_right.startswith("-") for row in traced),
        "MACs too many": sum(row.macs_right.startswith("+") for row in traced),
        "parameters right": having(traced, "parameters_right"),
        "same result as the eager network": having(traced, "same_result"),
        "every operator has words": sum(not row.without_words for row in traced),
        "profiled by blocks": having(traced, "by_blocks"),
        "profiled by spans": having(traced, "by_spans"),
        "profiled by blocks or by spans": sum(row.profiled for row in traced),
        "merged throughout and certified": having(traced, "merged"),
    }
    lines = [
        "# What dshrink makes of the networks of timm and torchvision",
        "",
        f"{versions}, {date.today().isoformat()}. `{command}`.",
        "",
        "A network is *profiled* here when every piece that a table holds can be written as ONNX, "
        "and the whole network too; nothing is measured. MACs are compared with those of torch's "
        "`FlopCounterMode` in the eager network. *Parameters right*: no fewer than its result "
        "depends on without batch norms, no more than those and a bias for every layer. *Merged*: "
        "every block that merges, else the longest spans, with random weights and statistics.",
        "",
        "| | networks |",
        "|---|---|",
        *(f"| {what} | {count} |" for what, count in table.items()),
    ]
    for title, column in (
        ("Not traced", "traced"),
        ("Not profiled by blocks", "by_blocks"),
        ("Not profiled by spans", "by_spans"),
        ("Not merged", "merged"),
    ):
        lines += ["", f"## {title}", "", "| networks | reason | which |", "|---|---|---|"]
        lines += [
            f"| {len(names)} | {cell(why)} | {', '.join(names)} |"
            for why, names in kinds(rows, column)
        ]
    lines += ["", "## Counted or computed otherwise than by torch", ""]
    lines += ["| network | MACs | parameters | result |", "|---|---|---|---|"]
    lines += [
        f"| {row.name} | {cell(row.macs_right)} | {cell(row.parameters_right)} "
        f"| {cell(row.same_result)} |"
        for row in traced
        if {row.macs_right, row.parameters_right, row.same_result} != {YES}
    ]
    words = Counter(word for row in traced for word in row.without_words.split())
    lines += ["", "## Operators without words", "", "| networks | operator |", "|---|---|"]
    lines += [f"| {count} | {cell(word)} |" for word, count in words.most_common()]
    return "\n".join(lines) + "\n"


def having(rows: Iterable[Row], column: str) -> int:
    return sum(getattr(row, column) == YES for row in rows)


def cell(text: str) -> str:
    return text.replace("|", "\\|").replace("*", "\\*")


def torchvision_version() -> str:
    return str(importlib.import_module("torchvision").__version__)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--name", default="local", help="the end of the results' names")
    parser.add_argument("--run", action="store_true", help="run each piece in ONNX Runtime")
    parser.add_argument("--again", action="store_true", help="forget the rows that are there")
    parser.add_argument("--only", nargs="+", default=(), help="these networks, whatever they have")
    parser.add_argument("--expected", type=Path, help="write what the test expects; sweep nothing")
    given = parser.parse_args()
    file = RESULTS / f"network_sweep_{given.name}.csv"
    done = {} if given.again else {row.name: row for row in read(file)}
    rows = listed()
    if given.expected:
        write(
            given.expected, expected(done[row.name] for row in rows if row.name in done), EXPECTED
        )
        return
    import_timm()
    import_torchvision_models()
    torch.set_num_threads(1)
    due = [row for row in rows if row.name in given.only or row.name not in done]
    for number, row in enumerate(sweep_all(due, run=given.run), start=1):
        done[row.name] = row
        write(file, [done[one.name] for one in rows if one.name in done])
        print(f"{number}/{len(due)} {row.name} {row.seconds} s", flush=True)
    command = f"python benchmarks/network_sweep.py --name {given.name}" + " --run" * given.run
    found = [done[row.name] for row in rows]
    write_atomically(RESULTS / f"network_sweep_{given.name}.md", page(found, command))


if __name__ == "__main__":
    main()
