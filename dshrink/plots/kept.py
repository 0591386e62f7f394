"""Which blocks, or convolutions, keep their activations: a strip a plan (DepthShrinker, Fig. 4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dshrink.errors import PlotError
from dshrink.plots import style
from dshrink.plots.blocks import draw_block_latency
from dshrink.plots.strips import (
    FRAME_INCHES,
    STRIP_INCHES,
    Strip,
    draw_strips,
    layers_label,
    with_original,
)
from dshrink.search.plan import MASK_PREFIX, PAPER_PREFIX, SPANS_PREFIX, Plan
from latency_tables.predictor import predict
from latency_tables.span_masks import SpanChain
from latency_tables.table import LatencyTable

#: The height of a letter of a block's name, which is upright.
_INCHES_A_LETTER = 0.08


def kept_figure(
    plans: Mapping[str, Plan],
    *,
    table: LatencyTable | None = None,
    block_names: Sequence[str] = (),
    chain: SpanChain | None = None,
    padding: str | None = None,
) -> Figure:
    """A strip a plan, by its label: filled squares keep their activations, hollow ones are merged.

    With a table, block latency is drawn above and each plan's predicted latency beside its strip;
    the plans must fit the table then (``search.binding.bind`` puts their blocks in its order); the
    padding is each plan's own where ``padding`` is None. Plans that merge spans have a cell a
    convolution, below the original network where ``chain``, or the table's, says what that is.
    Raises PlotError without plans or with both kinds of them, MaskError for a plan that does not
    fit.
    """
    if not plans:
        raise PlotError("no plan to draw; give a file, mask:0011..., spans:1|01... or paper:NAME")
    if len({plan.segments for plan in plans.values()}) > 1:
        raise PlotError(
            "some of the plans merge blocks, others spans: draw each kind in a picture of its own"
        )
    if any(plan.span_mask for plan in plans.values()):
        return _spans_figure(plans, chain or (table.chain if table else None), table, padding)
    names = block_names or (table.block_names if table else ())
    letters = max(len(style.shortened(name)) for name in names or "0")
    rows_inches = 0.3 * len(plans)
    height = 1.45 + rows_inches + _INCHES_A_LETTER * letters + (0 if table is None else 2.4)
    title = "Blocks that keep their activations"
    with style.new_figure(height, title, _subtitle(plans, table)) as figure:
        if table is None:
            strips = figure.subplots()
        else:
            ratios = (2.0, 0.1 + rows_inches)
            latency, strips = figure.subplots(2, 1, sharex=True, height_ratios=ratios)
            draw_block_latency(latency, table, ("original", "merged", "merged_bias_map"))
        _draw_strips(strips, list(plans.values()), names)
        summaries = [
            f"{plan.kept_count} of {len(plan.keep_mask)} kept"
            f"{_latency(plan, table, padding, ' predicted')}"
            for plan in plans.values()
        ]
        style.set_row_axis(strips, list(plans), summaries)
    return figure


def _spans_figure(
    plans: Mapping[str, Plan],
    chain: SpanChain | None,
    table: LatencyTable | None,
    padding: str | None,
) -> Figure:
    strips = [
        Strip(
            label=label,
            mask=plan.span_mask,
            summary=f"{layers_label(plan.span_mask)}{_latency(plan, table, padding)}",
        )
        for label, plan in plans.items()
    ]
    drawn = with_original(strips, chain)
    height = 0.6 + FRAME_INCHES + STRIP_INCHES * len(drawn)
    title = "Convolutions that merge and activations that stay"
    with style.new_figure(height, title, _subtitle(plans, table)) as figure:
        draw_strips(figure.subplots(), drawn, chain)
    return figure


def plan_labels(texts: Sequence[str]) -> list[str]:
    """Short names for plans and files given as on the command line, unless two would share one.

    Several span masks, which are long, are numbered.
    """
    short = [_short(text) for text in texts]
    spans = [text for text in texts if text.startswith(SPANS_PREFIX)]
    numbered = {text: f"spans {number}" for number, text in reversed([*enumerate(spans, start=1)])}
    return [
        name if short.count(name) == 1 else numbered.get(text, text)
        for name, text in zip(short, texts, strict=True)
    ]


def _short(text: str) -> str:
    if text.startswith((MASK_PREFIX, SPANS_PREFIX)):
        return text.partition(":")[0]
    name = text.removeprefix(PAPER_PREFIX).replace("\\", "/").split("/")[-1]
    return name.removesuffix(".json").removesuffix(".csv")


def _latency(plan: Plan, table: LatencyTable | None, padding: str | None, note: str = "") -> str:
    """ ", 1.234 ms", by the table where there is one; nothing where no prediction is known."""
    predicted = predict(table, plan.mask, padding or plan.padding) if table else plan.predicted
    return f", {predicted.latency_ms:.4g} ms{note}" if predicted else ""


def _subtitle(plans: Mapping[str, Plan], table: LatencyTable | None) -> str:
    if table is not None:
        return style.describe_table(table)
    models = sorted({plan.model for plan in plans.values() if plan.model})
    return ", ".join(models) or "network not named: bare masks"


def _draw_strips(axes: Axes, plans: Sequence[Plan], names: Sequence[str]) -> None:
    count = max(len(plan.keep_mask) for plan in plans)
    for bit, face, edge, label in (
        ("1", style.BLUE, style.BLUE, "keeps its activations"),
        ("0", "none", style.GREY, "merged"),
    ):
        points = [
            (block, row)
            for row, plan in enumerate(plans)
            for block, found in enumerate(plan.keep_mask)
            if found == bit
        ]
        axes.scatter(
            [block for block, _ in points],
            [row for _, row in points],
            s=min(13.0, 330 / count) ** 2,
            marker="s",
            facecolors=face,
            edgecolors=edge,
            linewidths=0.9,
            label=label,
        )
    style.set_block_axis(axes, count)
    if len(names) == count:
        labels_below = [f"{number}  {style.shortened(name)}" for number, name in enumerate(names)]
        axes.set_xticks(range(count), labels_below, rotation=90)
    axes.set_xlabel("Block (numbered from 0, input to output)")
    style.legend_above(axes, columns=2, markerscale=0.7)
