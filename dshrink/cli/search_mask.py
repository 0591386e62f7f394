"""``dshrink search --method mask``: learn which activations to keep (stage 1)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dshrink.cli import options, train_options
from dshrink.cli.console import notice
from dshrink.cli.render_search import plan_lines
from dshrink.errors import DshrinkError
from dshrink.train.unreadable import Unreadable

if TYPE_CHECKING:
    from dshrink.search.plan import Plan
    from dshrink.train.mask_search import MaskSearch
    from dshrink.train.settings import Training


@dataclass(frozen=True, kw_only=True)
class MaskSearchCommand:
    """What the user asked for; ``given`` are settings of training, None where not given."""

    model: str
    data: str
    plan_file: Path
    keep: int | None = None
    budget_ms: float | None = None
    table: Path | None = None
    weights: str = "pretrained"
    resolution: int | None = None
    recipe: str | None = None
    decay: float | None = None
    limit: float | None = None
    allow_unfit: bool = False
    unreadable: Unreadable = Unreadable.SKIP
    given: dict[str, Any] = field(default_factory=dict)

    @property
    def history_file(self) -> Path:
        """The mask's history, beside the plan."""
        return self._beside(".history.csv")

    @property
    def folder(self) -> Path:
        """The checkpoints, beside the plan."""
        return self._beside(".search")

    def _beside(self, ending: str) -> Path:
        """A path of the plan's own: a dot in its name, as of 1.4, is no suffix."""
        return self.plan_file.with_name(self.plan_file.name.removesuffix(".json") + ending)

    def run(self) -> MaskSearch | None:
        """Search with a progress bar, write plan and history.

        None in all processes but the first.
        """
        from dshrink.operations.resolution import one_resolution
        from dshrink.search.goal import Goal
        from dshrink.search.plan import save_plan
        from dshrink.train.mask_search import search_masks, write_mask_history
        from dshrink.train.opening import feed_of, open_both
        from latency_tables.io import load_table

        options.one_goal(self.budget_ms, self.keep)
        if self.plan_file.is_dir():
            raise DshrinkError(f"{self.plan_file} is a folder: give --out a file for the plan")
        goal = Goal.of(budget_ms=self.budget_ms, keep=self.keep)
        settings, decay, limit = self._settings()
        table = load_table(self.table) if self.table else None
        known = table.resolution if table else None
        images, network = open_both(
            self.data,
            self.model,
            resolution=one_resolution(self.resolution, known, f"the table {self.table}"),
            weights=self.weights,
            seed=settings.seed,
        )
        feed = feed_of(images, network, settings, self.unreadable)
        with train_options.progress_of_main("mask search") as update:
            found = search_masks(
                network,
                feed,
                settings,
                goal=goal,
                folder=self.folder,
                table=table,
                decay=decay,
                limit=limit,
                allow_unfit=self.allow_unfit,
                progress=update,
                notice=notice,
            )
        if not found.fitted.main:
            return None
        write_mask_history(found, self.history_file)
        save_plan(found.plan, self.plan_file)
        return found

    def _settings(self) -> tuple[Training, float | None, float | None]:
        """Settings, decay and limit: the recipe's, else the paper's; what was given goes first."""
        from dshrink.train.mask_search import EPOCHS
        from dshrink.train.settings import Training

        base, decay, limit = replace(Training(), epochs=EPOCHS), self.decay, self.limit
        if self.recipe is not None:
            from dshrink.study.recipe import load_recipe

            recipe = load_recipe(self.recipe)
            base = train_options.seeded(recipe.search, recipe.seeds)
            limit = recipe.limit if limit is None else limit
            if decay is None and self.table is not None:
                decay = recipe.decay
        return train_options.settings_of(base, **self.given), decay, limit

    def lines(self, found: MaskSearch) -> Iterator[str]:
        """What came of it."""
        yield from plan_lines(found.plan)
        yield _device_line(found.plan)
        if found.decay is not None:
            d = found.decay
            yield f"decay {d.strength:g} for each {d.unit_ms:.4g} ms that merging a block saves"
        yield (
            f"while searching: {found.fitted.accuracy:.2f} % of the validation images, "
            f"{found.fitted.images_per_second:.1f} images/s"
        )
        yield f"history of the mask: {self.history_file}; checkpoints: {self.folder}"


def _device_line(plan: Plan) -> str:
    if plan.table is None:
        return "no latency table: found without regard to any device"
    c = plan.table.conditions
    return f"latency table of {c.device}: {c.runtime} {c.precision}, batch {c.batch}"
