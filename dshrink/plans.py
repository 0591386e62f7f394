"""Plans tied to networks: the layers by name, as a merge, a benchmark or a reader needs them."""

from __future__ import annotations

from dshrink.blocks import find_blocks
from dshrink.models import Network
from dshrink.search.binding import bind
from dshrink.search.plan import Plan


def bind_to_network(plan: Plan, network: Network) -> Plan:
    """The plan with the names of this network's blocks and of their activations.

    Raises PlanError where the plan is for another network or shrinks a block that cannot merge.
    """
    blocks = find_blocks(network.spec, network.lowered.layers)
    return bind(
        plan,
        model=network.name,
        block_names=[block.name for block in blocks],
        unmergeable={block.index: block.unmergeable for block in blocks if block.unmergeable},
        activations={block.index: block.inner_activations for block in blocks},
    )
