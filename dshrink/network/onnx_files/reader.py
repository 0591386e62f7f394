"""An ONNX file as a graph of torch's layers, as ``tracing.trace`` gives for a network in Python.

Nodes are understood by what they do, not only by what they are called: each is run once on a random
image as it is read (two batch sizes where the file leaves the batch open), so that shapes, and what
is computed from shapes alone, are known. Those are constants here: exporters leave many nodes that
only ask for sizes. What has no layer of its own stays as it is (``OnnxOperator``). The result is
compared with ONNX Runtime's before anything is made of it.

Weights are used in float32, those of a half-precision file too.
"""

from __future__ import annotations

import operator
from collections import Counter, deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, numpy_helper
from torch import fx, nn

from dshrink.errors import NetworkError, first_line
from dshrink.network.onnx_files.bounds import check_sizes
from dshrink.network.onnx_files.check import compare_with_runtime, fixed_batch
from dshrink.network.onnx_files.kept import (
    SLICE_BY_INPUT,
    BatchInsideError,
    Known,
    Samples,
    kept_operator,
    slice_of,
)
from dshrink.network.onnx_files.layers import NodeView, attributes_of, layer_of
from dshrink.network.onnx_files.names import LayerNames, add_uniquely
from dshrink.network.onnx_files.operator import Array, evaluator
from dshrink.network.onnx_files.patterns import PATTERNS
from dshrink.network.onnx_files.source import SOURCE_KEY, VALUE_KEY, OnnxSource, open_onnx, reads_of
from dshrink.network.tracing import ONLY_BATCH, propagate_shapes

_FLOAT_TYPES = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16)
_BY_VALUE = ("NonZero", "NonMaxSuppression", "Unique", "Compress")
_RANDOM = ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli")

#: What is read with where a file leaves its batch open.
_BATCHES = (1, 2)
#: Patterns look back by fewer nodes than so many tensors wait to be let go.
_LOOK_BACK = 16


def read_onnx(file: Path | OnnxSource, resolution: tuple[int, int] | None = None) -> fx.GraphModule:
    """The network of a file, its shapes in ``node.meta`` and its ``OnnxSource`` in ``meta``.

    ``resolution`` (H, W) is needed where the file leaves it open. Raises NetworkError, in one line,
    for a file that is damaged, has no single image input and result, or cannot be understood.
    """
    source = open_onnx(file) if isinstance(file, Path) else file
    size = _size(source, resolution)
    shape = (source.batch or _BATCHES[-1], source.channels, *size)
    check_sizes(source.path, source.model, source.image, shape)
    reader = _Reader(source, size)
    with torch.no_grad():  # its parameters are for training, too
        module = reader.run()
    compare_with_runtime(source, module, reader.images[-1], reader.results[-1])
    module.meta[SOURCE_KEY] = source
    module.meta[ONLY_BATCH] = fixed_batch(source, module, reader.images[-1], reader.results[-1])
    propagate_shapes(module, (source.channels, *size))
    return module


def _size(source: OnnxSource, asked: tuple[int, int] | None) -> tuple[int, int]:
    if source.size is None:
        if asked is None:
            raise NetworkError(
                f"{source.path}: leaves height and width open: give them with --resolution"
            )
        return asked
    if asked is not None and asked != source.size:
        raise NetworkError(
            f"{source.path}: is made for {source.size[0]}x{source.size[1]}, not "
            f"{asked[0]}x{asked[1]}: leave --resolution out, or export it with open sizes"
        )
    return source.size


