"""Batch norm folded into the layer before it, against the two run one after the other."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dshrink.network.batch_norm import folded_weights


def norm_of(channels: int, *, eps: float, affine: bool = True) -> nn.BatchNorm2d:
    """In eval mode and float32, with statistics and scales that are not 0 and 1."""
    norm = nn.BatchNorm2d(channels, eps=eps, affine=affine).eval()
    for tensor in (*norm.parameters(), norm.running_mean, norm.running_var):
        nn.init.uniform_(tensor, 0.1, 2.0)
    return norm


@pytest.mark.parametrize("eps", [1e-3, 1e-5, 0.3])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize(("groups", "bias"), [(1, True), (2, False), (6, True)])
def test_a_folded_batch_norm_equals_the_norm_behind_the_convolution(eps, affine, groups, bias):
    torch.manual_seed(0)
    conv = nn.Conv2d(6, 6, 3, groups=groups, bias=bias)
    norms = [norm_of(6, eps=eps, affine=affine), norm_of(6, eps=eps)]
    weight, shift = folded_weights(conv, *norms)
    assert (weight.dtype, shift.dtype) == ("float64", "float64")
    x = torch.randn(2, 6, 7, 8, dtype=torch.float64)
    expected = nn.Sequential(conv, *norms).double()(x)
    actual = F.conv2d(x, torch.from_numpy(weight), torch.from_numpy(shift), groups=groups)
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)


def test_a_norm_behind_a_linear_layer_scales_its_outputs():
    torch.manual_seed(0)
    linear, norm = nn.Linear(3, 4), norm_of(4, eps=0.5)
    weight, bias = folded_weights(linear, norm)
    x = torch.randn(5, 3, dtype=torch.float64)
    expected = norm.double()(linear.double()(x)[:, :, None, None]).squeeze()
    actual = F.linear(x, torch.from_numpy(weight), torch.from_numpy(bias))
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)
