"""Networks merged by a mask, in one call."""

from __future__ import annotations

from dshrink.merge.merged_network import MergedNetwork, merge_network
from dshrink.network.mask_changes import rewriting
from dshrink.network.models import Network


def merge_blocks(
    network: Network,
    keep_mask: str,
    *,
    padding: str = "bias_map",
    free_activation: bool = True,
) -> MergedNetwork:
    """Merge the blocks that a keep mask marks 0. Raises as ``merge_network`` and ``rewriting``."""
    changes = rewriting(network, keep_mask, free_activation=free_activation)
    return merge_network(network, changes, padding=padding)


def merge_spans(
    network: Network,
    span_mask: str,
    *,
    padding: str = "repad",
    free_activation: bool = True,
) -> MergedNetwork:
    """Merge the spans of a span mask. Raises as ``merge_network`` and ``rewriting``."""
    changes = rewriting(network, span_mask, segments="spans", free_activation=free_activation)
    return merge_network(network, changes, padding=padding)
