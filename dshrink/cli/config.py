"""``dshrink config``: which options hold, and where each value comes from."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dshrink.cli import options
from dshrink.cli.configuration import NAME, ONLY_READ, Configuration, commands_below
from dshrink.cli.console import out, print_json
from dshrink.cli.grids import Column, print_grid
from dshrink.errors import DshrinkError

if TYPE_CHECKING:
    from dshrink.cli.payloads.configuration import OptionData

#: What stands behind the first word is another command's.
PARSING = {"allow_interspersed_args": False}


def command(
    context: typer.Context,
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[COMMAND ...]", help="a command, with options if you like: nothing is run"
        ),
    ] = None,
    wide: options.Wide = False,
    json: options.Json = False,
) -> None:
    """Show which options COMMAND would have and where they come from; else the file's keys.

    Options come from the command line, dshrink.toml in the current folder (or the file that
    DSHRINK_CONFIG names, none where it is empty), or are the command's defaults.
    """
    from dshrink.cli.payloads.configuration import ConfigData

    context.meta[ONLY_READ] = True
    found: Configuration = context.find_root().obj
    listed = tuple(_options_of(context, found, words) if words else _keys(found))
    file = str(found.file) if found.file else None
    # Behind COMMAND they are read as its own, and mean this output all the same.
    json, wide = json or "--json" in (words or ()), wide or "--wide" in (words or ())
    if json:
        print_json(ConfigData(file=file, options=listed))
        return
    out.print(f"options from {file}" if file else f"no {NAME} here (`dshrink init` writes one)")
    if not listed:
        return
    columns: list[Column[OptionData]] = [
        Column("option", lambda one: one.option),
        Column("value", lambda one: _shown(one.value)),
        Column("from", lambda one: one.source),
    ]
    if not words:
        columns.append(Column("for", lambda one: ", ".join(one.commands), least=20, is_prose=True))
    print_grid(columns, listed, wide=wide)


def _keys(found: Configuration) -> Iterator[OptionData]:
    from dshrink.cli.payloads.configuration import OptionData

    for one in found.settings:
        yield OptionData(
            option=one.key,
            value=one.value,
            source=one.source,
            commands=found.commands_of(one),
        )


def _options_of(
    context: typer.Context, found: Configuration, words: Sequence[str]
) -> Iterator[OptionData]:
    """Raises what the command raises for a wrong option, but not where some are missing."""
    from dshrink.cli.payloads.configuration import OptionData

    called, parsed = _parsed(context, list(words))
    taken = found.taken.get(called, {})
    for one in parsed.command.params:
        if one.param_type_name != "option" or one.name not in parsed.params:
            continue
        source = parsed.get_parameter_source(one.name)
        given = source.name if source else ""
        place = {"COMMANDLINE": "command line", "DEFAULT": "default"}.get(given, given.lower())
        yield OptionData(
            option=one.opts[0].removeprefix("--"),
            value=_plain(parsed.params[one.name]),
            source=taken[one.name].setting.source if given == "DEFAULT_MAP" else place,
            commands=(" ".join(called),),
        )


def _parsed(context: typer.Context, words: list[str]) -> tuple[tuple[str, ...], Any]:
    """The command that the words call, and its context, in which nothing is required."""
    parent: Any = context.find_root()
    at, called = parent.command, 0
    while hasattr(at, "commands"):
        word = words[called] if called < len(words) else ""
        if word not in at.commands:
            known = ", ".join(
                " ".join(path) for path, _ in commands_below(at, tuple(words[:called]))
            )
            raise DshrinkError(f"{' '.join(words)!r} is no command; known are {known}")
        at, called = at.commands[word], called + 1
        if hasattr(at, "commands"):
            parent = type(parent)(at, parent=parent, info_name=word)
    at = copy.copy(at)
    at.params = [copy.copy(one) for one in at.params]
    for one in at.params:
        one.required = False
    return tuple(words[:called]), at.make_context(words[called - 1], words[called:], parent=parent)


def _plain(value: Any) -> Any:
    """As JSON has it, and the file takes it."""
    if isinstance(value, Enum):
        return value.value
    if type(value) in (list, tuple):
        return [_plain(one) for one in value]
    if isinstance(value, options.BatchSizes):
        return list(value)
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_shown, value))
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)
