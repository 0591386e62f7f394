"""Computing in float32 what is float32: a GPU is apt to round to TF32."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def exact_float32(*, deterministic: bool = False) -> Iterator[None]:
    """Meanwhile no TF32 is used, and with ``deterministic`` no algorithm that varies by the run."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = matmul.allow_tf32
    exact = cudnn.flags(
        enabled=cudnn.enabled,  # else these flags switch it off
        benchmark=cudnn.benchmark and not deterministic,
        deterministic=cudnn.deterministic or deterministic,
        allow_tf32=False,
    )
    with exact:
        matmul.allow_tf32 = False
        try:
            yield
        finally:
            matmul.allow_tf32 = before
