"""Which plans a demo shows, by the table alone.

Budgets are shares of what merging can save, so that they are in reach of any network and device.
"""

from __future__ import annotations

from dshrink.errors import DshrinkError
from dshrink.network.models import Network
from dshrink.search.binding import plan_from_table
from dshrink.search.goal import keep_mask, round_up, savings_ms, smallest_latency
from dshrink.search.greedy import padding_of
from dshrink.search.plan import Plan
from latency_tables.opspec import Add
from latency_tables.predictor import predict
from latency_tables.table import LatencyTable

#: Of what merging can save, so much is asked for: MobileNetV2-1.4 becomes 1.2, 1.3 and 1.45 times
#: as fast on a CPU.
SHARES = (0.5, 0.7, 0.95)
#: A saving that is smaller than this part of the network is none to show.
LEAST_SAVING = 0.02
#: So many blocks are refitted.
MILD = 3


class DemoError(DshrinkError):
    """A folder of another demo, or a network that merging makes no faster here."""


def budgets_ms(table: LatencyTable) -> tuple[float, ...]:
    """Latency budgets that reach ``SHARES`` of what merging can save.

    Raises DemoError where that is next to nothing.
    """
    whole_ms = predict(table, table.forms.base).latency_ms
    saved_ms = whole_ms - smallest_latency(table, padding_of(table)).latency_ms
    if saved_ms < LEAST_SAVING * whole_ms:
        raise DemoError(
            f"{table.model}: merging saves {max(saved_ms, 0.0):.3g} of {whole_ms:.4g} ms on "
            f"{table.conditions.device} with {table.conditions.runtime}, too little to show: "
            "choose another --model"
        )
    return tuple(float(round_up(whole_ms - share * saved_ms)) for share in SHARES)


def mild_plan(network: Network, table: LatencyTable) -> Plan:
    """The ``MILD`` blocks with a skip that save most; if there are none, the one that does."""
    padding = padding_of(table)
    savings = savings_ms(table, padding)
    order = sorted(savings, key=lambda block: (-savings[block], block))
    ops = network.spec.ops
    skips = {
        block.index
        for block in network.blocks
        if any(isinstance(op, Add) for op in ops[block.first : block.last + 1])
    }
    merged = [block for block in order if block in skips and savings[block] > 0][:MILD]
    mask = keep_mask(table.block_count, merged or order[:1])
    return plan_from_table(table, predict(table, mask, padding), method="greedy")
