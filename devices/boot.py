"""What goes ahead of the agent: unpacks it on the device, starts it, and watches the link.

The text of this file is an argument of the device's Python (``parcel`` makes the command); its
standard input begins with ``FIRST_LINE``, a line of JSON and the agent's archive.  It answers with
one line that begins with ``MARKER`` and then belongs to the agent's process, which has its standard
input and output.  Every Python must be able to read it, so that one that is too old can say so.
"""

# mypy: ignore-errors
# Neither pathlib nor newer syntax: this is small, and old Pythons read it.
# ruff: noqa: PTH100, PTH102, PTH103, PTH104, PTH111, PTH118, PTH119, PTH120, PTH123
# ruff: noqa: SIM105, UP008, UP031

import errno
import fcntl
import hashlib
import io
import json
import os
import select
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import zipfile

MARKER = "dshrink: "
#: What comes first ends a shell that a login shell has started, and that takes its input for
#: commands: none of the archive's bytes is executed, and the status says what happened.
SHELL_STATUS = 93
FIRST_LINE = b"exit %d\n" % SHELL_STATUS
OLDEST = (3, 6)
#: Above what any header has, so that noise on standard input is not read for ever.
MAX_HEADER_BYTES = 65536
#: How many removals by other runs may come between making the folder and holding it.
CLAIM_TRIES = 20
#: What the agent has to end by itself (it does when it next reads) once the host has gone.
GRACE_S = 3.0
#: ``ssh`` itself exits with 255.
MAX_STATUS = 254
#: poll's word for "the other side writes no more"; old Pythons do not name it.
HUNG_UP = 0x2000 if sys.platform.startswith("linux") else 0


class RefusedError(Exception):
    """``kind`` is what ``ssh_failures.refused`` knows."""

    def __init__(self, kind, message):
        super(RefusedError, self).__init__(message)
        self.kind = kind


def main():
    """Return the exit status: the agent's, 128 + N where signal N ended it."""
    if sys.version_info < OLDEST:
        say("old_python %d.%d.%d" % tuple(sys.version_info[:3]))
        return 3
    try:
        header, archive = read_parcel()
        root, in_use = claim(local_name(header["folder"]))
        agent = install(root, header["digest"], archive)
    except (RefusedError, OSError, ValueError) as error:
        say("failed %s %s" % (kind_of(error), error))
        return 3
    say("ready " + root)
    shared = ()
    if header["mode"] == "remove":
        # The agent makes our lock its own alone: until then nobody else removes it.
        shared = (in_use,)
        os.environ["DSHRINK_IN_USE"] = str(in_use)
    if header["lock"] is not None:
        os.environ["DSHRINK_DEVICE_LOCK"] = local_name(header["lock"])
    # No bytecode, here and in what the agent starts: it would be cut short where the disk is full.
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    program = os.path.join(agent, "__main__.py")
    return run([sys.executable, "-B", program, header["mode"], root], shared)


def say(words):
    """Tell the host, on a line that begins where noise without a line end may not reach."""
    line = ("\n" + MARKER + words.replace("\n", " ") + "\n").encode("utf-8", "surrogateescape")
    while line:
        line = line[os.write(1, line) :]


def kind_of(error):
    """The word for what was raised, from which the host makes its error."""
    if isinstance(error, RefusedError):
        return error.kind
    number = getattr(error, "errno", None)
    if number in (errno.ENOSPC, errno.EDQUOT):
        return "disk_full"
    # ENOENT: other runs remove the folder each time that we have made it.
    return "device_busy" if number == errno.ENOENT else "start_failed"


def read_parcel():
    """Return the header and the archive, read without a byte of what is the agent's."""
    line = read_line()
    if line == FIRST_LINE:  # a shell on the way may have taken it
        line = read_line()
    if not line.startswith(b"{"):
        raise damaged()
    header = json.loads(line.decode("ascii"))
    archive = read(header["size"])
    if hashlib.sha256(archive).hexdigest() != header["sha256"]:
        raise damaged()
    return header, archive


def read_line():
    """Return the next line of standard input."""
    line = b""
    while not line.endswith(b"\n"):
        line += read(1)
        if len(line) > MAX_HEADER_BYTES:
            raise damaged()
    return line


