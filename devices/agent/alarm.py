"""Time limits that the kernel keeps, with the one alarm that a process has (SIGALRM).

Outside the main thread nothing limits anything.
"""

import signal
import threading
from typing import Any, Callable, Optional

#: A host that asks, sends or takes nothing for so long has gone.
IDLE_S = 600.0
#: How often an interruption that came just before the call blocked is repeated.
AGAIN_S = 1.0


def end_process_after(seconds: Optional[float]) -> None:
    """Have the kernel end this process then, even one that hangs in native code; None: never.

    Replaces the limit that was set before.
    """
    if not _has_alarm():
        return
    signal.setitimer(signal.ITIMER_REAL, 0.0)
    # Whoever started us may have left it ignored or blocked.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM])
    signal.setitimer(signal.ITIMER_REAL, seconds or 0.0)


def returns_within(seconds: float, call: Callable[[], Any]) -> bool:
    """Make a system call that may block; False where it was interrupted because time was over.

    Lifts what ``end_process_after`` had set.  Without an alarm the call is not made at all.
    """
    if not _has_alarm():
        return False
    end_process_after(None)
    signal.signal(signal.SIGALRM, _interrupt)
    try:
        try:
            signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN_S)
            call()
        finally:
            end_process_after(None)
    except _TimeOverError:
        return False
    return True


class _TimeOverError(Exception):
    """Raised out of the system call by the handler."""


def _interrupt(number: int, frame: Any) -> None:
    # Off before it raises: a second one must not strike whoever handles the first.
    signal.setitimer(signal.ITIMER_REAL, 0.0)
    raise _TimeOverError


def _has_alarm() -> bool:
    return threading.current_thread() is threading.main_thread()
