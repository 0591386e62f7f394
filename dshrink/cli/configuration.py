"""Options from a file: ``dshrink.toml`` in the current folder, or what ``DSHRINK_CONFIG`` names.

A value of the file takes the place of an option's default, and means what it would mean on the
command line; so relative paths are those of the current folder, too. The whole file is checked
before any command runs, whichever it is: a misspelt key would otherwise be ignored for days.
Outside of sections stand only the keys that mean one thing wherever they occur: ``batch`` is then
that of a measurement, never that of a training.
"""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from enum import Enum
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import typer

from dshrink.errors import DshrinkError

NAME, VARIABLE = "dshrink.toml", "DSHRINK_CONFIG"
#: In a context's ``meta``: options are read there, and no command runs with them.
ONLY_READ = "dshrink.only_read"

#: What may stand outside of sections.
SHARED = (
    *("device", "runtime", "precision", "batch", "threads", "statistic", "launch", "cache"),
    *("scheduler", "hold-clocks", "resolution", "in-channels", "classes", "model-arg", "padding"),
    *("table", "data", "loaders", "unreadable", "log-with", "seed", "wide"),
)
#: What keys outside of sections are not for: options of `table import` say what others measured,
#: the table of `paper` is for one of its comparisons alone.
APART = ("table import", "paper --table")
#: The panel of options that say how to measure; of two meanings of a name it has the shared one.
_CONDITIONS = "Measurement conditions"

#: click's UsageError, of whichever click Typer uses.
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]

#: A command by the words that call it, such as ("search", "dp").
Words = tuple[str, ...]


class ConfigurationError(DshrinkError):
    """A file of options that cannot be read, or a key or value of it that no command takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A key of the file; ``section`` are the words of its section, none outside of any."""

    file: Path
    section: Words
    key: str
    value: Any

    @property
    def source(self) -> str:
        """Where it stands: "dshrink.toml", "dshrink.toml [search.dp]"."""
        return f"{self.file} [{'.'.join(self.section)}]" if self.section else str(self.file)


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """A setting that holds for a parameter, and its value as the command line would give it."""

    setting: Setting
    given: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """A file of options, None where there is none, and what it sets of each command.

    ``taken`` has what holds, by command and by parameter.
    """

    file: Path | None = None
    settings: tuple[Setting, ...] = ()
    taken: Mapping[Words, Mapping[str, Taken]] = field(default_factory=dict)

    @property
    def default_map(self) -> dict[str, Any]:
        """The same as click takes it: nested by the words of the commands."""
        found: dict[str, Any] = {}
        for words, by_parameter in self.taken.items():
            at = found
            for word in words:
                at = at.setdefault(word, {})
            at |= {name: one.given for name, one in by_parameter.items()}
        return found

    def commands_of(self, setting: Setting) -> tuple[str, ...]:
        """The commands for which a setting holds: no later section says otherwise."""
        return tuple(
            " ".join(words)
            for words, by_parameter in self.taken.items()
            if any(one.setting is setting for one in by_parameter.values())
        )


def configuration_file() -> Path | None:
    """The file that holds here, None for none. Raises ConfigurationError for a missing one."""
    named = os.environ.get(VARIABLE)
    if named is None:
        return Path(NAME) if Path(NAME).is_file() else None
    if named and not Path(named).is_file():
        raise ConfigurationError(
            f"{VARIABLE}={named}: there is no such file; name another one, or unset the variable"
        )
    return Path(named) if named else None


def load_configuration(program: Any) -> Configuration:
    """The file's options for the commands of ``program``, a click group.

    Raises ConfigurationError, one line with file, section, key and what to write instead.
    """
    from latency_tables.records import load_toml

    file = configuration_file()
    if file is None:
        return Configuration()
    values = load_toml(file, error=ConfigurationError)
    reading = _Reading(file=file)
    reading.section(program, (), values)
    return Configuration(file=file, settings=tuple(reading.settings), taken=reading.taken)


def options_of(command: Any) -> Iterator[tuple[str, Any]]:
    """The options of a command by the names that the file knows them by."""
    for option in command.params:
        if option.param_type_name == "option" and not option.is_eager:
            for word in option.opts:
                yield word.removeprefix("--"), option


def commands_below(command: Any, words: Words = ()) -> Iterator[tuple[Words, Any]]:
    """The commands of a group by their words; a command that is no group is its only one."""
    if not hasattr(command, "commands"):
        yield words, command
        return
    for word, one in command.commands.items():
        yield from commands_below(one, (*words, word))


