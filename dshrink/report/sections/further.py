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
    for held in contents.tables[:1]:
        folder = _folder(contents, held.file)
        if held.value.origin is None and not held.value.fit_for_search:
            yield Command(
                purpose="Measure the table again while nothing else runs: it is not fit for search",
                line=f"{held.value.profile_command} --out again",
            )
        if not contents.plans:
            yield from _search(held.value, folder)
    plan = next((one for one in contents.plans if one.value.model), None)
    if plan is not None and not contents.measured:
        model, path = shlex.quote(plan.value.model or "MODEL"), _path(contents, plan.file)
        yield from _merge(model, path, has_refit=bool(contents.refits))
    if contents.certificates and not contents.measured:
        first = contents.certificates[0]
        network = _path(contents, first.file.removesuffix(".certificate.json"))
        table = f" --table {_folder(contents, contents.tables[0].file)}" if contents.tables else ""
        model = shlex.quote(first.value.model)
        yield Command(
            purpose="Measure the merged network beside the original",
            line=f"dshrink bench {model} {network}{table} --out results.csv",
        )
    accuracies = [one.accuracy_percent for one in contents.measured]
    if plan is not None and contents.measured and not any(accuracies):
        yield Command(
            purpose="Train the plan, so that it has an accuracy: nothing here was run on images",
            line=f"dshrink finetune {shlex.quote(plan.value.model or 'MODEL')} --plan "
            f"{_path(contents, plan.file)} --data DIR --out tuned",
        )
        yield Command(
            purpose="Merge what was trained, with its accuracy before and after",
            line=f"dshrink merge {shlex.quote(plan.value.model or 'MODEL')} --plan tuned/plan.json "
            "--weights tuned/weights.safetensors --data DIR --out small.onnx",
        )
    if contents.importances and contents.tables and not contents.frontiers:
        table, importance = contents.tables[0], contents.importances[0]
        yield Command(
            purpose="Search every budget at once",
            line=f"dshrink search dp {shlex.quote(table.value.model)} --table "
            f"{_folder(contents, table.file)} --importance {_path(contents, importance.file)} "
            "--budget-ms MS --out plan.json --frontier frontier.csv",
        )
    if contents.experiments:
        yield Command(purpose="Measure another table of the paper", line="dshrink paper list")


def _search(table: LatencyTable, folder: str) -> Iterator[Command]:
    model = shlex.quote(table.model)
    unfit = "" if table.fit_for_search else " --allow-unfit"
    if table.chain is not None:
        yield Command(
            purpose="Measure what each span means for the accuracy",
            line=f"dshrink importance {model} --data DIR --out importance.csv",
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


def _merge(model: str, plan: str, *, has_refit: bool) -> Iterator[Command]:
    if not has_refit:
        yield Command(
            purpose="Refit trained weights to the plan, without labels or training",
            line=f"dshrink refit {model} --plan {plan} --data DIR --out refit",
        )
    yield Command(
        purpose="Merge the refitted network into an ONNX file, and see its accuracy",
        line=f"dshrink merge {model} --plan refit/plan.json --weights refit/weights.safetensors "
        "--data DIR --out small.onnx",
    )


_KINDS = {
    "tables": "latency table",
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
