"""What was made for NVIDIA's parsers (real/environment.py), and both of them, for all tests here.

    make test-tensorrt

A part that could not be had fails its tests, unless ``DSHRINK_TENSORRT_PARTIAL`` is set: then it
skips them, and says why. Without anything made there is nothing to fail.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.append(str(Path(__file__).parent))

if TYPE_CHECKING:
    from real.environment import Environment
    from real.workers import Bindings, Parser

FOLDER = Path(__file__).parents[2] / "build" / "tensorrt"
PARTIAL = "DSHRINK_TENSORRT_PARTIAL"
#: What was done, in words, and how often.
counts: Counter[str] = Counter()


@pytest.fixture(scope="session")
def part() -> Callable[[str], Environment]:
    """The environment, for who needs the part of that name."""
    from real.environment import load

    made = load(FOLDER)

    def needed(name: str) -> Environment:
        if made is None:
            pytest.skip("nothing was fetched: run `make test-tensorrt`")
        if name in made.missing:
            (pytest.skip if os.environ.get(PARTIAL) else pytest.fail)(made.missing[name])
        return made

    return needed


@pytest.fixture(scope="session")
def bindings(
    part: Callable[[str], Environment], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Bindings]:
    """NVIDIA's bindings, with our code on them."""
    from real.workers import Bindings

    with Bindings(part("bindings"), tmp_path_factory.mktemp("bindings") / "said.log") as worker:
        yield worker


@pytest.fixture(scope="session")
def parser(
    part: Callable[[str], Environment], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Parser]:
    """The parser of 8.4, recorded."""
    from real.workers import Parser

    with Parser(part("recorder"), tmp_path_factory.mktemp("parser") / "said.log") as worker:
        yield worker


@pytest.fixture(scope="session")
def counted() -> Counter[str]:
    """Where a test says what it did, and how often."""
    return counts


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many files were built and parsed."""
    for what, count in sorted(counts.items()):
        terminalreporter.write_line(f"{count} {what}")
