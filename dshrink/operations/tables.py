"""What a latency table says: predictions of masks and plans, and how two tables compare."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dshrink.operations.given import AnyPlan, AnyTable, opened_any, opened_table
from dshrink.search.binding import bind_to_table
from dshrink.search.plan import Plan, parse_plan
from latency_tables.compare import Comparison, compare
from latency_tables.errors import LatencyTableError
from latency_tables.layers import prediction
from latency_tables.layers.compare import LayersComparison, compare_layers
from latency_tables.layers.io import load_layer_table
from latency_tables.layers.layer import Layer
from latency_tables.layers.layer_table import LayerTable
from latency_tables.layers.prediction import LayerPrediction
from latency_tables.layers.texts import parse_layer
from latency_tables.predictor import Prediction, predict
from latency_tables.table import LatencyTable


def predict_latency(table: AnyTable, keep: AnyPlan, padding: str | None = None) -> Prediction:
    """What the network of a mask should cost, for the table's batch, with a 95 % interval (ms).

    ``keep`` is a keep mask ("0110": 1 keeps a block, 0 merges it), the span mask of a table of
    spans, or a plan. ``padding`` is that of merged pieces: "bias_map" (of blocks, where it is
    None), "repad" (of spans) or "interior". Raises LatencyTableError for a mask that does not fit
    the table, or a piece without a latency, PlanError for a plan of another network.
    """
    known = opened_table(table)
    if isinstance(keep, Plan):
        # A plan says the padding that its network has; a bare mask takes the table's usual one.
        return predict(known, bind_to_table(keep, known).mask, padding or keep.padding)
    is_file = str(keep).endswith(".json") or Path(keep).is_file()
    if not is_file and ":" not in str(keep):
        return predict(known, str(keep), padding)
    plan = parse_plan(str(keep))
    mask = bind_to_table(plan, known).mask
    return predict(known, mask, padding or (plan.padding if is_file else None))


def compare_tables(
    a: AnyTable | LayerTable, b: AnyTable | LayerTable
) -> Comparison | LayersComparison:
    """Two tables of one network, or of layers: which rows became faster, and is it significant?

    Raises LatencyTableError for tables of two networks, of no layer in common, or one of each kind.
    """
    ours, theirs = opened_any(a), opened_any(b)
    if isinstance(ours, LayerTable) and isinstance(theirs, LayerTable):
        return compare_layers(ours, theirs)
    if isinstance(ours, LatencyTable) and isinstance(theirs, LatencyTable):
        return compare(ours, theirs)
    layers, network = "AB" if isinstance(ours, LayerTable) else "BA"
    raise LatencyTableError(
        f"{layers} is a table of layers and {network} one of a network: compare two of a kind"
    )


def predict_layers(
    table: LayerTable | Path | str, layers: Sequence[Layer | str]
) -> list[LayerPrediction]:
    """The latencies of layers that are in a table, or between layers that are, in ms.

    A layer is one in hand or its text ("cin=48 cout=80 k=3 hw=28"). Each sort of layer is fitted
    once. Raises MissingPieceError, with the reason, for a layer that is neither, PieceError for a
    text that is none.
    """
    known = table if isinstance(table, LayerTable) else load_layer_table(table)
    asked = [parse_layer(layer) if isinstance(layer, str) else layer for layer in layers]
    return prediction.predict_layers(known, asked)


def predict_layer(table: LayerTable | Path | str, layer: Layer | str) -> LayerPrediction:
    """``predict_layers`` of one."""
    return predict_layers(table, [layer])[0]
