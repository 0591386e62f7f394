"""What to run next, and where every number of the page is from."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from dshrink.report.content import Cell, Column, Command, Commands, Grid, Section, Text, word
from dshrink.report.folder import Contents
from latency_tables.table import LatencyTable

#: A first budget to ask for, as a share of the latency as it is.
_BUDGET = 0.85


def next_section(contents: Contents) -> Section:
    """The commands that carry on from what is there."""
    commands = (*_commands(contents), _again(contents))
    text = Text(
        text="Give these in the folder in which you gave the last command. DIR is a folder of "
        "images: train/CLASS/ and val/CLASS/."
    )
    return Section(
        anchor="next", title="What to run next", blocks=(text, Commands(commands=commands))
    )


def _again(contents: Contents) -> Command:
    folder = shlex.quote(str(contents.root))
    return Command(
        purpose="Make this page again, with what has been added",
        line=f"dshrink report {folder} --out report.html",
    )


def _path(contents: Contents, file: str) -> str:
    return shlex.quote((contents.root / file).as_posix())


def _folder(contents: Contents, file: str) -> str:
    return shlex.quote((contents.root / file).parent.as_posix())


def _commands(contents: Contents) -> Iterator[Command]:
    yield from _of_tables(contents)
    yield from _of_plans(contents)
    yield from _of_merges(contents)
    yield from _of_importances(contents)
    if contents.experiments:
        yield Command(purpose="Measure another table of the paper", line="dshrink paper list")


def _of_tables(contents: Contents) -> Iterator[Command]:
    for held in contents.tables[:1]:
        if held.value.origin is None and not held.value.fit_for_search:
            yield Command(
                purpose="Measure the table again while nothing else runs: it is not fit for search",
                line=held.value.profile_command.replace("--out DIR", "--out again"),
            )
        if not contents.plans and not contents.measured:
            yield from _search(held.value, _folder(contents, held.file))


def _of_plans(contents: Contents) -> Iterator[Command]:
    named = (one for one in contents.plans if one.value.model)
    plan = next((one for one in named if "0" in one.value.keep_mask or one.value.span_mask), None)
    if plan is None or any(one.accuracy_percent for one in contents.measured):
        return
    model, path = shlex.quote(plan.value.model or ""), _path(contents, plan.file)
    if contents.refits:
        yield _merge(model, _folder(contents, contents.refits[0].file))
    else:
        yield Command(
            purpose="Refit trained weights to the plan, in minutes, without labels or training",
            line=f"dshrink refit {model} --plan {path} --data DIR --out refit",
        )
        yield _merge(model, "refit")
    yield Command(
        purpose="Or train the plan, which keeps more of the accuracy",
        line=f"dshrink finetune {model} --plan {path} --data DIR --out tuned",
    )
    yield _merge(model, "tuned")


def _merge(model: str, folder: str) -> Command:
    return Command(
        purpose="Merge that into an ONNX file, and see its accuracy",
        line=f"dshrink merge {model} --plan {folder}/plan.json "
        f"--weights {folder}/weights.safetensors --data DIR --out {folder}.onnx",
    )


def _of_merges(contents: Contents) -> Iterator[Command]:
    if not contents.certificates or contents.measured:
        return
    first = contents.certificates[0]
    network = _path(contents, first.file.removesuffix(".certificate.json"))
    table = f" --table {_folder(contents, contents.tables[0].file)}" if contents.tables else ""
    yield Command(
        purpose="Measure the merged network beside the original",
        line=f"dshrink bench {shlex.quote(first.value.model)} {network}{table} --out results.csv",
    )


def _of_importances(contents: Contents) -> Iterator[Command]:
    table = next((one for one in contents.tables if one.value.chain is not None), None)
    if table is None or not contents.importances or contents.frontiers:
        return
    importance = _path(contents, contents.importances[0].file)
    yield Command(
        purpose="Search every budget at once; give the latency that you want for MS",
        line=f"dshrink search dp {shlex.quote(table.value.model)} --table "
        f"{_folder(contents, table.file)} --importance {importance} --budget-ms MS "
        "--out plan.json --frontier frontier.csv",
    )


def _search(table: LatencyTable, folder: str) -> Iterator[Command]:
    model = shlex.quote(table.model)
    unfit = "" if table.fit_for_search else " --allow-unfit"
    if table.chain is not None:
        yield Command(
            purpose="Measure what each span means for the accuracy",
            line=f"dshrink importance {model} --data DIR --level recalibrate --out importance.csv",
        )
        return
    if table.mergeable and table.base_ms:
        budget = f"{_BUDGET * table.base_ms:.3g}"
        yield Command(
            purpose=f"Find which blocks to merge for {budget} ms",
            line=f"dshrink search greedy {model} --table {folder} --budget-ms {budget}{unfit} "
            "--out plan.json",
        )
    if table.mergeable:
        keep = max(table.block_count - len(table.mergeable), table.block_count * 2 // 3)
        yield Command(
            purpose="Or let your images decide which blocks stay",
            line=f"dshrink search mask {model} --data DIR --table {folder} --keep {keep}{unfit} "
            "--out plan.json",
        )


_KINDS = {
    "tables": "latency table",
    "layers": "table of layers",
    "results": "measured networks",
    "plans": "plan",
    "certificates": "certificate of a merge",
    "refits": "refit",
    "frontiers": "frontier",
    "importances": "importances",
    "experiments": "experiment of the paper",
}


def files_section(contents: Contents) -> Section:
    """Every file that was read, and those that could not be."""
    rows: list[tuple[Cell, ...]] = [
        (word(one.file), word("could not be read"), word(one.reason)) for one in contents.unreadable
    ]
    for name, kind in _KINDS.items():
        rows += [(word(held.file), word(kind), word("")) for held in getattr(contents, name)]
    columns = (Column(title="file"), Column(title="what it is"), Column(title="why not"))
    grid = Grid(name="files", caption="Files of this page", columns=columns, rows=tuple(rows))
    text = Text(text=f"All numbers of this page are from these files in {contents.root}.")
    return Section(anchor="files", title="Files", blocks=(text, grid))
