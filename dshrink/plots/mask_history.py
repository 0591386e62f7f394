"""The history of a mask search (DepthShrinker, stage 1): its values, and what it keeps.

Blocks are rows and records are columns, so that fifty blocks stay legible where fifty lines would
not. What decides is the share of the last epoch in which a block was kept; older files lack it, and
have one strip less.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, ListedColormap
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator

from dshrink.errors import PlotError
from dshrink.plots import style
from dshrink.plots.strips import PALE
from latency_tables.csv_lines import CsvLine, CsvSource, load_lines
from latency_tables.wording import counted

COLUMNS = ("epoch", "step", "block", "name", "mask", "kept", "saving_ms")
#: Not in older files.
SHARE_COLUMN = "share"
COMMAND = "dshrink search mask MODEL --data DIR ..."
_INCHES_A_BLOCK = 0.19
#: Labels of epochs that do not meet, by the number of strips.
_MOST_EPOCH_LABELS = {2: 9, 3: 5}


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskRecord:
    """The mask after a step: a value a block, and whether the block keeps its activations.

    ``shares``, of the epoch's steps in which the block was kept, are None where not known.
    """

    epoch: int
    step: int
    values: tuple[float, ...]
    shares: tuple[float, ...] | None
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

    @property
    def epochs(self) -> int:
        """How many have a record; of a single one there is nothing to see in a picture."""
        return len({record.epoch for record in self.records})


def load_mask_history(path: Path) -> MaskHistory:
    """Read the CSV beside the plan of a mask search, in any order of its lines.

    Raises PlotError for lines that do not have every block once in every record.
    """
    source = CsvSource(where=str(path), error=PlotError, fix=f"write it with `{COMMAND}`")
    by_record: dict[tuple[int, int], dict[int, CsvLine]] = {}
    for line in load_lines(path, source, COLUMNS):
        record = by_record.setdefault((line.whole("epoch"), line.whole("step")), {})
        if record.setdefault(line.whole("block"), line) is not line:
            raise line.error(f"block {line.text('block')} is twice in one record")
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
        saving_ms=tuple(
            first[block].number_in("saving_ms") if first[block].text("saving_ms") else None
            for block in blocks
        ),
        records=tuple(
            _record(epoch, step, [lines[block] for block in blocks])
            for (epoch, step), lines in sorted(by_record.items())
        ),
    )


def _record(epoch: int, step: int, lines: Sequence[CsvLine]) -> MaskRecord:
    has_shares = SHARE_COLUMN in lines[0].values
    return MaskRecord(
        epoch=epoch,
        step=step,
        values=tuple(line.number_in("mask") for line in lines),
        shares=tuple(map(_share, lines)) if has_shares else None,
        kept=tuple(map(_kept, lines)),
    )


def _share(line: CsvLine) -> float:
    share = line.number_in(SHARE_COLUMN)
    if not 0 <= share <= 1:
        raise line.bad(SHARE_COLUMN, "between 0 and 1")
    return share


def _kept(line: CsvLine) -> bool:
    kept = line.whole("kept")
    if kept not in (0, 1):
        raise line.bad("kept", "0 or 1")
    return kept == 1


def mask_history_figure(history: MaskHistory, source: str = "") -> Figure:
    """Strips over the records: the value of each block's mask, its share where known, the kept set.

    ``source`` is the subtitle's beginning.
    """
    shares = [record.shares for record in history.records if record.shares is not None]
    height = (2.1 if shares else 1.75) + _INCHES_A_BLOCK * len(history.blocks)
    with style.new_figure(height, "The mask's history", _subtitle(history, source)) as figure:
        strips = figure.subplots(1, 3 if shares else 2, sharey=True)
        values, kept = strips[0], strips[-1]
        drawn = [record.values for record in history.records]
        _add_bar(figure, _draw(values, "Value of the mask", drawn, cmap="viridis"))
        if shares:
            # In the colours of the kept set: the darker, the more of the epoch a block was kept.
            colours = LinearSegmentedColormap.from_list("kept", [PALE, style.BLUE])
            image = _draw(strips[1], "Share of steps kept", shares, cmap=colours, vmin=0, vmax=1)
            _add_bar(figure, image)
        _draw_kept(kept, history)
        for axes in strips:
            _set_epochs(axes, history.records, _MOST_EPOCH_LABELS[len(strips)])
            axes.tick_params(axis="y", length=0)
        _name_blocks(values, history)
        _write_savings(kept, history)
    return figure


def mask_history_line(history: MaskHistory) -> str:
    """A search of one epoch in words, as its picture would show next to nothing."""
    last = history.records[-1]
    kept = [str(block) for block, is_kept in zip(history.blocks, last.kept, strict=True) if is_kept]
    return (
        f"{counted(history.epochs, 'epoch')} to step {last.step}: no history to draw; kept at its "
        f"end: {counted(len(kept), 'block')} of {len(last.kept)} ({', '.join(kept) or 'none'})"
    )


def _subtitle(history: MaskHistory, source: str) -> str:
    last = history.records[-1]
    changes = sum(
        before.kept != after.kept
        for before, after in zip(history.records, history.records[1:], strict=False)
    )
    parts = [
        source,
        f"{counted(len(history.records), 'record')} to step {last.step}",
        f"{sum(last.kept)} of {len(last.kept)} blocks kept at the end",
        f"the kept set changed {counted(changes, 'time')}",
    ]
    if last.shares is not None:
        parts.append("kept is what was kept in the largest share of the last epoch's steps")
    return "; ".join(part for part in parts if part)


def _draw(axes: Axes, title: str, columns: Sequence[Sequence[float]], **colours: Any) -> AxesImage:
    """A column a record, a cell a block."""
    axes.set_title(title, loc="left", fontsize=10)
    cells = np.array(columns, dtype=float).T
    return axes.imshow(cells, aspect="auto", interpolation="nearest", **colours)


def _add_bar(figure: Figure, image: AxesImage) -> None:
    bar = figure.colorbar(image, ax=image.axes, pad=0.02, aspect=35, use_gridspec=False)
    bar.outline.set_visible(False)
    bar.locator = MaxNLocator(nbins=5)
    bar.update_ticks()


def _draw_kept(axes: Axes, history: MaskHistory) -> None:
    kept = [record.kept for record in history.records]
    _draw(axes, "Kept (dark)", kept, cmap=ListedColormap([PALE, style.BLUE]), vmin=0, vmax=1)
    for row in range(1, len(history.blocks)):
        axes.axhline(row - 0.5, color="white", linewidth=0.8)


def _set_epochs(axes: Axes, records: Sequence[MaskRecord], most: int) -> None:
    """Ticks where an epoch ends, as many as have room."""
    ends = {record.epoch: at for at, record in enumerate(records)}
    every = -(-len(ends) // most)
    shown = [(epoch, at) for epoch, at in ends.items()][::-1][::every][::-1]
    axes.set_xticks([at for _, at in shown], [str(epoch) for epoch, _ in shown])
    axes.set_xlabel("Epoch (at its end)")
    axes.spines[:].set_visible(False)


def _name_blocks(axes: Axes, history: MaskHistory) -> None:
    labels = [
        f"{style.shortened(name)}  {block}" if name else str(block)
        for block, name in zip(history.blocks, history.names, strict=True)
    ]
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylabel("Block (input at the top)")


def _write_savings(axes: Axes, history: MaskHistory) -> None:
    if all(saving is None for saving in history.saving_ms):
        return
    beside = axes.get_yaxis_transform()
    texts: list[tuple[float, str]] = [(-1.1, "Saving [ms]")]
    texts += [(at, f"{s:+.3f}") for at, s in enumerate(history.saving_ms) if s is not None]
    for row, text in texts:
        axes.text(1.02, row, text, transform=beside, verticalalignment="center")
