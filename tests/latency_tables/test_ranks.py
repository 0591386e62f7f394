from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latency_tables.errors import LatencyTableError
from latency_tables.ranks import kendall_tau, spearman_rho

pairs = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=25)


def tau_from_tie_counts(x: list[int], y: list[int]) -> float | None:
    """Kendall's own formula: (concordant - discordant) / sqrt((n0 - n1) (n0 - n2))."""
    concordant = discordant = 0
    for i in range(len(x)):
        for j in range(i):
            product = (x[i] - x[j]) * (y[i] - y[j])
            concordant += product > 0
            discordant += product < 0
    n0 = math.comb(len(x), 2)
    n1, n2 = (sum(math.comb(c, 2) for c in Counter(values).values()) for values in (x, y))
    if n0 in (n1, n2):
        return None
    return (concordant - discordant) / math.sqrt((n0 - n1) * (n0 - n2))


@settings(deadline=None)
@given(pairs)
def test_tau_equals_the_formula_with_tie_counts(values: list[tuple[int, int]]) -> None:
    x, y = [a for a, _ in values], [b for _, b in values]
    expected = tau_from_tie_counts(x, y)
    assert kendall_tau(x, y) == (None if expected is None else pytest.approx(expected))


@settings(deadline=None)
@given(pairs)
def test_rho_equals_the_correlation_of_pandas_ranks(values: list[tuple[int, int]]) -> None:
    x, y = [a for a, _ in values], [b for _, b in values]
    if len(set(x)) == 1 or len(set(y)) == 1:
        assert spearman_rho(x, y) is None
        return
    expected = np.corrcoef(pd.Series(x).rank(), pd.Series(y).rank())[0, 1]
    assert spearman_rho(x, y) == pytest.approx(expected)


def test_tau_gives_the_example_of_scipys_documentation() -> None:
    assert kendall_tau([12, 2, 1, 12, 2], [1, 4, 7, 1, 0]) == pytest.approx(-0.47140452079103173)


def test_rho_gives_the_example_of_scipys_documentation() -> None:
    assert spearman_rho([1, 2, 3, 4, 5], [5, 6, 7, 8, 7]) == pytest.approx(0.8207826816681233)


@pytest.mark.parametrize("correlate", [kendall_tau, spearman_rho])
def test_order_and_reversed_order_are_the_extremes(correlate: object) -> None:
    assert callable(correlate)
    assert correlate([1.0, 2.0, 3.5], [0.1, 0.2, 0.3]) == pytest.approx(1)
    assert correlate([1.0, 2.0, 3.5], [0.3, 0.2, 0.1]) == pytest.approx(-1)
    assert correlate([1.0], [2.0]) is None
    assert correlate([], []) is None
    with pytest.raises(LatencyTableError, match="cannot correlate 2 with 1"):
        correlate([1.0, 2.0], [1.0])
