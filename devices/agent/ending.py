"""How processes end: in words, and together with their parent."""

import os
import signal
from typing import Callable

PR_SET_PDEATHSIG = 1


def how_ended(status: int) -> str:
    """A status of ``subprocess`` as part of a sentence: "by signal 9 (SIGKILL)"."""
    if status >= 0:
        return f"with exit status {status}"
    try:
        return f"by signal {-status} ({signal.Signals(-status).name})"
    except ValueError:
        return f"by signal {-status}"


def ends_with(parent: int) -> Callable[[], None]:
    """What a child of that process calls to have the kernel kill it when its parent dies.

    It also works in the middle of native code. Only Linux can do it: elsewhere nothing happens.
    """
    try:
        import ctypes  # some builds of Python lack it

        prctl = ctypes.CDLL(None).prctl
    except (ImportError, OSError, AttributeError):
        return lambda: None

    def ask_the_kernel() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it died in between
            os._exit(1)

    return ask_the_kernel
