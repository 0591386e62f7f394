"""Measure a list or a grid of layers on a device, and write their latency table."""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from dshrink.errors import DshrinkError
from dshrink.limits import MOST_SECONDS, require_within
from dshrink.progress import Notice, OnProgress, no_notice, no_progress
from dshrink.version import __version__
from latency_tables.layers.io import save_layer_table
from latency_tables.layers.layer import Layer
from latency_tables.layers.layer_table import CONTEXTS
from latency_tables.layers.texts import LayerList, described, load_layers, parse_grid
from latency_tables.wording import counted, noun
from profiler.layers.profile import TARGET_PERCENT, LayersProfile, LayersRequest, profile_layers
from profiler.settings import settings_for
from profiler.target import HERE, Target, measuring_on
from profiler.workloads import build_onnx


def layers_of(path: Path | None, grid: str | None) -> LayerList:
    """The layers of a CSV or of a grid's combinations. Raises DshrinkError unless one is given."""
    if path is not None and grid is None:
        return load_layers(path)
    if grid is not None and path is None:
        return parse_grid(grid)
    raise DshrinkError("give either --layers FILE or --grid TEXT")


def measure_layers(
    layers: LayerList | Iterable[Layer],
    folder: Path | str,
    target: Target = HERE,
    *,
    layer_context: str = "alone",
    target_error: float | None = None,
    time_limit: float | None = None,
    seed: int = 0,
    on_progress: OnProgress = no_progress,
    notice: Notice = no_notice,
) -> LayersProfile:
    """Measure each distinct layer of a list or grid; save the table in ``folder``.

    The same call resumes an interrupted run. Measuring ends when half of each layer's 95 %
    interval is at most ``target_error`` per cent of its latency (2 if None), or after
    ``time_limit`` seconds. With ``layer_context`` "pair" each layer is measured behind a pointwise
    convolution as well. Raises DshrinkError for an unknown context.
    """
    folder = Path(folder)
    if not isinstance(layers, LayerList):
        given = list(layers)
        layers = LayerList(layers=tuple(dict.fromkeys(given)), given=len(given))
    if not layers.layers:
        raise DshrinkError("no layer given")
    if layer_context not in CONTEXTS:
        raise DshrinkError(f"unknown --context {layer_context!r}; known: {', '.join(CONTEXTS)}")
    require_within("time-limit", time_limit, 1, MOST_SECONDS)
    target_percent = TARGET_PERCENT if target_error is None else target_error
    _say_what(layers, notice)
    with measuring_on(target, notice) as (scheduler, conditions):
        request = LayersRequest(
            layers=layers.layers,
            names=layers.names,
            context=layer_context,
            build=build_onnx,
            conditions=conditions,
            folder=folder,
            date=datetime.now(UTC).isoformat(timespec="seconds"),
            dshrink_version=__version__,
            target_percent=target_percent,
            time_limit_s=math.inf if time_limit is None else time_limit,
            settings=settings_for(conditions, seed=seed, half_width=target_percent / 100.0),
        )
        result = profile_layers(
            request,
            scheduler,
            on_start=lambda estimate: notice(str(estimate)),
            progress=on_progress,
        )
    save_layer_table(result.table, folder)
    notice(result.session.counts)
    return result


def _say_what(layers: LayerList, notice: Notice) -> None:
    equal = layers.given - len(layers.layers) - len(layers.impossible)
    same = f", {equal} more {noun(equal, 'is', 'are')} equal to one of them" if equal else ""
    notice(f"{counted(len(layers.layers), 'layer')} ({described(layers.layers)}){same}")
    if none := len(layers.impossible):
        notice(
            f"{none} of {layers.given} combinations of the grid {noun(none, 'is', 'are')} no "
            f"layer, as {layers.impossible[0]}"
        )
