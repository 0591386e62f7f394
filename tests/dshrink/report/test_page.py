"""The page's content: a stranger's questions, escaping, the numbers behind tables and figures."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
import shlex
import shutil
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from ran_command import Ran
from report_folders import (
    CONDITIONS,
    DRIFT,
    EVIL,
    LACKS,
    MERGED_MS,
    ORIGINAL_MS,
    shed_results,
    shed_table,
    write_everything,
)
from synthetic_tables import synthetic_span_table, synthetic_table, without_networks
from typer.main import get_command

from dshrink.cli import bench
from dshrink.cli import main as entry
from dshrink.report.content import Commands
from dshrink.report.folder import read_folder
from dshrink.report.page import page_of
from dshrink.report.sections import further
from dshrink.results import save_results
from latency_tables.io import save_table
from latency_tables.layers.io import save_layer_table
from latency_tables.layers.layer import Layer
from latency_tables.layers.layer_table import LayerRow, LayerTable
from latency_tables.measured import LATENCIES, SPREADS
from latency_tables.predictor import predict
from latency_tables.schema import Conditions


class Page(HTMLParser):
    """What a browser would make of it: texts, tables, links, scripts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text: list[str] = []
        self.rows: list[list[str]] = []
        self.links: list[dict[str, str | None]] = []
        self.addresses: list[str] = []
        self.scripts: list[str] = []
        self.open = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        self.addresses += [v or "" for k, v in attrs if k in ("src", "href", "action", "srcset")]
        if tag == "a":
            self.links.append(named)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag == "script":
            self.scripts.append("")
        self.open = tag

    def handle_data(self, data: str) -> None:
        if self.open in ("script", "style"):
            if self.open == "script":
                self.scripts[-1] += data
            return
        self.text.append(data)
        if self.rows and self.rows[-1] and self.open in ("td", "button"):
            self.rows[-1][-1] += data.strip()

    def handle_endtag(self, tag: str) -> None:
        self.open = ""

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())

    def row(self, first: str) -> list[str]:
        return next(row for row in self.rows if row and row[0] == first)

    def csv(self, name: str) -> list[dict[str, str]]:
        (link,) = [one for one in self.links if one.get("download") == f"{name}.csv"]
        data = base64.b64decode((link["href"] or "").partition("base64,")[2]).decode()
        return list(csv.DictReader(io.StringIO(data)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("everything")
    write_everything(found)
    return found


@pytest.fixture(scope="module")
def html(folder: Path) -> str:
    return page_of(read_folder(folder))


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def test_a_stranger_finds_the_answer_to_ten_questions(page: Page, folder: Path) -> None:
    # 1 how fast is it now, 2 what changed, 3 what accuracy, 4 how sure, 5 was it noisy, 6 on what
    for said in (
        "How fast is it now? 20.000 ms synthetic, as it is: measured, 50.0 FPS",
        "How fast can it be? 1.250 times as fast measured: plan.onnx, 4 blocks stay",
        "What accuracy? 89.50 % the original: 91.00 %, plan.onnx",
        "Can predictions be trusted? Usable: predictions within 0.19 % on average (limit 2 %)",
        "Was it noisy? Yes 40 % of processes were more than 5 % slower",
        "On what? shed, onnxruntime 1.31.1, fp32, batch 1, 1 thread, thread CPU time",
        "Shed CPU, 2 cores, 4.0 GiB",
        # 7 how was it measured
        "the CPU time of the one thread that runs",
        "7 to 8 processes",
        # 8 where is the file
        "table/table.json",
        # 9 what do I run next
        f"dshrink report {folder} --out report.html",
    ):
        assert said in page.words
    # 10 what does block 5 cost, as it is and merged
    block = next(row for row in page.rows if row[:2] == ["5", "blocks.5"])
    assert [float(cell) for cell in (block[2], block[4], block[6])] == pytest.approx(
        [2.5, 1.5, 1.0], abs=2e-3
    )


def test_what_keeping_fewer_blocks_buys_is_what_the_table_predicts(page: Page) -> None:
    table = shed_table()
    rows = {row["blocks that stay"]: row for row in page.csv("table_kept")}
    # Block 2 cannot merge, so one stays at least.
    assert set(rows) == set("123456")
    for row in rows.values():
        assert row["mask"].count("1") == int(row["blocks that stay"])
        predicted = predict(table, row["mask"], "bias_map").latency_ms
        assert float(row["predicted ms"]) == pytest.approx(predicted)


def test_the_data_of_a_figure_are_the_rows_of_the_table(page: Page) -> None:
    table, drawn = shed_table(), page.csv("table_blocks")
    assert len(drawn) == len(ORIGINAL_MS) + sum(ms is not None for ms in MERGED_MS)
    for one in drawn:
        row = table.row(one["form"], int(one["block"]))
        assert float(one["cost_ms"]) == row.cost_ms
        assert float(one["low_ms"]) == row.in_network_low_ms


def test_every_figure_and_table_offers_its_numbers(html: str, page: Page) -> None:
    downloads = [link.get("download") for link in page.links if "download" in link]
    assert len(set(downloads)) == len(downloads) == html.count("<figcaption>")
    places = re.findall(r'class="place" id="(.*?)"', html)
    items = json.loads(page.scripts[0])
    assert [item["target_id"] for item in items] == places
    assert len(places) >= 8


def test_a_warning_is_said_once_with_what_to_do(page: Page) -> None:
    assert page.words.count("speed drifted by up to") == 1
    first = DRIFT.format(8.7).partition("; ")
    assert f"{first[0]} (2 times) What to do: {first[2]}" in page.words


def test_a_merge_of_weights_that_were_not_trained_for_it_is_warned_of(page: Page) -> None:
    assert f"{LACKS} What to do: refit them: dshrink refit, or fine-tune them" in page.words
    (merge,) = page.csv("merges")
    assert (float(merge["as the original"]), merge["note"]) == (60.0, LACKS)


def test_the_page_names_no_address_but_its_own(html: str, page: Page) -> None:
    assert all(one.startswith(("#", "data:")) for one in page.addresses)
    ours = html.replace(max(page.scripts, key=len), "")
    assert not re.search(r"https?://|//[a-z]+\.[a-z]|@import|url\(", ours)
    assert "default-src 'none'" in html
    assert len(html.encode()) < 3e6


def test_what_comes_from_files_is_escaped(tmp_path: Path) -> None:
    conditions = Conditions(
        device=EVIL, runtime="onnxruntime", runtime_version="1", clock="thread_cpu"
    )
    table = replace(shed_table(warnings=(EVIL,)), conditions=conditions, model=EVIL)
    save_table(table, tmp_path / "table")
    results = [replace(one, network=EVIL, device=EVIL) for one in shed_results()[1:]]
    save_results(results, tmp_path / "results.csv")
    (tmp_path / "plan.json").write_text(EVIL)
    html = page_of(read_folder(tmp_path))
    page = Page(html)
    # The figures, Bokeh's own two or more, and ours; none that a file brought.
    assert EVIL in page.words
    assert "alert(1)" not in [script.strip() for script in page.scripts]
    assert EVIL not in html
    assert page.scripts[-1].strip().startswith('"use strict"')
    assert EVIL in json.dumps(json.loads(page.scripts[0])).replace("\\", "")


def test_a_bare_table_says_what_it_cannot(tmp_path: Path) -> None:
    save_table(shed_table(), tmp_path)
    page = Page(page_of(read_folder(tmp_path)))
    assert "What accuracy? Not measured" in page.words
    assert f"dshrink search greedy synthetic --table {tmp_path} --budget-ms" in page.words
    assert "Whole networks, measured" not in page.words


def test_a_study_is_answered_by_its_planned_networks_not_by_its_rivals(tmp_path: Path) -> None:
    results = Path(__file__).parents[3] / "benchmarks" / "results"
    shutil.copy(results / "digits_study_local.csv", tmp_path / "results.csv")
    words = Page(page_of(read_folder(tmp_path))).words
    # As its report has them: layer pruning is faster, and loses nine points.
    assert "How fast can it be? 1.453 times as fast measured: searched_keep2.onnx" in words
    assert "What accuracy? 95.32 % the original: 95.92 %" in words


def test_a_table_of_layers_says_how_well_they_are_known(tmp_path: Path) -> None:
    layers = [Layer(in_channels=4, out_channels=at, height=7) for at in (4, 8)]
    times = {"latency_ms": 1.0, "low_ms": 0.9, "high_ms": 1.1, "samples": 9, "rounds": 3}
    rows = [
        LayerRow(
            layer=layer,
            digest=layer.spec.digest,
            macs=layer.spec.macs,
            parameters=1,
            peak_activations=1,
            verdict=verdict,
            reason=reason,
            **{**dict.fromkeys((*LATENCIES, *SPREADS), 1.0), **times},  # type: ignore[arg-type]
        )
        for layer, verdict, reason in zip(layers, ("ok", "noisy"), ("", "too few"), strict=True)
    ]
    save_layer_table(LayerTable(rows=tuple(rows), conditions=CONDITIONS), tmp_path)
    page = Page(page_of(read_folder(tmp_path)))
    assert "2 layers on shed" in page.words
    assert "Can the numbers be trusted? 0 of 2 layers within 2 %" in page.words
    assert "What accuracy?" not in page.words
    assert [float(row["±"]) for row in page.csv("layers")] == pytest.approx([10.0, 10.0])


def next_commands(folder: Path) -> list[str]:
    sections = further.next_section(read_folder(folder)).blocks
    return [one.line for block in sections if isinstance(block, Commands) for one in block.commands]


def test_what_to_run_next_are_commands_that_exist(folder: Path, tmp_path: Path) -> None:
    """Of everything, of a bare table that is fit or not, and of a plan with and without a merge."""
    lines = next_commands(folder)
    save_table(shed_table(), tmp_path / "fit" / "table")
    save_table(without_networks(shed_table()), tmp_path / "unfit" / "table")
    lines += next_commands(tmp_path / "fit") + next_commands(tmp_path / "unfit")
    for name in ("plan.json", "plan.onnx.certificate.json", "importance.csv"):
        shutil.copy(folder / name, tmp_path / "fit" / name)
        lines += next_commands(tmp_path / "fit")
    spans = {(0, 1): 1.0, (1, 2): 1.0, (0, 2): 1.5}
    save_table(synthetic_span_table(spans, mask="11", block_ends=(2,)), tmp_path / "spans")
    shutil.copy(folder / "importance.csv", tmp_path / "spans")
    lines += next_commands(tmp_path / "spans")
    words = {tuple(line.split()[1:3]) for line in lines}
    assert {"profile", "refit", "finetune", "merge", "bench"} <= {first for first, _ in words}
    assert {("search", "greedy"), ("search", "mask"), ("search", "dp")} <= words
    for line in lines:
        command, rest = get_command(entry.app), shlex.split(line)[1:]
        while hasattr(command, "commands"):
            command, rest = command.commands[rest[0]], rest[1:]
        numbers = ["7.5" if word == "MS" else word for word in rest]
        command.make_context("dshrink", numbers)


def test_an_unfit_table_is_not_usable_and_is_to_be_measured_again(tmp_path: Path) -> None:
    errors = (3.0, -4.0, 5.0, -3.0, 4.0, -5.0, 3.0, -4.0)
    table = synthetic_table(ORIGINAL_MS, MERGED_MS, hold_out_errors_percent=errors)
    save_table(table, tmp_path)
    words = Page(page_of(read_folder(tmp_path))).words
    assert "Not usable: predictions are off by" in words
    assert "Measure the table again while nothing else runs" in words
    assert "--out again" in words


def test_the_command_writes_the_page_and_names_what_it_could_not_read(
    folder: Path, tmp_path: Path, dshrink: Callable[..., Ran]
) -> None:
    save_table(shed_table(), tmp_path / "table")
    (tmp_path / "plan.json").write_text("{")
    done = dshrink("report", tmp_path, "--out", tmp_path / "out" / "report.html")
    assert done.status == 0
    assert "plan.json is left out: line 1: not valid JSON" in done.err
    html = (tmp_path / "out" / "report.html").read_text("utf-8")
    assert "1 file could not be read: plan.json" in Page(html).words.replace(" :", ":")
    assert dshrink("report", tmp_path / "out").status == 2


def test_report_writes_the_page_of_what_a_command_made(
    tmp_path: Path, dshrink: Callable[..., Ran]
) -> None:
    done = dshrink("paper", "kim", "--out", tmp_path / "kim", "--report", tmp_path / "kim.html")
    assert (done.status, f"report: {tmp_path / 'kim.html'}" in done.err) == (0, True)
    assert "Kim et al. (ICML 2023)" in Page((tmp_path / "kim.html").read_text("utf-8")).words


def test_the_page_of_a_benchmark_holds_what_it_was_given_and_not_what_lies_beside(
    folder: Path,
) -> None:
    plans = ["mask:011101", str(folder / "plan.json")]
    given = bench.files_of(folder / "results.csv", plans, [folder / "table"])
    found = read_folder(folder, given)
    assert [held.file for held in (*found.results, *found.plans, *found.tables)] == [
        *("results.csv", "plan.json", "table/table.json")
    ]
    assert found.refits == found.experiments == ()
