"""Every table that a command prints: numbers are whole at any width, a pipe gets plain columns."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from synthetic_tables import synthetic_row, synthetic_table

from dshrink.cli import (
    bench,
    chain,
    devices,
    grids,
    paper,
    refit,
    render,
    run,
    table,
    table_compare,
)
from dshrink.cli import main as entry
from dshrink.cli.grids import Column, number, print_grid, print_page, print_report
from dshrink.operations.paper.kim import KimOutcome
from dshrink.operations.paper.networks import with_unmerged
from dshrink.operations.paper.request import PaperOutcome
from dshrink.paper.experiments import Experiment, experiment
from dshrink.paper.kim import headline
from dshrink.paper.kim_masks import MaskComparison
from dshrink.paper.published import Setting
from dshrink.paper.report import BlockRow, MemoryRow
from dshrink.paper.results import paper_results
from dshrink.refit.fitting import UnitFit
from dshrink.results import BenchmarkResult
from dshrink.study.report import RowResult, report_lines
from latency_tables.io import save_table

BOXES = re.compile("[\u2500-\u257f]")
SPANS = Path(__file__).parents[2] / "benchmarks" / "results" / "span_budgets_local_table"
STAGES = [
    (stage, block) for stage, count in enumerate((1, 2, 3, 4, 3, 3, 1)) for block in range(count)
]


def block_table(**kwargs: Any) -> Any:
    """A table of MobileNetV2's blocks with the names that its layers have; some rows failed."""
    original = [0.2147 + 0.113 * k for k in range(17)]
    merged = [None, *(value * 0.61 for value in original[1:])]
    table = synthetic_table(original, merged, **kwargs)
    rows = []
    for row in table.rows:
        if row.block is not None:
            stage, block = STAGES[row.block]
            name = f"blocks.{stage}.{block}"
            ends = {"first_layer": f"{name}.conv_pw", "last_layer": f"{name}.conv_pwl"}
            row = replace(row, macs=18_966_528 + row.block, **ends)
        rows.append(row)
    reason = "the agent stopped after 12.345 s; see docs/devices.md"
    rows.insert(2, synthetic_row("merged", 0, latency_ms=None, reason=reason))
    return replace(table, model="mobilenetv2_100", rows=tuple(rows), unmergeable={})


def bench_results() -> list[Any]:
    """A study's networks on a GPU: long names, accuracies, built engines; one failed."""
    names = ["mobilenetv2_140", "keep12_searched_free_activation_seed1.onnx", "keep7_random.onnx"]
    facts = {
        **{"device": "rtx2080ti", "runtime": "tensorrt", "precision": "fp16", "batch": 128},
        **{"clock": "cuda_events", "launch": "cuda_graph", "cache_mode": "hot"},
        **{"statistic": "median", "reason": "", "built_precision": "fp16"},
    }
    found = [
        SimpleNamespace(
            **facts, network=name, kept_blocks=17 - 5 * at, latency_ms=1008.866 - at,
            low_ms=1008.500 - at, high_ms=1008.955 - at, throughput_fps=12800.125 + at,
            predicted_ms=1011.951 - at, error_percent=-10.25 * at, accuracy_percent=72.34 - at,
            verdict="ok", build_s=123.4 + at, engine_mib=12.5 + at, gpu_memory_mib=1312.5 + at,
            baseline=names[0], speedup=1.0 + 0.125 * at, speedup_low=1.0 + 0.12 * at,
            speedup_high=1.0 + 0.13 * at, compared="faster" if at else "", rank=3 - at,
            p50_ms=1008.9, p95_ms=1010.25, p99_ms=1012.5, peak_memory_mib=2048.5, energy_mj=12.25,
        )
        for at, name in enumerate(names)
    ]  # fmt: skip
    unknown = ("latency_ms", "low_ms", "high_ms", "throughput_fps", "error_percent", "engine_mib")
    unknown += ("speedup", "speedup_low", "speedup_high", "rank", "p50_ms", "p95_ms", "p99_ms")
    failed = SimpleNamespace(**{**vars(found[-1]), **dict.fromkeys(unknown), "verdict": "failed"})
    return [*found, failed]


