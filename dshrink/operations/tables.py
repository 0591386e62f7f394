"""What a latency table says: predictions of masks and plans, and how two tables compare."""

from __future__ import annotations

from dshrink.operations.given import AnyPlan, AnyTable, opened_table
from dshrink.search.plan import Plan, parse_plan
from latency_tables.compare import Comparison, compare
from latency_tables.predictor import Prediction, predict


def predict_latency(table: AnyTable, keep: AnyPlan, padding: str | None = None) -> Prediction:
    """What the network of a mask should cost, for the table's batch, with a 95 % interval (ms).

    ``keep`` is a keep mask ("0110": 1 keeps a block, 0 merges it), the span mask of a table of
    spans, or a plan. ``padding`` is that of merged pieces: "bias_map" (of blocks, where it is
    None), "repad" (of spans) or "interior". Raises LatencyTableError for a mask that does not fit
    the table, or a piece without a latency, PlanError.
    """
    if not isinstance(keep, Plan) and (":" in str(keep) or str(keep).endswith(".json")):
        keep = parse_plan(keep)
    mask = keep.mask if isinstance(keep, Plan) else str(keep)
    return predict(opened_table(table), mask, padding)


def compare_tables(a: AnyTable, b: AnyTable) -> Comparison:
    """Two tables of one network row by row: which pieces became faster, and is it significant?

    Raises LatencyTableError for tables of two networks.
    """
    return compare(opened_table(a), opened_table(b))
