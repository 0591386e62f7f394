"""Classes with exactly the names of a surface, over behaviours that know no versions.

What the version lacks is an ``AttributeError``, a call with wrong arguments a ``TypeError``, as
pybind raises them.  A name that the version has and the fake does not play is a ``NotPlayedError``:
the fake must be taught it before an adapter may use it.
"""

from __future__ import annotations

import types
from typing import Any

from .signatures import bind


class NotPlayedError(AssertionError):
    """The real module has this name; the fake has no behaviour for it."""


class Crash(BaseException):
    """The real module would end the process here."""


class Strict(type):
    """Insists that whoever derives from a class of the library calls its constructor."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        made = super().__call__(*args, **kwargs)
        _need_ready(made, cls.__name__)
        return made


def make_classes(
    surface: dict[str, Any], behaviours: dict[str, type], world: Any = None
) -> dict[str, type]:
    """Make every class of a surface; ``behaviours`` maps their names to what plays them.

    A behaviour's methods are called with the object itself, whose ``_world`` is what all share.
    """
    classes: dict[str, type] = {}
    for name, found in surface["classes"].items():
        if found["enum"]:
            classes[name] = make_enum(name, found["enum"])
    rest = [name for name, found in surface["classes"].items() if not found["enum"]]
    for name in sorted(rest, key=lambda one: len(surface["classes"][one]["bases"])):
        bases = tuple(classes[base] for base in surface["classes"][name]["bases"])
        made = _make_class(name, surface["classes"][name], behaviours.get(name), bases, classes)
        classes[name] = made
        made._world = world  # type: ignore[attr-defined]
        for inner, members in surface["classes"][name]["nested"].items():
            enum = classes.setdefault(inner, make_enum(inner, members))
            setattr(made, inner, enum)
            for member in members:
                setattr(made, member, getattr(enum, member))
    return classes


def make_enum(name: str, members: dict[str, int]) -> type:
    """An enum as pybind's: it turns to an int when asked, and knows no operators."""

    def start(self: Any, value: int) -> None:
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"__init__(): incompatible constructor arguments: {value!r}")
        self.__dict__["value"] = value

    body: dict[str, Any] = {
        "__init__": start,
        "__setattr__": _refuse_attribute,
        "__int__": lambda self: self.value,
        "__index__": lambda self: self.value,
        "__hash__": lambda self: hash(self.value),
        "__eq__": lambda self, other: type(self) is type(other) and self.value == other.value,
        "__repr__": lambda self: f"<{name}.{self.name}: {self.value}>",
        "__str__": lambda self: f"{name}.{self.name}",
        "name": property(lambda self: next(k for k, v in members.items() if v == self.value)),
    }
    enum = type(name, (), body)
    made = {member: enum(value) for member, value in members.items()}
    for member, value in made.items():
        setattr(enum, member, value)
    enum.__members__ = made  # type: ignore[attr-defined]
    return enum


def new(cls: type, *content: bytes, **state: Any) -> Any:
    """An object that the library makes, not the program; its behaviour finds ``state`` in it."""
    made = cls.__new__(cls, *content)  # type: ignore[call-arg]
    made.__dict__.update(state, _ready=True)
    return made


def _make_class(
    name: str,
    found: dict[str, Any],
    behaviour: type | None,
    bases: tuple[type, ...],
    classes: dict[str, type],
) -> type:
    body: dict[str, Any] = {
        method: _method(name, method, lines, behaviour, classes)
        for method, lines in found["methods"].items()
        if method != "__init__"
    }
    for line in found["properties"]:
        attribute, _, read_only = line.partition(" ")
        body[attribute] = _property(name, attribute, bool(read_only), behaviour)
    body["__init__"] = _constructor(name, found["methods"].get("__init__"), behaviour, classes)
    kind = {"metaclass": Strict}
    made = types.new_class(name, bases + _buffer_base(behaviour), kind, lambda to: to.update(body))

    def put(self: Any, attribute: str, value: Any) -> None:
        if type(self) is made and not isinstance(getattr(made, attribute, None), property):
            _refuse_attribute(self, attribute, value)
        object.__setattr__(self, attribute, value)

    made.__setattr__ = put  # type: ignore[method-assign,assignment]
    return made


def _buffer_base(behaviour: type | None) -> tuple[type, ...]:
    return (bytes,) if getattr(behaviour, "is_buffer", False) else ()


def _constructor(name: str, lines: Any, behaviour: Any, classes: dict[str, type]) -> Any:
    def start(self: Any, *args: Any, **kwargs: Any) -> None:
        if not lines:
            raise TypeError(f"tensorrt.{name}: No constructor defined!")
        bound = bind("__init__", lines, args, kwargs, classes)
        self.__dict__["_ready"] = True
        if hasattr(behaviour, "made"):
            behaviour.made(self, **bound)

    return start


def _method(name: str, method: str, lines: list[str], behaviour: Any, classes: Any) -> Any:
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        bound = bind(method, lines, args, kwargs, classes)
        _need_ready(self, name)
        if not hasattr(behaviour, method):
            raise NotPlayedError(f"{name}.{method}")
        return getattr(behaviour, method)(self, **bound)

    call.__name__ = method
    return call


def _property(name: str, attribute: str, read_only: bool, behaviour: Any) -> property:
    def get(self: Any) -> Any:
        _need_ready(self, name)
        if not hasattr(behaviour, f"get_{attribute}"):
            raise NotPlayedError(f"{name}.{attribute}")
        return getattr(behaviour, f"get_{attribute}")(self)

    def put(self: Any, value: Any) -> None:
        _need_ready(self, name)
        if not hasattr(behaviour, f"set_{attribute}"):
            raise NotPlayedError(f"{name}.{attribute} = ...")
        getattr(behaviour, f"set_{attribute}")(self, value)

    return property(get, None if read_only else put)


def _need_ready(self: Any, name: str) -> None:
    if not self.__dict__.get("_ready"):
        raise TypeError(f"tensorrt.{name}.__init__() must be called when overriding __init__")


def _refuse_attribute(self: Any, attribute: str, value: Any) -> None:
    raise AttributeError(f"'{type(self).__name__}' object has no attribute '{attribute}'")
