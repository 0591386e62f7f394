"""What to say beside benchmark results: what failed, and each kind of doubt once.

A noisy machine makes all rows noisy: one line with the worst of them, not one a network.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dshrink.results import BenchmarkResult
from latency_tables.wording import counted

_ADVICE = {
    "noisy": "close other programs and measure into another file",
    "throttled": "cool the device or lower its power mode, and measure into another file",
    "host_bound": "use --launch cuda_graph or a larger batch",
}


def result_notes(results: Sequence[BenchmarkResult], *, each: bool = False) -> Iterator[str]:
    """A line a network that failed, and one a verdict other than ok; ``each``: a line a network."""
    several = len({r.batch for r in results}) > 1
    doubted: dict[str, list[str]] = {}
    for r in results:
        if not r.reason:
            continue
        name = f"{r.network}, batch {r.batch}" if several else r.network
        reason = " ".join(r.reason.split())
        if each or r.verdict not in _ADVICE:
            yield f"{name}: {r.verdict}, {reason}"
        else:
            doubted.setdefault(r.verdict, []).append(f"{name}: {reason}")
    for verdict, found in doubted.items():
        first = max(found, key=_half_width)
        whole = counted(len(results), "network")
        said = verdict.replace("_", "-")
        are = f"is {said}," if len(found) == 1 else f"are {said}, the worst"
        yield (f"{len(found)} of {whole} {are} {first}; {_ADVICE[verdict]}")


def _half_width(text: str) -> float:
    """ "known to ±3.1 %": 3.1; the reasons of other verdicts have no such number."""
    _, found, behind = text.rpartition("known to ±")
    try:
        return float(behind.split()[0]) if found else 0.0
    except ValueError:
        return 0.0
