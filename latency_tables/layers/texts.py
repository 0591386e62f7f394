"""Layers from text: fields of a CSV, "cin=96 cout=96 k=3 hw=28" and grids of such values.

Names are those of ``Layer`` or the field's short ones: cin, cout, k, s, p, d, g, h, w, hw, act.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from latency_tables.csv_lines import CsvSource, load_lines
from latency_tables.errors import PieceError, TableFormatError
from latency_tables.layers.layer import KINDS, LAYER_COLUMNS, Layer, Pair
from latency_tables.measured import one_line
from latency_tables.wording import counted

#: Other names of fields; ``hw`` stands for both height and width.
SHORT = {
    "cin": "in_channels",
    "cout": "out_channels",
    "in_features": "in_channels",
    "out_features": "out_channels",
    "k": "kernel",
    "kernel_size": "kernel",
    "s": "stride",
    "p": "padding",
    "pad": "padding",
    "d": "dilation",
    "g": "groups",
    "h": "height",
    "w": "width",
    "act": "activation",
    "resolution": "hw",
}
FIELDS = (*LAYER_COLUMNS, "hw")
#: What groups, and output channels, may be given as.
AS_INPUT = {"groups": ("dw", "depthwise", "cin", "in_channels"), "out_channels": ("cin",)}
_PAIRS = ("kernel", "stride", "padding", "dilation", "hw")
_FLAGS = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
_ACTIVATIONS = {"none": "", "identity": "", "swish": "silu", "hswish": "hard_swish"}
_ACTIVATIONS |= {"h_swish": "hard_swish", "hardswish": "hard_swish", "hsigmoid": "hard_sigmoid"}
_WHOLE = re.compile(r"(\d{1,9})(?:\.0*)?", re.ASCII)
_RANGE = re.compile(r"(\d{1,9}):(\d{1,9})(?::(\d{1,9}))?", re.ASCII)

#: Between several names of a layer in a cell of a table.
NAMES_END = ";"
#: More layers than anyone measures, and fewer than fill the memory.
MOST_LAYERS = 100_000
FIX = "one layer a line: in_channels, out_channels, kernel, height (see docs/layers.md)"


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerList:
    """Distinct layers in the order of their first mention.

    ``names`` are those that a file gives a layer, ``given`` is how many lines or combinations there
    were, ``impossible`` the combinations of a grid that are no layer, each with the reason.
    """

    layers: tuple[Layer, ...]
    names: Mapping[Layer, tuple[str, ...]] = field(default_factory=dict)
    given: int = 0
    impossible: tuple[str, ...] = ()


def parse_layer(text: str) -> Layer:
    """The layer of "cin=96 cout=96 k=3 hw=28 g=dw act=relu6". Raises PieceError."""
    values = _assignments(text)
    try:
        return layer_of(values)
    except PieceError as error:
        raise PieceError(f"layer {text!r}: {error}") from None


def layer_of(texts: Mapping[str, str]) -> Layer:
    """The layer of these fields by name, short or long; an empty one counts as not given.

    Raises PieceError.
    """
    given: dict[str, str] = {}
    for key, text in texts.items():
        name = field_name(key)
        if name in given and text.strip():
            raise PieceError(f"{name} is given twice")
        if text.strip():
            given[name] = text.strip()
    if "in_channels" not in given:
        raise PieceError("in_channels (cin) is missing")
    values = {name: _value(name, text) for name, text in given.items() if text not in _as(name)}
    for name in given.keys() - values.keys():
        values[name] = values["in_channels"]
    if size := values.pop("hw", None):
        if values.keys() & {"height", "width"}:
            raise PieceError("give hw, or height and width")
        values["height"], values["width"] = size
    kind = values.get("kind", "conv")
    if kind != "linear" and "height" not in values:
        raise PieceError(f"height (or hw) is missing: the cost of a {kind} depends on it")
    if kind in ("conv", "linear") and "out_channels" not in values:
        raise PieceError("out_channels (cout) is missing")
    return Layer(**values)


def field_name(key: str) -> str:
    """The field that a name means. Raises PieceError."""
    name = key.strip().lower()
    name = SHORT.get(name, name)
    if name not in FIELDS:
        known = [*FIELDS, *SHORT]
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
        mend = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
        raise PieceError(f"unknown field of a layer {key.strip()!r}; {mend}")
    return name


def load_layers(path: Any) -> LayerList:
    """The layers of a CSV, one a line; a column ``name`` is kept.

    Raises TableFormatError, which names the line.
    """
    source = CsvSource(where=str(path), error=TableFormatError, fix=FIX)
    lines = load_lines(path, source)
    columns = list(lines[0].values)
    try:
        for column in columns:
            if column != "name":
                field_name(column)
    except PieceError as error:
        raise source.bad(str(error), 1) from None
    _check_count(len(lines), str(path))
    names: dict[Layer, tuple[str, ...]] = {}
    for line in lines:
        try:
            layer = layer_of({key: text for key, text in line.values.items() if key != "name"})
        except PieceError as error:
            raise line.error(str(error)) from None
        said = one_line(line.values.get("name", ""))
        if NAMES_END in said:
            raise line.error(f"name {said!r} must not contain {NAMES_END!r}, which separates names")
        before = names.setdefault(layer, ())
        names[layer] = (*before, said) if said and said not in before else before
    return LayerList(layers=tuple(names), names=names, given=len(lines))


def parse_grid(text: str) -> LayerList:
    """All combinations of values: "cin=16:256:16 cout=16:256:16 k=1,3 hw=56,28".

    ``from:to:step`` includes both ends; ``cout=cin`` and ``g=dw`` follow the input channels.
    Combinations that are no layer are left out and counted. Raises PieceError.
    """
    axes = {name: list(_values(name, said)) for name, said in _assignments(text).items()}
    count = 1
    for values in axes.values():
        count *= len(values)
    _check_count(count, "--grid")
    layers: dict[Layer, None] = {}
    impossible = []
    for combination in product(*axes.values()):
        texts = dict(zip(axes, combination, strict=True))
        try:
            layers[layer_of(texts)] = None
        except PieceError as error:
            impossible.append(f"{_said(texts)}: {error}")
    if not layers:
        raise PieceError(f"--grid {text!r} has no layer: {impossible[0]}")
    return LayerList(layers=tuple(layers), given=count, impossible=tuple(impossible))


def _check_count(count: int, where: str) -> None:
    if count > MOST_LAYERS:
        raise PieceError(
            f"{where}: {counted(count, 'layer')}; at most {MOST_LAYERS} are measured in one table"
        )


def _assignments(text: str) -> dict[str, str]:
    """ "k=3 hw=28" by the field's name. Raises PieceError."""
    found: dict[str, str] = {}
    for word in text.split():
        key, equals, value = word.partition("=")
        if not (key and equals and value):
            raise PieceError(f"{word!r} is not NAME=VALUE, as in {EXAMPLE!r}")
        name = field_name(key)
        if name in found:
            raise PieceError(f"{name} is given twice in {text!r}")
        found[name] = value
    if not found:
        raise PieceError(f"no layer given; write one as in {EXAMPLE!r}")
    return found


