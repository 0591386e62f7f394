"""A plan: which activations stay, and what is merged.

It merges whole blocks (a keep mask) or spans of the chain of convolutions across them (a span
mask). A plan names blocks and layers, so it still means the same when a network lists them in
another order. It may come from a search, from a bare mask, or from the paper; ``binding`` ties any
of them to the network that it is applied to.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dshrink.search.choices import BlockChoice, ConvolutionChoice
from dshrink.search.errors import PlanError
from dshrink.search.published import published_mask
from latency_tables.errors import ConditionsError, LatencyTableError
from latency_tables.files import write_atomically
from latency_tables.json_fields import JsonObject, parse_document
from latency_tables.masks import PADDING_MODES
from latency_tables.predictor import Prediction
from latency_tables.records import convert_record
from latency_tables.schema import Conditions
from latency_tables.span_masks import ACTIVE, LINEAR, MERGED

SCHEMA = "dshrink.plan"
#: Version 2 added a span mask in place of a keep mask, and an importance; version 3 the borders.
SCHEMA_VERSION = 3

NEW_FIELDS = {2: ("span_mask", "convolutions", "importance"), 3: ("borders",)}

MASK_PREFIX = "mask:"
SPANS_PREFIX = "spans:"
PAPER_PREFIX = "paper:"
#: What a plan cuts a network into, and how borders are treated if the plan does not say.
DEFAULT_PADDING = {"blocks": PADDING_MODES[0], "spans": "repad"}
ADVICE = "write the plan again with `dshrink search`"


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictedLatency:
    """The table's prediction at the time of planning, with its 95 % interval where known."""

    latency_ms: float
    low_ms: float | None
    high_ms: float | None
    padding: str

    @classmethod
    def of(cls, prediction: Prediction) -> PredictedLatency:
        return cls(
            latency_ms=prediction.latency_ms,
            low_ms=prediction.low_ms,
            high_ms=prediction.high_ms,
            padding=prediction.padding,
        )

    @classmethod
    def from_json(cls, source: JsonObject) -> PredictedLatency:
        source.check_fields(tuple(cls.__dataclass_fields__))
        return cls(
            latency_ms=source.number("latency_ms"),
            low_ms=source.optional_number("low_ms"),
            high_ms=source.optional_number("high_ms"),
            padding=source.text("padding"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TableReference:
    """The table that a plan was made from: its conditions and the digest of its rows."""

    conditions: Conditions
    digest: str

    def to_json(self) -> dict[str, Any]:
        return {**self.conditions.to_json(), "digest": self.digest}

    @classmethod
    def from_json(cls, source: JsonObject) -> TableReference:
        conditions = {name: value for name, value in source.data.items() if name != "digest"}
        found = convert_record(
            conditions, Conditions, where="conditions", error=ConditionsError, fix=ADVICE
        )
        return cls(conditions=found, digest=source.text("digest"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Either a ``keep_mask`` with its ``blocks`` or a ``span_mask`` with its ``convolutions``.

    The choices are empty while the network's names are not known (a bare mask). ``model`` is None
    for a plan that fits any network with as many blocks or convolutions. ``importance`` is what the
    search expects of the accuracy, in the units of its importance table. ``borders`` is the padding
    mode that the network is trained for, None where it is not known. ``source`` says where the plan
    came from ("paper MBV2-1.4-DS-A", a file).
    """

    model: str | None
    resolution: tuple[int, int] | None
    keep_mask: str = ""
    blocks: tuple[BlockChoice, ...] = ()
    span_mask: str = ""
    convolutions: tuple[ConvolutionChoice, ...] = ()
    method: str
    seed: int | None = None
    predicted: PredictedLatency | None = None
    importance: float | None = None
    borders: str | None = None
    table: TableReference | None = None
    source: str = ""

    def __post_init__(self) -> None:
        if self.borders not in (None, *PADDING_MODES):
            raise PlanError(f"borders must be {', '.join(PADDING_MODES)}, got {self.borders!r}")
        if self.span_mask:
            self._check_spans()
        else:
            self._check_blocks()

    def _check_blocks(self) -> None:
        if not self.keep_mask or set(self.keep_mask) - {"0", "1"}:
            raise PlanError(
                f"keep mask {self.keep_mask!r} must hold one 1 (keep) or 0 (shrink) a block"
            )
        if self.convolutions:
            raise PlanError("the plan lists convolutions, but its span mask is empty")
        if not self.blocks:
            return
        if [choice.index for choice in self.blocks] != list(range(len(self.keep_mask))):
            raise PlanError(
                f"the plan lists blocks {[choice.index for choice in self.blocks]} for a keep mask "
                f"of {len(self.keep_mask)} blocks"
            )
        for choice, bit in zip(self.blocks, self.keep_mask, strict=True):
            if choice.keep != (bit == "1"):
                raise PlanError(
                    f"block {choice.index} ({choice.name}): keep is {choice.keep}, "
                    f"the keep mask {self.keep_mask} says {bit}"
                )
        _check_names([choice.name for choice in self.blocks], "blocks")

    def _check_spans(self) -> None:
        if self.keep_mask or self.blocks:
            raise PlanError("a plan has a keep mask a block or a span mask, not both")
        if set(self.span_mask) - {ACTIVE, LINEAR, MERGED} or self.span_mask[-1] == MERGED:
            raise PlanError(
                f"span mask {self.span_mask!r} must hold one character a convolution: {ACTIVE} "
                f"(an activation follows), {LINEAR} (none does) or {MERGED} (merge into the next, "
                "not the last one)"
            )
        if not self.convolutions:
            return
        length = len(self.span_mask)
        positions = [choice.position for choice in self.convolutions]
        if positions != list(range(1, length + 1)):
            raise PlanError(
                f"the plan lists convolutions {positions} for a span mask of {length} convolutions"
            )
        for choice, sign in zip(self.convolutions, self.span_mask, strict=True):
            if choice.sign != sign or (choice.activation and not choice.boundary):
                raise PlanError(
                    f"convolution {choice.position} ({choice.name}): boundary is "
                    f"{choice.boundary} and activation is {choice.activation}, the span mask "
                    f"{self.span_mask} says {sign}"
                )
        _check_names([choice.name for choice in self.convolutions], "convolutions")

    @property
    def segments(self) -> str:
        """What the plan cuts a network into: "blocks" or "spans"."""
        return "spans" if self.span_mask else "blocks"

    @property
    def mask(self) -> str:
        """The keep mask or the span mask, whichever it has."""
        return self.span_mask or self.keep_mask

    @property
    def text(self) -> str:
        """The mask as a plan's text for the command line: "mask:0011", "spans:1|01"."""
        return f"{SPANS_PREFIX if self.span_mask else MASK_PREFIX}{self.mask}"

    @property
    def shrunk(self) -> tuple[int, ...]:
        """The numbers of the blocks that are merged."""
        return tuple(index for index, bit in enumerate(self.keep_mask) if bit == "0")

    @property
    def padding(self) -> str:
        """How borders are treated: as training has them, as predicted, else by the default mode."""
        predicted = self.predicted.padding if self.predicted else None
        return self.borders or predicted or DEFAULT_PADDING[self.segments]

    @property
    def kept_count(self) -> int:
        return self.keep_mask.count("1")

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "schema_version": SCHEMA_VERSION,
            **asdict(self),
            "table": self.table.to_json() if self.table else None,
        }


def _check_names(names: Sequence[str], what: str) -> None:
    if len(set(names)) != len(names):
        raise PlanError(f"the plan gives two {what} one name")


def parse_plan(text: str) -> Plan:
    """A plan from its text or the path of its JSON file.

    Texts are "mask:0011..." (a character a block), "spans:1|01..." (a character a convolution) and
    "paper:MBV2-1.4-DS-A".
    """
    if text.startswith(MASK_PREFIX):
        mask = text.removeprefix(MASK_PREFIX)
        return Plan(model=None, resolution=None, keep_mask=mask, method="mask", source=text)
    if text.startswith(SPANS_PREFIX):
        mask = text.removeprefix(SPANS_PREFIX)
        if not mask:
            raise PlanError(f"{text!r} holds no span mask: give one character a convolution")
        return Plan(model=None, resolution=None, span_mask=mask, method="mask", source=text)
    if text.startswith(PAPER_PREFIX):
        known = published_mask(text.removeprefix(PAPER_PREFIX))
        return Plan(
            model=known.base_model,
            resolution=None,
            keep_mask=known.keep_mask,
            method="paper",
            source=f"{PAPER_PREFIX}{known.name}",
        )
    return load_plan(Path(text))


def save_plan(plan: Plan, path: Path) -> None:
    """Write the plan as JSON; the file is replaced in one step."""
    write_atomically(path, json.dumps(plan.to_json(), indent=2, allow_nan=False) + "\n")


def load_plan(path: Path) -> Plan:
    """Read ``save_plan``'s file. Raises PlanError, one line that says what and where."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise PlanError(
            f"{path}: no such file; a plan is a JSON file of `dshrink search`, "
            f"{MASK_PREFIX}0011..., {SPANS_PREFIX}1|01... or {PAPER_PREFIX}MBV2-1.4-DS-A"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise PlanError(f"{path}: cannot be read as text ({error}): {ADVICE}") from None
    source = parse_document(text, str(path), PlanError, ADVICE)
    source.check_schema(SCHEMA, SCHEMA_VERSION)
    version = source.integer("schema_version")
    new = [name for since, names in NEW_FIELDS.items() if version < since for name in names]
    known = [name for name in Plan.__dataclass_fields__ if name not in new]
    source.check_fields(("schema", "schema_version", *known))
    try:
        return _plan_from_json(source)
    except (PlanError, LatencyTableError) as error:
        if str(error).startswith(source.where):
            raise
        raise PlanError(f"{path}: {error}: {ADVICE}") from None


def _plan_from_json(source: JsonObject) -> Plan:
    resolution = None if source.get("resolution") is None else source.integers("resolution")
    if resolution is not None and len(resolution) != 2:
        source.refuse("resolution", "[height, width] or null")
    predicted, table = source.optional_mapping("predicted"), source.optional_mapping("table")
    version = source.integer("schema_version")
    spans = version > 1  # version 1 knew blocks only
    # Older files say nothing of borders.
    known_borders = version > 2 and source.get("borders") is not None
    return Plan(
        model=None if source.get("model") is None else source.text("model"),
        resolution=None if resolution is None else (resolution[0], resolution[1]),
        keep_mask=source.text("keep_mask"),
        blocks=tuple(BlockChoice.from_json(item) for item in source.mappings("blocks")),
        span_mask=source.text("span_mask") if spans else "",
        convolutions=tuple(
            ConvolutionChoice.from_json(item)
            for item in (source.mappings("convolutions") if spans else ())
        ),
        method=source.text("method"),
        seed=source.optional_integer("seed"),
        predicted=PredictedLatency.from_json(predicted) if predicted else None,
        importance=source.optional_number("importance") if spans else None,
        borders=source.text("borders") if known_borders else None,
        table=TableReference.from_json(table) if table else None,
        source=source.text("source"),
    )
