"""What a self-test found, and the page about it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import ClassVar

from devices.reports import Probe
from dshrink.markdown import markdown_table
from dshrink.operations.selftest.check import STATES, Check
from latency_tables.wording import counted


@dataclass(frozen=True, slots=True, kw_only=True)
class SelfTest:
    """The checks of a device in their order, and what it said of itself before them.

    ``packages`` are the versions of what computed on this host. ``complete`` is false while checks
    are still to come.
    """

    DERIVED: ClassVar[tuple[str, ...]] = ("verdict",)

    device: str
    title: str
    date: str
    dshrink_version: str
    packages: dict[str, str]
    complete: bool
    checks: tuple[Check, ...]
    probe: Probe

    @property
    def verdict(self) -> str:
        """How many checks came to what, in one line."""
        counts = Counter(one.state for one in self.checks)
        told = ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])
        return f"{counted(len(self.checks), 'check')}: {told}"

    @property
    def failed(self) -> bool:
        """Whether a check found that something is wrong."""
        return any(one.state == "failed" for one in self.checks)


def page_of(result: SelfTest) -> str:
    """The page in Markdown, to read and to send."""
    facts = result.probe["environment"]
    gpu = facts["gpu"]
    rows = {
        "device": f"{result.device} ({result.title})",
        "date": result.date,
        "dshrink": result.dshrink_version,
        "this host": ", ".join(f"{name} {text}" for name, text in result.packages.items()),
        "system": f"{facts['os']}, kernel {facts['kernel']}, {facts['machine']}",
        "processor": facts["cpu_model"],
        "Python": facts["python"],
        "runtimes": ", ".join(f"{name} {text}" for name, text in facts["runtimes"].items()),
        "power mode": facts["power_mode"] or facts["governor"] or "",
    }
    if gpu is not None:
        rows["GPU"] = (
            f"{gpu['name']}, compute capability {gpu['compute_capability']}, driver "
            f"{gpu['driver'] or 'unknown'}, CUDA {gpu['cuda']}"
        )
    elif facts["gpu_problem"]:
        rows["GPU"] = f"none: {facts['gpu_problem']}"
    checks = [(one.name, one.of, one.word, one.finding) for one in result.checks]
    unfinished = [] if result.complete else ["", "The test has not ended."]
    return "\n".join(
        [
            f"# Self-test of {result.device}",
            "",
            f"{result.verdict}.",
            *unfinished,
            "",
            *markdown_table(("what", "is"), [(name, text) for name, text in rows.items() if text]),
            "",
            *markdown_table(("check", "of", "result", "finding"), checks),
            "",
        ]
    )
