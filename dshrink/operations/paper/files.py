"""The files of an experiment: CSV and JSON for programs, Markdown for people."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dshrink.version import __version__
from latency_tables.csv_lines import write_csv
from latency_tables.files import write_atomically


def write_experiment(
    at: Path,
    columns: Sequence[str],
    rows: Sequence[Mapping[str, Any]],
    lines: Sequence[str],
    data: Mapping[str, Any],
    date: str,
) -> list[Path]:
    """Write them as ``at`` with their suffixes; ``date`` is that of the measurements."""
    files = [at.with_name(f"{at.name}.{suffix}") for suffix in ("csv", "json", "md")]
    write_csv(files[0], columns, rows)
    whole = {
        "experiment": at.name,
        "dshrink": __version__,
        "date": date,
        **data,
        "rows": [dict(row) for row in rows],
    }
    write_atomically(files[1], json.dumps(whole, indent=1, allow_nan=False) + "\n")
    write_atomically(files[2], "\n".join(lines) + "\n")
    return files
