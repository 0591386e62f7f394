"""How well layers that were not measured are predicted from those that were.

    python benchmarks/layer_prediction.py --out DIR

Measures a grid of 200 layers and further layers between them (channels in other multiples of 16,
sizes of map that the grid lacks) by turns in the same processes, then predicts the further ones
from the grid alone, and from random parts of it. Stops and resumes like ``dshrink profile``.
Writes ``results/layer_prediction_DEVICE.md`` and ``.csv``.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from dshrink.markdown import markdown_table
from dshrink.operations.profile_layers import measure_layers
from latency_tables.csv_lines import write_csv
from latency_tables.layers.layer import Layer
from latency_tables.layers.layer_table import LayerTable
from latency_tables.layers.prediction import held_out_layers, predict_layers
from latency_tables.layers.texts import LayerList, parse_grid, parse_layer
from profiler.target import Target

RESULTS = Path(__file__).parent / "results"
GRID = "cin=16,32,64,96,128 cout=16,32,64,96,160 k=1,3 hw=56,28,14,7"
#: Drawn between the grid's: (channels, sides of the map).
CHANNELS, SIDES, BETWEEN = range(16, 129, 16), range(7, 57, 7), 60
#: Shares of the grid that the same layers are predicted from.
SHARES = (1.0, 0.5, 0.25)


class Predicted(NamedTuple):
    """A layer's own latency and what the grid says."""

    name: str
    family: str
    measured_ms: float
    predicted_ms: float
    low_ms: float
    high_ms: float

    @property
    def error_percent(self) -> float:
        return 100.0 * (self.predicted_ms / self.measured_ms - 1.0)

    @property
    def is_inside(self) -> bool:
        return self.low_ms <= self.measured_ms <= self.high_ms


def between(grid: Sequence[Layer]) -> list[Layer]:
    """Random layers within the grid's range that are not in it."""
    draw, found = random.Random(0), dict[Layer, None]()
    while len(found) < BETWEEN:
        cin, cout = (draw.choice(CHANNELS) for _ in range(2))
        side, kernel = draw.choice(SIDES), draw.choice((1, 3))
        layer = parse_layer(f"cin={cin} cout={cout} k={kernel} hw={side}")
        if layer not in grid:
            found[layer] = None
    return list(found)


def predicted(table: LayerTable, known: Sequence[Layer], asked: Sequence[Layer]) -> list[Predicted]:
    """What the known layers of a table say of others that it measured too."""
    part = replace(table, rows=tuple(table.row(layer) for layer in known))
    rows = [table.row(layer) for layer in asked]
    able = [(row, row.latency_ms) for row in rows if row.latency_ms is not None]
    guesses = predict_layers(part, [row.layer for row, _ in able])
    return [
        Predicted(
            row.layer.name,
            row.layer.family,
            latency_ms,
            guess.latency_ms,
            guess.low_ms,
            guess.high_ms,
        )
        for (row, latency_ms), guess in zip(able, guesses, strict=True)
    ]


def held_out(table: LayerTable, layers: Sequence[Layer]) -> list[list[str]]:
    """Folds of the grid itself, a line a sort."""
    lines = []
    for family in dict.fromkeys(layer.family for layer in layers):
        rows = [table.row(layer) for layer in layers if layer.family == family]
        found = held_out_layers(rows)
        lines.append(
            [
                family,
                f"{found.count}",
                f"{found.mean_error_percent:.2f} %",
                f"{found.worst_error_percent:.1f} %",
                f"{found.coverage_percent:.0f} %",
                f"{found.widened:.2f}",
            ]
        )
    return lines


def from_parts(table: LayerTable, grid: Sequence[Layer], asked: Sequence[Layer]) -> list[list[str]]:
    """The layers between, from random parts of the grid that still hold its corners."""
    lines = []
    for share in SHARES:
        known = grid if share == 1.0 else _part(grid, share)
        found = predicted(table, known, asked)
        lines.append([f"{len(known)}", *_said(found)])
    return lines


def _part(grid: Sequence[Layer], share: float) -> list[Layer]:
    ends = ((16, 128), (16, 160), (7, 56))
    corners = [
        layer
        for layer in grid
        if all(
            size in end
            for size, end in zip(
                (layer.in_channels, layer.out_channels, layer.height), ends, strict=True
            )
        )
    ]
    others = [layer for layer in grid if layer not in corners]
    count = round(share * len(grid)) - len(corners)
    return [*corners, *random.Random(1).sample(others, count)]


def _said(found: Sequence[Predicted]) -> list[str]:
    errors = [abs(one.error_percent) for one in found]
    inside = sum(one.is_inside for one in found)
    widths = [50.0 * (one.high_ms - one.low_ms) / one.predicted_ms for one in found]
    return [
        f"{statistics.fmean(errors):.2f} %",
        f"{max(errors):.1f} %",
        f"{inside} of {len(found)}",
        f"±{statistics.median(widths):.1f} %",
    ]


def report(table: LayerTable, grid: Sequence[Layer], asked: Sequence[Layer]) -> str:
    """The page."""
    c = table.conditions
    widths = [row.half_width_percent for row in table.measured if row.half_width_percent]
    machine = table.fingerprint.get("cpu_model", "unknown CPU")
    return "\n".join(
        [
            "# Layers predicted from a grid",
            "",
            f"`python benchmarks/layer_prediction.py`, {table.date[:10]}, dshrink "
            f"{table.dshrink_version}, {c.device} ({machine}), {c.runtime} {c.runtime_version}, "
            f"{c.precision}, batch {c.batch}, {c.threads} thread.",
            "",
            f"Grid `{GRID}`: {len(grid)} layers, and {len(asked)} layers between them, by turns in "
            f"the same processes: {table.within_target} of {len(table.rows)} known within "
            f"{table.target_percent:g} % (95 % intervals; median "
            f"{statistics.median(widths):.1f} %).",
            "",
            "Each layer of the grid from the others (five folds; edges left out). The interval is "
            "widened by the last column in predictions:",
            "",
            *markdown_table(
                ["layers", "held out", "mean error", "worst", "in their 95 % interval", "widened"],
                held_out(table, grid),
            ),
            "",
            "Layers between, of which the grid holds neither the channels nor most sizes of map; "
            "from the whole grid, and from random parts that still hold its corners:",
            "",
            *markdown_table(
                [
                    "known layers",
                    "mean error",
                    "worst",
                    "in their 95 % interval",
                    "median interval",
                ],
                from_parts(table, grid, asked),
            ),
            "",
        ]
    )


def main() -> None:
    """Measure, predict, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of table and journal")
    parser.add_argument("--device", default="local")
    parser.add_argument("--runtime")
    given = parser.parse_args()
    grid = list(parse_grid(GRID).layers)
    asked = between(grid)
    layers = LayerList(layers=(*grid, *asked), given=len(grid) + len(asked))
    result = measure_layers(
        layers,
        given.out,
        Target(device=given.device, runtime=given.runtime),
        notice=lambda line: print(line, file=sys.stderr),
    )
    table = result.table
    page = RESULTS / f"layer_prediction_{given.device}.md"
    page.write_text(report(table, grid, asked))
    rows = predicted(table, grid, asked)
    write_csv(
        page.with_suffix(".csv"),
        [*Predicted._fields, "error_percent"],
        [[*one, round(one.error_percent, 3)] for one in rows],
    )
    print(page.read_text())


if __name__ == "__main__":
    main()
