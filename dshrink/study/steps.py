"""The steps of a study: what is trained, from what, and in which folder it ends up.

Every step has a folder of its own below the study's, and a file ``step.json`` in it once it is
done, with what it depended on and what came out. So a study goes on where it was, and a folder of
another recipe is refused instead of mixed with.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dshrink.study.recipe import FROM_INITIAL, SEARCHED_ROWS, Recipe, Target
from dshrink.train.errors import TrainError
from dshrink.train.settings import Training
from latency_tables.files import write_atomically
from latency_tables.json_fields import parse_document

DONE = "step.json"
SCHEMA, SCHEMA_VERSION = "dshrink.study_step", 1
#: Rows that are about the activation behind merged blocks (paper, Tab. 4).
FREE_ACTIVATION = {"no_free_activation": False, "scratch": False, "free_activation": True}
#: By which a table that a study measures is known beside its conditions.
_DIGEST = "table_digest"
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
    whether merged blocks have an activation behind them; ``dense`` and ``hold_out`` are a table's.
    """

    name: str
    kind: str
    method: str = ""
    target: Target | None = None
    width: float | None = None
    free_activation: bool = True
    seed: int = 0
    training: Training | None = None
    batch: int | None = None
    decay: float | None = None
    limit: float | None = None
    dense: bool = False
    hold_out: int = 0
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
        """What its result depends on beside data, network and the steps it needs."""
        target = self.target.name if self.target else None
        training = self.training.identity if self.training else None
        found = {
            **{"kind": self.kind, "method": self.method, "target": target, "width": self.width},
            **{"seed": self.seed, "training": training, "batch": self.batch},
        }
        if self.method:
            found["free_activation"] = self.free_activation
        if self.kind == TABLE:
            found |= {"dense": self.dense, "hold_out": self.hold_out}
        searched = {"decay": self.decay, "limit": self.limit}
        return found | (searched if self.kind == SEARCH else {})


def steps_of(recipe: Recipe, *, measure_table: bool, batch: int = 1) -> tuple[Step, ...]:
    """All steps of a recipe's training, each after those that it needs.

    ``measure_table``: no latency table is at hand, the first step measures one. ``batch`` is what
    the networks are measured with afterwards.
    """
    start: list[Step] = []
    if measure_table:
        dense, hold_out = recipe.dense, recipe.hold_out
        start.append(Step(name=TABLE, kind=TABLE, dense=dense, hold_out=hold_out))
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
    for target in recipe.targets:
        if not target.is_searched:
            continue
        for seed in recipe.seeds:
            yield Step(
                name=f"{SEARCH}/{target.name}/seed{seed}",
                kind=SEARCH,
                target=target,
                seed=seed,
                training=replace(recipe.search, seed=seed),
                decay=recipe.decay,
                limit=recipe.limit,
                needs=needs,
            )


def _rows(recipe: Recipe, table: tuple[str, ...], weights: tuple[str, ...]) -> Iterator[Step]:
    for row in recipe.rows:
        training = recipe.training_of(row)
        for place, target, width, seed in _places(recipe, row):
            needs: tuple[str, ...] = ()
            if row in SEARCHED_ROWS and target and target.is_searched:
                needs = (f"{SEARCH}/{target.name}/seed{seed}",)
            elif target and not target.mask:
                needs = table
            step = Step(
                name=f"{row}/{place}seed{seed}",
                kind=TRAIN,
                method=row,
                target=target,
                width=width,
                free_activation=FREE_ACTIVATION.get(row, recipe.free_activation),
                seed=seed,
                training=replace(training, seed=seed),
                needs=needs,
            )
            yield step if step.from_initial else replace(step, needs=(*weights, *step.needs))


def _places(recipe: Recipe, row: str) -> Iterator[tuple[str, Target | None, float | None, int]]:
    """Folder, target, width and seed of each network of a row."""
    if row == "original":
        yield from (("", None, None, seed) for seed in recipe.seeds)
    elif row == "width":
        for width in recipe.widths:
            yield from ((f"{width:g}/", None, width, seed) for seed in recipe.seeds)
    else:
        # A draw is its seed: five draws are five masks, each trained once (paper, Sec. 5.4).
        seeds = tuple(range(recipe.random_draws)) if row == "random" else recipe.seeds
        for target in recipe.targets:
            yield from ((f"{target.name}/", target, None, seed) for seed in seeds)


