"""The operators that compute each element by itself, and those that reduce axes."""

import functools
import math
import operator
from typing import Any, Callable, Dict, List

from .wiring import Operator, Wire, Wiring, is_number, plain

#: ONNX's numbers of element types: FLOAT, FLOAT16, DOUBLE; BOOL.
_FLOATS = (1, 10, 11)
_BOOL = 9


def _binary(function: Callable[[Any, Any], Any]) -> Wire:
    """A Python operator of two inputs, either of which may be a number."""

    def wire(wiring: Wiring, op: Operator, names: List[str]) -> Any:
        left, right = wiring.value(names[0]), wiring.value(names[1])
        if is_number(left) and is_number(right):
            left = wiring.tensor(names[0])
        return wiring.call(op, function, left, right)

    return wire


def _div(wiring: Wiring, op: Operator, names: List[str]) -> Any:
    for name in names:
        if wiring.is_constant(name) and wiring.constant(op, name).dtype.kind != "f":
            raise op.refused("divides integers")
    return _binary(operator.truediv)(wiring, op, names)


def _each_of(find: Callable[[Wiring], Callable[..., Any]]) -> Wire:
    """A function of two, of any number of inputs."""

    def wire(wiring: Wiring, op: Operator, names: List[str]) -> Any:
        given = [wiring.tensor(name) for name in names]
        return functools.reduce(lambda one, other: wiring.call(op, find(wiring), one, other), given)

    return wire


def _unary(find: Callable[[Wiring], Callable[..., Any]], **attributes: float) -> Wire:
    """A function of one input and the attributes of the node, with their defaults in order."""

    def wire(wiring: Wiring, op: Operator, names: List[str]) -> Any:
        given = [op.take(name, default) for name, default in attributes.items()]
        return wiring.call(op, find(wiring), wiring.tensor(names[0]), *given)

    return wire


def _clip(wiring: Wiring, op: Operator, names: List[str]) -> Any:
    bounds = [wiring.value(name) for name in names[1:]] + [None, None]
    if bounds[:2] == [None, None]:
        return wiring.value(names[0])
    return wiring.call(op, wiring.torch.clamp, wiring.tensor(names[0]), bounds[0], bounds[1])


def _hard_sigmoid(wiring: Wiring, op: Operator, names: List[str]) -> Any:
    slope, middle = op.take("alpha", 0.2), op.take("beta", 0.5)
    if not math.isclose(slope, 1 / 6, rel_tol=1e-5) or middle != 0.5:
        raise op.refused(f"has alpha {slope} and beta {middle}")
    return wiring.call(op, wiring.functional.hardsigmoid, wiring.tensor(names[0]))


def _prelu(wiring: Wiring, op: Operator, names: List[str]) -> Any:
    shape, slopes = wiring.shape(op, names[0]), wiring.shape(op, names[1])
    x, slope = wiring.tensor(names[0]), wiring.tensor(names[1])
    a_channel = (shape[1],) + (1,) * (len(shape) - 2) if len(shape) > 1 else None
    if slopes != a_channel and any(one != 1 for one in slopes):
        steep = wiring.call(op, operator.mul, x, slope)
        return wiring.call(op, wiring.torch.where, wiring.call(op, operator.lt, x, 0), steep, x)
    flat = wiring.call(op, wiring.torch.flatten, slope)
    return wiring.call(op, wiring.functional.prelu, x, flat)


def _gelu(wiring: Wiring, op: Operator, names: List[str]) -> Any:
    approximate = op.text("approximate", "none")
    x = wiring.tensor(names[0])
    return wiring.call(op, wiring.functional.gelu, x, approximate=approximate)


def _where(wiring: Wiring, op: Operator, names: List[str]) -> Any:
    return wiring.call(op, wiring.torch.where, *(wiring.tensor(name) for name in names))


def _cast(wiring: Wiring, op: Operator, names: List[str]) -> Any:
    to = op.take("to")
    op.take("saturate")  # of types that are refused
    x = wiring.tensor(names[0])
    if to == _BOOL:
        return wiring.call(op, operator.ne, x, 0)
    if to not in _FLOATS:
        raise op.refused(f"is to element type {to}")
    return wiring.in_precision(op, x)


def _softmax(find: Callable[[Wiring], Callable[..., Any]]) -> Wire:
    def wire(wiring: Wiring, op: Operator, names: List[str]) -> Any:
        axis = op.take("axis", -1 if op.opset >= 13 else 1)
        last = len(wiring.shape(op, names[0])) - 1 if op.opset < 13 else axis
        if axis not in (last, -1):  # which means it and all behind it there
            raise op.refused(f"is over several axes in opset {op.opset}")
        return wiring.call(op, find(wiring), wiring.tensor(names[0]), axis)

    return wire


