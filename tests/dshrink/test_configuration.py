"""Options from dshrink.toml: what they set, what overrides them, and what is refused."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from command_list import commands
from typer.main import get_command

from dshrink.cli import main as entry
from dshrink.cli.configuration import (
    SHARED,
    ConfigurationError,
    commands_below,
    load_configuration,
    options_of,
)
from dshrink.train import digits

if TYPE_CHECKING:
    from ran_command import Ran

PROGRAM = get_command(entry.app)


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Writes dshrink.toml into the folder that the commands then run in."""
    monkeypatch.delenv("DSHRINK_CONFIG")
    monkeypatch.chdir(tmp_path)

    def write(text: str) -> None:
        Path("dshrink.toml").write_text(text, "utf-8")

    return write


def options(ran: Ran) -> dict[str, tuple[Any, str]]:
    return {one["option"]: (one["value"], one["source"]) for one in ran.data["options"]}


def test_the_command_line_overrides_a_section_and_a_section_the_file(
    write: Callable[[str], None], dshrink: Callable[..., Ran]
) -> None:
    write('device = "pi"\nthreads = 2\nbatch = 4\n[profile]\nthreads = 3\nbatch = 5\n')
    found = options(dshrink("config", "--json", "profile", "resnet18", "--batch", "6"))
    assert found["device"] == ("pi", "dshrink.toml")
    assert found["threads"] == (3, "dshrink.toml [profile]")
    assert found["batch"] == (6, "command line")
    assert found["launch"] == ("plain", "default")
    assert options(dshrink("config", "--json", "bench"))["threads"] == (2, "dshrink.toml")


def test_a_section_of_a_section_holds_wherever_it_stands(
    write: Callable[[str], None], dshrink: Callable[..., Ran]
) -> None:
    write('[search.dp]\npadding = "interior"\n[search]\npadding = "repad"\n')
    for command, expected in (("dp", "interior"), ("greedy", "repad")):
        found = options(dshrink("config", "--json", "search", command))
        assert found["padding"][0] == expected


def test_a_required_option_may_come_from_the_file_and_reaches_the_command(
    write: Callable[[str], None], dshrink: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path] = []

    def stop(folder: Path) -> None:
        asked.append(folder)
        raise ConfigurationError("asked")

    monkeypatch.setattr(digits, "write_digits", stop)
    write('[data.digits]\nout = "from_file"\n')
    dshrink("data", "digits")
    dshrink("data", "digits", "--out", "other")
    assert asked == [Path("from_file"), Path("other")]


def test_batch_and_precision_for_all_commands_are_those_of_measurements(
    write: Callable[[str], None],
) -> None:
    write('batch = 8\nprecision = "fp16"\n[finetune]\nprecision = "bf16"\n')
    found = load_configuration(PROGRAM)
    assert {" ".join(path) for path, taken in found.taken.items() if "precision" in taken} == {
        *("bench", "profile", "paper", "run", "finetune")
    }
    assert found.taken["finetune",]["precision"].given == "bf16"
    assert "batch" not in found.taken["finetune",]
    # Measured one batch after the other: the option has a syntax of its own.
    assert found.taken["bench",]["batches"].given == "8"
    assert found.taken["profile",]["batch"].given == 8


