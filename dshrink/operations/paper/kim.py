"""Kim et al. beside DepthShrinker: their published results, and masks against the dynamic program.

The second part needs a latency table of spans and importances of that network, which
``dshrink profile --segments spans`` and ``dshrink importance`` make.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dshrink.markdown import markdown_table
from dshrink.operations.paper.files import write_experiment
from dshrink.paper.experiments import PaperError
from dshrink.paper.kim import NOT_REBUILT, SOURCE, HeadlineRow, headline
from dshrink.paper.kim_masks import MaskComparison, compare_masks, paper_masks
from dshrink.plots import save_figure
from dshrink.plots.paper import kim_figure
from dshrink.plots.style import describe_table
from dshrink.search.dp.files import load_importance, load_unevaluated
from dshrink.search.dp.tables import span_chain_of, table_problem
from dshrink.search.goal import check_fit
from dshrink.search.plan import parse_plan
from latency_tables.io import load_table
from latency_tables.table import LatencyTable

#: What a reader must know of the comparison.
ABOUT_IMPORTANCE = (
    "Within one table and one set of importances the dynamic program is exact, so it is never "
    "worse than a mask; by how much is the finding. Importances are sums of accuracy changes that "
    "were measured a span at a time, with the offset of alpha: a gain is no difference of "
    "accuracies, and no plan here was trained."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class KimOutcome:
    """``comparisons`` are None where no table was given; ``table`` is the one they are of."""

    headline: tuple[HeadlineRow, ...]
    table: LatencyTable | None = None
    comparisons: tuple[MaskComparison, ...] | None = None


def compare_kim(
    *,
    table: Path | None = None,
    importance: Path | None = None,
    plans: Sequence[str] = (),
    allow_unfit: bool = False,
) -> KimOutcome:
    """The published results; with a table and importances also masks against the program's plans.

    ``plans`` are keep masks, as ``mask:0011...`` or ``paper:NAME``; by default DepthShrinker's of
    the table's network. Raises PaperError, and as ``search dp`` does.
    """
    if (table is None) != (importance is None):
        raise PaperError(
            "kim compares masks by a table of spans and its importances: give both --table and "
            "--importance, or neither"
        )
    if table is None or importance is None:
        if plans:
            raise PaperError("kim compares --plan by a table: give --table and --importance")
        return KimOutcome(headline=headline())
    latencies = load_table(table)
    check_fit(latencies, allow_unfit=allow_unfit)
    problem = table_problem(
        latencies,
        load_importance(importance, None),
        where=str(importance),
        excused=load_unevaluated(importance, latencies.model),
    )
    masks = _masks(plans) or paper_masks(span_chain_of(latencies), latencies.model)
    if not masks:
        raise PaperError(
            f"DepthShrinker published no masks for {latencies.model}: give --plan mask:0011..."
        )
    found = compare_masks(problem, masks)
    return KimOutcome(headline=headline(), table=latencies, comparisons=found)


def _masks(plans: Sequence[str]) -> dict[str, str]:
    found = {}
    for text in plans:
        plan = parse_plan(text)
        if not plan.keep_mask:
            raise PaperError(f"--plan {text}: kim compares keep masks of blocks: mask:0011...")
        found[text.removeprefix("paper:")] = plan.keep_mask
    return found


def kim_records(outcome: KimOutcome) -> list[dict[str, Any]]:
    """The comparison, flat; empty without one."""
    return [
        {
            "mask": one.name,
            "keep_mask": one.keep_mask,
            "predicted_ms": one.predicted_ms,
            "importance": one.importance,
            "dp_importance_at_latency": one.at_latency.importance if one.at_latency else None,
            "dp_ms_at_latency": one.at_latency.predicted_ms if one.at_latency else None,
            "dp_plan_at_latency": one.at_latency.span_mask if one.at_latency else None,
            "importance_gain": one.importance_gain,
            "dp_ms_at_importance": one.at_importance.predicted_ms if one.at_importance else None,
            "dp_plan_at_importance": one.at_importance.span_mask if one.at_importance else None,
            "faster_percent": one.faster_percent,
            "reason": one.reason,
        }
        for one in outcome.comparisons or ()
    ]


def headline_records(outcome: KimOutcome) -> list[dict[str, Any]]:
    """The published results, flat."""
    return [
        {
            "model": row.model,
            "method": row.method,
            "top1_percent": row.top1_percent,
            "budget_ms": row.budget_ms,
            "published_speedup": row.published_speedup,
            "table_speedup": row.table_speedup,
            "difference_percent": row.difference_percent,
            "unexplained_ms": row.unexplained_ms,
            "is_feasible": row.is_feasible,
        }
        for row in outcome.headline
    ]


def kim_lines(outcome: KimOutcome, title: str) -> list[str]:
    """The report as Markdown; ``title`` says where the table was measured."""
    lines = ["# Kim et al. (ICML 2023) beside DepthShrinker", "", f"Published: {SOURCE}."]
    lines += ["", NOT_REBUILT, "", "## Published results beside their own latency tables", ""]
    heads = ("network", "method", "top-1 %", "budget ms", "speed-up", "by their table", "differs")
    lines += markdown_table(heads, [_headline_cells(row) for row in outcome.headline])
    lines += [
        "",
        "Speed-up: published, of whole networks, in the runtime of the table (TensorRT; PyTorch "
        "for VGG-19). By their table: the sum of single convolutions over the budget, of the body "
        "alone.",
    ]
    if outcome.comparisons is not None:
        lines += ["", f"## Masks against the dynamic program: {title}", ""]
        heads = (
            *("mask", "predicted ms", "importance", "dynamic program at that latency", "gain"),
            *("dynamic program at that importance", "faster"),
        )
        lines += markdown_table(heads, [_mask_cells(one) for one in outcome.comparisons])
        lines += ["", ABOUT_IMPORTANCE]
        lines += [
            f"\n{one.name} is no plan of the program: {one.reason}."
            for one in outcome.comparisons
            if one.reason
        ]
    return lines


def _headline_cells(row: HeadlineRow) -> list[str]:
    return [
        row.model,
        row.method,
        f"{row.top1_percent:.2f}",
        _cell(row.budget_ms, "g"),
        _cell(row.published_speedup, ".2f", "x"),
        _cell(row.table_speedup, ".2f", "x"),
        _cell(row.difference_percent, "+.1f", " %"),
    ]


def _mask_cells(one: MaskComparison) -> list[str]:
    return [
        one.name,
        _cell(one.predicted_ms, ".3f"),
        _cell(one.importance, ".2f"),
        _cell(one.at_latency.importance if one.at_latency else None, ".2f"),
        _cell(one.importance_gain, "+.2f"),
        _cell(one.at_importance.predicted_ms if one.at_importance else None, ".3f", " ms"),
        _cell(one.faster_percent, ".1f", " %"),
    ]


def _cell(value: float | None, form: str, unit: str = "") -> str:
    return "" if value is None else f"{value:{form}}{unit}"


def write_kim(outcome: KimOutcome, at: Path) -> tuple[tuple[dict[str, Any], ...], tuple[Path, ...]]:
    """The records, and the files written: CSV, JSON, Markdown and a picture.

    The records are of the comparison; without one, of the published results.
    """
    published = headline_records(outcome)
    records = kim_records(outcome) or published
    table, compared = outcome.table, outcome.comparisons or ()
    title = describe_table(table) if table else ""
    data: dict[str, Any] = {"headline": published}
    if table:
        data |= {"conditions": table.conditions.to_json(), "model": table.model}
    date = table.date if table else datetime.now(UTC).isoformat(timespec="seconds")
    lines = kim_lines(outcome, title)
    files = write_experiment(at, list(records[0]), records, lines, data, date)
    if table and any(one.importance is not None for one in compared):
        files += save_figure(kim_figure(table, compared), at.with_suffix(".png"))
    return tuple(records), tuple(files)
