"""How much of a run is left before it begins, in one line."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from latency_tables.wording import counted
from profiler.planning.jobs import expected_s
from profiler.replies import Reply
from profiler.settings import ProfileSettings
from profiler.statistics import median

#: Files that are smaller together are not mentioned.
MENTIONED_BYTES = 50_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class DurationEstimate:
    """``jobs`` are those of the first round; measurements are (job, round) pairs.

    ``reused`` of them are in the journal and about ``remaining`` are left. ``file_bytes`` are about
    those of the files that are written before the next round.
    """

    jobs: int
    reused: int
    remaining: int
    remaining_s: float
    boards: int = 1
    file_bytes: int = 0

    def __str__(self) -> str:
        known = f", {self.reused} more in the journal" if self.reused else ""
        boards = f" on {self.boards} boards" if self.boards > 1 else ""
        large = self.file_bytes >= MENTIONED_BYTES
        files = f"; about {self.file_bytes / 1e9:.1f} GB of files" if large else ""
        return (
            f"{counted(self.jobs, 'job')} in the first round, about "
            f"{counted(self.remaining, 'measurement')} to go"
            f"{boards}{known}: about {self.remaining_s:.0f} s{files}"
        )


def job_s(settings: ProfileSettings, replies: Iterable[Reply]) -> float:
    """About how long one job takes: as those before, or as the rule says."""
    took = [reply.took_s for reply in replies if reply.failure is None]
    return median(took) if took else expected_s(settings.rule) + settings.build_s
