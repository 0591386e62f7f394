"""Which network is meant: how it is referred to, and what was asked of it, as plain data.

A ``ModelChoice`` is all that decides a network; commands make one of their options, and it travels
to other processes. Its ``name`` is what tables and plans are keyed by: without the folder of a
file, so that a table made in one folder is of the same network in another, but with the arguments,
which make another network. No torch is needed to speak of a network.
"""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from dshrink.errors import NetworkError
from latency_tables.wording import counted

#: What ``weights`` may be besides files.
NAMED_WEIGHTS = ("initial", "pretrained", "random")
FORMS = (
    "a timm name, torchvision:NAME, hf:NAME, FILE.py:FACTORY, package.module:FACTORY or FILE.onnx"
)
#: How the names of networks begin that were given as modules; none of a Python package does.
IN_MEMORY = "in-memory:"
#: What networks are loaded with where nothing is said: ImageNet's usual.
USUAL_SIDE, USUAL_CHANNELS = 224, 3
#: From which and up to which side images are taken: above, no machine here holds the activations.
LEAST_SIDE, MOST_SIDE = 8, 4096
MOST_CHANNELS, MOST_CLASSES = 4096, 1_000_000
_WEIGHT_FILES = (".pt", ".pth", ".tar", ".bin", ".ckpt", ".safetensors")


class Size(NamedTuple):
    """Height and width in pixels."""

    height: int
    width: int

    @classmethod
    def parse(cls, text: str) -> Size:
        """``224x160``, height first, or ``224``. Raises NetworkError."""
        match = re.fullmatch(r"([0-9]{1,9})(?:[xX]([0-9]{1,9}))?", text.strip())
        if match is None:
            raise NetworkError(
                f"resolution {text[:40]!r}: give HEIGHTxWIDTH such as 224x160, or 224"
            )
        return cls.of(int(match[1]), int(match[2] or match[1]))

    @classmethod
    def of(cls, height: int, width: int) -> Size:
        if min(height, width) < LEAST_SIDE:
            raise NetworkError(
                f"resolution {height}x{width}: height and width are {LEAST_SIDE} or more"
            )
        if max(height, width) > MOST_SIDE:
            raise NetworkError(
                f"resolution {height}x{width}: height and width are at most {MOST_SIDE}"
            )
        return cls(height, width)

    def __str__(self) -> str:
        """As the option takes it."""
        return f"{self.height}" if self.height == self.width else f"{self.height}x{self.width}"


def check_channels(count: int) -> None:
    """Raise NetworkError for what is no number of channels of an image."""
    if not 1 <= count <= MOST_CHANNELS:
        raise NetworkError(f"in_channels {count}: an image has 1 to {MOST_CHANNELS}")


class Source(Enum):
    """Where networks come from."""

    TIMM = "timm"
    TORCHVISION = "torchvision"
    HF = "hf"
    FACTORY = "factory"
    ONNX = "onnx"
    #: A module that a Python session holds; nobody can load it by its name.
    MEMORY = "in-memory"


