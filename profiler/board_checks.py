"""Whether a board is the one that a journal was begun on, and in the state that was asked for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from devices.environment import Environment
from latency_tables.schema import Conditions
from profiler.errors import JournalError, MeasurementError, SessionError
from profiler.journal import Journal
from profiler.replies import Reply
from profiler.runtimes import processor_of

#: Facts about a machine that no journal may mix.
IDENTITY = ("machine", "cpu_model", "cores", "agent_digest")
#: The same about a GPU, where one does the work.
GPU_IDENTITY = ("name", "compute_capability", "memory_mib", "driver")

_Facts = Mapping[str, Any]


def check_conditions(board: str, environment: Environment, conditions: Conditions) -> None:
    """Raise SessionError where runtime or power mode are not those of the conditions."""
    wanted, version = conditions.runtime, conditions.runtime_version
    found = environment.runtimes.get(wanted)
    on_gpu = processor_of(conditions) == "gpu"
    mode = environment.gpu_clock_mode if on_gpu else environment.clock_mode
    if found != version:
        raise SessionError(
            f"{board} has {wanted} {found or '(not installed)'}, the "
            f"conditions require {version}: install it there, or profile the installed one"
        )
    if mode != conditions.power_mode:
        raise SessionError(
            f"{board} is in power mode {mode}, the conditions require "
            f"{conditions.power_mode}: set that mode there, or begin in another folder (--out)"
        )


def check_identity(board: str, now: _Facts, journal: Journal, conditions: Conditions) -> None:
    """Raise JournalError where the kind of machine, or the board, has changed.

    ``now`` is the fingerprint of the board's environment.
    """
    pairs: list[tuple[str, str, _Facts, _Facts]] = []
    for earlier in journal.state.environments[:1]:
        pairs += [("", name, earlier, now) for name in IDENTITY]
        if processor_of(conditions) == "gpu":
            gpus = (earlier.get("gpu") or {}, now.get("gpu") or {})
            pairs += [("the GPU's ", name, *gpus) for name in GPU_IDENTITY]
    pairs.append(("", "board", journal.state.first_of_board.get(board, now), now))
    for of, name, before, after in pairs:
        if before.get(name) != after.get(name):
            raise JournalError(
                f"{journal.path} was begun where {of}{name} is {before.get(name)}, on "
                f"{board} it is {after.get(name)}: resume there, choose another "
                "folder (--out), or delete the file"
            )


def check_clock(replies: Iterable[Reply], conditions: Conditions) -> None:
    """Raise SessionError where samples lack the times of the clock of the conditions."""
    for reply in replies:
        try:
            if reply.samples:
                reply.samples.times_ns(conditions.clock)
        except MeasurementError as error:
            raise SessionError(f"{reply.board}: {error}") from None
