"""Pictures of tables, plans, benchmark results and training, as PNG and SVG.

Each function returns a matplotlib ``Figure`` that stands alone: no pyplot and no window, so that
pictures can be drawn on a machine without a display, and a test can read their numbers back.
"""

from __future__ import annotations

from dshrink.errors import PlotError
from dshrink.plots.batches import batches_figure
from dshrink.plots.blocks import blocks_figure, dense_figure
from dshrink.plots.front import front_figure
from dshrink.plots.frontier import FrontierCurve, frontier_figure, load_frontier
from dshrink.plots.kept import kept_figure, plan_labels
from dshrink.plots.mask_history import (
    load_mask_history,
    mask_history_figure,
    mask_history_line,
)
from dshrink.plots.memory import memory_figure
from dshrink.plots.predicted import predicted_figure
from dshrink.plots.style import picture_files, save_figure
from dshrink.plots.throughput import throughput_figure

__all__ = [
    "FrontierCurve",
    "PlotError",
    "batches_figure",
    "blocks_figure",
    "dense_figure",
    "front_figure",
    "frontier_figure",
    "kept_figure",
    "load_frontier",
    "load_mask_history",
    "mask_history_figure",
    "mask_history_line",
    "memory_figure",
    "picture_files",
    "plan_labels",
    "predicted_figure",
    "save_figure",
    "throughput_figure",
]
