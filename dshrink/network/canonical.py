"""One spelling for what networks write in many: passes over a traced graph, each with its reason.

Nothing computed changes. Afterwards no call changes a tensor that is read later; timm's fused "norm
+ activation" modules are two, so that each activation has a name of its own (``bn1.act``) and can
be removed alone; zero pads are part of the convolution behind them; sums begin with their first
term.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from dshrink.errors import NetworkError
from dshrink.network.layers import is_hooked, with_pads

#: In place, and what computes the same into a new tensor.
_FUNCTIONS: Mapping[Any, Callable[..., Any]] = {
    operator.iadd: operator.add,
    operator.isub: operator.sub,
    operator.imul: operator.mul,
    operator.itruediv: operator.truediv,
    torch.relu_: torch.relu,
    F.relu_: F.relu,
    torch.clamp_: torch.clamp,
    F.leaky_relu_: F.leaky_relu,
    F.hardtanh_: F.hardtanh,
    F.elu_: F.elu,
    torch.sigmoid_: torch.sigmoid,
    torch.tanh_: torch.tanh,
}


def canonicalize(
    traced: fx.GraphModule,
    values: Mapping[fx.Node, Sequence[Any]],
    written: Mapping[fx.Node, Sequence[fx.Node]],
) -> None:
    """All passes; ``values`` and ``written`` are those of the ``ValueTracer``.

    Layers that change are copies: the module that was traced stays as it is. Raises NetworkError
    where a call writes into a part of a tensor that is read later on.
    """
    _write_nothing(traced, values, written)
    _drop_copies(traced, values)
    traced.graph.eliminate_dead_code()
    _split_norm_activations(traced)
    _drop_zero_terms(traced)
    _fold_pads(traced)
    traced.graph.eliminate_dead_code()
    traced.graph.lint()
    traced.recompile()


def _write_nothing(
    traced: fx.GraphModule,
    values: Mapping[fx.Node, Sequence[Any]],
    written: Mapping[fx.Node, Sequence[fx.Node]],
) -> None:
    """Let whoever reads a changed tensor later read the result of the call that changed it."""
    nodes = list(traced.graph.nodes)
    place = {node: at for at, node in enumerate(nodes)}
    for node in nodes:
        if node not in written:
            continue
        for changed in written[node]:
            whole = values[changed][0]
            sharing = [
                one
                for one in nodes[: place[node]]
                if one in values and _share(values[one][0], whole)
            ]
            gives_it = _same_tensor(values[node][0], whole)
            for one in sharing:
                later = [user for user in one.users if place.get(user, -1) > place[node]]
                if later and not (gives_it and _same_tensor(values[one][0], whole)):
                    raise NetworkError(
                        f"{_called(node)} writes in place into a part of a tensor that "
                        f"{_called(later[0])} reads later: write the result into a tensor of its "
                        "own"
                    )
                for user in later:
                    user.replace_input_with(one, node)
        _into_new_tensor(traced, node)


#: Methods that may give a copy with the same values.
_COPIES = ("clone", "contiguous", "detach", "float", "to", "type", "type_as")


def _drop_copies(traced: fx.GraphModule, values: Mapping[fx.Node, Sequence[Any]]) -> None:
    """A cast to the type that a tensor has is none; in another precision it would be one."""
    for node in list(traced.graph.nodes):
        copies = node.op == "call_method" and node.target in _COPIES
        copies |= node.target in (torch.clone, torch.detach)
        if not copies or not node.args or not isinstance(node.args[0], fx.Node):
            continue
        before, after = values[node.args[0]][0], values[node][0]
        if isinstance(after, torch.Tensor) and _kind(before) == _kind(after):
            node.replace_all_uses_with(node.args[0])
            traced.graph.erase_node(node)


def _kind(tensor: Any) -> tuple[Any, ...]:
    """All but its values; a view needs the strides that a copy has."""
    return tensor.dtype, tensor.device, tensor.shape, tensor.stride()


def _share(a: Any, b: Any) -> bool:
    tensors = isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor)
    return tensors and a.untyped_storage()._cdata == b.untyped_storage()._cdata


def _same_tensor(a: Any, b: Any) -> bool:
    return (
        _share(a, b)
        and a.shape == b.shape
        and a.stride() == b.stride()
        and a.storage_offset() == b.storage_offset()
    )


def _called(node: fx.Node) -> str:
    stack = list(node.meta.get("nn_module_stack", {}).values())
    where = stack[-1][0] if stack else ""
    name = str(node.target) if isinstance(node.target, str) else node.name
    return name if node.op == "call_module" or not where else f"{where}.{name}"


def _into_new_tensor(traced: fx.GraphModule, node: fx.Node) -> None:
    if node.op == "call_module":
        layer = traced.get_submodule(str(node.target))
        if getattr(layer, "inplace", False) is True:
            plain = copy.copy(layer)
            plain.inplace = False  # type: ignore[assignment]
            traced.set_submodule(str(node.target), plain)
    elif node.op == "call_method":
        name = str(node.target).removesuffix("_")
        if hasattr(torch.Tensor, name):
            node.target = name
    elif node.op == "call_function":
        node.target = _FUNCTIONS.get(node.target, node.target)
        if node.kwargs.get("inplace"):
            node.kwargs = {**node.kwargs, "inplace": False}


def _split_norm_activations(traced: fx.GraphModule) -> None:
    for node in list(traced.graph.nodes):
        if node.op != "call_module":
            continue
        norm = traced.get_submodule(str(node.target))
        if not _is_fused_norm(norm):
            continue
        activation = getattr(norm, "act", None)
        assert isinstance(norm, nn.modules.batchnorm._BatchNorm)
        traced.set_submodule(str(node.target), _plain_norm(norm))
        if not isinstance(activation, nn.Module) or isinstance(activation, nn.Identity):
            continue
        name = f"{node.target}.act"
        if getattr(activation, "inplace", False):
            activation = copy.copy(activation)
            activation.inplace = False  # type: ignore[assignment]
        traced.add_submodule(name, activation)
        with traced.graph.inserting_after(node):
            call = traced.graph.call_module(name, (node,))
        node.replace_all_uses_with(call, delete_user_cb=lambda user, call=call: user is not call)


def _is_fused_norm(norm: nn.Module) -> bool:
    """timm's norm with an activation, or a norm of several processes, which is a plain one here."""
    kind = type(norm)
    fused = kind.__name__ in ("BatchNormAct2d", "SyncBatchNormAct")
    known = kind is nn.SyncBatchNorm or (fused and kind.__module__.startswith("timm."))
    return known and norm.running_mean is not None and not is_hooked(norm)


