"""Whether a traced network computes what its module computes: checked before anything else."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx, nn

from dshrink.errors import NetworkError
from dshrink.network.layers import weights_dtype

#: Largest difference relative to the largest value; both run the same kernels.
_TOLERANCE = 1e-4


def random_image(module: nn.Module, input_shape: tuple[int, int, int]) -> torch.Tensor:
    """One image in the type of the module's weights."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1, *input_shape, generator=generator).to(weights_dtype(module))


@torch.no_grad()
def require_same_results(
    module: nn.Module, traced: fx.GraphModule, image: torch.Tensor, expected: object
) -> None:
    """Raise NetworkError, with the first layer that differs, unless both give what is expected.

    ``expected`` is what the module gave of the image before it was traced.
    """
    result = traced(image)
    if not isinstance(expected, torch.Tensor) or not isinstance(result, torch.Tensor):
        return  # what lowers it says which results it gives
    if _differ(result, expected):
        if _differ(module(image), expected):
            raise NetworkError(
                "it gives another result each time it runs in eval mode: something random is left "
                "in it (a dropout that is always on?)"
            )
        where = _first_difference(module, traced, image)
        raise NetworkError(
            f"its traced graph gives another result than the module{where}: what it does there "
            "depends on something that tracing does not see"
        )


def _differ(a: torch.Tensor, b: torch.Tensor) -> bool:
    if a.shape != b.shape:
        return True
    a, b = a.double(), b.double()
    same = torch.isclose(a, b, rtol=0, atol=_TOLERANCE * _largest(b), equal_nan=True)
    return not bool(same.all())


def _largest(values: torch.Tensor) -> float:
    finite = values[values.isfinite()]
    return max(float(finite.abs().max()), 1e-30) if finite.numel() else 1.0


def _first_difference(module: nn.Module, traced: fx.GraphModule, image: torch.Tensor) -> str:
    """The first layer whose result differs, as " from NAME on", or nothing if none is known."""
    calls = {str(node.target) for node in traced.graph.nodes if node.op == "call_module"}
    layers = dict(module.named_modules())
    # A layer that has another type now (a norm without its activation) gives something else.
    wanted = {
        name
        for name in calls
        if name in layers and type(layers[name]) is type(traced.get_submodule(name))
    }
    expected: dict[str, list[torch.Tensor]] = {name: [] for name in wanted}
    handles = []
    for name in wanted:

        def note(_: nn.Module, __: Any, result: Any, name: str = name) -> None:
            if isinstance(result, torch.Tensor):
                expected[name].append(result.clone())

        handles.append(layers[name].register_forward_hook(note))
    try:
        module(image)
    finally:
        for handle in handles:
            handle.remove()

    class Compare(fx.Interpreter):
        first = ""

        def run_node(self, n: fx.Node) -> Any:
            value = super().run_node(n)
            known = expected.get(str(n.target), []) if n.op == "call_module" else []
            if known and not self.first and isinstance(value, torch.Tensor):
                wanted = known.pop(0)
                if _differ(value, wanted):
                    self.first = str(n.target)
            return value

    compare = Compare(traced)
    compare.run(image)
    return f", from {compare.first} on" if compare.first else ""
