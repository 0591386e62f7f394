"""Which devices there are: the catalog that ships with the package, and the user's own file.

The user's ``devices.toml`` adds boards and overrides fields of known ones::

    [kitchen-pi]
    like = "raspi4"
    host = "pi@kitchen"

Where there is a ``host``, ssh leads to it, unless the same table names another ``connection``.
A name or field that is not known is an error, not something to be ignored: a misspelt ``host``
would otherwise be found only when a run starts.
"""

from __future__ import annotations

import os
import stat
import sys
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from packaging.specifiers import InvalidSpecifier, SpecifierSet

from devices.connection import Connection, LocalConnection
from devices.errors import InventoryError
from devices.records import RecordError, checked_fields, listed

CATALOG = Path(__file__).with_name("catalog.toml")
PRECISIONS = ("fp32", "fp16", "int8")
CONNECTIONS = ("local", "ssh", "adb")
PROCESSORS = ("cpu", "gpu")
#: Of a file of devices: a table of one board has 200 bytes.
MOST_BYTES = 1 << 20
MOST_BATCH = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeSupport:
    """What a device can have of a runtime, and the line that installs it.

    ``versions`` is a specifier as pip has it (">=8.2,<8.3").  ``max_opset`` and ``max_ir`` are the
    highest of an ONNX file that the oldest of them reads; None where it reads no ONNX.
    ``processor`` is what does the work.
    """

    versions: str
    install: str
    processor: str = "cpu"
    max_opset: int | None = None
    max_ir: int | None = None

    def __post_init__(self) -> None:
        try:
            SpecifierSet(self.versions)
        except InvalidSpecifier as error:
            raise InventoryError(f"versions must be such as '>=1.10,<2': {error}") from error
        _check_known("processor", self.processor, PROCESSORS)

    def includes(self, version: str) -> bool:
        """Whether a version that was found is one of ``versions``."""
        return SpecifierSet(self.versions).contains(version, prereleases=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A kind of device, or one board of it."""

    name: str
    title: str
    chip: str
    #: Batch size of the paper's measurements on this device.
    paper_batch: int
    precisions: tuple[str, ...]
    runtimes: Mapping[str, RuntimeSupport]
    #: What to ask the user (or the device) for before measuring.
    power_mode: str
    connection: str = "ssh"
    #: As ssh takes it: user@machine, or a name of the user's ssh configuration.
    host: str | None = None
    #: The interpreter on the device; None for the one that runs dshrink, or the device's python3.
    python: str | None = None
    ssh_options: tuple[str, ...] = ()
    #: Where on the device the agent and the files go; None for the user's cache folder there.
    folder: str | None = None
    #: The file on the device that one run at a time locks; None for one in its folder for temporary
    #: files. For devices on which not all who measure see the same /tmp: containers, PrivateTmp.
    lock: str | None = None
    #: Whether they stay there after a run, so that the next one need not bring them.
    keep: bool = False
    #: The kind that a board is of; None for a kind.
    like: str | None = None
    #: Texts of which the machine has one in the name of its CPU or GPU; empty where any will do.
    known_by: tuple[str, ...] = ()
    notes: str = ""

    def __post_init__(self) -> None:
        _check_known(f"{self.name}: connection", self.connection, CONNECTIONS)
        for precision in self.precisions:
            _check_known(f"{self.name}: precisions", precision, PRECISIONS)
        if not 1 <= self.paper_batch <= MOST_BATCH:
            raise InventoryError(f"{self.name}: paper_batch must be from 1 to {MOST_BATCH}")
        _check_texts(
            self.name,
            (
                *(self.name, self.title, self.chip, self.host, self.python),
                *(self.folder, self.lock, *self.ssh_options, *self.known_by),
            ),
        )
        if self.host is not None and (self.host.startswith("-") or len(self.host.split()) != 1):
            raise InventoryError(f"{self.name}: host {self.host!r} is no such as user@machine")
        if self.host is not None and self.connection == "local":
            raise InventoryError(
                f'{self.name}: connection "local" is this machine, not host {self.host!r}: '
                "remove one of the two lines"
            )
        if self.lock is not None and not self.lock.startswith("/"):
            raise InventoryError(f"{self.name}: lock {self.lock!r} is no absolute path")

    def chip_problem(self, cpu: str, gpu: Mapping[str, Any] | None) -> str:
        """What is wrong where a machine that reports these is no such device; empty if nothing.

        ``gpu`` is as the agent describes it (``name``, ``compute_capability``).
        """
        reported = f"{cpu}, {gpu['name']}" if gpu else f"{cpu}, no GPU"
        if not self.known_by or any(one.lower() in reported.lower() for one in self.known_by):
            return ""
        return (
            f"{self.name} should be a {self.title} ({self.chip}), the machine reports {reported}: "
            "correct the host, or give it an entry of its own (docs/adding_a_device.md)"
        )

    @property
    def kind(self) -> str:
        """What it is one of: boards of a kind share a latency table."""
        return self.like or self.name

    @classmethod
    def from_table(cls, name: str, table: Mapping[str, Any], where: Path | str) -> Self:
        """Check a table of the file; raise InventoryError that names file, device and field."""
        if isinstance(runtimes := table.get("runtimes"), dict):
            place = f"{where}: [{name}.runtimes"
            read = {one: _runtime(f"{place}.{one}]", facts) for one, facts in runtimes.items()}
            table = {**table, "runtimes": read}
        try:
            return cls(name=name, **checked_fields(cls, table, apart="name"))
        except RecordError as error:
            raise InventoryError(f"{where}: [{name}] {error}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    """The devices by name."""

    devices: Mapping[str, Device] = field(default_factory=dict)

    def get(self, name: str) -> Device:
        """Return the device of that name, or raise InventoryError that lists the known ones."""
        if name not in self.devices:
            raise InventoryError(
                f"no device {name!r}; known are {listed(self.devices)} "
                f"(add yours to {default_user_file()})"
            )
        return self.devices[name]


def load_inventory(user_file: Path | None = None) -> Inventory:
    """Read the catalog and, where there is one, the user's file (else the default place)."""
    tables = _read(CATALOG)
    where: dict[str, Path] = dict.fromkeys(tables, CATALOG)
    own = user_file or default_user_file()
    if user_file is not None or own.exists():
        for name, table in _read(own).items():
            tables[name] = _derived(tables, name, table, own)
            where[name] = own
    devices = {name: Device.from_table(name, tables[name], where[name]) for name in tables}
    return Inventory(devices=devices)


def default_user_file() -> Path:
    """Where the user's own devices are: $DSHRINK_DEVICES, else ~/.config/dshrink/devices.toml.

    Where the user has no home folder it is /etc/dshrink/devices.toml.
    """
    named = os.environ.get("DSHRINK_DEVICES")
    if named:
        return Path(named)
    try:
        return Path("~/.config/dshrink/devices.toml").expanduser()
    except RuntimeError:  # no HOME, and no entry of this user: containers have such users
        return Path("/etc/dshrink/devices.toml")


def connect(device: Device, hold: bool = False) -> Connection:
    """Return the connection to a device; nothing is started yet.

    ``hold``: each agent holds the device's clocks at their highest. Raises InventoryError for a
    device that has no address, or that this version cannot reach.
    """
    label = f"{device.name} ({device.title})"
    if device.connection == "local":
        python = device.python or sys.executable
        return LocalConnection(python=python, hold=hold, name=device.name, lock=device.lock)
    if device.connection == "adb":
        raise InventoryError(f"{label} needs adb, which this version of dshrink does not support")
    if device.host is None:
        raise InventoryError(
            f"{label} has no address yet: add to {default_user_file()} "
            f'the table [{device.name}] with the line host = "user@machine"'
        )
    from devices.ssh import SshConnection  # only those who need it pay for it

    return SshConnection(
        host=device.host,
        python=device.python or "python3",
        options=device.ssh_options,
        folder=device.folder,
        lock=device.lock,
        keep=device.keep,
        hold=hold,
        name=device.name,
    )


def _regular(path: str, flags: int) -> int:
    """Open a regular file; a pipe would be waited for, a device read without end."""
    descriptor = os.open(path, flags | os.O_NONBLOCK)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise OSError("no regular file")


def _check_texts(name: str, texts: Iterable[str | None]) -> None:
    """Refuse what no command line can hold, and no file name."""
    for text in texts:
        if text is not None and any(ord(one) < 32 or 0x7F <= ord(one) < 0xA0 for one in text):
            raise InventoryError(f"{name}: {text[:60]!r} holds control characters: remove them")


def _check_known(what: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise InventoryError(f"{what} {value!r} is none of {listed(known)}")


def _derived(
    tables: Mapping[str, Mapping[str, Any]], name: str, table: dict[str, Any], where: Path
) -> dict[str, Any]:
    """The table of the user's file over what it is like, or over the known device of its name."""
    like = table.pop("like", None)
    if like is not None and (not isinstance(like, str) or like not in tables):
        raise InventoryError(f"{where}: [{name}] is like {like!r}, which is not known above")
    base = dict(tables.get(like or name, {}))
    if like not in (None, name):
        base.pop("host", None)  # another board's address would measure the other board
    if "host" in table:
        table.setdefault("connection", "ssh")
    if isinstance(table.get("runtimes"), dict):
        table["runtimes"] = _over(base.get("runtimes", {}), table["runtimes"])
    kind = base.get("like", like)
    return {**base, **table, **({"like": kind} if kind not in (None, name) else {})}


def _over(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Runtimes with the user's facts over the known ones, runtime by runtime."""
    merged = {
        runtime: {**base.get(runtime, {}), **facts} if isinstance(facts, dict) else facts
        for runtime, facts in own.items()
    }
    return {**base, **merged}


def _runtime(place: str, facts: Any) -> RuntimeSupport:
    if not isinstance(facts, dict):
        raise InventoryError(f"{place} must have the fields versions and install, got {facts!r}")
    try:
        return RuntimeSupport(**checked_fields(RuntimeSupport, facts))
    except (RecordError, InventoryError) as error:
        raise InventoryError(f"{place} {error}") from error


def _read(file: Path) -> dict[str, dict[str, Any]]:
    try:
        with open(file, "rb", opener=_regular) as stream:
            content = stream.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise InventoryError(f"{file} is above {MOST_BYTES >> 20} MiB: is it devices.toml?")
        tables = tomllib.loads(content.decode("utf-8-sig").replace("\r\n", "\n"))
    except OSError as error:
        raise InventoryError(f"{file} cannot be read: {error.strerror or error}") from error
    except RecursionError:
        raise InventoryError(f"{file} is not valid TOML: nested too deeply") from None
    except ValueError as error:  # TOMLDecodeError, no UTF-8, an integer of thousands of digits
        raise InventoryError(f"{file} is not valid TOML: {error}") from error
    for name, table in tables.items():
        if not isinstance(table, dict):
            raise InventoryError(f"{file}: {name} is outside of any [device]")
    return tables
