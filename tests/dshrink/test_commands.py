"""The frozen list of commands and options, and the commands that the documentation gives."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from command_list import LIST, command_lines, commands
from layer_tables import table_of
from synthetic_tables import synthetic_table
from typer import rich_utils
from typer.main import get_command
from typer.testing import CliRunner

from dshrink.cli import main as entry
from dshrink.search.importance import importance_keys
from dshrink.train.mask_search import HISTORY_COLUMNS
from dshrink.train.settings import Training
from dshrink.version import __version__
from latency_tables.csv_lines import write_csv
from latency_tables.io import load_table, save_table
from latency_tables.layers.io import save_layer_table
from latency_tables.predictor import predict
from latency_tables.table import LatencyTable

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), ROOT / "benchmarks/README.md"])


def test_commands_and_options_are_those_of_the_list() -> None:
    now, listed = command_lines(), LIST.read_text("utf-8").splitlines()
    assert now == listed, (
        "the command line has changed; if that is intended, write the list again by "
        "`python tests/support/command_list.py` and name the change in CHANGELOG.md"
    )


def test_every_command_is_in_a_group_of_the_help() -> None:
    registered = [*entry.app.registered_commands, *entry.app.registered_groups]
    assert {one.name for one in registered} == set(get_command(entry.app).commands)
    assert all(one.rich_help_panel in entry.PANELS for one in registered)


def test_help_at_80_columns_cuts_no_word_and_names_required_options_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rich_utils, "MAX_WIDTH", 80)
    for name, command in commands(get_command(entry.app), "dshrink"):
        page = CliRunner().invoke(entry.app, [*name.split()[1:], "--help"]).output
        assert "…" not in page, page
        assert max(map(len, page.splitlines())) <= 80
        options = [p for p in command.params if p.param_type_name == "option"]
        needed = [p.required for p in options]
        assert needed == sorted(needed, reverse=True), name


def test_a_command_that_prints_a_table_takes_wide() -> None:
    for name in (
        "bench",
        "chain",
        "config",
        "demo",
        "devices list",
        "run",
        "table compare",
        "table show",
    ):
        assert [
            " --wide" in one for one in command_lines() if one.startswith(f"dshrink {name} ")
        ] == [True]


CALLBACKS = {
    name: inspect.unwrap(command.callback)
    for name, command in commands(get_command(entry.app), "dshrink")
    if not hasattr(command, "commands")
}


def given_by_name(function: Callable[..., Any]) -> set[str]:
    """The parameters of what a command calls with options of equal names (``options.call``)."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    here = dict(vars(inspect.getmodule(function)))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            module = importlib.import_module(node.module)
            here |= {name.asname or name.name: getattr(module, name.name) for name in node.names}
    calls = [
        node.args[1]
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("options.call", "options.run")
    ]
    called = [here[call.id] for call in calls if isinstance(call, ast.Name)]
    assert len(called) == len(calls)
    if "train_options.given(" in inspect.getsource(function):
        called.append(Training)
    return {name for one in called for name in inspect.signature(one).parameters}


@pytest.mark.parametrize("name", CALLBACKS)
def test_every_option_of_a_command_goes_somewhere(name: str) -> None:
    """``options.call`` drops what a function has no parameter for: a renamed one would be lost."""
    function = CALLBACKS[name]
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    body = ast.Module(tree.body[0].body, [])  # type: ignore[attr-defined]
    used = {node.id for node in ast.walk(body) if isinstance(node, ast.Name)}
    given = set(inspect.signature(function).parameters)
    assert given - used - given_by_name(function) == set()


def test_the_version_is_that_of_the_package() -> None:
    words = [sys.executable, "-m", "dshrink", "--version"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == f"dshrink {__version__}\n"


def test_a_shell_completes_commands(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    for name, value in (
        ("_DSHRINK_COMPLETE", "complete_bash"),
        ("COMP_WORDS", "dshrink table c"),
        ("COMP_CWORD", "2"),
    ):
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit):
        entry.app(prog_name="dshrink")
    assert capsys.readouterr().out.split() == ["check", "compare"]


# the documentation


def code_lines(page: Path) -> Iterator[str]:
    """The lines of a page's code blocks, continued ones joined; "$ " is left out."""
    text = page.read_text("utf-8")
    fenced = re.findall(r"^```\w*\n(.*?)^```", text, flags=re.M | re.S)
    indented = re.findall(r"^    .+$", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S), re.M)
    for line in "\n".join([*fenced, *indented]).replace("\\\n", " ").splitlines():
        yield line.strip().removeprefix("$ ")


