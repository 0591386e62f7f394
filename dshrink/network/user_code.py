"""Running code that a user wrote: where it may import from, and how its errors are shown.

What it raises is the user's, so the traceback begins at the user's first frame: ours, and those of
torch.fx that trace through it, say nothing about the mistake.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from types import ModuleType

import torch

from dshrink.errors import DshrinkError, UserCodeError

_OURS = str(Path(__file__).parents[1])
_TORCH = Path(torch.__file__).parent
#: Frames that are never shown, wherever they are.
_MACHINERY = (_OURS, str(_TORCH / "fx"), str(_TORCH / "nn" / "modules" / "module.py"))
#: Frames that do not begin a user's traceback.
_LIBRARIES = (
    *_MACHINERY,
    str(_TORCH),
    "<frozen importlib",
    str(Path(traceback.__file__).parent / "importlib"),
)


@contextmanager
def importing_from(folders: Sequence[Path]) -> Iterator[None]:
    """Let modules of these folders be imported meanwhile; what they print goes to standard error.

    They are forgotten afterwards: the ``blocks.py`` of another network is another module. Standard
    output is for results alone.
    """
    added = [text for folder in folders if (text := str(folder.absolute())) not in sys.path]
    known = {name.partition(".")[0] for name in sys.modules}
    sys.path[:0] = added
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        for text in added:
            if text in sys.path:
                sys.path.remove(text)
        for name, module in list(sys.modules.items()):
            if name.partition(".")[0] not in known and _lies_in(module, name, added):
                del sys.modules[name]


def _lies_in(module: ModuleType, name: str, folders: Sequence[str]) -> bool:
    """Whether it was found as ``name`` in one of the folders, not deeper in one of them."""
    # A folder without __init__.py has no file.
    found = {getattr(module, "__file__", None), *getattr(module, "__path__", ())}
    at = [Path(folder, *name.split(".")) for folder in folders]
    return any({f"{one}.py", str(one)} & found for one in at)


@contextmanager
def users_errors(what: str, advice: str = "") -> Iterator[None]:
    """Make what is raised meanwhile a UserCodeError, in one line: ``what``, error, ``advice``."""
    try:
        yield
    except DshrinkError:
        raise
    except (Exception, SystemExit) as error:
        raise user_code_error(error, what, advice) from error


def user_code_error(error: BaseException, what: str, advice: str = "") -> UserCodeError:
    """``error`` in one line, with the user's traceback."""
    said = (str(error).strip().splitlines() or [""])[0][:200]
    reason = f"{type(error).__name__}: {said}" if said else type(error).__name__
    return UserCodeError(f"{what}: {reason}{advice}", users_traceback(error))


def users_traceback(error: BaseException) -> str:
    """The traceback from the first frame on that is the user's."""
    found = traceback.TracebackException.from_exception(error)
    one: traceback.TracebackException | None = found
    while one is not None:
        one.stack = traceback.StackSummary.from_list(_users_frames(one.stack))
        one = one.__cause__ or one.__context__
    return "".join(found.format())


def _users_frames(stack: traceback.StackSummary) -> list[traceback.FrameSummary]:
    frames = list(stack)
    while frames and frames[0].filename.startswith(_LIBRARIES):
        del frames[0]
    return [frame for frame in frames if not frame.filename.startswith(_MACHINERY)]
