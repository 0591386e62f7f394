"""OpSpec -> the small ONNX file that a runtime measures, with seeded random weights.

Latency does not depend on the values of weights as long as none is denormal, zero or exploding, so
kernels are drawn with He's scale: a signal keeps its size through a network of any depth.
"""

from __future__ import annotations

import math

import numpy as np

from latency_tables.onnx_file import Arrays, write_onnx
from latency_tables.opspec import BatchNorm, Op, OpSpec


def random_weights(spec: OpSpec, seed: int = 0) -> list[Arrays]:
    """One tuple of float32 arrays an operator, the same for the same digest and seed."""
    rng = np.random.default_rng([seed, int(spec.digest, 16)])
    return [
        _random_arrays(op, shapes, rng)
        for op, shapes in zip(spec.ops, spec.array_shapes, strict=True)
    ]


def _random_arrays(op: Op, shapes: tuple[tuple[int, ...], ...], rng: np.random.Generator) -> Arrays:
    if isinstance(op, BatchNorm):
        return rng.uniform(0.5, 1.5, shapes[0]), rng.normal(0.0, 0.1, shapes[1])
    arrays = []
    for shape in shapes:
        scale = math.sqrt(2.0 / math.prod(shape[1:])) if len(shape) in (2, 4) else 0.1
        arrays.append(rng.standard_normal(shape, dtype=np.float32) * np.float32(scale))
    return tuple(arrays)


def build_onnx(spec: OpSpec, *, batch: int = 1, seed: int = 0, precision: str = "fp32") -> bytes:
    """The serialized ONNX model of a piece or a whole network, with random weights.

    ``precision`` is that of the file (``write_onnx``); the weights are those of fp32, rounded.
    """
    return write_onnx(spec, random_weights(spec, seed), batch=batch, precision=precision)