def given_commands() -> list[tuple[str, str]]:
    """Each command of the documentation with the page that gives it; a prompt's or a bare one."""
    names = "|".join(get_command(entry.app).commands)
    start = re.compile(rf"(?:accelerate launch .*-m )?dshrink ((?:{names})\b.*)")
    found = [
        (str(page.relative_to(ROOT)), match[1])
        for page in PAGES
        for line in code_lines(page)
        if (match := start.match(line)) and not match[1].endswith("...")
        if " MODEL " not in match[1]  # what the demo prints: a form to fill in
    ]
    return list(dict.fromkeys(found))


GIVEN = given_commands()


@pytest.mark.parametrize(("page", "text"), GIVEN, ids=[f"{p}: {t[:60]}" for p, t in GIVEN])
def test_a_command_of_the_documentation_parses(page: str, text: str) -> None:
    del page
    command, words = get_command(entry.app), shlex.split(text, comments=True)
    words = [word for word in words if word != entry.SHOW_CONFIG]
    while hasattr(command, "commands"):
        command, words = command.commands[words[0]], words[1:]
    command.make_context("dshrink", words)


def test_the_documentation_has_commands() -> None:
    assert sum(page == "README.md" for page, _ in GIVEN) > 20
    assert len({page for page, _ in GIVEN}) > 8


#: What of the README needs neither weights nor images nor a device, and runs in seconds.
QUICK = ("chain", "table", "devices list", "data", "search greedy", "search dp", "plot")
RUN = [text for page, text in GIVEN if page == "README.md" and text.startswith(QUICK)]


def as_right_as_wanted(table: LatencyTable) -> LatencyTable:
    """The table with networks to check that take what it predicts: fit for search."""
    networks = []
    for one in table.networks:
        if one.role == "check":
            ms = predict(table, one.keep_mask, one.padding).latency_ms
            one = replace(one, measured_ms=ms, low_ms=ms, high_ms=ms)
        networks.append(one)
    return replace(table, networks=tuple(networks))


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that the README's commands take from each other."""
    folder = tmp_path_factory.mktemp("readme")
    blocks = [
        (stage, block)
        for stage, count in enumerate((1, 2, 3, 4, 3, 3, 1))
        for block in range(count)
    ]
    table = synthetic_table([0.5] * 17, [0.3] * 17, fixed_ms=0.2)
    names = tuple(f"blocks.{stage}.{block}" for stage, block in blocks)
    for place in ("table", "last_week"):
        save_table(replace(table, model="mobilenetv2_100", block_names=names), folder / place)
    grid = "cin=16:128:16 cout=16:128:16 k=3 hw=28,14"
    save_layer_table(table_of(grid, lambda layer: 1e-6 * layer.spec.macs), folder / "layers")
    results = ROOT / "benchmarks" / "results"
    shutil.copy(results / "span_budgets_local_frontier.csv", folder / "frontier.csv")
    shutil.copy(results / "digits_study_local.csv", folder / "results.csv")
    spans = as_right_as_wanted(load_table(results / "span_budgets_local_table"))
    save_table(spans, folder / "spans")
    assert spans.chain is not None
    measured = [row.span for row in spans.rows if row.kind == "span" and row.is_measured]
    keys = importance_keys([span for span in measured if span], spans.chain.block_ends)
    values = [(*key, -0.01 * (key[1] - key[0])) for key in keys]
    write_csv(folder / "importance.csv", ("st", "end", "st_act", "end_act", "importance"), values)
    history = [(1, 9, at, name, 1.0, 0.5, 1, 0.1) for at, name in enumerate(names)]
    write_csv(folder / "plan.history.csv", HISTORY_COLUMNS, history)
    return folder


@pytest.mark.parametrize("text", RUN)
def test_a_command_of_the_readme_runs(
    text: str, workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(workplace)
    monkeypatch.setattr(sys, "argv", ["dshrink", *shlex.split(text)])
    with pytest.raises(SystemExit) as end:
        entry.main()
    said = capsys.readouterr()
    assert not end.value.code, said.err
    assert said.out


def test_the_readme_has_commands_that_run() -> None:
    assert len(RUN) > 6


# its links


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    kept = re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower())
    return kept.strip().replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_relative_links_lead_somewhere(page: Path) -> None:
    prose = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        name, _, anchor = target.partition("#")
        file = page if not name else page.parent / name
        assert file.exists(), f"{target}: no such file"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", file.read_text("utf-8"), flags=re.M)
            assert anchor in map(slug, headings), f"{target}: no such heading"
