"""Plans as strips over the network: a row a plan, a cell a block or convolution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dshrink.report.content import Drawing
from dshrink.report.figures import chart
from dshrink.report.figures.of_results import unique_names
from latency_tables.span_masks import mask_spans

_GAP = 0.06


@dataclass(frozen=True, slots=True, kw_only=True)
class Strip:
    """A plan: its name, its mask of blocks or spans, and the names of what the mask is about."""

    label: str
    mask: str
    names: tuple[str, ...] = ()
    is_spans: bool = False


def strips(plans: Sequence[Strip], name: str) -> Drawing:
    """The strips of plans that are all about blocks, or all about spans of convolutions."""
    what = "convolution" if plans[0].is_spans else "block"
    labels = unique_names([plan.label for plan in plans])
    height = chart.row_height(len(plans), least=140)
    drawn = chart.chart(f"{what}, from input to output", "", rows=labels[::-1], height=height)
    cells = [cell for y, plan in zip(labels, plans, strict=True) for cell in _cells(y, plan)]
    for is_merged, colour, label in (
        (False, chart.SKY, "stays as it is"),
        (True, chart.ORANGE, "merged into one"),
    ):
        chosen = [cell for cell in cells if cell[3] == is_merged]
        if not chosen:
            continue
        data = chart.source(
            {
                "y": [y for y, *_ in chosen],
                "left": [left + _GAP for _, left, _, _, _ in chosen],
                "right": [right - _GAP for _, _, right, _, _ in chosen],
                "said": [said for *_, said in chosen],
            }
        )
        bar = drawn.hbar(
            y="y", left="left", right="right", height=0.7, source=data, fill_color=colour,
            line_color=None, legend_label=label,
        )  # fmt: skip
        chart.hover(drawn, bar, [("plan", "@y"), (what, "@said"), ("", label)])
    count = max(len(plan.mask) for plan in plans)
    step = 1 if count <= 20 else 5
    first = 1 if plans[0].is_spans else 0
    drawn.xaxis.ticker = [at + first for at in range(0, count, step)]
    drawn.x_range.start, drawn.x_range.end = first - 0.5, count - 0.5 + first
    drawn.xgrid.grid_line_color = None
    chart.legend_above(drawn, 2)
    return Drawing(
        name=name,
        title="The plans over the network",
        told=f"A strip a plan with a cell a {what}: blue ones stay, orange ones are merged. The "
        "masks are in the table below.",
        model=drawn,
        titles=("plan", "from", "to", "merged", what),
        rows=tuple(
            (y, int(left + 0.5), int(right - 0.5), int(merged), said)
            for y, left, right, merged, said in cells
        ),
    )


def _cells(label: str, plan: Strip) -> list[tuple[str, float, float, bool, str]]:
    """(row, left, right, whether it is merged, what it is), of each cell."""
    if not plan.is_spans:
        return [
            (label, at - 0.5, at + 0.5, sign == "0", _named(plan, at, at, at))
            for at, sign in enumerate(plan.mask)
        ]
    return [
        (label, i + 0.5, j + 0.5, j - i > 1, _named(plan, i + 1, i, j - 1))
        for i, j in mask_spans(plan.mask)
    ]


def _named(plan: Strip, number: int, first: int, last: int) -> str:
    if last >= len(plan.names):
        return str(number)
    ends = dict.fromkeys((plan.names[first], plan.names[last]))
    return f"{number} ({' .. '.join(ends)})"
