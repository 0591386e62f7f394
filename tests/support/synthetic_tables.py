"""Tables of made-up latencies, to try a search without a device.

They are consistent in every respect that ``io.load_table`` checks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

from latency_tables.in_network import with_network_costs
from latency_tables.networks import MeasuredNetwork
from latency_tables.places import piece_name
from latency_tables.predictor import predict
from latency_tables.priors import Estimate
from latency_tables.schema import Conditions, Row
from latency_tables.span_masks import ACTIVE, MERGED, Span, SpanChain
from latency_tables.table import LatencyTable

CONDITIONS = Conditions(device="nowhere", runtime="synthetic", runtime_version="1")
#: Networks are trusted to the last digits, so that costs are what they say.
ESTIMATE = Estimate(prior="alone", spread=0.08, floor=0.02, pairs=1e-6, noise=1e-6)


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
    offset_ms: float = 0.0,
    hold_out_errors_percent: Sequence[float] = (0.1, -0.2, 0.3, -0.1, 0.2, -0.3, 0.1, -0.2),
    conditions: Conditions = CONDITIONS,
) -> LatencyTable:
    """A table of a network with these blocks; None in ``merged_ms``: cannot merge.

    Stem and head take ``fixed_ms`` each. The original network takes ``offset_ms`` more than the sum
    of its rows, and networks differ by ``slope`` times what their sums do. The prediction of
    hold-out network k is off by ``hold_out_errors_percent[k]`` of the measurement.
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
    singles = [_mask(table, 2**number) for number in range(len(table.mergeable))]
    return _measured(
        table,
        [_mask(table, 0), *singles, _mask(table, every - 1)],
        [_mask(table, (n + 1) % every) for n in range(len(hold_out_errors_percent))],
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
    offset_ms: float = 0.0,
    hold_out_errors_percent: Sequence[float] = (0.1, -0.2, 0.3, -0.1, 0.2, -0.3, 0.1, -0.2),
    conditions: Conditions = CONDITIONS,
) -> LatencyTable:
    """A table of a chain with these spans, one span a convolution among them.

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
    checked = [masks[(n + 1) % len(masks)] for n in range(len(hold_out_errors_percent))]
    return _measured(table, masks, checked, slope, offset_ms, hold_out_errors_percent)


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


def _measured(
    table: LatencyTable,
    fitted: Sequence[str],
    checked: Sequence[str],
    slope: float,
    offset_ms: float,
    errors_percent: Sequence[float],
) -> LatencyTable:
    """The table with networks of these masks, and what they say in its rows."""
    base_ms = table.sum_ms(table.forms.base)
    paddings = [table.forms.padding]
    if any(row.kind == "merged_bias_map" for row in table.rows):
        paddings.append("repad")
    networks = [
        _network(
            mask,
            padding,
            "fit",
            base_ms + offset_ms + slope * (table.sum_ms(mask, padding) - base_ms),
            half_width=1e-6,
        )
        for mask in dict.fromkeys(fitted)
        for padding in paddings
        # Paddings that take the same pieces make the same network.
        if padding == paddings[0] or table.places(mask, padding) != table.places(mask)
    ]
    table = replace(table, networks=tuple(networks), estimate=ESTIMATE)
    for mask, error_percent in zip(checked, errors_percent, strict=True):
        measured_ms = predict(table, mask).latency_ms / (1 + error_percent / 100)
        networks.append(_network(mask, paddings[0], "check", measured_ms, half_width=0.005))
    return with_network_costs(replace(table, networks=tuple(networks)))


def _network(
    mask: str,
    padding: str,
    role: Literal["fit", "check"],
    measured_ms: float,
    *,
    half_width: float,
) -> MeasuredNetwork:
    return MeasuredNetwork(
        keep_mask=mask,
        padding=padding,
        role=role,
        measured_ms=measured_ms,
        low_ms=measured_ms * (1 - half_width),
        high_ms=measured_ms * (1 + half_width),
        processes=8,
    )


def without_networks(table: LatencyTable, *, role: str | None = None) -> LatencyTable:
    """The table as it would be had no network of this role, or of any, been measured."""
    left = tuple(one for one in table.networks if role and one.role != role)
    return with_network_costs(replace(table, networks=left))


def _mask(table: LatencyTable, bits: int) -> str:
    """The mask that shrinks the mergeable block k where bit k is set."""
    shrunk = {block for place, block in enumerate(table.mergeable) if bits >> place & 1}
    return "".join("0" if block in shrunk else "1" for block in range(table.block_count))
