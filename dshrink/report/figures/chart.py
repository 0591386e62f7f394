"""What the figures share: size, colours, marks, hover texts.

Backgrounds are clear and texts take their colour from the page's style sheet (``--bk-...``), so one
figure serves a light and a dark screen. Nothing is dragged: on a phone a finger scrolls the page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bokeh.models import (
    ColumnDataSource,
    FactorRange,
    GlyphRenderer,
    HoverTool,
    InlineStyleSheet,
    Legend,
    Span,
)
from bokeh.plotting import figure

#: Okabe and Ito's, which stay apart for colour-blind readers, on white and on black.
BLUE, ORANGE, VERMILLION = "#2b83ba", "#E69F00", "#D55E00"
GREEN, PURPLE, SKY, GREY = "#009E73", "#CC79A7", "#56B4E9", "#888888"
SERIES = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, GREY)
#: A second round of series has another mark.
MARKERS = ("circle", "square", "triangle", "diamond", "inverted_triangle", "hex", "star")

Columns = Mapping[str, Sequence[Any]]


def chart(
    x_label: str,
    y_label: str,
    *,
    height: int = 320,
    rows: Sequence[str] | None = None,
    **options: Any,
) -> figure:
    """An empty figure as wide as the page; ``rows`` are the names of a categorical y axis."""
    if rows is not None:
        options["y_range"] = FactorRange(*rows)
    drawn = figure(
        sizing_mode="stretch_width",
        height=height,
        min_width=260,
        tools="box_zoom,reset,save",
        active_drag=None,
        toolbar_location="above",
        background_fill_color=None,
        border_fill_color=None,
        outline_line_color=None,
        x_axis_label=x_label,
        y_axis_label=y_label,
        **options,
    )
    drawn.toolbar.logo = None
    drawn.toolbar.stylesheets = [InlineStyleSheet(css="@media print { :host { display: none; } }")]
    for axis in drawn.axis:
        axis.axis_label_text_font_style = "normal"
        axis.minor_tick_line_color = None
    if rows is not None:
        drawn.ygrid.grid_line_color = None
    return drawn


def hover(drawn: figure, renderer: GlyphRenderer[Any], said: Sequence[tuple[str, str]]) -> None:
    """Show these (label, "@column") where the pointer is on what was drawn."""
    drawn.add_tools(HoverTool(renderers=[renderer], tooltips=list(said), visible=False))


def source(columns: Columns) -> ColumnDataSource:
    return ColumnDataSource({name: list(values) for name, values in columns.items()})


def bars(drawn: figure, columns: Columns, colour: str, label: str, width: float) -> Any:
    """Upright bars at ``x`` of height ``top``; pale where ``doubtful``, with ends low to high."""
    data = source(columns)
    bar = drawn.vbar(
        x="x",
        top="top",
        width=width,
        source=data,
        fill_color=colour,
        fill_alpha="alpha",
        line_color=colour,
        legend_label=label,
    )
    drawn.segment(x0="x", x1="x", y0="low", y1="high", source=data, line_color=GREY, line_width=1.5)
    return bar


def zero_line(drawn: figure) -> None:
    """Along the x axis."""
    drawn.add_layout(Span(location=0, dimension="width", line_color=GREY, line_width=1))


def line_at(drawn: figure, x: float) -> None:
    drawn.add_layout(Span(location=x, dimension="height", line_color=GREY, line_width=1))


def legend_above(drawn: figure, columns: int = 3) -> None:
    """The legend in rows above the axes, where it hides nothing; a click hides a series."""
    legends = list(drawn.legend)
    if not legends:
        return
    legend: Legend = legends[0]
    drawn.add_layout(legend, "above")
    legend.orientation = "horizontal"
    legend.ncols = columns
    legend.background_fill_color = None
    legend.border_line_color = None
    legend.stylesheets = [InlineStyleSheet(css=".bk-label { color: var(--text) !important; }")]
    legend.padding = 0
    legend.margin = 0
    legend.click_policy = "hide"
    legend.label_text_font_size = "12px"


def row_height(rows: int, *, least: int = 150) -> int:
    """Of a figure with a row a network."""
    return max(least, 90 + 26 * rows)
