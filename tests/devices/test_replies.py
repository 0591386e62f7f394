"""What a device answers is read as if a stranger had written it."""

from __future__ import annotations

import re

import pytest

from devices.line_process import End
from devices.records import RecordError, check_facts, checked
from devices.replies import parse_line, printable
from devices.reports import Health, Process


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"", "truncated"),
        (b"[1]", "not an object"),
        (b'{"a":NaN}', "malformed"),
        (b'{"a":1e999}', "out of range"),
        (b'{"a":' + b"9" * 5000 + b"}", "out of range"),
        (b'{"a":18446744073709551616}', "64 bits"),
        (b'{"a":[{"b":-18446744073709551616}]}', "64 bits"),
        (b'{"a":' + b"[" * 60 + b"]" * 60 + b"}", "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b'{"a":"\xff"}', "UTF-8"),
    ],
)
def test_a_line_that_no_agent_writes_is_refused(line: bytes, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_line(line)


def test_texts_hold_nothing_that_a_terminal_acts_on() -> None:
    line = '{"\\u001b[2Ja":["x\\u202ey\\u2066", {"b":"\\u0007c\\nd"}], "n":[1, 2.5, null, true]}'
    assert parse_line(line.encode()) == {
        "?[2Ja": ["x?y?", {"b": "?c d"}],
        "n": [1, 2.5, None, True],
    }
    assert printable("Gerät 東京 שלום") == "Gerät 東京 שלום"
    last = End(7, "x\n\x1b]0;pwned\x07\x1b[2Jlast words", "hello").last_words
    assert last == "; its last words: ?]0;pwned??[2Jlast words"


def test_a_report_has_its_fields_and_those_of_a_newer_agent_are_left_out() -> None:
    said = {"pid": 1, "name": "x", "cpu_percent": 2, "mood": "good"}
    assert checked(Process, said, "p") == {"pid": 1, "name": "x", "cpu_percent": 2.0}
    with pytest.raises(RecordError, match=re.escape("p.name must be a text, got ['x']")):
        checked(Process, said | {"name": ["x"]}, "p")
    with pytest.raises(RecordError, match=r"^p lacks pid$"):
        checked(Process, {"name": "x", "cpu_percent": 2}, "p")


def test_facts_may_lack_some_but_hold_none_of_another_type() -> None:
    check_facts(Health, {"throttle_bits": 3, "mood": "good"}, "health")
    with pytest.raises(RecordError, match=r"health\.throttle_bits must be an integer, got 'x'"):
        check_facts(Health, {"throttle_bits": "x"}, "health")
    with pytest.raises(RecordError, match=r"health\.gpu\.slowed_by\[0\] must be a text, got 5"):
        check_facts(Health, {"gpu": {"slowed_by": [5]}}, "health")
