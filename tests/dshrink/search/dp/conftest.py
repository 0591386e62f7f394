"""The command under test."""

from __future__ import annotations

import sys

import pytest

from dshrink.cli import main as entry


@pytest.fixture
def search(monkeypatch, capsys):
    """Runs ``dshrink search dp``, or ``csv``; gives status, standard output and error."""

    def run(*words, kind="dp"):
        argv = ["dshrink", "search", kind, *map(str, words)]
        monkeypatch.setattr(sys, "argv", argv)
        with pytest.raises(SystemExit) as end:
            entry.main()
        captured = capsys.readouterr()
        return int(end.value.code or 0), captured.out, captured.err

    return run
