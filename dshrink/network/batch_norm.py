"""Batch norm in eval mode, folded into the layer before it; the one place that does so.

Weights are read in float64. Ioffe and Szegedy 2015; docs/methods.md, "Other linear layers".
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from latency_tables.onnx_file import Arrays


def folded_weights(layer: nn.Conv2d | nn.Linear, *norms: nn.Module) -> Arrays:
    """Weight and bias, float64, of a layer followed by batch norms in eval mode.

    Each norm's own ``eps`` counts: ``tf_*`` networks use 1e-3.
    """
    weight = float64_array(layer.weight)
    bias = float64_array(layer.bias) if layer.bias is not None else np.zeros(len(weight))
    for norm in norms:
        scale, shift = scale_and_shift(norm)
        weight = weight * scale.reshape(-1, *[1] * (weight.ndim - 1))
        bias = bias * scale + shift
    return weight, bias


def scale_and_shift(norm: nn.Module) -> Arrays:
    """``gamma / sqrt(var + eps)`` and what is added then: a batch norm in eval mode, float64."""
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None and norm.running_var is not None
    gamma = float64_array(norm.weight) if norm.affine else np.ones(norm.num_features)
    beta = float64_array(norm.bias) if norm.affine else np.zeros(norm.num_features)
    scale = gamma / np.sqrt(float64_array(norm.running_var) + norm.eps)
    return scale, beta - float64_array(norm.running_mean) * scale


def float64_array(tensor: torch.Tensor) -> np.ndarray[Any, np.dtype[np.float64]]:
    """A parameter or buffer as NumPy has it, on the CPU."""
    return tensor.detach().to("cpu", torch.float64).numpy()
