"""The keys of I(i, j, a, b), against the published list and by hand."""

import csv
from collections.abc import Callable
from pathlib import Path

from dshrink.network.models import Network
from dshrink.pieces.span_pieces import span_pieces
from dshrink.search.importance import ImportanceKey, importance_keys, key_mask
from latency_tables.span_masks import SpanChain

# The keys, in their order, that the public code of Kim et al. 2023 (MIT,
# snu-mllab/Efficient-CNN-Depth-Compression) measures for MobileNetV2.
PUBLISHED = Path(__file__).parent / "data" / "kim2023_mobilenetv2_100_keys.csv"

CHAIN = SpanChain(convolutions=("a", "b", "c", "d", "e"), mask="1|11|", block_ends=(2, 5))


def test_mobilenetv2_has_the_published_keys_in_their_order(
    network: Callable[..., Network],
) -> None:
    with PUBLISHED.open(newline="") as file:
        published = [
            tuple(int(row[name]) for name in ("st", "end", "st_act", "end_act"))
            for row in csv.DictReader(file)
        ]
    pieces = span_pieces(network("mobilenetv2_100"), mode="kim2023")
    assert pieces.chain is not None
    spans = [piece.span for piece in pieces.pieces if piece.kind == "span" and piece.span]
    keys = importance_keys(spans, pieces.chain.block_ends)
    assert len(keys) == 315
    assert list(keys) == published


def test_without_blocks_every_span_has_one_key() -> None:
    assert importance_keys([(1, 2), (0, 1), (0, 2)], ()) == (
        (0, 1, 1, 1),
        (0, 2, 1, 1),
        (1, 2, 1, 1),
    )


def test_a_key_changes_its_span_and_its_ends_and_nothing_else() -> None:
    masks = {
        key: key_mask(CHAIN, ImportanceKey(*key))
        for key in [(0, 1, 1, 1), (0, 2, 1, 1), (1, 2, 1, 0), (2, 5, 1, 1), (2, 5, 0, 1)]
    }
    assert masks == {
        (0, 1, 1, 1): "1|11|",
        (0, 2, 1, 1): "0111|",
        (1, 2, 1, 0): "1|11|",
        (2, 5, 1, 1): "11001",
        (2, 5, 0, 1): "1|001",
    }
