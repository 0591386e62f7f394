"""Frames per second of whole networks, measured interleaved, beside what a table predicts.

Latency does not depend on the weights, so a network given by name and plan is built with random
ones; an ONNX file is measured as it is. The rounds, the order and the statistic are those of a
profile, so that prediction and measurement mean the same.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from dshrink.errors import DshrinkError
from dshrink.merge.export import METADATA_KEY
from dshrink.network.models import Network
from dshrink.pieces.plan_binding import bind_to_network
from dshrink.pieces.specs import shrunk_spec
from dshrink.results import BenchmarkResult
from dshrink.search.plan import Plan
from latency_tables.errors import LatencyTableError
from latency_tables.predictor import Prediction, predict
from latency_tables.schema import Conditions
from latency_tables.table import LatencyTable
from profiler.jobs import AnyJob, FileJob, Job, JobPlan
from profiler.measurement import Measurement
from profiler.schedulers import Scheduler
from profiler.session import Progress, Session
from profiler.settings import settings_for
from profiler.workloads import build_onnx

#: Few networks can have many rounds: up to four times the planned time until they are settled.
BENCH_EFFORT: Mapping[str, Any] = {"rounds": 6, "extra_rounds": 40, "extra_share": 4.0}
#: From so many networks on that is too long: a study's wait for each other.
MANY_NETWORKS = 12
MIB = float(1 << 20)


class BenchmarkError(DshrinkError):
    """Nothing to measure, or a file that cannot be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A network to measure; ``keep_mask`` is empty where it is not known (a foreign file).

    It is a span mask where the network is cut into ``segments`` "spans".
    """

    label: str
    model: str
    keep_mask: str
    padding: str
    resolution: tuple[int, ...]
    job: AnyJob
    macs: int | None = None
    parameters: int | None = None
    file: str = ""
    #: Tables hold merged blocks with the free activation; without it there is no prediction.
    free_activation: bool = True
    segments: str = "blocks"
    #: The network as it is, which any table of it predicts.
    original: bool = False
    #: How the network came about, with which seed, how accurate it is, and on how many of which
    #: images (their digest), where its file says so.
    method: str = ""
    recipe: str = ""
    seed: int | None = None
    accuracy_percent: float | None = None
    validation_images: int | None = None
    data: str = ""


def candidates_of(
    network: Network, plans: Sequence[Plan], padding: str | None = None
) -> list[Candidate]:
    """The original network and one candidate a plan. Raises PlanError for a plan that misfits."""
    keep_mask = "1" * len(network.blocks)
    wanted = [(network.name, "blocks", keep_mask, "", network.spec)]
    for plan in plans:
        bound = bind_to_network(plan, network)
        form = padding or bound.padding
        spec = shrunk_spec(network, bound.mask, segments=bound.segments, padding=form)
        label = Path(plan.source or plan.text).name
        wanted.append((label, bound.segments, bound.mask, form, spec))
    return [
        Candidate(
            label=label,
            model=network.name,
            segments=segments,
            keep_mask=mask,
            padding=form,
            resolution=network.resolution,
            job=Job(id=f"{network.name} {mask} {form}", kind="network", label=label, spec=spec),
            macs=spec.macs,
            parameters=spec.parameters,
            original=spec is network.spec,
        )
        for label, segments, mask, form, spec in wanted
    ]


def candidate_of_file(path: Path, batch: int) -> Candidate:
    """A network from an ONNX file; files of ``dshrink merge`` say what they are.

    Raises BenchmarkError for what is no ONNX file or has another batch than asked for.
    """
    try:
        model = onnx.load(path)
        shape = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    except FileNotFoundError:
        raise BenchmarkError(f"{path}: no such file; give a timm name or an ONNX file") from None
    except Exception as error:
        raise BenchmarkError(f"{path}: not an ONNX model ({type(error).__name__})") from error
    if shape and shape[0] not in (0, batch):
        raise BenchmarkError(
            f"{path}: its batch is {shape[0]}, asked for is {batch}; export it again with "
            f"--batch {batch}, or measure with --batch {shape[0]}"
        )
    properties = {entry.key: entry.value for entry in model.metadata_props}
    try:
        known = json.loads(properties.get(METADATA_KEY, "{}"))
    except ValueError:
        known = {}
    seed = _metadata_number(path, known, "seed", 2.0**63)
    images = _metadata_number(path, known, "validation_images", 2.0**63, lowest=1)
    return Candidate(
        label=path.name,
        model=str(known.get("model", "")),
        keep_mask=str(known.get("keep_mask", "")),
        padding=str(known.get("padding", "")),
        resolution=tuple(shape[2:]),
        job=FileJob(id=f"file {path}", kind="network", label=path.name, file=path),
        file=str(path),
        free_activation=bool(known.get("free_activation", True)),
        segments=str(known.get("segments", "blocks")),
        method=str(known.get("method") or ""),
        seed=None if seed is None else int(seed),
        accuracy_percent=_metadata_number(path, known, "accuracy_percent", 100.0),
        validation_images=None if images is None else int(images),
        data=str(known.get("data") or ""),
        recipe=str(known.get("recipe") or ""),
    )


def _metadata_number(
    path: Path, known: Mapping[str, Any], name: str, highest: float, lowest: int = 0
) -> float | None:
    """None where the file says nothing. Raises BenchmarkError for what cannot be."""
    value = known.get(name)
    if value is None:
        return None
    is_number = not isinstance(value, bool)
    if is_number and isinstance(value, int | float) and lowest <= value <= highest:
        return value
    raise BenchmarkError(
        f"{path}: {name} in its metadata must be a number from {lowest} to {highest:g}, got "
        f"{value!r}: write the file again with `dshrink merge`"
    )


def _effort(networks: int) -> Mapping[str, Any]:
    """How long so many networks are measured."""
    return {**BENCH_EFFORT, "extra_share": 1.0} if networks > MANY_NETWORKS else BENCH_EFFORT


def run_benchmark(
    candidates: Sequence[Candidate],
    conditions: Conditions,
    scheduler: Scheduler,
    folder: Path,
    *,
    tables: Sequence[LatencyTable] = (),
    seed: int = 0,
    progress: Progress | None = None,
    notice: Callable[[str], None] = lambda line: None,
) -> list[BenchmarkResult]:
    """Measure the candidates interleaved; ``folder`` keeps the journal and is gone on with.

    ``notice`` is told, before anything is measured, what a table of ``tables`` cannot predict.
    """
    if not candidates:
        raise BenchmarkError("no network to measure")
    predictions = [_prediction(candidate, conditions, tables, notice) for candidate in candidates]
    jobs = {candidate.job.id: candidate.job for candidate in candidates}
    anchor = next(iter(jobs.values())).as_anchor()
    plan = JobPlan(jobs=tuple(jobs.values()), anchors=(anchor,))
    with Session(
        plan=plan,
        conditions=conditions,
        scheduler=scheduler,
        build=build_onnx,
        folder=folder,
        settings=settings_for(conditions, **_effort(len(jobs)), seed=seed),
    ) as session:
        result = session.run(*([progress] if progress else []))
        session.workloads.delete()
    return [
        _result(
            candidate,
            result.measurements[candidate.job.id],
            result.built[candidate.job.id],
            conditions,
            prediction,
        )
        for candidate, prediction in zip(candidates, predictions, strict=True)
    ]


def _result(
    candidate: Candidate,
    measurement: Measurement,
    built: Mapping[str, Any],
    conditions: Conditions,
    prediction: Prediction | None,
) -> BenchmarkResult:
    m = None if measurement.failed else measurement
    blocks = candidate.keep_mask if candidate.segments == "blocks" else ""
    images_ms = 1000.0 * conditions.batch
    error = prediction and m and 100.0 * (prediction.latency_ms / m.latency_ms - 1.0)
    return BenchmarkResult(
        network=candidate.label,
        model=candidate.model,
        keep_mask=candidate.keep_mask,
        kept_blocks=blocks.count("1") if blocks else None,
        padding=candidate.padding,
        device=conditions.device,
        runtime=conditions.runtime,
        precision=conditions.precision,
        batch=conditions.batch,
        threads=conditions.threads,
        clock=conditions.clock,
        statistic=conditions.statistic,
        latency_ms=m.latency_ms if m else None,
        low_ms=m.low_ms if m else None,
        high_ms=m.high_ms if m else None,
        median_ms=m.median_ms if m else None,
        throughput_fps=images_ms / m.latency_ms if m else None,
        throughput_low_fps=images_ms / m.high_ms if m else None,
        throughput_high_fps=images_ms / m.low_ms if m else None,
        predicted_ms=prediction.latency_ms if prediction else None,
        predicted_low_ms=prediction.low_ms if prediction else None,
        predicted_high_ms=prediction.high_ms if prediction else None,
        error_percent=error if isinstance(error, float) else None,
        macs=candidate.macs,
        parameters=candidate.parameters,
        verdict=measurement.verdict,
        reason=measurement.reason,
        file=candidate.file,
        launch=conditions.launch,
        cache_mode=conditions.cache_mode,
        enqueue_ms=m.enqueue_ms if m else None,
        built_precision=m.built_precision if m else "",
        build_s=_number(built, "build_s", 1.0),
        engine_mib=_number(built, "engine_bytes", MIB),
        gpu_memory_mib=_number(built, "device_memory_bytes", MIB),
        method=candidate.method,
        seed=candidate.seed,
        accuracy_percent=candidate.accuracy_percent,
        validation_images=candidate.validation_images,
        data=candidate.data,
        recipe=candidate.recipe,
        resolution="x".join(map(str, candidate.resolution)) if all(candidate.resolution) else "",
    )


def _number(facts: Mapping[str, Any], name: str, unit: float) -> float | None:
    return None if facts.get(name) is None else float(facts[name]) / unit


def _prediction(
    candidate: Candidate,
    conditions: Conditions,
    tables: Sequence[LatencyTable],
    notice: Callable[[str], None],
) -> Prediction | None:
    """What the first table of this network under these conditions says that can predict it."""
    for table in tables:
        network = (table.model, table.resolution) == (candidate.model, candidate.resolution)
        if not network or table.conditions.differences(conditions):
            continue
        same = candidate.free_activation and candidate.segments == (
            "spans" if table.chain else "blocks"
        )
        mask = table.forms.base if candidate.original else candidate.keep_mask if same else ""
        try:
            if mask:
                return predict(table, mask, candidate.padding or "repad")
        except LatencyTableError as error:
            notice(f"no prediction for {candidate.label}: {error}")
    return None
