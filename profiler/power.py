"""What a table calls the power mode of a device."""

from __future__ import annotations

from devices.environment import Environment


def power_mode(environment: Environment) -> str:
    """The mode that the board has a name for, else the CPU's governor, else "default"."""
    return environment.power_mode or environment.governor or "default"
