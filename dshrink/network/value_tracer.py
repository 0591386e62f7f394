"""A torch.fx tracer that knows the shape of every value while it traces.

Each value is computed beside its node for two batches, as fake tensors (no data, no arithmetic). A
size that is the same for both is a plain number to the code that is traced, so a network may branch
on it, loop over it, or compute paddings from it; a size that changes with the batch stays a node.
What a call writes into its inputs is noted as well, for an in-place operator changes tensors that
are read later on.
"""

from __future__ import annotations

import inspect
import math
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from dshrink.errors import NetworkError
from dshrink.network.layers import ConstantMap, attribute_at

#: Two batches tell sizes that depend on the batch from those that do not; 1 would look like an axis
#: that broadcasts.
BATCHES = (2, 3)
_NORMS = (nn.BatchNorm2d, nn.LayerNorm, nn.GroupNorm)


class ValueTracer(fx.Tracer):
    """Leaves are torch's own layers, subclasses of its convolutions and norms, and ``leaves``.

    ``functions`` are called as they are as well. After ``trace``, ``values`` holds what each node
    gives, one for each of ``BATCHES``, and ``written`` the nodes whose tensors a node has written
    to. With ``fake`` false tensors are real: slower, for code that fake tensors do not run through.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        *,
        dtype: torch.dtype = torch.float32,
        leaves: Sequence[type[nn.Module]] = (),
        functions: Sequence[Callable[..., Any]] = (),
        fake: bool = True,
    ) -> None:
        super().__init__(autowrap_functions=tuple(functions))
        self._leaves = (
            nn.Conv2d,
            nn.modules.batchnorm._BatchNorm,
            nn.AvgPool2d,
            nn.MaxPool2d,
            nn.Linear,
            nn.LayerNorm,
            ConstantMap,
            *leaves,
        )
        self._mode = FakeTensorMode(allow_non_fake_inputs=True) if fake else None
        self._computing = False
        self._images = tuple((batch, *image_shape) for batch in BATCHES)
        self._dtype = dtype
        self.values: dict[fx.Node, tuple[Any, ...]] = {}
        self.written: dict[fx.Node, tuple[fx.Node, ...]] = {}

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, self._leaves) or super().is_leaf_module(m, module_qualified_name)

    def create_args_for_root(
        self, root_fn: Any, is_module: bool, concrete_args: Any = None
    ) -> tuple[Any, list[Any]]:
        """The image alone; what else ``forward`` takes has its default."""
        image = self.create_proxy("placeholder", image_name(self.root), (), {})
        return root_fn, [self.root, image]

    def proxy(self, node: fx.Node) -> TracedValue:
        return TracedValue(node, self)

    def create_arg(self, a: Any) -> Any:
        return super().create_arg(tuple(a) if isinstance(a, _Size) else a)

    def create_proxy(self, *args: Any, **kwargs: Any) -> Any:
        proxy = super().create_proxy(*args, **kwargs)
        self._compute(proxy.node)
        return proxy

    def call_module(
        self, m: nn.Module, forward: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if self._computing:
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        if self._computing:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)

    def _compute(self, node: fx.Node) -> None:
        """What the node gives for each batch, and what it writes to."""
        with ExitStack() as after:
            after.enter_context(torch.no_grad())
            if self._mode is not None:
                after.enter_context(self._mode)
            after.callback(setattr, self, "_computing", self._computing)
            self._computing = True
            inputs = node.all_input_nodes
            before = [_version(self.value(one, 0)) for one in inputs]
            self.values[node] = tuple(self._run(node, at) for at in range(len(BATCHES)))
            changed = [
                one
                for one, version in zip(inputs, before, strict=True)
                if _version(self.value(one, 0)) != version
            ]
            if changed:
                self.written[node] = tuple(changed)

    def value(self, node: fx.Node, at: int) -> Any:
        """What a node gives for batch number ``at``."""
        if node not in self.values:  # parameters become nodes behind our back
            self.values[node] = (attribute_at(self.root, str(node.target)),) * len(BATCHES)
        return self.values[node][at]

    def is_size(self, node: fx.Node) -> bool:
        """Whether a value is computed from the batch size, not from a tensor's other facts."""
        if node.op == "call_method" and node.target == "size":
            return True
        if isinstance(self.value(node, 0), torch.Tensor):
            return False
        return any(self.is_size(one) for one in node.all_input_nodes)

    def _run(self, node: fx.Node, at: int) -> Any:
        args: Any
        kwargs: Any
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda one: self.value(one, at))
        match node.op:
            case "placeholder":
                return torch.zeros(self._images[at], dtype=self._dtype)
            case "get_attr":
                return attribute_at(self.root, str(node.target))
            case "call_module":
                layer = self.root.get_submodule(str(node.target))
                if self._mode is not None and keeps_shape(layer):
                    return torch.empty_like(args[0])
                return layer(*args, **kwargs)
            case "call_method":
                return getattr(args[0], str(node.target))(*args[1:], **kwargs)
            case _:
                return node.target(*args, **kwargs)  # type: ignore[operator]


