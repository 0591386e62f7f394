"""The operators with weights or windows, in one to three dimensions, and the norms."""

import math
from typing import Any, Dict, List, Optional, Sequence, Tuple

from .wiring import Operator, Wire, Wiring, plain


def _pads(
    wiring: Wiring, op: Operator, x: Any, dimensions: int, fill: Optional[float]
) -> Tuple[Any, Tuple[int, ...]]:
    """The input, padded where the pads differ, and the pads that are left to the function.

    ``fill`` is what the function takes its own pads for; None where that cannot be written.
    """
    pads = op.take("pads", [0] * (2 * dimensions))
    if not 1 <= dimensions <= 3 or len(pads) != 2 * dimensions:
        raise op.refused("is not one- to three-dimensional")
    begins, ends = pads[:dimensions], pads[dimensions:]
    if begins == ends:
        return x, tuple(begins)
    if fill is None:
        raise op.refused(f"leaves the pads {list(pads)}, which differ, out of its averages")
    sides = [side for at in reversed(range(dimensions)) for side in (begins[at], ends[at])]
    padded = wiring.call(op, wiring.functional.pad, x, sides, "constant", fill)
    return padded, (0,) * dimensions


def _kernel(wiring: Wiring, op: Operator, weight: str) -> Sequence[int]:
    """The sizes of a kernel, which may be computed."""
    kernel: Optional[Sequence[int]] = op.take("kernel_shape")
    return wiring.shape(op, weight)[2:] if kernel is None else kernel


def _bias(wiring: Wiring, names: List[str]) -> Any:
    return wiring.value(names[2]) if len(names) > 2 else None


def _conv(wiring: Wiring, op: Operator, names: List[str]) -> Any:
    dimensions = len(_kernel(wiring, op, names[1]))
    x, padding = _pads(wiring, op, wiring.tensor(names[0]), dimensions, 0.0)
    return wiring.call(
        op,
        getattr(wiring.functional, f"conv{dimensions}d"),
        x,
        wiring.value(names[1]),
        _bias(wiring, names),
        tuple(op.take("strides", [1] * dimensions)),
        padding,
        tuple(op.take("dilations", [1] * dimensions)),
        op.take("group", 1),
    )


def _conv_transpose(wiring: Wiring, op: Operator, names: List[str]) -> Any:
    dimensions = len(_kernel(wiring, op, names[1]))
    pads = op.take("pads", [0] * (2 * dimensions))
    if not 1 <= dimensions <= 3 or pads[:dimensions] != pads[dimensions:]:
        raise op.refused(f"has the pads {list(pads)}, which differ")
    return wiring.call(
        op,
        getattr(wiring.functional, f"conv_transpose{dimensions}d"),
        wiring.tensor(names[0]),
        wiring.value(names[1]),
        _bias(wiring, names),
        tuple(op.take("strides", [1] * dimensions)),
        tuple(pads[:dimensions]),
        tuple(op.take("output_padding", [0] * dimensions)),
        op.take("group", 1),
        tuple(op.take("dilations", [1] * dimensions)),
    )


def _gemm(wiring: Wiring, op: Operator, names: List[str]) -> Any:
    op.expect("alpha", 1.0)
    op.expect("beta", 1.0)
    op.expect("transA", 0)
    is_transposed = op.take("transB", 0)
    if is_transposed:
        weight = wiring.value(names[1])
    elif wiring.is_constant(names[1]):
        name = f"{names[1]}_transposed"
        weight = wiring.stored(name, wiring.constant(op, names[1]).T.copy())
    else:
        weight = wiring.call(op, wiring.torch.t, wiring.value(names[1]))
    x, bias = wiring.tensor(names[0]), _bias(wiring, names)
    return wiring.call(op, wiring.functional.linear, x, weight, bias)


def _batch_norm(wiring: Wiring, op: Operator, names: List[str]) -> Any:
    op.take("momentum")
    op.expect("training_mode", 0)
    x, scale, shift, mean, variance = (wiring.value(name) for name in names)
    epsilon = op.take("epsilon", 1e-5)
    normalize = wiring.functional.batch_norm
    return wiring.call(op, normalize, x, mean, variance, scale, shift, False, 0.0, epsilon)


def _instance_norm(wiring: Wiring, op: Operator, names: List[str]) -> Any:
    x, scale, shift = (wiring.value(name) for name in names)
    epsilon = op.take("epsilon", 1e-5)
    normalize = wiring.functional.instance_norm
    return wiring.call(op, normalize, x, None, None, scale, shift, True, 0.0, epsilon)


def _layer_norm(wiring: Wiring, op: Operator, names: List[str]) -> Any:
    op.expect("stash_type", 1)
    shape = wiring.shape(op, names[0])
    normalized = shape[op.take("axis", -1) :]
    if wiring.shape(op, names[1]) != normalized:
        raise op.refused(f"has a scale that is not of shape {normalized}")
    x, scale = wiring.tensor(names[0]), wiring.tensor(names[1])
    bias = wiring.tensor(names[2]) if len(names) > 2 and names[2] else None
    epsilon = op.take("epsilon", 1e-5)
    return wiring.call(op, wiring.functional.layer_norm, x, normalized, scale, bias, epsilon)


