"""Two tables of one network, measured apart: do they predict the same?

    dshrink profile mobilenetv2_100 --out FIRST, and half an hour later --out SECOND
    python benchmarks/repeatability.py FIRST SECOND

Predicts the networks that either table measured whole and 500 random ones with both tables, and
writes the differences, with the level (the median ratio, one factor for all) and without it, into
results/, next to this file.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from latency_tables.io import load_table
from latency_tables.predictor import predict
from latency_tables.table import LatencyTable

RESULTS = Path(__file__).parent / "results"
RANDOM_NETWORKS = 500


def networks(tables: tuple[LatencyTable, LatencyTable]) -> Iterator[tuple[str, str]]:
    """Masks and paddings that both can predict."""
    for table in tables:
        yield from ((one.keep_mask, one.padding) for one in table.known_networks)
    rng = random.Random(0)
    first = tables[0]
    for _ in range(RANDOM_NETWORKS):
        merged = {block for block in first.mergeable if rng.random() < 0.5}
        mask = "".join("0" if block in merged else "1" for block in range(first.block_count))
        yield mask, rng.choice(("repad", "bias_map"))


def page(tables: tuple[LatencyTable, LatencyTable]) -> str:
    """The differences as a page."""
    asked = list(dict.fromkeys(networks(tables)))
    both = np.array(
        [[predict(t, mask, padding).latency_ms for t in tables] for mask, padding in asked]
    )
    ratio = both[:, 1] / both[:, 0]
    level = float(np.median(ratio))
    apart = 100.0 * np.abs(ratio / level - 1.0)
    machine, conditions = tables[0].fingerprint, tables[0].conditions
    lines = [
        "# Two tables of one network, measured apart",
        "",
        f"Machine: {machine.get('cpu_model')}, {machine.get('cores')} cores, {machine.get('os')}. "
        f"{conditions.runtime} {conditions.runtime_version}, {conditions.precision}, batch "
        f"{conditions.batch}, {conditions.threads} thread. {tables[0].model}, "
        f"{len(asked)} networks. Tables of {tables[0].date} and {tables[1].date}.",
        "",
        f"Level: the second table is {100.0 * (level - 1.0):+.2f} % off the first (median).",
        f"After the level, predictions differ by {apart.mean():.2f} % on average, by "
        f"{np.quantile(apart, 0.95):.2f} % for 95 of 100, and by {apart.max():.2f} % at most.",
        "",
        "| table | error on its own held-out networks | level known to | one process |",
        "|---|---|---|---|",
    ]
    for table in tables:
        check, machine_level = table.hold_out, table.level
        assert check is not None and machine_level is not None
        lines.append(
            f"| {table.date} | {check.mape_percent:.2f} % (they are known to "
            f"{check.measuring_percent:.2f} %), at most {check.max_error_percent:.2f} % | "
            f"+-{machine_level.known_percent:.1f} % | +-{machine_level.spread_percent:.1f} % |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    parser.add_argument("--name", default="repeatability_local")
    given = parser.parse_args()
    text = page((load_table(given.first), load_table(given.second)))
    (RESULTS / f"{given.name}.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
