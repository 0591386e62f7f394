"""Multiply-accumulates of the nodes of a traced graph, as torch's FlopCounterMode counts them."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

#: What multiplies and has no formula there, by a part of its name.
_UNCOUNTED = ("fft", "lstm", "gru", "rnn_", "grid_sampler", "cdist", "linalg", "trilinear")


class _Names(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The names of all operators that ran."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: set[str] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        self.names.add(func.name())
        return func(*args, **(kwargs or {}))


class _Count(fx.Interpreter):
    def __init__(self, traced: fx.GraphModule) -> None:
        super().__init__(traced)
        self.flops: dict[fx.Node, int | None] = {}

    def run_node(self, n: fx.Node) -> Any:
        counter, names = FlopCounterMode(display=False), _Names()
        with counter, names:
            value = super().run_node(n)
        unknown = any(_is_uncounted(name) for name in names.names)
        self.flops[n] = None if unknown else counter.get_total_flops()
        return value


def _is_uncounted(name: str) -> bool:
    library, _, function = name.partition("::")
    return library not in ("aten", "prim", "prims") or any(one in function for one in _UNCOUNTED)


def count_macs(
    traced: fx.GraphModule, image_shape: tuple[int, ...], *, real: bool = False
) -> dict[fx.Node, int | None]:
    """Of each node, for one image of (C, H, W); None where an operator has no formula."""
    count = _Count(traced)
    dtype = next((one.dtype for one in traced.parameters()), torch.float32)
    with ExitStack() as modes:
        modes.enter_context(torch.no_grad())
        # FlopCounterMode has no formula for the fused attention of CPUs.
        modes.enter_context(sdpa_kernel(SDPBackend.MATH))
        if not real:
            modes.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        count.run(torch.zeros(1, *image_shape, dtype=dtype))
    return {node: None if flops is None else flops // 2 for node, flops in count.flops.items()}