class _Reader:
    """Builds the graph, node by node in the file's order; every tensor has a name.

    ``known`` holds constants and what follows from shapes alone, ``nodes`` what depends on the
    image, ``samples`` what these were on the probing images (until nobody needs it any more).
    """

    def __init__(self, source: OnnxSource, size: tuple[int, int]) -> None:
        self.source = source
        self.graph = fx.Graph()
        #: Layers with the paths that they should have, by the targets of their calls until the end:
        #: what patterns make useless takes no names.
        self.called: dict[str, tuple[nn.Module, str]] = {}
        self.names = LayerNames(source.model.graph)
        self.known: dict[str, Known] = {}
        self.nodes: dict[str, fx.Node] = {}
        self.samples: dict[str, Samples] = {}
        self.producer: dict[str, onnx.NodeProto] = {}
        self.layers: dict[str, tuple[nn.Module, str]] = {}
        self.live = _live_nodes(source)
        self.reads_left = Counter(name for node in self.live for name in reads_of(node))
        self.reads_left[source.result] += 1
        batches = (source.batch,) if source.batch else _BATCHES
        generator = torch.Generator().manual_seed(0)
        self.images = tuple(
            torch.randn(batch, source.channels, *size, generator=generator) for batch in batches
        )
        self.results: Samples = ()
        self.idle: deque[str] = deque()

    def run(self) -> fx.GraphModule:
        for tensor in self.source.model.graph.initializer:
            self._know(tensor.name, numpy_helper.to_array(tensor))
        image = self.graph.placeholder("image")
        self._define(self.source.image, image, self.images)
        for node in self.live:
            try:
                self._read(node)
            except NetworkError:
                raise
            except Exception as error:  # the reference evaluator raises many kinds
                reason = first_line(error)
                raise NetworkError(
                    f"{self._place(node)} cannot be evaluated: {reason[:200]}"
                ) from error
            self._forget(node)
        result = self.nodes.get(self.source.result)
        if result is None or result is image:
            raise NetworkError(
                f"{self.source.path}: its result {self.source.result!r} does not depend on the "
                "image: export it again"
            )
        self.results = self.samples[self.source.result]
        self.graph.output(result)
        self.graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output"))
        root = nn.Module()
        for call in self.graph.nodes:
            if call.op == "call_module":
                layer, path = self.called[call.target]
                call.target = add_uniquely(root, path, layer)
        return fx.GraphModule(root, self.graph, "OnnxNetwork").eval()

    def _read(self, node: onnx.NodeProto) -> None:
        for name in node.output:
            self.producer[name] = node
        reads = reads_of(node)
        if missing := [name for name in reads if name not in self.known and name not in self.nodes]:
            raise NetworkError(f"{self._place(node)} reads {missing[0]!r}, which nothing makes")
        data = [name for name in reads if name in self.nodes]
        probes = range(len(self.images))
        if node.op_type == "Shape" and data:
            shapes = (np.broadcast_to(np.float32(0), one.shape) for one in self.samples[data[0]])
            self._evaluate(node, [{data[0]: one} for one in shapes])
        elif not data:
            self._evaluate(node, [{n: self.known[n][at] for n in reads} for at in probes])
        else:
            self._check(node)
            if not self._alias(node, data) and not self._layer(node, data):
                self._keep(node, data)

    def _check(self, node: onnx.NodeProto) -> None:
        said = attributes_of(node)
        training = said.get("training_mode", 0) if node.op_type == "BatchNormalization" else 0
        if node.op_type == "Dropout" and len(node.input) > 2 and node.input[2]:
            training = bool(np.any(self.known.get(node.input[2], (np.array(1),))[0]))
        if training:
            raise NetworkError(
                f"{self._place(node)} is in training mode: call model.eval() before the export"
            )
        if node.op_type in _BY_VALUE or node.op_type in _RANDOM:
            raise NetworkError(
                f"{self._place(node)}: what it gives is no function of the image's shape: end the "
                "network before it (onnx.utils.extract_model)"
            )

    def _evaluate(self, node: onnx.NodeProto, feeds: list[dict[str, Array]]) -> None:
        """A node that depends on constants and shapes alone."""
        run = evaluator(node, list(feeds[0]), self.source.opset, self._domains())
        results: list[Any] = [run.run(None, feed) for feed in feeds]
        for number, name in enumerate(name for name in node.output if name):
            self._know(name, *(np.asarray(one[number]) for one in results))

    def _know(self, name: str, *values: Array) -> None:
        same = all(np.array_equal(values[0], one) for one in values[1:])
        first = _plain(values[0])
        self.known[name] = (
            (first,) * len(self.images) if same else tuple(_plain(one) for one in values)
        )

    def constant(self, name: str) -> Array | None:
        """The value of what does not depend on the image, nor on the batch."""
        found = self.known.get(name)
        return found[0] if found and all(one is found[0] for one in found) else None

    def _alias(self, node: onnx.NodeProto, data: Sequence[str]) -> bool:
        """Nodes that change nothing here: the result is their input."""
        match node.op_type:
            case "Identity" | "Dropout":
                same = True
            case "Cast":
                floats = self.samples[data[0]][0].is_floating_point()
                same = floats and attributes_of(node)["to"] in _FLOAT_TYPES
            case "Add" | "Mul":  # sums of branches that start at 0
                neutral = 0 if node.op_type == "Add" else 1
                values = [self.constant(name) for name in node.input]
                same = any(one is not None and one.size == 1 and one == neutral for one in values)
            case _:
                same = False
        if same:
            self._same(node.output[0], data[0])
        return same

    def _same(self, name: str, as_name: str) -> None:
        self.nodes[name], self.samples[name] = self.nodes[as_name], self.samples[as_name]

    def _layer(self, node: onnx.NodeProto, data: Sequence[str]) -> bool:
        """A layer or function of torch for it, and perhaps for nodes before it."""
        for match in PATTERNS.get(node.op_type, ()):
            if found := match(self, node):
                self._call(node, found.layer, (found.source,), found.kind)
                return True
        if len(data) == 1 and list(node.input).count(data[0]) == 1:
            view = self.view(node)
            if view is not None and (layer := layer_of(view)) is not None:
                self._call(node, layer, data)
                return True
        return self._function(node, data)

    def view(self, node: onnx.NodeProto) -> NodeView | None:
        """A node with one input that depends on the image, or None."""
        numbers = [n for n, name in enumerate(node.input) if name in self.nodes]
        if len(numbers) != 1 or node.input[numbers[0]] not in self.samples:
            return None
        return NodeView(
            node=node,
            data=numbers[0],
            shape=tuple(self.samples[node.input[numbers[0]]][0].shape),
            constants=tuple(self.constant(name) for name in node.input),
        )

    def _function(self, node: onnx.NodeProto, data: Sequence[str]) -> bool:
        if node.op_type == "Split":
            return self._split(node)
        if self._is_flat_mean(node):
            call = self.graph.call_function(torch.mean, (self.nodes[data[0]], (2, 3)))
            results = tuple(one.mean((2, 3)) for one in self.samples[data[0]])
            self._define(node.output[0], call, results, scope=self.names.scope(node))
            return True
        if any(name not in self.nodes for name in node.input):
            return False
        inputs = [self.samples[name] for name in node.input]
        shapes = [one[0].shape for one in inputs]
        images = all(len(shape) == 4 for shape in shapes)
        function: Callable[..., Any] | None = None
        if node.op_type in ("Add", "Sum") and len(shapes) == 2 and shapes[0] == shapes[1]:
            function = operator.add
        elif node.op_type == "Mul" and len(shapes[0]) == len(shapes[1]):
            function = operator.mul
        elif node.op_type == "Concat" and images and attributes_of(node)["axis"] in (1, -3):
            tensors = [self.nodes[name] for name in node.input]
            call = self.graph.call_function(torch.cat, (tensors, 1))
            results = tuple(torch.cat(probe, 1) for probe in zip(*inputs, strict=True))
            self._define(node.output[0], call, results, scope=self.names.scope(node))
            return True
        if function is None:
            return False
        call = self.graph.call_function(function, tuple(self.nodes[name] for name in node.input))
        results = tuple(function(*probe) for probe in zip(*inputs, strict=True))
        self._define(node.output[0], call, results, scope=self.names.scope(node))
        return True

    def _is_flat_mean(self, node: onnx.NodeProto) -> bool:
        view = self.view(node) if node.op_type == "ReduceMean" else None
        if view is None or len(view.shape) != 4 or view.attributes.get("keepdims", 1):
            return False
        axes = view.setting("axes", 1)
        return axes is not None and {int(axis) % 4 for axis in axes} == {2, 3}

    def _split(self, node: onnx.NodeProto) -> bool:
        """A slice for each part: an operator gives one tensor."""
        before = self.samples.get(node.input[0])
        axis = int(attributes_of(node).get("axis", 0))
        if before is None or axis % before[0].ndim == 0 or self.source.opset < SLICE_BY_INPUT:
            return False
        whole = kept_operator(
            node, {node.input[0]: before}, self._known(node), self.source.opset, self._domains()
        )
        start = 0
        for name, part in zip(node.output, whole(before[0]), strict=True):
            bounds = (start, start := start + part.shape[axis])
            layer = slice_of(node, name, axis, bounds, self.source.opset)
            self._call(node, layer, [node.input[0]], output=name)
        return True

    def _keep(self, node: onnx.NodeProto, data: Sequence[str]) -> None:
        """A node without a layer: as it is, or by what it did to the shape."""
        inputs = {name: self.samples[name] for name in data}
        try:
            layer = kept_operator(
                node, inputs, self._known(node), self.source.opset, self._domains()
            )
        except BatchInsideError as error:
            raise NetworkError(
                f"{self._place(node)} {error}: export with a fixed batch of 1"
            ) from error
        results = [layer(*probe) for probe in zip(*inputs.values(), strict=True)]
        if isinstance(results[0], torch.Tensor):
            if len(data) == 1 and node.op_type in ("Reshape", "Flatten", "Squeeze"):
                before = inputs[data[0]]
                if all(a.shape == b.shape for a, b in zip(before, results, strict=True)):
                    self._same(node.output[0], data[0])
                    return
                flat = (torch.flatten(one, 1).shape for one in before)
                if all(a == b.shape for a, b in zip(flat, results, strict=True)):
                    self._call(node, nn.Flatten(), data, "Flatten")
                    return
            self._call(node, layer, data, results=tuple(results))
            return
        call = self._call_module(layer, path := self.names.path(node), data)
        names = [name for name in node.output if name]
        call.meta[VALUE_KEY] = tuple(names)
        for number, name in enumerate(names):
            item = self.graph.call_function(operator.getitem, (call, number))
            self._define(name, item, tuple(one[number] for one in results), scope=path)

    def _known(self, node: onnx.NodeProto) -> dict[str, Known]:
        return {name: self.known[name] for name in reads_of(node) if name in self.known}

    def _call(
        self,
        node: onnx.NodeProto,
        layer: nn.Module,
        inputs: Sequence[str],
        kind: str = "",
        results: Samples | None = None,
        output: str = "",
    ) -> None:
        call = self._call_module(layer.eval(), self.names.path(node, kind), inputs)
        if results is None:
            probes = zip(*(self.samples[name] for name in inputs), strict=True)
            results = tuple(layer(*probe) for probe in probes)
        output = output or node.output[0]
        self.layers[output] = (layer, inputs[0])
        self._define(output, call, results)

    def _call_module(self, layer: nn.Module, path: str, inputs: Sequence[str]) -> fx.Node:
        target = f"layer_{len(self.called)}"
        self.called[target] = layer, path
        return self.graph.call_module(target, tuple(self.nodes[name] for name in inputs))

    def _define(self, name: str, node: fx.Node, samples: Samples, scope: str | None = None) -> None:
        node.meta[VALUE_KEY] = (name,)
        if scope:
            node.meta["nn_module_stack"] = {scope: (scope, nn.Module)}
        self.nodes[name], self.samples[name] = node, samples

    def _forget(self, node: onnx.NodeProto) -> None:
        """Let go of samples that nobody reads any more, but of those that patterns look back at."""
        for name in reads_of(node):
            self.reads_left[name] -= 1
            if not self.reads_left[name] and name in self.samples:
                self.idle.append(name)
        while len(self.idle) > _LOOK_BACK:
            del self.samples[self.idle.popleft()]

    def _domains(self) -> dict[str, int]:
        return {one.domain: one.version for one in self.source.model.opset_import if one.domain}

    def _place(self, node: onnx.NodeProto) -> str:
        return f"{self.source.path}: {node.op_type} (node {node.name or node.output[0]!r})"


def _live_nodes(source: OnnxSource) -> list[onnx.NodeProto]:
    """The nodes that the result depends on."""
    wanted, found = {source.result}, []
    for node in reversed(source.model.graph.node):
        if wanted.intersection(node.output):
            found.append(node)
            wanted.update(reads_of(node))
    return found[::-1]


def _plain(value: Array) -> Array:
    """In a type that NumPy computes with: float32 for every half."""
    if value.dtype.kind in "iub" or value.dtype in (np.float32, np.float64):
        return value
    return value.astype(np.float32) if value.dtype.kind in "fV" else value
