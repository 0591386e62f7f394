"""What a device said about itself: one fingerprint, kept with every table.

Facts that stay (CPU, system, versions, governor) tell whether a table still fits a device; facts of
the moment (frequency, load) are kept beside them and never compared.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from types import NoneType
from typing import Any, ClassVar, Self

from devices.errors import AgentLostError

_SAME_VERSION = "bring host and agent to the same version of dshrink"
_NUMBER = (int, float)
#: The types of each fact as JSON has it; None among them where a device may not offer it.
_FACTS: Mapping[str, tuple[type, ...]] = {
    "python": (str,),
    "os": (str,),
    "kernel": (str,),
    "machine": (str,),
    "cpu_model": (str,),
    "cores": (int, NoneType),
    "cpu_affinity": (list, NoneType),
    "governor": (str, NoneType),
    "frequency_mhz": (*_NUMBER, NoneType),
    "load_average": (*_NUMBER, NoneType),
    "memory_gib": (*_NUMBER, NoneType),
    "runtimes": (dict,),
    "agent_digest": (str,),
    "protocol": (int,),
    "board": (str, NoneType),
    "power_mode": (str, NoneType),
    "gpu": (dict, NoneType),
}
_GPU_FACTS: Mapping[str, tuple[type, ...]] = {
    "name": (str,),
    "compute_capability": (str,),
    "driver": (str, NoneType),
    "cuda": (str,),
    "memory_mib": (int,),
    "held_mhz": (int, NoneType),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """The facts of ``hello``; None where the device does not offer one."""

    MOMENTARY: ClassVar[frozenset[str]] = frozenset({"frequency_mhz", "load_average"})

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
    #: Tells a board from others of its kind; no serial number can be read from it.
    board: str | None = None
    #: The name of a Jetson's power mode.
    power_mode: str | None = None
    #: Its name, compute_capability ("9.0"), driver, cuda, memory_mib, and the clock (held_mhz) that
    #: the agent locked it to.
    gpu: Mapping[str, Any] | None = None

    @classmethod
    def from_hello(cls, result: Mapping[str, Any]) -> Self:
        """Read the result of ``hello``; facts that this version does not know are left out."""
        said = result.get("environment")
        wanted = [field.name for field in fields(cls)]
        missing = [name for name in wanted if not isinstance(said, dict) or name not in said]
        if not isinstance(said, dict) or missing:
            raise AgentLostError(
                "start_failed",
                f"the agent's hello lacks {', '.join(missing)}",
                _SAME_VERSION,
            )
        wrong = [name for name in wanted if not _fits(name, said[name])]
        if wrong:
            raise AgentLostError(
                "start_failed",
                f"the agent's hello has facts of another kind: "
                f"{', '.join(f'{name} {said[name]!r}'[:200] for name in wrong)}",
                _SAME_VERSION,
            )
        facts = {name: said[name] for name in wanted}
        if facts["cpu_affinity"] is not None:
            facts["cpu_affinity"] = tuple(facts["cpu_affinity"])
        return cls(**facts)

    @property
    def clock_mode(self) -> str:
        """What decides the clocks: the board's power mode, else the governor, else "default"."""
        return self.power_mode or self.governor or "default"

    @property
    def gpu_clock_mode(self) -> str:
        """What decides the GPU's clock: the board's power mode, else the clock it is locked to."""
        held_mhz = (self.gpu or {}).get("held_mhz")
        return self.power_mode or (f"gpu {held_mhz} MHz" if held_mhz else "gpu default")

    def fingerprint(self) -> dict[str, Any]:
        """All facts as plain JSON, for the sidecar of a table."""
        return json.loads(json.dumps({**asdict(self), "runtimes": dict(self.runtimes)}))  # type: ignore[no-any-return]

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


def _fits(name: str, fact: Any) -> bool:
    """Whether a fact is of one of its types, and what it holds of the only one that makes sense."""
    types = _FACTS[name]
    if isinstance(fact, list):
        return list in types and all(type(core) is int for core in fact)
    if isinstance(fact, dict) and name == "gpu":
        return set(fact) == set(_GPU_FACTS) and all(
            type(fact[part]) in kinds for part, kinds in _GPU_FACTS.items()
        )
    if isinstance(fact, dict):
        return dict in types and all(isinstance(version, str) for version in fact.values())
    return type(fact) in types  # true is no number
