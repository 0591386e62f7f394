"""Accuracy, recalibration and tuning against arithmetic done by hand."""

import math

import pytest
import torch
from torch import nn

from dshrink.train.errors import DivergedError, TrainError
from dshrink.train.tuning import evaluate, recalibrate, tune

LABELS = torch.tensor([0, 1])


class Fixed(nn.Module):
    """Gives the images themselves as outputs."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def test_a_score_is_the_mean_over_images_not_over_batches() -> None:
    right, wrong = torch.tensor([[math.log(3.0), 0.0]]), torch.tensor([[0.0, math.log(3.0)]])
    batches = [(torch.cat([right, right]), LABELS * 0), (wrong, LABELS[:1] * 0)]
    score = evaluate(Fixed(), batches)
    assert score.accuracy == pytest.approx(200 / 3)
    assert score.loss == pytest.approx((2 * math.log(4 / 3) + math.log(4)) / 3)


def test_recalibrated_statistics_are_the_mean_over_the_batches() -> None:
    norm = nn.BatchNorm2d(1)
    norm.running_mean.fill_(7.0)
    norm.running_var.fill_(9.0)
    module = nn.Sequential(norm, nn.Flatten()).train(False)
    first = torch.tensor([[[[1.0, 2.0]]], [[[3.0, 6.0]]]])  # mean 3, unbiased variance 14/3
    second = torch.tensor([[[[0.0, 0.0]]], [[[4.0, 0.0]]]])  # mean 1, unbiased variance 4
    weights = [p.detach().clone() for p in module.parameters()]
    score = recalibrate(module, [(first, LABELS), (second, LABELS)])
    assert norm.running_mean.item() == pytest.approx(2.0)
    assert norm.running_var.item() == pytest.approx((14 / 3 + 4) / 2)
    assert norm.momentum == 0.1
    assert not module.training
    assert all(torch.equal(a, b) for a, b in zip(weights, module.parameters(), strict=True))
    # Judged by each batch's own statistics: 1 < 2 and 3 < 6 say class 1; of 0, 0 the first.
    assert score.accuracy == 50.0


def test_tuning_is_sgd_with_momentum_down_a_cosine() -> None:
    module = nn.Linear(1, 2, bias=False)
    nn.init.zeros_(module.weight)
    batch = (torch.ones(2, 1), torch.tensor([0, 0]))
    score = tune(module, [batch, batch], 2, learning_rate=0.5, weight_decay=0.0)
    # By hand, Nesterov: v = 0.9 v + g, step lr (g + 0.9 v); lr 0.5, then half of it.
    weight, velocity, losses = 0.0, 0.0, []
    for rate in (0.5, 0.25):
        chance = 1 / (1 + math.exp(-2 * weight))
        losses.append(-math.log(chance))
        gradient = chance - 1
        velocity = 0.9 * velocity + gradient
        weight -= rate * (gradient + 0.9 * velocity)
    assert module.weight[0].item() == pytest.approx(weight, rel=1e-5)
    assert module.weight[1].item() == pytest.approx(-weight, rel=1e-5)
    assert score.loss == pytest.approx(sum(losses) / 2, rel=1e-5)
    assert not module.training


def test_a_loss_that_is_no_number_ends_the_tuning_with_its_step() -> None:
    module = nn.Linear(1, 2)
    good, bad = torch.ones(2, 1), torch.full((2, 1), math.inf)
    with pytest.raises(DivergedError, match="at step 2 of 3; lower --lr"):
        tune(
            module,
            [(good, LABELS), (bad, LABELS), (good, LABELS)],
            3,
            learning_rate=0.1,
            weight_decay=0.0,
        )


def test_a_network_that_computes_no_numbers_has_no_score() -> None:
    with pytest.raises(DivergedError, match="validation images"):
        evaluate(Fixed(), [(torch.full((2, 2), math.nan), LABELS)])


def test_without_weights_there_is_nothing_to_tune() -> None:
    with pytest.raises(TrainError, match="no weights"):
        tune(Fixed(), [], 1, learning_rate=0.1, weight_decay=0.0)
