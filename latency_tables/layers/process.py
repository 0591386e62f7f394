"""A Gaussian process of the logarithm of latency over the logarithms of a layer's sizes.

Kernels of a runtime work on blocks of channels, so how many powers of two the channels hold is part
of what is fitted. Mean and variance of a new layer: C. Rasmussen and C. Williams, "Gaussian
Processes for Machine Learning", 2006, eq. 2.25 and 2.26.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from latency_tables.estimator import NORMAL_95
from latency_tables.layers.layer import Layer
from latency_tables.layers.layer_table import LayerRow

Floats = npt.NDArray[np.float64]

#: Blocks of channels that kernels work on are at most so large.
LARGEST_BLOCK = 16
#: No measured latency is known better than to this share.
LEAST_ERROR = 1e-3


def sizes_of(layer: Layer) -> dict[str, float]:
    """The sizes that a fit sees, and that a prediction must not leave."""
    spec = layer.spec
    numbers = math.prod(spec.input_shape) + math.prod(spec.output_shape) + spec.parameters
    return {
        "MACs": max(spec.macs, 1),
        "numbers moved": numbers,
        "input channels": layer.in_channels,
        "output channels": layer.out_channels,
        "positions": layer.out_height * layer.out_width,
    }


def block_of(channels: int) -> int:
    """The largest power of two that divides the channels, up to LARGEST_BLOCK."""
    return min(channels & -channels, LARGEST_BLOCK)


def form_of(layer: Layer) -> float:
    return layer.out_height / layer.out_width


def features(layers: Sequence[Layer]) -> Floats:
    """(layers, features): logarithms of the sizes, of the blocks of channels, of the form."""
    return np.log(
        [
            [
                *sizes_of(layer).values(),
                block_of(layer.in_channels),
                block_of(layer.out_channels),
                form_of(layer),
            ]
            for layer in layers
        ]
    )


def latencies_of(rows: Sequence[LayerRow]) -> Floats:
    """Of measured rows, in ms."""
    return np.array([row.latency_ms or math.nan for row in rows])


def errors_of(rows: Sequence[LayerRow]) -> Floats:
    """The standard errors of these, as shares."""
    return np.array([(row.half_width_percent or 0.0) / 100.0 / NORMAL_95 for row in rows])


class LatencyProcess:
    """A Gaussian process of the logarithm of the latency."""

    def __init__(self, rows: Sequence[LayerRow]) -> None:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.gaussian_process import GaussianProcessRegressor
        from sklearn.gaussian_process.kernels import RBF, ConstantKernel, DotProduct, WhiteKernel

        every = features([row.layer for row in rows])
        self._used = _independent(every)
        self._centre, self._scale = every.mean(axis=0), np.maximum(every.std(axis=0), 1e-9)
        x = self._scaled(every)
        y = np.log(latencies_of(rows))
        self._mean, self._spread = float(y.mean()), max(float(y.std()), 1e-6)
        noise = (np.maximum(errors_of(rows), LEAST_ERROR) / self._spread) ** 2
        kernel = (
            ConstantKernel(1.0, (1e-3, 1e3)) * DotProduct(1.0, (1e-2, 1e2))
            + ConstantKernel(0.1, (1e-5, 1e2)) * RBF([1.0] * x.shape[1], (0.1, 1e2))
            + WhiteKernel(1e-3, (1e-6, 1e-1))
        )
        self._process = GaussianProcessRegressor(kernel, alpha=noise, random_state=0)
        with warnings.catch_warnings():
            # A length scale at its bound is one that does not matter.
            warnings.simplefilter("ignore", ConvergenceWarning)
            self._process.fit(x, (y - self._mean) / self._spread)

    def _scaled(self, every: Floats) -> Floats:
        return np.asarray(((every - self._centre) / self._scale)[:, self._used])

    def predict(self, layers: Sequence[Layer]) -> tuple[Floats, Floats]:
        """The expected logarithm of each latency and its standard error."""
        mean, error = self._process.predict(self._scaled(features(layers)), return_std=True)
        return self._mean + self._spread * mean, self._spread * error


def _independent(every: Floats) -> list[int]:
    """The features that vary and are no copy of an earlier one."""
    used: list[int] = []
    for column in range(every.shape[1]):
        values = every[:, column]
        if values.std() < 1e-9:
            continue
        if all(abs(np.corrcoef(values, every[:, one])[0, 1]) < 1 - 1e-9 for one in used):
            used.append(column)
    return used or [0]
