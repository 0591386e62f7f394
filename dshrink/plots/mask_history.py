"""The history of a learnt mask (DepthShrinker, stage 1): its values, and what it keeps.

Blocks are rows and records are columns, so that fifty blocks stay legible where fifty lines would
not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dshrink.plots.errors import PlotError
from dshrink.plots.strips import PALE
from dshrink.plots.style import BLUE, house_style, new_figure, set_titles, shortened
from latency_tables.csv_lines import CsvLine, CsvSource, load_lines

COLUMNS = ("epoch", "step", "block", "name", "mask", "kept", "saving_ms")
COMMAND = "dshrink search MODEL --method mask --data DIR ..."
_INCHES_A_BLOCK = 0.19
#: Labels of epochs that do not meet.
_MOST_EPOCH_LABELS = 9


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskRecord:
    """The mask after a step: a value a block, and whether the block keeps its activations."""

    epoch: int
    step: int
    values: tuple[float, ...]
    kept: tuple[bool, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskHistory:
    """The records in the order of their steps, and what merging each block saves.

    ``blocks`` are numbers, ``names`` those of the blocks; ``saving_ms`` is None where no table was
    given.
    """

    blocks: tuple[int, ...]
    names: tuple[str, ...]
    saving_ms: tuple[float | None, ...]
    records: tuple[MaskRecord, ...]


def load_mask_history(path: Path) -> MaskHistory:
    """Read the CSV beside the plan of a mask search, in any order of its lines.

    Raises PlotError for lines that do not have every block once in every record.
    """
    source = CsvSource(where=str(path), error=PlotError, mend=f"write it with `{COMMAND}`")
    by_record: dict[tuple[int, int], dict[int, CsvLine]] = {}
    for line in load_lines(path, source, COLUMNS):
        record = by_record.setdefault((line.whole("epoch"), line.whole("step")), {})
        if record.setdefault(line.whole("block"), line) is not line:
            raise line.error(f"block {line.text('block')} stands twice in one record")
    first = by_record[min(by_record)]
    blocks = tuple(sorted(first))
    for lines in by_record.values():
        if tuple(sorted(lines)) != blocks:
            other = next(iter(lines.values()))
            raise other.error(
                f"the record of epoch {other.text('epoch')}, step {other.text('step')} has "
                f"{len(lines)} blocks, the first one has {len(blocks)} (cut off?)"
            )
    return MaskHistory(
        blocks=blocks,
        names=tuple(first[block].text("name") for block in blocks),
        saving_ms=tuple(_saving(first[block]) for block in blocks),
        records=tuple(
            MaskRecord(
                epoch=epoch,
                step=step,
                values=tuple(lines[block].number_in("mask") for block in blocks),
                kept=tuple(_kept(lines[block]) for block in blocks),
            )
            for (epoch, step), lines in sorted(by_record.items())
        ),
    )


def _saving(line: CsvLine) -> float | None:
    return line.number_in("saving_ms") if line.text("saving_ms") else None


def _kept(line: CsvLine) -> bool:
    if line.text("kept") not in ("0", "1"):
        raise line.bad("kept", "0 or 1")
    return line.text("kept") == "1"


def mask_history_figure(history: MaskHistory, source: str = "") -> Figure:
    """Two strips: the value of each block's mask, and the set of kept blocks, over the records.

    ``source`` is the subtitle's beginning.
    """
    with house_style():
        figure = new_figure(1.75 + _INCHES_A_BLOCK * len(history.blocks))
        values, kept = figure.subplots(1, 2, sharey=True)
        _draw_values(figure, values, history)
        _draw_kept(kept, history)
        for axes in (values, kept):
            _set_epochs(axes, history.records)
        _name_blocks(values, history)
        _write_savings(kept, history)
        set_titles(figure, "The mask's history", _subtitle(history, source))
        return figure


def _subtitle(history: MaskHistory, source: str) -> str:
    last = history.records[-1]
    changes = sum(
        before.kept != after.kept
        for before, after in zip(history.records, history.records[1:], strict=False)
    )
    parts = [
        source,
        f"{len(history.records)} records to step {last.step}",
        f"{sum(last.kept)} of {len(last.kept)} blocks kept at the end",
        f"the kept set changed {changes} times",
    ]
    return "; ".join(part for part in parts if part)


def _draw_values(figure: Figure, axes: Axes, history: MaskHistory) -> None:
    image = axes.imshow(
        np.array([record.values for record in history.records]).T,
        aspect="auto",
        interpolation="nearest",
        cmap="viridis",
    )
    axes.set_title("Value of the mask", loc="left", fontsize=10)
    bar = figure.colorbar(image, ax=axes, pad=0.02, aspect=35, use_gridspec=False)
    bar.outline.set_visible(False)
    bar.locator = MaxNLocator(nbins=5)
    bar.update_ticks()


def _draw_kept(axes: Axes, history: MaskHistory) -> None:
    axes.imshow(
        np.array([record.kept for record in history.records], dtype=float).T,
        aspect="auto",
        interpolation="nearest",
        cmap=ListedColormap([PALE, BLUE]),
        vmin=0,
        vmax=1,
    )
    axes.set_title("Kept (dark), merged (pale)", loc="left", fontsize=10)
    for row in range(1, len(history.blocks)):
        axes.axhline(row - 0.5, color="white", linewidth=0.8)
    axes.tick_params(axis="y", length=0)


def _set_epochs(axes: Axes, records: Sequence[MaskRecord]) -> None:
    """Ticks where an epoch ends, as many as have room."""
    ends = {record.epoch: at for at, record in enumerate(records)}
    every = -(-len(ends) // _MOST_EPOCH_LABELS)
    shown = [(epoch, at) for epoch, at in ends.items()][::-1][::every][::-1]
    axes.set_xticks([at for _, at in shown], [str(epoch) for epoch, _ in shown])
    axes.set_xlabel("Epoch (at its end)")
    axes.spines[:].set_visible(False)


def _name_blocks(axes: Axes, history: MaskHistory) -> None:
    labels = [
        f"{shortened(name)}  {block}" if name else str(block)
        for block, name in zip(history.blocks, history.names, strict=True)
    ]
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylabel("Block (input at the top)")
    axes.tick_params(axis="y", length=0)


def _write_savings(axes: Axes, history: MaskHistory) -> None:
    if all(saving is None for saving in history.saving_ms):
        return
    beside = axes.get_yaxis_transform()
    placed = {"transform": beside, "verticalalignment": "center"}
    for row, saving in enumerate(history.saving_ms):
        if saving is not None:
            axes.text(1.02, row, f"{saving:+.3f}", **placed)  # type: ignore[arg-type]
    axes.text(1.02, -1.1, "Saving [ms]", **placed)  # type: ignore[arg-type]
