"""Whether a network definition, as a parser of NVIDIA's made it, is what an ``OpSpec`` says.

Parsers keep the names of tensors, and the writer calls what operator k gives ``t<k>``: what lies
between two such names must be that operator and nothing else, and nothing may be left over.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from latency_tables.onnx_file import INPUT_NAME, OUTPUT_NAME
from latency_tables.opspec import (
    Activation,
    Add,
    BiasMap,
    Conv,
    Flatten,
    GlobalPool,
    Linear,
    Op,
    OpSpec,
    Pool,
)

Layer = Mapping[str, Any]

#: What carries constants and scales, and computes nothing of the operator itself.
STORED = ("CONSTANT", "QUANTIZE", "DEQUANTIZE")
#: Layers that an operator may be, in any order.
FORMS: dict[type[Op], tuple[tuple[str, ...], ...]] = {
    Conv: (("CONVOLUTION",),),
    Activation: (("ACTIVATION",),),
    Add: (("ELEMENTWISE",),),
    BiasMap: (("ELEMENTWISE",),),
    Pool: (("POOLING",),),
    GlobalPool: (("REDUCE",),),
    Flatten: (("SHUFFLE",),),
    # A bias of one axis is given a second one, by versions that do not do so while they parse.
    Linear: (
        ("MATRIX_MULTIPLY", "ELEMENTWISE"),
        ("MATRIX_MULTIPLY", "SHUFFLE", "ELEMENTWISE"),
        ("MATRIX_MULTIPLY",),
    ),
}
#: Axes 2 and 3, as bits.
ROWS_AND_COLUMNS = 0b1100


def differences(
    spec: OpSpec, found: Mapping[str, Any], precision: str, batch: int = 1
) -> list[str]:
    """What is not as it should be, a sentence each."""
    element = "HALF" if precision == "fp16" else "FLOAT"
    names = [INPUT_NAME, *(f"t{n}" for n in range(1, len(spec.ops))), OUTPUT_NAME]
    makers = {out["name"]: layer for layer in found["layers"] for out in layer["outputs"]}
    tensors = {out["name"]: out for layer in found["layers"] for out in layer["outputs"]}
    tensors.update((one["name"], one) for one in found["inputs"])
    told: list[str] = []

    for name, shape in zip(names, spec.shapes, strict=True):
        wanted = {"name": name, "shape": [batch, *shape], "type": element}
        if tensors.get(name) != wanted:
            told.append(f"tensor {name}: {tensors.get(name)} instead of {wanted}")
    if told:
        return told
    if found["inputs"] != [tensors[INPUT_NAME]] or found["outputs"] != [tensors[OUTPUT_NAME]]:
        return [f"inputs {found['inputs']}, outputs {found['outputs']}"]

    owned: set[str] = set()
    for number, op in enumerate(spec.ops):
        layers, reached = _between(makers, names[number + 1], set(names))
        owned |= {out["name"] for layer in layers for out in layer["outputs"]}
        if reached != {names[tensor] for tensor in op.inputs}:
            told.append(f"{names[number + 1]} is made of {sorted(reached)}")
        for what in _operator_differences(spec, number, layers, precision, batch):
            told.append(f"{names[number + 1]} ({op.kind}): {what}")
    left = [layer["kind"] for layer in found["layers"] if layer["outputs"][0]["name"] not in owned]
    return told + [f"no operator is {left}"] * bool(left)


def _between(
    makers: Mapping[str, Layer], output: str, named: set[str]
) -> tuple[list[Layer], set[str]]:
    """The layers that an output is made by, back to tensors with a name of the writer's."""
    layers: dict[str, Layer] = {}
    reached: set[str] = set()
    todo = [output]
    while todo:
        name = todo.pop()
        layer = makers[name]
        layers[name] = layer
        for source in layer["inputs"]:
            if source in named:
                reached.add(source)
            elif source not in layers:
                todo.append(source)
    return list(layers.values()), reached


