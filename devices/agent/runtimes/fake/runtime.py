"""A runtime without a model, which fails on demand: for tests, and to rehearse faults on a device.

Its file is JSON: ``{"behaviour": "work", "busy_us": 50}``.  ``behaviour`` is one of ``BEHAVIOURS``;
``at`` says whether it shows in "prepare" or in "run" (the default).
"""

import json
from typing import Any, Dict, Optional

from ...checks import RequestError, bad_model
from .. import Prepared, Runtime
from .model import BEHAVIOURS, SPENT, FakeModel, work


class FakeRuntime(Runtime):
    """Does what the file says."""

    def version(self) -> Optional[str]:
        """It needs nothing installed."""
        return "1"

    def load(self) -> None:
        """Nothing to import."""

    def prepare(self, file: str, threads: int, seed: int, options: Dict[str, Any]) -> Prepared:
        """Read the script and, where it says so, fail already."""
        try:
            with open(file, encoding="utf-8") as stream:
                script = json.load(stream)
            behave = BEHAVIOURS[script["behaviour"]]
        except (ValueError, KeyError, TypeError) as error:
            raise bad_model(
                f"{file} is no script of the fake runtime: {error!r}",
                f"write JSON with a behaviour of {', '.join(sorted(BEHAVIOURS))}",
            ) from error
        if script.get("at", "run") == "prepare":
            behave(script)
            behave = work
        return FakeModel(behave, script)


class IsolatedFake(FakeRuntime):
    """The same in a process of its own, as runtimes that build have it."""

    ISOLATED = True

    def __init__(self) -> None:
        self._prepared = 0
        self._is_broken = False

    def prepare(self, file: str, threads: int, seed: int, options: Dict[str, Any]) -> Prepared:
        """As the base does, and count it."""
        self._prepared += 1
        return super(IsolatedFake, self).prepare(file, threads, seed, options)

    def failure(self, error: Exception) -> Optional[RequestError]:
        """Remember an error after which nothing works."""
        self._is_broken = str(error) == SPENT
        return None

    def is_broken(self) -> bool:
        """Whether there was such an error."""
        return self._is_broken

    def state(self) -> Optional[bytes]:
        """How many files this process has prepared."""
        return b"%d" % self._prepared if self._prepared else None
