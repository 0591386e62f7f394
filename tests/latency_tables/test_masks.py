"""Keep masks that a spreadsheet or pandas took for numbers are refused by a line that says so."""

from __future__ import annotations

import pytest

from latency_tables.errors import MaskError
from latency_tables.masks import check_mask
from latency_tables.span_masks import SpanChain, check_span_mask

BLOCKS = ("a", "b", "c", "d", "e")
CHAIN = SpanChain(convolutions=BLOCKS, mask="11111", skips=(), block_ends=(5,))


@pytest.mark.parametrize("mask", ["10110.0", "1.01E+15", "1.0111e+04", "10,110", "1,01E+15"])
def test_a_mask_that_became_a_number_is_refused_as_one(mask: str) -> None:
    said = "read as a number by a spreadsheet or pandas"
    with pytest.raises(MaskError, match=said):
        check_mask(mask, BLOCKS, {})
    with pytest.raises(MaskError, match=said):
        check_span_mask(mask, CHAIN, {(0, 5)})


def test_lost_leading_zeros_are_guessed_at() -> None:
    with pytest.raises(MaskError, match=r"has 3 characters.* \(leading zeros lost to a spreadshee"):
        check_mask("101", BLOCKS, {})
    with pytest.raises(MaskError, match=r"has 3 characters.* \(leading zeros lost to a spreadshee"):
        check_span_mask("101", CHAIN, {(0, 5)})


@pytest.mark.parametrize("mask", ["011", "111111", "1x111", "paper"])
def test_other_mistakes_are_not_put_down_to_spreadsheets(mask: str) -> None:
    with pytest.raises(MaskError) as caught:
        check_mask(mask, BLOCKS, {})
    assert "spreadsheet" not in str(caught.value)
