"""Whether a merged network's weights were trained for what the merge does to its activations.

A certificate proves that the merged network equals the unmerged one, the original without the
plan's activations. Whether that is still worth anything, the weights decide: those that were
trained with the activations mostly compute nothing without them. So it is said wherever the
certificate is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dshrink.merge.agreement import Agreement
from dshrink.network.mask_changes import Rewriting

#: "without" and "with" the activations that are removed, "unknown" where nothing says so (a file
#: of others), "never" for weights that were only drawn.
Trained = Literal["without", "with", "unknown", "never"]


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsOrigin:
    """How weights were ``trained``; ``whose`` names them in a sentence.

    ``advice`` says how to come by weights that fit, where these may not: ways to choose from.
    """

    trained: Trained
    whose: str
    advice: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangedActivations:
    """How many activations a merge removes and adds, and whether the weights were trained for it.

    ``warning`` is one sentence, empty where there is nothing to warn of; ``advice`` says what to do
    about it.
    """

    removed: int
    added: int
    trained: Trained
    warning: str
    advice: tuple[str, ...]


def changed_activations(
    changes: Rewriting, origin: WeightsOrigin, agreement: Agreement | None = None
) -> ChangedActivations:
    """What ``changes`` do to the activations that weights of this origin may need.

    An ``agreement`` with the original says how much that matters.
    """
    removed = sum(len(region.removed) for region in changes.regions) + len(changes.removed)
    added = len(changes.activated)
    warning = _warning(removed, added, origin, agreement)
    return ChangedActivations(
        removed=removed,
        added=added,
        trained=origin.trained,
        warning=warning,
        advice=origin.advice if warning else (),
    )


def _warning(removed: int, added: int, origin: WeightsOrigin, agreement: Agreement | None) -> str:
    if origin.trained == "never":
        return f"{origin.whose} are untrained: the network shows the speed, not the accuracy"
    if origin.trained == "without" or not (removed or added):
        return ""
    gone = "activation" if removed == 1 else f"{removed} activations"
    parts = [f"with the {gone} that the merge removes"] if removed else []
    parts += [f"without the {added} that it adds"] if added else []
    if origin.trained == "with":
        said, lost = f"{origin.whose} were trained {' and '.join(parts)}", "the accuracy"
    else:
        said = f"{origin.whose} may have been trained {' and '.join(parts)}"
        lost = "then the accuracy"
    if agreement is None or agreement.as_original is None:
        return f"{said}: {lost} is mostly lost"
    percent = 100 * agreement.as_original / max(agreement.images, 1)
    return f"{said}: the top-1 class is still the original's on {percent:.1f} % of the images"