def refit_result() -> Any:
    """Merged blocks of long names, one of them too large to fit, and a convolution behind."""
    fits = [
        UnitFit(
            label=f"block {at} (blocks.{stage}.{block})", merged=at < 16, unknowns=864 << at % 4,
            ridge=None if at == 2 else 10.0 ** (at % 6 - 3), start=None if at == 2 else at / -7,
            explained=None if at == 2 else 1 - at / 33, error=0.0123 * at,
        )
        for at, (stage, block) in enumerate(STAGES)
    ]  # fmt: skip
    return SimpleNamespace(fits=fits)


def report() -> list[str]:
    """A study's report, with all of its tables."""
    results = [
        RowResult(
            method=method, place=place, seed=seed, accuracy_percent=72.5 + seed + len(method) / 7,
            throughput_fps=1234.5 + len(method), macs=318_966_528, epochs=180, differing=0,
            validation_images=50_000,
        )
        for method in ("original", "searched", "random", "no_free_activation", "scratch")
        for place in ([""] if method == "original" else ["keep12", "keep7"])
        for seed in range(3)
    ]  # fmt: skip
    return report_lines("MobileNetV2-1.4 on ImageNet", results)


def paper_outcomes() -> list[Any]:
    """A table with its longest names, blocks, memory, and masks against the dynamic program."""
    table = experiment("table2")
    assert isinstance(table, Experiment)
    asked = tuple(with_unmerged(table.networks))
    measured = [
        BenchmarkResult(
            network=one.name, device="v100", runtime="tensorrt", precision="fp16", batch=128,
            threads=1, latency_ms=1008.866 - at, throughput_fps=12800.125 + at,
            throughput_low_fps=12800.0, throughput_high_fps=12900.0, macs=518_966_528,
            speedup=1.0 + at / 7, speedup_low=0.999 + at / 7, speedup_high=1.001 + at / 7,
            verdict="noisy" if at % 2 else "ok",
        )
        for at, one in enumerate(asked)
        if one.choice
    ]  # fmt: skip
    run = SimpleNamespace(
        results=paper_results(asked, 128, measured), setting=Setting("v100", 128),
        conditions=block_table().conditions,
    )  # fmt: skip
    facts = {"model": "mobilenetv2_140", "name": "blocks.5.2"}
    blocks = [
        BlockRow(
            **facts, block=at, original_ms=138.79 + at, replaced_ms=None if at == 1 else 5.45 * at,
            published=(138.79, 5.45) if at else None,
        )
        for at in range(3)
    ]  # fmt: skip
    memory = [
        MemoryRow(
            **facts, block=at, weights_kib=1234.5, peak_kib=12345.6,
            merged_weights_kib=12345.5 if at else None, merged_peak_kib=1234.5 if at else None,
        )
        for at in range(3)
    ]  # fmt: skip
    masks = [
        MaskComparison(
            name=f"MBV2-1.4-DS-{letter}", keep_mask="1", span_mask="1", predicted_ms=12.345,
            importance=None if letter == "A" else -12.25,
            reason="1 key (st, end, st_act, end_act) were not evaluated: (2, 5, 0, 1)",
        )
        for letter in "ABC"
    ]  # fmt: skip
    return [
        PaperOutcome(experiment=table, runs=(run,)),
        PaperOutcome(experiment=experiment("fig4"), blocks=tuple(blocks), where="local"),
        PaperOutcome(experiment=experiment("fig5"), memory=tuple(memory)),
        PaperOutcome(
            experiment=None, kim=KimOutcome(headline=headline(), comparisons=tuple(masks))
        ),
    ]


