"""An ONNX file as a ``torch.fx.GraphModule``: straight code that calls torch's own functions.

Each ONNX operator becomes the function that a PyTorch user would call, weights are parameters, and
nothing is fused by hand: SiLU, hard swish and GELU run as the operators of opset 13.
The generated code frees a tensor after its last use and has no loop over nodes: the host launches
no slower than from a module written by hand.
"""

import math
import operator
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

from ...checks import RequestError, bad_model

#: From here on the bounds of Clip are inputs, as all our files have them.
OLDEST_OPSET = 11


class Wired(NamedTuple):
    """A module, and which ONNX operator each of its ``torch.fx`` nodes belongs to."""

    module: Any
    layers: Dict[str, str]
    input_shapes: List[Tuple[int, ...]]
    output_shapes: List[Tuple[int, ...]]


class Operator(object):
    """One ONNX node while its function is looked for."""

    def __init__(self, file: str, node: Any, attributes: Dict[str, Any]) -> None:
        self.kind: str = node.op_type
        self.name: str = node.name or f"{node.output[0]}/{node.op_type}"
        self._file = file
        self._attributes = attributes
        if attributes.pop("auto_pad", b"NOTSET") not in (b"NOTSET", "NOTSET"):
            raise self.refused("has auto_pad")

    def take(self, name: str, default: Any = None) -> Any:
        """The value of an attribute, which is then known to be read."""
        return self._attributes.pop(name, default)

    def expect(self, name: str, value: float) -> None:
        """Refuse the node where an attribute that is not read differs from what is assumed."""
        found = self.take(name, value)
        if not math.isclose(found, value, rel_tol=1e-5):
            raise self.refused(f"has {name} {found}, not {value}")

    def finish(self) -> None:
        """Refuse the node where an attribute was not read."""
        if self._attributes:
            raise self.refused(f"has the attributes {', '.join(sorted(self._attributes))}")

    def refused(self, why: str) -> RequestError:
        """The error of a node that we cannot run."""
        return bad_model(
            f"{self._file}: {self.kind} {self.name!r} {why}, which the PyTorch runtime cannot run",
            "it runs what dshrink writes: " + ", ".join(sorted(WIRES)),
        )


class Wiring(object):
    """The graph under construction: ONNX's names -> nodes of ``torch.fx``, or constants."""

    def __init__(self, torch: Any, constants: Dict[str, Any]) -> None:
        self.torch = torch
        self.functional = torch.nn.functional
        self.root = torch.nn.Module()
        self.graph = torch.fx.Graph()
        self.layers: Dict[str, str] = {}
        self.values: Dict[str, Any] = {}
        self._constants = constants

    def call(self, op: Operator, function: Callable[..., Any], *given: Any, **named: Any) -> Any:
        """A call of the function, as part of that operator."""
        node = self.graph.call_function(function, given, named)
        self.layers[node.name] = op.name
        return node

    def value(self, name: str) -> Any:
        """What an input is: a node, a number, or a parameter made now."""
        if not name:
            return None
        if name not in self.values:
            constant = self._constants[name]
            number = constant.size == 1 and constant.ndim == 0
            self.values[name] = float(constant) if number else self.parameter(name, constant)
        return self.values[name]

    def constant(self, op: Operator, name: str) -> Any:
        """The array of an input that must be a constant."""
        if name not in self._constants:
            raise op.refused(f"computes its input {name!r}")
        return self._constants[name]

    def parameter(self, name: str, array: Any) -> Any:
        """A weight of the module."""
        safe = name.replace(".", "_").replace("/", "_").replace(":", "_")
        tensor = self.torch.from_numpy(array.astype("float32"))
        self.root.register_parameter(safe, self.torch.nn.Parameter(tensor, requires_grad=False))
        return self.graph.get_attr(safe)