EXAMPLE = "cin=96 cout=96 k=3 hw=28"


def _values(name: str, text: str) -> Iterator[str]:
    """The values of an axis, each as text."""
    for part in text.split(","):
        if not part:
            raise PieceError(f"{name}={text}: a value is missing beside a comma")
        if not (found := _RANGE.fullmatch(part)):
            yield part
            continue
        low, high, step = int(found[1]), int(found[2]), int(found[3] or 1)
        if not step or high < low:
            raise PieceError(f"{name}={part}: a range is from:to:step, to at least from")
        _check_count((high - low) // step, "--grid")
        yield from map(str, range(low, high + 1, step))


def _said(texts: Mapping[str, str]) -> str:
    return " ".join(f"{name}={text}" for name, text in texts.items())


def _as(name: str) -> Sequence[str]:
    return AS_INPUT.get(name, ())


def _value(name: str, text: str) -> Any:
    """A field's value. Raises PieceError."""
    lowered = text.lower()
    if name == "kind":
        return _kind(lowered)
    if name == "activation":
        lowered = lowered.replace("-", "_")
        return _ACTIVATIONS.get(lowered, lowered)
    if name in ("bias", "residual"):
        flag = _FLAGS.get(lowered.removesuffix(".0"))
        if flag is None:
            raise PieceError(f"{name} must be true or false, got {text!r}")
        return flag
    return _pair(name, lowered) if name in _PAIRS else _whole(name, text)


def _kind(text: str) -> str:
    known = {"pool": "max_pool", "maxpool": "max_pool", "avg_pool": "average_pool"}
    known |= {"conv2d": "conv", "fc": "linear", "dense": "linear"}
    kind = known.get(text, text)
    if kind not in KINDS:
        raise PieceError(f"kind {text!r} is not one of {', '.join(KINDS)}")
    return kind


def _whole(name: str, text: str) -> int:
    found = _WHOLE.fullmatch(text.strip())
    if not found:
        raise PieceError(f"{name} must be a whole number, got {text!r}")
    return int(found[1])


def _pair(name: str, text: str) -> Pair:
    if name == "padding" and text == "same":
        return -1, -1
    parts = text.split("x")
    if len(parts) > 2:
        raise PieceError(f"{name} must be a number, or HEIGHTxWIDTH, got {text!r}")
    numbers = [_whole(name, part) for part in parts]
    return numbers[0], numbers[-1]


def described(layers: Iterable[Layer]) -> str:
    """Which families there are, and how many layers of each: "96 conv 3x3, 32 linear"."""
    counts: dict[str, int] = {}
    for layer in layers:
        counts[layer.family] = counts.get(layer.family, 0) + 1
    return ", ".join(f"{count} {family}" for family, count in counts.items())
