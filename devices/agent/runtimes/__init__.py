"""The runtimes that the agent can drive, each imported when it is first asked for.

To add one, write its module here and add its line to ``RUNTIMES``.  A runtime that is not installed
is the user's to mend and gives advice; a module of ours that does not import gives a traceback.
"""

import importlib
from typing import Any, Dict, Optional

from ..checks import Check, JobError

RUNTIMES = {
    "onnxruntime": ".onnxruntime:OnnxRuntime",
}
#: Not offered in ``hello``: it measures nothing, and fails on demand.
REHEARSAL = {
    "fake": ".fake:FakeRuntime",
}

_loaded: Dict[str, "Runtime"] = {}


class Prepared(object):
    """A model that is ready to run with its inputs and outputs in place."""

    def run(self, times: int) -> None:
        """Run so often, back to back, and return when the last run is done."""
        raise NotImplementedError

    def close(self) -> None:
        """Give back what the model holds."""


class Runtime(object):
    """What a runtime offers; made once a process."""

    #: Options of a request that this runtime takes, and how each is checked.
    OPTIONS: Dict[str, Check] = {}

    def version(self) -> Optional[str]:
        """The installed version; None where it is not installed or does not import."""
        raise NotImplementedError

    def load(self) -> None:
        """Import what it drives; raise a ``missing_runtime`` error where that does not work."""
        raise NotImplementedError

    def prepare(self, file: str, threads: int, seed: int, options: Dict[str, Any]) -> Prepared:
        """Load a file whose digest was checked, with inputs drawn from the seed."""
        raise NotImplementedError

    def failure(self, error: Exception) -> Optional[JobError]:
        """What an exception of this runtime means; None where it says nothing special."""
        return None


def get(name: str) -> Runtime:
    """Return the runtime of that name; raise ``missing_runtime`` for a name we do not know."""
    if name not in _loaded:
        known = dict(RUNTIMES, **REHEARSAL)
        if name not in known:
            raise JobError(
                "missing_runtime",
                f"this agent drives no runtime called {name!r}",
                f"it drives {', '.join(sorted(RUNTIMES))}",
            )
        module, _, attribute = known[name].partition(":")
        _loaded[name] = getattr(importlib.import_module(module, __name__), attribute)()
    return _loaded[name]


def found() -> Dict[str, str]:
    """Return the versions of the runtimes that are installed here and can be imported."""
    versions = {name: get(name).version() for name in RUNTIMES}
    return {name: version for name, version in versions.items() if version is not None}