def test_what_others_measured_is_not_described_by_the_conditions_of_all_commands(
    write: Callable[[str], None],
) -> None:
    write('device = "pi"\ntable = "table"\n')
    taken = load_configuration(PROGRAM).taken
    assert ("table", "import") not in taken
    assert "table" not in taken["paper",]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('devise = "pi"', "there is no option 'devise'; did you mean device?"),
        ("hold_clocks = true", "there is no option 'hold_clocks'; did you mean hold-clocks?"),
        ("[profil]\nbatch = 1", "there is no command 'profil'; did you mean profile?"),
        ("[search.gredy]\nout = 'a'", "[search] has no command 'gredy'; did you mean greedy?"),
        ("[profile]\ntarget-eror = 1", "[profile] has no option 'target-eror'; did you mean"),
        ("[profile.deep]\nout = 'a'", "[profile] has no command 'deep'"),
        ("epochs = 3", "epochs stands outside of any section, but is not for all commands: put"),
        ('threads = "2"', 'threads = "2": `dshrink demo` takes a whole number; under [demo]'),
        ("threads = true", "threads = true: `dshrink demo` takes a whole number"),
        (
            "[profile]\nbatch = 1.5",
            "[profile]: batch = 1.5: `dshrink profile` takes a whole number",
        ),
        ("[profile]\ntime-limit = '1'", "takes a number"),
        ("[profile]\nbatch = 0", "batch = 0: `dshrink profile` refuses it:"),
        ("[profile]\nbatch = [1, 8]", "batch = [1, 8]: `dshrink profile` takes a whole number"),
        ("[profile]\ndense = 1", "dense = 1: `dshrink profile` takes true or false"),
        ("device = 2026-01-01", 'device = "2026-01-01"'),
        ("[merge]\nunreadable = 'ask'", "`dshrink merge` refuses it:"),
        ("resolution = 'big'", "resolution 'big': give HEIGHTxWIDTH"),
        ("[expand]\nlayer = [1]", "takes a text in quotes, or a list of such"),
        ("[bench]\njson = 'yes'", "takes true or false"),
        ("device = ", "dshrink.toml: not valid TOML:"),
    ],
)
def test_a_wrong_key_or_value_is_one_line(
    text: str, said: str, write: Callable[[str], None], dshrink: Callable[..., Ran]
) -> None:
    write(text)
    ran = dshrink("data", "digits", "--out", "never")
    assert ran.status == 2
    assert said in ran.err
    assert ran.err.startswith("dshrink: dshrink.toml") and ran.err.count("\n") == 1
    assert not Path("never").exists()


def test_values_are_as_the_command_line_gives_them(
    write: Callable[[str], None], dshrink: Callable[..., Ran]
) -> None:
    write(
        "resolution = 160\n[bench]\nbatch = [1, 8]\nplan = 'a.json'\nhold-clocks = true\n"
        "[finetune]\nfree-activation = false\nunreadable = 'stop'\nlr = 1\n"
        "[expand]\nlayer = ['a', 'b']\n"
    )
    bench = options(dshrink("config", "--json", "bench"))
    assert {name: bench[name][0] for name in ("batch", "plan", "hold-clocks", "resolution")} == {
        "batch": [1, 8],
        "plan": ["a.json"],
        "hold-clocks": True,
        "resolution": "160",
    }
    tuned = options(dshrink("config", "--json", "finetune"))
    assert [tuned[name][0] for name in ("free-activation", "unreadable", "lr")] == [
        *(False, "stop", 1.0)
    ]
    assert options(dshrink("config", "--json", "expand"))["layer"][0] == ["a", "b"]


def test_the_variable_names_another_file_or_none(
    write: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, dshrink: Callable[..., Ran]
) -> None:
    write('device = "here"\n')
    Path("other").mkdir()
    Path("other/file.toml").write_text('device = "there"\n[profile]\nout = "table"\n', "utf-8")
    monkeypatch.setenv("DSHRINK_CONFIG", "other/file.toml")
    ran = dshrink("config", "--json", "profile")
    assert ran.data["file"] == "other/file.toml"
    # As on the command line: relative to the current folder, not to the file's.
    assert options(ran)["out"] == ("table", "other/file.toml [profile]")
    monkeypatch.setenv("DSHRINK_CONFIG", "")
    assert dshrink("config", "--json").data == {
        "schema": "dshrink.output.config",
        "schema_version": 1,
        "file": None,
        "options": [],
    }
    monkeypatch.setenv("DSHRINK_CONFIG", "missing.toml")
    assert "DSHRINK_CONFIG=missing.toml: there is no such file" in dshrink("config").err


def test_config_names_keys_with_their_commands_and_takes_no_wrong_command(
    write: Callable[[str], None], dshrink: Callable[..., Ran]
) -> None:
    write("threads = 2\n[demo]\nthreads = 1\n")
    ran = dshrink("config")
    assert ran.out.splitlines()[0] == "options from dshrink.toml"
    lines = [line.split("  ") for line in ran.out.splitlines()[2:]]
    assert [[cell.strip() for cell in line if cell.strip()] for line in lines] == [
        ["threads", "2", "dshrink.toml", "run, profile, bench, paper"],
        ["threads", "1", "dshrink.toml [demo]", "demo"],
    ]
    assert "'search' is no command" in dshrink("config", "search").err
    assert "No such option: --foo" in dshrink("config", "chain", "--foo").err


