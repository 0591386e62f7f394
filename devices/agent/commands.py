"""Commands of the device, run for what they print: bounded in time, and None where one is missing.

Every one of them is ended when its time is over, also one that would run for ever.
"""

import os
import select
import shutil
import subprocess
import time
from typing import List, NamedTuple, Optional

#: Where vendors keep their tools, which the PATH of a login over ssh may lack.
FOLDERS = ("/usr/sbin", "/sbin", "/opt/vc/bin")
TIMEOUT_S = 2.0


class Ended(NamedTuple):
    """A command that ended: its exit status and what it printed."""

    status: int
    out: str
    err: str


class Commands(object):
    """The commands of this machine."""

    def find(self, name: str) -> Optional[str]:
        """The path of a command; None where there is none of that name."""
        folders = (os.environ.get("PATH", os.defpath),) + FOLDERS
        return shutil.which(name, path=os.pathsep.join(folders))

    def run(self, words: List[str], timeout_s: float = TIMEOUT_S) -> Optional[Ended]:
        """Run a command to its end; None where it cannot be run or takes too long."""
        program = self.find(words[0])
        if program is None:
            return None
        try:
            done = subprocess.run(
                [program] + words[1:],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                timeout=timeout_s,
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return Ended(done.returncode, _text(done.stdout), _text(done.stderr))

    def output(self, words: List[str]) -> str:
        """What a command prints; "" where it is missing, fails or takes too long."""
        ended = self.run(words)
        return ended.out if ended is not None and ended.status == 0 else ""

    def first_line(self, words: List[str], timeout_s: float = TIMEOUT_S) -> str:
        """The first line of a command that may run for ever; it is ended then.  "" for none."""
        program = self.find(words[0])
        if program is None:
            return ""
        try:
            process = subprocess.Popen(
                [program] + words[1:],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
            )
        except OSError:
            return ""
        with process:  # waits for it, and closes its pipe
            try:
                assert process.stdout is not None
                return _first_line(process.stdout.fileno(), time.monotonic() + timeout_s)
            finally:
                process.kill()


SYSTEM = Commands()


def _first_line(pipe: int, deadline: float) -> str:
    """What comes before the first line break; "" where none comes in time."""
    said = b""
    while b"\n" not in said:
        left_s = deadline - time.monotonic()
        if left_s <= 0 or not select.select([pipe], [], [], left_s)[0]:
            return ""
        piece = os.read(pipe, 4096)
        if not piece:
            return ""
        said += piece
    return _text(said.partition(b"\n")[0])


def _text(said: bytes) -> str:
    return said.decode("utf-8", "replace").strip()
