"""The folders of a study's steps: what is done in them, with what, and what came out.

A step's folder has a file ``step.json`` once it is done, with what it depended on and its result.
So a study is resumed, and a folder of another recipe is refused instead of mixed with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from dshrink.study.steps import MERGE, PRETRAIN, SEARCH, TABLE, TRAIN, Step, StudyError
from dshrink.train.identity import differences, listed
from latency_tables.files import write_atomically
from latency_tables.records import convert_record, format_record, load_record, plain

DONE = "step.json"
SCHEMA, SCHEMA_VERSION = "dshrink.study_step", 1
_FIX = "remove its folder to do the step again"
#: Identifies a table that a study measures, in addition to its conditions.
_DIGEST = "table_digest"


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredStep:
    """A measured latency table, by its digest."""

    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainedStep:
    """The whole network, pre-trained."""

    accuracy_percent: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchedStep:
    """The mask that was searched."""

    keep_mask: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedStep:
    """A row's network, trained; ``keep_mask`` is empty for a narrower one."""

    keep_mask: str
    accuracy_percent: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MergedStep:
    """A row's network as an ONNX file; ``structure`` is the digest of its ``OpSpec``.

    What is None was not merged: the accuracy before, the number of validation images that the
    merged network classifies otherwise, and the relative difference of the outputs (certificate).
    """

    file: str
    keep_mask: str
    structure: str
    macs: int
    parameters: int
    accuracy_percent: float
    validation_images: int
    onnx_difference: float
    unmerged_accuracy_percent: float | None = None
    differing: int | None = None
    certificate: float | None = None


StepResult = MeasuredStep | PretrainedStep | SearchedStep | TrainedStep | MergedStep
Result = TypeVar("Result", MeasuredStep, PretrainedStep, SearchedStep, TrainedStep, MergedStep)
_KINDS: Mapping[str, type[StepResult]] = {
    **{TABLE: MeasuredStep, PRETRAIN: PretrainedStep, SEARCH: SearchedStep},
    **{TRAIN: TrainedStep, MERGE: MergedStep},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _DoneStep:
    """What a file ``step.json`` holds."""

    depends_on: dict[str, Any]
    result: dict[str, Any]


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

    def result(self, name: str, kind: type[Result]) -> Result | None:
        """What came out of a step of this kind, None while it is not done. Raises StudyError."""
        found = self.any_result(name)
        assert found is None or isinstance(found, kind)
        return found

    def any_result(self, name: str) -> StepResult | None:
        """What came out of a step, None while it is not done.

        Nor is it done any more where its table was measured again since. Raises StudyError where
        the folder holds a step of another study.
        """
        known, is_stale = self._known(name)
        if known is None or is_stale:
            return None
        where = str(self.folder(name) / DONE)
        kind = _KINDS[self.steps[name].kind]
        return convert_record(known.result, kind, where=where, error=StudyError, fix=_FIX)

    def is_stale(self, name: str) -> bool:
        """Whether a step was done with a table that was measured again since. Raises StudyError."""
        return self._known(name)[1]

    def _known(self, name: str) -> tuple[_DoneStep | None, bool]:
        """What a step's file holds, and whether its table was measured again since."""
        path = self.folder(name) / DONE
        if not path.exists():
            return None, False
        known = load_record(
            path,
            _DoneStep,
            error=StudyError,
            fix=_FIX,
            schema=SCHEMA,
            version=SCHEMA_VERSION,
        )
        found = differences(known.depends_on, self.depends_on(name))
        digests = [values for key, values in found.items() if key.endswith(_DIGEST)]
        if len(found) > len(digests):
            others = {key: v for key, v in found.items() if not key.endswith(_DIGEST)}
            raise StudyError(
                f"{path}: belongs to another study ({listed(others)}): choose another --out, or "
                f"{_FIX}"
            )
        return known, any(before and now for before, now in digests)

    def depends_on(self, name: str) -> dict[str, Any]:
        """All that a step's result depends on, as plain data, what it starts from included."""
        step = self.steps[name]
        starts = {need: self.depends_on(need) for need in step.needs if need in self.steps}
        table = {"table": self.table} if _asks_table(step) else {}
        if table and TABLE in step.needs:
            measured = self.result(TABLE, MeasuredStep)
            table[_DIGEST] = measured.digest if measured else None
        found: dict[str, Any] = plain(
            {**self.identity, **table, **step.about, "starts_from": starts}
        )
        return found

    def epochs(self, name: str) -> int:
        """Of all training that led to a step's weights, pre-training in the study included."""
        step = self.steps[name]
        if step.kind in (TABLE, SEARCH):  # a search's weights are not used again
            return 0
        known = (need for need in step.needs if need in self.steps)
        own = step.training.epochs if step.training else 0
        return own + sum(self.epochs(need) for need in known)

    def finish(self, name: str, result: StepResult) -> None:
        """Mark a step as done."""
        done = _DoneStep(depends_on=self.depends_on(name), result=plain(result))
        folder = self.folder(name)
        write_atomically(folder / DONE, format_record(done, SCHEMA, SCHEMA_VERSION))

    def open_steps(self) -> tuple[Step, ...]:
        """The steps that are not done yet, in order. Raises StudyError."""
        done = self.results()
        return tuple(step for name, step in self.steps.items() if name not in done)

    def results(self) -> dict[str, StepResult]:
        """What came out of the steps that are done, by name. Raises StudyError."""
        found = ((name, self.any_result(name)) for name in self.steps)
        return {name: result for name, result in found if result is not None}


def _asks_table(step: Step) -> bool:
    """Whether its own result depends on the latency table, not only on a search that does."""
    if step.kind in (TABLE, SEARCH):
        return True
    return step.kind == TRAIN and step.method == "random"
