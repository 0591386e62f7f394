"""Weights of a merged network, with the network and the plan that they are for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from dshrink.errors import DshrinkError, NetworkError
from dshrink.merge.merged_weights import MergedWeights
from dshrink.network.mask_changes import Rewriting, rewriting
from dshrink.network.models import Network, load
from dshrink.network.references import NAMED_WEIGHTS, ModelChoice, same_model
from dshrink.network.weights.files import read_state
from dshrink.network.weights.metadata import MERGED, WeightsAbout, about_weights
from dshrink.operations.given import AnyPlan, opened_plan, plan_words
from dshrink.operations.known import known_of_plan, known_size
from dshrink.pieces.plan_binding import bind_to_network
from dshrink.progress import Notice, no_notice
from dshrink.search.plan import Plan


@dataclass(frozen=True, kw_only=True)
class MergedChoice:
    """``network`` has the structure that was merged by ``plan``, and no trained weights."""

    network: Network
    plan: Plan
    changes: Rewriting
    weights: MergedWeights
    about: WeightsAbout


def about_merged(choice: ModelChoice) -> WeightsAbout | None:
    """What ``choice.weights`` say of themselves where they are those of a merged network."""
    if choice.weights in NAMED_WEIGHTS:
        return None
    about = about_weights(Path(choice.weights))
    return about if about and about.form == MERGED else None


def open_merged(
    choice: ModelChoice, plan: AnyPlan, about: WeightsAbout, notice: Notice = no_notice
) -> MergedChoice:
    """The weights of ``choice`` with the network that they are of, which ``plan`` must be for.

    Raises DshrinkError where plan, network and weights do not go together.
    """
    file = choice.weights
    if choice.weights_ema:
        raise NetworkError(f"--weights-ema: {file} holds one set of weights; leave it out")
    if not same_model(about.model, choice.name):
        raise NetworkError(
            f"{file}: its weights are of {about.model}, the network is {choice.name}"
        )
    wanted = opened_plan(plan)
    structure = replace(choice, weights="initial", weights_ema=False)
    known = known_of_plan(wanted, plan_words(plan)), known_size(file), about.known(file, choice)
    network = load(structure.knowing(*known), notice)
    bound = bind_to_network(wanted, network)
    require_same_plan(bound, about, file)
    changes = rewriting(
        network,
        bound.mask,
        segments=bound.segments,
        free_activation=about.free_activation,
    )
    weights = MergedWeights(
        state=read_state(Path(file)).tensors, padding=about.padding or bound.padding, where=file
    )
    return MergedChoice(network=network, plan=bound, changes=changes, weights=weights, about=about)


def require_whole(weights: str, what: str) -> None:
    """Raise DshrinkError for weights that were trained without activations: no original is left.

    ``what`` is what cannot be done with them.
    """
    check_whole(
        about_weights(Path(weights)) if weights not in NAMED_WEIGHTS else None, weights, what
    )


def check_whole(about: WeightsAbout | None, weights: str, what: str) -> None:
    """``require_whole`` by what the weights say ``about`` themselves."""
    if about and about.padding and about.form != MERGED:
        raise DshrinkError(
            f"{weights}: {what} wants the network with all of its activations, and these weights "
            f"were trained without those that {about.mask} removes: `dshrink merge` merges them "
            "as they are; else give those of the whole network"
        )


def require_same_plan(
    plan: Plan,
    about: WeightsAbout,
    file: str,
    *,
    padding: str | None = None,
    free_activation: bool | None = None,
) -> None:
    """Raise DshrinkError where weights were made for another plan than this, or other options.

    The merged network would be none that anybody trained.
    """
    now = {"mask": plan.mask, "padding": padding, "free_activation": free_activation}
    if found := [
        f"{name} {before}, now {value}"
        for name, value in now.items()
        if value is not None and (before := getattr(about, name)) != value
    ]:
        how = "fitted" if about.form == MERGED else "fine-tuned"
        again = "refit" if about.form == MERGED else "fine-tune"
        raise DshrinkError(
            f"{file}: these weights were {how} for {'; '.join(found)}: give that "
            f"plan (plan.json next to them), or {again} for this one"
        )
