"""A plan: which activations stay, and what is merged.

It merges whole blocks (a keep mask) or spans of the chain of convolutions across them (a span
mask). The plan also names the blocks or convolutions, so that it still means the same when a
network lists them in another order. A plan comes from a search, from a bare mask, or from the
paper; ``binding`` ties it to the network that it is applied to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from dshrink.network.references import Size, check_channels
from dshrink.search.errors import PlanError
from dshrink.search.published import published_mask
from latency_tables.files import write_atomically
from latency_tables.masks import PADDING_MODES, number_hint
from latency_tables.predictor import Prediction
from latency_tables.records import format_record, load_record
from latency_tables.schema import Conditions
from latency_tables.span_masks import ACTIVE, LINEAR, MERGED, mask_spans

SCHEMA = "dshrink.plan"
SCHEMA_VERSION = 2

MASK_PREFIX = "mask:"
SPANS_PREFIX = "spans:"
PAPER_PREFIX = "paper:"
#: The padding mode of a bare mask, by what it cuts a network into.
DEFAULT_PADDING = {"blocks": PADDING_MODES[0], "spans": "repad"}
FIX = "write the plan again with `dshrink search`"


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


@dataclass(frozen=True, slots=True, kw_only=True)
class TableReference:
    """The table that a plan was made from: its conditions and the digest of its rows."""

    conditions: Conditions
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockLayers:
    """A block by name, and its layers where they are known.

    ``activations`` are those that go if the block is merged; ``first_layer`` to ``last_layer``
    become one convolution then.
    """

    name: str
    activations: tuple[str, ...] = ()
    first_layer: str = ""
    last_layer: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Either a ``keep_mask``, a character a block, or a ``span_mask``, one a convolution.

    ``blocks`` or ``convolutions`` name what the characters are about, in their order; they are
    empty while the names are not known (a bare mask). ``model`` is None for a plan that fits any
    network with as many. ``padding`` is the padding mode that latencies were predicted for, or that
    the network was trained for. ``importance`` is what the search expects of the accuracy, in the
    units of its importance table. ``source`` says where the plan came from
    ("paper:MBV2-1.4-DS-A").
    """

    DERIVED: ClassVar = ("merged",)

    model: str | None = None
    resolution: tuple[int, int] | None = None
    in_channels: int | None = None
    keep_mask: str = ""
    span_mask: str = ""
    padding: str
    method: str = "mask"
    seed: int | None = None
    predicted: PredictedLatency | None = None
    importance: float | None = None
    table: TableReference | None = None
    source: str = ""
    blocks: tuple[BlockLayers, ...] = ()
    convolutions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.resolution is not None:
            Size.of(*self.resolution)
        if self.in_channels is not None:
            check_channels(self.in_channels)
        if self.padding not in PADDING_MODES:
            raise PlanError(f"padding must be {', '.join(PADDING_MODES)}, got {self.padding!r}")
        if self.span_mask:
            self._check_spans()
        elif not self.keep_mask or set(self.keep_mask) - {"0", "1"}:
            raise PlanError(
                f"keep mask {self.keep_mask!r} must hold one 1 (keep) or 0 (shrink) a block"
                f"{number_hint(self.keep_mask)}"
            )
        _check_names([block.name for block in self.blocks], self.keep_mask, "keep mask", "block")
        _check_names(self.convolutions, self.span_mask, "span mask", "convolution")

    def _check_spans(self) -> None:
        if self.keep_mask:
            raise PlanError("a plan has either a keep mask or a span mask, not both")
        if set(self.span_mask) - {ACTIVE, LINEAR, MERGED} or self.span_mask[-1] == MERGED:
            raise PlanError(
                f"span mask {self.span_mask!r} must hold one character a convolution: {ACTIVE} "
                f"(an activation follows), {LINEAR} (none does) or {MERGED} (merge into the next, "
                f"not the last one){number_hint(self.span_mask)}"
            )

    @property
    def merged(self) -> tuple[str, ...]:
        """What becomes one convolution, for readers of the file: blocks, or "first .. last"."""
        if self.blocks:
            return tuple(self.blocks[index].name for index in self.shrunk)
        names = self.convolutions
        spans = mask_spans(self.span_mask) if names else ()
        return tuple(f"{names[i]} .. {names[j - 1]}" for i, j in spans if j > i + 1)

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
    def kept_count(self) -> int:
        return self.keep_mask.count("1")


def _check_names(names: Sequence[str], mask: str, kind: str, what: str) -> None:
    if names and len(names) != len(mask):
        raise PlanError(f"the plan names {len(names)} {what}s for {len(mask)} in its {kind}")
    if len(set(names)) != len(names):
        raise PlanError(f"the plan has duplicate {what} names")


def parse_plan(text: str | Path) -> Plan:
    """A plan from its text or the path of its JSON file.

    Texts are "mask:0011..." (a character a block), "spans:1|01..." (a character a convolution) and
    "paper:MBV2-1.4-DS-A". Raises PlanError.
    """
    text = str(text)
    if text.startswith(MASK_PREFIX):
        mask = text.removeprefix(MASK_PREFIX)
        return Plan(keep_mask=mask, padding=DEFAULT_PADDING["blocks"], source=text)
    if text.startswith(SPANS_PREFIX):
        mask = text.removeprefix(SPANS_PREFIX)
        if not mask:
            raise PlanError(f"{text!r} holds no span mask: give one character a convolution")
        return Plan(span_mask=mask, padding=DEFAULT_PADDING["spans"], source=text)
    if text.startswith(PAPER_PREFIX):
        known = published_mask(text.removeprefix(PAPER_PREFIX))
        return Plan(
            model=known.base_model,
            keep_mask=known.keep_mask,
            padding=DEFAULT_PADDING["blocks"],
            method="paper",
            source=f"{PAPER_PREFIX}{known.name}",
        )
    return load_plan(Path(text))


def save_plan(plan: Plan, path: Path | str) -> None:
    """Write the plan as JSON; the file is replaced in one step."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, format_record(plan, SCHEMA, SCHEMA_VERSION))


def load_plan(path: Path) -> Plan:
    """Read ``save_plan``'s file. Raises PlanError, one line that says what and where."""
    if not path.exists():
        raise PlanError(
            f"{path}: no such file; a plan is a JSON file of `dshrink search`, "
            f"{MASK_PREFIX}0011..., {SPANS_PREFIX}1|01... or {PAPER_PREFIX}MBV2-1.4-DS-A"
        )
    return load_record(
        path,
        Plan,
        error=PlanError,
        fix=FIX,
        schema=SCHEMA,
        version=SCHEMA_VERSION,
    )
