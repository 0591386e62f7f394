"""What reaches a terminal: texts, and no control characters of a device."""

from __future__ import annotations

import io

import pytest
from rich.table import Table

from dshrink.cli import console

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
