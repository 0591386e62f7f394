"""The error of a result against NumPy; targets behind an activation against a search on a grid."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dshrink.refit.agreement import compare
from dshrink.refit.distances import mean_error, nearest_target, result_error

ACT = {"relu": F.relu, "relu6": F.relu6, "": lambda x: x}


def draw(*shape: int, seed: int = 0, scale: float = 4.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(shape, generator=generator, dtype=torch.float64)


def divergence(wanted: Tensor, result: Tensor) -> float:
    def softmax(logits: Tensor) -> np.ndarray:
        exponentials = np.exp(logits.double().numpy())
        return exponentials / exponentials.sum(axis=1, keepdims=True)

    p, q = softmax(wanted), softmax(result)
    return float((p * np.log(p / q)).sum(axis=1).mean())


def test_of_logits_it_is_the_mean_divergence_from_the_originals_softmax() -> None:
    wanted, result = draw(7, 5, seed=1), draw(7, 5, seed=2)
    assert result_error(wanted, result) == pytest.approx(divergence(wanted, result))
    assert result_error(wanted, wanted + 3) == pytest.approx(0, abs=1e-12)
    assert result_error(wanted, result) != pytest.approx(result_error(result, wanted))


def test_of_a_map_it_is_the_squared_error_in_units_of_the_variance() -> None:
    wanted, result = 5 + draw(3, 2, 4, 4, seed=1), draw(3, 2, 4, 4, seed=2)
    left, own = (wanted - result).numpy(), wanted.numpy()
    assert result_error(wanted, result) == pytest.approx((left**2).mean() / own.var())


def test_a_single_number_an_image_is_no_logit() -> None:
    wanted, result = draw(9, 1, seed=1), draw(9, 1, seed=2)
    left = ((wanted - result) ** 2).mean() / wanted.var(correction=0)
    assert result_error(wanted, result) == pytest.approx(float(left))


def test_a_result_that_never_varies_has_an_error_all_the_same() -> None:
    assert np.isfinite(result_error(torch.ones(2, 3, 1), torch.zeros(2, 3, 1)))


@pytest.mark.parametrize("function", ["relu", "relu6"])
def test_a_target_is_the_nearest_value_of_all_that_are_equally_right(function: str) -> None:
    wanted, now = draw(400, seed=1), draw(400, seed=2)
    grid = torch.linspace(-25, 25, 100_001, dtype=torch.float64)
    found = nearest_target(wanted, now, function)
    act = ACT[function]
    for aim, at, target in zip(wanted, now, found, strict=True):
        right = torch.cat([grid[(act(grid) - act(aim)).abs() < 1e-12], aim[None]])
        nearest = right[(right - at).abs().argmin()]
        assert abs(target - nearest) <= 5e-4
        assert act(target) == act(aim)


@pytest.mark.parametrize("function", ["", "silu", "hardswish"])
def test_without_a_flat_side_the_target_is_what_is_wanted(function: str) -> None:
    wanted = draw(50, seed=1)
    assert torch.equal(nearest_target(wanted, draw(50, seed=2), function), wanted)


@pytest.mark.parametrize("function", ["relu", "relu6"])
def test_the_distance_before_bounds_the_one_behind(function: str) -> None:
    wanted, now, later = draw(999, seed=1), draw(999, seed=2), draw(999, seed=3)
    act, target = ACT[function], nearest_target(wanted, now, function)

    def behind(value: Tensor) -> Tensor:
        return (act(value) - act(wanted)).abs()

    # Majorisation: whatever is fitted to the targets is at least as close behind the activation.
    assert (behind(later) <= (later - target).abs() + 1e-12).all()


class Constant(nn.Module):
    """Gives rows of a table, in order."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits, self.at = logits, 0

    def forward(self, x: Tensor) -> Tensor:
        self.at += len(x)
        return self.logits[self.at - len(x) : self.at]


def test_agreement_counts_images_over_batches_of_any_size() -> None:
    wanted, result = draw(11, 8, seed=1), draw(11, 8, seed=2)
    labels = torch.arange(11) % 8
    batches = [(torch.zeros(n, 1), labels[at : at + n]) for at, n in ((0, 4), (4, 0), (4, 7))]
    found = compare(Constant(wanted), {"a": Constant(result), "b": Constant(wanted)}, batches)
    own, best = wanted.argmax(dim=1), result.argsort(dim=1, descending=True)
    same = [int(best[n, 0]) == int(own[n]) for n in range(11)]
    near = [int(own[n]) in best[n, :5].tolist() for n in range(11)]
    assert found.images == 11
    assert found.agreement_percent == {"a": pytest.approx(100 * np.mean(same)), "b": 100.0}
    assert found.in_top5_percent == {"a": pytest.approx(100 * np.mean(near)), "b": 100.0}
    assert found.error["a"] == pytest.approx(divergence(wanted, result))
    right = [int(own[n]) == n % 8 for n in range(11)]
    assert (
        found.accuracy_percent["original"]
        == found.accuracy_percent["b"]
        == pytest.approx(100 * np.mean(right))
    )
    right = [int(best[n, 0]) == n % 8 for n in range(11)]
    assert found.accuracy_percent["a"] == pytest.approx(100 * np.mean(right))


def test_without_labels_there_is_no_accuracy_and_without_logits_no_agreement() -> None:
    wanted = draw(3, 4, seed=1)
    found = compare(Constant(wanted), {"a": Constant(wanted)}, [(torch.zeros(3, 1), None)])
    assert (found.accuracy_percent, found.agreement_percent, found.in_top5_percent) == (
        {},
        {"a": 100.0},
        {"a": 100.0},
    )
    maps = draw(3, 4, 2, 2, seed=1)
    labelled = [(torch.zeros(3, 1), torch.zeros(3, dtype=torch.long))]
    found = compare(Constant(maps), {"a": Constant(maps + 1)}, labelled)
    assert (found.accuracy_percent, found.agreement_percent, found.in_top5_percent) == ({}, {}, {})
    assert found.error["a"] == pytest.approx(1 / float(maps.var(correction=0)))


def test_the_mean_of_batches_is_that_of_their_images() -> None:
    wanted, result = draw(9, 5, seed=1), draw(9, 5, seed=2)
    parts = [(wanted[:7], result[:7]), (wanted[7:], result[7:])]
    assert mean_error(parts) == pytest.approx(divergence(wanted, result))
