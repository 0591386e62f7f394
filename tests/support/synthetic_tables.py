"""Tables of made-up latencies, to try a search without a device.

They are consistent in every respect that ``io.load_table`` checks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

from latency_tables.calibration import Calibration, CalibrationNetwork
from latency_tables.hold_out import HoldOut, HoldOutNetwork
from latency_tables.places import piece_name
from latency_tables.schema import Conditions, Row
from latency_tables.span_masks import ACTIVE, MERGED, Span, SpanChain
from latency_tables.table import LatencyTable

CONDITIONS = Conditions(device="nowhere", runtime="synthetic", runtime_version="1")


def synthetic_row(
    kind: str,
    at: int | Span | None = None,
    *,
    latency_ms: float | None = 1.0,
    half_width_percent: float = 0.5,
    macs: int = 1000,
    reason: str = "",
) -> Row:
    """A row whose other statistics follow from ``latency_ms``; None makes a failed row."""
    name = piece_name((kind, at))
    span = at if isinstance(at, tuple) else (None, None)

    def scaled(factor: float) -> float | None:
        return None if latency_ms is None else latency_ms * factor

    return Row(
        piece=name,
        kind=kind,
        block=None if isinstance(at, tuple) else at,
        start=span[0],
        end=span[1],
        first_layer=f"{name} first",
        last_layer=f"{name} last",
        digest=hashlib.sha256(name.encode()).hexdigest()[:16],
        latency_ms=latency_ms,
        low_ms=scaled(1 - half_width_percent / 100),
        high_ms=scaled(1 + half_width_percent / 100),
        median_ms=latency_ms,
        iqr_ms=scaled(0.01),
        min_ms=scaled(0.98),
        p90_ms=scaled(1.01),
        p99_ms=scaled(1.02),
        wall_latency_ms=latency_ms,
        cpu_latency_ms=latency_ms,
        samples=0 if latency_ms is None else 45,
        rounds=0 if latency_ms is None else 3,
        round_spread_percent=None if latency_ms is None else 0.2,
        macs=macs,
        parameters=10,
        peak_activations=100,
        verdict="failed" if latency_ms is None else "ok",
        reason=reason or ("timeout" if latency_ms is None else ""),
    )


def synthetic_table(
    original_ms: Sequence[float],
    merged_ms: Sequence[float | None],
    *,
    bias_map_ms: Mapping[int, float] | None = None,
    fixed_ms: float = 1.0,
    slope: float = 1.0,
    offset_ms: float = 0.1,
    hold_out_errors_percent: Sequence[float] = (0.1, -0.2, 0.3, -0.1, 0.2, -0.3, 0.1, -0.2),
    conditions: Conditions = CONDITIONS,
) -> LatencyTable:
    """A calibrated table of a network with these blocks; None in ``merged_ms``: cannot merge.

    Stem and head take ``fixed_ms`` each. The whole network takes ``offset_ms`` more than the sum of
    its rows when nothing is merged. The prediction of hold-out network k is off by
    ``hold_out_errors_percent[k]`` of the measurement.
    """
    rows = [synthetic_row("stem", latency_ms=fixed_ms)]
    for block, (original, merged) in enumerate(zip(original_ms, merged_ms, strict=True)):
        rows.append(synthetic_row("original", block, latency_ms=original, macs=1000 + 100 * block))
        if merged is not None:
            rows.append(synthetic_row("merged", block, latency_ms=merged, macs=2000 + 100 * block))
        if block in (bias_map_ms or {}):
            latency_ms = (bias_map_ms or {})[block]
            rows.append(synthetic_row("merged_bias_map", block, latency_ms=latency_ms, macs=2000))
    rows.append(synthetic_row("head", latency_ms=fixed_ms))
    table = LatencyTable(
        model="synthetic",
        resolution=(224, 224),
        in_channels=3,
        block_names=tuple(f"blocks.{block}" for block in range(len(original_ms))),
        unmergeable={
            block: "made up to be unmergeable"
            for block, merged in enumerate(merged_ms)
            if merged is None
        },
        rows=tuple(rows),
        conditions=conditions,
    )
    every = 2 ** len(table.mergeable)
    return _checked(
        table,
        [_mask(table, bits % every) for bits in range(len(hold_out_errors_percent) + 1)],
        _mask(table, every - 1),
        slope,
        offset_ms,
        hold_out_errors_percent,
    )


def synthetic_span_table(
    span_ms: Mapping[Span, float | None],
    *,
    mask: str,
    skips: Sequence[Span] = (),
    block_ends: Sequence[int] = (),
    addition_ms: float = 0.1,
    between_ms: Mapping[int, float] | None = None,
    fixed_ms: float = 1.0,
    bounded: Mapping[Span, str] | None = None,
    slope: float = 1.0,
    offset_ms: float = 0.1,
    hold_out_errors_percent: Sequence[float] = (0.1, -0.2, 0.3, -0.1, 0.2, -0.3, 0.1, -0.2),
    conditions: Conditions = CONDITIONS,
) -> LatencyTable:
    """A calibrated table of a chain with these spans, one span a convolution among them.

    ``mask`` is the original network's span mask, ``between_ms`` costs of fixed pieces by position.
    A span whose latency is None is a failed row; ``bounded`` says why spans are not measured to the
    end (with what ``span_ms`` gives them as the lower bound, or None).
    """
    bounded = bounded or {}
    rows = [synthetic_row("stem", latency_ms=fixed_ms)]
    for (i, j), latency_ms in span_ms.items():
        row = synthetic_row("span", (i, j), latency_ms=latency_ms, macs=1000 * (j - i) + 100 * i)
        if (i, j) in bounded:
            row = replace(row, verdict="bounded", reason=bounded[i, j])
        rows.append(row)
    rows += [synthetic_row("addition", skip, latency_ms=addition_ms, macs=0) for skip in skips]
    rows += [
        synthetic_row("between", (at, at), latency_ms=latency_ms)
        for at, latency_ms in (between_ms or {}).items()
    ]
    rows.append(synthetic_row("head", latency_ms=fixed_ms))
    table = LatencyTable(
        model="synthetic",
        resolution=(224, 224),
        in_channels=3,
        block_names=(),
        rows=tuple(rows),
        conditions=conditions,
        chain=SpanChain(
            convolutions=tuple(f"convs.{at}" for at in range(len(mask))),
            mask=mask,
            skips=tuple(skips),
            block_ends=tuple(block_ends),
        ),
    )
    masks = _span_masks(table)
    return _checked(table, masks, masks[-1], slope, offset_ms, hold_out_errors_percent)


#: So many masks of a table of spans are listed at most.
_MASKS = 200


def _span_masks(table: LatencyTable) -> list[str]:
    """The original network's, then those that merge spans with a latency."""
    chain = table.chain
    assert chain is not None
    base = chain.mask
    usable = [row.span for row in table.rows if row.kind == "span" and row.is_measured]
    found = [""]
    while found and len(found[0]) < chain.length:
        head = found.pop(0)
        for i, j in (span for span in usable if span is not None and span[0] == len(head)):
            end = base[i] if j == i + 1 else ACTIVE
            found.append(head + MERGED * (j - i - 1) + end)
        found = sorted(found, key=len)[:_MASKS]
    return [base, *(mask for mask in found if MERGED in mask)]


