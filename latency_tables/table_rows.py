"""The rows of a table: one network, one set of conditions, what each piece costs alone.

What is missing is a typed error that names the piece and the command that would measure it, never a
zero.
"""

from __future__ import annotations

import hashlib
import json
import math
import shlex
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from latency_tables.errors import LatencyTableError, MissingPieceError, TableFormatError
from latency_tables.forms import CutNetwork
from latency_tables.origin import Origin
from latency_tables.places import Place, piece_name
from latency_tables.schema import COLUMNS, IN_NETWORK, Conditions, Row
from latency_tables.span_masks import Span, SpanChoice

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, kw_only=True)
class TableRows(CutNetwork):
    """Rows of one network measured under one set of conditions.

    ``spans`` says which spans of a chain were profiled, None where that is not known. ``origin``
    says where the rows were published, None where we measured them.
    """

    rows: tuple[Row, ...]
    conditions: Conditions
    origin: Origin | None = None
    spans: SpanChoice | None = None

    def __post_init__(self) -> None:
        if min(*self.resolution, self.in_channels) < 1:
            raise TableFormatError(
                f"resolution {self.resolution} and in_channels {self.in_channels} must be positive"
            )
        if not self.model or not self.rows:
            raise TableFormatError("a table needs the name of its model and at least one row")
        self._check_blocks()
        self._check_rows()

    def _check_blocks(self) -> None:
        if len(set(self.block_names)) != self.block_count:
            raise TableFormatError("block_names: two blocks share a name")
        for at in self.unmergeable:
            if isinstance(at, tuple) != (self.chain is not None):
                raise TableFormatError(
                    f"unmergeable: {at} should be {'a span' if self.chain else 'a block'}"
                )
            if isinstance(at, int) and not 0 <= at < self.block_count:
                raise TableFormatError(
                    f"unmergeable: block {at} does not exist; {self.model} has "
                    f"{self.block_count} blocks, numbered from 0"
                )

    def _check_rows(self) -> None:
        seen: set[Place] = set()
        for row in self.rows:
            problem = self.forms.problem_of(row.place)
            merged = row.kind in ("merged", "merged_bias_map", "span")
            if merged and (at := row.place[1]) is not None and at in self.unmergeable:
                what = "it" if self.chain else "its block"
                problem = f"contradicts the table: {what} cannot merge ({self.unmergeable[at]})"
            if row.place in seen:
                problem = "is duplicated in the table: keep one of its rows"
            if (row.verdict == "published") != (self.origin is not None):
                problem = f"is {row.verdict}: published rows, and no others, need an origin"
            if problem:
                raise TableFormatError(f"row {row.piece!r} {problem}")
            seen.add(row.place)

    @cached_property
    def by_place(self) -> Mapping[Place, Row]:
        """The row at each place."""
        return {row.place: row for row in self.rows}

    @cached_property
    def rows_digest(self) -> str:
        """16 hex digits of the rows and their conditions, without what follows from networks."""
        return self.digest_without(IN_NETWORK)

    def digest_without(self, columns: Collection[str]) -> str:
        """16 hex digits of the conditions and of all other columns of the rows."""
        names = [name for name in COLUMNS[:-1] if name not in columns]
        rows = [[getattr(row, name) for name in names] for row in self.rows]
        return digest_of([self.conditions.digest, *rows])

    def to_frame(self) -> pd.DataFrame:
        """A line a row, with the model and the conditions in columns before it.

        Latencies are in ms, NaN where a measurement failed.
        """
        import pandas as pd

        about = {"model": self.model, **self.conditions.to_json()}
        return pd.DataFrame(
            {**about, **{name: getattr(row, name) for name in COLUMNS[:-1]}} for row in self.rows
        )

    @property
    def profile_command(self) -> str:
        """The command that measures this table; of one that was published, where it comes from."""
        if self.origin is not None:
            return f"(published, not measured here: {self.origin.source})"
        height, width = self.resolution
        c = self.conditions
        options = {
            "device": c.device,
            "runtime": c.runtime,
            "precision": c.precision,
            "batch": c.batch,
            "threads": c.threads if c.threads != 1 else None,
            "launch": c.launch if c.launch != "plain" else None,
            "cache": c.cache_mode if c.cache_mode != "hot" else None,
            "resolution": height if height == width else f"{height}x{width}",
            "in-channels": self.in_channels if self.in_channels != 3 else None,
            "segments": "spans" if self.chain else None,
            "span-mode": self.spans.mode if self.spans else None,
            "max-kernel": self.spans.max_kernel if self.spans else None,
            "out": "DIR",
        }
        words = (f"--{name} {value}" for name, value in options.items() if value is not None)
        # Arguments of a network of one's own are part of its name: net.py:make width=0.5
        model, *arguments = shlex.split(self.model) if "=" in self.model else [self.model]
        named = [model, *(word for one in arguments for word in ("--model-arg", one))]
        return f"dshrink profile {shlex.join(named)} {' '.join(words)}"

    def row(self, kind: str, at: int | Span | None = None) -> Row:
        """The row of a piece; a failed one too. Raises MissingPieceError."""
        try:
            return self.by_place[kind, at]
        except KeyError:
            fix = f"measure it: {self.profile_command}"
            if self.origin is not None:
                fix = f"it was published so: {self.origin.source}"
            raise MissingPieceError(
                f"the table of {self.model} on {self.conditions.device} holds no row for "
                f"{piece_name((kind, at))!r}; {fix}"
            ) from None

    def measured(self, kind: str, at: int | Span | None = None) -> tuple[Row, float]:
        """A row and what its piece takes alone, in ms.

        Raises MissingPieceError where it failed or is bounded.
        """
        row = self.row(kind, at)
        if row.latency_ms is None or not row.is_measured:
            problem = (
                f"which is bounded: {row.reason}"
                if row.verdict == "bounded"
                else f"its measurement failed ({row.reason}); measure it again: "
                f"{self.profile_command}"
            )
            raise MissingPieceError(
                f"the table of {self.model} on {self.conditions.device} holds no latency for "
                f"{row.piece!r}, {problem}"
            )
        return row, row.latency_ms

    def check_mask(self, keep_mask: str) -> None:
        """Raise MaskError unless the mask fits this network."""
        self.forms.check(keep_mask)

    def places(self, keep_mask: str, padding: str | None = None) -> tuple[Place, ...]:
        """Of the pieces of this mask's network; by default as merged pieces usually are."""
        return self.forms.places(keep_mask, padding or self.forms.padding)

    def sum_ms(self, keep_mask: str, padding: str | None = None) -> float:
        """Plain sum of what these pieces take alone, to compare predictions with."""
        return math.fsum(self.measured(*at)[1] for at in self.places(keep_mask, padding))

    def macs(self, keep_mask: str, padding: str | None = None) -> int:
        """Multiply-accumulate operations of that network, for one image."""
        return sum(self.row(*at).macs for at in self.places(keep_mask, padding))

    @cached_property
    def missing_row(self) -> str:
        """Which row that a search needs has no latency, and why; an empty text where all have."""
        try:
            for place in self.forms.needed():
                self.measured(*place)
        except LatencyTableError as error:
            return str(error)
        return ""


def digest_of(facts: list[object]) -> str:
    """16 hex digits that JSON data of equal content share."""
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
