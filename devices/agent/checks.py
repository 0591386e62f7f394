"""What a field of a message may hold, and the error of one that holds something else.

A check is a function of the field's name and value that returns the value, or raises
``RequestError``.
"""

import errno
import os
import reprlib
import traceback
from typing import Any, Callable, Dict, Sequence

from .file_names import from_message

MAX_MESSAGE_CHARACTERS = 2000

#: What an agent may answer, each the failure of one job while the agent lives on.
ERROR_TYPES = (
    "bad_request",
    "protocol_version",
    "missing_file",
    "wrong_digest",
    "missing_runtime",
    "bad_model",
    "out_of_memory",
    "runtime_error",
    "disk_full",
    "device_busy",
    "not_permitted",
    "worker_crashed",
    "wrong_precision",
    "timeout",
)

Check = Callable[[str, Any], Any]


class RequestError(Exception):
    """A request that cannot be done; becomes the error of its reply.

    ``kind`` is one of ``ERROR_TYPES``, ``message`` says what and where, ``advice`` how to fix it.
    ``ends_process``: nothing more can be done in the process that raised it.
    """

    ends_process = False

    def __init__(self, kind: str, message: str, advice: str) -> None:
        super(RequestError, self).__init__(message)
        if kind not in ERROR_TYPES:
            raise ValueError(f"{kind!r} is no error type of the protocol: {', '.join(ERROR_TYPES)}")
        self.kind = kind
        self.message = message
        self.advice = advice


def bad_request(message: str) -> RequestError:
    """The error of a message that does not follow the protocol."""
    return RequestError(
        "bad_request", message, "see devices/agent/protocol.py for the fields it takes"
    )


def bad_model(message: str, advice: str) -> RequestError:
    """The error of a file that a runtime cannot measure."""
    return RequestError("bad_model", message, advice)


def missing_runtime(message: str, advice: str) -> RequestError:
    """The error of a device on which a runtime cannot be used, or not for this request."""
    return RequestError("missing_runtime", message, advice)


def as_request_error(
    error: Exception, advice: str = "the traceback is in the agent's standard error"
) -> RequestError:
    """The error of a reply for whatever was raised.

    The traceback of one that nobody foresaw goes to standard error; ``advice`` is its advice.
    """
    if isinstance(error, RequestError):
        return error
    if isinstance(error, MemoryError):
        return RequestError(
            "out_of_memory",
            "the agent could not have the memory this job needs",
            "use a smaller batch or resolution, or a larger memory_limit_mib",
        )
    said = f"{type(error).__name__}: {error}"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return RequestError(
            "disk_full",
            f"no space is left on the device ({said})",
            "free some on the device, or give it another `folder` in devices.toml",
        )
    traceback.print_exception(type(error), error, error.__traceback__)
    return RequestError("runtime_error", said, advice)


def integer(low: int, high: int) -> Check:
    """A check for an int (no bool, no float) within the bounds."""

    def check(name: str, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise bad_request(f"{name} must be an integer from {low} to {high}, got {clip(value)}")
        return value

    return check


def number(low: float, high: float) -> Check:
    """A check for a finite int or float within the bounds."""

    def check(name: str, value: Any) -> float:
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not is_number or not low <= value <= high:
            raise bad_request(f"{name} must be a number from {low} to {high}, got {clip(value)}")
        return float(value)

    return check


def boolean(name: str, value: Any) -> bool:
    """Check for true or false."""
    if not isinstance(value, bool):
        raise bad_request(f"{name} must be true or false, got {clip(value)}")
    return value


def one_of(*known: str) -> Check:
    """A check for one of a few words."""

    def check(name: str, value: Any) -> str:
        if not isinstance(value, str) or value not in known:
            raise bad_request(f"{name} must be one of {', '.join(known)}, got {clip(value)}")
        return value

    return check


def text(name: str, value: Any) -> str:
    """Check for a string that is not empty, and that the operating system can take as a name."""
    if not isinstance(value, str) or not 0 < len(value) <= 4096:
        raise bad_request(f"{name} must be a string of 1 to 4096 characters, got {clip(value)}")
    if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
        raise bad_request(f"{name} holds a character that no file name can have")
    return value


def absolute_path(name: str, value: Any) -> str:
    """Check for the absolute path of a file, and return it as this process opens it.

    Whether it is there is found then.
    """
    path = text(name, value)
    if not os.path.isabs(path):
        raise bad_request(f"{name} must be an absolute path, got {clip(path)}")
    return from_message(path)


def sha256_hex(name: str, value: Any) -> str:
    """Check for a SHA-256 digest in lower-case hexadecimal."""
    if not isinstance(value, str) or len(value) != 64 or set(value) - set("0123456789abcdef"):
        raise bad_request(f"{name} must be 64 lower-case hexadecimal digits, got {clip(value)}")
    return value


def mapping(name: str, value: Any) -> Dict[str, Any]:
    """Check for a JSON object."""
    if not isinstance(value, dict):
        raise bad_request(f"{name} must be an object, got {clip(value)}")
    return value


def check_fields(
    what: str, given: Dict[str, Any], checks: Dict[str, Check], needed: Sequence[str] = ()
) -> Dict[str, Any]:
    """Return the given fields, checked; refuse unknown and missing ones by name."""
    unknown = sorted(set(given) - set(checks))
    if unknown:
        known = ", ".join(sorted(checks)) or "nothing"
        raise bad_request(f"{what} has unknown fields {clip(unknown)}; it takes {known}")
    missing = sorted(set(needed) - set(given))
    if missing:
        raise bad_request(f"{what} lacks the fields {', '.join(missing)}")
    return {name: checks[name](f"{what}.{name}", value) for name, value in given.items()}


def clip(value: Any) -> str:
    """The value as text, cut to what fits in a message."""
    shown = value if isinstance(value, str) else reprlib.repr(value)
    if len(shown) <= MAX_MESSAGE_CHARACTERS:
        return shown
    return shown[: MAX_MESSAGE_CHARACTERS - 4] + " ..."
