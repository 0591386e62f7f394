"""Measure the pieces of a network on a device, and write its latency table."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from pathlib import Path

from dshrink.errors import DshrinkError
from dshrink.limits import MOST_HOLD_OUT, MOST_KERNEL, MOST_SECONDS, require_within
from dshrink.merge.export import require_same_when_written
from dshrink.network.models import Network
from dshrink.operations.opening import AnyNetwork, opened
from dshrink.pieces.advice import not_counted, require_batch, require_writable
from dshrink.pieces.block_pieces import network_pieces
from dshrink.pieces.operator_places import operator_places
from dshrink.pieces.span_pieces import span_pieces
from dshrink.pieces.specs import shrunk_spec
from dshrink.progress import Notice, OnProgress, no_notice, no_progress
from dshrink.version import __version__
from latency_tables.io import save_table
from latency_tables.pieces import NetworkPieces
from latency_tables.span_masks import SpanChoice
from latency_tables.wording import counted
from profiler.planning.profile_plan import CHECK_NETWORKS
from profiler.profile import Profile, ProfileRequest, profile
from profiler.profile_schedule import TARGET_PERCENT
from profiler.settings import settings_for
from profiler.target import HERE, Target, measuring_on
from profiler.workloads import build_onnx

SEGMENTS = ("blocks", "spans")
#: The spans that are profiled where no mode is asked for.
SPAN_MODE = "kim2023"


def profile_network(
    network: AnyNetwork,
    folder: Path | str,
    target: Target = HERE,
    *,
    segments: str = "blocks",
    span_mode: str | None = None,
    max_kernel: int | None = None,
    dense: bool = False,
    hold_out: int = CHECK_NETWORKS,
    target_error: float | None = None,
    time_limit: float | None = None,
    seed: int = 0,
    on_progress: OnProgress = no_progress,
    notice: Notice = no_notice,
) -> Profile:
    """Trace and measure a network; save its table in ``folder``.

    ``segments`` is what is measured: "blocks", with ``dense`` also their same-FLOPs dense
    counterparts, or "spans" (every run of convolutions that can become one), those of ``span_mode``
    "kim2023" (where it is None) or "exact", none with a merged kernel wider than ``max_kernel``.
    The same call resumes an interrupted run. Measuring ends when predictions should be off by
    ``target_error`` per cent on average (0.7 if None), or after ``time_limit`` seconds;
    ``hold_out`` networks take no part in the estimate. Raises DshrinkError for options that exclude
    each other and for what cannot be measured, ProfilerError and DevicesError for what the device
    cannot do.
    """
    folder = Path(folder)
    require_within("hold-out", hold_out, 8, MOST_HOLD_OUT)
    require_within("max-kernel", max_kernel, 1, MOST_KERNEL)
    require_within("time-limit", time_limit, 1, MOST_SECONDS)
    _check_segments(segments, dense=dense, span_mode=span_mode, max_kernel=max_kernel)
    asked = SpanChoice(mode=span_mode or SPAN_MODE, max_kernel=max_kernel)
    spans = asked if segments == "spans" else None
    with measuring_on(target, notice) as (scheduler, conditions):
        found = opened(network, notice=notice)
        require_batch(found, conditions.batch)
        request = ProfileRequest(
            pieces=_pieces(found, spans, dense, notice),
            compose=lambda mask, padding: shrunk_spec(
                found, mask, segments=segments, padding=padding
            ),
            operators=lambda mask, padding: operator_places(
                found, mask, segments=segments, padding=padding
            ),
            build=build_onnx,
            conditions=conditions,
            folder=folder,
            date=datetime.now(UTC).isoformat(timespec="seconds"),
            dshrink_version=__version__,
            check=hold_out,
            target_percent=TARGET_PERCENT if target_error is None else target_error,
            time_limit_s=math.inf if time_limit is None else time_limit,
            spans=spans,
            settings=settings_for(conditions, seed=seed),
            warnings=tuple(filter(None, [not_counted(found)])),
        )
        result = profile(
            request,
            scheduler,
            on_start=lambda estimate: notice(str(estimate)),
            progress=on_progress,
        )
    save_table(result.table, folder)
    notice(result.session.counts)
    return result


def _check_segments(
    segments: str, *, dense: bool, span_mode: str | None, max_kernel: int | None
) -> None:
    if segments not in SEGMENTS:
        raise DshrinkError(f"unknown --segments {segments!r}; known: {', '.join(SEGMENTS)}")
    if segments == "spans" and dense:
        raise DshrinkError("--dense measures counterparts of blocks: use it with --segments blocks")
    if segments == "blocks" and (span_mode or max_kernel):
        raise DshrinkError("--span-mode and --max-kernel are for --segments spans")


def _pieces(
    network: Network, spans: SpanChoice | None, dense: bool, notice: Notice
) -> NetworkPieces:
    """What is measured; notices say which blocks, or how many spans, cannot merge.

    Raises ShrinkError where nothing can be, or not in full.
    """
    require_writable(network)
    require_same_when_written(network)
    if spans is not None:
        pieces = span_pieces(network, mode=spans.mode)
        count = sum(piece.kind == "span" for piece in pieces.pieces)
        distinct = len({piece.spec.digest for piece in pieces.pieces})
        notice(
            f"{counted(count, 'span')} of {network.name}, "
            f"{counted(distinct, 'distinct piece')} with "
            f"the fixed ones; {counted(len(pieces.unmergeable), 'span')} cannot merge"
        )
        return pieces
    pieces = network_pieces(network, dense=dense)
    for at, reason in pieces.unmergeable.items():
        name = pieces.block_names[at] if isinstance(at, int) else at
        notice(f"block {at} ({name}) cannot merge: {reason}")
    return pieces
