"""DepthShrinker and the latency tables that drive it: plan, merge, verify, benchmark, draw.

Everything here is imported on first use: ``import dshrink`` loads neither torch nor pandas. Each
function does what the command of its name does and returns what that shows; nothing is printed
unless ``on_progress=`` and ``notice=`` are given. docs/python.md is a session, docs/reference.md
lists everything.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from devices.errors import DevicesError as DevicesError
    from dshrink.errors import DshrinkError as DshrinkError
    from dshrink.importance.journal import Shard as Shard
    from dshrink.importance.run import ImportanceResult as ImportanceResult
    from dshrink.importance.settings import ImportanceSettings as ImportanceSettings
    from dshrink.importance.settings import Level as Level
    from dshrink.merge.export import export_onnx as export_onnx
    from dshrink.network.models import Network as Network
    from dshrink.network.models import load_network as load_network
    from dshrink.network.references import ModelChoice as ModelChoice
    from dshrink.operations.bench import bench_networks as bench_networks
    from dshrink.operations.chain import chain_frame as chain_frame
    from dshrink.operations.chain import describe_chain as describe_chain
    from dshrink.operations.export_table import export_table as export_table
    from dshrink.operations.figures import plot_batches as plot_batches
    from dshrink.operations.figures import plot_blocks as plot_blocks
    from dshrink.operations.figures import plot_front as plot_front
    from dshrink.operations.figures import plot_frontier as plot_frontier
    from dshrink.operations.figures import plot_kept as plot_kept
    from dshrink.operations.figures import plot_mask as plot_mask
    from dshrink.operations.figures import plot_memory as plot_memory
    from dshrink.operations.figures import plot_predicted as plot_predicted
    from dshrink.operations.figures import plot_throughput as plot_throughput
    from dshrink.operations.finetune import FinetuneResult as FinetuneResult
    from dshrink.operations.finetune import finetune_by_plan as finetune_by_plan
    from dshrink.operations.importance import measure_importance as measure_importance
    from dshrink.operations.mask_search import MaskRequest as MaskRequest
    from dshrink.operations.mask_search import search_mask as search_mask
    from dshrink.operations.merge import Merged as Merged
    from dshrink.operations.merge import MergeResult as MergeResult
    from dshrink.operations.merge import merge_by_plan as merge_by_plan
    from dshrink.operations.paper import PaperOutcome as PaperOutcome
    from dshrink.operations.paper import PaperRequest as PaperRequest
    from dshrink.operations.paper import measure_experiment as measure_experiment
    from dshrink.operations.profile import profile_network as profile_network
    from dshrink.operations.profile_layers import measure_layers as measure_layers
    from dshrink.operations.refit import RefitResult as RefitResult
    from dshrink.operations.refit import Refitted as Refitted
    from dshrink.operations.refit import refit_by_plan as refit_by_plan
    from dshrink.operations.search import DpRequest as DpRequest
    from dshrink.operations.search import DpResult as DpResult
    from dshrink.operations.search import search_blocks as search_blocks
    from dshrink.operations.search import search_csv as search_csv
    from dshrink.operations.search import search_dp as search_dp
    from dshrink.operations.study import StudyResult as StudyResult
    from dshrink.operations.study import run_study as run_study
    from dshrink.operations.study_plan import StudyRequest as StudyRequest
    from dshrink.operations.tables import compare_tables as compare_tables
    from dshrink.operations.tables import predict_latency as predict_latency
    from dshrink.operations.tables import predict_layer as predict_layer
    from dshrink.operations.tables import predict_layers as predict_layers
    from dshrink.plots import save_figure as save_figure
    from dshrink.results import BenchmarkResult as BenchmarkResult
    from dshrink.results import StoredResults as StoredResults
    from dshrink.results import load_results as load_results
    from dshrink.results import results_frame as results_frame
    from dshrink.search.dp.bounds import Bounds as Bounds
    from dshrink.search.goal import Goal as Goal
    from dshrink.search.plan import Plan as Plan
    from dshrink.search.plan import parse_plan as parse_plan
    from dshrink.search.plan import save_plan as save_plan
    from dshrink.study.recipe import Recipe as Recipe
    from dshrink.study.recipe import load_recipe as load_recipe
    from dshrink.train.digits import write_digits as write_digits
    from dshrink.train.settings import Training as Training
    from dshrink.train.unreadable import Unreadable as Unreadable
    from dshrink.version import __version__ as __version__
    from latency_tables.compare import Comparison as Comparison
    from latency_tables.errors import LatencyTableError as LatencyTableError
    from latency_tables.io import load_table as load_table
    from latency_tables.io import save_table as save_table
    from latency_tables.layers.compare import LayersComparison as LayersComparison
    from latency_tables.layers.io import load_layer_table as load_layer_table
    from latency_tables.layers.layer import Layer as Layer
    from latency_tables.layers.layer_table import LayerTable as LayerTable
    from latency_tables.layers.prediction import LayerPrediction as LayerPrediction
    from latency_tables.layers.texts import LayerList as LayerList
    from latency_tables.layers.texts import load_layers as load_layers
    from latency_tables.layers.texts import parse_grid as parse_grid
    from latency_tables.layers.texts import parse_layer as parse_layer
    from latency_tables.predictor import Prediction as Prediction
    from latency_tables.table import LatencyTable as LatencyTable
    from profiler.errors import ProfilerError as ProfilerError
    from profiler.profile import Profile as Profile
    from profiler.target import Target as Target

#: What each module gives; a test compares them with the imports above, which are for type checkers.
_GIVEN_BY = {
    "devices.errors": ("DevicesError",),
    "dshrink.errors": ("DshrinkError",),
    "dshrink.importance.journal": ("Shard",),
    "dshrink.importance.run": ("ImportanceResult",),
    "dshrink.importance.settings": ("ImportanceSettings", "Level"),
    "dshrink.merge.export": ("export_onnx",),
    "dshrink.network.models": ("Network", "load_network"),
    "dshrink.network.references": ("ModelChoice",),
    "dshrink.operations.bench": ("bench_networks",),
    "dshrink.operations.chain": ("chain_frame", "describe_chain"),
    "dshrink.operations.export_table": ("export_table",),
    "dshrink.operations.figures": (
        *("plot_batches", "plot_blocks", "plot_front", "plot_frontier", "plot_kept", "plot_mask"),
        *("plot_memory", "plot_predicted", "plot_throughput"),
    ),
    "dshrink.operations.finetune": ("FinetuneResult", "finetune_by_plan"),
    "dshrink.operations.importance": ("measure_importance",),
    "dshrink.operations.mask_search": ("MaskRequest", "search_mask"),
    "dshrink.operations.merge": ("MergeResult", "Merged", "merge_by_plan"),
    "dshrink.operations.paper": ("PaperOutcome", "PaperRequest", "measure_experiment"),
    "dshrink.operations.profile": ("profile_network",),
    "dshrink.operations.profile_layers": ("measure_layers",),
    "dshrink.operations.refit": ("RefitResult", "Refitted", "refit_by_plan"),
    "dshrink.operations.search": (
        *("DpRequest", "DpResult", "search_blocks", "search_csv", "search_dp"),
    ),
    "dshrink.operations.study": ("StudyResult", "run_study"),
    "dshrink.operations.study_plan": ("StudyRequest",),
    "dshrink.operations.tables": (
        *("compare_tables", "predict_latency", "predict_layer", "predict_layers"),
    ),
    "dshrink.plots": ("save_figure",),
    "dshrink.results": ("BenchmarkResult", "StoredResults", "load_results", "results_frame"),
    "dshrink.search.dp.bounds": ("Bounds",),
    "dshrink.search.goal": ("Goal",),
    "dshrink.search.plan": ("Plan", "parse_plan", "save_plan"),
    "dshrink.study.recipe": ("Recipe", "load_recipe"),
    "dshrink.train.digits": ("write_digits",),
    "dshrink.train.settings": ("Training",),
    "dshrink.train.unreadable": ("Unreadable",),
    "dshrink.version": ("__version__",),
    "latency_tables.compare": ("Comparison",),
    "latency_tables.errors": ("LatencyTableError",),
    "latency_tables.io": ("load_table", "save_table"),
    "latency_tables.layers.compare": ("LayersComparison",),
    "latency_tables.layers.io": ("load_layer_table",),
    "latency_tables.layers.layer": ("Layer",),
    "latency_tables.layers.layer_table": ("LayerTable",),
    "latency_tables.layers.prediction": ("LayerPrediction",),
    "latency_tables.layers.texts": ("LayerList", "load_layers", "parse_grid", "parse_layer"),
    "latency_tables.predictor": ("Prediction",),
    "latency_tables.table": ("LatencyTable",),
    "profiler.errors": ("ProfilerError",),
    "profiler.profile": ("Profile",),
    "profiler.target": ("Target",),
}
_MODULE_OF = {name: module for module, names in _GIVEN_BY.items() for name in names}
__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(_MODULE_OF[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULE_OF})
