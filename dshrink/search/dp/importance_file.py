"""Importance tables as CSV files, joined by key.

``st,end,st_act,end_act`` name a key; ``id`` is a line's number and means nothing. Raw tables hold
``val_acc``, the change of the accuracy in percentage points (Kim et al. 2023), and are normalised
by ``I - alpha * mean``, the mean taken over the single layers, so that plans which merge much are
not preferred for having fewer terms. Tables with a column ``imp`` or ``importance`` are taken as
they are.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np

from dshrink.search.dp.problem import Key, block_ends_of, key_name, key_names
from dshrink.search.errors import ImportanceError
from dshrink.search.importance import importance_keys
from latency_tables.csv_lines import CsvLine, CsvSource, load_lines
from latency_tables.json_fields import parse_document
from latency_tables.span_masks import Span

#: What single layers' mean is multiplied by for raw tables: MobileNetV2-1.0's in the paper.
DEFAULT_ALPHA = 1.6
NORMALISED = ("importance", "imp")
RAW = "val_acc"
#: What ``dshrink importance`` writes beside its table.
SIDECAR_SCHEMA = "dshrink.importance"
_KEY = ("st", "end", "st_act", "end_act")
_FIX = f"give a CSV with the columns {','.join(_KEY)} and {RAW} or importance"


def load_importance(path: Path, alpha: float | None = None) -> dict[Key, float]:
    """Read and normalise a table. Raises ImportanceError, which names keys, file and line."""
    source = CsvSource(where=str(path), error=ImportanceError, fix=_FIX)
    lines = load_lines(path, source, _KEY)
    column = next((name for name in (*NORMALISED, RAW) if name in lines[0].values), None)
    if column is None:
        raise source.bad(f"no column importance, imp or {RAW}", 1)
    if column != RAW and alpha is not None:
        raise ImportanceError(
            f"{path}: its column {column} is normalised already: alpha is for raw tables ({RAW})"
        )
    found: dict[Key, float] = {}
    first: dict[Key, CsvLine] = {}
    for line in lines:
        key = _key(line)
        if key in first:
            raise line.error(f"key {key_name(key)} stands on line {first[key].number} already")
        first[key] = line
        found[key] = line.number_in(column)
    return found if column != RAW else _normalised(found, alpha, path)


def load_unjudged(path: Path, model: str) -> frozenset[Key]:
    """The keys that ``dshrink importance`` could not judge, by the JSON beside its table.

    None where there is no such file: tables of others are a CSV alone. Raises ImportanceError where
    it is of another network than ``model``, whose keys may be the same.
    """
    beside = path.with_suffix(".json")
    if not beside.is_file():
        return frozenset()
    advice = "write it again with `dshrink importance`, or take the file away"
    source = parse_document(beside.read_text("utf-8"), str(beside), ImportanceError, advice)
    if source.get("schema") != SIDECAR_SCHEMA:
        return frozenset()
    measured = source.text("model")
    if measured.partition(".")[0] != model.partition(".")[0]:
        raise ImportanceError(
            f"{path} holds importances of {measured}, the latency table is of {model}: both must "
            "be of one network"
        )
    keys = (each.integers("key") for each in source.mappings("missing"))
    return frozenset((i, j, a, b) for i, j, a, b in keys)


def _key(line: CsvLine) -> Key:
    i, j, a, b = (line.whole(name) for name in _KEY)
    if i >= j:
        raise line.error(
            f"st {i} must be smaller than end {j}: a span holds convolutions st+1..end"
        )
    if {a, b} - {0, 1}:
        raise line.error(f"st_act and end_act must be 0 or 1, got {a} and {b}")
    return i, j, a, b


def _normalised(raw: dict[Key, float], alpha: float | None, path: Path) -> dict[Key, float]:
    alpha = DEFAULT_ALPHA if alpha is None else alpha
    if not np.isfinite(alpha):
        raise ImportanceError(f"alpha must be a finite number, got {alpha}")
    singles = [value for (i, j, _, _), value in raw.items() if j == i + 1]
    if not singles:
        raise ImportanceError(f"{path}: no single layers (end = st + 1) to normalise by")
    offset = alpha * float(np.mean(singles))
    return {key: value - offset for key, value in raw.items()}


def check_keys(
    importance: Collection[Key],
    available: Collection[Span],
    *,
    where: str,
    possible: Collection[Span] | None = None,
    block_ends: Collection[int] | None = None,
    excused: Collection[Key] = (),
) -> None:
    """Raise ImportanceError unless the table has a key wherever the spans need one, and no other.

    ``available`` are the spans with a latency, ``possible`` all that may have keys (the same if not
    given), ``excused`` keys that could not be judged: no plan uses them. Without ``block_ends``
    they are where a key has no activation.
    """
    ends = block_ends_of(importance) if block_ends is None else block_ends
    missing = set(importance_keys(available, ends)) - set(importance) - set(excused)
    if missing:
        raise ImportanceError(
            f"{where}: {len(missing)} key(s) (st, end, st_act, end_act) are missing: "
            f"{key_names(missing)}; every span of the latency table needs its keys"
        )
    spans = set(available if possible is None else possible)
    unknown = {key for key in importance if key[:2] not in spans}
    if unknown:
        raise ImportanceError(
            f"{where}: {len(unknown)} key(s) (st, end, st_act, end_act) belong to no span of the "
            f"latency table: {key_names(unknown)}; both tables must be of one network"
        )
    odd = set(importance) - set(importance_keys(spans, ends))
    if odd:
        raise ImportanceError(
            f"{where}: {len(odd)} key(s) (st, end, st_act, end_act) have flags that no plan needs: "
            f"{key_names(odd)}; the network's block ends are {', '.join(map(str, ends)) or 'none'}"
        )
