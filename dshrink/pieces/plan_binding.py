"""Plans tied to networks: the layers by name, as a merge, a benchmark or a reader needs them."""

from __future__ import annotations

from dshrink.errors import ShrinkError
from dshrink.network.chain import span_chain
from dshrink.network.models import Network
from dshrink.pieces.specs import shrunk_spec
from dshrink.search.binding import bind, bind_spans
from dshrink.search.errors import PlanError
from dshrink.search.plan import Plan


def bind_to_network(plan: Plan, network: Network) -> Plan:
    """The plan with the names of this network's blocks and activations, or of its convolutions.

    Raises PlanError where the plan is for another network or merges what cannot merge.
    """
    if plan.segments == "blocks":
        blocks = network.blocks
        return bind(
            plan,
            model=network.name,
            block_names=[block.name for block in blocks],
            unmergeable={block.index: block.unmergeable for block in blocks if block.unmergeable},
            activations={block.index: block.inner_activations for block in blocks},
        )
    chain = network.chain
    bound = bind_spans(plan, model=network.name, chain=span_chain(chain), known=set(chain.spans()))
    try:
        shrunk_spec(network, bound.span_mask, segments="spans")  # says why a span cannot merge
    except ShrinkError as error:
        raise PlanError(str(error)) from None
    return bound
