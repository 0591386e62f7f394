from __future__ import annotations

import pytest

from latency_tables.errors import LatencyTableError, PieceError
from latency_tables.opspec import Conv, OpSpec
from latency_tables.pieces import NetworkPieces, Piece, piece_row


def spec(channels: int = 8) -> OpSpec:
    conv = Conv(inputs=(0,), out_channels=channels, kernel=(3, 3), pads=(1, 1, 1, 1))
    return OpSpec(input_shape=(8, 14, 14), ops=(conv,))


def piece(kind: str, block: int | None = None, channels: int = 8) -> Piece:
    return Piece(kind=kind, block=block, layers=("conv1", "conv2"), spec=spec(channels))


def network(*pieces: Piece, unmergeable: dict[int, str] | None = None) -> NetworkPieces:
    return NetworkPieces(
        model="tiny",
        resolution=(14, 14),
        in_channels=8,
        block_names=("blocks.0", "blocks.1"),
        pieces=pieces,
        unmergeable=unmergeable or {},
    )


COMPLETE = (
    piece("stem"),
    piece("original", 0),
    piece("merged", 0),
    piece("original", 1, channels=4),
    piece("merged", 1),
    piece("head"),
)


@pytest.mark.parametrize(
    ("kind", "block", "name"),
    [
        ("stem", None, "stem"),
        ("head", None, "head"),
        ("between", 4, "between 4"),
        ("original", 3, "block 3 original"),
        ("merged_bias_map", 3, "block 3 merged bias map"),
        ("dense", 0, "block 0 dense"),
    ],
)
def test_a_piece_is_named_by_its_place(kind: str, block: int | None, name: str) -> None:
    assert piece(kind, block).name == name


@pytest.mark.parametrize(
    ("kind", "block"),
    [("stem", 0), ("head", 3), ("original", None), ("merged", -1), ("between", None), ("tail", 1)],
)
def test_a_piece_at_an_impossible_place_is_refused(kind: str, block: int | None) -> None:
    with pytest.raises(PieceError):
        piece(kind, block)


def test_a_row_names_the_first_and_the_last_layer_of_its_piece() -> None:
    row = piece_row(piece("stem"), verdict="failed", reason="not yet measured")
    assert (row.first_layer, row.last_layer) == ("conv1", "conv2")


def test_pieces_are_found_by_place() -> None:
    pieces = network(*COMPLETE)
    assert pieces.piece("original", 1).spec == spec(4)
    with pytest.raises(PieceError, match="tiny has no piece 'between 0'"):
        pieces.piece("between", 0)


def test_a_block_that_cannot_merge_is_not_mergeable() -> None:
    pieces = network(*COMPLETE[:4], COMPLETE[5], unmergeable={1: "squeeze-excite"})
    assert pieces.mergeable == (0,)


@pytest.mark.parametrize(
    ("pieces", "unmergeable", "message"),
    [
        ((*COMPLETE, piece("stem")), {}, "stem is listed twice"),
        ((*COMPLETE, piece("dense", 2)), {}, "block that does not exist: tiny has 2 blocks"),
        ((*COMPLETE[:3], *COMPLETE[4:]), {}, "block 1 has no original"),
        ((*COMPLETE[:2], *COMPLETE[3:]), {}, "block 0 must have either a merged piece"),
        (COMPLETE, {1: "swish"}, "block 1 must have either a merged piece"),
    ],
)
def test_a_list_of_pieces_that_describes_no_network_is_refused(
    pieces: tuple[Piece, ...], unmergeable: dict[int, str], message: str
) -> None:
    with pytest.raises(PieceError, match=message) as caught:
        network(*pieces, unmergeable=unmergeable)
    assert isinstance(caught.value, LatencyTableError)
