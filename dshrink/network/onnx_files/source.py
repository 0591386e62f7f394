"""An ONNX file opened: complete, understood by the runtimes here, one image in and one tensor out.

Weights that are listed as graph inputs are no inputs. What makes a file unusable is said in one
line here, before anything is built from it. Local functions are inlined, so that a node is always
an operator.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto
from torch import nn

from dshrink.errors import NetworkError
from dshrink.network.onnx_files.bounds import (
    MOST_BYTES,
    check_loops,
    check_numbers,
    check_weights,
    inlined,
    nodes_below,
)
from dshrink.network.references import Size, check_channels
from latency_tables.errors import OnnxFileError
from latency_tables.onnx_data import load_complete

SUFFIX = ".onnx"
#: Before it, additions broadcast by attributes and norms have a mode.
OLDEST_OPSET = 7
MOST_BATCH = 4096
#: Of ``fx.GraphModule.meta``: what the module was read from, and the batch that it is fixed to.
SOURCE_KEY = "onnx_source"
#: Of a graph node's meta data: the names of the values that it makes in the file.
VALUE_KEY = "onnx"

_DEFAULT_DOMAINS = ("", "ai.onnx")
#: Some of them never end with the wrong text.
_OF_TEXTS = ("RegexFullMatch", "StringConcat", "StringNormalizer", "StringSplit", "TfIdfVectorizer")
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16)


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxSource:
    """The model of a file, and its one image input and result.

    ``size`` (H, W) and ``batch`` are None where the file leaves them open; ``element`` is the type
    of the input.
    """

    path: Path
    model: onnx.ModelProto
    image: str
    result: str
    element: int
    channels: int
    size: tuple[int, int] | None
    batch: int | None

    @property
    def opset(self) -> int:
        return opset_of(self.model)

    @property
    def is_half(self) -> bool:
        """Whether it takes images in half precision."""
        return self.element == TensorProto.FLOAT16

    def __deepcopy__(self, memo: dict[int, Any]) -> OnnxSource:
        return self  # modules that are copied share the file that they came from


def is_onnx_name(name: str) -> bool:
    """Whether a MODEL is meant as an ONNX file."""
    return name.lower().endswith(SUFFIX)


def source_of(module: nn.Module) -> OnnxSource | None:
    """The file that a module was read from, or None."""
    found: OnnxSource | None = getattr(module, "meta", {}).get(SOURCE_KEY)
    return found


def opset_of(model: onnx.ModelProto) -> int:
    """The version of ONNX's own operators that a model uses."""
    return next((one.version for one in model.opset_import if one.domain in _DEFAULT_DOMAINS), 0)


def open_onnx(path: Path) -> OnnxSource:
    """Read a file with the data beside it. Raises NetworkError with one line."""
    model = _load(path)
    _check_versions(path, model)
    model = inlined(path, model)
    check_loops(path, model)
    _check_operators(path, model)
    check_weights(path, model)
    check_numbers(path, model)
    image = _one_input(path, model)
    if len(model.graph.output) != 1:
        names = [one.name for one in model.graph.output]
        raise NetworkError(
            f"{path}: gives {len(names)} results ({_listed(names)}), one is needed; cut one out: "
            f"onnx.utils.extract_model(FILE, NEW, [{image.name!r}], {names[:1]})"
        )
    batch, channels, size = _dimensions(path, image)
    try:
        if size:
            Size.of(*size)
        check_channels(channels)
    except NetworkError as error:
        raise NetworkError(f"{path}: its input {image.name[:60]!r}: {error}") from None
    if batch is not None and batch > MOST_BATCH:
        raise NetworkError(f"{path}: its batch of {batch} is above {MOST_BATCH}: export it with 1")
    result = model.graph.output[0]
    element = result.type.tensor_type.elem_type
    if element not in (*_FLOATS, TensorProto.UNDEFINED):
        raise NetworkError(
            f"{path}: its result {result.name!r} is {_type_name(element)}, not numbers that can be "
            "compared: end the network before what decides (ArgMax, NonZero)"
        )
    return OnnxSource(
        path=path,
        model=model,
        image=image.name,
        result=result.name,
        element=image.type.tensor_type.elem_type,
        channels=channels,
        size=size,
        batch=batch,
    )


def _load(path: Path) -> onnx.ModelProto:
    try:
        model = load_complete(path)
    except FileNotFoundError:
        raise NetworkError(
            f"{path}: no such file; give an ONNX file or the name of a network"
        ) from None
    except (OnnxFileError, OSError) as error:
        raise NetworkError(str(error)) from error
    if not model.graph.node:
        raise NetworkError(f"{path} is not an ONNX model, or has no node: export it again")
    if model.ByteSize() > MOST_BYTES:
        raise NetworkError(f"{path}: above 2 GiB with its weights, which no runtime here is sent")
    return model


