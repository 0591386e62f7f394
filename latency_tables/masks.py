"""Keep masks: one character a block, "1" keeps its activations and "0" removes them (Tab. 9)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from latency_tables.errors import MaskError

#: How a merged block pads (docs/methods.md); the first one is the default.
PADDING_MODES = ("bias_map", "repad", "interior")
#: Activations that a mask may take away: piecewise linear ones, as in the paper.
REMOVABLE = ("relu", "relu6")

#: What a spreadsheet or pandas makes of 0s and 1s: 1011.0, 1.01E+15, "1,011".
_NUMBER = re.compile(r"[+-]?\d[\d.,\s]*(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)


def number_hint(mask: str, length: int | None = None) -> str:
    """What to say behind a refusal where a mask looks like a number; empty where it does not.

    ``length`` is how many characters it should have.
    """
    if set(mask) - {"0", "1"}:
        return " (read as a number by a spreadsheet or pandas? give it as text)" * bool(
            _NUMBER.fullmatch(mask)
        )
    if length is not None and mask.startswith("1") and len(mask) < length:
        return " (leading zeros lost to a spreadsheet or pandas? give it as text)"
    return ""


def check_mask(
    keep_mask: str,
    block_names: Sequence[str],
    unmergeable: Mapping[int, str],
    model: str = "the network",
) -> None:
    """Raise MaskError unless the mask fits the blocks and shrinks only what can merge."""
    wrong = sorted(set(keep_mask) - {"0", "1"})
    if wrong:
        raise MaskError(
            f"keep mask {keep_mask!r}: {wrong[0]!r} is neither 1 (keep a block's activations) "
            f"nor 0 (remove them){number_hint(keep_mask)}"
        )
    if len(keep_mask) != len(block_names):
        raise MaskError(
            f"keep mask {keep_mask!r} has {len(keep_mask)} characters, "
            f"{model} has {len(block_names)} blocks: give one character a block"
            f"{number_hint(keep_mask, len(block_names))}"
        )
    for block, reason in sorted(unmergeable.items()):
        if keep_mask[block] == "0":
            raise MaskError(
                f"keep mask {keep_mask!r} shrinks block {block} ({block_names[block]}), which "
                f"cannot merge: {reason}; put 1 at position {block} (from 0)"
            )


def check_padding(padding: str) -> None:
    """Raise MaskError unless the padding mode is known."""
    if padding not in PADDING_MODES:
        raise MaskError(f"unknown padding {padding!r}; use one of {', '.join(PADDING_MODES)}")
