"""Names of layers read from an ONNX file: those a user of PyTorch knows them by.

In this order: the stored name of the weight, which exporters keep where they do not fold norms
(``blocks.1.0.conv_pw.weight``); the module that the exporter of torch.export notes; the name of the
node, which TorchScript's exporter makes from the modules around it
(``/blocks/blocks.1/blocks.1.0/conv_pw/Conv``); else the operator and its number.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from keyword import iskeyword

import onnx
from torch import nn

_WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "BatchNormalization")
_LONGEST = 120
#: Called inside a module's own code more often than they are one.
_FUNCTIONS = ("Add", "Sub", "Mul", "Div", "Sum", "Concat", "Split", "Slice", "Transpose", "Reshape")


class LayerNames:
    """Paths of modules for the nodes of one graph, each given once."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.stored = {one.name for one in graph.initializer}
        scopes = [_scope(node) for node in graph.node if node.op_type != "Constant"]
        self.outer = {scope.rpartition(".")[0] for scope in scopes if scope}
        while more := {one.rpartition(".")[0] for one in self.outer} - self.outer:
            self.outer |= more
        self.seen: Counter[str] = Counter()

    def path(self, node: onnx.NodeProto, kind: str = "") -> str:
        """The module of a node; ``kind`` is what it is part of, if that is not its operator."""
        weight = node.input[1] if node.op_type in _WEIGHTED and len(node.input) > 1 else ""
        stem = weight.removesuffix(".weight")
        if not kind and weight in self.stored and stem != weight:
            return _valid(stem)
        kind, scope = kind or node.op_type, _scope(node)
        if not scope:
            self.seen[kind] += 1
            return _valid(node.name) or f"{kind}_{self.seen[kind]}"
        last = scope.rpartition(".")[2].lower().rstrip("0123456789_")
        if (kind in _FUNCTIONS or scope in self.outer) and last != kind.lower():
            return f"{scope}.{kind.lower()}"
        return scope

    def scope(self, node: onnx.NodeProto) -> str:
        """The module whose code calls a function."""
        return _scope(node)


def add_uniquely(module: nn.Module, path: str, layer: nn.Module) -> str:
    """Add ``layer`` at ``path``, or at the first of ``path_2``, ... that is free."""
    parts = [f"{part}_" if iskeyword(part) else part or "_" for part in path.split(".")]
    at = module
    for number, part in enumerate(parts[:-1]):
        if part not in at._modules and hasattr(at, part):
            parts[number] = part = f"{part}_"
        if part not in at._modules:
            at.add_module(part, nn.Module())
        at = at.get_submodule(part)
    name, count = parts[-1], 1
    while hasattr(at, name):
        count += 1
        name = f"{parts[-1]}_{count}"
    at.add_module(name, layer)
    return ".".join([*parts[:-1], name])


def _scope(node: onnx.NodeProto) -> str:
    """The module that a node comes from, "" where nothing says so."""
    for entry in node.metadata_props:
        if entry.key == "namespace":
            pairs = [part.partition(": ") for part in entry.value.split("/")]
            return _joined(name for name, _, kind in pairs if name and not kind.startswith("aten"))
    if "/" not in node.name:
        return ""
    return _joined(part for part in node.name.split("/")[:-1] if part)


def _joined(parts: Iterable[str]) -> str:
    """``blocks``, ``blocks.1``, ``conv`` are ``blocks.1.conv``: children repeat their parents."""
    found: list[str] = []
    for part in parts:
        if found and part.startswith(f"{found[-1]}."):
            found[-1] = part
        else:
            found.append(part)
    return _valid(".".join(found))


def _valid(path: str) -> str:
    """As names of modules can be: any letters, no other signs, not endless."""
    parts = (
        re.sub(r"[^\w\-]", "_", part) for part in path.strip("/. ").replace("/", ".").split(".")
    )
    return ".".join(part for part in parts if part)[-_LONGEST:].lstrip(".")
