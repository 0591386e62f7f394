"""What the page begins with: how fast, how much faster, how accurate, how sure, on what."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from dshrink.front_results import fronts_of
from dshrink.fronts import FrontError, FrontPoint
from dshrink.plots.style import describe_conditions
from dshrink.report import words
from dshrink.report.content import Fact, Facts, Mood, Section
from dshrink.report.folder import Contents
from dshrink.report.sections.measured import original_of
from dshrink.results import BenchmarkResult
from latency_tables.forms import BlockForms
from latency_tables.layers.layer_table import LayerTable
from latency_tables.predictor import predict
from latency_tables.table import LatencyTable
from latency_tables.wording import counted


def section(contents: Contents) -> Section | None:
    """None for a folder without a latency or a plan."""
    facts = [
        fact
        for fact in (
            _now(contents),
            _faster(contents),
            _accuracy(contents),
            _trust(contents),
            _noise(contents),
            _where(contents),
        )
        if fact is not None
    ]
    if not facts:
        return None
    return Section(
        anchor="answer", title="In short", blocks=(Facts(facts=tuple(facts), is_large=True),)
    )


def title(contents: Contents) -> str:
    """The networks and devices that the page is about."""
    results = contents.measured
    if contents.has_only_layers:
        count = sum(len(held.value.rows) for held in contents.layers)
        on = _on([held.value.conditions.device for held in contents.layers])
        return f"{counted(count, 'layer')}{on}"
    experiments = [held.value.name for held in contents.experiments]
    models = [held.value.model for held in contents.tables]
    models += [one.model or one.network for one in results]
    models += [held.value.model for held in contents.plans if held.value.model]
    models += [held.value.model for held in contents.refits]
    devices = [held.value.conditions.device for held in contents.tables]
    devices += [held.value.conditions.device for held in contents.layers]
    devices += [one.device for one in results]
    if experiments and not models:
        devices = [
            run.conditions.device for held in contents.experiments for run in held.value.runs
        ]
        return f"The paper's experiments{_on(devices)}"
    return f"{_listed(models) or contents.root.name}{_on(devices)}"


def _on(devices: Sequence[str]) -> str:
    return f" on {_listed(devices)}" if devices else ""


def _listed(names: Sequence[str]) -> str:
    different = list(dict.fromkeys(name for name in names if name))
    more = f" and {len(different) - 2} more" if len(different) > 2 else ""
    return f"{', '.join(different[:2])}{more}"


_NOW = "How fast is it now?"


def _now(contents: Contents) -> Fact | None:
    originals = (original_of(held.value.results) for held in contents.results)
    return (
        next((_now_measured(one) for one in originals if one and one.latency_ms), None)
        or next(filter(None, (_now_by_table(held.value) for held in contents.tables)), None)
        or _now_of_experiment(contents)
    )


def _now_measured(original: BenchmarkResult) -> Fact:
    fps = f"{original.throughput_fps:.1f} FPS" if original.throughput_fps else ""
    ends = words.interval(original.low_ms, original.high_ms, "ms")
    speed = words.latency(original.latency_ms or 0.0, original.batch)
    note = words.listed(f"{original.network}, as it is: measured", fps, ends)
    return Fact(label=_NOW, value=speed, note=note)


def _now_by_table(table: LatencyTable) -> Fact | None:
    batch, base = table.conditions.batch, table.forms.base
    whole = next((one for one in table.networks if one.keep_mask == base), None)
    if whole is not None:
        fps = f"{1000 * batch / whole.measured_ms:.1f} FPS"
        ends = words.interval(whole.low_ms, whole.high_ms, "ms")
        note = words.listed(f"{table.model}, as it is: measured", fps, ends)
        return Fact(label=_NOW, value=words.latency(whole.measured_ms, batch), note=note)
    if table.missing_row:
        return None
    note = f"{table.model}, as it is: the sum of its pieces, never measured whole"
    return Fact(label=_NOW, value=words.latency(predict(table, base).latency_ms, batch), note=note)


def _now_of_experiment(contents: Contents) -> Fact | None:
    for experiment in contents.experiments:
        for row in experiment.value.rows:
            latency_ms, batch = row.get("latency_ms"), row.get("batch")
            if row.get("form") == "original" and isinstance(latency_ms, float):
                note = f"{row.get('network')}, as it is: measured ({experiment.value.name})"
                speed = words.latency(latency_ms, batch if isinstance(batch, int) else 1)
                return Fact(label=_NOW, value=speed, note=note)
    return None


def _faster(contents: Contents) -> Fact | None:
    return (
        _fastest_point(contents)
        or _fastest_result(contents)
        or next(filter(None, (_fastest(held.value) for held in contents.tables)), None)
        or _experiment_best(contents)
    )


_FASTER = "How fast can it be?"
#: Rows of a study that are there to compare with: they merge nothing, or not by a plan.
_RIVALS = frozenset({"original", "random", "layer_pruning", "width"})


def _points(contents: Contents) -> tuple[FrontPoint, ...]:
    """Networks with accuracy and throughput, over their seeds, of the first file that has any."""
    for held in contents.results:
        with contextlib.suppress(FrontError):
            return fronts_of(held.value.results, source=held.file).fronts[0].points
    return ()


def _original_point(points: Sequence[FrontPoint]) -> FrontPoint | None:
    whole = [one for one in points if one.method == "original" or one.network == one.model]
    return whole[0] if whole else None


def _best_point(points: Sequence[FrontPoint]) -> FrontPoint | None:
    """The fastest of those that were planned."""
    original = _original_point(points)
    planned = [one for one in points if one.method not in _RIVALS and one is not original]
    return max(planned, key=lambda one: one.throughput_fps.mean, default=None)


def _fastest_point(contents: Contents) -> Fact | None:
    points = _points(contents)
    original, best = _original_point(points), _best_point(points)
    if original is None or best is None:
        return None
    ratio = best.throughput_fps.mean / original.throughput_fps.mean
    kept = "" if best.kept_blocks is None else f"{best.kept_blocks} blocks stay"
    note = words.listed(f"measured: {best.network}", kept, f"{best.throughput_fps.mean:.1f} FPS")
    mood: Mood = (
        "good" if best.throughput_fps.clearly_above(original.throughput_fps) else "doubtful"
    )
    return Fact(label=_FASTER, value=words.times(ratio), note=note, mood=mood)


def _fastest_result(contents: Contents) -> Fact | None:
    """Of networks without an accuracy, by the speed-up that the benchmark found."""
    shrunk = [
        one
        for one in contents.measured
        if one.speedup and one.network != one.baseline and one.method not in _RIVALS
    ]
    if not shrunk:
        return None
    best = max(shrunk, key=lambda one: one.speedup or 0.0)
    note = words.listed(
        f"measured: {best.network}",
        words.milliseconds(best.latency_ms or 0.0),
        words.blocks_kept(best),
        words.interval(best.speedup_low, best.speedup_high, "times"),
    )
    mood: Mood = "good" if best.compared == "faster" else "doubtful"
    return Fact(label=_FASTER, value=words.times(best.speedup or 0.0), note=note, mood=mood)


def _fastest(table: LatencyTable) -> Fact | None:
    """What merging every block that saves would bring, by a table of blocks."""
    if not isinstance(table.forms, BlockForms) or table.missing_row or not table.mergeable:
        return None
    saving = [block for block in table.mergeable if table.saving_ms(block) > 0]
    mask = "".join("0" if block in saving else "1" for block in range(table.block_count))
    before, after = predict(table, table.forms.base), predict(table, mask)
    latency = words.listed(
        words.milliseconds(after.latency_ms), words.interval(after.low_ms, after.high_ms, "ms")
    )
    return Fact(
        label=_FASTER,
        value=f"{before.latency_ms / after.latency_ms:.2f} times as fast at most",
        note=f"predicted: {latency}; merges the {len(saving)} of {table.block_count} blocks where "
        "that saves; what it does to the accuracy is not in a table",
    )


def _experiment_best(contents: Contents) -> Fact | None:
    rows = [
        (held.value.name, row)
        for held in contents.experiments
        for row in held.value.rows
        if isinstance(row.get("speedup"), float) and row.get("form") == "merged"
    ]
    if not rows:
        return None
    name, best = max(rows, key=lambda one: float(one[1]["speedup"]))
    ends = words.interval(best.get("speedup_low"), best.get("speedup_high"), "times")
    said = f"the largest of all merged networks: {best.get('network')} ({name})"
    return Fact(
        label=_FASTER,
        value=words.times(float(best["speedup"])),
        note=words.listed(said, ends),
        mood="good",
    )


def _accuracy_of_points(label: str, points: Sequence[FrontPoint]) -> Fact:
    """Of the network that is said to be fastest, beside the original."""
    original, best = _original_point(points), _best_point(points)
    shown = best or original or points[0]
    accuracy = shown.accuracy_percent
    images = f"of {shown.validation_images} images" if shown.validation_images else ""
    ends = words.interval(accuracy.low, accuracy.high, "%") if shown.has_accuracy_interval else ""
    runs = counted(len(shown.of_seeds), "run")
    before = (
        f"the original: {original.accuracy_percent.mean:.2f} %"
        if original is not None and original is not shown
        else ""
    )
    note = words.listed(before, shown.network, ends, images, runs)
    return Fact(label=label, value=f"{accuracy.mean:.2f} %", note=note)


def _accuracy(contents: Contents) -> Fact | None:
    label = "What accuracy?"
    if contents.has_only_layers:
        return None
    points = _points(contents)
    if points:
        return _accuracy_of_points(label, points)
    for held in contents.certificates:
        found = held.value.validation
        if found is not None and found.merged_accuracy_percent is not None:
            note = (
                f"merged, of {found.images} images; unmerged "
                f"{found.unmerged_accuracy_percent:.2f} %"
                if found.unmerged_accuracy_percent is not None
                else f"merged, of {found.images} images"
            )
            return Fact(label=label, value=f"{found.merged_accuracy_percent:.2f} %", note=note)
    for one in (held.value for held in contents.refits):
        seen = one.validation or one.held_out
        agreement = seen.agreement_percent.get("refitted")
        if agreement is not None:
            before = seen.agreement_percent.get("algebraic")
            was = "" if before is None else f"; before the refit {before:.1f} %"
            return Fact(
                label=label,
                value=f"{agreement:.1f} % as the original says",
                note=f"refitted, on {seen.images} images, top-1 agreement{was}",
            )
    published = any(
        row.get("top1_percent") for held in contents.experiments for row in held.value.rows
    )
    note = (
        "only as published: nothing here was run on images"
        if published
        else "nothing in this folder was run on images: see what to run next"
    )
    return Fact(label=label, value="Not measured", note=note, mood="doubtful")


def _trust(contents: Contents) -> Fact | None:
    if contents.tables:
        return words.trust(contents.tables[0].value)
    if contents.layers:
        return _known_layers(contents.layers[0].value)
    return words.precision_of(contents.measured) if contents.measured else None


def _known_layers(table: LayerTable) -> Fact:
    count, known = len(table.rows), table.within_target
    value = f"{known} of {count} layers within {table.target_percent:g} %"
    mood: Mood = "good" if table.is_fit else "doubtful"
    note = "half of their 95 % intervals; the table says which are less certain"
    return Fact(label="Can the numbers be trusted?", value=value, note=note, mood=mood)


def _noise(contents: Contents) -> Fact | None:
    levels = [held.value.level for held in contents.tables]
    levels += [held.value.level for held in contents.layers]
    levels += [run.level for held in contents.results for run in held.value.runs]
    levels += [run.level for held in contents.experiments for run in held.value.runs]
    known = [level for level in levels if level is not None]
    measured = contents.tables or contents.results or known
    return words.quietness(known) if measured else None


def _where(contents: Contents) -> Fact | None:
    label = "On what?"
    for held in contents.results:
        for run in held.value.runs:
            said = describe_conditions(run.conditions)
            return Fact(label=label, value=said, note=words.machine(run.fingerprint))
    for held_table in contents.tables:
        said = describe_conditions(held_table.value.conditions)
        return Fact(label=label, value=said, note=words.machine(held_table.value.fingerprint))
    for experiment in contents.experiments:
        for run in experiment.value.runs:
            said = describe_conditions(run.conditions)
            return Fact(label=label, value=said, note=words.machine(run.fingerprint))
    for layers in contents.layers:
        said = describe_conditions(layers.value.conditions)
        return Fact(label=label, value=said, note=words.machine(layers.value.fingerprint))
    first = contents.measured[0] if contents.measured else None
    if first is None:
        return None
    threads = counted(first.threads, "thread")
    said = f"{first.device}, {first.runtime}, {first.precision}, batch {first.batch}, {threads}"
    return Fact(label=label, value=said)
