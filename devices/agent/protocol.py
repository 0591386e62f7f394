"""The messages between host and agent: what is legal, and what a failure looks like.

A request is checked as a whole before anything runs: an unknown field, a wrong type, a number out
of range or an over-long line is a ``bad_request``, never a guess.  Both sides import this module,
so they cannot disagree about a name.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

from .checks import (
    Check,
    RequestError,
    absolute_path,
    bad_request,
    boolean,
    check_fields,
    clip,
    integer,
    mapping,
    number,
    sha256_hex,
    text,
)
from .file_names import readable

PROTOCOL = 1
#: No legal request comes near this; a longer line is refused without being parsed.
MAX_LINE_BYTES = 256 * 1024
#: A serialized ONNX file cannot be larger: protobuf's limit.
MAX_FILE_BYTES = 2 * 1024**3
MAX_ID_CHARACTERS = 200
#: How often a model is run for its per-layer profile.
PASSES = 20
#: What one push may announce; its line stays below MAX_LINE_BYTES.
MAX_FILES = 2000
#: What all inputs and outputs of a file may have together where they are asked for.
MAX_TENSOR_BYTES = 16 << 20


class Rule(NamedTuple):
    """How long to warm up, how long a sample lasts, and when the median is known well enough."""

    warmup_s: float = 0.2
    warmup_cap_s: float = 2.0
    warmup_tolerance: float = 0.01
    window_s: float = 0.05
    sample_s: float = 0.001
    min_samples: int = 15
    min_total_s: float = 0.15
    half_width: float = 0.01
    cap_s: float = 15.0


class Measure(NamedTuple):
    """A checked request to measure one file, or to profile its layers in ``passes`` runs.

    ``timeout_s`` counts from when the device is ours: waiting for it has a limit of its own.
    ``resources`` asks for memory and energy too, which takes about a second more.
    """

    runtime: str
    file: str
    sha256: str
    options: Dict[str, Any]
    rule: Rule
    threads: int = 1
    seed: int = 0
    timeout_s: Optional[float] = None
    passes: int = PASSES
    resources: bool = False


class Request(NamedTuple):
    """A checked request.

    ``measure`` is given if, and only if, ``do`` is one of ``FILE_REQUESTS``; ``runtime`` if it is
    one of ``RUNTIME_REQUESTS``.
    """

    id: str
    do: str
    measure: Optional[Measure] = None
    runtime: str = ""


class Announced(NamedTuple):
    """A file that the host is about to push."""

    sha256: str
    size_bytes: int


#: Requests that carry nothing but what to do.
PLAIN_REQUESTS = ("hello", "probe", "hold", "quit")
#: Requests about a runtime: its version; what its later builds should start from.
RUNTIME_REQUESTS = ("version", "state")
#: Requests with a file: its latency; the latency of each of its layers; what it reads and computes
#: in one run; the memory of the process that loads it, which only an agent asks its worker for.
FILE_REQUESTS = ("measure", "profile", "tensors", "memory")
_ONE_HOUR_S = 3600.0
_ONE_DAY_S = 86400.0
_RULE_CHECKS: Dict[str, Check] = dict(
    {name: number(0.0, _ONE_HOUR_S) for name in Rule._fields if name.endswith("_s")},
    warmup_tolerance=number(0.0, 1.0),
    half_width=number(0.0, 1.0),
    min_samples=integer(1, 1000000),
)
_MEASURE_CHECKS: Dict[str, Check] = {
    "runtime": text,
    "file": absolute_path,
    "sha256": sha256_hex,
    "threads": integer(1, 1024),
    "seed": integer(0, 2**32 - 1),
    "timeout_s": number(1.0, _ONE_DAY_S),
    "passes": integer(1, 1000),
    "resources": boolean,
    "options": mapping,
    "rule": mapping,
}
_MEASURE_NEEDS = ("runtime", "file", "sha256")


def check_rule(given: Dict[str, Any]) -> Rule:
    """Return the timing rule; fields that are not given have the defaults of ``Rule``."""
    rule = Rule(**check_fields("rule", given, _RULE_CHECKS))
    if rule.warmup_cap_s < rule.warmup_s or rule.cap_s < rule.min_total_s:
        raise bad_request(
            "a cap of the rule lies below what it caps: "
            f"warmup_s {rule.warmup_s} <= warmup_cap_s {rule.warmup_cap_s} and "
            f"min_total_s {rule.min_total_s} <= cap_s {rule.cap_s} must hold"
        )
    return rule


def decode(line: bytes) -> Dict[str, Any]:
    """Parse one line as a JSON object: no NaN, no key twice, no number of a thousand digits."""
    if len(line) > MAX_LINE_BYTES:
        raise bad_request(f"the line is longer than {MAX_LINE_BYTES} bytes")
    try:
        message = json.loads(
            line.decode("utf-8"),
            object_pairs_hook=_no_key_twice,
            parse_constant=_no_constant,
            parse_int=_short_integer,
        )
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise bad_request(f"the line is not JSON: {error or type(error).__name__}") from error
    if not isinstance(message, dict):
        raise bad_request(f"a request must be an object, got {clip(message)}")
    return message


def request_id(message: Dict[str, Any]) -> str:
    """The id to answer under; "" where the request carries none that could be echoed."""
    value = message.get("id")
    return value if isinstance(value, str) and len(value) <= MAX_ID_CHARACTERS else ""


def parse_request(message: Dict[str, Any]) -> Request:
    """Check a decoded message and return it as a request; raise ``RequestError`` otherwise."""
    rest = dict(message)
    version = rest.pop("protocol", None)
    if isinstance(version, bool) or version != PROTOCOL:
        raise RequestError(
            "protocol_version",
            f"the request speaks protocol {clip(version)}, this agent speaks {PROTOCOL}",
            "bring host and agent to the same version of dshrink",
        )
    identity = rest.pop("id", None)
    if not isinstance(identity, str) or not 0 < len(identity) <= MAX_ID_CHARACTERS:
        raise bad_request(f"id must be a string of 1 to {MAX_ID_CHARACTERS} characters")
    do = rest.pop("do", None)
    if do in PLAIN_REQUESTS:
        check_fields(do, rest, {})
        return Request(id=identity, do=do)
    if do in RUNTIME_REQUESTS:
        named = check_fields(do, rest, {"runtime": text}, ("runtime",))
        return Request(id=identity, do=do, runtime=named["runtime"])
    if do not in FILE_REQUESTS:
        known = ", ".join(FILE_REQUESTS + RUNTIME_REQUESTS + PLAIN_REQUESTS)
        raise bad_request(f"do must be one of {known}, got {clip(do)}")
    fields = check_fields(do, rest, _MEASURE_CHECKS, _MEASURE_NEEDS)
    fields["rule"] = check_rule(fields.get("rule", {}))
    fields.setdefault("options", {})
    return Request(id=identity, do=do, measure=Measure(**fields))


def parse_announcement(message: Dict[str, Any]) -> List[Announced]:
    """Check the first message of a push and return its files, each once."""
    pairs = check_fields("push", message, {"files": _file_list}, ("files",))["files"]
    files = list(dict.fromkeys(_announced(pair) for pair in pairs))
    if len({file.sha256 for file in files}) != len(files):
        raise bad_request("push.files gives one digest two sizes")
    return files


def encode_result(identity: str, result: Dict[str, Any]) -> bytes:
    """The reply line of a request that was done."""
    return encode({"protocol": PROTOCOL, "id": identity, "ok": True, "result": result})


def encode_error(identity: str, error: RequestError, is_last: bool = False) -> bytes:
    """The reply line of a request that failed; with ``is_last`` the process ends after it."""
    reply = {"protocol": PROTOCOL, "id": identity, "ok": False, "error": error_body(error)}
    return encode(dict(reply, last=True) if is_last else reply)


def error_body(error: RequestError) -> Dict[str, str]:
    """The error as replies carry it."""
    said = {"message": error.message, "advice": error.advice}
    return dict({name: readable(clip(text)) for name, text in said.items()}, type=error.kind)


def encode(reply: Dict[str, Any]) -> bytes:
    """One line of JSON."""
    return json.dumps(reply, allow_nan=False).encode("ascii") + b"\n"


def file_digest(path: str) -> str:
    """SHA-256 of a file's content, read in pieces."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        for piece in iter(lambda: stream.read(1 << 20), b""):
            digest.update(piece)
    return digest.hexdigest()


