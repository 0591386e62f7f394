"""Streamed least squares against explicit patches in NumPy, and ridge regression written out.

Both forms of the equations are asked: the primal one takes the place of the dual one once there are
more positions than unknowns.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dshrink.merge.algebra import ConvWeights
from dshrink.refit import patches as patches_module
from dshrink.refit.least_squares import LeastSquares
from dshrink.refit.normal_equations import Equations, KernelEquations, NormalEquations
from dshrink.refit.patches import Patches

Array = Any
#: Kernel, stride, pads, dilation, groups; of six inputs.
SHAPES = [
    ((1, 1), (1, 1), (0, 0, 0, 0), (1, 1), 1),
    ((3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 1),
    ((3, 2), (2, 1), (0, 1, 2, 0), (1, 1), 1),
    ((2, 3), (1, 2), (-1, 0, 0, -2), (1, 1), 1),
    ((2, 2), (1, 1), (2, 1, 0, 3), (3, 2), 1),
    ((3, 3), (2, 2), (0, 0, 1, 1), (1, 1), 3),
    ((3, 3), (1, 1), (1, 1, 1, 1), (2, 2), 6),
]


def made(shape: tuple[Any, ...], seed: int = 0, outputs: int = 12) -> ConvWeights:
    kernel, stride, pads, dilation, groups = shape
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(outputs, 6 // groups, *kernel, generator=generator, dtype=torch.float64)
    bias = torch.randn(outputs, generator=generator, dtype=torch.float64)
    return ConvWeights.from_weights(
        weight, bias, stride=stride, pads=pads, dilation=dilation, groups=groups
    )


def drawn(conv: ConvWeights, images: int, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Inputs with means, and targets that are no linear function of them."""
    generator = torch.Generator().manual_seed(seed)
    x = 2 + torch.randn(images, 6, 9, 8, generator=generator, dtype=torch.float64)
    y = conv.run(x).clamp_min(0)
    return x, y + torch.randn(y.shape, generator=generator, dtype=torch.float64)


def patches_of(conv: ConvWeights, x: Tensor, channel: int) -> Array:
    """What each output of a channel is a product of the weights with, read value by value."""
    top, left, bottom, right = conv.pads
    padded = np.pad(x.numpy(), ((0, 0), (0, 0), (4, 4), (4, 4)))
    padded = padded[:, :, 4 - top : (bottom - 4) or None, 4 - left : (right - 4) or None]
    height, width = conv.run(x).shape[2:]
    inputs = conv.weight.shape[1]
    first = channel // (conv.out_channels // conv.groups) * inputs
    rows = []
    for image in padded:
        for row in range(height):
            for column in range(width):
                rows.append(
                    [
                        image[
                            plane,
                            row * conv.stride[0] + y * conv.dilation[0],
                            column * conv.stride[1] + z * conv.dilation[1],
                        ]
                        for plane in range(first, first + inputs)
                        for y in range(conv.kernel[0])
                        for z in range(conv.kernel[1])
                    ]
                )
    return np.array(rows)


def targets_of(y: Tensor, channel: int) -> Array:
    return y[:, channel].reshape(-1).numpy()


FORMS = ["primal", "dual"]


def equations(conv: ConvWeights, form: str) -> Equations:
    if form == "dual":
        return KernelEquations()
    outputs = conv.out_channels // conv.groups
    return NormalEquations(conv.groups, conv.weight[0].numel(), outputs, torch.device("cpu"))


def accumulated(conv: ConvWeights, x: Tensor, y: Tensor, form: str = "primal") -> LeastSquares:
    """By batches of unequal size."""
    found = LeastSquares(conv)
    found._equations = equations(conv, form)
    patches = Patches(conv=conv)
    for first, last in pairwise(sorted({0, 1, min(3, len(x)), len(x)})):
        for pair in patches.pairs(x[first:last], y[first:last]):
            found._equations.add(*pair)
    return found


def streamed(conv: ConvWeights, x: Tensor, y: Tensor) -> LeastSquares:
    found = LeastSquares(conv)
    for image, target in zip(x.split(1), y.split(1), strict=True):
        found.add(image, target)
    return found


def solved(squares: LeastSquares, prior: ConvWeights, ridge: float) -> ConvWeights:
    return squares.solver(prior)(squares.factored(ridge))


def ridge_regression(patches: Array, y: Array, prior: Array, penalty: float) -> Array:
    """Weights and bias of least squares with rows that pull the weights towards ``prior``."""
    count, unknowns = patches.shape
    rows = np.vstack(
        [
            np.hstack([patches, np.ones((count, 1))]) / np.sqrt(count),
            np.hstack([np.eye(unknowns) * np.sqrt(penalty), np.zeros((unknowns, 1))]),
        ]
    )
    right = np.concatenate([y / np.sqrt(count), np.sqrt(penalty) * prior])
    return np.linalg.lstsq(rows, right, rcond=None)[0]


