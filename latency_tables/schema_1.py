"""Tables of schema version 1, as this version reads them.

They held a line through sums of rows (``calibration``) and stored predictions (``hold_out``). Their
networks are all that is taken over: those of the line are fitted, the others are checked. What the
pieces cost in a network is estimated from these anew.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

from latency_tables.errors import LatencyTableError, TableFormatError
from latency_tables.networks import MeasuredNetwork
from latency_tables.records import parse_record
from latency_tables.schema import COLUMNS, IN_NETWORK, SCHEMA, Conditions
from latency_tables.sidecar import FIX, CommonSidecar, Sidecar
from latency_tables.wording import counted

#: The columns of the CSV that came later.
NEW_COLUMNS = (*IN_NETWORK, "profiled_ms")
COLUMNS_1 = tuple(name for name in COLUMNS if name not in NEW_COLUMNS)
#: The interval of the networks of a line was not kept: this share of the latency on either side.
_HALF_WIDTH = 0.01
_DRIFT = re.compile(
    r"round \d+: \d+ measurements? (?:was|were) kept although the anchor moved by "
    r"([+-]?[\d.]+) % around (?:it|them)"
)
_REPEAT = re.compile(r".+: two measurements of it, .+ differ by ([\d.]+) %; at most .+")


@dataclass(frozen=True, kw_only=True)
class _LineNetwork:
    keep_mask: str
    padding: str
    measured_ms: float
    sum_ms: float


@dataclass(frozen=True, kw_only=True)
class _Line:
    DERIVED: ClassVar = ("intercept_ms", "base_sum_ms", "slope", "slope_bias_map")

    networks: tuple[_LineNetwork, ...]
    method: str


@dataclass(frozen=True, kw_only=True)
class _CheckNetwork:
    keep_mask: str
    padding: str
    measured_ms: float
    measured_low_ms: float
    measured_high_ms: float
    predicted_ms: float
    plain_sum_ms: float
    scaled_macs_ms: float


@dataclass(frozen=True, kw_only=True)
class _Check:
    DERIVED: ClassVar = (
        "mape_percent",
        "max_error_percent",
        "within_5_percent",
        "within_10_percent",
        "kendall_tau",
        "interval_percent",
        "interval_method",
        "leave_one_out_coverage_percent",
        "plain_sum_mape_percent",
        "plain_sum_max_error_percent",
        "scaled_macs_mape_percent",
        "scaled_macs_max_error_percent",
    )

    networks: tuple[_CheckNetwork, ...]


@dataclass(frozen=True, kw_only=True)
class _Sidecar1(CommonSidecar):
    context: str
    calibration: _Line | None
    hold_out: _Check | None
    contexts: Mapping[str, Any]
    twins: tuple[Mapping[str, Any], ...]


def conditions_of_today(conditions: Conditions) -> Conditions:
    """The conditions of a table of version 1: what was "quiet" then is another statistic now."""
    is_quiet = conditions.statistic == "quiet"
    return replace(conditions, statistic="quiet-1") if is_quiet else conditions


def is_version_1(text: str) -> bool:
    """Whether the text of a sidecar is of schema version 1."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(data, dict) and data.get("schema_version") == 1


def parse_sidecar_1(text: str, where: str) -> Sidecar:
    """The sidecar of version 1 as one of today. Raises LatencyTableError, which names ``where``."""
    old = parse_record(text, _Sidecar1, where=where, error=TableFormatError, fix=FIX, schema=SCHEMA)
    common = {field.name: getattr(old, field.name) for field in fields(CommonSidecar)}
    try:
        networks = _networks(old)
    except LatencyTableError as error:
        raise type(error)(f"{where}: {error}: {FIX}") from None
    common["warnings"] = _warnings(old)
    return Sidecar(**common, networks=networks, estimate=None, level=None)


def _warnings(old: _Sidecar1) -> tuple[str, ...]:
    """Each kind once, with its worst figure: there was a line a round, and a line a piece."""
    drifts = [float(hit.group(1)) for one in old.warnings if (hit := _DRIFT.fullmatch(one))]
    repeats = [float(hit.group(1)) for one in old.warnings if (hit := _REPEAT.fullmatch(one))]
    found = [
        one for one in old.warnings if not _DRIFT.fullmatch(one) and not _REPEAT.fullmatch(one)
    ]
    if drifts:
        found.append(
            f"the machine's speed drifted by up to {max(map(abs, drifts)):.1f} %; close other "
            "programs and profile again"
        )
    if repeats:
        checked = counted(max(len(old.twins), len(repeats)), "piece")
        found.append(
            f"Repeat check: {len(repeats)} of {checked} differed by more than 1 % (worst "
            f"{max(repeats):.1f} %)"
        )
    return tuple(found)


def _networks(old: _Sidecar1) -> tuple[MeasuredNetwork, ...]:
    fitted = [
        MeasuredNetwork(
            keep_mask=one.keep_mask,
            padding=one.padding,
            role="fit",
            measured_ms=one.measured_ms,
            low_ms=one.measured_ms * (1 - _HALF_WIDTH),
            high_ms=one.measured_ms * (1 + _HALF_WIDTH),
        )
        for one in (old.calibration.networks if old.calibration else ())
    ]
    checked = [
        MeasuredNetwork(
            keep_mask=one.keep_mask,
            padding=one.padding,
            role="check",
            measured_ms=one.measured_ms,
            low_ms=one.measured_low_ms,
            high_ms=one.measured_high_ms,
        )
        for one in (old.hold_out.networks if old.hold_out else ())
    ]
    return (*fitted, *checked)
