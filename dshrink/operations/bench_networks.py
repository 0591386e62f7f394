"""The networks to bench: a network under its plans, or an ONNX file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import onnx

from dshrink.errors import DshrinkError
from dshrink.merge.export import METADATA_KEY
from dshrink.network.models import Network
from dshrink.network.onnx_files.bounds import check_loops, check_sizes, check_weights, inlined
from dshrink.pieces.plan_binding import bind_to_network
from dshrink.pieces.specs import shrunk_spec
from dshrink.search.plan import Plan
from latency_tables.onnx_data import complete_content, load_complete
from latency_tables.records import convert_record
from profiler.planning.jobs import AnyJob, FileJob, Job


class BenchmarkError(DshrinkError):
    """Nothing to measure, or a file that cannot be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkFacts:
    """What is known of a network beside its speed; files of ``dshrink merge`` record it.

    ``keep_mask`` is empty where it is not known (a foreign file), and a span mask where the network
    is cut into ``segments`` "spans". ``data`` is the digest of the images of its accuracy;
    ``trained`` says whether merged weights were trained without what was removed
    (``merge.activations``), empty where nothing is known.
    """

    model: str = ""
    keep_mask: str = ""
    padding: str = ""
    segments: str = "blocks"
    free_activation: bool = True
    method: str = ""
    recipe: str = ""
    seed: int | None = None
    accuracy_percent: float | None = None
    validation_images: int | None = None
    data: str = ""
    trained: str = ""

    def __post_init__(self) -> None:
        for name, lowest, highest in (
            ("seed", 0, 2.0**63),
            ("validation_images", 1, 2.0**63),
            ("accuracy_percent", 0, 100.0),
        ):
            value = getattr(self, name)
            if value is not None and not lowest <= value <= highest:
                raise BenchmarkError(
                    f"{name} must be a number from {lowest} to {highest:g}, got {value!r}"
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchNetwork:
    """A network to measure; ``original``: as it is, which any table of it predicts.

    ``baseline`` is the label of the network that it is compared with; empty: the first one of the
    run that was measured.
    """

    label: str
    facts: NetworkFacts
    resolution: tuple[int, ...]
    job: AnyJob
    macs: int | None = None
    parameters: int | None = None
    file: str = ""
    original: bool = False
    baseline: str = ""


def networks_by_plan(
    network: Network, plans: Sequence[Plan], padding: str | None = None
) -> list[BenchNetwork]:
    """The original network, and what each plan makes of it, to compare with the original.

    Raises PlanError for a misfit.
    """
    keep_mask = "1" * len(network.blocks)
    wanted = [(network.name, "blocks", keep_mask, "", network.spec)]
    for plan in plans:
        bound = bind_to_network(plan, network)
        form = padding or bound.padding
        spec = shrunk_spec(network, bound.mask, segments=bound.segments, padding=form)
        label = Path(plan.source or plan.text).name
        wanted.append((label, bound.segments, bound.mask, form, spec))
    return [
        BenchNetwork(
            label=label,
            facts=NetworkFacts(model=network.name, segments=segments, keep_mask=mask, padding=form),
            resolution=network.resolution,
            job=Job(id=f"{network.name} {mask} {form}", kind="network", label=label, spec=spec),
            macs=spec.macs,
            parameters=spec.parameters,
            original=spec is network.spec,
            baseline="" if spec is network.spec else network.name,
        )
        for label, segments, mask, form, spec in wanted
    ]


def network_of_file(
    path: Path,
    batch: int,
    label: str | None = None,
    resolution: tuple[int, int] | None = None,
) -> BenchNetwork:
    """A network from an ONNX file; files of ``dshrink merge`` say what they are.

    A batch that the file leaves open becomes ``batch``, height and width become ``resolution``.

    Another file is a network of its own, which a table may know by the file's name. Raises
    BenchmarkError for a file without an input, with sizes left open, or with another batch than
    asked for, as ``load_complete`` for one that is damaged or not complete, and NetworkError for
    one that asks for too much (``onnx_files.bounds``).
    """
    try:
        model = load_complete(path)
    except FileNotFoundError:
        raise BenchmarkError(f"{path}: no such file; give an ONNX file or another MODEL") from None
    stored = {one.name for one in model.graph.initializer}
    inputs = [one for one in model.graph.input if one.name not in stored]
    if not inputs:
        raise BenchmarkError(f"{path}: not an ONNX model with an input: export it again")
    dimensions = inputs[0].type.tensor_type.shape.dim
    shape = [max(0, d.dim_value) for d in dimensions]  # exporters leave a size open by -1, too
    content = complete_content(path, model)
    if len(shape) == 4 and 0 in shape[2:]:
        if resolution is None:
            raise BenchmarkError(
                f"{path}: leaves height and width open: give them with --resolution"
            )
        for at, size in zip((2, 3), resolution, strict=True):
            dimensions[at].dim_value = shape[at] = size
        content = model.SerializeToString()
    if shape and shape[0] == 0:
        _set_batch(model, dimensions[0], batch)
        content = model.SerializeToString()
    elif shape and shape[0] != batch:
        raise BenchmarkError(
            f"{path}: its batch is {shape[0]}, not {batch}: export it again with --batch {batch}, "
            f"or measure with --batch {shape[0]}"
        )
    check_weights(path, model)
    check_loops(path, inlined(path, model), counted=True)
    if all(shape):
        check_sizes(path, model, inputs[0].name, shape)
    properties = {entry.key: entry.value for entry in model.metadata_props}
    facts = _facts(properties.get(METADATA_KEY, ""), path)
    own, label = not facts.model, label or path.name
    return BenchNetwork(
        label=label,
        facts=replace(facts, model=path.name) if own else facts,
        resolution=tuple(shape[2:]),
        job=FileJob(id=f"file {path}", kind="network", label=label, file=path, content=content),
        file=str(path),
        original=own,
    )


def _set_batch(model: onnx.ModelProto, opened: onnx.TensorShapeProto.Dimension, batch: int) -> None:
    """Give ``opened``, and every dimension of its name, the size of the batch: devices measure
    fixed sizes alone.
    """
    name, graph = opened.dim_param, model.graph
    opened.dim_value = batch
    for value in (*graph.input, *graph.output, *graph.value_info):
        for dimension in value.type.tensor_type.shape.dim:
            if name and dimension.dim_param == name:
                dimension.dim_value = batch


def _facts(text: str, path: Path) -> NetworkFacts:
    """What a file says of itself, nothing where it is not ours. Raises BenchmarkError."""
    try:
        found: Any = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    known = {field.name for field in fields(NetworkFacts)}
    said = found.items() if isinstance(found, dict) else ()
    return convert_record(
        {name: value for name, value in said if name in known and value is not None},
        NetworkFacts,
        where=f"{path}: its metadata",
        error=BenchmarkError,
        fix="write the file again with `dshrink merge`",
    )
