"""What the page begins with: how fast, how much faster, how accurate, how sure, on what."""

from __future__ import annotations

from collections.abc import Sequence

from dshrink.plots.style import describe_conditions
from dshrink.report import words
from dshrink.report.content import Fact, Facts, Section
from dshrink.report.folder import Contents
from dshrink.report.sections.measured import original_of
from dshrink.results import BenchmarkResult
from latency_tables.forms import BlockForms
from latency_tables.predictor import predict
from latency_tables.table import LatencyTable


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
    experiments = [held.value.name for held in contents.experiments]
    models = [held.value.model for held in contents.tables]
    models += [one.model or one.network for one in results]
    models += [held.value.model for held in contents.plans if held.value.model]
    models += [held.value.model for held in contents.refits]
    devices = [held.value.conditions.device for held in contents.tables]
    devices += [one.device for one in results]
    if experiments and not models:
        devices = [run.conditions.device for held in contents.experiments for run in held.value.runs]
        return f"The paper's experiments{_on(devices)}"
    return f"{_listed(models) or contents.root.name}{_on(devices)}"


def _on(devices: Sequence[str]) -> str:
    return f" on {_listed(devices)}" if devices else ""


def _listed(names: Sequence[str]) -> str:
    different = list(dict.fromkeys(name for name in names if name))
    more = f" and {len(different) - 2} more" if len(different) > 2 else ""
    return f"{', '.join(different[:2])}{more}"


def _now(contents: Contents) -> Fact | None:
    label = "How fast is it now?"
    for held in contents.results:
        original = original_of(held.value.results)
        if original is not None and original.latency_ms is not None:
            speed = words.milliseconds(original.latency_ms, original.low_ms, original.high_ms)
            fps = f", {original.throughput_fps:.1f} FPS" if original.throughput_fps else ""
            batch = f" a batch of {original.batch}" if original.batch > 1 else ""
            note = f"{original.network}, as it is: measured{fps}{batch}"
            return Fact(label=label, value=speed, note=note)
    for table in (held.value for held in contents.tables):
        batch = table.conditions.batch
        whole = next((one for one in table.networks if one.keep_mask == table.forms.base), None)
        if whole is not None:
            speed = words.milliseconds(whole.measured_ms, whole.low_ms, whole.high_ms)
            fps = f"{1000 * batch / whole.measured_ms:.1f} FPS"
            note = f"{table.model}, as it is: measured, {fps}"
            return Fact(label=label, value=speed, note=note)
        if not table.missing_row:
            sum_ms = predict(table, table.forms.base).latency_ms
            note = f"{table.model}, as it is: the sum of its pieces, never measured whole"
            return Fact(label=label, value=words.milliseconds(sum_ms), note=note)
    return None


def _faster(contents: Contents) -> Fact | None:
    label = "How fast can it be?"
    shrunk = [one for one in contents.measured if one.speedup and _is_shrunk(one)]
    if shrunk:
        best = max(shrunk, key=lambda one: one.speedup or 0.0)
        value = words.times(best.speedup or 0.0, best.speedup_low, best.speedup_high)
        kept = words.blocks_kept(best)
        note = ", ".join(filter(None, (best.network, words.milliseconds(best.latency_ms or 0), kept)))
        mood = "good" if best.compared == "faster" else "doubtful"
        return Fact(label=label, value=value, note=f"measured: {note}", mood=mood)
    plain = _study_best(contents)
    if plain is not None:
        return plain
    for table in (held.value for held in contents.tables):
        fastest = _fastest(table)
        if fastest is not None:
            return Fact(label=label, value=fastest[0], note=fastest[1])
    return _experiment_best(contents)


def _is_shrunk(result: BenchmarkResult) -> bool:
    return result.network != result.baseline and result.method != "original"


def _study_best(contents: Contents) -> Fact | None:
    """Of results that nobody compared: against the original in the same file."""
    for held in contents.results:
        original = original_of(held.value.results)
        known = [one for one in held.value.results if one.latency_ms and one is not original]
        if original is None or not original.latency_ms or not known:
            continue
        best = min(known, key=lambda one: one.latency_ms or 0.0)
        ratio = original.latency_ms / (best.latency_ms or 1.0)
        parts = (best.network, best.method, words.blocks_kept(best))
        return Fact(
            label="How fast can it be?",
            value=f"{ratio:.3f} times as fast",
            note=f"measured: {', '.join(filter(None, parts))}",
            mood="good" if ratio > 1 else "doubtful",
        )
    return None


def _fastest(table: LatencyTable) -> tuple[str, str] | None:
    """What merging every block that saves would bring, by a table of blocks."""
    if not isinstance(table.forms, BlockForms) or table.missing_row or not table.mergeable:
        return None
    saving = [block for block in table.mergeable if table.saving_ms(block) > 0]
    mask = "".join("0" if block in saving else "1" for block in range(table.block_count))
    before, after = predict(table, table.forms.base), predict(table, mask)
    ratio = before.latency_ms / after.latency_ms
    latency = words.milliseconds(after.latency_ms, after.low_ms, after.high_ms)
    return (
        f"{ratio:.2f} times as fast at most",
        f"predicted: {latency}, merging the {len(saving)} of {table.block_count} blocks where "
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
    low, high = best.get("speedup_low"), best.get("speedup_high")
    return Fact(
        label="How fast can it be?",
        value=words.times(float(best["speedup"]), low, high),
        note=f"the largest of all merged networks: {best.get('network')} ({name})",
        mood="good",
    )


def _accuracy(contents: Contents) -> Fact:
    label = "What accuracy?"
    known = [one for one in contents.measured if one.accuracy_percent is not None]
    if known:
        original = original_of(known)
        shrunk = [one for one in known if one is not original and _is_shrunk(one)]
        best = max(shrunk or known, key=lambda one: one.accuracy_percent or 0.0)
        images = f" of {best.validation_images} images" if best.validation_images else ""
        kept = words.blocks_kept(best)
        value = f"{best.accuracy_percent:.2f} %{images}"
        before = (
            f"; the original: {original.accuracy_percent:.2f} %"
            if original is not None and original is not best
            else ""
        )
        named = ", ".join(filter(None, (best.network, kept)))
        return Fact(label=label, value=value, note=f"the most accurate: {named}{before}")
    for held in contents.certificates:
        found = held.value.validation
        if found is not None and found.merged_accuracy is not None:
            note = (
                f"merged, of {found.images} images; unmerged {found.unmerged_accuracy:.2f} %"
                if found.unmerged_accuracy is not None
                else f"merged, of {found.images} images"
            )
            return Fact(label=label, value=f"{found.merged_accuracy:.2f} %", note=note)
    for one in (held.value for held in contents.refits):
        seen = one.validation or one.held_out
        agreement = seen.agreement.get("refitted")
        if agreement is not None:
            before = seen.agreement.get("algebraic")
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
    return words.precision_of(contents.measured) if contents.measured else None


def _noise(contents: Contents) -> Fact | None:
    levels = [held.value.level for held in contents.tables]
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
    for table in contents.tables:
        said = describe_conditions(table.value.conditions)
        return Fact(label=label, value=said, note=words.machine(table.value.fingerprint))
    for experiment in contents.experiments:
        for run in experiment.value.runs:
            said = describe_conditions(run.conditions)
            return Fact(label=label, value=said, note=words.machine(run.fingerprint))
    first = contents.measured[0] if contents.measured else None
    if first is None:
        return None
    threads = words.counted(first.threads, "thread")
    said = f"{first.device}, {first.runtime}, {first.precision}, batch {first.batch}, {threads}"
    return Fact(label=label, value=said)


