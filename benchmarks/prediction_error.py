"""Error of our predictions, compared with sums of blocks, a line through them and scaled MACs.

    python benchmarks/prediction_error.py --out DIR [--model NAME ...] [--batch N ...]

Profiles each network at each batch (an interrupted run is resumed), and writes next to this
file, into results/, one CSV with every held-out network and a page with the summary, the machine,
the versions and the date. All four predictions are about the same networks. On two cores, allow
five minutes a table at batch 1.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from dshrink.operations.profile import profile_network
from latency_tables.io import load_table
from latency_tables.table import LatencyTable
from profiler.target import Target

MODELS = ("mobilenetv2_100", "mobilenetv2_140", "tf_efficientnet_lite0")
BATCHES = (1, 8)
RESULTS = Path(__file__).parent / "results"


def measure(model: str, batch: int, folder: Path, device: str) -> LatencyTable:
    """The table of a network at a batch; one that is there already is taken as it is."""
    place = folder / f"{model}-batch{batch}"
    if not (place / "table.json").exists():
        profile_network(model, place, Target(device=device, batch=batch), notice=print)
    return load_table(place)


def write(tables: Sequence[LatencyTable], name: str) -> None:
    """The CSV of all held-out networks, and the page with the summary."""
    RESULTS.mkdir(exist_ok=True)
    with (RESULTS / f"{name}.csv").open("w", newline="") as file:
        writer: csv.DictWriter[str] | None = None
        for table in tables:
            for network in table.hold_out.networks if table.hold_out else ():
                row = {"model": table.model, "batch": table.conditions.batch, **asdict(network)}
                writer = writer or csv.DictWriter(file, list(row), lineterminator="\n")
                if not file.tell():
                    writer.writeheader()
                writer.writerow(row)
    (RESULTS / f"{name}.md").write_text(page(tables))


def page(tables: Sequence[LatencyTable]) -> str:
    """The summary as a page."""
    machine = tables[0].fingerprint
    conditions = tables[0].conditions
    lines = [
        "# Error of predicted latency on hold-out networks",
        "",
        f"Machine: {machine.get('cpu_model')}, {machine.get('cores')} cores, {machine.get('os')}, "
        f"kernel {machine.get('kernel')}. {conditions.runtime} {conditions.runtime_version}, "
        f"{conditions.precision}, {conditions.threads} thread, 224x224, statistic "
        f"{conditions.statistic}. dshrink {tables[0].dshrink_version}. "
        f"Dates: {tables[0].date} to {tables[-1].date}.",
        "",
        "`python benchmarks/prediction_error.py --out DIR`. MAPE and largest error in per cent of "
        "the measured latency; our prediction (and what of its error is the measurement of these "
        "networks), the plain sum of blocks alone, the best line through such sums, and MACs "
        "scaled to the original network's latency, all on the same hold-out networks. The last "
        "column counts the rows of the table measured to 1 %.",
        "",
        "| network | batch | held out | ours MAPE | ours max | of it measuring | plain sum MAPE "
        "| max | line MAPE | max | scaled MACs MAPE | max | tau | interval | covered | rows ok |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [_line(table) for table in tables]
    warnings = [f"- {t.model}, batch {t.conditions.batch}: {w}" for t in tables for w in t.warnings]
    return "\n".join([*lines, "", "Warnings of the tables:", "", *warnings]) + "\n"


def _line(table: LatencyTable) -> str:
    check = table.hold_out
    assert check is not None
    lines = (check.line_mape_percent, check.line_max_error_percent)
    line = " | ".join("" if percent is None else f"{percent:.2f}" for percent in lines)
    tau = "" if check.kendall_tau is None else f"{check.kendall_tau:.3f}"
    good = sum(row.verdict == "ok" for row in table.rows)
    return (
        f"| {table.model} | {table.conditions.batch} | {len(check.networks)} "
        f"| {check.mape_percent:.2f} | {check.max_error_percent:.2f} "
        f"| {check.measuring_percent:.2f} "
        f"| {check.plain_sum_mape_percent:.2f} | {check.plain_sum_max_error_percent:.2f} "
        f"| {line} "
        f"| {check.scaled_macs_mape_percent:.2f} | {check.scaled_macs_max_error_percent:.2f} "
        f"| {tau} | +-{check.interval_percent:.2f} % | {check.coverage_percent:.0f} % "
        f"| {good} of {len(table.rows)} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", nargs="+", default=MODELS)
    parser.add_argument("--batch", nargs="+", type=int, default=BATCHES)
    parser.add_argument("--device", default="local")
    parser.add_argument("--name", default="prediction_error_local")
    arguments = parser.parse_args()
    tables = [
        measure(model, batch, arguments.out, arguments.device)
        for model in arguments.model
        for batch in arguments.batch
    ]
    write(tables, arguments.name)
    print(page(tables))


if __name__ == "__main__":
    main()