def _plain_norm(norm: nn.modules.batchnorm._BatchNorm) -> nn.BatchNorm2d:
    plain = nn.BatchNorm2d(
        norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats
    )
    for name, value in (*norm.named_parameters(recurse=False), *norm.named_buffers(recurse=False)):
        setattr(plain, name, value)
    return plain.eval()


def _drop_zero_terms(traced: fx.GraphModule) -> None:
    """``y = 0; y = y + branch``: the first addition adds nothing."""
    for node in list(traced.graph.nodes):
        if node.op != "call_function" or node.target not in (operator.add, torch.add):
            continue
        terms = list(node.args)
        tensors = [term for term in terms if isinstance(term, fx.Node)]
        others = [term for term in terms if not isinstance(term, fx.Node)]
        if len(tensors) == len(others) == 1 and _is_zero(others[0]):
            node.replace_all_uses_with(tensors[0])
            traced.graph.erase_node(node)


def _is_zero(value: Any) -> bool:
    return isinstance(value, int | float) and value == 0


def _fold_pads(traced: fx.GraphModule) -> None:
    calls = [str(node.target) for node in traced.graph.nodes if node.op == "call_module"]
    for node in list(traced.graph.nodes):
        pads, users = _zero_pads(traced, node), list(node.users)
        if pads is None or len(users) != 1 or users[0].op != "call_module":
            continue
        name = str(users[0].target)
        conv = traced.get_submodule(name)
        if type(conv) is not nn.Conv2d or calls.count(name) > 1 or is_hooked(conv):
            continue
        if conv.padding_mode != "zeros" or not isinstance(conv.padding, tuple):
            continue
        top, left, bottom, right = pads
        y, x = (int(one) for one in conv.padding)
        traced.set_submodule(name, with_pads(conv, (top + y, left + x, bottom + y, right + x)))
        users[0].replace_input_with(node, node.all_input_nodes[0])
        traced.graph.erase_node(node)


def _zero_pads(traced: fx.GraphModule, node: fx.Node) -> tuple[int, int, int, int] | None:
    """top, left, bottom, right of a call that pads with zeros, or None."""
    sides: Any
    if node.op == "call_module":
        layer = traced.get_submodule(str(node.target))
        if type(layer) not in (nn.ZeroPad2d, nn.ConstantPad2d) or is_hooked(layer):
            return None
        sides, value = layer.padding, getattr(layer, "value", 0)
    elif node.op == "call_function" and node.target is F.pad:
        given = dict(zip(("input", "pad", "mode", "value"), node.args, strict=False))
        given |= node.kwargs
        if given.get("mode", "constant") != "constant":
            return None
        sides, value = given["pad"], given.get("value")
    else:
        return None
    plain = isinstance(sides, Sequence) and all(type(one) is int and one >= 0 for one in sides)
    if not plain or len(sides) not in (2, 4) or not _is_zero(value or 0):
        return None
    left, right, top, bottom = (*sides, 0, 0)[:4]
    return top, left, bottom, right
