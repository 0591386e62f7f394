"""The process of ``trtexec``: found, run in a private folder, ended with us."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Tuple

from ...checks import RequestError, missing_runtime
from ...ending import ends_with, how_ended
from . import output
from .flags import Version

PATH_VARIABLE = "DSHRINK_TRTEXEC"
#: Where JetPack and NVIDIA's packages put it.
USUAL_PATH = "/usr/src/tensorrt/bin/trtexec"
VERSION_TIMEOUT_S = 20.0


class Said(NamedTuple):
    """A run of the binary that went well: what it printed, and what it wrote."""

    text: str
    written: Dict[str, str]


class Binary(object):
    """The binary with a private folder for what it writes, on the disk that has the models."""

    def __init__(self, path: str, version: Version, beside: str) -> None:
        self.version = version
        self.folder = tempfile.mkdtemp(prefix="trtexec-", dir=beside)
        self._path = path

    def place(self, name: str) -> str:
        """A path in the folder."""
        return os.path.join(self.folder, name)

    def run(self, words: List[str], what: str, writes: Tuple[str, ...] = ()) -> Said:
        """Run it to its end; raise what its failure means.  ``writes`` are read and removed."""
        done = subprocess.run(
            [self._path] + words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=self.folder,
            preexec_fn=ends_with(os.getpid()),
        )
        text = done.stdout.decode("utf-8", "replace")
        if done.returncode < 0:
            raise _crash(done.returncode, what, text)
        if done.returncode:
            raise output.error(text, done.returncode, what)
        return Said(text, {name: self._take(name, words) for name in writes})

    def close(self) -> None:
        """Remove the folder with all that is in it."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _take(self, name: str, words: List[str]) -> str:
        path = self.place(name)
        try:
            content = Path(path).read_text(encoding="utf-8", errors="replace")
            os.remove(path)
        except OSError as error:
            raise RequestError(
                "runtime_error",
                f"trtexec ended well without writing {name}: {error}",
                "the disk may be full; the command was: " + " ".join(words),
            ) from error
        return content


def find() -> Optional[str]:
    """The path of the binary: the user's variable first, then the PATH, then the usual place."""
    given = os.environ.get(PATH_VARIABLE)
    return shutil.which(given or "trtexec") or (None if given else shutil.which(USUAL_PATH))


def say_version(binary: str) -> str:
    """What ``--help`` prints: it begins with the version, and needs no GPU and no model."""
    try:
        done = subprocess.run(
            [binary, "--help"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=VERSION_TIMEOUT_S,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise missing_runtime(
            f"{binary} cannot be run: {error}", "run it by hand with --help"
        ) from error
    return done.stdout.decode("utf-8", "replace")


def _crash(status: int, what: str, text: str) -> RequestError:
    last = text.strip().splitlines()[-1:] or ["nothing"]
    return RequestError(
        "worker_crashed",
        f"trtexec ended {how_ended(status)} {what}; its last words: {last[0][-300:]}",
        "TensorRT cannot build or run this model here; other jobs are not concerned",
    )
