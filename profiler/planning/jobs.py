"""A job: one thing to measure, the rule that times it, and the request that it becomes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from devices.agent.protocol import Rule, file_digest
from devices.connection import PushedFile
from latency_tables.opspec import OpSpec
from latency_tables.schema import Conditions
from profiler.errors import InvalidJobError
from profiler.runtimes import request_options

JobKind = Literal["piece", "network", "layers"]
#: About what a runtime takes to load and optimise a file.
LOAD_S = 0.1

#: Most time for a runtime to load and optimise a network, beyond what the rule allows for timing.
PREPARE_TIMEOUT_S = 60.0
#: The same where an engine is built: a Jetson takes minutes for a network.
BUILD_TIMEOUT_S = 1800.0

#: When the agent starts and stops sampling. Visits are short and the agent does not try to narrow
#: the interval within one (half_width 1): where a process has its memory moves a latency by more
#: than a visit's noise does, so another process serves better than a longer visit.
PROFILE_RULE = Rule(
    warmup_s=0.01,
    warmup_cap_s=0.025,
    window_s=0.004,
    min_samples=5,
    min_total_s=0.03,
    half_width=1.0,
    cap_s=0.06,
)
#: How often a network is run for its per-layer profile.
PROFILE_PASSES = 6


def expected_s(rule: Rule) -> float:
    """About how long a job takes on an idle machine."""
    return rule.warmup_s + rule.min_total_s + LOAD_S


def timeout_s(rule: Rule, builds: bool = False) -> float:
    """How long an agent may be silent about a job before it is taken to hang."""
    prepare_s = BUILD_TIMEOUT_S if builds else PREPARE_TIMEOUT_S
    return prepare_s + 10.0 * (rule.warmup_cap_s + rule.cap_s)


@dataclass(frozen=True, kw_only=True)
class _JobBase:
    """One thing to measure; ``label`` is what a progress bar shows."""

    id: str
    kind: JobKind
    label: str
    weights_seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Job(_JobBase):
    """A piece or a network that is built from its spec, with random weights."""

    spec: OpSpec

    @property
    def digest(self) -> str:
        return self.spec.digest


@dataclass(frozen=True, kw_only=True)
class FileJob(_JobBase):
    """A network that is in a file already.

    ``content`` is what is measured where the file alone is not complete.
    """

    file: Path
    content: bytes = b""

    @property
    def digest(self) -> str:
        return (
            hashlib.sha256(self.content).hexdigest()
            if self.content
            else file_digest(str(self.file))
        )


AnyJob = Job | FileJob


@dataclass(frozen=True, kw_only=True)
class JobPlan:
    """Everything a session measures.

    Where several boards share the work, each of them measures the jobs whose ids are ``shared``.
    """

    jobs: Sequence[AnyJob]
    shared: Sequence[str] = ()

    def __post_init__(self) -> None:
        ids = [job.id for job in self.jobs]
        if len(set(ids)) != len(ids):
            raise InvalidJobError("two jobs of a plan share their id")
        if not self.jobs:
            raise InvalidJobError("nothing to measure")
        if unknown := set(self.shared) - set(ids):
            raise InvalidJobError(f"shared jobs that are not in the plan: {sorted(unknown)}")

    @property
    def digest(self) -> str:
        """8 hex digits that change with any job."""
        names = [[job.id, job.digest, job.weights_seed] for job in self.jobs]
        return hashlib.sha256(json.dumps(names).encode()).hexdigest()[:8]


def measure_request(
    job: AnyJob,
    file: PushedFile,
    conditions: Conditions,
    rule: Rule,
    options: Mapping[str, Any] | None = None,
    *,
    resources: bool = False,
) -> dict[str, Any]:
    """The agent's request for a job whose file is on the device.

    ``resources`` asks for the memory and the energy of what is measured as well.
    """
    given = {**request_options(conditions), **(options or {})}
    is_profile = job.kind == "layers"
    return {
        **({"options": given} if given else {}),
        **({"do": "profile", "passes": PROFILE_PASSES} if is_profile else {"do": "measure"}),
        **({"resources": True} if resources and not is_profile else {}),
        "runtime": conditions.runtime,
        "file": file.path,
        "sha256": file.sha256,
        "threads": conditions.threads,
        "seed": job.weights_seed,
        "rule": dict(rule._asdict()),
    }
