"""What the pictures share: size, colours, titles, the axis of blocks, and the two files.

A picture is 9 inches wide, so that its smallest font keeps 9 pt at the 900 pixels of a README; the
PNG has twice the pixels for sharp screens. Colours are Okabe and Ito's, which stay apart for
colour-blind readers.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D

from dshrink.errors import PlotError
from latency_tables.files import write_atomically
from latency_tables.schema import Conditions, Row
from latency_tables.table import LatencyTable
from latency_tables.wording import counted, noun

WIDTH_INCHES = 9.0
PNG_DPI = 200
SMALLEST_FONT_PT = 9.0
_SUBTITLE_COLUMNS = 135
_LABEL_COLUMNS = 30

BLUE, ORANGE, VERMILLION = "#0072B2", "#E69F00", "#D55E00"
GREEN, PURPLE, SKY, BLACK = "#009E73", "#CC79A7", "#56B4E9", "#000000"
GREY = "#595959"
#: Of several series in one picture.
SERIES_COLOURS = (BLUE, VERMILLION, GREEN, PURPLE, SKY, BLACK)

#: What a kind of piece is called and coloured in every picture.
KIND_LABELS = {
    "original": "original",
    "merged": "merged",
    "merged_bias_map": "merged with bias map",
    "dense": "dense, equal MACs",
}
KIND_COLOURS = dict(zip(KIND_LABELS, (BLUE, ORANGE, VERMILLION, GREEN), strict=True))
CLOCK_LABELS = {"thread_cpu": "thread CPU time", "wall": "wall time", "cuda_events": "GPU time"}
#: How results are measured if nothing else is said of them.
_UNSAID = ("", "plain", "hot")
LAUNCH_LABELS = {"plain": "plain launches", "cuda_graph": "CUDA graph", "compiled": "compiled"}

# Any: what matplotlib calls a parameter, and whether it types it, differs between its versions.
_STYLE: dict[Any, Any] = {
    "font.size": SMALLEST_FONT_PT,
    "figure.dpi": 100,
    "axes.labelsize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.handlelength": 1.4,
    "legend.columnspacing": 1.2,
    # A dollar sign in the name of a file is no formula.
    "text.parse_math": False,
    # Equal pictures are equal files: no random ids.
    "svg.hashsalt": "dshrink",
}


@contextmanager
def house_style() -> Iterator[None]:
    """Draw inside of this: neither the user's matplotlibrc nor an earlier picture shows."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield


@contextmanager
def new_figure(height: float, title: str, subtitle: str) -> Iterator[Figure]:
    """A figure without a window, ``height`` inches high, to draw on in the house style.

    ``title`` is above the picture, and below it in grey the ``subtitle``: what it was drawn from.
    """
    lines = [
        line
        for part in subtitle.splitlines()
        for line in textwrap.wrap(part, _SUBTITLE_COLUMNS, break_on_hyphens=False)
    ]
    placed: dict[str, Any] = {"verticalalignment": "top", "horizontalalignment": "left"}
    with house_style():
        figure = Figure(figsize=(WIDTH_INCHES, height))
        FigureCanvasAgg(figure)
        yield figure
        figure.text(0.01, 1 - 0.08 / height, title, fontsize=12, fontweight="bold", **placed)
        figure.text(0.01, 1 - 0.31 / height, "\n".join(lines), color=GREY, **placed)
        top = 1 - (0.36 + 0.15 * len(lines)) / height
        figure.set_layout_engine(ConstrainedLayoutEngine(rect=(0, 0, 1, top)))


def legend_above(axes: Axes, columns: int, **options: Any) -> None:
    """A legend that cannot hide data: in rows above the axes."""
    axes.legend(
        loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, borderaxespad=0.2, **options
    )


def legend_mark(
    marker: str, label: str, face: str, *, edge: str = BLACK, size: float = 6, width: float = 0.9
) -> Line2D:
    """The entry of a mark in a legend."""
    face_and_edge: dict[str, Any] = {"mfc": face, "mec": edge, "mew": width}
    return Line2D([], [], ls="none", marker=marker, ms=size, label=label, **face_and_edge)


def set_row_axis(axes: Axes, labels: Sequence[str], summaries: Sequence[str]) -> None:
    """The y axis of a picture with a row a network, the first on top, with a summary beside it."""
    for row, summary in enumerate(summaries):
        place = axes.get_yaxis_transform()
        axes.text(1.01, row, summary, transform=place, verticalalignment="center")
    axes.set_yticks(range(len(labels)), [shortened(label) for label in labels])
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines[:].set_visible(False)


def series_labels(
    columns: Sequence[str], series: Sequence[tuple[str, ...]], always: Collection[str] = ()
) -> tuple[list[str], list[str]]:
    """A label a series, of the columns that differ and of ``always``; and what all of them share.

    A series has one value a column; what is shared and as by default goes without saying.
    """
    values = list(zip(*series, strict=True))
    differing = [
        place for place, name in enumerate(columns) if name in always or len(set(values[place])) > 1
    ]
    shared = [
        phrase(name, values[place][0])
        for place, name in enumerate(columns)
        if place not in differing and values[place][0] not in _UNSAID
    ]
    labels = [
        ", ".join(phrase(columns[place], key[place]) for place in differing if key[place])
        for key in series
    ]
    return labels, shared


def phrase(column: str, value: str | int) -> str:
    """A condition as a subtitle has it: "batch 8", "2 threads", "wall time"."""
    text = str(value)
    phrases = {
        "batch": f"batch {text}",
        "threads": f"{text} {noun(1 if text == '1' else 2, 'thread')}",
        "cache_mode": f"{text} cache",
        "launch": LAUNCH_LABELS.get(text, text),
        "clock": CLOCK_LABELS.get(text, text),
    }
    return phrases.get(column, text)


