"""A plan: which blocks keep their activations and which are merged.

A plan names blocks and layers, so it still means the same when a network lists them in another
order. It may come from a search, from a bare mask, or from the paper; ``binding.bind`` ties any of
them to the network that it is applied to.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dshrink.search.errors import PlanError
from dshrink.search.published import published_mask
from latency_tables.errors import LatencyTableError
from latency_tables.io import write_atomically
from latency_tables.json_fields import JsonObject, parse_document
from latency_tables.pieces import PADDING_MODES
from latency_tables.predictor import Prediction
from latency_tables.schema import Conditions

SCHEMA = "dshrink.plan"
SCHEMA_VERSION = 1

MASK_PREFIX = "mask:"
PAPER_PREFIX = "paper:"
ADVICE = "write the plan again with `dshrink search`"


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockChoice:
    """What happens to one block.

    ``activations`` names the block's activation layers, where they are known: kept if ``keep``,
    removed otherwise. ``first_layer`` to ``last_layer`` become one convolution if it is not kept.
    """

    index: int
    name: str
    keep: bool
    activations: tuple[str, ...] = ()
    first_layer: str = ""
    last_layer: str = ""

    @classmethod
    def from_json(cls, source: JsonObject) -> BlockChoice:
        source.check_fields(tuple(cls.__dataclass_fields__))
        return cls(
            index=source.integer("index"),
            name=source.text("name"),
            keep=source.boolean("keep"),
            activations=source.texts("activations"),
            first_layer=source.text("first_layer"),
            last_layer=source.text("last_layer"),
        )


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
        return cls(conditions=Conditions.from_json(conditions), digest=source.text("digest"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """``blocks`` is empty while the network's block names are not known (a bare mask).

    ``model`` is None for a plan that fits any network with as many blocks. ``source`` says where
    the plan came from ("paper MBV2-1.4-DS-A", a file).
    """

    model: str | None
    resolution: tuple[int, int] | None
    keep_mask: str
    blocks: tuple[BlockChoice, ...] = ()
    method: str
    seed: int | None = None
    predicted: PredictedLatency | None = None
    table: TableReference | None = None
    source: str = ""

    def __post_init__(self) -> None:
        if not self.keep_mask or set(self.keep_mask) - {"0", "1"}:
            raise PlanError(
                f"keep mask {self.keep_mask!r} must hold one 1 (keep) or 0 (shrink) a block"
            )
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
        names = [choice.name for choice in self.blocks]
        if len(set(names)) != len(names):
            raise PlanError("the plan gives two blocks one name")

    @property
    def shrunk(self) -> tuple[int, ...]:
        """The numbers of the blocks that are merged."""
        return tuple(index for index, bit in enumerate(self.keep_mask) if bit == "0")

    @property
    def padding(self) -> str:
        """How borders are treated: as the plan was made for, else by the default mode."""
        return self.predicted.padding if self.predicted else PADDING_MODES[0]

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


def parse_plan(text: str) -> Plan:
    """A plan from "mask:0011...", "paper:MBV2-1.4-DS-A", or the path of a plan's JSON file."""
    if text.startswith(MASK_PREFIX):
        return Plan(
            model=None,
            resolution=None,
            keep_mask=text.removeprefix(MASK_PREFIX),
            method="mask",
            source=text,
        )
    if text.startswith(PAPER_PREFIX):
        mask = published_mask(text.removeprefix(PAPER_PREFIX))
        return Plan(
            model=mask.base_model,
            resolution=None,
            keep_mask=mask.keep_mask,
            method="paper",
            source=f"{PAPER_PREFIX}{mask.name}",
        )
    return load_plan(Path(text))


def save_plan(plan: Plan, path: Path) -> None:
    """Write the plan as JSON; the file is replaced in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(plan.to_json(), indent=2, allow_nan=False) + "\n")


def load_plan(path: Path) -> Plan:
    """Read ``save_plan``'s file. Raises PlanError, one line that says what and where."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise PlanError(
            f"{path}: no such file; a plan is a JSON file of `dshrink search`, "
            f"{MASK_PREFIX}0011... or {PAPER_PREFIX}MBV2-1.4-DS-A"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise PlanError(f"{path}: cannot be read as text ({error}): {ADVICE}") from None
    source = parse_document(text, str(path), PlanError, ADVICE)
    source.check_schema(SCHEMA, SCHEMA_VERSION)
    source.check_fields(("schema", "schema_version", *Plan.__dataclass_fields__))
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
    return Plan(
        model=None if source.get("model") is None else source.text("model"),
        resolution=None if resolution is None else (resolution[0], resolution[1]),
        keep_mask=source.text("keep_mask"),
        blocks=tuple(BlockChoice.from_json(item) for item in source.mappings("blocks")),
        method=source.text("method"),
        seed=source.optional_integer("seed"),
        predicted=PredictedLatency.from_json(predicted) if predicted else None,
        table=TableReference.from_json(table) if table else None,
        source=source.text("source"),
    )