def local_name(name):
    """A file name as this Python has it, whatever its locale: ``file_names`` of the agent."""
    return name and os.fsdecode(name.encode("utf-8"))


def read(count):
    """Return so many bytes of standard input; nothing is buffered."""
    pieces = []
    while count:
        piece = os.read(0, min(count, 65536))
        if not piece:
            raise damaged()
        pieces.append(piece)
        count -= len(piece)
    return b"".join(pieces)


def damaged():
    """The error of a standard input that is not what the host wrote."""
    return RefusedError("damaged", "the agent did not arrive whole")


def claim(folder):
    """Return our folder and, open, the file whose lock keeps other runs from removing it.

    The lock is ours until the file is closed: all the time that the agent runs from the folder.
    """
    for left in reversed(range(CLAIM_TRIES)):
        try:
            root = own_folder(folder)
            return root, share(os.path.join(root, "in-use"))
        except OSError as error:
            # Another run has just removed it: make it anew.
            if error.errno != errno.ENOENT or not left:
                raise


def share(path):
    """Open and lock the file with all who use the folder; ENOENT where it was removed meanwhile.

    By this file the agent also knows a folder of ours, which it may delete.
    """
    in_use = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(in_use, fcntl.LOCK_SH)
        if not os.path.samestat(os.fstat(in_use), os.lstat(path)):
            raise OSError(errno.ENOENT, "another run has just removed it", path)
    except OSError:
        os.close(in_use)
        raise
    return in_use


def own_folder(folder):
    """Make the folder where it is missing; refuse one in which others could change the agent."""
    cache = os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "dshrink")
    root = os.path.abspath(os.path.expanduser(folder or cache))
    if root.startswith(os.path.abspath("~")):
        raise RefusedError("start_failed", "this user has no home folder")
    os.makedirs(os.path.dirname(root), exist_ok=True)
    try:
        os.mkdir(root, 0o700)
    except FileExistsError:
        pass
    state = os.lstat(root)
    if not stat.S_ISDIR(state.st_mode):
        raise RefusedError("start_failed", "%s is a link, or no folder" % root)
    if state.st_uid != os.getuid():
        raise RefusedError("start_failed", "%s belongs to another user" % root)
    if state.st_mode & 0o022:
        raise RefusedError("start_failed", "%s can be written by other users" % root)
    os.fsencode(root).decode("utf-8")  # in messages it is UTF-8
    return root


def install(root, digest, archive):
    """Return the agent's folder, unpacked unless it is there and whole."""
    final = os.path.join(root, "agent-" + digest)
    with zipfile.ZipFile(io.BytesIO(archive)) as parcel:
        if is_whole(final, parcel):
            return final
        fresh = tempfile.mkdtemp(prefix=os.path.basename(final) + ".", dir=root)
        try:
            parcel.extractall(fresh)
            put(fresh, final, parcel)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    return final


def is_whole(folder, parcel):
    """Whether each file is there as it was sent; a power cut may have left empty ones."""
    try:
        for name in parcel.namelist():
            with open(os.path.join(folder, name), "rb") as stream:
                if stream.read() != parcel.read(name):
                    return False
    except OSError:
        return False
    return True


def put(fresh, final, parcel):
    """Give the fresh folder its name; another boot may do the same at the same time."""
    try:
        os.rename(fresh, final)
    except OSError:
        if is_whole(final, parcel):
            return
        aside = fresh + ".old"
        os.rename(final, aside)
        os.rename(fresh, final)
        shutil.rmtree(aside, ignore_errors=True)


def run(command, shared=()):
    """Run the agent to its end, or to that of the link, and return its status."""
    child = subprocess.Popen(command, start_new_session=True, pass_fds=shared)
    watch = threading.Thread(target=end_with_link, args=(child,))
    watch.daemon = True
    watch.start()
    status = child.wait()
    return min(status, MAX_STATUS) if status >= 0 else 128 - status


def end_with_link(child):
    """Sleep until the host has gone, then see to it that the agent goes too, job or no job."""
    streams = select.poll()
    streams.register(0, HUNG_UP)
    streams.register(1, 0)
    streams.poll()
    try:
        child.wait(GRACE_S)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