def _operator_differences(
    spec: OpSpec, number: int, layers: list[Layer], precision: str, batch: int
) -> Iterator[str]:
    op, source = spec.ops[number], spec.shapes[spec.ops[number].inputs[0]]
    kinds = Counter(layer["kind"] for layer in layers)
    computing = Counter({kind: count for kind, count in kinds.items() if kind not in STORED})
    if computing not in [Counter(form) for form in FORMS[type(op)]]:
        yield f"it is {dict(computing)}"
        return
    least, most = _quantized(op) if precision == "int8" else (0, 0)
    for kind in ("QUANTIZE", "DEQUANTIZE"):
        if not least <= kinds[kind] <= most:
            yield f"{kinds[kind]} layers {kind}"
    by_kind = {layer["kind"]: layer for layer in layers}
    stored = [
        out["shape"] for layer in layers if layer["kind"] == "CONSTANT" for out in layer["outputs"]
    ]
    for kind, name, wanted in _attributes(op, source, batch):
        if by_kind[kind].get(name, "absent") != wanted:
            yield f"{name} is {by_kind[kind].get(name, 'absent')} instead of {wanted}"
    if isinstance(op, BiasMap) and [1, *source] not in stored:
        yield f"its map has the shape {stored}"
    if isinstance(op, Linear) and list(op.array_shapes(source)[0]) not in stored:
        yield f"its weights have the shape {stored}"
    axes = [layer["axis"] for layer in layers if layer["kind"] == "QUANTIZE"]
    if isinstance(op, Conv | Linear) and most and 0 not in axes:
        yield f"its weights are quantized along {axes}"


def _quantized(op: Op) -> tuple[int, int]:
    """How many of what it reads is quantized: at least, and at most."""
    if isinstance(op, Conv | Linear):
        return 2, 2
    if isinstance(op, Add):  # what comes from a convolution is fused into it, as floats
        return len(set(op.inputs)) - 1, 2
    return 0, 0


def _attributes(op: Op, source: tuple[int, ...], batch: int) -> Iterator[tuple[str, str, object]]:
    """The kind of a layer, the name of an attribute, and what it must be."""
    match op:
        case Conv():
            yield "CONVOLUTION", "num_output_maps", op.out_channels
            yield "CONVOLUTION", "num_groups", op.groups
            yield "CONVOLUTION", "kernel_size_nd", list(op.kernel)
            yield "CONVOLUTION", "stride_nd", list(op.stride)
            yield "CONVOLUTION", "dilation_nd", list(op.dilation)
            yield "CONVOLUTION", "pre_padding", list(op.pads[:2])
            yield "CONVOLUTION", "post_padding", list(op.pads[2:])
        case Activation(function="relu"):
            yield "ACTIVATION", "type", "RELU"
        case Activation(function="relu6"):
            yield "ACTIVATION", "type", "CLIP"
            yield "ACTIVATION", "alpha", 0.0
            yield "ACTIVATION", "beta", 6.0
        case Add() | BiasMap():
            yield "ELEMENTWISE", "op", "SUM"
        case Pool():
            yield "POOLING", "type", {"max": "MAX", "average": "AVERAGE"}[op.function]
            yield "POOLING", "window_size_nd", list(op.kernel)
            yield "POOLING", "stride_nd", list(op.stride)
            yield "POOLING", "pre_padding", list(op.pads[:2])
            yield "POOLING", "post_padding", list(op.pads[2:])
            if op.function == "average":
                yield "POOLING", "average_count_excludes_padding", not op.count_pads
        case GlobalPool():
            yield "REDUCE", "op", "AVG"
            yield "REDUCE", "axes", ROWS_AND_COLUMNS
            yield "REDUCE", "keep_dims", True
        case Flatten():
            yield "SHUFFLE", "reshape_dims", [batch, *op.output_shape([source])]
        case Linear():
            yield "MATRIX_MULTIPLY", "op0", "NONE"
            yield "MATRIX_MULTIPLY", "op1", "TRANSPOSE"
        case _:
            raise NotImplementedError(f"no file of these tests holds a {op.kind}")
