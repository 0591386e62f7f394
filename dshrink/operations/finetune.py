"""Train a network without the activations that a plan removes (stage 2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dshrink.errors import DshrinkError
from dshrink.network.mask_changes import rewriting
from dshrink.network.references import NAMED_WEIGHTS, ModelChoice
from dshrink.network.weights.metadata import about_weights
from dshrink.operations.given import AnyPlan, opened_plan, plan_words
from dshrink.operations.known import known_of_plan, known_size
from dshrink.operations.merged_weights import about_merged, open_merged, require_same_plan
from dshrink.pieces.plan_binding import bind_to_network
from dshrink.progress import Notice, OnProgress, no_notice, no_progress
from dshrink.search.plan import save_plan
from dshrink.train.finetune import PADDING, finetune
from dshrink.train.image_sets import open_images
from dshrink.train.opening import check_classes, feed_of, load_for, open_both, require_trainable
from dshrink.train.settings import Training
from dshrink.train.unreadable import Unreadable


@dataclass(frozen=True, slots=True, kw_only=True)
class FinetuneResult:
    """The weights, the plan that they merge by, and how accurate the network is (top-1, percent).

    ``history`` has an entry an epoch, ``unreadable`` the images that could not be read and why.
    """

    accuracy_percent: float
    val_loss: float
    processes: int
    images_per_second: float
    weights: str
    history: Sequence[Mapping[str, Any]]
    plan: str
    mask: str
    unreadable: Mapping[str, str]


def finetune_by_plan(
    choice: ModelChoice,
    plan: AnyPlan,
    data: str | Path,
    folder: Path | str,
    settings: Training,
    *,
    teacher: str | None = None,
    free_activation: bool | None = None,
    unreadable: Unreadable = Unreadable.SKIP,
    on_progress: OnProgress = no_progress,
    notice: Notice = no_notice,
) -> FinetuneResult | None:
    """Fine-tune a network without the activations that the plan removes, so that it merges exactly.

    ``data`` is a folder with train/CLASS/ and val/CLASS/, or a data set of timm's. Weights of a
    merged network (``refit_by_plan``) are trained in that form, with the free activation or without
    it as they were fitted; others with it, unless said. ``folder`` takes weights, plan and
    checkpoints. The same call resumes an interrupted run. None in all processes but the first.
    Raises DshrinkError for an untrained teacher or one without distillation, and as
    ``train.finetune``.
    """
    data, folder = str(data), Path(folder)
    if teacher is not None or settings.distillation or settings.block_distillation:
        _check_teacher(choice.weights, teacher, settings)
    require_trainable(choice, settings)
    if about := about_merged(choice):
        if settings.fade_epochs:
            raise DshrinkError(
                f"--fade-epochs {settings.fade_epochs}: {choice.weights} are weights of the merged "
                "network, whose activations are gone: nothing fades; leave it out"
            )
        known = open_merged(replace(choice, seed=settings.seed), plan, about, notice)
        require_same_plan(known.plan, about, choice.weights, free_activation=free_activation)
        network, bound, changes = known.network, known.plan, known.changes
        merged, padding = known.weights, known.weights.padding
        images = open_images(data, network.spec.input_shape[0])
        check_classes(images, network, choice.weights)
        choice = choice.knowing(known_of_plan(bound, plan_words(plan)), known_size(choice.weights))
    else:
        wanted, merged, padding = opened_plan(plan), None, PADDING
        of_plan = known_of_plan(wanted, plan_words(plan))
        choice = replace(choice, seed=settings.seed).knowing(of_plan)
        images, network = open_both(data, choice, notice)
        bound = bind_to_network(wanted, network)
        changes = rewriting(
            network,
            bound.mask,
            segments=bound.segments,
            free_activation=True if free_activation is None else free_activation,
        )
    teaching = None
    if teacher is not None:
        ema = choice.weights_ema and teacher not in NAMED_WEIGHTS
        teaching = load_for(
            images, replace(choice, weights=teacher, weights_ema=ema), notice
        ).module
    feed = feed_of(images, network, settings, unreadable)
    tuned = finetune(
        network,
        changes,
        feed,
        folder,
        merged=merged,
        teacher=teaching,
        progress=on_progress,
        notice=notice,
    )
    if not tuned.fitted.main:
        return None
    plan_file = folder / "plan.json"
    save_plan(replace(bound, padding=padding), plan_file)
    return FinetuneResult(
        accuracy_percent=tuned.fitted.accuracy,
        val_loss=tuned.fitted.loss,
        processes=tuned.fitted.processes,
        images_per_second=tuned.fitted.images_per_second,
        weights=str(tuned.weights),
        history=tuned.fitted.history,
        plan=str(plan_file),
        mask=bound.mask,
        unreadable=dict(feed.unreadable.reasons),
    )


def _check_teacher(weights: str, teacher: str | None, settings: Training) -> None:
    """Raise unless there is distillation, and the teacher is a trained, whole network."""
    wanted = {
        "--distillation": settings.distillation,
        "--block-distillation": settings.block_distillation,
    }
    none = " ".join(f"{option} 0" for option, weight in wanted.items() if weight)
    if not none:
        raise DshrinkError(
            f"--teacher {teacher} without distillation: give its weight, such as "
            "--distillation 0.7 or --block-distillation 1"
        )
    option, source = ("--weights", weights) if teacher is None else ("--teacher", teacher)
    if source in ("initial", "random"):
        raise DshrinkError(
            f"{option} {source} with distillation: an untrained teacher teaches noise; give "
            f"trained weights as --teacher FILE, or {none}"
        )
    if (about := about_weights(Path(source))) and about.padding:
        raise DshrinkError(
            f"{option} {source} with distillation: these weights were trained without the "
            f"activations that {about.mask} removes, a teacher has all of its own; give those "
            f"of the whole network as --teacher FILE, or {none}"
        )
