"""Experiments of the paper: what was measured here beside what was published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dshrink.paper.published import Setting
from dshrink.report.content import Block, Cell, Column, Grid, Heading, Section
from dshrink.report.figures.of_results import ours_and_published
from dshrink.report.folder import Contents
from dshrink.report.records import ExperimentFacts

#: Columns of an experiment's rows that every table has and no reader asks for.
_LEFT_OUT = frozenset(
    {"group", "device", "runtime", "precision", "launch", "threads", "resolution"}
)
_SPEEDUP = "_speedup"
_TITLES = {"kim": "Kim et al. (ICML 2023)"}
#: What a reader looks for first.
_FIRST = ("network", "batch", "latency_ms", "speedup", "speedup_low", "speedup_high")


def section(contents: Contents) -> Section | None:
    """A figure and a table an experiment."""
    blocks: list[Block] = []
    for held in contents.experiments:
        if held.value.rows:
            blocks += _blocks(held.value, held.file)
    if not blocks:
        return None
    return Section(anchor="paper", title="The paper, measured here", blocks=tuple(blocks))


def _blocks(one: ExperimentFacts, file: str) -> list[Block]:
    name, rows = file.removesuffix(".json").replace("/", "_"), one.rows
    title = one.name.replace("table", "Table ").replace("fig", "Figure ")
    title = _TITLES.get(one.name, title)
    blocks: list[Block] = [Heading(text=f"{title} (`{file}`)")]
    batches = list(dict.fromkeys(row.get("batch") for row in rows))
    if any(row.get("speedup") for row in rows):
        published = _published(rows)
        for batch in batches:
            shown = [row for row in rows if row.get("batch") == batch and row.get("speedup")]
            if not shown:
                continue
            suffix = f"_batch{batch}" if len(batches) > 1 else ""
            drawn = [
                (str(row.get("network")), _number(row.get("speedup")), _number(row.get(published)))
                for row in shown
            ]
            blocks.append(
                ours_and_published(
                    drawn,
                    f"{name}{suffix}_speedups",
                    title=f"{title}: speed-ups, batch {batch}",
                    axis="times as fast as the first",
                    nothing=1.0,
                    published=f"published, {_setting(published)}",
                )
            )
    elif any("saving_percent" in row for row in rows):
        drawn = [
            (
                f"{row.get('model')}, block {row.get('block')}",
                _number(row.get("saving_percent")),
                _number(row.get("published_saving_percent")),
            )
            for row in rows
        ]
        blocks.append(
            ours_and_published(
                drawn,
                f"{name}_savings",
                title=f"{title}: what merging, or replacing, a block saves",
                axis="saves [%]",
                nothing=0.0,
                published="published, RTX 2080 Ti",
            )
        )
    blocks.append(_grid(rows, name, title))
    if one.headline:
        blocks.append(_grid(one.headline, f"{name}_headline", f"{title}: published results"))
    return blocks


def _published(rows: Sequence[Mapping[str, Any]]) -> str:
    """The column of published speed-ups that is compared with: the last, the smallest device."""
    names = [name for name in rows[0] if name.endswith(_SPEEDUP)]
    return names[-1] if names else ""


def _setting(column: str) -> str:
    """ "Jetson TX2, batch 64", of tx2_batch64_speedup."""
    device, _, batch = column.removesuffix(_SPEEDUP).rpartition("_batch")
    return Setting(device, int(batch)).title


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _grid(rows: Sequence[Mapping[str, Any]], name: str, caption: str) -> Grid:
    every = dict.fromkeys(key for row in rows for key in row)
    first = [one for one in _FIRST if one in every]
    names = [*first, *(one for one in every if one not in _LEFT_OUT and one not in first)]
    numeric = {
        one
        for one in names
        if any(isinstance(row.get(one), int | float) and row.get(one) is not True for row in rows)
    }
    columns = tuple(Column(title=one.replace("_", " "), is_number=one in numeric) for one in names)
    cells = tuple(tuple(_cell(row.get(one)) for one in names) for row in rows)
    return Grid(name=f"{name}_rows", caption=caption, columns=columns, rows=cells)


def _cell(value: Any) -> Cell:
    if value is None or value == "" or value is False:
        return Cell("", None)
    if value is True:
        return Cell("yes", "yes")
    if isinstance(value, float):
        return Cell(f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}", value)
    return Cell(str(value), value if isinstance(value, int) else str(value))
