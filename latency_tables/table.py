"""The latency table: one network, one set of conditions, one row a piece.

The table adds rows up; ``predictor`` turns the sum into a latency. What is missing is a typed error
that names the piece and the command that would measure it, never a zero.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, astuple, dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from latency_tables.calibration import Calibration
from latency_tables.contexts import CONTEXTS, ContextCheck, check_context
from latency_tables.errors import LatencyTableError, MissingPieceError, TableFormatError
from latency_tables.forms import CutNetwork, merged_kind
from latency_tables.hold_out import HoldOut
from latency_tables.origin import Origin
from latency_tables.places import Place, piece_name
from latency_tables.schema import Conditions, Row, one_line
from latency_tables.span_masks import Span, SpanChoice

if TYPE_CHECKING:
    import pandas as pd

#: A table whose hold-out error is larger is not fit for search.
FIT_MAPE_PERCENT = 2.0


@dataclass(frozen=True, kw_only=True)
class LatencyTable(CutNetwork):
    """Rows of one network measured under one set of conditions.

    ``spans`` says which spans of a chain were profiled, None where that is not known. ``origin``
    says where the rows were published, None where we measured them. ``fingerprint`` (the machine),
    ``twins`` (pieces measured twice) and ``boards`` (how the boards that shared the work compare)
    are JSON data for readers. ``context`` says in which context the pieces were measured,
    ``contexts`` the prediction errors of each context that was tried.
    """

    rows: tuple[Row, ...]
    conditions: Conditions
    calibration: Calibration | None = None
    hold_out: HoldOut | None = None
    fingerprint: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    date: str = ""
    dshrink_version: str = ""
    twins: tuple[Mapping[str, Any], ...] = ()
    boards: tuple[Mapping[str, Any], ...] = ()
    warnings: tuple[str, ...] = ()
    context: str = CONTEXTS[0]
    contexts: Mapping[str, ContextCheck] = field(default_factory=dict)
    origin: Origin | None = None
    spans: SpanChoice | None = None

    def __post_init__(self) -> None:
        # Tuples inside of free-form data would come back from a file as lists.
        object.__setattr__(self, "fingerprint", _plain_json(self.fingerprint, "fingerprint"))
        for name in ("twins", "boards"):
            plain = _plain_json(list(getattr(self, name)), name)
            object.__setattr__(self, name, tuple(plain))
        if min(*self.resolution, self.in_channels) < 1:
            raise TableFormatError(
                f"resolution {self.resolution} and in_channels {self.in_channels} must be positive"
            )
        if not self.model or not self.rows:
            raise TableFormatError("a table needs the name of its model and at least one row")
        for name in (self.context, *self.contexts):
            check_context(name)
        self._check_blocks()
        self._check_rows()
        measured = (self.hold_out, self.calibration)
        for network in (one for part in measured if part for one in part.networks):
            self.check_mask(network.keep_mask)

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
    def digest(self) -> str:
        """16 hex digits of the rows and their conditions: what a plan was made from."""
        text = json.dumps([self.conditions.digest, *(astuple(row) for row in self.rows)])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def to_frame(self) -> pd.DataFrame:
        """A line a row, with the model and the conditions in columns before it.

        Latencies are in ms, NaN where a measurement failed.
        """
        import pandas as pd

        about = {"model": self.model, **self.conditions.to_json()}
        return pd.DataFrame({**about, **asdict(row)} for row in self.rows)

    @property
    def profile_command(self) -> str:
        """The command that measures this table; of one that was published, where it comes from."""
        if self.origin is not None:
            return f"(published, not measured here: {self.origin.source})"
        height, width = self.resolution
        c, names = self.conditions, ",".join(self.contexts or [self.context])
        has_choice = self.chain or names != CONTEXTS[0] or c.clock == "cuda_events"
        options = {
            "device": c.device,
            "runtime": c.runtime,
            "precision": c.precision,
            "batch": c.batch,
            "threads": c.threads if c.threads != 1 else None,
            "launch": c.launch if c.launch != "plain" else None,
            "cache": c.cache_mode if c.cache_mode != "hot" else None,
            "resolution": height if height == width else f"{height}x{width}",
            "context": names if has_choice else None,
            "segments": "spans" if self.chain else None,
            "span-mode": self.spans.mode if self.spans else None,
            "max-kernel": self.spans.max_kernel if self.spans else None,
            "out": "DIR",
        }
        words = (f"--{name} {value}" for name, value in options.items() if value is not None)
        return f"dshrink profile {self.model} {' '.join(words)}"

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
        """A row and its latency in ms. Raises MissingPieceError where it failed or is bounded."""
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

    def sum_ms(self, keep_mask: str, padding: str | None = None) -> float:
        """Plain sum of the rows of this mask's network; by default as merged pieces usually are."""
        padding = padding or self.forms.padding
        return math.fsum(self.measured(*at)[1] for at in self.forms.places(keep_mask, padding))

    def macs(self, keep_mask: str, padding: str | None = None) -> int:
        """Multiply-accumulate operations of that network, for one image."""
        padding = padding or self.forms.padding
        return sum(self.row(*at).macs for at in self.forms.places(keep_mask, padding))

    def saving_ms(self, block: int, padding: str = "bias_map") -> float:
        """What merging the block saves in the sum; negative where merging costs."""
        original = self.measured("original", block)[1]
        return original - self.measured(merged_kind(self.by_place, block, padding), block)[1]

    @property
    def fit_for_search(self) -> bool:
        """Whether a search may trust this table; ``fit_reason`` says why not."""
        return not self.fit_reason

    @cached_property
    def fit_reason(self) -> str:
        """Why this table is not fit for search, or an empty text."""
        if self.origin is not None:
            return (
                f"its latencies were published by others, not measured here: {self.origin.source}"
            )
        if self.missing_row:
            return self.missing_row
        if self.calibration is None:
            return "it has no calibration: its sums were never compared with a whole network"
        if self.hold_out is None:
            return "it has no hold-out check: the error of its predictions is not known"
        if self.hold_out.mape_percent > FIT_MAPE_PERCENT:
            return (
                f"its predictions are off by {self.hold_out.mape_percent:.2f} % on held-out "
                f"networks (MAPE; at most {FIT_MAPE_PERCENT:g} % is fit for search)"
            )
        return ""

    @cached_property
    def missing_row(self) -> str:
        """Which row that a search needs has no latency, and why; an empty text where all have."""
        try:
            for place in self.forms.needed():
                self.measured(*place)
        except LatencyTableError as error:
            return str(error)
        return ""


def _plain_json(value: Any, name: str) -> Any:
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise TableFormatError(f"{name} is not JSON data: {one_line(str(error))}") from None