def test_show_config_behind_a_command_runs_nothing(
    write: Callable[[str], None], dshrink: Callable[..., Ran]
) -> None:
    write("threads = 2\n")
    words = ("profile", "resnet18", "--batch", 4)
    ran = dshrink(*words, "--show-config")
    assert ran.status == 0
    assert ran.out == dshrink("config", *words).out
    cells = {line.split()[0]: line.split()[1:] for line in ran.out.splitlines()[1:]}
    assert cells["threads"] == ["2", "dshrink.toml"]
    assert cells["batch"] == ["4", "command", "line"]
    assert dshrink("--show-config").out == dshrink("config").out


def test_shared_keys_are_options_of_several_commands_and_of_one_kind() -> None:
    for key in SHARED:
        takers = [
            option
            for _, command in commands_below(PROGRAM)
            for name, option in options_of(command)
            if name == key
        ]
        assert len(takers) > 1, key
        assert len({option.is_flag for option in takers}) == 1, key


def test_init_writes_a_file_that_is_read_and_overwrites_none(
    write: Callable[[str], None], dshrink: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    del write
    from devices import preflight
    from dshrink.operations import settings_file

    facts = {
        "cpu_model": "A CPU",
        "cores": 4,
        "gpu": None,
        "runtimes": {"onnxruntime": None, "pytorch": "2.13.0"},
    }
    monkeypatch.setattr(
        settings_file,
        "probe",
        lambda device: preflight.Preflight(device=device, found={"environment": facts}),
    )
    data = dshrink("init", "--json").data
    assert (data["file"], data["runtime"], data["cores"]) == ("dshrink.toml", "pytorch", 4)
    text = Path("dshrink.toml").read_text("utf-8")
    assert tomllib.loads(text) == {
        "device": "local",
        "runtime": "pytorch",
        "precision": "fp32",
        "threads": 1,
    }
    ran = dshrink("init")
    assert ran.status == 2
    assert "dshrink.toml exists and is left as it is" in ran.err
    assert Path("dshrink.toml").read_text("utf-8") == text
    # What it gives as comments is right, too, once the comment signs go.
    lines = text.partition("# For all commands.")[2].splitlines()[1:]
    bare = [line.removeprefix("# ") for line in lines if " = " in line or line.startswith("# [")]
    Path("dshrink.toml").write_text("\n".join(bare), "utf-8")
    settings = [line for line in bare if not line.startswith("[")]
    assert len(load_configuration(PROGRAM).settings) == len(settings) > 10


def test_a_table_knows_better_than_the_file_what_a_study_is_measured_on(
    write: Callable[[str], None], dshrink: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    from dshrink.operations import study_plan

    asked: list[Any] = []

    def stop(table: Path | None, given: Any) -> None:
        asked.append((table, given))
        raise ConfigurationError("asked")

    monkeypatch.setattr(study_plan, "study_target", stop)
    write('device = "pi"\nthreads = 2\n')
    dshrink("run", "digits")
    dshrink("run", "digits", "--table", "table", "--threads", 4)
    assert asked == [
        (None, {"device": "pi", "threads": 2}),
        (Path("table"), {"threads": 4}),
    ]


def test_a_sweep_has_its_own_batches_and_those_of_the_command_line_are_refused(
    write: Callable[[str], None], dshrink: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    from dshrink.operations import bench

    asked: list[Any] = []

    def stop(*, batches: Any, sweep: bool, **others: Any) -> None:
        asked.append((batches, sweep))
        raise ConfigurationError("asked")

    monkeypatch.setattr(bench, "bench_networks", stop)
    write("batch = 8\n")
    dshrink("bench", "resnet18")
    dshrink("bench", "resnet18", "--sweep")
    dshrink("bench", "resnet18", "--sweep", "--batch", "4")
    assert asked == [((8,), False), (None, True), ((4,), True)]


def test_every_command_but_the_demo_takes_json() -> None:
    without = [
        name
        for name, command in commands(PROGRAM, "dshrink")
        if not hasattr(command, "commands") and "json" not in dict(options_of(command))
    ]
    assert set(without) <= {"dshrink demo"}
