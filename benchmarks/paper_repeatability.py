"""How well the speed-ups of two runs of the same experiments agree.

    dshrink paper table2 --out first
    dshrink paper table2 --out second
    python benchmarks/paper_repeatability.py first second

Compares the speed-ups of every network, batch and experiment that both folders hold; the second run
measures everything anew, as it has a journal of its own. Writes
``results/paper_repeatability_local.md``.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any, NamedTuple

from dshrink.markdown import markdown_table

RESULTS = Path(__file__).parent / "results" / "paper_repeatability_local.md"
#: What issue and documentation promise, in percent.
MEDIAN_PERCENT, WORST_PERCENT = 1.5, 3.0


class Pair(NamedTuple):
    """The speed-ups of a network in both runs; ``covered``: the intervals meet."""

    experiment: str
    network: str
    batch: int
    first: float
    second: float
    covered: bool

    @property
    def difference_percent(self) -> float:
        return 100.0 * abs(self.second / self.first - 1.0)


def pairs(first: Path, second: Path) -> list[Pair]:
    found = []
    for file in sorted(first.glob("*.json")):
        other = second / file.name
        if not other.exists():
            continue
        ours, theirs = _rows(file), _rows(other)
        for key in ours.keys() & theirs.keys():
            a, b = ours[key], theirs[key]
            # A baseline is 1 in both.
            if a.get("speedup") and b.get("speedup") and a["speedup"] != 1.0:
                # Without an interval nothing is said.
                meets = all(one["speedup_low"] for one in (a, b)) and (
                    a["speedup_low"] <= b["speedup_high"] and b["speedup_low"] <= a["speedup_high"]
                )
                found.append(Pair(file.stem, *key, a["speedup"], b["speedup"], meets))
    return sorted(found)


def _rows(file: Path) -> dict[tuple[str, int], dict[str, Any]]:
    rows = json.loads(file.read_text(encoding="utf-8"))["rows"]
    return {(row["network"], row["batch"]): row for row in rows if "network" in row}


def lines(found: list[Pair], dates: tuple[str, str]) -> list[str]:
    by_experiment: dict[tuple[str, int], list[Pair]] = {}
    for pair in found:
        by_experiment.setdefault((pair.experiment, pair.batch), []).append(pair)
    rows = [
        [f"{name}, batch {batch}", *_summary(its)] for (name, batch), its in by_experiment.items()
    ]
    rows.append(["all", *_summary(found)])
    heads = ("experiment", "speed-ups", "median %", "worst %", "worst of", "intervals meet")
    return [
        "# Two runs of the paper's tables: how well speed-ups agree",
        "",
        f"First run {dates[0]}, second run {dates[1]} (UTC). Differences of speed-ups in percent; "
        f"aims: {MEDIAN_PERCENT:g} % (median), {WORST_PERCENT:g} % (worst).",
        "",
        *markdown_table(heads, rows),
        "",
        "Intervals are those of one run. They meet less often than two of 95 % would (99 %): from "
        "one run to the next a network moves by more than from process to process.",
    ]


def _summary(its: list[Pair]) -> list[str]:
    worst = max(its, key=lambda pair: pair.difference_percent)
    median = statistics.median(pair.difference_percent for pair in its)
    return [
        str(len(its)),
        f"{median:.2f}",
        f"{worst.difference_percent:.2f}",
        worst.network,
        f"{sum(pair.covered for pair in its)} of {len(its)}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    asked = parser.parse_args()
    found = pairs(asked.first, asked.second)
    stamps = [
        max(json.loads(file.read_text())["date"] for file in folder.glob("*.json"))
        for folder in (asked.first, asked.second)
    ]
    text = "\n".join(lines(found, (stamps[0], stamps[1]))) + "\n"
    RESULTS.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
