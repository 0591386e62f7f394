"""An ONNX file as a ``torch.fx.GraphModule``: straight code that calls torch's own functions.

Each ONNX operator becomes the function that a PyTorch user would call, weights are parameters, and
nothing is fused by hand: SiLU, hard swish and GELU run as the operators of opset 13.
The generated code frees a tensor after its last use and has no loop over nodes: the host launches
no slower than from a module written by hand.
"""

from typing import Any, Dict, List, NamedTuple, Tuple

from ...checks import bad_model
from . import arrangement, elementwise, layers
from .wiring import Operator, Wire, Wiring

#: From here on the bounds of Clip are inputs, as all our files have them.
OLDEST_OPSET = 11

WIRES: Dict[str, Wire] = dict(**arrangement.WIRES, **elementwise.WIRES, **layers.WIRES)


class Wired(NamedTuple):
    """A module, and which ONNX operator each of its ``torch.fx`` nodes belongs to."""

    module: Any
    layers: Dict[str, str]
    input_shapes: List[Tuple[int, ...]]
    output_shapes: List[Tuple[int, ...]]
    input_names: List[str]
    output_names: List[str]


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
    opset = _opset(file, model)
    constants = {one.name: onnx.numpy_helper.to_array(one) for one in model.graph.initializer}
    inputs = [one for one in model.graph.input if one.name not in constants]
    wiring = Wiring(torch, constants, lambda: _inferred_shapes(onnx, model))
    for number, one in enumerate(inputs):
        wiring.values[one.name] = wiring.graph.placeholder(f"input_{number}")
    read = {name for node in model.graph.node for name in node.input if name}
    read |= {one.name for one in model.graph.output}
    for node in model.graph.node:
        attributes = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
        _wire(wiring, node, Operator(file, node, attributes, opset, read))
    wiring.graph.output(tuple(wiring.value(one.name) for one in model.graph.output))
    return Wired(
        torch.fx.GraphModule(wiring.root, wiring.graph).eval(),
        wiring.layers,
        [_shape(file, one) for one in inputs],
        [_shape(file, one) for one in model.graph.output],
        [one.name for one in inputs],
        [one.name for one in model.graph.output],
    )


def _opset(file: str, model: Any) -> int:
    (opset,) = {one.version for one in model.opset_import if one.domain in ("", "ai.onnx")} or {0}
    if opset < OLDEST_OPSET:
        raise bad_model(
            f"{file} is of opset {opset}; the PyTorch runtime reads {OLDEST_OPSET} and up",
            "export the model with a newer opset",
        )
    return int(opset)


def _wire(wiring: Wiring, node: Any, op: Operator) -> None:
    if node.domain not in ("", "ai.onnx") or op.kind not in WIRES:
        raise op.refused("is an operator")
    made = WIRES[op.kind](wiring, op, list(node.input))
    results = made if isinstance(made, list) else [made]
    if len(results) != len(op.outputs):
        raise op.refused(f"has {len(op.outputs)} results")
    op.finish()
    for at, name in enumerate(op.outputs):
        wiring.values[name] = results[at]


def _inferred_shapes(onnx: Any, model: Any) -> Dict[str, Tuple[int, ...]]:
    """What ONNX's own inference knows of the tensors, those of unknown sizes left out."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    found = {}
    for value in [*graph.input, *graph.value_info, *graph.output]:
        kind = value.type.tensor_type
        shape = tuple(one.dim_value for one in kind.shape.dim)
        if kind.HasField("shape") and all(shape):
            found[value.name] = shape
    return found


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
