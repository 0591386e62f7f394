"""A whole study: every step of a recipe once, in parallel where that is faster, resumably.

Training runs do not depend on each other, and networks this small gain little from a second
thread: on a machine without a GPU each runs in a process of its own with one thread. Latency is
never measured meanwhile; that is for whoever calls this, before and afterwards.
"""

from __future__ import annotations

import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from graphlib import TopologicalSorter
from multiprocessing import get_context, parent_process
from typing import Any, NamedTuple

import torch
from accelerate.utils import gather_object

from dshrink.errors import DshrinkError
from dshrink.progress import Notice, OnProgress, no_notice, no_progress
from dshrink.study.estimate import epoch_timer, estimate_line
from dshrink.study.rows import StepRunner, StudyContext
from dshrink.study.steps import MERGE, TABLE, Step, StepsFailedError, StudyError
from dshrink.train.image_sets import Images, open_images
from dshrink.train.processes import is_main_process, together
from dshrink.train.unreadable import UnreadableImages
from latency_tables.wording import counted

#: How often the time of the first epoch is asked for while processes train.
LOOK_EVERY_S = 5.0


class Done(NamedTuple):
    """The step, its error if it failed, and what images could not be read."""

    name: str
    error: str
    unreadable: str


def jobs_here(asked: int | None = None) -> int:
    """How many runs at a time: one where there is a GPU, which one run fills, else one a core.

    Where a launcher has started several processes these do each run together, one at a time.
    Raises StudyError where more is ``asked`` for then.
    """
    processes = together().num_processes
    if processes > 1 and (asked or 1) > 1:
        raise StudyError(
            f"--jobs {asked} with {processes} processes of a launcher: they do one run at a time "
            "together; leave --jobs out, or start one process"
        )
    if asked is not None:
        return asked
    alone = torch.accelerator.is_available() or processes > 1
    return 1 if alone else len(os.sched_getaffinity(0))


