"""Whether the keep masks in files of results still have a character a block of their networks.

A spreadsheet drops zeros in front without a trace, and results say nowhere how many blocks there
are. Only masks that may have lost some are compared with their network, for making it takes
seconds.
"""

from __future__ import annotations

from collections.abc import Iterable

from dshrink.errors import NetworkError
from dshrink.network.references import Reference, same_model
from dshrink.results import BenchmarkResult, ResultsError, StoredResults
from latency_tables.mask_cells import as_text


def check_masks(stored: StoredResults) -> None:
    """Raise ResultsError for a mask of fewer blocks than its network has, where that is known.

    Networks of one's own are not made for this, nor are those that no library here has.
    """
    of_models: dict[str, list[tuple[str, BenchmarkResult]]] = {}
    for place, result in zip(stored.places, stored.results, strict=True):
        if result.keep_mask and result.kept_blocks is not None:
            of_models.setdefault(result.model, []).append((place, result))
    for model, found in of_models.items():
        place, first = found[0]
        if _may_lack_zeros(result for _, result in found):
            blocks = _block_count(model)
            if blocks is not None and len(first.keep_mask) != blocks:
                raise ResultsError(
                    f"{place}: keep_mask {first.keep_mask} has {len(first.keep_mask)} characters, "
                    f"{model} has {blocks} blocks ({as_text('keep_mask')})"
                )


def _may_lack_zeros(results: Iterable[BenchmarkResult]) -> bool:
    """Not where one begins with 0, nor where one is of the original network, which has no 0."""
    return not any(
        one.keep_mask.startswith("0") or same_model(one.network, one.model) for one in results
    )


def _block_count(model: str) -> int | None:
    from dshrink.network.models import load_network

    try:
        takes_classes = Reference.parse(model).takes_classes
        return len(load_network(model).blocks) or None if takes_classes else None
    except NetworkError:
        return None
