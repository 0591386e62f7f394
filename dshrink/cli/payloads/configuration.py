"""What ``dshrink config`` and ``dshrink init`` print with ``--json``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class OptionData:
    """An option and its value; of a file's key with the commands that it holds for."""

    option: str
    value: Any
    source: str
    commands: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigData:
    """The keys of the file of options, or all options of a command and where each value is from."""

    file: str | None
    options: tuple[OptionData, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class InitData:
    """The file of options that was written, and what was found on the device."""

    file: str
    device: str
    processor: str
    cores: int | None
    gpu: str | None
    runtime: str
    runtimes: Mapping[str, str]