def folder_digest(folder: str) -> str:
    """16 hexadecimal digits that change with any Python file of the folder: the agent's version."""
    digest = hashlib.sha256()
    for relative in python_files(folder):
        digest.update(f"{relative}\0{file_digest(os.path.join(folder, relative))}\n".encode())
    return digest.hexdigest()[:16]


def python_files(folder: str) -> List[str]:
    """The agent's files in order, by their paths below the folder."""
    return sorted(path.relative_to(folder).as_posix() for path in Path(folder).rglob("*.py"))


def _file_list(name: str, value: Any) -> List[Any]:
    if not isinstance(value, list) or len(value) > MAX_FILES:
        raise bad_request(f"{name} must be a list of at most {MAX_FILES} files, got {clip(value)}")
    return value


def _announced(pair: Any) -> Announced:
    if not isinstance(pair, list) or len(pair) != 2:
        raise bad_request(f"a file must be given as [sha256, size], got {clip(pair)}")
    size_bytes = integer(0, MAX_FILE_BYTES)("push.files size", pair[1])
    return Announced(sha256_hex("push.files sha256", pair[0]), size_bytes)


def _no_key_twice(pairs: List[Tuple[str, Any]]) -> Dict[str, Any]:
    whole = dict(pairs)
    if len(whole) != len(pairs):
        raise ValueError("an object has one key twice")
    return whole


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _short_integer(digits: str) -> int:
    # A number of 200,000 digits takes old Pythons seconds to convert, and is never meant.
    if len(digits) > 30:
        raise ValueError(f"an integer of {len(digits)} digits")
    return int(digits)