def build(torch: Any, onnx: Any, file: str) -> Wired:
    """Read a file whose data is all inside; raise ``bad_model`` for what cannot be run."""
    try:
        model = onnx.load(file, load_external_data=False)
        onnx.checker.check_model(model)
    except Exception as error:  # protobuf's and the checker's own kinds, by version
        raise bad_model(
            f"{file} is no valid ONNX file: {error}",
            "check the file with onnx.checker, and export it again",
        ) from error
    _check_opset(file, model)
    constants = {one.name: onnx.numpy_helper.to_array(one) for one in model.graph.initializer}
    inputs = [one for one in model.graph.input if one.name not in constants]
    wiring = Wiring(torch, constants)
    for number, one in enumerate(inputs):
        wiring.values[one.name] = wiring.graph.placeholder(f"input_{number}")
    for node in model.graph.node:
        _wire(wiring, file, onnx, node)
    wiring.graph.output(tuple(wiring.value(one.name) for one in model.graph.output))
    return Wired(
        torch.fx.GraphModule(wiring.root, wiring.graph).eval(),
        wiring.layers,
        [_shape(file, one) for one in inputs],
        [_shape(file, one) for one in model.graph.output],
    )


def _check_opset(file: str, model: Any) -> None:
    for one in model.opset_import:
        if one.domain in ("", "ai.onnx") and one.version < OLDEST_OPSET:
            raise bad_model(
                f"{file} is of opset {one.version}; the PyTorch runtime reads "
                f"{OLDEST_OPSET} and up",
                "export the model with a newer opset",
            )


def _wire(wiring: Wiring, file: str, onnx: Any, node: Any) -> None:
    attributes = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
    op = Operator(file, node, attributes)
    if node.domain not in ("", "ai.onnx") or op.kind not in WIRES:
        raise op.refused("is an operator")
    wiring.values[node.output[0]] = WIRES[op.kind](wiring, op, list(node.input))
    op.finish()


def _shape(file: str, value: Any) -> Tuple[int, ...]:
    kind = value.type.tensor_type
    shape = tuple(one.dim_value for one in kind.shape.dim)
    if kind.elem_type not in (1, 10) or not shape or min(shape) < 1:  # FLOAT, FLOAT16
        raise bad_model(
            f"{file}: tensor {value.name!r} has element type {kind.elem_type} and shape {shape}: "
            "only float and half tensors of fixed sizes can be measured",
            "export the model with static shapes and float inputs and outputs",
        )
    return shape


def _window(
    wiring: Wiring, op: Operator, x: Any, kernel: Sequence[int], fill: Optional[float]
) -> Tuple[Any, Tuple[int, int]]:
    """The input, padded where the pads differ, and the pads that are left to the function.

    ``fill`` is what the function takes its own pads for; None where that cannot be written.
    """
    pads = op.take("pads", [0, 0, 0, 0])
    if len(kernel) != 2 or len(pads) != 4:
        raise op.refused("is not two-dimensional")
    top, left, bottom, right = pads
    if (top, left) == (bottom, right):
        return x, (top, left)
    if fill is None:
        raise op.refused(f"leaves the pads {list(pads)}, which differ, out of its averages")
    sides = [left, right, top, bottom]
    return wiring.call(op, wiring.functional.pad, x, sides, "constant", fill), (0, 0)


def _conv(wiring: Wiring, op: Operator, names: List[str]) -> Any:
    kernel = wiring.constant(op, names[1]).shape[2:]
    op.take("kernel_shape")
    x, padding = _window(wiring, op, wiring.value(names[0]), kernel, 0.0)
    bias = wiring.value(names[2]) if len(names) > 2 else None
    return wiring.call(
        op,
        wiring.functional.conv2d,
        x,
        wiring.value(names[1]),
        bias,
        tuple(op.take("strides", [1, 1])),
        padding,
        tuple(op.take("dilations", [1, 1])),
        op.take("group", 1),
    )


def _gemm(wiring: Wiring, op: Operator, names: List[str]) -> Any:
    op.expect("alpha", 1.0)
    op.expect("beta", 1.0)
    op.expect("transA", 0)
    weight = wiring.constant(op, names[1])
    if not op.take("transB", 0):
        weight = weight.T.copy()
    bias = wiring.value(names[2]) if len(names) > 2 else None
    parameter = wiring.parameter(names[1], weight)
    return wiring.call(op, wiring.functional.linear, wiring.value(names[0]), parameter, bias)


