"""Train a network with some convolutions expanded, and contract it (DepthShrinker+)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dshrink.merge.agreement import Agreement
from dshrink.network.references import ModelChoice
from dshrink.progress import Notice, OnProgress, no_notice, no_progress
from dshrink.train.expansion_rules import choose
from dshrink.train.expansion_training import expand_and_shrink
from dshrink.train.opening import feed_of, open_both, require_trainable
from dshrink.train.settings import Training
from dshrink.train.unreadable import Unreadable


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpandResult:
    """The contracted weights, and what was ``expanded`` by which rule on the way.

    ``left_alone`` maps what the rule left out to the reasons. ``accuracy_percent`` is top-1 of the
    networks "expanded", "without_activations" and "contracted"; ``agreement`` that of the last two,
    ``relative_error_float64`` the difference of their outputs. Each ``cost`` is that before,
    expanded, and after, which is that before. ``unreadable``: images that could not be read.
    """

    weights: str
    rule: str
    expanded: Sequence[str]
    left_alone: Mapping[str, str]
    ratio: int
    accuracy_percent: Mapping[str, float]
    agreement: Agreement
    relative_error_float64: float
    cost: Mapping[str, tuple[int, int, int]]
    unreadable: Mapping[str, str]


def expand_network(
    choice: ModelChoice,
    data: str,
    folder: Path,
    settings: Training,
    shrinking: Training,
    *,
    rule: str = "auto",
    layers: Sequence[str] = (),
    ratio: int = 6,
    unreadable: Unreadable = Unreadable.SKIP,
    on_progress: OnProgress = no_progress,
    notice: Notice = no_notice,
) -> ExpandResult | None:
    """Expand, train with ``settings``, then with ``shrinking`` without the added activations.

    The same call resumes an interrupted run. None in all processes but the first. Raises as
    ``expand_and_shrink``.
    """
    require_trainable(choice, settings)
    images, network = open_both(data, replace(choice, seed=settings.seed), notice)
    expanded = choose(network, rule, layers)
    feed = feed_of(images, network, settings, unreadable)
    shrunk = expand_and_shrink(
        network, expanded, feed, shrinking, folder, ratio=ratio, progress=on_progress, notice=notice
    )
    if shrunk is None:
        return None
    before, grown = network.spec, shrunk.grown
    contracted = shrunk.agreement.merged_accuracy_percent
    assert contracted is not None  # the images of a training have labels
    return ExpandResult(
        weights=str(shrunk.weights),
        rule=expanded.rule,
        expanded=expanded.layers,
        left_alone=expanded.left_out,
        ratio=ratio,
        accuracy_percent={
            "expanded": shrunk.expanded.accuracy,
            "without_activations": shrunk.linear.accuracy,
            "contracted": contracted,
        },
        agreement=shrunk.agreement,
        relative_error_float64=shrunk.error,
        cost={
            name: (getattr(before, name), getattr(grown, name), getattr(before, name))
            for name in ("macs", "parameters")
        },
        unreadable=dict(feed.unreadable.reasons),
    )
