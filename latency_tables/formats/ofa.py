"""once-for-all's lookup tables: YAML, from a key to ``count``, ``mean`` and ``std`` in ms.

Its code reads ``mean`` alone. What is written there is the statistic of the table's conditions.
"""

from __future__ import annotations

from collections.abc import Iterable

from latency_tables.formats.exporting import Export, TimedSpec, by_key
from latency_tables.formats.ofa_keys import ofa_keys

NAME = "ofa"


def write_ofa(timed: Iterable[TimedSpec | str]) -> Export:
    """The YAML of these latencies. Raises TableFormatError where none of them has a key."""
    import yaml

    found, left_out = by_key(timed, ofa_keys, NAME)
    return Export(
        content=yaml.safe_dump({key: _entry(one) for key, one in sorted(found.items())}),
        rows=len({one.spec.digest for one in found.values()}),
        left_out=left_out,
    )


def _entry(one: TimedSpec) -> dict[str, float]:
    """As far as known."""
    entry: dict[str, float] = {"mean": one.latency_ms}
    if one.samples:
        entry["count"] = one.samples
    if one.stdev_ms is not None:
        entry["std"] = one.stdev_ms
    return entry