def _batch_norm(wiring: Wiring, op: Operator, names: List[str]) -> Any:
    op.take("momentum")
    x, scale, shift, mean, variance = (wiring.value(name) for name in names)
    epsilon = op.take("epsilon", 1e-5)
    normalize = wiring.functional.batch_norm
    return wiring.call(op, normalize, x, mean, variance, scale, shift, False, 0.0, epsilon)


def _max_pool(wiring: Wiring, op: Operator, names: List[str]) -> Any:
    kernel = tuple(op.take("kernel_shape"))
    op.expect("storage_order", 0)
    x, padding = _window(wiring, op, wiring.value(names[0]), kernel, -math.inf)
    stride = tuple(op.take("strides", [1, 1]))
    dilation = tuple(op.take("dilations", [1, 1]))
    ceil = bool(op.take("ceil_mode", 0))
    pool = wiring.functional.max_pool2d
    return wiring.call(op, pool, x, kernel, stride, padding, dilation, ceil)


def _average_pool(wiring: Wiring, op: Operator, names: List[str]) -> Any:
    kernel = tuple(op.take("kernel_shape"))
    counts_pads = bool(op.take("count_include_pad", 0))
    fill = 0.0 if counts_pads else None
    x, padding = _window(wiring, op, wiring.value(names[0]), kernel, fill)
    stride = tuple(op.take("strides", [1, 1]))
    ceil = bool(op.take("ceil_mode", 0))
    pool = wiring.functional.avg_pool2d
    return wiring.call(op, pool, x, kernel, stride, padding, ceil, counts_pads)


def _clip(wiring: Wiring, op: Operator, names: List[str]) -> Any:
    bounds = [wiring.value(name) for name in names[1:]] + [None, None]
    return wiring.call(op, wiring.torch.clamp, wiring.value(names[0]), bounds[0], bounds[1])


def _leaky_relu(wiring: Wiring, op: Operator, names: List[str]) -> Any:
    slope = op.take("alpha", 0.01)
    return wiring.call(op, wiring.functional.leaky_relu, wiring.value(names[0]), slope)


def _concat(wiring: Wiring, op: Operator, names: List[str]) -> Any:
    axis = op.take("axis")
    return wiring.call(op, wiring.torch.cat, [wiring.value(name) for name in names], axis)


def _plain(
    find: Callable[[Wiring], Callable[..., Any]], *constants: Any, **expected: float
) -> "Wire":
    """A function of all inputs and the constants; refused where an attribute is not as expected."""

    def wire(wiring: Wiring, op: Operator, names: List[str]) -> Any:
        for name, value in expected.items():
            op.expect(name, value)
        return wiring.call(op, find(wiring), *(wiring.value(name) for name in names), *constants)

    return wire


Wire = Callable[[Wiring, Operator, List[str]], Any]
WIRES: Dict[str, Wire] = {
    "Add": _plain(lambda wiring: operator.add),
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Clip": _clip,
    "Concat": _concat,
    "Conv": _conv,
    "Div": _plain(lambda wiring: operator.truediv),
    "Erf": _plain(lambda wiring: wiring.torch.erf),
    "Flatten": _plain(lambda wiring: wiring.torch.flatten, 1, axis=1),
    "Gemm": _gemm,
    "GlobalAveragePool": _plain(lambda wiring: wiring.functional.adaptive_avg_pool2d, 1),
    "HardSigmoid": _plain(lambda wiring: wiring.functional.hardsigmoid, alpha=1 / 6, beta=0.5),
    "LeakyRelu": _leaky_relu,
    "MaxPool": _max_pool,
    "Mul": _plain(lambda wiring: operator.mul),
    "Relu": _plain(lambda wiring: wiring.functional.relu),
    "Sigmoid": _plain(lambda wiring: wiring.torch.sigmoid),
    "Tanh": _plain(lambda wiring: wiring.torch.tanh),
}
