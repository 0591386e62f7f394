"""Which devices there are: the catalog that ships with the package, and the user's own file.

The user's ``devices.toml`` adds boards and overrides fields of known ones::

    [kitchen-pi]
    like = "raspi4"
    host = "pi@kitchen"

A name or field that is not known is an error, not something to be ignored: a misspelt ``host``
would otherwise be found only when a run starts.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from devices.connection import Connection, LocalConnection
from devices.errors import InventoryError

CATALOG = Path(__file__).with_name("catalog.toml")
PRECISIONS = ("fp32", "fp16", "int8")
CONNECTIONS = ("local", "ssh")


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeSupport:
    """The versions of a runtime that support a device, and the line that installs one."""

    versions: str
    install: str


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
    #: Highest opset of the files that the oldest supported runtime reads.
    max_opset: int
    #: What to ask the user (or the device) for before measuring.
    power_mode: str
    connection: str = "ssh"
    host: str | None = None
    #: The interpreter on the device; None for the one that runs dshrink, or the device's python3.
    python: str | None = None
    notes: str = ""

    def __post_init__(self) -> None:
        if self.connection not in CONNECTIONS:
            raise self._wrong("connection", self.connection, CONNECTIONS)
        for precision in self.precisions:
            if precision not in PRECISIONS:
                raise self._wrong("precisions", precision, PRECISIONS)
        if self.paper_batch < 1:
            raise InventoryError(f"{self.name}: paper_batch must be at least 1")

    @classmethod
    def from_table(cls, name: str, table: Mapping[str, Any], where: Path | str) -> Self:
        """Check a table of the file; raise InventoryError that names file, device and field."""
        known = {one.name: one for one in fields(cls) if one.name != "name"}
        needed = [one for one in known if known[one].default is MISSING]
        unknown, missing = set(table) - set(known), set(needed) - set(table)
        if unknown or missing:
            problem = (
                f"does not know {_listed(unknown)}" if unknown else f"lacks {_listed(missing)}"
            )
            raise InventoryError(f"{where}: [{name}] {problem}; fields are {_listed(known)}")
        for field_name, value in table.items():
            if type(value) is not _TOML_TYPES[field_name]:  # true is no number
                raise InventoryError(
                    f"{where}: [{name}] {field_name} must be of type "
                    f"{_TOML_TYPES[field_name].__name__}, got {value!r}"
                )
        try:
            runtimes = {
                runtime: RuntimeSupport(**facts) for runtime, facts in table["runtimes"].items()
            }
        except TypeError as error:
            raise InventoryError(
                f"{where}: [{name}.runtimes] each has the fields versions and install ({error})"
            ) from error
        precisions = tuple(table["precisions"])
        return cls(name=name, **{**table, "runtimes": runtimes, "precisions": precisions})

    def _wrong(self, field_name: str, value: str, known: tuple[str, ...]) -> InventoryError:
        return InventoryError(f"{self.name}: {field_name} {value!r} is none of {_listed(known)}")


_TOML_TYPES: dict[str, type] = {
    "title": str,
    "chip": str,
    "paper_batch": int,
    "precisions": list,
    "runtimes": dict,
    "max_opset": int,
    "power_mode": str,
    "connection": str,
    "host": str,
    "python": str,
    "notes": str,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    """The devices by name."""

    devices: Mapping[str, Device] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """Names in the order of the files."""
        return tuple(self.devices)

    def get(self, name: str) -> Device:
        """Return the device of that name, or raise InventoryError that lists the known ones."""
        if name not in self.devices:
            raise InventoryError(
                f"no device {name!r}; known are {_listed(self.names)} "
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
            like = table.pop("like", name)
            if like != name and like not in tables:
                raise InventoryError(f"{own}: [{name}] is like {like!r}, which is not known above")
            tables[name] = {**tables.get(like, {}), **table}
            where[name] = own
    devices = {name: Device.from_table(name, tables[name], where[name]) for name in tables}
    return Inventory(devices=devices)


def default_user_file() -> Path:
    """Where the user's own devices are: $DSHRINK_DEVICES, else ~/.config/dshrink/devices.toml."""
    named = os.environ.get("DSHRINK_DEVICES")
    return Path(named) if named else Path("~/.config/dshrink/devices.toml").expanduser()


def connect(device: Device) -> Connection:
    """Return the connection to a device; raise InventoryError for one that is not this machine."""
    if device.connection != "local":
        raise InventoryError(
            f"{device.name} ({device.title}) cannot be reached: this version of dshrink drives "
            "`local` only; install dshrink on the device and use `--device local` there"
        )
    return LocalConnection() if device.python is None else LocalConnection(python=device.python)


def _read(file: Path) -> dict[str, dict[str, Any]]:
    try:
        tables = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InventoryError(f"{file} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InventoryError(f"{file} is not valid TOML: {error}") from error
    for name, table in tables.items():
        if not isinstance(table, dict):
            raise InventoryError(f"{file}: {name} is outside of any [device]")
    return tables


def _listed(names: Any) -> str:
    return ", ".join(sorted(names))