@dataclass(kw_only=True)
class Study:
    """The training of a recipe: ``run`` does all that is not done yet.

    ``notice`` gets lines for the user: how much there is to do, how long that takes once an epoch
    was timed, and images that cannot be read.
    """

    context: StudyContext
    images: Images
    jobs: int = 1
    progress: OnProgress = no_progress
    notice: Notice = no_notice
    _failures: dict[str, str] = field(default_factory=dict)
    #: Until an epoch was timed.
    _epochs_left: int = 0

    def run(self) -> None:
        """Do all steps but the table's, which has to be there.

        Steps that fail for a reason that the user can fix do not stop the others. Raises
        StepsFailedError at the end, which names them; the same call tries them again.
        """
        folders = self.context.folders
        steps = [step for step in folders.open_steps() if step.kind != TABLE]
        self._clear(steps)
        self._epochs_left = sum(step.training.epochs for step in steps if step.training)
        if self._epochs_left and is_main_process():
            self.notice(
                f"{counted(len(steps), 'step')}, {counted(self._epochs_left, 'epoch')} of "
                "training: an estimate follows "
                "the first epoch"
            )
        if self.jobs > 1 and len(steps) > 1:
            self._in_processes(steps)
        else:
            self._one_by_one(steps)
        if self._failures:
            raise StepsFailedError(self._failures, len(folders.steps))

    def _clear(self, steps: Sequence[Step]) -> None:
        """Remove what was made with a table that has been measured again since."""
        folders, state = self.context.folders, together()
        stale = [step.name for step in steps if folders.is_stale(step.name)]
        state.wait_for_everyone()
        if stale and is_main_process():
            self.notice(f"the table was measured again: {counted(len(stale), 'step')} to do again")
            for name in stale:
                shutil.rmtree(folders.folder(name))
        state.wait_for_everyone()

    def _one_by_one(self, steps: Sequence[Step]) -> None:
        main, state = is_main_process(), together()
        # Every process decides by the same files: none is written before all have read them.
        state.wait_for_everyone()
        runner = StepRunner(context=self.context, images=self.images, main=main)
        total, done = sum(step.work for step in steps), 0
        for step in steps:
            if self._starts_from_failed(step):
                continue

            def within(part: int, of: int, label: str, step: Step = step, done: int = done) -> None:
                self.progress(done + step.work * part // of, total, f"{step.name}: {label}")

            mine = Done(step.name, "", "")
            if main or step.kind != MERGE:
                mine = _do(runner, step, within, self._timed)
            # It failed for all where it did for one, such as the one that writes.
            errors = [error for error in gather_object([mine.error]) if error]
            self._note(mine._replace(error=errors[0] if errors else ""))
            done += step.work
            self.progress(done, total, step.name)

    def _in_processes(self, steps: Sequence[Step]) -> None:
        by_name = {step.name: step for step in steps}
        graph = TopologicalSorter(
            {step.name: [need for need in step.needs if need in by_name] for step in steps}
        )
        graph.prepare()
        total, done = sum(step.work for step in steps), 0
        with _processes(self.context, min(self.jobs, len(steps))) as (pool, epoch_s):
            running: dict[Future[Done], Step] = {}
            while graph.is_active():
                for name in graph.get_ready():
                    running[pool.submit(_do_here, by_name[name])] = by_name[name]
                if not running:
                    break
                for future in wait(running, LOOK_EVERY_S, FIRST_COMPLETED).done:
                    step = running.pop(future)
                    self._note(future.result())
                    done += step.work
                    if step.name not in self._failures:
                        graph.done(step.name)
                    self.progress(done, total, step.name)
                if epoch_s.value:
                    self._timed(epoch_s.value)
        for step in steps:
            self._starts_from_failed(step)

    def _starts_from_failed(self, step: Step) -> bool:
        """Whether a step cannot start; if so it failed, too."""
        failed = [need for need in step.needs if need in self._failures]
        if failed:
            self._failures[step.name] = f"it starts from {failed[-1]}"
        return bool(failed)

    def _timed(self, epoch_s: float) -> None:
        """Give the estimate after the first epoch, and only then."""
        if self._epochs_left > 1:
            self.notice(estimate_line(epoch_s, self._epochs_left - 1, self.jobs))
        self._epochs_left = 0

    def _note(self, done: Done) -> None:
        if done.error:
            self._failures[done.name] = done.error
        if done.unreadable:
            self.notice(f"{done.name}: {done.unreadable}")


def _do(
    runner: StepRunner, step: Step, progress: OnProgress, timed: Callable[[float], None]
) -> Done:
    missing = UnreadableImages(runner.context.unreadable)
    timer = epoch_timer(step.work, timed)

    def within(done: int, total: int, label: str) -> None:
        timer(done, total, label)
        progress(done, total, label)

    reason = ""
    try:
        result = replace(runner, progress=within, missing=missing).do(step)
        if runner.main:
            runner.context.folders.finish(step.name, result)
    except torch.OutOfMemoryError:
        reason = "the memory of the GPU is full: raise accumulate or lower batch in the recipe"
    except (DshrinkError, OSError) as error:
        reason = str(error) or type(error).__name__
    return Done(step.name, reason, missing.line)


#: Set in the processes of a pool alone: what runs steps, and the shared seconds of an epoch.
_runner: StepRunner | None = None
_epoch_s: Any = None


def _do_here(step: Step) -> Done:
    assert _runner is not None

    def timed(seconds: float) -> None:
        _epoch_s.value = seconds

    return _do(_runner, step, no_progress, timed)


@contextmanager
def _processes(context: StudyContext, jobs: int) -> Iterator[tuple[ProcessPoolExecutor, Any]]:
    """Processes with a thread each, which end with this one however it ends.

    The second value is the seconds of an epoch that one of them timed, 0 before that.
    """
    spawning = get_context("spawn")
    epoch_s = spawning.Value("d", 0.0)
    with ProcessPoolExecutor(jobs, spawning, _start_runner, (context, epoch_s)) as pool:
        try:
            yield pool, epoch_s
        except BrokenProcessPool as error:
            raise StudyError(
                f"one of {jobs} training processes was killed, as happens when memory runs "
                "out: try fewer --jobs; the same command resumes the study"
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _start_runner(context: StudyContext, epoch_s: Any) -> None:
    global _runner, _epoch_s
    # Ctrl-C goes to all processes; the first one says so, these just end.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    _runner = StepRunner(context=context, images=open_images(context.data))
    _epoch_s = epoch_s


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
