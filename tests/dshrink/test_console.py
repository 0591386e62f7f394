"""What reaches a terminal, a pipe and a log: texts, progress, and no control characters."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.table import Table

from dshrink.cli import console, main, progress_lines
from dshrink.cli.progress_lines import ProgressLines, repeated

#: Sets the window's title, hides what was said before, and rings, in 7 and in 8 bits.
HOSTILE = "a\x1b]0;owned\x07b\x1b[2Jc\x9b31md\re\x00f\x7fg"


@pytest.mark.parametrize("is_terminal", [True, False])
def test_control_characters_of_a_text_do_not_reach_the_terminal(is_terminal: bool) -> None:
    screen = io.StringIO()
    printer = console._TextOnly(file=screen, force_terminal=is_terminal, highlight=False, width=200)
    table = Table.grid()
    table.add_row(HOSTILE)
    for shown in (HOSTILE, table):
        printer.print(shown)
    assert screen.getvalue().count("a]0;ownedb[2Jc31mdefg") == 2
    assert not {"\x1b", "\x9b", "\x07", "\x00", "\x7f", "\r"} & set(screen.getvalue())


def test_the_colours_are_still_there() -> None:
    screen = io.StringIO()
    printer = console._TextOnly(file=screen, force_terminal=True, color_system="standard")
    printer.print("one\ttwo\nthree", style="red")
    assert screen.getvalue().startswith("\x1b[31m") and screen.getvalue().count("\n") == 2


def test_a_text_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    console.out.print("[bold]/tmp/:100:/[0]")
    assert capsys.readouterr().out == "[bold]/tmp/:100:/[0]\n"


def test_an_error_with_control_characters_is_one_readable_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        console.fail(f"the device says {HOSTILE}\nand more")
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "\x1b" not in said and "and more" in said


class Clock:
    """Seconds that a test moves."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def logged(clock: Clock) -> tuple[ProgressLines, list[str]]:
    said: list[str] = []
    return ProgressLines("profile resnet18", said.append, clock), said


def test_a_log_gets_a_line_a_minute_with_an_estimate_and_one_at_the_end() -> None:
    clock = Clock()
    lines, said = logged(clock)
    clock.now_s = 10
    lines.update(40, 400, "round 0")  # 40 were in the journal
    clock.now_s = 60
    lines.tick()
    lines.update(100, 400, "round 1")
    clock.now_s = 130
    lines.tick()
    lines.update(400, 400, "done")
    clock.now_s = 400
    lines.end()
    assert said == [
        "profile resnet18: 40 of 400 in 1.0 min (round 0)",
        # 60 in 120 s, 300 are left.
        "profile resnet18: 100 of 400 in 2.2 min, about 10.0 min left (round 1)",
        "profile resnet18: 400 of 400 in 6.7 min, ended",
    ]


def test_short_work_leaves_no_line_in_a_log_and_a_long_start_is_no_silence() -> None:
    clock = Clock()
    lines, said = logged(clock)
    lines.update(400, 400, "done")
    lines.end()
    assert said == []
    lines, said = logged(clock)
    clock.now_s += 60
    lines.tick()
    assert said == ["profile resnet18: preparing for 1.0 min"]


def test_the_first_line_comes_after_half_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    waited_s: list[float] = []

    class Ended:
        def wait(self, seconds: float) -> bool:
            waited_s.append(seconds)
            return len(waited_s) > 2

        def set(self) -> None:
            pass

    threads = SimpleNamespace(Event=Ended, Thread=threading.Thread)
    monkeypatch.setattr(progress_lines, "threading", threads)
    with repeated(lambda: None, every_s=60.0):
        pass
    assert waited_s == [30.0, 60.0, 60.0]


def test_lines_come_while_the_work_says_nothing() -> None:
    came = threading.Event()
    with repeated(came.set, every_s=0.001):
        assert came.wait(10)


@pytest.mark.parametrize("term", ["dumb", "unknown"])
def test_a_dumb_terminal_gets_lines_and_no_control_characters(
    monkeypatch: pytest.MonkeyPatch, term: str
) -> None:
    monkeypatch.setenv("TERM", term)
    screen = io.StringIO()
    printer = console._TextOnly(file=screen, force_terminal=True, highlight=False, width=200)
    monkeypatch.setattr(console, "err", printer)
    monkeypatch.setattr(console, "LINE_EVERY_S", 0.001)
    came = threading.Event()
    monkeypatch.setattr(ProgressLines, "tick", lambda lines: came.set())
    with console.progress("epochs") as update:
        update(1, 3, "search")
        assert came.wait(10)
    printer.print("red", style="red")
    assert "\x1b" not in screen.getvalue()


