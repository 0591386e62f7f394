"""What a device said about itself: one fingerprint, kept with every table.

Facts that stay (CPU, system, versions, governor) decide whether a table still fits a device;
facts of the moment (frequency, load) are kept beside them and never compared.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Self

from devices.errors import AgentLostError
from devices.records import RecordError, checked_fields
from devices.reports import Gpu


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """The facts of ``hello``; None where the device does not offer one."""

    MOMENTARY: ClassVar[frozenset[str]] = frozenset({"frequency_mhz", "load_average"})
    #: For messages alone: no facts of a device, and in no fingerprint.
    NOT_KEPT: ClassVar[frozenset[str]] = frozenset({"gpu_problem", "runtime_problems"})

    python: str
    os: str
    kernel: str
    machine: str
    cpu_model: str
    cores: int | None
    cpu_affinity: tuple[int, ...] | None
    governor: str | None
    frequency_mhz: float | None
    load_average: float | None
    memory_gib: float | None
    runtimes: Mapping[str, str]
    agent_digest: str
    protocol: int
    #: The cores' worth of time that the job's cgroup leaves it; None without a limit.
    cpu_quota: float | None = None
    #: Tells a board from others of its kind; no serial number can be read from it.
    board: str | None = None
    #: The name of a Jetson's power mode.
    power_mode: str | None = None
    gpu: Gpu | None = None
    #: Why there is no GPU, and where to look.
    gpu_problem: str | None = None
    #: Why runtimes that are installed do not start.
    runtime_problems: Mapping[str, str] | None = None

    @classmethod
    def from_hello(cls, result: Mapping[str, Any]) -> Self:
        """Read the result of ``hello``; facts that this version does not know are left out."""
        said = result.get("environment")
        said = said if isinstance(said, dict) else {}
        names = [one.name for one in fields(cls)]
        try:
            if missing := [name for name in names if name not in {*said, *cls.NOT_KEPT}]:
                raise RecordError(f"lacks the fields {', '.join(missing)}")
            known = {name: said[name] for name in names if name in said}
            return cls(**checked_fields(cls, known))
        except RecordError as error:
            raise AgentLostError(
                "start_failed",
                f"the agent's hello is not valid: {error}",
                "bring host and agent to the same version of dshrink",
            ) from error

    @property
    def clock_mode(self) -> str:
        """What decides the clocks: the board's power mode, else the governor, else "default"."""
        return self.power_mode or self.governor or "default"

    @property
    def gpu_clock_mode(self) -> str:
        """What decides the GPU's clock: the board's power mode, else the clock it is locked to."""
        held_mhz = self.gpu["held_mhz"] if self.gpu else None
        return self.power_mode or (f"gpu {held_mhz} MHz" if held_mhz else "gpu default")

    def fingerprint(self) -> dict[str, Any]:
        """All facts as plain JSON, for the sidecar of a table."""
        facts = {name: fact for name, fact in asdict(self).items() if name not in self.NOT_KEPT}
        return json.loads(json.dumps({**facts, "runtimes": dict(self.runtimes)}))  # type: ignore[no-any-return]

    @property
    def digest(self) -> str:
        """8 hexadecimal digits of the facts that stay."""
        lasting = {name: fact for name, fact in self.fingerprint().items() if self._lasts(name)}
        return hashlib.sha256(json.dumps(lasting, sort_keys=True).encode()).hexdigest()[:8]

    def differences(self, other: Environment) -> tuple[str, ...]:
        """What stays and yet differs, a line each: "governor: powersave, was performance"."""
        here, there = self.fingerprint(), other.fingerprint()
        return tuple(
            f"{name}: {here[name]}, was {there[name]}"
            for name in here
            if self._lasts(name) and here[name] != there[name]
        )

    @classmethod
    def _lasts(cls, name: str) -> bool:
        return name not in cls.MOMENTARY