def _reduce(find: Callable[[Wiring], Callable[..., Any]], *order: float) -> Wire:
    """A reduction of axes, which are an attribute or, from newer opsets on, an input."""

    def wire(wiring: Wiring, op: Operator, names: List[str]) -> Any:
        axes = op.take("axes") or wiring.integers(op, names, 1)
        keeps = bool(op.take("keepdims", 1))
        if op.take("noop_with_empty_axes", 0) and not axes:
            return wiring.value(names[0])
        axes = axes or list(range(len(wiring.shape(op, names[0]))))
        return wiring.call(op, find(wiring), wiring.tensor(names[0]), *order, axes, keeps)

    return wire


def _cumulative_sum(wiring: Wiring, op: Operator, names: List[str]) -> Any:
    op.expect("exclusive", 0)
    op.expect("reverse", 0)
    axis = int(wiring.constant(op, names[1]))
    return wiring.call(op, wiring.torch.cumsum, wiring.tensor(names[0]), axis)


WIRES: Dict[str, Wire] = {
    "Abs": _unary(lambda wiring: wiring.torch.abs),
    "Add": _binary(operator.add),
    "And": _binary(operator.and_),
    "Cast": _cast,
    "Ceil": _unary(lambda wiring: wiring.torch.ceil),
    "Celu": _unary(lambda wiring: wiring.functional.celu, alpha=1.0),
    "Clip": _clip,
    "Cos": _unary(lambda wiring: wiring.torch.cos),
    "CumSum": _cumulative_sum,
    "Div": _div,
    "Elu": _unary(lambda wiring: wiring.functional.elu, alpha=1.0),
    "Equal": _binary(operator.eq),
    "Erf": _unary(lambda wiring: wiring.torch.erf),
    "Exp": _unary(lambda wiring: wiring.torch.exp),
    "Floor": _unary(lambda wiring: wiring.torch.floor),
    "Gelu": _gelu,
    "Greater": _binary(operator.gt),
    "GreaterOrEqual": _binary(operator.ge),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _unary(lambda wiring: wiring.functional.hardswish),
    "LeakyRelu": _unary(lambda wiring: wiring.functional.leaky_relu, alpha=0.01),
    "Less": _binary(operator.lt),
    "LessOrEqual": _binary(operator.le),
    "Log": _unary(lambda wiring: wiring.torch.log),
    "LogSoftmax": _softmax(lambda wiring: wiring.torch.log_softmax),
    "Max": _each_of(lambda wiring: wiring.torch.maximum),
    "Min": _each_of(lambda wiring: wiring.torch.minimum),
    "Mish": _unary(lambda wiring: wiring.functional.mish),
    "Mul": _binary(operator.mul),
    "Neg": _unary(lambda wiring: wiring.torch.neg),
    "Not": _unary(lambda wiring: wiring.torch.logical_not),
    "Or": _binary(operator.or_),
    "PRelu": _prelu,
    "Pow": _binary(operator.pow),
    "Reciprocal": _unary(lambda wiring: wiring.torch.reciprocal),
    "ReduceL1": _reduce(lambda wiring: wiring.torch.norm, 1.0),
    "ReduceL2": _reduce(lambda wiring: wiring.torch.norm, 2.0),
    "ReduceLogSumExp": _reduce(lambda wiring: wiring.torch.logsumexp),
    "ReduceMax": _reduce(lambda wiring: wiring.torch.amax),
    "ReduceMean": _reduce(lambda wiring: wiring.torch.mean),
    "ReduceMin": _reduce(lambda wiring: wiring.torch.amin),
    "ReduceSum": _reduce(lambda wiring: wiring.torch.sum),
    "Relu": _unary(lambda wiring: wiring.functional.relu),
    "Selu": plain(
        lambda wiring: wiring.functional.selu, alpha=1.6732632423543772, gamma=1.0507009873554805
    ),
    "Sigmoid": _unary(lambda wiring: wiring.torch.sigmoid),
    "Sign": _unary(lambda wiring: wiring.torch.sign),
    "Sin": _unary(lambda wiring: wiring.torch.sin),
    "Softmax": _softmax(lambda wiring: wiring.torch.softmax),
    "Softplus": _unary(lambda wiring: wiring.functional.softplus),
    "Softsign": _unary(lambda wiring: wiring.functional.softsign),
    "Sqrt": _unary(lambda wiring: wiring.torch.sqrt),
    "Sub": _binary(operator.sub),
    "Sum": _each_of(lambda wiring: operator.add),
    "Tanh": _unary(lambda wiring: wiring.torch.tanh),
    "Where": _where,
}
