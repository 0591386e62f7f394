"""Where the latencies of a table come from that we did not measure ourselves."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from latency_tables.errors import TableFormatError
from latency_tables.measured import one_line


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Who published a table's rows, under which licence, and what a reader should know of them.

    Each is one line; ``note`` may be empty.
    """

    source: str
    licence: str
    note: str = ""

    def __post_init__(self) -> None:
        for name, text in asdict(self).items():
            if text != one_line(text) or (not text and name != "note"):
                raise TableFormatError(f"{name} must be one line of text, got {text!r}")
