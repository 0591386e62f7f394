"""``dshrink search --method mask``: learn which activations to keep (stage 1)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dshrink.cli import options, train_options
from dshrink.cli.console import notice, progress
from dshrink.cli.render_search import plan_lines
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
        return self.plan_file.with_suffix(".history.csv")

    @property
    def folder(self) -> Path:
        """The checkpoints, beside the plan."""
        return self.plan_file.with_suffix(".search")

    def run(self) -> MaskSearch | None:
        """Search with a progress bar, write plan and history.

        None in all processes but the first.
        """
        from dshrink.search.goal import Goal
        from dshrink.search.plan import save_plan
        from dshrink.train.data import look_of, open_images
        from dshrink.train.feed import Feed
        from dshrink.train.mask_search import search_masks, write_mask_history
        from dshrink.train.network import load_for
        from dshrink.train.unreadable import UnreadableImages
        from latency_tables.io import load_table

        options.one_goal(self.budget_ms, self.keep)
        goal = Goal.of(budget_ms=self.budget_ms, keep=self.keep)
        settings, decay, limit = self._settings()
        table = load_table(self.table) if self.table else None
        images = open_images(self.data)
        network = load_for(
            images,
            self.model,
            resolution=self.resolution or (table.resolution if table else 224),
            weights=self.weights,
            seed=settings.seed,
        )
        look = look_of(self.model, network.resolution, network.spec.input_shape[0])
        missing = UnreadableImages(self.unreadable)
        feed = Feed(images=images, look=look, settings=settings, unreadable=missing)
        with ExitStack() as stack:
            main = train_options.is_main_process()
            update = stack.enter_context(progress("mask search")) if main else None
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
        if not main:
            return None
        if missing.line:
            notice(missing.line)
        write_mask_history(found, self.history_file)
        save_plan(found.plan, self.plan_file)
        return found

    def _settings(self) -> tuple[Training, float | None, float | None]:
        """Settings, decay and limit: the recipe's, else the paper's; what was given goes first."""
        from dshrink.train.mask_search import EPOCHS
        from dshrink.train.settings import Training

        base, decay, limit = replace(Training(), epochs=EPOCHS), self.decay, self.limit
        if self.recipe is not None:
            from dshrink.train.recipes import load_recipe

            recipe = load_recipe(self.recipe)
            base = recipe.search
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
