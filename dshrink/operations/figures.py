"""The pictures of ``dshrink plot``, of files or of what is in hand, as matplotlib's figures.

No window and no pyplot: ``dshrink.plots.save_figure`` writes one, a notebook shows it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from dshrink.errors import PlotError
from dshrink.front_results import Fronts, fronts_of, load_fronts
from dshrink.operations.given import (
    AnyPlan,
    AnyResults,
    AnyTable,
    opened_plan,
    opened_results,
    opened_table,
    plan_words,
)
from dshrink.operations.result_masks import check_masks
from dshrink.operations.search import DpResult
from dshrink.plots import (
    FrontierCurve,
    batches_figure,
    blocks_figure,
    front_figure,
    frontier_figure,
    kept_figure,
    load_frontier,
    load_mask_history,
    mask_history_figure,
    memory_figure,
    plan_labels,
    predicted_figure,
    throughput_figure,
)
from dshrink.plots.frontier import FrontierPoint, curve_of
from dshrink.plots.style import describe_table
from dshrink.results import BenchmarkResult, load_results
from dshrink.search.binding import bind_to_table
from latency_tables.published_accuracy import points_on

if TYPE_CHECKING:
    from dshrink.operations.opening import AnyNetwork


def plot_batches(results: AnyResults) -> Figure:
    """Throughput and latency against the batch size, and where throughput saturates.

    ``results`` are of ``bench_networks``, or the path of their CSV. Raises PlotError, ResultsError.
    """
    return batches_figure(opened_results(results))


def plot_throughput(results: AnyResults) -> Figure:
    """Measured frames per second against the number of kept blocks, with predictions.

    ``results`` are of ``bench_networks``, or the path of their CSV. Raises PlotError, ResultsError.
    """
    if isinstance(results, (str, Path)):
        stored = load_results(Path(results))
        check_masks(stored)
        return throughput_figure(stored.results)
    return throughput_figure(results)


def plot_blocks(table: AnyTable, *, padding: str = "bias_map") -> Figure:
    """Latency of each block before and after merging (ms), and what merging saves.

    ``padding`` is that of merged blocks. Raises PlotError, LatencyTableError.
    """
    return blocks_figure(opened_table(table), padding=padding)


def plot_memory(table: AnyTable) -> Figure:
    """Weights and peak activations of each block at 16 bit (MiB), before and after merging.

    Raises PlotError, LatencyTableError.
    """
    return memory_figure(opened_table(table))


def plot_predicted(table: AnyTable) -> Figure:
    """Predicted against measured latency (ms) of the table's held-out networks.

    Raises PlotError, LatencyTableError.
    """
    return predicted_figure(opened_table(table))


def plot_mask(history: Path | str) -> Figure:
    """History of a mask search: each block's value, and the kept blocks.

    ``history`` is the file PLAN.history.csv beside the plan. Raises PlotError.
    """
    path = Path(history)
    return mask_history_figure(load_mask_history(path), path.name)


def plot_frontier(
    frontiers: Sequence[DpResult | Path | str],
    *,
    budgets_ms: Sequence[float] = (),
    table: AnyTable | None = None,
) -> Figure:
    """Importance against latency (ms): the best network for every budget, with chosen plans.

    ``frontiers`` are results of ``search_dp`` with ``frontier``, or files of ``dshrink search dp``;
    the plan of each of ``budgets_ms`` is drawn. ``table``, the one that was searched, adds the
    original network and the ends of its blocks. Raises PlotError, LatencyTableError.
    """
    texts = [
        str(one) if isinstance(one, (str, Path)) else f"search {number}"
        for number, one in enumerate(frontiers, start=1)
    ]
    curves = [
        load_frontier(Path(one), label) if isinstance(one, (str, Path)) else _curve(one, label)
        for one, label in zip(frontiers, plan_labels(texts), strict=True)
    ]
    searched = None if table is None else opened_table(table)
    return frontier_figure(
        curves,
        budgets_ms=budgets_ms,
        chain=searched.chain if searched else None,
        source=describe_table(searched) if searched else "",
    )


def _curve(found: DpResult, label: str) -> FrontierCurve:
    if found.frontier is None:
        raise PlotError("a search without a frontier: ask for it with DpRequest(frontier=True)")
    points = (
        FrontierPoint(
            time_ms=found.problem.predicted_ms(plan.mask) if found.problem else plan.time_ms,
            importance=plan.importance,
            mask=plan.mask if plan.kind == "mask" else "",
        )
        for plan in map(found.frontier.plan, range(len(found.frontier)))
    )
    return curve_of(points, label)


def plot_kept(
    plans: Sequence[AnyPlan] | Mapping[str, AnyPlan],
    *,
    network: AnyNetwork | None = None,
    table: AnyTable | None = None,
    padding: str | None = None,
) -> Figure:
    """Which blocks, or convolutions, keep their activations: a row a plan, by its label.

    ``network`` names the blocks; ``table`` names them too, and adds their latency (ms) and a
    prediction of each plan under ``padding``: at most one of the two is given. Raises PlotError,
    PlanError, LatencyTableError, NetworkError.
    """
    if network is not None and table is not None:
        raise PlotError("--model and --table exclude each other: a table names its network")
    if not isinstance(plans, Mapping):
        labels = plan_labels([plan_words(plan) for plan in plans])
        plans = dict(zip(labels, plans, strict=True))
    labelled = {label: opened_plan(plan) for label, plan in plans.items()}
    if table is not None:
        found = opened_table(table)
        bound = {label: bind_to_table(plan, found) for label, plan in labelled.items()}
        return kept_figure(bound, table=found, padding=padding)
    if network is None:
        return kept_figure(labelled)
    from dshrink.network.chain import span_chain
    from dshrink.operations.known import known_of_plans
    from dshrink.operations.opening import opened
    from dshrink.pieces.plan_binding import bind_to_network

    made = opened(network, known_of_plans([*labelled.values()]))
    bound = {label: bind_to_network(plan, made) for label, plan in labelled.items()}
    names = [block.name for block in made.blocks]
    return kept_figure(bound, block_names=names, chain=span_chain(made.chain))


def plot_front(
    results: AnyResults | Sequence[Path] = (),
    *,
    published: Sequence[str] = (),
    model: str | None = None,
    reference: float | None = None,
) -> Figure:
    """Top-1 accuracy (percent) against throughput (FPS), with the front of each set of conditions.

    ``results`` are of ``bench_networks`` or of a study, or paths of their CSVs. ``published`` adds
    what DepthShrinker published for a device; only networks made from ``model`` are drawn where it
    is given; ``reference`` is the accuracy that hypervolumes start from. Raises PlotError,
    FrontError, ResultsError.
    """
    points = points_on(published, model)
    found = found_fronts(results, model=model, reference=reference)
    return front_figure(found.fronts, published=points, left_out=found.left_out)


def found_fronts(
    results: AnyResults | Sequence[Path],
    *,
    model: str | None = None,
    reference: float | None = None,
) -> Fronts:
    """The fronts that ``plot_front`` draws. Raises FrontError, ResultsError."""
    given: list[BenchmarkResult | Path | str]
    given = [results] if isinstance(results, (str, Path)) else list(results)
    in_hand = [one for one in given if isinstance(one, BenchmarkResult)]
    if in_hand and len(in_hand) == len(given):
        return fronts_of(in_hand, model=model, reference_percent=reference)
    paths = [Path(one) for one in given if not isinstance(one, BenchmarkResult)]
    if in_hand:
        raise PlotError("results in hand and files together: load the files with load_results")
    return load_fronts(paths, model=model, reference_percent=reference)
