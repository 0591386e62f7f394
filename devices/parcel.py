"""The agent as it is sent to a device: one archive, and the command that receives it there.

The archive's bytes depend on nothing but the agent's files, so that a digest names a version.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import zipfile
import zlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from devices import boot
from devices.agent.protocol import folder_digest, python_files
from devices.connection import AGENT_FOLDER
from devices.errors import InventoryError

#: The device's shell, whichever it is, takes these as they are (and ``~`` as the home).
_PLAIN = re.compile(r"[A-Za-z0-9_./~+][A-Za-z0-9_./~+@%:-]*")
#: Nothing in it means anything to a shell within double quotes: not even to csh or fish.
_PROGRAM = (
    "import sys;sys.path[:]=[p for p in sys.path if p];import base64,zlib;"
    "exec(zlib.decompress(base64.b64decode(b'{text}')))"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parcel:
    """The agent's files as a zip archive, and the digest by which it knows itself."""

    digest: str
    archive: bytes

    def preamble(self, mode: str, folder: str | None, lock: str | None = None) -> bytes:
        """What goes first through the command's standard input; ``mode`` is what the agent does.

        ``folder`` is where on the device, ``lock`` the file that one run at a time locks there;
        None for the usual places.
        """
        header = {
            "digest": self.digest,
            "size": len(self.archive),
            "sha256": hashlib.sha256(self.archive).hexdigest(),
            "mode": mode,
            "folder": folder,
            "lock": lock,
        }
        return boot.FIRST_LINE + json.dumps(header).encode("ascii") + b"\n" + self.archive


@cache
def agent_parcel() -> Parcel:
    """The agent of this installation; read once, so that all connections send the same."""
    archive = _archive(
        {name: (AGENT_FOLDER / name).read_bytes() for name in python_files(str(AGENT_FOLDER))}
    )
    return Parcel(digest=folder_digest(str(AGENT_FOLDER)), archive=archive)


@cache
def boot_command(python: str) -> str:
    """The command line that receives a parcel on the device, for any login shell.

    Raises InventoryError for an interpreter that a shell would not take for one plain word.
    """
    if not _PLAIN.fullmatch(python):
        raise InventoryError(
            f"python {python!r} is not the plain path of an interpreter; name one in devices.toml "
            "without spaces and quotes (on the device, a link to it will do)"
        )
    text = base64.b64encode(zlib.compress(Path(boot.__file__).read_bytes(), 9)).decode("ascii")
    return f'{python} -c "{_PROGRAM.format(text=text)}"'


def _archive(files: dict[str, bytes]) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            entry.external_attr = 0o600 << 16
            archive.writestr(entry, content, zipfile.ZIP_DEFLATED)
    return target.getvalue()
