"""The commands and options as a list, which a test compares with the stored one.

After an intended change write it again: python tests/support/command_list.py
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from typer.main import get_command

from dshrink.cli import main as entry

LIST = Path(__file__).parents[1] / "dshrink" / "commands.txt"


def commands(group: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Each command by the words that call it, subcommands after their group."""
    yield name, group
    for word, command in sorted(getattr(group, "commands", {}).items()):
        yield from commands(command, f"{name} {word}")


def command_lines() -> list[str]:
    """A line for each command: its arguments in order, then its options sorted."""
    lines = []
    for name, command in commands(get_command(entry.app), "dshrink"):
        arguments = [p.name.upper() for p in command.params if p.param_type_name == "argument"]
        options = [p for p in command.params if p.param_type_name == "option"]
        words = sorted(word for p in options for word in (*p.opts, *p.secondary_opts))
        lines.append(" ".join([name, *arguments, *words]))
    return lines


if __name__ == "__main__":
    LIST.write_text("\n".join(command_lines()) + "\n", "utf-8")