def _check_versions(path: Path, model: onnx.ModelProto) -> None:
    newest, opset = onnx.defs.onnx_opset_version(), opset_of(model)
    if model.ir_version > onnx.IR_VERSION:
        raise NetworkError(
            f"{path}: its IR version is {model.ir_version}, onnx {onnx.__version__} reads up to "
            f"{onnx.IR_VERSION}: export it for an older one, or install a newer onnx"
        )
    if not OLDEST_OPSET <= opset <= newest:
        raise NetworkError(
            f"{path}: its opset is {opset or 'not given'}, from {OLDEST_OPSET} to {newest} are "
            "read: export it with another one (opset_version=17), or use onnx.version_converter"
        )


def _check_operators(path: Path, model: onnx.ModelProto) -> None:
    """Raise for an operator that ONNX does not define: nothing here could evaluate it."""
    versions = {one.domain: one.version for one in model.opset_import}
    for node in nodes_below(model.graph):
        domain = "" if node.domain in _DEFAULT_DOMAINS else node.domain
        if not domain and node.op_type in _OF_TEXTS:
            raise NetworkError(
                f"{path}: {node.op_type} (node {node.name[:60]!r}) is for texts, this network is "
                "for images: cut the model before it (onnx.utils.extract_model)"
            )
        version = opset_of(model) if not domain else versions.get(domain, 1)
        if onnx.defs.has(node.op_type, version, domain):
            continue
        if domain == "com.microsoft":
            hint = "give the file from before ONNX Runtime optimized it"
        else:
            hint = "cut the model before it (onnx.utils.extract_model), or export without it"
        raise NetworkError(
            f"{path}: operator {node.op_type!r} of {domain or 'ONNX'!r} (node {node.name!r}) is "
            f"none that ONNX {f'opset {version} ' if not domain else ''}defines: {hint}"
        )


def _one_input(path: Path, model: onnx.ModelProto) -> onnx.ValueInfoProto:
    stored = {one.name for one in model.graph.initializer}
    stored |= {one.values.name for one in model.graph.sparse_initializer}
    inputs = [one for one in model.graph.input if one.name not in stored]
    if len(inputs) != 1:
        raise NetworkError(
            f"{path}: takes {len(inputs)} inputs ({_listed([one.name for one in inputs])}), one "
            "image is needed: export it with the others fixed"
        )
    found: onnx.ValueInfoProto = inputs[0]
    return found


def _dimensions(
    path: Path, image: onnx.ValueInfoProto
) -> tuple[int | None, int, tuple[int, int] | None]:
    """Batch, channels and size of the image input."""
    kind = image.type.tensor_type
    sizes = [d.dim_value if d.dim_value > 0 else None for d in kind.shape.dim]
    shown = "x".join(
        str(size or d.dim_param or "?") for size, d in zip(sizes, kind.shape.dim, strict=True)
    )
    what = f"{path}: its input {image.name!r} is {_type_name(kind.elem_type)} {shown}"
    if kind.elem_type not in _FLOATS:
        raise NetworkError(
            f"{what}: a float32 or float16 image (N, C, H, W) is needed; export the network "
            "without what prepares the image"
        )
    if len(sizes) != 4:
        raise NetworkError(f"{what}: an image (N, C, H, W) is needed, with its batch axis")
    batch, channels, height, width = sizes
    if channels is None:
        raise NetworkError(f"{what}: the number of channels must be fixed: export it again")
    if width in (1, 3, 4) and channels not in (1, 3, 4):
        raise NetworkError(
            f"{what}: channels come last, (N, C, H, W) is needed; tf2onnx makes it with "
            f"--inputs-as-nchw {image.name}"
        )
    return batch, channels, (height, width) if height and width else None


def reads_of(node: onnx.NodeProto) -> list[str]:
    """What a node reads: its inputs, and what its subgraphs take from outside."""
    found = [name for name in node.input if name]
    for attribute in node.attribute:
        for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            made = {one.name for one in (*graph.input, *graph.initializer)}
            for inner in graph.node:
                found += [name for name in reads_of(inner) if name not in made]
                made.update(inner.output)
            found += [one.name for one in graph.output if one.name not in made]
    return list(dict.fromkeys(found))


def _type_name(element: int) -> str:
    try:
        return str(TensorProto.DataType.Name(element)).lower()
    except ValueError:
        return f"type {element}"


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return ", ".join(name[:60] for name in names[:4]) + more
