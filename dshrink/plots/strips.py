"""Strips: a network cut into spans as a row of cells, one cell a convolution of the chain.

Convolutions that merge share one cell; a dot is an activation behind the convolution,
a hollow dot is one that the original network does not have.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from dshrink.errors import PlotError
from dshrink.plots import style
from latency_tables.span_masks import ACTIVE, SpanChain, mask_spans
from latency_tables.wording import counted

#: The tint of a convolution that stays alone; dots must stay readable on it.
PALE = "#C9DDEC"
STRIP_INCHES = 0.3
#: What axis, legend and margins of the strips need beside them.
FRAME_INCHES = 0.85
_GAP = 0.09
#: About how much of the picture's width the cells get, between the labels and the summaries.
_CELLS_INCHES = 0.68 * style.WIDTH_INCHES
_LABEL_INCHES = 0.27


@dataclass(frozen=True, slots=True, kw_only=True)
class Strip:
    """One network: its name, its span mask, what is written beside it, its name's colour."""

    label: str
    mask: str
    summary: str
    colour: str = style.BLACK


def layers_label(mask: str) -> str:
    """ "30 of 50 layers"."""
    return f"{len(mask_spans(mask))} of {len(mask)} layers"


def with_original(strips: Sequence[Strip], chain: SpanChain | None) -> tuple[Strip, ...]:
    """The strips, below that of the original network where its chain is known."""
    if chain is None:
        return tuple(strips)
    layers = counted(chain.length, "layer")
    return (Strip(label="original", mask=chain.mask, summary=layers), *strips)


def draw_strips(axes: Axes, strips: Sequence[Strip], chain: SpanChain | None) -> None:
    """A row a strip, the first on top; with a chain, lines where building blocks end.

    Raises PlotError where two strips have chains of different length.
    """
    count = len(strips[0].mask)
    for strip in strips:
        if len(strip.mask) != count:
            raise PlotError(
                f"{strip.label} has a chain of {len(strip.mask)} convolutions, {strips[0].label} "
                f"one of {count}: draw networks of one chain together"
            )
    for row, strip in enumerate(strips):
        _draw_cells(axes, row, strip.mask)
    has_added = _draw_dots(axes, strips, chain)
    _dress(axes, strips, count, chain)
    style.legend_above(axes, columns=5, handles=_legend(has_added))


def _draw_cells(axes: Axes, row: int, mask: str) -> None:
    for merged in (False, True):
        spans = [(i, j) for i, j in mask_spans(mask) if (j - i > 1) == merged]
        axes.broken_barh(
            [(i + 0.5 + _GAP, j - i - 2 * _GAP) for i, j in spans],
            (row - 0.34, 0.68),
            facecolors=style.ORANGE if merged else PALE,
            label=f"_{'merged' if merged else 'alone'} {row}",
        )


def _draw_dots(axes: Axes, strips: Sequence[Strip], chain: SpanChain | None) -> bool:
    dots = [
        (at, row, chain is None or chain.mask[at - 1] == ACTIVE)
        for row, strip in enumerate(strips)
        for at, sign in enumerate(strip.mask, start=1)
        if sign == ACTIVE
    ]
    size = min(4.5, 40 * _CELLS_INCHES / len(strips[0].mask)) ** 2
    for is_own, face, label in (
        (True, style.BLACK, "activation"),
        (False, "white", "added activation"),
    ):
        axes.scatter(
            [at for at, _, own in dots if own == is_own],
            [row for _, row, own in dots if own == is_own],
            s=size,
            facecolors=face,
            edgecolors=style.BLACK,
            linewidths=0.8,
            label=f"_{label}",
            zorder=3,
        )
    return not all(own for _, _, own in dots)


def _dress(axes: Axes, strips: Sequence[Strip], count: int, chain: SpanChain | None) -> None:
    ends = list(chain.block_ends) if chain else []
    step = next(s for s in (1, 2, 5, 10, 20, 50, 100) if count / s * _LABEL_INCHES <= _CELLS_INCHES)
    ticks = ends or [1, *range(step, count + 1, step)][step == 1 :]
    axes.set_xticks(ticks, _thinned(ticks, count))
    axes.set_xlim(0.4, count + 0.6)
    style.set_row_axis(axes, [strip.label for strip in strips], [strip.summary for strip in strips])
    for label, strip in zip(axes.get_yticklabels(), strips, strict=True):
        label.set_color(strip.colour)
    for end in ends[:-1] if ends else []:
        axes.axvline(end + 0.5, color=style.GREY, linewidth=0.6, linestyle=(0, (2, 2)), zorder=0)
    axes.set_xlabel(
        f"Convolution (1 to {count}, input to output"
        + ("; ticks and lines: last one of each block)" if ends else ")")
    )


def _thinned(ticks: Sequence[int], count: int) -> list[str]:
    """The numbers of the ticks, but for those that would cover the one before."""
    labels, last = [], -float(count)
    for tick in ticks:
        fits = (tick - last) / count * _CELLS_INCHES >= _LABEL_INCHES
        labels.append(str(tick) if fits else "")
        last = tick if fits else last
    return labels


def _legend(has_added: bool) -> list[Patch | Line2D]:
    dots = [(style.BLACK, "activation behind it"), ("white", "added activation")][: 1 + has_added]
    return [
        Patch(facecolor=PALE, label="convolution alone"),
        Patch(facecolor=style.ORANGE, label="merged into one"),
        *(style.legend_mark("o", label, face, size=4.5, width=0.8) for face, label in dots),
    ]