def shortened(label: str) -> str:
    """The end of a long label, which is where names of files differ."""
    return label if len(label) <= _LABEL_COLUMNS else f"...{label[3 - _LABEL_COLUMNS :]}"


def describe_conditions(conditions: Conditions) -> str:
    """ "local, onnxruntime 1.31.1, fp32, batch 1, 1 thread, thread CPU time"."""
    c = conditions
    is_gpu = c.clock == "cuda_events"
    parts = [c.device, f"{c.runtime} {c.runtime_version}", c.precision, phrase("batch", c.batch)]
    parts += [] if is_gpu else [phrase("threads", c.threads)]
    parts += [phrase("launch", c.launch)] if is_gpu or c.launch != "plain" else []
    parts += [] if c.power_mode == "default" else [c.power_mode]
    parts += [] if c.cache_mode == "hot" else [phrase("cache_mode", c.cache_mode)]
    return ", ".join([*parts, phrase("clock", c.clock)])


def describe_network(table: LatencyTable) -> str:
    height, width = table.resolution
    return f"{table.model} at {height}x{width}"


def describe_table(table: LatencyTable) -> str:
    """The network and the conditions of a table, for a subtitle.

    Of a published table only what its source may state: neither clock nor launch are known.
    """
    if table.origin is None:
        return f"{describe_network(table)}, {describe_conditions(table.conditions)}"
    c = table.conditions
    version = "" if c.runtime_version == "unknown" else f" {c.runtime_version}"
    return (
        f"{describe_network(table)}, {c.device}, {c.runtime}{version}, {c.precision}, "
        f"batch {c.batch}; published by {table.origin.source}"
    )


def present_kinds(table: LatencyTable, kinds: Sequence[str]) -> list[str]:
    """Those of ``kinds`` that the table holds. Raises PlotError if it holds none of them."""
    present = [kind for kind in kinds if any(row.kind == kind for row in table.rows)]
    if not present and table.chain:
        raise PlotError(
            f"the table of {table.model} on {table.conditions.device} is cut into spans, not into "
            "blocks; draw plans from it: dshrink plot kept PLAN --table DIR"
        )
    if not present:
        raise PlotError(
            f"the table of {table.model} on {table.conditions.device} holds no rows of blocks to "
            f"draw; measure them: {table.profile_command}"
        )
    return present


def set_block_axis(axes: Axes, count: int) -> None:
    """The x axis of a picture with one place a block."""
    step = 1 if count <= 32 else 2 if count <= 64 else 5
    axes.set_xticks(range(0, count, step))
    axes.set_xlim(-0.6, count - 0.4)
    axes.tick_params(axis="x", length=0)


def block_axis_label(table: LatencyTable) -> str:
    """Says which way the blocks are numbered, and which of them cannot merge."""
    label = "Block (numbered from 0, input to output)"
    blocked = sorted(table.unmergeable)
    if not blocked:
        return label
    listed = ", ".join(map(str, blocked)) if len(blocked) <= 12 else counted(len(blocked), "block")
    return f"{label}; cannot merge: {listed}"


def draw_bars(
    axes: Axes,
    table: LatencyTable,
    kinds: Sequence[str],
    height: Callable[[Row], float],
    interval: Callable[[Row], tuple[float, float, float]] | None = None,
) -> list[tuple[Row, float]]:
    """A group of bars a block, of the ``kinds`` that the table holds; each row and its bar's x.

    An ``interval`` is as in ``error_lengths``. Raises PlotError where the table holds no such row.
    """
    present = present_kinds(table, kinds)
    width = 0.82 / len(present)
    drawn: list[tuple[Row, float]] = []
    for place, kind in enumerate(present):
        offset = (place - (len(present) - 1) / 2) * width
        rows = [row for row in table.rows if row.kind == kind]
        at = [row.block + offset for row in rows if row.block is not None]
        axes.bar(
            at,
            [height(row) for row in rows],
            width,
            yerr=error_lengths(map(interval, rows)) if interval else None,
            color=KIND_COLOURS[kind],
            label=KIND_LABELS[kind],
            error_kw={"elinewidth": 0.9, "capsize": 1.6, "ecolor": BLACK},
        )
        drawn += zip(rows, at, strict=True)
    return drawn


def error_lengths(
    intervals: Iterable[tuple[float, float, float]],
) -> tuple[list[float], list[float]]:
    """The lengths of error bars below and above the middle of (low, middle, high)."""
    known = list(intervals)
    return [middle - low for low, middle, _ in known], [high - middle for _, middle, high in known]


def picture_files(path: Path) -> tuple[Path, Path]:
    """FILE.png and FILE.svg. Raises PlotError for a path that names no file."""
    known = {f".{name}" for name in FigureCanvasAgg.get_supported_filetypes()}
    stem = path.stem if path.suffix.lower() in known else path.name
    if not stem or path.is_dir():
        raise PlotError(f"{path}: not the name of a file; give the picture a name like blocks.png")
    return path.with_name(f"{stem}.png"), path.with_name(f"{stem}.svg")


def save_figure(figure: Figure, path: Path | str) -> tuple[Path, Path]:
    """Write FILE.png and FILE.svg side by side; ``path`` may carry either suffix, or none.

    Folders are made where they are missing. Raises PlotError for a path that names no file.
    """
    png, svg = picture_files(Path(path))
    with house_style():
        write_atomically(png, lambda file: figure.savefig(file, format="png", dpi=PNG_DPI))
        write_atomically(
            svg, lambda file: figure.savefig(file, format="svg", metadata={"Date": None})
        )
    return png, svg
