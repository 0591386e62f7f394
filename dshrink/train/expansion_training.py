"""The training of DepthShrinker+: expanded, then without the added activations, then contracted.

The added activations are taken out all at once after the first training, and a second one lets the
network recover, as DepthShrinker treats any removed activation (paper, Sec. 4.2 and 4.5). Each
training has a folder of its own, so an interrupted run resumes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from dshrink.errors import CertificateError
from dshrink.merge.agreement import Agreement, top1_agreement
from dshrink.merge.verify import TOLERANCE
from dshrink.network.models import Network, with_state
from dshrink.network.weights.metadata import WEIGHTS_KEY
from dshrink.progress import Notice, OnProgress, no_notice, no_progress
from dshrink.train.checkpoint import save_tensors
from dshrink.train.expansion import (
    RATIO,
    Expanded,
    contract,
    contraction_error,
    expand,
    without_activations,
)
from dshrink.train.expansion_rules import Choice
from dshrink.train.feed import Feed
from dshrink.train.finetune import HISTORY, WEIGHTS, identity_of, weights_about, write_history
from dshrink.train.loop import Fitted, fit
from dshrink.train.processes import by_main
from dshrink.train.settings import Training
from latency_tables.opspec import OpSpec

#: Folders of the two trainings.
EXPANDED, LINEAR = "expanded", "linear"


@dataclass(frozen=True, kw_only=True)
class Shrunk:
    """``network`` is the original with what its expansion has learned, as ``weights`` holds it.

    ``expanded`` and ``linear`` are the two trainings. ``agreement`` is that of the linear
    expansions (unmerged) and ``network`` (merged) on all validation images, ``error`` their
    relative difference in float64. ``grown`` are the operators that were trained at first.
    """

    network: Network
    grown: OpSpec
    expanded: Fitted
    linear: Fitted
    agreement: Agreement
    error: float
    weights: Path


def expand_and_shrink(
    network: Network,
    choice: Choice,
    feed: Feed,
    shrinking: Training,
    folder: Path,
    *,
    ratio: int = RATIO,
    progress: OnProgress = no_progress,
    notice: Notice = no_notice,
) -> Shrunk | None:
    """Train ``network`` with its convolutions of ``choice`` expanded; shrink it back.

    ``feed.settings`` are those of the training with the added activations, ``shrinking`` those of
    the one without. The folder takes the weights, under the original's names, and the folders of
    both trainings; the same call resumes an interrupted run. Of several processes only the
    first has a result. Raises as ``loop.fit`` does, and CertificateError where what was contracted
    does not compute what was trained.
    """
    about = {**weights_about(network, None), "expanded": list(choice.layers), "ratio": ratio}
    expanded = expand(network, choice.layers, ratio=ratio, seed=feed.settings.seed)
    grown = expanded.spec

    def train(part: str, expanded: Expanded, feed: Feed) -> Fitted:
        """In place; the module ends on the CPU, with the weights that are kept."""
        fitted = fit(
            expanded.module,
            feed,
            folder=folder / part,
            identity={**identity_of(about, expanded.module), "part": part},
            progress=lambda done, total, label: progress(done, total, f"{part}, {label}"),
            notice=notice,
        )
        expanded.module.cpu().load_state_dict(fitted.state)
        by_main(lambda: write_history(fitted.history, folder / part / HISTORY))
        return fitted

    first = train(EXPANDED, expanded, feed)
    linear = without_activations(expanded)
    second = train(LINEAR, linear, replace(feed, settings=shrinking))
    if not second.main:
        return None
    error = contraction_error(linear)
    if not error <= TOLERANCE[torch.float64]:
        raise CertificateError(
            f"{network.name}: not written: the contracted network differs from the trained one by "
            f"{error:.2g} (relative, in float64), more than {TOLERANCE[torch.float64]:.0e}"
        )
    shrunk = with_state(network, contract(linear))
    agreed = top1_agreement(linear.module, shrunk.module, feed)
    entry = {**about, "accuracy_percent": agreed.merged_accuracy_percent}
    file = folder / WEIGHTS
    save_tensors(shrunk.module.state_dict(), file, {WEIGHTS_KEY: json.dumps(entry)})
    return Shrunk(
        network=shrunk,
        grown=grown,
        expanded=first,
        linear=second,
        agreement=agreed,
        error=error,
        weights=file,
    )