def test_no_color_is_obeyed_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    for value, coloured in (("1", False), ("", True)):
        monkeypatch.setenv("NO_COLOR", value)
        screen = io.StringIO()
        printer = console._TextOnly(file=screen, force_terminal=True, highlight=False)
        printer.print("text", style="red")
        assert ("\x1b[31m" in screen.getvalue()) == coloured


def test_a_bar_shows_that_work_is_being_prepared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    screen = io.StringIO()
    printer = console._TextOnly(file=screen, force_terminal=True, highlight=False, width=200)
    monkeypatch.setattr(console, "err", printer)
    monkeypatch.setattr(console, "BAR_AFTER_S", 0.0)
    shown = threading.Event()
    start = console.Progress.start
    monkeypatch.setattr(console.Progress, "start", lambda bar: (start(bar), shown.set()))
    with console.progress("merge"):
        assert shown.wait(10)
    assert "preparing" in screen.getvalue()


def test_at_80_columns_a_long_label_is_cut_and_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    screen = io.StringIO()
    printer = console._TextOnly(file=screen, force_terminal=True, width=80, color_system=None)
    monkeypatch.setattr(console, "err", printer)
    with console.progress("profile mobilenetv2_140") as update:
        update(103, 372, "error 0.62 %, layers of network 10011000001100010 bias_map")
    shown = screen.getvalue()
    assert "103/372 0:00:00 left -:--:-- error 0.62" in shown
    assert "profile mobilenetv2_140" in shown


def test_what_is_refused_at_once_shows_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    printer = console._TextOnly(file=screen, force_terminal=True, highlight=False, width=200)
    monkeypatch.setattr(console, "err", printer)
    monkeypatch.setenv("TERM", "xterm")
    with pytest.raises(OSError), console.progress("merge"):
        raise OSError
    assert "merge" not in screen.getvalue()


def test_verbose_behind_the_command_says_where_it_goes(dshrink) -> None:
    ran = dshrink("table", "check", ".", "--verbose")
    assert ran.status == 2
    assert "`dshrink --verbose table check ...`" in ran.err


@pytest.mark.parametrize(
    ("columns", "kept"), [("0", False), ("9" * 30, False), ("100", True), ("x", True)]
)
def test_a_width_that_nothing_fits_into_is_left_out(
    columns: str, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    console._drop_odd_columns()
    assert ("COLUMNS" in os.environ) == kept


def test_a_text_that_the_terminal_s_encoding_lacks_is_escaped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(written, "ascii"))
    monkeypatch.setattr("sys.stderr", None)
    main._mend_streams()
    console.out.print("µs of \udcff")
    sys.stderr.write("gone\n")
    sys.stdout.flush()
    sys.stderr.close()
    assert written.getvalue() == b"\\xb5s of \\udcff\n"


def test_an_argument_that_is_no_text_is_refused_before_it_is_written_anywhere(
    capsys: pytest.CaptureFixture[str],
) -> None:
    main._refuse_undecodable(["bench", "m\u00fc.onnx"])
    with pytest.raises(SystemExit):
        main._refuse_undecodable(["bench", "z\udcff.onnx"])
    assert r"b'z\xff.onnx' is not valid utf-8: rename what it names" in capsys.readouterr().err


def test_streams_that_are_closed_are_not_taken_for_files(tmp_path: Path) -> None:
    code = (
        "import os\n"
        "from dshrink.cli import main\n"
        "main._mend_streams()\n"
        f"with open({str(tmp_path / 'file')!r}, 'w') as file:\n"
        "    print('said', flush=True)\n"
        "    os.write(1, b'said')\n"
        "    file.write(str(file.fileno() > 2))\n"
    )
    command = ["sh", "-c", 'exec "$0" -c "$1" <&- >&- 2>&-', sys.executable, code]
    assert subprocess.run(command).returncode == 0
    assert (tmp_path / "file").read_text() == "True"


def test_a_long_error_keeps_its_beginning_and_the_way_out(
    capsys: pytest.CaptureFixture[str],
) -> None:
    console.show_error(ValueError(f"plan.json: {'y' * 9000}: write it again"))
    said = capsys.readouterr().err
    assert said.startswith("dshrink: plan.json: yyy") and said.endswith("yyy: write it again\n")
    assert len(said) < 2100


@pytest.mark.parametrize(
    ("error", "known"),
    [
        (MemoryError(), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (RuntimeError("Storage size calculation overflowed with sizes=[4]"), True),
        (ImportError("libtorch_cpu.so: failed to map segment from shared object"), True),
        (ImportError("No module named 'torch'"), False),
        (RuntimeError("a defect"), False),
    ],
)
def test_what_found_no_memory_is_told_from_a_defect(error: Exception, known: bool) -> None:
    assert main._is_of_memory(error) == known