Table = tuple[Sequence[Column[Any]], Sequence[Any], str]


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Table]]:
    """The columns, the records and the title of every table, by what prints it."""
    folder = tmp_path_factory.mktemp("tables")
    save_table(block_table(), folder / "a")
    save_table(block_table(fixed_ms=12.5), folder / "b")
    commands: dict[str, Callable[[], None]] = {
        "table show": lambda: table.show(folder / "a"),
        "table show, spans": lambda: table.show(SPANS),
        "table compare": lambda: table_compare.command(folder / "a", folder / "b"),
        "devices list": lambda: devices.list_devices(),
        "chain": lambda: chain.command(["mobilenetv2_140", "mobilenetv3_small_100"]),
        "run --list": lambda: run.command(None, listed=True),
        "run --dry-run": lambda: run.command(None, "digits", dry_run=True),
        "bench": lambda: bench.print_results(bench_results()),
        "refit": lambda: refit._print_fits(refit_result(), wide=False),
        "report": lambda: print_report(report()),
        "paper list": lambda: paper._list(json=False, wide=False),
        "paper": lambda: [paper._print(one, wide=False) for one in paper_outcomes()],
    }
    found: dict[str, list[Table]] = {name: [] for name in commands}
    with pytest.MonkeyPatch.context() as patch:
        for name, command in commands.items():

            def record(columns: Any, records: Any, *, title: str = "", wide: bool, to=name) -> None:
                found[to].append((columns, records, title))

            for module in (bench, chain, devices, grids, paper, refit, render, run, table_compare):
                if hasattr(module, "print_grid"):
                    patch.setattr(module, "print_grid", record)
            command()
    return found


NAMES = ("table show", "table show, spans", "table compare", "devices list", "chain", "run --list")
NAMES += ("run --dry-run", "bench", "refit", "report", "paper list", "paper")
COUNTS = {"chain": 2, "bench": 2, "report": 3, "paper": 5}


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """``printed(table, 80)``: the lines that it is; None: where output is no terminal."""

    def show(one: Table, width: int | None, wide: bool = False) -> list[str]:
        columns, records, title = one
        monkeypatch.setattr(grids, "screen_width", lambda: width)
        monkeypatch.setenv("COLUMNS", str(width or 80))
        capsys.readouterr()
        print_grid(columns, records, title=title, wide=wide)
        lines = capsys.readouterr().out.splitlines()
        head = next(at for at, line in enumerate(lines) if line.startswith(columns[0].header))
        return lines[head:]

    return show


def cut(rule: str, line: str) -> list[str]:
    """The cells of a line below a rule."""
    return [line[part.start() : part.end()].strip() for part in re.finditer("─+", rule)]


@pytest.mark.parametrize("name", NAMES)
def test_every_table_is_recorded_with_rows(name: str, tables: dict[str, list[Table]]) -> None:
    assert len(tables[name]) == COUNTS.get(name, 1)
    assert all(len(records) > 1 for _, records, _ in tables[name])


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("name", NAMES)
def test_on_a_terminal_lines_fit_and_numbers_are_whole(
    name: str, width: int, tables: dict[str, list[Table]], printed: Any
) -> None:
    for one in tables[name]:
        columns, records, _ = one
        head, rule, *rest = printed(one, width)
        rows, notes = rest[: len(records)], " ".join(" ".join(rest[len(records) :]).split())
        assert all(len(line) <= width for line in (head, rule, *rest))
        shown = {column.header: column for column in columns if column.header in cut(rule, head)}
        assert list(shown) == cut(rule, head)
        for record, row in zip(records, rows, strict=True):
            for column, cell in zip(shown.values(), cut(rule, row), strict=True):
                whole = " ".join(column.cell(record).split())
                assert column.least is None or not column.is_number
                if "…" in cell:
                    assert column.least is not None and len(cell) >= min(column.least, 8)
                    assert "texts shortened" in notes
                else:
                    assert cell == whole
        empty = {c.header for c in columns if not any(c.cell(record) for record in records)}
        missing = [c.header for c in columns if c.header not in {*shown, *empty}]
        assert (f"columns left out: {', '.join(missing)};" in notes) == bool(missing)
        assert not any(column.rank == 0 and column.header in missing for column in columns)
        assert notes == "" or notes.endswith("--wide shows all")


@pytest.mark.parametrize("name", NAMES)
def test_wide_shows_all_on_a_narrow_terminal(
    name: str, tables: dict[str, list[Table]], printed: Any
) -> None:
    for one in tables[name]:
        columns, records, _ = one
        head, rule, *rows = printed(one, 40, wide=True)
        assert cut(rule, head) == [column.header for column in columns]
        for record, row in zip(records, rows, strict=True):
            assert cut(rule, row) == [" ".join(c.cell(record).split()) for c in columns]


