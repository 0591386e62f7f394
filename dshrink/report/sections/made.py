"""How the numbers were made, how far to trust them, every warning once, and what to do."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from dshrink.plots.style import describe_conditions
from dshrink.progress import duration
from dshrink.report import words
from dshrink.report.content import Block, Fact, Facts, Heading, Section, Text, Warned, Warnings
from dshrink.report.folder import Contents
from dshrink.report.records import RunFacts
from latency_tables.networks import Level
from latency_tables.schema import Conditions
from latency_tables.table import LatencyTable
from latency_tables.trust import warning_lines
from latency_tables.wording import counted, once_each

_STATISTICS = {
    "quiet": "the lower quartile of a process's samples, then the median over processes: the "
    "latency to expect of a process that nothing else slows",
    "median": "the median of a process's samples, then the median over processes",
}
_CLOCKS = {
    "thread_cpu": "the CPU time of the one thread that runs",
    "wall": "the wall clock",
    "cuda_events": "events that the GPU stamps",
}


def section(contents: Contents) -> Section | None:
    """None for a folder of plans alone, which nothing was measured for."""
    blocks: list[Block] = []
    warned = tuple(_warnings(contents))
    if warned:
        blocks.append(Warnings(warnings=warned))
    for table in contents.tables:
        blocks += [Heading(text=f"The table `{table.file}`"), _of_table(table.value)]
    for layers in contents.layers:
        found = layers.value
        run = RunFacts(
            conditions=found.conditions,
            fingerprint=found.fingerprint,
            level=found.level,
            date=found.date,
            dshrink_version=found.dshrink_version,
        )
        verdicts = [row.verdict for row in found.rows]
        blocks += [Heading(text=f"The table `{layers.file}`"), _of_run(run, verdicts)]
    for held in contents.results:
        for run in held.value.runs:
            verdicts = [one.verdict for one in held.value.results]
            blocks += [Heading(text=f"The benchmark `{held.file}`"), _of_run(run, verdicts)]
        if not held.value.runs:
            verdicts = [one.verdict for one in held.value.results]
            said = f"The results {held.file}: {words.verdict_counts(verdicts) or 'no verdicts'}."
            blocks.append(Text(text=said))
    for experiment in contents.experiments:
        for run in experiment.value.runs:
            verdicts = [
                str(row.get("verdict") or "")
                for row in experiment.value.rows
                if row.get("batch") in (None, run.conditions.batch)
            ]
            said = f"The experiment `{experiment.file}`, batch {run.conditions.batch}"
            blocks += [Heading(text=said), _of_run(run, verdicts)]
    if not blocks:
        return None
    return Section(
        anchor="made",
        title="How the numbers were made, how far to trust them",
        blocks=tuple(blocks),
    )


def _of_table(table: LatencyTable) -> Facts:
    c = table.conditions
    facts = [Fact(label="Conditions", value=describe_conditions(c)), *_statistic(c)]
    if table.origin is not None:
        origin = table.origin
        facts = [
            Fact(label="Published by", value=origin.source, note=f"licence: {origin.licence}"),
            Fact(label="Conditions", value=f"{c.device}, {c.runtime}, {c.precision}"),
        ]
    facts += _machine(table.fingerprint)
    measured = [row.samples for row in table.rows if row.samples]
    if measured:
        fitted = sum(network.role == "fit" for network in table.networks)
        note = (
            f"each in short processes of its own, by turns over many rounds; {min(measured)} to "
            f"{max(measured)} samples a piece"
        )
        value = (
            f"{counted(len(table.rows), 'row')}, {fitted} whole networks to estimate from, "
            f"{len(table.networks) - fitted} to try the predictions on"
        )
        facts.append(Fact(label="Measured", value=value, note=note))
    if table.estimate is not None:
        facts.append(
            Fact(
                label="What a piece costs",
                value="what it adds to a whole network, not what it takes alone",
                note="estimated from whole networks, with the 95 % interval of that",
            )
        )
    verdicts = words.verdict_counts([row.verdict for row in table.rows])
    facts.append(Fact(label="Rows, each alone", value=verdicts))
    facts += _level(table.level)
    facts.append(words.trust(table))
    facts += _made(table.date, table.dshrink_version)
    return Facts(facts=tuple(facts))


def _of_run(run: RunFacts, verdicts: list[str]) -> Facts:
    facts = [
        Fact(label="Conditions", value=describe_conditions(run.conditions)),
        *_statistic(run.conditions),
        *_machine(run.fingerprint),
    ]
    if run.processes:
        low, high = run.processes
        spent = f"{duration(run.measured_s)} of measuring" if run.measured_s else ""
        count = counted(high, "process", "processes")
        value = count if low == high else f"{low} to {high} processes"
        facts.append(Fact(label="Each network in", value=value, note=spent))
    known = words.verdict_counts([one for one in verdicts if one])
    facts += [Fact(label="Known", value=known)] if known else []
    facts += _level(run.level)
    facts += _made(run.date, run.dshrink_version)
    return Facts(facts=tuple(facts))


def _statistic(c: Conditions) -> Iterator[Fact]:
    value = _STATISTICS.get(c.statistic, c.statistic)
    yield Fact(label="A latency is", value=value, note=f"read from {_CLOCKS.get(c.clock, c.clock)}")


def _machine(fingerprint: object) -> Iterator[Fact]:
    if not isinstance(fingerprint, dict) or not fingerprint:
        return
    notes = [f"kernel {fingerprint['kernel']}" if fingerprint.get("kernel") else ""]
    load = fingerprint.get("load_average")
    notes.append(f"load average {load} before the start" if load is not None else "")
    yield Fact(
        label="Machine", value=words.machine(fingerprint), note=", ".join(filter(None, notes))
    )


def _level(level: Level | None) -> Iterator[Fact]:
    if level is None:
        return
    quiet = words.quietness([level])
    yield Fact(
        label="A single process",
        value=f"within ±{level.spread_percent:.0f} % of these numbers in 95 % of cases",
        note=quiet.note,
        mood=quiet.mood,
    )


def _made(date: str, version: str) -> Iterator[Fact]:
    if date:
        made = f"dshrink {version}" if version else ""
        yield Fact(
            label="Date", value=date.replace("T", " ").removesuffix("+00:00") + " UTC", note=made
        )


#: What says of a warning how often it was given, which the page says itself.
_WORST = re.compile(r" \(the worst of \d+ such\)$")
#: Where a warning turns to what to do.
_ADVICE = re.compile(
    "[:;] (?=(?:end|close|use|run|cool|copy|measure|profile|write|restore|give|report|finetune|"
    "refit|if) |`|--)"
)
_NUMBER = re.compile(r"\d+(\.\d+)?")


def _warnings(contents: Contents) -> Iterator[Warned]:
    """Each warning once, however many files give it, and whatever figures it has."""
    found: dict[str, list[tuple[str, str, str]]] = {}
    for file, text, advice in _texts(contents):
        found.setdefault(_NUMBER.sub("#", text), []).append((file, text, advice))
    for members in found.values():
        file, _, advice = members[0]
        (worst,) = once_each(text for _, text, _ in members)
        files = list(dict.fromkeys(one for one, *_ in members))
        where = file if len(files) == 1 else f"{file} and {len(files) - 1} more"
        yield Warned(text=_WORST.sub("", worst), advice=advice, count=len(members), where=where)


def _texts(contents: Contents) -> Iterator[tuple[str, str, str]]:
    """(file, warning, what to do)."""
    for one in contents.unreadable:
        yield one.file, *_parted(f"could not be read and is left out: {one.reason}")
    for merge in contents.certificates:
        lacks = merge.value.activations
        if lacks.warning:
            yield merge.file, lacks.warning, ", or ".join(lacks.advice)
        if merge.value.problem:
            yield merge.file, *_parted(merge.value.problem)
    for file, texts in _of_measurements(contents):
        yield from ((file, *_parted(text)) for text in texts)


def _of_measurements(contents: Contents) -> Iterator[tuple[str, Iterable[str]]]:
    for table in contents.tables:
        yield table.file, filter(None, (*warning_lines(table.value), table.value.data_note))
    for layers in contents.layers:
        yield layers.file, layers.value.warnings
    for held in contents.results:
        yield held.file, (text for run in held.value.runs for text in run.warnings)
    for experiment in contents.experiments:
        yield experiment.file, (text for run in experiment.value.runs for text in run.warnings)


def _parted(text: str) -> tuple[str, str]:
    """What is wrong, and what to do, where a warning says both."""
    said, *advice = _ADVICE.split(text, maxsplit=1)
    return said, "".join(advice)