@dataclass(frozen=True, slots=True)
class Reference:
    """A MODEL taken apart: ``place`` is a name, a file or a module, ``factory`` what is in it."""

    source: Source
    place: str
    factory: str = ""

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Raises NetworkError for what can be none of ``FORMS``."""
        if text.lower().endswith(".onnx"):
            return cls(Source.ONNX, text)
        place, colon, factory = text.rpartition(":")
        if place in ("timm", "torchvision") or text.startswith(("hf:", IN_MEMORY)):
            library, _, name = text.partition(":")
            return cls(Source(library), name)
        if text.endswith(".py") or (colon and place.endswith(".py") and not factory):
            raise NetworkError(
                f"{text}: give what makes the network in it as well: FILE.py:FACTORY"
            )
        if text.lower().endswith(_WEIGHT_FILES):
            raise NetworkError(f"{text} is a file of weights: MODEL is {FORMS}; --weights takes it")
        if not colon:
            return cls(Source.TIMM, text)
        if not place.endswith(".py") and not all(map(str.isidentifier, place.split("."))):
            raise NetworkError(f"{text}: unknown kind of model; give {FORMS}")
        if not all(map(str.isidentifier, factory.split("."))):
            raise NetworkError(f"{text}: {factory!r} is no name in Python: give FILE.py:FACTORY")
        return cls(Source.FACTORY, place, factory)

    @property
    def is_file(self) -> bool:
        """Whether ``place`` is a path."""
        return (
            self.source is Source.ONNX
            or (self.source is Source.FACTORY and self.place.endswith(".py"))
            or (self.source is Source.HF and self.place.startswith((".", "/", "~")))
        )

    @property
    def name(self) -> str:
        """What tables and plans call it."""
        return replace(self, place=Path(self.place).name).text if self.is_file else self.text

    @property
    def text(self) -> str:
        """As it is given to a command."""
        if self.source is Source.FACTORY:
            return f"{self.place}:{self.factory}"
        prefix = "" if self.source in (Source.TIMM, Source.ONNX) else f"{self.source.value}:"
        return f"{prefix}{self.place}"

    @property
    def takes_classes(self) -> bool:
        """Whether the number of outputs can be asked for; a factory has arguments of its own."""
        return self.source in (Source.TIMM, Source.TORCHVISION, Source.HF)


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What a plan, a table, weights or images know of the network that they are for.

    ``whose`` names them in errors.
    """

    whose: str
    resolution: tuple[int, int] | None = None
    in_channels: int | None = None
    classes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelChoice:
    """A network by its reference ``model``, and what is asked of it.

    ``model_args`` are texts KEY=VALUE, arguments of the factory or of the library's. ``resolution``
    (height, width), ``in_channels`` and ``classes`` are None where nothing is asked. ``weights`` is
    "initial", "pretrained", "random" or a file, from which ``weights_ema`` takes the moving
    average. ``seed`` draws initial weights.
    """

    model: str
    model_args: tuple[str, ...] = ()
    resolution: tuple[int, int] | None = None
    in_channels: int | None = None
    classes: int | None = None
    weights: str = "initial"
    weights_ema: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        Reference.parse(self.model)
        self.arguments  # noqa: B018 - refused here, before anything is loaded
        if self.resolution is not None:
            Size.of(*self.resolution)
        if any(count is not None and count < 1 for count in (self.in_channels, self.classes)):
            raise NetworkError("--in-channels and --classes count from 1")
        if self.in_channels is not None:
            check_channels(self.in_channels)
        if self.classes is not None and self.classes > MOST_CLASSES:
            raise NetworkError(f"--classes {self.classes}: at most {MOST_CLASSES}")
        if not -(1 << 63) <= self.seed < 1 << 63:
            raise NetworkError(f"--seed {self.seed}: give an integer of up to 64 bits")
        if self.weights_ema and self.weights in NAMED_WEIGHTS:
            raise NetworkError(
                f"--weights {self.weights} has no moving average: give a file, or no --weights-ema"
            )

    @property
    def reference(self) -> Reference:
        return Reference.parse(self.model)

    @property
    def arguments(self) -> Mapping[str, Any]:
        """The arguments by name: Python's literals, texts where they are none."""
        found: dict[str, Any] = {}
        for text in self.model_args:
            key, equals, value = text.partition("=")
            if not equals or not key.isidentifier():
                raise NetworkError(f"--model-arg {text}: give KEY=VALUE, such as width=0.5")
            if key in found:
                raise NetworkError(f"--model-arg {key} is given twice")
            found[key] = _value(value)
        return found

    @property
    def name(self) -> str:
        """What tables and plans are keyed by: "resnet18", "net.py:make width=0.5"."""
        base, arguments = self.reference.name, self.arguments
        if not arguments:
            return base
        words = (
            f"{key}={value if isinstance(value, str) else repr(value)}"
            for key, value in sorted(arguments.items())
        )
        return shlex.join([base, *words])

    @property
    def size(self) -> Size:
        """The resolution asked for, else the usual one."""
        return Size(*(self.resolution or (USUAL_SIDE, USUAL_SIDE)))

    @property
    def channels(self) -> int:
        """The input channels asked for, else the usual number."""
        return USUAL_CHANNELS if self.in_channels is None else self.in_channels

    def knowing(self, *sources: Known | None) -> ModelChoice:
        """With what the sources know where nothing is asked; of several, the first one's.

        Raises NetworkError where that differs from what is asked.
        """
        found: dict[str, Any] = {}
        for field in ("resolution", "in_channels", "classes"):
            asked = getattr(self, field)
            source = next((s for s in sources if s and getattr(s, field) is not None), None)
            if source is None:
                continue
            known = getattr(source, field)
            if asked is not None and asked != known:
                option = f"--{field.replace('_', '-')}"
                given = Size(*asked) if field == "resolution" else asked
                theirs = (
                    "x".join(map(str, known))
                    if field == "resolution"
                    else counted(known, *_NOUN[field])
                )
                raise NetworkError(
                    f"{option} {given}: {source.whose} is for {theirs}; leave {option} out"
                )
            found[field] = known
        return replace(self, **found)

    def with_absolute_paths(self) -> ModelChoice:
        """The same network, for a process that works in another folder."""
        at = self.reference
        if not at.is_file:
            return self
        place = str(expanded(at.place).absolute())
        return replace(self, model=replace(at, place=place).text)

    @property
    def words(self) -> list[str]:
        """The words of a command that ask for this network, without its weights and inputs."""
        return [self.model, *(word for one in self.model_args for word in ("--model-arg", one))]


_NOUN = {"in_channels": ("input channel",), "classes": ("class", "classes")}


@lru_cache(maxsize=256)
def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


def expanded(place: str) -> Path:
    """The path with the user's home folder for ``~``, where the user has one."""
    try:
        return Path(place).expanduser()
    except RuntimeError:  # no HOME, and no entry of this user
        return Path(place)


def same_model(one: str, other: str) -> bool:
    """Whether two names are of one network; timm's may end in a tag (mobilenetv2_100.ra_in1k)."""
    return untagged(one) == untagged(other)


def untagged(name: str) -> str:
    """A name without the tag of its weights, which only timm's names have."""
    return name if is_own(name) else name.partition(".")[0]


def is_own(name: str) -> bool:
    """Whether a network's name is none of timm's."""
    return ":" in name or name.lower().endswith(".onnx")
