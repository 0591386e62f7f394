"""Learn which activations to keep, jointly with the weights (stage 1)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from dshrink.network.references import ModelChoice
from dshrink.operations.known import known_of_table
from dshrink.progress import Notice, OnProgress, no_notice, no_progress
from dshrink.search.goal import Goal
from dshrink.search.plan import save_plan
from dshrink.study.recipe import load_recipe
from dshrink.train.mask_search import EPOCHS, MaskSearch, search_masks, write_mask_history
from dshrink.train.opening import feed_of, open_both, require_trainable
from dshrink.train.settings import Training
from dshrink.train.unreadable import Unreadable
from latency_tables.files import require_writable
from latency_tables.io import load_table


@dataclass(frozen=True, kw_only=True)
class MaskRequest:
    """A mask to be learned for a network on the images ``data``; ``file`` takes the plan.

    ``decay`` and ``limit`` are those of ``train.mask_search``.
    """

    choice: ModelChoice
    data: str
    goal: Goal
    file: Path | str
    training: Training
    table: Path | str | None = None
    decay: float | None = None
    limit: float | None = None
    allow_unfit: bool = False
    unreadable: Unreadable = Unreadable.SKIP

    @property
    def history_file(self) -> Path:
        """The mask's history, next to the plan."""
        return self._next_to(".history.csv")

    @property
    def folder(self) -> Path:
        """The checkpoints, next to the plan."""
        return self._next_to(".search")

    def _next_to(self, ending: str) -> Path:
        """A path of the plan's own: a dot in its name, as of 1.4, is no suffix."""
        file = Path(self.file)
        return file.with_name(file.name.removesuffix(".json") + ending)


def mask_defaults(recipe: str | None) -> tuple[Training, float | None, float | None]:
    """The settings, decay and limit of a recipe's search; the paper's where none is named."""
    if recipe is None:
        return Training(epochs=EPOCHS), None, None
    found = load_recipe(recipe)
    return found.seeded(found.search), found.decay, found.limit


def search_mask(
    request: MaskRequest, *, on_progress: OnProgress = no_progress, notice: Notice = no_notice
) -> MaskSearch | None:
    """Train the network and a mask of its activations; write the plan and the mask's history.

    The same request resumes an interrupted search. None in all processes but the first. Raises
    DshrinkError, and WriteError before the search where the plan cannot be written.
    """
    require_writable(Path(request.file))
    table = load_table(request.table) if request.table else None
    settings = request.training
    choice = replace(request.choice, seed=settings.seed)
    if table is not None:
        whose = f"the table {request.table}"
        choice = choice.knowing(known_of_table(table, whose, choice.name))
    require_trainable(choice, settings)
    images, network = open_both(request.data, choice, notice)
    found = search_masks(
        network,
        feed_of(images, network, settings, request.unreadable),
        goal=request.goal,
        folder=request.folder,
        table=table,
        decay=request.decay,
        limit=request.limit,
        allow_unfit=request.allow_unfit,
        progress=on_progress,
        notice=notice,
    )
    if not found.fitted.main:
        return None
    write_mask_history(found, request.history_file)
    save_plan(found.plan, request.file)
    return found