def _max_pool(wiring: Wiring, op: Operator, names: List[str]) -> Any:
    kernel = tuple(op.take("kernel_shape"))
    op.expect("storage_order", 0)
    x, padding = _pads(wiring, op, wiring.value(names[0]), len(kernel), -math.inf)
    stride = tuple(op.take("strides", [1] * len(kernel)))
    dilation = tuple(op.take("dilations", [1] * len(kernel)))
    ceil = bool(op.take("ceil_mode", 0))
    pool = getattr(wiring.functional, f"max_pool{len(kernel)}d")
    return wiring.call(op, pool, x, kernel, stride, padding, dilation, ceil)


def _average_pool(wiring: Wiring, op: Operator, names: List[str]) -> Any:
    kernel = tuple(op.take("kernel_shape"))
    counts_pads = bool(op.take("count_include_pad", 0))
    if any(one != 1 for one in op.take("dilations", [1])):
        raise op.refused("has dilations")
    fill = 0.0 if counts_pads else None
    x, padding = _pads(wiring, op, wiring.value(names[0]), len(kernel), fill)
    stride = tuple(op.take("strides", [1] * len(kernel)))
    ceil = bool(op.take("ceil_mode", 0))
    pool = getattr(wiring.functional, f"avg_pool{len(kernel)}d")
    return wiring.call(op, pool, x, kernel, stride, padding, ceil, counts_pads)


def _global_pool(function: str) -> Wire:
    def wire(wiring: Wiring, op: Operator, names: List[str]) -> Any:
        dimensions = len(wiring.shape(op, names[0])) - 2
        pool = getattr(wiring.functional, f"adaptive_{function}_pool{dimensions}d")
        return wiring.call(op, pool, wiring.tensor(names[0]), 1)

    return wire


def _einsum(wiring: Wiring, op: Operator, names: List[str]) -> Any:
    operands = [wiring.tensor(name) for name in names]
    return wiring.call(op, wiring.torch.einsum, op.text("equation"), *operands)


#: From ONNX's way to find a place in the input to the ``align_corners`` of torch.
_ALIGN_CORNERS = {"half_pixel": False, "pytorch_half_pixel": False, "align_corners": True}
#: torch's name of a mode by how many dimensions are resized.
_MODES = {
    "linear": {1: "linear", 2: "bilinear", 3: "trilinear"},
    "cubic": {2: "bicubic"},
}


def _resize(wiring: Wiring, op: Operator, names: List[str]) -> Any:
    shape = wiring.shape(op, names[0])
    target = wiring.shape(op, op.outputs[0])
    if target[:2] != shape[:2]:
        raise op.refused(f"changes {shape} to {target}, and not the image alone")
    options = _resize_options(op, len(shape) - 2)
    scales = names[2] if len(names) > 2 else ""
    given: Dict[str, Any] = {"size": list(target[2:])}
    # An empty array stands for scales that are not given.
    if scales and wiring.constant(op, scales).size:
        given = {"scale_factor": [float(one) for one in wiring.constant(op, scales)[2:]]}
    x = wiring.tensor(names[0])
    return wiring.call(op, wiring.functional.interpolate, x, **given, **options)


def _resize_options(op: Operator, dimensions: int) -> Dict[str, Any]:
    mode = op.text("mode", "nearest")
    places = op.text("coordinate_transformation_mode", "half_pixel")
    rounding = op.text("nearest_mode", "round_prefer_floor")
    op.expect("exclude_outside", 0)
    op.expect("antialias", 0)
    op.take("extrapolation_value")  # of a way to find places that is refused
    coefficient = op.take("cubic_coeff_a", -0.75)
    if mode == "nearest" and (places, rounding) == ("asymmetric", "floor"):
        return {"mode": "nearest"}
    is_known = dimensions in _MODES.get(mode, ()) and places in _ALIGN_CORNERS
    if not is_known or (mode == "cubic" and coefficient != -0.75):
        raise op.refused(f"is {mode} ({places}, {rounding}) in {dimensions} dimensions")
    return {"mode": _MODES[mode][dimensions], "align_corners": _ALIGN_CORNERS[places]}


WIRES: Dict[str, Wire] = {
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Einsum": _einsum,
    "Gemm": _gemm,
    "GlobalAveragePool": _global_pool("avg"),
    "GlobalMaxPool": _global_pool("max"),
    "InstanceNormalization": _instance_norm,
    "LayerNormalization": _layer_norm,
    "MatMul": plain(lambda wiring: wiring.torch.matmul),
    "MaxPool": _max_pool,
    "Resize": _resize,
}
