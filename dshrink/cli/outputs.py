"""Options that name what a command writes: checked when they are read, so before hours of work.

Not where options are only read, for `dshrink config` or in a file that is for other commands, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import typer

from dshrink.cli.configuration import ONLY_READ
from latency_tables.files import require_writable, require_writable_folder

#: The callback of an option.
Check = Callable[[typer.Context, Any], Any]


def checked_by(require: Callable[[Path], object]) -> Check:
    """Has each path of an option checked; the file system is asked, so what it says is an error."""

    def check(context: typer.Context, value: Any) -> Any:
        if not context.meta.get(ONLY_READ):
            for path in value if isinstance(value, list | tuple) else [value]:
                if path is not None:
                    require(path)
        return value

    return check


def checked_with(beside: Callable[[Path], Iterable[Path]]) -> Check:
    """Has the file checked, and what is written ``beside`` it."""

    def require(file: Path) -> None:
        require_writable(file)
        for one in beside(file):
            require_writable(one)

    return checked_by(require)


file_option = partial(typer.Option, callback=checked_by(require_writable))
folder_option = partial(typer.Option, callback=checked_by(require_writable_folder))