@dataclass(frozen=True, kw_only=True)
class StepFolders:
    """The folders of a study's steps, and what is done in them.

    ``identity`` is what every step depends on: the network and the images. ``table`` says which
    latency table the masks come from. One that is measured here is also known by its digest: where
    it was measured again, what depends on it is not done any more.
    """

    root: Path
    identity: Mapping[str, Any]
    table: Any
    steps: Mapping[str, Step]

    @classmethod
    def of(
        cls, root: Path, identity: Mapping[str, Any], table: Any, steps: Sequence[Step]
    ) -> StepFolders:
        return cls(root=root, identity=identity, table=table, steps={s.name: s for s in steps})

    def folder(self, name: str) -> Path:
        """Where a step works."""
        return self.root / name

    def result(self, name: str) -> dict[str, Any] | None:
        """What came out of a step, None while it is not done.

        Nor is it done any more where its table was measured again since. Raises StudyError where
        the folder holds a step of another study.
        """
        known = self._known(name)
        return None if known is None or self._is_stale(name, known) else dict(known["result"])

    def is_stale(self, name: str) -> bool:
        """Whether a step was done with a table that was measured again since. Raises StudyError."""
        known = self._known(name)
        return known is not None and self._is_stale(name, known)

    def _is_stale(self, name: str, known: Mapping[str, Any]) -> bool:
        pairs = zip(_digests(known["depends_on"]), _digests(self.depends_on(name)), strict=True)
        return any(before and now and before != now for before, now in pairs)

    def _known(self, name: str) -> Mapping[str, Any] | None:
        path = self.folder(name) / DONE
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        advice = "remove its folder to do the step again"
        source = parse_document(text, str(path), StudyError, advice)
        source.check_schema(SCHEMA, SCHEMA_VERSION)
        depends_on = source.mapping("depends_on").data
        theirs, ours = _without_digest(depends_on), _without_digest(self.depends_on(name))
        for key, value in ours.items():
            if theirs.get(key) != value:
                raise StudyError(
                    f"{path}: was done with {key} {_short(theirs.get(key))}, this study has "
                    f"{_short(value)}; choose another --out, or {advice}"
                )
        return {"depends_on": depends_on, "result": source.mapping("result").data}

    def depends_on(self, name: str) -> dict[str, Any]:
        """All that a step's result depends on, as plain data, what it starts from included."""
        step = self.steps[name]
        starts = {need: self.depends_on(need) for need in step.needs if need in self.steps}
        table = {"table": self.table} if _asks_table(step) else {}
        if table and TABLE in step.needs:
            table[_DIGEST] = (self.result(TABLE) or {}).get("digest")
        found = {**self.identity, **table, **step.about, "starts_from": starts}
        plain: dict[str, Any] = json.loads(json.dumps(found))
        return plain

    def epochs(self, name: str) -> int:
        """Of all training behind a step's weights, pre-training in the study included."""
        step = self.steps[name]
        if step.kind in (TABLE, SEARCH):  # a search's weights are not gone on with
            return 0
        known = (need for need in step.needs if need in self.steps)
        own = step.training.epochs if step.training else 0
        return own + sum(self.epochs(need) for need in known)

    def finish(self, name: str, result: Mapping[str, Any]) -> None:
        """Mark a step as done."""
        document = {
            "schema": SCHEMA,
            "schema_version": SCHEMA_VERSION,
            "depends_on": self.depends_on(name),
            "result": dict(result),
        }
        folder = self.folder(name)
        write_atomically(folder / DONE, json.dumps(document, indent=1, allow_nan=False) + "\n")

    def open_steps(self) -> tuple[Step, ...]:
        """The steps that are not done yet, in order. Raises StudyError."""
        return tuple(step for name, step in self.steps.items() if self.result(name) is None)


def ready(steps: Iterable[Step], done: Iterable[str], known: Iterable[str]) -> list[Step]:
    """Those of ``steps`` that can start: what they need of the ``known`` steps is ``done``."""
    finished, all_names = set(done), set(known)
    return [s for s in steps if all(n in finished or n not in all_names for n in s.needs)]


def _asks_table(step: Step) -> bool:
    """Whether its own result depends on the latency table, not only on a search that does."""
    if step.kind in (TABLE, SEARCH):
        return True
    return step.kind == TRAIN and step.method == "random"


def _without_digest(depends_on: Mapping[str, Any]) -> dict[str, Any]:
    starts = depends_on.get("starts_from", {})
    found = {name: value for name, value in depends_on.items() if name != _DIGEST}
    return {**found, "starts_from": {name: _without_digest(one) for name, one in starts.items()}}


def _digests(depends_on: Mapping[str, Any]) -> Iterator[str | None]:
    """Of the table that was measured, of the step itself and of all that it starts from."""
    yield depends_on.get(_DIGEST)
    for _, start in sorted(depends_on.get("starts_from", {}).items()):
        yield from _digests(start)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
