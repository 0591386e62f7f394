"""How far a refitted network is from its original: at its result, and behind an activation."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

#: Activations that are flat on a side: where, from below and from above.
FLAT: dict[str, tuple[float, float]] = {"relu": (0.0, float("inf")), "relu6": (0.0, 6.0)}


def result_error(wanted: Tensor, result: Tensor) -> float:
    """The error of a network's result, given that of the original, both of a batch.

    Logits (N, C): the mean Kullback-Leibler divergence of the softmax from the original's, in nats;
    any other result: the mean squared error in units of the original's variance.
    """
    wanted, result = wanted.double(), result.double()
    if wanted.ndim == 2 and wanted.shape[1] > 1:
        logs = F.log_softmax(result, dim=1), F.log_softmax(wanted, dim=1)
        return float(F.kl_div(*logs, log_target=True, reduction="batchmean"))
    return float(F.mse_loss(result, wanted) / wanted.var(correction=0).clamp_min(1e-30))


def mean_error(batches: Iterable[tuple[Tensor, Tensor]]) -> float:
    """The mean ``result_error`` of batches, by their images: the last ones may be fewer."""
    total, images = 0.0, 0
    for wanted, result in batches:
        total += len(wanted) * result_error(wanted, result)
        images += len(wanted)
    return total / images


def nearest_target(wanted: Tensor, now: Tensor, function: str) -> Tensor:
    """What a fit should give before the activation ``function`` (empty: none is there).

    Where ``wanted`` is on a flat side of it, all values there are equally right: the target is the
    one nearest to what the fit gives ``now``. To fit again to such targets never increases the
    squared distance from the right values (majorisation-minimisation; Hunter and Lange, 2004).
    """
    if function not in FLAT:
        return wanted
    low, high = FLAT[function]
    target = torch.where(wanted > low, wanted, now.clamp_max(low))
    return torch.where(wanted < high, target, now.clamp_min(high))
