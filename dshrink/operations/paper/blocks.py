"""Measure a figure of blocks: profile its networks, and draw from their latency tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from typing import Any

from matplotlib.figure import Figure

from dshrink.network.references import ModelChoice
from dshrink.operations.paper.files import write_experiment
from dshrink.operations.paper.request import PaperOutcome, PaperRequest
from dshrink.operations.profile import profile_network
from dshrink.paper.experiments import BlockExperiment, PaperError
from dshrink.paper.published import block_latencies
from dshrink.paper.report import BlockRow, MemoryRow, block_lines, memory_lines
from dshrink.plots import blocks_figure, dense_figure, kept_figure, memory_figure, save_figure
from dshrink.plots.memory import BYTES_A_NUMBER, KIB
from dshrink.plots.style import describe_conditions
from dshrink.progress import Notice, OnProgress
from dshrink.search.plan import Plan, parse_plan
from dshrink.search.published import published_masks
from latency_tables.forms import merged_kind
from latency_tables.masks import check_padding
from latency_tables.records import plain
from latency_tables.table import LatencyTable


def measure_blocks(
    found: BlockExperiment, request: PaperRequest, on_progress: OnProgress, notice: Notice
) -> PaperOutcome:
    if len(request.batches) > 1:
        raise PaperError(f"{found.name} is of one latency table: give one --batch")
    check_padding(request.padding)
    if request.unmerged:
        raise PaperError(f"--unmerged is for tables of networks, not {found.name}")
    target = replace(request.target, batch=(request.batches or (request.target.batch,))[0])
    tables = {}
    for model in found.models:
        # One table serves all three figures.
        profiled = profile_network(
            ModelChoice(model=model),
            request.folder / f"table_{model}",
            target,
            dense=True,
            seed=request.seed,
            on_progress=on_progress,
            notice=notice,
        )
        tables[model] = profiled.table
    first = next(iter(tables.values()))
    where = describe_conditions(first.conditions)
    at = request.folder / found.name
    blocks: tuple[BlockRow, ...] = ()
    memory: tuple[MemoryRow, ...] = ()
    columns: Sequence[str]
    if found.kind == "memory":
        memory = tuple(row for table in tables.values() for row in _memory_rows(table))
        columns, records = _MEMORY_COLUMNS, [asdict(row) for row in memory]
        lines = memory_lines(found, memory)
    else:
        blocks = tuple(
            row for table in tables.values() for row in _block_rows(found, table, request.padding)
        )
        columns, records = _BLOCK_COLUMNS, [_block_record(row) for row in blocks]
        lines = block_lines(found, where, blocks)
    data = {"conditions": first.conditions.to_json(), "fingerprint": plain(first.fingerprint)}
    date = max(table.date for table in tables.values())
    files = write_experiment(at, columns, records, lines, data, date)
    for name, figure in _block_figures(found, tables, request.padding).items():
        files += save_figure(figure, at.with_name(f"{name}.png"))
    return PaperOutcome(
        experiment=found,
        blocks=blocks,
        where=where,
        memory=memory,
        records=tuple(records),
        files=tuple(files),
    )


_MEMORY_COLUMNS = tuple(field.name for field in fields(MemoryRow))
_BLOCK_COLUMNS = (
    *("model", "block", "name", "original_ms", "replaced_ms", "saving_percent"),
    *("published_original_ms", "published_replaced_ms", "published_saving_percent"),
)


def _block_record(row: BlockRow) -> dict[str, Any]:
    return {
        **{name: getattr(row, name) for name in _BLOCK_COLUMNS[:-3]},
        "published_original_ms": row.published[0] if row.published else None,
        "published_replaced_ms": row.published[1] if row.published else None,
        "published_saving_percent": row.published_saving_percent,
    }


def _memory_rows(table: LatencyTable) -> list[MemoryRow]:
    def kib(kind: str, block: int, count: str) -> float | None:
        row = table.by_place.get((kind, block))
        return None if row is None else BYTES_A_NUMBER * getattr(row, count) / KIB

    return [
        MemoryRow(
            model=table.model,
            block=block,
            name=name,
            weights_kib=kib("original", block, "parameters") or 0.0,
            peak_kib=kib("original", block, "peak_activations") or 0.0,
            merged_weights_kib=kib("merged", block, "parameters"),
            merged_peak_kib=kib("merged", block, "peak_activations"),
        )
        for block, name in enumerate(table.block_names)
    ]


def _block_rows(found: BlockExperiment, table: LatencyTable, padding: str) -> list[BlockRow]:
    published = block_latencies(table.model) if found.kind == "merged" else ()

    def cost(kind: str, block: int) -> float | None:
        row = table.by_place.get((kind, block))
        if row is None:
            return None
        # No network contains a dense counterpart, so both are compared as they are alone.
        return row.latency_ms if found.kind == "dense" else row.cost_ms

    def becomes(block: int) -> str:
        return found.kind if found.kind == "dense" else merged_kind(table.by_place, block, padding)

    return [
        BlockRow(
            model=table.model,
            block=block,
            name=name,
            original_ms=cost("original", block),
            replaced_ms=cost(becomes(block), block),
            published=published[block] if block < len(published) else None,
        )
        for block, name in enumerate(table.block_names)
    ]


def _block_figures(
    found: BlockExperiment, tables: Mapping[str, LatencyTable], padding: str
) -> dict[str, Figure]:
    figures = {}
    for model, table in tables.items():
        name = f"{found.name}_{model}" if len(tables) > 1 else found.name
        if found.name == "fig5":
            figures[name] = memory_figure(table)
            continue
        is_dense = found.kind == "dense"
        figures[name] = dense_figure(table) if is_dense else blocks_figure(table, padding=padding)
        if found.name == "fig4":
            figures[f"{name}_kept"] = kept_figure(_plans(model), table=table, padding=padding)
    return figures


def _plans(model: str) -> dict[str, Plan]:
    """The published plans of a network."""
    names = [name for name, mask in published_masks().items() if mask.base_model == model]
    return {name: parse_plan(f"paper:{name}") for name in names}
