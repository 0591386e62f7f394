"""Measuring all importances of a network: its candidates are evaluated, then the table written.

Keys that ask for the same network share its evaluation. Whatever was evaluated is in a journal, so
a run resumes where it, another shard of it or another scheduler stopped.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

from dshrink.importance.cluster import Connect, evaluate_on_cluster
from dshrink.importance.evaluation import Evaluation
from dshrink.importance.evaluator import Evaluator
from dshrink.importance.journal import ImportanceJournal, Shard
from dshrink.importance.settings import Candidate, EvaluationError, ImportanceSettings
from dshrink.importance.table import ImportanceTable, save_importance, versions
from dshrink.progress import Notice, OnProgress, duration, no_notice, no_progress
from dshrink.search.importance import ImportanceKey, importance_keys, key_mask
from dshrink.version import __version__

#: After how many networks the run says how long it will take.
ESTIMATE_AFTER = 3


@dataclass(frozen=True, kw_only=True)
class ImportanceResult:
    """What a run did. A shard alone makes no ``table``."""

    evaluated: int
    reused: int
    table: ImportanceTable | None = None
    files: tuple[Path, ...] = ()


@dataclass(kw_only=True)
class ImportanceRun:
    """A measurement of importances with its journal next to ``out``.

    ``connect`` makes the client of the Dask cluster whose workers evaluate; else this process does.
    """

    settings: ImportanceSettings
    out: Path
    shard: Shard | None = None
    connect: Connect | None = None
    retry_failed: bool = False

    @cached_property
    def evaluator(self) -> Evaluator:
        return Evaluator(self.settings)

    @cached_property
    def keys(self) -> dict[ImportanceKey, Candidate]:
        """Each key's network."""
        pieces, chain = self.evaluator.pieces.pieces, self.evaluator.chain
        spans = [piece.span for piece in pieces if piece.kind == "span" and piece.span]
        return {
            key: Candidate(
                key_mask(chain, key),
                reinitialised=key.j if self.settings.reinitialise and key.j == key.i + 1 else 0,
            )
            for key in importance_keys(spans, chain.block_ends)
        }

    @cached_property
    def original(self) -> Candidate:
        """The network that all others are compared with."""
        return Candidate(self.evaluator.chain.mask, tuned=False)

    def run(
        self, progress: OnProgress = no_progress, notice: Notice = no_notice
    ) -> ImportanceResult:
        """Evaluate what no journal holds; without a shard, write the table.

        Raises EvaluationError where the original network cannot be evaluated, or nothing else can.
        """
        if self.out.suffix != ".csv":
            raise EvaluationError(f"--out {self.out}: give a file named *.csv")
        wanted = list(dict.fromkeys([self.original, *self.keys.values()]))
        if self.shard:
            wanted = wanted[self.shard.number - 1 :: self.shard.of]
        with closing(ImportanceJournal(self.out, self.shard, self.evaluator.identity)) as journal:
            left = [
                candidate
                for candidate in wanted
                if (known := journal.known.get(candidate)) is None
                or (known.reason and self.retry_failed)
            ]
            if self.original not in left:
                self._check_original(journal)
            for line in (*self.evaluator.said, self._plan_line(wanted, left)):
                notice(line)
            self._evaluate(journal, wanted, left, progress, notice)
            for line in self._unreadable_lines(journal):
                notice(line)
            self._check(journal)
            if self.shard:
                return ImportanceResult(evaluated=len(left), reused=len(wanted) - len(left))
            table = ImportanceTable(
                evaluations={key: journal.known[c] for key, c in self.keys.items()},
                original=journal.known[self.original],
            )
        if len(table.platforms) > 1:
            notice(
                f"warning: networks were evaluated by {'; '.join(map(str, table.platforms))}, "
                "which may explain small changes; evaluate all on the same, with another --out"
            )
        sidecar = save_importance(self.out, table, self._about())
        return ImportanceResult(
            evaluated=len(left),
            reused=len(wanted) - len(left),
            table=table,
            files=(self.out, sidecar),
        )

    def _evaluate(
        self,
        journal: ImportanceJournal,
        wanted: list[Candidate],
        left: list[Candidate],
        progress: OnProgress,
        notice: Notice,
    ) -> None:
        done = len(wanted) - len(left)
        progress(done, len(wanted), "")
        seconds: list[float] = []
        # Closing ends what a cluster is still asked for.
        with closing(self._evaluations(left, notice)) as evaluations:
            for number, evaluation in enumerate(evaluations, start=1):
                journal.add(evaluation)
                if evaluation.candidate == self.original and evaluation.reason:
                    return
                seconds.append(evaluation.seconds)
                progress(done + number, len(wanted), f"{sum(seconds) / number:.1f} s a network")
                # The first ones also read the images, which are kept where they fit into memory.
                if number == ESTIMATE_AFTER and number < len(left):
                    others = len(left) - number
                    notice(
                        f"about {duration(evaluation.seconds)} a network: "
                        f"{duration(evaluation.seconds * others)} for the {others} that are left, "
                        "in one process"
                    )

    def _evaluations(self, left: list[Candidate], notice: Notice) -> Generator[Evaluation]:
        if self.connect and left:
            identity = self.evaluator.identity
            return evaluate_on_cluster(self.connect, self.settings, identity, left, notice)
        return (self.evaluator.evaluate(candidate) for candidate in left)

    def _unreadable_lines(self, journal: ImportanceJournal) -> list[str]:
        """What to say about images that were left out, here or by whoever evaluated."""
        here = self.evaluator.unreadable.line
        counts = {e.unreadable for e in journal.known.values() if not e.reason}
        if max(counts, default=0) and not here:
            here = f"images that could not be read where networks were evaluated: {max(counts)}"
        differ = (
            "warning: not all networks were evaluated on the same images, for some could not "
            "always be read, which may explain small changes: evaluate all again, with another "
            "--out"
        )
        return [line for line in (here, differ if len(counts) > 1 else "") if line]

    def _check_original(self, journal: ImportanceJournal) -> None:
        original = journal.known.get(self.original)
        if original is not None and original.reason:
            raise EvaluationError(
                f"the original {self.settings.choice.name} cannot be evaluated: {original.reason}; "
                "fix the cause and run the same command with --retry-failed"
            )

    def _check(self, journal: ImportanceJournal) -> None:
        self._check_original(journal)
        evaluated = [e for e in journal.known.values() if e.candidate != self.original]
        if evaluated and all(evaluation.reason for evaluation in evaluated):
            raise EvaluationError(
                f"no network could be evaluated, the first one because: {evaluated[0].reason}"
            )

    def _plan_line(self, wanted: list[Candidate], left: list[Candidate]) -> str:
        evaluator = self.evaluator
        shard = f" in shard {self.shard.number}/{self.shard.of}" if self.shard else ""
        return (
            f"{len(self.keys)} keys of {self.settings.choice.name}; {len(wanted)} networks to "
            f"evaluate{shard}, {len(wanted) - len(left)} of them already in the journal; each "
            f"reads {evaluator.training.count} training images ({self.settings.level}) and "
            f"{evaluator.validation.count} validation images on {evaluator.device.type}"
        )

    def _about(self) -> dict[str, object]:
        evaluator = self.evaluator
        return {
            **evaluator.identity,
            "convolutions": list(evaluator.chain.convolutions),
            "reinitialised_single_layers": self.settings.reinitialise,
            "span_mode": self.settings.span_mode,
            "classes": len(evaluator.images.classes),
            "training_images": evaluator.training.count,
            "validation_images": evaluator.validation.count,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "dshrink_version": __version__,
            "versions": versions(),
        }