def _checked(
    table: LatencyTable,
    masks: Sequence[str],
    smallest: str,
    slope: float,
    offset_ms: float,
    errors_percent: Sequence[float],
) -> LatencyTable:
    """The table with a calibration, and with hold-out networks of these masks in turn."""
    calibration = _calibration(table, smallest, slope, offset_ms)
    held_out = [masks[(n + 1) % len(masks)] for n in range(len(errors_percent))]
    hold_out = _hold_out(table, calibration, held_out, errors_percent)
    return replace(table, calibration=calibration, hold_out=hold_out)


def _calibration(table: LatencyTable, smallest: str, slope: float, offset_ms: float) -> Calibration:
    base, padding = table.forms.base, table.forms.padding
    base_sum_ms = table.sum_ms(base)
    networks = []
    for keep_mask in dict.fromkeys([base, smallest]):
        sum_ms = table.sum_ms(keep_mask)
        networks.append(
            CalibrationNetwork(
                keep_mask=keep_mask,
                padding=padding,
                measured_ms=base_sum_ms + offset_ms + slope * (sum_ms - base_sum_ms),
                sum_ms=sum_ms,
            )
        )
    return Calibration(networks=tuple(networks))


def _mask(table: LatencyTable, bits: int) -> str:
    """The mask that shrinks the mergeable block k where bit k is set."""
    shrunk = {block for place, block in enumerate(table.mergeable) if bits >> place & 1}
    return "".join("0" if block in shrunk else "1" for block in range(table.block_count))


def _hold_out(
    table: LatencyTable,
    calibration: Calibration,
    masks: Sequence[str],
    errors_percent: Sequence[float],
) -> HoldOut | None:
    base, padding = table.forms.base, table.forms.padding
    networks = []
    for keep_mask, error_percent in zip(masks, errors_percent, strict=True):
        plain_sum_ms = table.sum_ms(keep_mask)
        predicted_ms = calibration.predict_ms(plain_sum_ms, padding)
        measured_ms = predicted_ms / (1 + error_percent / 100)
        macs_share = table.macs(keep_mask) / table.macs(base)
        networks.append(
            HoldOutNetwork(
                keep_mask=keep_mask,
                padding=padding,
                measured_ms=measured_ms,
                measured_low_ms=measured_ms * 0.995,
                measured_high_ms=measured_ms * 1.005,
                predicted_ms=predicted_ms,
                plain_sum_ms=plain_sum_ms,
                scaled_macs_ms=calibration.base_ms * macs_share,
            )
        )
    return HoldOut(tuple(networks)) if networks else None