@pytest.mark.parametrize("name", NAMES)
def test_a_pipe_gets_plain_columns_all_of_them(
    name: str, tables: dict[str, list[Table]], printed: Any
) -> None:
    for one in tables[name]:
        columns, records, _ = one
        lines = printed(one, None)
        assert not any(BOXES.search(line) or "…" in line for line in lines)
        head, *rows = (re.split("  +", line) for line in lines)
        assert head == [column.header for column in columns]
        for record, row in zip(records, rows, strict=True):
            assert row == [" ".join(c.cell(record).split()) or "-" for c in columns]


def test_no_table_is_printed_in_another_way() -> None:
    package = Path(entry.__file__).parents[1]
    # A progress bar takes rich's Column, for the room that each of its parts has.
    tables = re.compile(r"from rich\.table import .*\bTable\b|import rich\.table")
    assert [file for file in package.rglob("*.py") if tables.search(file.read_text())] == []


def test_columns_go_by_rank_and_come_back_where_they_fit(printed: Any) -> None:
    columns: list[Column[int]] = [
        number("first", lambda n: n, "d"),
        number("wide", lambda n: 10.0**n, ".1f", rank=1),
        number("b", lambda n: n, "d", rank=2),
        Column("name", lambda n: "abcdefghij" * 2, least=7),
    ]
    table = (columns, [20, 3], "")
    # 5 + 23 + 2 + 7 and three gaps.
    assert printed(table, 43)[0].split() == ["first", "wide", "b", "name"]
    head, _, row, _, *note = printed(table, 42)
    assert head.split() == ["first", "wide", "name"]
    assert row.split()[-1] == "abcde…ghij"
    assert (
        " ".join(" ".join(note).split()) == "columns left out: b; texts shortened; --wide shows all"
    )
    # What is next in rank may still fit where the one before did not.
    assert printed(table, 20)[0].split() == ["first", "b", "name"]
    assert printed(table, 5)[0].split() == ["first", "name"]


def test_prose_is_shortened_after_a_word(printed: Any) -> None:
    columns: list[Column[str]] = [Column("why", str, least=4, is_prose=True)]
    assert printed((columns, ["it took 12.345 s longer"], ""), 14)[2] == "it took…"


def test_a_page_wraps_on_a_terminal_and_is_whole_in_a_pipe(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    facts = [("name", "tx2"), ("a note", "words and 12.5 numbers " * 5)]
    monkeypatch.setattr(grids, "screen_width", lambda: 40)
    print_page(facts)
    first, *rest = capsys.readouterr().out.splitlines()
    assert first == "name    tx2" and rest[0].startswith("a note  words")
    assert all(len(line) <= 40 and line[:8] in ("a note  ", " " * 8) for line in rest)
    assert " ".join(line[8:] for line in rest).split() == facts[1][1].split()
    monkeypatch.setattr(grids, "screen_width", lambda: None)
    print_page(facts)
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_a_real_terminal_is_seen_and_a_pipe_too() -> None:
    words = [sys.executable, "-m", "dshrink", "devices", "list"]
    piped = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True).stdout
    assert not BOXES.search(piped) and "tensorrt, trtexec, pytorch, onnxruntime" in piped
    ours, theirs = os.openpty()
    environment = {**os.environ, "COLUMNS": "80", "TERM": "xterm"}
    process = subprocess.Popen(words, stdout=theirs, stdin=subprocess.DEVNULL, env=environment)
    os.close(theirs)
    said = b""
    with contextlib.suppress(OSError):  # the end of a terminal that nobody writes to any more
        while part := os.read(ours, 4096):
            said += part
    os.close(ours)
    assert process.wait(60) == 0
    lines = re.sub(r"\x1b\[[0-9;]*m", "", said.decode()).splitlines()
    assert all(len(line) <= 80 for line in lines) and BOXES.search(lines[1])
    assert lines[-1] == "texts shortened; --wide shows all"