@dataclass(kw_only=True)
class _Reading:
    file: Path
    settings: list[Setting] = field(default_factory=list)
    taken: dict[Words, dict[str, Taken]] = field(default_factory=dict)

    def section(self, command: Any, words: Words, values: Mapping[str, Any]) -> None:
        """Keys before sections: what a section of a section says comes last, and holds."""
        for key, value in values.items():
            if not isinstance(value, dict):
                self._key(command, words, key, value)
        for key, value in values.items():
            if isinstance(value, dict):
                known = getattr(command, "commands", {})
                if key not in known:
                    raise self._unknown(words, f"no command {key!r}", key, known)
                self.section(known[key], (*words, key), value)

    def _key(self, command: Any, words: Words, key: str, value: Any) -> None:
        known = dict(commands_below(command, words))
        if not words:
            self._require_shared(key, known)
        takers = [
            (path, one, option)
            for path, one in known.items()
            for name, option in options_of(one)
            if name == key and (words or not _is_apart(" ".join(path), key))
        ]
        if not takers:
            names = {name for one in known.values() for name, _ in options_of(one)}
            raise self._unknown(words, f"no option {key!r}", key, names)
        conditions = [taker for taker in takers if taker[2].rich_help_panel == _CONDITIONS]
        setting = Setting(file=self.file, section=words, key=key, value=value)
        self.settings.append(setting)
        for path, one, option in conditions if conditions and not words else takers:
            try:
                given = _given(one, option, value)
            except ValueError as error:
                alone = (
                    "" if words else f"; under [{'.'.join(path)}] a key is for that command alone"
                )
                raise ConfigurationError(
                    f"{setting.source}: {key} = {_in_toml(value)}: `dshrink {' '.join(path)}` "
                    f"{error}{alone}"
                ) from None
            self.taken.setdefault(path, {})[option.name] = Taken(setting=setting, given=given)

    def _require_shared(self, key: str, known: Mapping[Words, Any]) -> None:
        """Raise for a key outside of sections that is not for all commands."""
        if key in SHARED:
            return
        takers = [path for path, one in known.items() if key in dict(options_of(one))]
        if takers:
            raise ConfigurationError(
                f"{self.file}: {key} stands outside of any section, but is not for all commands: "
                f"put it under its command, such as [{'.'.join(takers[0])}]"
            )
        raise self._unknown((), f"no option {key!r}", key, SHARED)

    def _unknown(self, words: Words, what: str, key: str, known: Any) -> ConfigurationError:
        place = f"[{'.'.join(words)}] has" if words else "there is"
        near = get_close_matches(key.replace("_", "-"), list(known), 1)
        advice = f"did you mean {near[0]}?" if near else f"known are {', '.join(sorted(known))}"
        return ConfigurationError(f"{self.file}: {place} {what}; {advice}")


def _is_apart(name: str, key: str) -> bool:
    return name in APART or f"{name} --{key}" in APART


def _given(command: Any, option: Any, value: Any) -> Any:
    """The value as the option takes it. Raises ValueError with why not: "takes a whole number".

    Texts are not converted: "8" is no number.
    """
    kind, many = _kind(command, option)
    what, fits = _KINDS.get(kind, _OTHER)
    values = value if many and isinstance(value, list) else [value]
    if not all(map(fits, values)):
        raise ValueError(f"takes {what}{', or a list of such' if many else ''}")
    if kind not in _KINDS:  # its own parser reads it as a text
        values = [",".join(map(str, value)) if isinstance(value, list) else str(value)]
    given = values if many else values[0]
    context = typer.Context(command)
    context.meta[ONLY_READ] = True
    try:
        option.process_value(context, given)
    except _UsageError as error:
        said = str(getattr(error, "message", error)).rstrip(".")
        raise ValueError(f"refuses it: {said}") from None
    return given


def _kind(command: Any, option: Any) -> tuple[Any, bool]:
    """The type of a value, as the command's function declares it, and whether there may be many."""
    hint = get_type_hints(inspect.unwrap(command.callback), include_extras=True)[option.name]
    while get_origin(hint) in (Annotated, Union, UnionType):
        hint = get_args(hint)[0]
    many = get_origin(hint) is list
    kind = get_args(hint)[0] if many else hint
    return (Enum if issubclass(kind, Enum) else kind), many


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, float) or _is_whole(value)


_KINDS: Mapping[Any, tuple[str, Callable[[Any], bool]]] = {
    bool: ("true or false", lambda value: isinstance(value, bool)),
    int: ("a whole number", _is_whole),
    float: ("a number", _is_number),
    str: ("a text in quotes", _is_text),
    Path: ("a path in quotes", _is_text),
    Enum: ("a text in quotes", _is_text),
}
#: Of options with a syntax of their own, such as 224x160.
_OTHER: tuple[str, Callable[[Any], bool]] = (
    "a number or a text in quotes",
    lambda value: all(
        _is_whole(one) or _is_text(one) for one in (value if isinstance(value, list) else [value])
    ),
)


def _in_toml(value: Any) -> str:
    return json.dumps(value, default=str, ensure_ascii=False)