def image_name(module: nn.Module) -> str:
    """What ``forward`` calls the image. Raises NetworkError where it needs more than that."""
    parameters = inspect.signature(module.forward).parameters.values()
    needed = [
        one.name
        for one in parameters
        if one.default is one.empty and one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)
    ]
    if len(needed) > 1:
        raise NetworkError(
            f"its forward takes {len(needed)} inputs ({', '.join(needed)}), one image is "
            "allowed: wrap it in a module whose forward takes the image alone"
        )
    return needed[0] if needed else next((one.name for one in parameters), "image")


def keeps_shape(layer: nn.Module) -> bool:
    """A norm in eval mode: fake tensors take far longer for one than for a convolution."""
    known = type(layer).__module__.startswith(("torch.nn.", "timm.layers."))
    norm = known and isinstance(layer, _NORMS) and not layer.training
    return norm and not (layer._forward_hooks or layer._forward_pre_hooks)


def _version(value: Any) -> int:
    return value._version if isinstance(value, torch.Tensor) else 0


class _Size(tuple[Any, ...]):
    """Sizes of a tensor: numbers, and nodes where they depend on the batch."""

    def numel(self) -> Any:
        return math.prod(self)

    def __getitem__(self, at: Any) -> Any:
        found = super().__getitem__(at)
        return _Size(found) if isinstance(at, slice) else found


class TracedValue(fx.Proxy):
    """What traced code sees of a value: sizes that no batch changes are plain numbers."""

    tracer: ValueTracer

    def _values(self) -> tuple[Any, ...]:
        return tuple(self.tracer.value(self.node, at) for at in range(len(BATCHES)))

    def __getattr__(self, name: str) -> Any:
        if name in _ABOUT_SHAPES and isinstance(self._values()[0], torch.Tensor):
            return _ABOUT_SHAPES[name](self)
        return super().__getattr__(name)

    def __iter__(self) -> Iterator[Any]:
        lengths = {_length(value) for value in self._values()}
        if None in lengths or len(lengths) > 1:
            return super().__iter__()
        return iter([operator.getitem(self, at) for at in range(lengths.pop() or 0)])

    def __setitem__(self, at: Any, value: Any) -> None:
        raise fx.proxy.TraceError(
            f"it assigns into a part of {self.node.name}: make a tensor of the parts, as with "
            "torch.cat or torch.where"
        )

    def __len__(self) -> int:
        lengths = {_length(value) for value in self._values()}
        if None in lengths or len(lengths) > 1:
            raise fx.proxy.TraceError(f"the length of {self.node.name} depends on the batch")
        return lengths.pop() or 0

    def __bool__(self) -> bool:
        first, *others = self._values()
        if isinstance(first, torch.Tensor):
            raise fx.proxy.TraceError(
                f"it branches on the values of {self.node.name}: what it computes depends on the "
                "image"
            )
        if self.tracer.is_size(self.node) or any(bool(other) != bool(first) for other in others):
            raise fx.proxy.TraceError(f"it branches on the batch size ({self.node.name})")
        return bool(first)


def _rank(value: TracedValue) -> int:
    ranks: set[int] = {one.ndim for one in value._values()}
    if len(ranks) > 1:
        raise fx.proxy.TraceError(f"the rank of {value.node.name} depends on the batch")
    return ranks.pop()


def _size(value: TracedValue, dim: int | None = None) -> Any:
    rank = _rank(value)
    if dim is None:
        return _Size(_size(value, axis) for axis in range(rank))
    sizes = {one.shape[dim] for one in value._values()}
    if len(sizes) == 1:
        return sizes.pop()
    return value.tracer.create_proxy("call_method", "size", (value, dim % rank), {})


#: Attributes and methods of a tensor that are answered while tracing.
_ABOUT_SHAPES: Mapping[str, Callable[[TracedValue], Any]] = {
    "shape": _size,
    "size": lambda value: partial(_size, value),
    "ndim": _rank,
    "dim": lambda value: partial(_rank, value),
}


def _length(value: Any) -> int | None:
    if isinstance(value, torch.Tensor):
        first: int | None = int(value.shape[0]) if value.ndim else None
        return first
    known: int | None = len(value) if isinstance(value, tuple | list) else None
    return known
