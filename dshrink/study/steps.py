"""The steps of a study: what is trained, and from what.

Every step has a folder of its own below the study's (``folders``), of its name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from dshrink.study.recipe import FROM_INITIAL, SEARCHED_ROWS, MaskGoal, Recipe, TableSettings
from dshrink.train.errors import TrainError
from dshrink.train.settings import Training
from latency_tables.records import plain

#: Rows that are about the activation after merged blocks (paper, Tab. 4).
FREE_ACTIVATION = {"no_free_activation": False, "scratch": False, "free_activation": True}
TABLE, PRETRAIN, SEARCH, TRAIN, MERGE = "table", "pretrain", "search", "train", "merge"


class StudyError(TrainError):
    """Steps that failed, or a folder of another study."""


class StepsFailedError(StudyError):
    """Steps that failed: the reason of each, by name."""

    def __init__(self, failures: Mapping[str, str], steps: int) -> None:
        name, reason = next(iter(failures.items()))
        super().__init__(
            f"{len(failures)} of {steps} steps failed, first {name}: {reason}; the same command "
            "tries them again: change the recipe, or leave the row out with --rows"
        )
        self.failures = dict(failures)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One thing to do; ``name`` is its folder below the study's, such as "searched/keep11/seed0".

    ``kind`` is table, pretrain, search, train or merge; ``method`` the row that the last two belong
    to. ``needs`` are the names of the steps whose results it starts from. ``batch`` is that of the
    ONNX file of a merge, ``decay`` and ``limit`` those of a search; ``free_activation`` says
    whether merged blocks have an activation after them; ``narrower`` names another network than
    the recipe's, ``table`` says how a table is measured.
    """

    name: str
    kind: str
    method: str = ""
    goal: MaskGoal | None = None
    narrower: str | None = None
    free_activation: bool = True
    seed: int = 0
    training: Training | None = None
    batch: int | None = None
    decay: float | None = None
    limit: float | None = None
    table: TableSettings | None = None
    needs: tuple[str, ...] = ()

    @property
    def from_initial(self) -> bool:
        """Whether it starts from initial weights instead of the pre-trained ones."""
        return self.kind == PRETRAIN or self.method in FROM_INITIAL

    @property
    def work(self) -> int:
        """Its share of a study's progress: epochs, at least one."""
        return self.training.epochs if self.training else 1

    @property
    def about(self) -> dict[str, Any]:
        """What its result depends on besides data, network and the steps it needs."""
        goal = self.goal.name if self.goal else None
        training = self.training.identity if self.training else None
        found = {
            **{"kind": self.kind, "method": self.method, "target": goal, "width": self.narrower},
            **{"seed": self.seed, "training": training, "batch": self.batch},
        }
        if self.method:
            found["free_activation"] = self.free_activation
        if self.table is not None:
            found |= plain(self.table)
        searched = {"decay": self.decay, "limit": self.limit}
        return found | (searched if self.kind == SEARCH else {})


def steps_of(recipe: Recipe, *, measure_table: bool, batch: int = 1) -> tuple[Step, ...]:
    """All steps of a recipe's training, each after those that it needs.

    ``measure_table``: there is no latency table, the first step measures one. ``batch`` is what
    the networks are measured with afterwards.
    """
    start: list[Step] = []
    if measure_table:
        start.append(Step(name=TABLE, kind=TABLE, table=recipe.table))
    if recipe.pretrain is not None:
        seed = recipe.pretrain.seed
        training = recipe.pretrain
        start.append(Step(name=PRETRAIN, kind=PRETRAIN, seed=seed, training=training))
    table = (TABLE,) if measure_table else ()
    weights = (PRETRAIN,) if recipe.pretrain is not None else ()
    rows = list(_rows(recipe, table, weights))
    merges = [
        replace(
            row,
            name=f"{MERGE}/batch{batch}/{row.name}",
            kind=MERGE,
            training=None,
            batch=batch,
            needs=(row.name,),
        )
        for row in rows
    ]
    return (*start, *_searches(recipe, (*table, *weights)), *rows, *merges)


def _searches(recipe: Recipe, needs: tuple[str, ...]) -> Iterator[Step]:
    if not any(row in SEARCHED_ROWS for row in recipe.rows):
        return
    for goal in recipe.goals:
        if not goal.is_searched:
            continue
        for seed in recipe.seeds:
            yield Step(
                name=f"{SEARCH}/{goal.name}/seed{seed}",
                kind=SEARCH,
                goal=goal,
                seed=seed,
                training=replace(recipe.search, seed=seed),
                decay=recipe.decay,
                limit=recipe.limit,
                needs=needs,
            )


def _rows(recipe: Recipe, table: tuple[str, ...], weights: tuple[str, ...]) -> Iterator[Step]:
    for row in recipe.rows:
        training = recipe.training_of(row)
        for part, goal, narrower, seed in _networks(recipe, row):
            needs: tuple[str, ...] = ()
            if row in SEARCHED_ROWS and goal and goal.is_searched:
                needs = (f"{SEARCH}/{goal.name}/seed{seed}",)
            elif goal and not goal.mask:
                needs = table
            step = Step(
                name=f"{row}/{part}seed{seed}",
                kind=TRAIN,
                method=row,
                goal=goal,
                narrower=narrower,
                free_activation=FREE_ACTIVATION.get(row, recipe.free_activation),
                seed=seed,
                training=replace(training, seed=seed),
                needs=needs,
            )
            yield step if step.from_initial else replace(step, needs=(*weights, *step.needs))


def _networks(recipe: Recipe, row: str) -> Iterator[tuple[str, MaskGoal | None, str | None, int]]:
    """Folder, goal, name of a narrower network and seed of each network of a row."""
    if row == "original":
        yield from (("", None, None, seed) for seed in recipe.seeds)
    elif row == "width":
        for name in recipe.narrower:
            folder = f"{name.replace('/', '_')}/"  # hf:ORG/NAME, FILE.py:FACTORY
            yield from ((folder, None, name, seed) for seed in recipe.seeds)
    else:
        # A draw is its seed: five draws are five masks, each trained once (paper, Sec. 5.4).
        seeds = tuple(range(recipe.random_draws)) if row == "random" else recipe.seeds
        for goal in recipe.goals:
            yield from ((f"{goal.name}/", goal, None, seed) for seed in seeds)