@pytest.mark.parametrize("shape", SHAPES)
def test_sums_that_grow_batch_by_batch_are_those_of_all_patches(shape: tuple[Any, ...]) -> None:
    conv = made(shape)
    x, y = drawn(conv, 5)
    found = accumulated(conv, x, y)._equations
    assert isinstance(found, NormalEquations)
    outputs = conv.out_channels // conv.groups
    for channel in range(conv.out_channels):
        group, place = divmod(channel, outputs)
        patches = patches_of(conv, x, channel)
        patches = np.hstack([patches, np.ones((len(patches), 1))])
        wanted = targets_of(y, channel)
        np.testing.assert_allclose(found.gram[group], patches.T @ patches, rtol=1e-12)
        np.testing.assert_allclose(found.cross[group, :, place], patches.T @ wanted, rtol=1e-10)
    assert int(found.gram[0, -1, -1]) == y[:, 0].numel()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("ridge", [1e-3, 0.5, 100.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_solution_is_that_of_ridge_regression_on_explicit_patches(
    shape: tuple[Any, ...], ridge: float, form: str
) -> None:
    conv, prior = made(shape), made(shape, seed=7)
    x, y = drawn(conv, 5)
    found = solved(accumulated(conv, x, y, form), prior, ridge)
    assert found.pads == conv.pads and found.groups == conv.groups
    outputs = conv.out_channels // conv.groups
    for channel in range(conv.out_channels):
        patches = patches_of(conv, x, channel)
        # The penalty is in units of the mean variance of what a weight of the group reads.
        penalty = ridge * patches_of(conv, x, channel // outputs * outputs).var(axis=0).mean()
        start = prior.weight[channel].reshape(-1).numpy()
        wanted = ridge_regression(patches, targets_of(y, channel), start, penalty)
        np.testing.assert_allclose(found.weight[channel].reshape(-1), wanted[:-1], atol=1e-9)
        assert float(found.bias[channel]) == pytest.approx(wanted[-1], abs=1e-8)


def test_with_enough_images_and_no_ridge_it_is_least_squares() -> None:
    conv = made(SHAPES[1])
    x, y = drawn(conv, 4)
    found = solved(streamed(conv, x, y), made(SHAPES[1], seed=3), 1e-13)
    for channel in range(conv.out_channels):
        patches = patches_of(conv, x, channel)
        columns = torch.from_numpy(np.hstack([patches, np.ones((len(patches), 1))]))
        wanted = torch.linalg.lstsq(columns, y[:, channel].reshape(-1, 1)).solution[:, 0]
        torch.testing.assert_close(found.weight[channel].reshape(-1), wanted[:-1])
        torch.testing.assert_close(found.bias[channel], wanted[-1])


@pytest.mark.parametrize("ridge", [1e-3, 1.0, 100.0, 1e6])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("images", [1, 4])
@pytest.mark.parametrize("form", FORMS)
def test_a_prior_that_is_exact_is_the_solution_whatever_the_ridge(
    shape: tuple[Any, ...], ridge: float, images: int, form: str
) -> None:
    conv = made(shape)
    x, _ = drawn(conv, images)
    # Of one image there are fewer positions than unknowns.
    found = solved(accumulated(conv, x, conv.run(x), form), conv, ridge)
    torch.testing.assert_close(found.weight, conv.weight, rtol=0, atol=1e-9)
    torch.testing.assert_close(found.bias, conv.bias, rtol=0, atol=1e-8)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("ridge", [0.0, 1e-3, 10.0])
@pytest.mark.parametrize("groups", [1, 6])
def test_inputs_that_never_change_leave_their_weights_finite(
    groups: int, ridge: float, form: str
) -> None:
    conv = made(((1, 1), (1, 1), (0, 0, 0, 0), (1, 1), groups))
    x, y = drawn(conv, 4)
    x[:, 0], x[:, 3] = 0.0, 3.7
    found = solved(accumulated(conv, x, y, form), conv, ridge)
    assert found.weight.isfinite().all() and found.bias.isfinite().all()
    # The constant channel's share goes into the bias, so what it gives is as good as it can be.
    left = found.run(x) - y
    assert left.mean(dim=(0, 2, 3)).abs().max() < 1e-9
    if ridge:
        columns = found.weight.reshape(groups, 12 // groups, -1)
        start = conv.weight.reshape(groups, 12 // groups, -1)
        dead = [(0, 0), (0, 3)] if groups == 1 else [(0, 0), (3, 0)]
        for group, column in dead:
            torch.testing.assert_close(columns[group, :, column], start[group, :, column])


@pytest.mark.parametrize("value", [0.0, 3.7, 1e5])
@pytest.mark.parametrize("ridge", [1e-3, 1.0])
@pytest.mark.parametrize("form", FORMS)
def test_a_network_that_is_dead_before_a_layer_keeps_its_weights(
    value: float, ridge: float, form: str
) -> None:
    conv = made(SHAPES[0])
    x = torch.full((2, 6, 9, 8), value, dtype=torch.float64)
    y = torch.randn(2, 12, 9, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    found = solved(accumulated(conv, x, y, form), conv, ridge)
    torch.testing.assert_close(found.weight, conv.weight)
    torch.testing.assert_close(found.run(x).mean(dim=(0, 2, 3)), y.mean(dim=(0, 2, 3)))


@pytest.mark.parametrize("form", FORMS)
def test_equal_inputs_share_what_least_squares_gives_them(form: str) -> None:
    conv = replace(made(SHAPES[0]), weight=torch.zeros(12, 6, 1, 1, dtype=torch.float64))
    x, y = drawn(made(SHAPES[0]), 4)
    x[:, 1] = x[:, 0]
    squares = accumulated(conv, x, y, form)
    for ridge in (1e-6, 1e-3):
        found = solved(squares, conv, ridge).weight
        torch.testing.assert_close(found[:, 0], found[:, 1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", SHAPES)
def test_other_targets_of_the_same_inputs_need_no_new_factors(
    shape: tuple[Any, ...], form: str
) -> None:
    conv, prior = made(shape), made(shape, seed=7)
    x, y = drawn(conv, 4)
    known = accumulated(conv, x, y, form)
    factored = known.factored(0.1)
    before = known.solver(prior)(factored)
    moved = known.without_targets()
    moved.add_targets(x[:3], -y[:3])
    moved.add_targets(x[3:], -y[3:])
    wanted = solved(accumulated(conv, x, -y, form), prior, 0.1)
    found = moved.solver(prior)(factored)
    torch.testing.assert_close(found.weight, wanted.weight)
    torch.testing.assert_close(found.bias, wanted.bias)
    assert torch.equal(known.solver(prior)(factored).weight, before.weight)


@pytest.mark.parametrize("ridge", [1e-3, 1.0, 100.0])
@pytest.mark.parametrize("images", [1, 2, 5])
@pytest.mark.parametrize("shape", SHAPES)
def test_both_forms_give_the_same_weights_in_float64(
    shape: tuple[Any, ...], images: int, ridge: float
) -> None:
    conv, prior = made(shape), made(shape, seed=7)
    x, y = drawn(conv, images)
    one, other = (solved(accumulated(conv, x, y, form), prior, ridge) for form in FORMS)
    torch.testing.assert_close(one.weight, other.weight, rtol=0, atol=1e-9)
    torch.testing.assert_close(one.bias, other.bias, rtol=0, atol=1e-9)


def test_positions_are_kept_only_while_they_are_fewer_than_unknowns() -> None:
    """So memory is bounded by that of the sums, whatever the number of images."""
    conv = made(((9, 8), (1, 1), (0, 0, 0, 0), (1, 1), 1))  # a position an image, 432 unknowns
    x, y = drawn(conv, 440)
    squares = LeastSquares(conv)
    for at in range(0, 440, 8):
        squares.add(x[at : at + 8], y[at : at + 8])
        form = squares._equations
        assert isinstance(form, KernelEquations if at + 8 <= 432 else NormalEquations)
        if isinstance(form, KernelEquations):
            assert sum(part.shape[1] for part in form.patches) == at + 8
    prior = made(((9, 8), (1, 1), (0, 0, 0, 0), (1, 1), 1), seed=7)
    found, wanted = solved(squares, prior, 0.1), solved(accumulated(conv, x, y), prior, 0.1)
    torch.testing.assert_close(found.weight, wanted.weight, rtol=0, atol=1e-9)
    torch.testing.assert_close(found.bias, wanted.bias, rtol=0, atol=1e-9)


def test_patches_are_made_for_few_images_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    conv = made(SHAPES[5])
    x, y = drawn(conv, 5)
    whole = accumulated(conv, x, y)._equations
    assert isinstance(whole, NormalEquations)
    seen = []
    made_of = Patches._made

    def note(self: Patches, part: Tensor) -> Tensor:
        seen.append(len(part))
        return made_of(self, part)

    monkeypatch.setattr(Patches, "_made", note)
    # Of two images: 18 values and a 1 for the bias at each of their 20 positions, three groups.
    values = whole.gram.shape[0] * whole.gram.shape[1]
    monkeypatch.setattr(patches_module, "_CHUNK_BYTES", 2 * values * y[0, 0].numel() * 8)
    parts = LeastSquares(conv)
    parts.add(x, y)
    assert seen == [2, 2, 1]
    assert isinstance(parts._equations, NormalEquations)
    torch.testing.assert_close(parts._equations.gram, whole.gram)
    torch.testing.assert_close(parts._equations.cross, whole.cross)
    monkeypatch.setattr(patches_module, "_CHUNK_BYTES", 1)
    seen.clear()
    LeastSquares(conv).add(x, y)
    assert seen == [1] * 5


@pytest.mark.parametrize("form", FORMS)
def test_least_squares_is_in_float64_whatever_the_network_computes_in(form: str) -> None:
    conv, prior = made(SHAPES[1]), made(SHAPES[1], seed=7)
    x, y = (one.float() for one in drawn(conv, 3))
    found = solved(accumulated(conv, x, y, form), prior, 0.1)
    wanted = solved(accumulated(conv, x.double(), y.double(), form), prior, 0.1)
    assert found.weight.dtype == torch.float64
    torch.testing.assert_close(found.weight, wanted.weight, rtol=1e-12, atol=1e-12)
