"""Which context of a piece predicts whole networks best: alone, or after the piece before it.

    python benchmarks/contexts.py --out DIR [--segments spans] [--case MODEL:BATCH ...]

Profiles each network, cut into blocks or spans, at each batch in both contexts, from the same
journal, and writes next to this file, into results/, a CSV with every hold-out network under each
context and a page with the summary, the machine, the versions and the date. An interrupted run is
resumed. On two cores, allow eight minutes a table of blocks at batch 1.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from dshrink.operations.profile import SEGMENTS, profile_network
from latency_tables.io import load_table
from latency_tables.table import LatencyTable
from profiler.target import Target

CASES = ("mobilenetv2_100:1", "mobilenetv2_140:1", "tf_efficientnet_lite0:1", "mobilenetv2_100:8")
CONTEXTS = ("isolated", "pair")
RESULTS = Path(__file__).parent / "results"

Tables = Mapping[str, LatencyTable]


def measure(
    case: str, contexts: Sequence[str], folder: Path, target: Target, segments: str
) -> Tables:
    """The tables of one network at one batch by context; those that are there are taken."""
    model, _, batch = case.partition(":")
    cut = "" if segments == "blocks" else f"-{segments}"
    place = folder / f"{model}-batch{batch}{cut}"
    if not (place / "table.json").exists() or load_table(place).contexts.keys() != set(contexts):
        wanted = replace(target, batch=int(batch))
        profile_network(model, place, wanted, contexts=contexts, segments=segments, notice=print)
    if len(contexts) == 1:
        return {contexts[0]: load_table(place)}
    return {context: load_table(place / context) for context in contexts}


def write_csv(measured: Sequence[Tables], file: Path) -> None:
    """Every held-out network, a line a context."""
    with file.open("w", newline="") as stream:
        writer: csv.DictWriter[str] | None = None
        for tables in measured:
            for context, table in tables.items():
                for network in table.hold_out.networks if table.hold_out else ():
                    row = {
                        "model": table.model,
                        "batch": table.conditions.batch,
                        "context": context,
                        **asdict(network),
                    }
                    writer = writer or csv.DictWriter(stream, list(row), lineterminator="\n")
                    if not stream.tell():
                        writer.writeheader()
                    writer.writerow(row)


def page(measured: Sequence[Tables], segments: str) -> str:
    """The summary as a page."""
    first = next(iter(measured[0].values()))
    machine, conditions = first.fingerprint, first.conditions
    last = next(iter(measured[-1].values()))
    lines = [
        "# Pieces measured alone and after their neighbour: error on hold-out networks",
        "",
        f"Machine: {machine.get('cpu_model')}, {machine.get('cores')} cores, {machine.get('os')}. "
        f"{conditions.device}, {conditions.runtime} {conditions.runtime_version}, "
        f"{conditions.precision}, statistic {conditions.statistic}. "
        f"dshrink {first.dshrink_version}. Dates: {first.date} to {last.date}.",
        "",
        f"`python benchmarks/contexts.py --segments {segments} --out DIR`. Errors in per cent of "
        "the measured latency, of the calibrated prediction and of the plain sum of the rows, on "
        "the same hold-out networks from the same journal.",
        "",
        "| network | batch | context | MAPE | largest | within 5 % | plain sum MAPE | tau | slopes "
        "| rows ok |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [_line(context, table) for tables in measured for context, table in tables.items()]
    return "\n".join(lines) + "\n"


def _line(context: str, table: LatencyTable) -> str:
    check, fit = table.hold_out, table.calibration
    if check is None or fit is None:
        return f"| {table.model} | {table.conditions.batch} | {context} | {table.fit_reason} |"
    tau = "" if check.kendall_tau is None else f"{check.kendall_tau:.3f}"
    good = sum(row.verdict == "ok" for row in table.rows)
    return (
        f"| {table.model} | {table.conditions.batch} | {context} | {check.mape_percent:.2f} "
        f"| {check.max_error_percent:.2f} | {check.within_5_percent:.0f} % "
        f"| {check.plain_sum_mape_percent:.2f} | {tau} "
        f"| {fit.slopes[False]:.3f}, {fit.slopes[True]:.3f} | {good} of {len(table.rows)} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--case", nargs="+", default=CASES)
    parser.add_argument("--context", nargs="+", default=CONTEXTS)
    parser.add_argument("--segments", choices=SEGMENTS, default=SEGMENTS[0])
    parser.add_argument("--device", default="local")
    parser.add_argument("--runtime")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--launch", default="plain")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--name")
    given = parser.parse_args()
    blocks = given.segments == SEGMENTS[0]
    name = given.name or ("contexts_local" if blocks else f"contexts_{given.segments}_local")
    target = Target(
        device=given.device,
        runtime=given.runtime,
        precision=given.precision,
        launch=given.launch,
    )
    measured = [
        measure(case, given.context, given.out, target, given.segments) for case in given.case
    ]
    given.results.mkdir(parents=True, exist_ok=True)
    write_csv(measured, given.results / f"{name}.csv")
    text = page(measured, given.segments)
    (given.results / f"{name}.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
