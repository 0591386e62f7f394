"""What a command would write is looked at before its work begins, whichever command it is."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from ran_command import Ran
from typer.main import get_command

from dshrink.cli import main as entry
from dshrink.cli.configuration import _kind, commands_below
from dshrink.errors import PlotError
from latency_tables.files import WriteError

#: Options with a path that is read; all others are written to.
READ = {"--table", "--importance", "--layers", "--time-table"}
FOLDERS = {
    *(
        "data digits",
        "demo",
        "devices selftest",
        "expand",
        "finetune",
        "paper",
        "profile",
        "refit",
        "run",
    ),
    "table import",
}
Case = tuple[tuple[str, ...], str, Any]


class BegunError(Exception):
    """A command began its work."""


@cache
def program() -> Any:
    """The command line, of which no command does anything."""

    def begin(**options: Any) -> None:
        raise BegunError(options)

    group = get_command(entry.app)
    for _, command in commands_below(group):
        command.callback = begin
    return group


def written() -> Iterator[Case]:
    """Each option that names what a command writes: the command's words, the option's, itself."""
    for words, command in commands_below(get_command(entry.app)):
        for option in command.params:
            if option.param_type_name == "option" and _kind(command, option)[0] is Path:
                name = max(option.opts, key=len)
                if name not in READ:
                    yield words, name, command


def needed(command: Any, but: str) -> list[str]:
    """Any value for all that a command asks for."""
    words = []
    for one in command.params:
        if one.required and but not in one.opts:
            words += ["x"] if one.param_type_name == "argument" else [one.opts[0], "1"]
    return words


CASES = [pytest.param(*case, id=" ".join([*case[0], case[1]])) for case in written()]


def test_the_options_that_name_files_are_those_of_the_commands_that_write() -> None:
    found = {" ".join((*words, name)) for words, name, _ in written()}
    assert {name.removesuffix(" --out") for name in found if name.endswith(" --out")} == {
        *FOLDERS,
        *("bench", "importance", "init", "merge", "report", "table export"),
        *(f"plot {one}" for one in ("batches", "blocks", "front", "frontier", "kept", "mask")),
        *(f"plot {one}" for one in ("memory", "predicted", "throughput")),
        *(f"search {one}" for one in ("dp", "greedy", "mask", "random")),
    }
    assert {name for name in found if not name.endswith(" --out")} == {
        *(f"{one} --report" for one in ("bench", "paper", "profile", "run")),
        *("search csv --frontier", "search dp --frontier", "plot front --csv"),
    }


@pytest.mark.parametrize(("words", "name", "command"), CASES)
def test_what_cannot_be_written_is_refused_before_the_work_begins(
    words: tuple[str, ...],
    name: str,
    command: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    is_folder = name == "--out" and " ".join(words) in FOLDERS
    (tmp_path / "a file").write_text("kept")
    (tmp_path / "a folder").mkdir()
    for null in ("null", "null.png"):
        (tmp_path / null).symlink_to(os.devnull)
    wrong = ["null", "null/new", "a file/new", "a file" if is_folder else "a folder", "n" * 300]
    before = sorted(tmp_path.rglob("*"))
    run = program()
    for path in wrong:
        said = rf"{path}((\.png)? cannot be written: |: not the name of a file)|name too long"
        with pytest.raises((OSError, PlotError), match=said):
            run.main([*words, *needed(command, name), name, path], standalone_mode=False)
        assert sorted(tmp_path.rglob("*")) == before
    for path in ("new", "new folder/new", "a folder" if is_folder else "a file"):
        with pytest.raises(BegunError):
            run.main([*words, *needed(command, name), name, path], standalone_mode=False)
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "a file").read_text() == "kept"
    assert Path(os.devnull).is_char_device()


@pytest.mark.parametrize(
    ("words", "wrong"),
    [
        (["demo"], "demo"),
        (["paper", "fig4"], "paper"),
        (["bench", "x"], "results.csv"),
        (["bench", "x"], "results.md"),
        (["bench", "x"], "results.jsonl"),
        (["plot", "blocks", "x"], "blocks.png"),
        (["plot", "blocks", "x"], "blocks.svg"),
        (["report", "x"], "report.html"),
        (["importance", "x", "--data", "x", "--level", "x", "--out", "a.csv"], "a.json"),
    ],
)
def test_a_default_and_what_lies_beside_it_are_looked_at_as_well(
    words: list[str], wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BegunError):
        program().main(words, standalone_mode=False)
    Path(wrong).symlink_to(os.devnull)
    with pytest.raises(WriteError, match=rf"{wrong} cannot be written: it is a device"):
        program().main(words, standalone_mode=False)


@pytest.mark.parametrize(
    ("words", "folder"),
    [(("run", "digits"), "digits"), (("devices", "selftest", "local"), "selftest_local")],
)
def test_a_folder_that_is_named_after_something_is_looked_at_as_well(
    words: tuple[str, ...],
    folder: str,
    dshrink: Callable[..., Ran],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(folder).touch()
    ran = dshrink(*words)
    assert (ran.status, ran.err) == (
        2,
        f"dshrink: {folder} cannot be written: it is a file, no folder; give another path\n",
    )


def test_where_options_are_only_read_nothing_is_refused(
    dshrink: Callable[..., Ran], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("results.csv").mkdir()
    Path("paper").touch()
    assert dshrink("config", "bench", "--report", os.devnull).status == 0
    assert dshrink("paper", "list").status == 0
    Path("dshrink.toml").write_text('[bench]\nreport = "/dev/null"\n')
    monkeypatch.delenv("DSHRINK_CONFIG")
    listed = json.loads(dshrink("config", "--json").out)["options"]
    assert [one["value"] for one in listed] == ["/dev/null"]
    assert "/dev/null cannot be written" in dshrink("bench", "x", "--out", "a.csv").err
