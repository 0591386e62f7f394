"""Pictures are read back: bars, marks, axes and texts must be the numbers they were drawn from."""

from __future__ import annotations

import csv
import itertools
import json
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import matplotlib
import pytest
from matplotlib.container import BarContainer, ErrorbarContainer
from synthetic_tables import synthetic_row, synthetic_table, without_networks
from typer.testing import CliRunner

from dshrink.cli.plot import app
from dshrink.errors import DshrinkError
from dshrink.plots import (
    FrontierCurve,
    PlotError,
    blocks_figure,
    frontier_figure,
    kept_figure,
    memory_figure,
    plan_labels,
    predicted_figure,
    save_figure,
    throughput_figure,
)
from dshrink.plots.frontier import FrontierPoint
from dshrink.results import ResultsError, load_results
from dshrink.search.plan import parse_plan, save_plan
from latency_tables.errors import LatencyTableError, MaskError
from latency_tables.io import save_table
from latency_tables.measured import LATENCIES, OPTIONAL, SPREADS
from latency_tables.origin import Origin
from latency_tables.predictor import predict
from latency_tables.schema import IN_NETWORK, Conditions

ORIGINAL = (4.0, 2.0, 3.0, 1.0, 5.0)
MERGED = (1.0, 2.5, None, 0.25, 2.0)
BIAS_MAP = {1: 1.5, 4: 3.0}
CONDITIONS = Conditions(
    device="shed", runtime="onnxruntime", runtime_version="1.31.1", batch=8, clock="thread_cpu"
)


def table_of_five(**options):
    return synthetic_table(ORIGINAL, MERGED, bias_map_ms=BIAS_MAP, conditions=CONDITIONS, **options)


def bars(axes):
    """Label to {block: height}; a bar belongs to the block that is nearest to its middle."""
    return {
        container.get_label(): {
            round(bar.get_x() + bar.get_width() / 2): bar.get_height() for bar in container
        }
        for container in axes.containers
        if isinstance(container, BarContainer)
    }


def marks(axes, label):
    """The points of the scatter with this label."""
    (found,) = [c for c in axes.collections if c.get_label() == label]
    return [tuple(map(float, point)) for point in found.get_offsets()]


def texts(figure):
    """Every text that is drawn: titles, labels, ticks, legends, notes."""
    figure.canvas.draw()
    return [t for t in figure.findobj(matplotlib.text.Text) if t.get_text() and t.get_visible()]


def words(figure):
    return " | ".join(t.get_text() for t in texts(figure))


# Blocks


def test_a_bar_is_as_high_as_the_latency_of_its_row():
    latency, _ = blocks_figure(table_of_five()).axes
    found = bars(latency)
    assert found["original"] == dict(enumerate(ORIGINAL))
    assert found["merged"] == {0: 1.0, 1: 2.5, 3: 0.25, 4: 2.0}
    assert found["merged with bias map"] == BIAS_MAP


def test_bars_of_one_block_stand_side_by_side():
    table = table_of_five()
    table = replace(table, rows=(*table.rows, synthetic_row("dense", 0), synthetic_row("dense", 4)))
    latency, _ = blocks_figure(table).axes
    edges = sorted((bar.get_x(), bar.get_x() + bar.get_width()) for bar in latency.patches)
    assert len(edges) == 5 + 4 + 2 + 2
    assert all(right <= left + 1e-9 for (_, right), (left, _) in itertools.pairwise(edges))
    assert bars(latency)["dense, equal MACs"] == {0: 1.0, 4: 1.0}


def test_error_bars_are_the_intervals_of_the_rows():
    table = without_networks(table_of_five())
    latency, _ = blocks_figure(table).axes
    (original, *_) = [c for c in latency.containers if isinstance(c, ErrorbarContainer)]
    (segments,) = (lines.get_segments() for lines in original.lines[2])
    for block, segment in enumerate(segments):
        row = table.row("original", block)
        assert segment[:, 1] == pytest.approx([row.low_ms, row.high_ms])


def test_bars_are_of_costs_in_the_network_where_networks_were_measured():
    table = table_of_five(slope=1.2)
    figure = blocks_figure(table)
    latency, saving = figure.axes
    (original, *_) = [c for c in latency.containers if isinstance(c, ErrorbarContainer)]
    rows = [table.row("original", block) for block in range(5)]
    assert bars(latency)["original"] == {row.block: row.in_network_ms for row in rows}
    for row, segment in zip(rows, original.lines[2][0].get_segments(), strict=True):
        assert segment[:, 1] == pytest.approx([row.in_network_low_ms, row.in_network_high_ms])
    (merged,) = {h for b, h in bars(saving)["merged"].items() if b == 0}
    assert merged == pytest.approx(100 * table.saving_ms(0) / rows[0].in_network_ms)
    assert "in the network before and after merging" in words(figure)
    assert "in the network" not in words(blocks_figure(without_networks(table)))


@pytest.mark.parametrize(
    ("padding", "after"),
    [
        ("bias_map", {0: 1.0, 1: 1.5, 3: 0.25, 4: 3.0}),
        ("repad", {0: 1.0, 1: 2.5, 3: 0.25, 4: 2.0}),
    ],
)
def test_the_saving_is_that_of_the_padding_and_is_written_in_percent(padding, after):
    figure = blocks_figure(table_of_five(), padding=padding)
    saving = figure.axes[1]
    expected = {
        block: 100 * (ORIGINAL[block] - ms) / ORIGINAL[block] for block, ms in after.items()
    }
    found = {block: height for group in bars(saving).values() for block, height in group.items()}
    assert found == pytest.approx(expected)
    written = sorted(t.get_text() for t in saving.texts)
    assert written == sorted(f"{percent:.0f}" for percent in expected.values())
    assert saving.get_ylabel() == "Saving [%]"


def test_a_failed_row_and_a_noisy_row_are_marked():
    table = table_of_five()
    noisy = replace(synthetic_row("original", 3, latency_ms=1.0), verdict="noisy", reason="load")
    failed = synthetic_row("merged", 0, latency_ms=None)
    changed = {("original", 3): noisy, ("merged", 0): failed}
    rows = tuple(changed.get((row.kind, row.block), row) for row in table.rows)
    figure = blocks_figure(replace(table, rows=rows))
    ((x, y),) = marks(figure.axes[0], "failed")
    assert (round(x), y) == (0, 0)
    # As high and wide as the bar of the row, hatched over it.
    (hatched,) = [c for c in figure.axes[0].containers if c.get_label() == "_noisy"]
    (bar,) = hatched
    assert (round(bar.get_x() + bar.get_width() / 2), bar.get_height()) == (3, 1.0)
    assert bar.get_hatch() and "noisy or throttled" in words(figure)
    saved = {block for group in bars(figure.axes[1]).values() for block in group}
    assert saved == {1, 3, 4}


def test_a_block_that_loses_most_is_cut_and_does_not_flatten_the_others():
    table = synthetic_table([1.0, 2.0], [2.75, 1.0], conditions=CONDITIONS)
    saving = blocks_figure(table, padding="repad").axes[1]
    heights = {block: one for group in bars(saving).values() for block, one in group.items()}
    assert heights == pytest.approx({0: -100, 1: 50}, rel=0.01)
    (written,) = [t.get_text() for t in saving.texts if "↓" in t.get_text()]
    assert float(written.split()[0]) == pytest.approx(-175, abs=1)
    low, high = saving.get_ylim()
    assert low > -175 and high > 50


def test_a_published_table_has_no_intervals_and_no_doubtful_marks():
    table = table_of_five()
    nothing = dict.fromkeys((*LATENCIES, *SPREADS, *OPTIONAL, *IN_NETWORK))
    counts = {"samples": 0, "rounds": 0, "verdict": "published"}
    published = [
        replace(row, **(nothing | counts | {"latency_ms": row.latency_ms})) for row in table.rows
    ]
    origin = Origin(source="Somebody, 2020", licence="MIT")
    conditions = replace(CONDITIONS, runtime_version="unknown")
    changed = {"networks": (), "estimate": None, "conditions": conditions, "origin": origin}
    figure = blocks_figure(replace(table, rows=tuple(published), **changed))
    latency = figure.axes[0]
    assert bars(latency)["original"] == dict(enumerate(ORIGINAL))
    assert [c.get_label() for c in latency.collections if "noisy" in c.get_label()] == []
    assert "interval" not in words(figure)
    assert "shed, onnxruntime, fp32, batch 8; published by Somebody, 2020" in words(figure)


def test_blocks_that_cannot_merge_are_named():
    assert "cannot merge: 2" in blocks_figure(table_of_five()).axes[1].get_xlabel()
    twenty = synthetic_table([1.0] * 20, [None] * 20, hold_out_errors_percent=())
    assert "cannot merge: 20 blocks" in blocks_figure(twenty).axes[1].get_xlabel()


def test_the_axes_have_units_and_start_at_zero():
    latency, saving = blocks_figure(table_of_five()).axes
    assert latency.get_ylabel() == "Latency [ms]"
    assert latency.get_ylim()[0] == 0
    assert list(saving.get_xticks()) == [0, 1, 2, 3, 4]
    assert saving.get_xlim() == latency.get_xlim() == (-0.6, 4.6)


def test_an_unknown_padding_is_refused():
    with pytest.raises(MaskError, match="unknown padding 'mirror'"):
        blocks_figure(table_of_five(), padding="mirror")


def test_a_table_without_blocks_is_one_line_with_the_command():
    table = replace(
        table_of_five(),
        rows=(synthetic_row("stem"), synthetic_row("head")),
        networks=(),
    )
    for draw in (blocks_figure, memory_figure):
        with pytest.raises(PlotError, match=r"no rows of blocks.*dshrink profile synthetic"):
            draw(table)


# Memory


def with_counts(table, parameters, peak):
    rows = tuple(
        replace(row, parameters=parameters[row.kind], peak_activations=peak[row.kind])
        if row.kind in parameters
        else row
        for row in table.rows
    )
    return replace(table, rows=rows)


def test_memory_is_two_bytes_a_number_in_the_unit_of_the_axis():
    parameters = {"original": 1024, "merged": 2048, "merged_bias_map": 3072}
    peak = {"original": 3 * 1024**2, "merged": 1024**2, "merged_bias_map": 1024**2}
    figure = memory_figure(with_counts(table_of_five(), parameters, peak))
    activations, weights = figure.axes
    assert activations.get_ylabel() == "Peak activations [MiB]"
    assert bars(activations)["original"] == dict.fromkeys(range(5), 6.0)
    assert bars(activations)["merged"] == dict.fromkeys((0, 1, 3, 4), 2.0)
    assert weights.get_ylabel() == "Weights [KiB]"
    assert bars(weights)["original"] == dict.fromkeys(range(5), 2.0)
    assert bars(weights)["merged with bias map"] == {1: 6.0, 4: 6.0}
    assert "16 bit" in words(figure)


# Kept


def test_a_filled_square_stands_where_a_plan_keeps_a_block():
    plans = {"first": parse_plan("mask:10110"), "second": parse_plan("mask:00001")}
    (strips,) = kept_figure(plans).axes
    assert set(marks(strips, "keeps its activations")) == {(0, 0), (2, 0), (3, 0), (4, 1)}
    merged = {(1, 0), (4, 0), (0, 1), (1, 1), (2, 1), (3, 1)}
    assert set(marks(strips, "merged")) == merged
    assert [t.get_text() for t in strips.get_yticklabels()] == ["first", "second"]
    assert [t.get_text() for t in strips.texts] == ["3 of 5 kept", "1 of 5 kept"]
    # The first plan stands on top.
    assert strips.get_ylim()[0] > strips.get_ylim()[1]


def test_a_table_adds_latencies_and_the_prediction_of_each_plan():
    table = table_of_five()
    figure = kept_figure({"a": parse_plan("mask:01101")}, table=table, padding="repad")
    latency, strips = figure.axes
    assert bars(latency)["original"] == dict(enumerate(ORIGINAL))
    expected = predict(table, "01101", "repad").latency_ms
    assert [t.get_text() for t in strips.texts] == [f"3 of 5 kept, {expected:.4g} ms predicted"]
    assert [t.get_text() for t in strips.get_xticklabels()][3] == "3  blocks.3"


def test_a_plans_latency_is_that_of_its_own_padding():
    table, plan = table_of_five(), replace(parse_plan("mask:10101"), padding="repad")
    own, other = (predict(table, "10101", padding).latency_ms for padding in ("repad", "bias_map"))
    assert own != other
    (strip,) = kept_figure({"a": plan}, table=table).axes[1].texts
    assert f"{own:.4g} ms" in strip.get_text()
    (strip,) = kept_figure({"a": plan}, table=table, padding="bias_map").axes[1].texts
    assert f"{other:.4g} ms" in strip.get_text()


def test_plans_without_a_square_of_one_kind_are_drawn():
    (strips,) = kept_figure({"all": parse_plan("mask:11")}).axes
    assert marks(strips, "keeps its activations") == [(0, 0), (1, 0)]
    assert marks(strips, "merged") == []


def test_a_plan_that_does_not_fit_the_table_is_refused():
    with pytest.raises(MaskError, match="cannot merge"):
        kept_figure({"a": parse_plan("mask:11011")}, table=table_of_five())
    with pytest.raises(PlotError, match="no plan"):
        kept_figure({})


def test_labels_are_short_unless_two_plans_would_share_one():
    texts = ["paper:MBV2-1.4-DS-A", "mask:0101", "out/fast.json"]
    assert plan_labels(texts) == ["MBV2-1.4-DS-A", "mask", "fast"]
    twice = ["a/fast.json", "b/fast.json", "mask:01", "mask:10"]
    assert plan_labels(twice) == twice
    assert plan_labels(["spans:01", "out/a.csv"]) == ["spans", "a"]
    assert plan_labels(["spans:01", "mask:1", "spans:11"]) == ["spans 1", "mask", "spans 2"]


# Predicted


def test_each_method_is_drawn_with_its_error_in_the_legend():
    table = table_of_five(slope=1.05, offset_ms=0.4)
    figure = predicted_figure(table)
    latency, errors = figure.axes
    networks = table.hold_out.networks
    methods = {
        "latency table": [n.predicted_ms for n in networks],
        "plain sum of rows": [n.plain_sum_ms for n in networks],
        "scaled MACs": [n.scaled_macs_ms for n in networks],
    }
    for name, predictions in methods.items():
        error_percent = [
            100 * (p - n.measured_ms) / n.measured_ms
            for p, n in zip(predictions, networks, strict=True)
        ]
        mape = sum(map(abs, error_percent)) / len(networks)
        points = marks(latency, f"{name}, MAPE {mape:.2f} %")
        expected = list(zip((n.measured_ms for n in networks), predictions, strict=True))
        assert points == [pytest.approx(point) for point in expected]
        assert [y for _, y in marks(errors, name)] == pytest.approx(error_percent)
    legend = [t.get_text() for t in latency.get_legend().get_texts()]
    assert sum("MAPE" in text for text in legend) == 3
    assert latency.get_xlim() == errors.get_xlim()


def test_the_bars_are_the_prediction_intervals_of_the_networks():
    table = table_of_five(slope=1.05, offset_ms=0.4)
    latency, errors = predicted_figure(table).axes
    expected = [predict(table, n.keep_mask, n.padding) for n in table.hold_out.networks]
    (up, across), (percent,) = (
        [c for c in axes.containers if isinstance(c, ErrorbarContainer)]
        for axes in (latency, errors)
    )
    segments = zip(
        *(bars.lines[2][0].get_segments() for bars in (up, across, percent)),
        table.hold_out.networks,
        expected,
        strict=True,
    )
    for vertical, horizontal, error, network, found in segments:
        assert vertical[:, 1] == pytest.approx([found.low_ms, found.high_ms])
        assert horizontal[:, 0] == pytest.approx(
            [network.measured_low_ms, network.measured_high_ms]
        )
        ends = [100 * (ms / network.measured_ms - 1) for ms in (found.low_ms, found.high_ms)]
        assert error[:, 1] == pytest.approx(ends)
    share = f"{table.hold_out.interval_percent:.2f} % on average"
    assert share in up.get_label()


def test_one_held_out_network_is_drawn():
    figure = predicted_figure(table_of_five(hold_out_errors_percent=(0.1,)))
    assert "1 held-out shrunk network |" in words(figure)


def test_a_table_without_held_out_networks_is_one_line_with_the_command():
    with pytest.raises(PlotError, match=r"no held-out networks.*dshrink profile synthetic"):
        predicted_figure(table_of_five(hold_out_errors_percent=()))


# Throughput

HEADER = (
    "network,model,keep_mask,kept_blocks,padding,device,runtime,precision,batch,threads,clock,"
    "latency_ms,low_ms,high_ms,throughput_fps,throughput_low_fps,throughput_high_fps,predicted_ms,"
    "predicted_low_ms,predicted_high_ms,error_percent,macs,parameters,verdict,reason,file"
)
COLUMNS = HEADER.split(",")


def result(keep_mask, fps, **changes):
    return {
        **dict.fromkeys(COLUMNS, ""),
        "network": f"net {keep_mask}",
        "model": "toy",
        "keep_mask": keep_mask,
        "kept_blocks": keep_mask.count("1"),
        "device": "shed",
        "runtime": "onnxruntime",
        "precision": "fp32",
        "batch": 1,
        "threads": 1,
        "clock": "wall",
        "throughput_fps": fps,
        "throughput_low_fps": fps * 0.9,
        "throughput_high_fps": fps * 1.2,
        "verdict": "ok",
        **changes,
    }


def write_csv(path, lines, columns=COLUMNS):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(lines)
    return path


def measured(axes):
    """Label to [(kept blocks, FPS, low, high)] of the series."""
    found = {}
    for container in axes.containers:
        points, _, (lines,) = container.lines
        ends = [segment[:, 1] for segment in lines.get_segments()]
        found[container.get_label()] = [
            (x, y, *end) for (x, y), end in zip(points.get_xydata(), ends, strict=True)
        ]
    return found


def test_throughput_is_drawn_with_its_interval(tmp_path):
    path = write_csv(tmp_path / "r.csv", [result("111", 100.0), result("010", 250.0)])
    figure = throughput_figure(load_results(path).results)
    (axes,) = figure.axes
    ((label, points),) = measured(axes).items()
    assert label == "measured"
    assert points == [pytest.approx((3, 100, 90, 120)), pytest.approx((1, 250, 225, 300))]
    assert axes.get_ylabel() == "Throughput [frames/s]"
    assert axes.get_xlabel() == "Blocks that keep their activations (of 3)"
    assert axes.get_ylim()[0] == 0
    assert "toy, shed, onnxruntime, fp32, batch 1, 1 thread, wall time" in words(figure)
    assert {"net 111", "net 010"} <= {t.get_text() for t in axes.texts}


def test_a_prediction_is_a_hollow_mark_in_frames_per_second(tmp_path):
    change = {"batch": 8, "predicted_ms": 20, "predicted_low_ms": 16, "predicted_high_ms": 25}
    path = write_csv(
        tmp_path / "r.csv", [result("10", 390.0, **change), result("11", 200.0, batch=8)]
    )
    (axes,) = throughput_figure(load_results(path).results).axes
    assert marks(axes, "_predicted, measured") == [(1, 400)]
    interval, hollow = axes.collections[-2:]
    assert hollow.get_facecolor().size == 0
    assert interval.get_segments()[0].tolist() == [[1, 320], [1, 500]]


def test_names_stay_inside_of_the_axes_and_one_is_said_once_a_column(tmp_path):
    names = ["searched_keep2_seed0.onnx", "searched_keep2_seed1.onnx", "original_seed0.onnx"]
    masks = ["110", "011", "111"]
    lines = [
        result(mask, 250.0 + n, network=name)
        for n, (mask, name) in enumerate(zip(masks, names, strict=True))
    ]
    figure = throughput_figure(load_results(write_csv(tmp_path / "r.csv", lines)).results)
    (axes,) = figure.axes
    figure.canvas.draw()
    assert sorted(text.get_text() for text in axes.texts) == ["keep 2", "original"]
    for text in axes.texts:
        box, page = text.get_window_extent(), axes.get_window_extent()
        assert page.x0 <= box.x0 and box.x1 <= page.x1
        assert page.y0 <= box.y0 and box.y1 <= page.y1


def test_each_batch_is_a_series_named_by_what_differs(tmp_path):
    lines = [result("11", 100.0), result("01", 200.0), result("11", 300.0, batch=8)]
    figure = throughput_figure(load_results(write_csv(tmp_path / "r.csv", lines)).results)
    found = measured(figure.axes[0])
    assert {name: [p[:2] for p in points] for name, points in found.items()} == {
        "batch 1": [(2, 100), (1, 200)],
        "batch 8": [(2, 300)],
    }
    assert "toy, shed, onnxruntime, fp32, 1 thread, wall time" in words(figure)


def test_plain_launches_and_cuda_graphs_are_series_of_their_own(tmp_path):
    graph = {"launch": "cuda_graph", "cache_mode": "hot", "clock": "cuda_events"}
    lines = [
        result("11", 100.0, **{**graph, "launch": "plain"}),
        result("11", 300.0, **graph),
    ]
    path = write_csv(tmp_path / "r.csv", lines, (*COLUMNS, "launch", "cache_mode"))
    figure = throughput_figure(load_results(path).results)
    assert set(measured(figure.axes[0])) == {"plain launches", "CUDA graph"}
    assert "toy, shed, onnxruntime, fp32, batch 1, 1 thread, GPU time" in words(figure)


def test_what_cannot_be_drawn_is_counted(tmp_path):
    failed = result("00", 1.0, throughput_fps="", throughput_low_fps="", throughput_high_fps="")
    file = result("", 50.0, kept_blocks="")
    path = write_csv(tmp_path / "r.csv", [result("11", 100.0), failed, file])
    (axes,) = throughput_figure(load_results(path).results).axes
    assert [p[:2] for p in measured(axes)["measured"]] == [(2, 100)]
    assert "2 networks" in axes.get_xlabel()
    with pytest.raises(PlotError, match="none of the 2 results can be drawn: 1 have no throughput"):
        throughput_figure(load_results(write_csv(tmp_path / "r.csv", [failed, file])).results)


def test_too_many_series_are_refused(tmp_path):
    lines = [result("11", 100.0, batch=2**n) for n in range(7)]
    with pytest.raises(PlotError, match="7 sets of conditions"):
        throughput_figure(load_results(write_csv(tmp_path / "r.csv", lines)).results)


def test_missing_columns_are_all_named(tmp_path):
    columns = [name for name in COLUMNS if name not in ("batch", "throughput_fps")]
    path = write_csv(tmp_path / "r.csv", [result("11", 100.0)], columns)
    with pytest.raises(
        ResultsError,
        match=r"line 1: missing columns batch, throughput_fps \(separated by",
    ):
        load_results(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"throughput_fps": "fast"}, "throughput_fps must be a finite number above 0, got fast"),
        ({"throughput_fps": "nan"}, "throughput_fps must be a finite number above 0, got nan"),
        ({"predicted_ms": "-3"}, "predicted_ms must be a finite number above 0, got -3"),
        ({"throughput_low_fps": "300"}, "throughput_fps must be between throughput_low_fps and"),
        ({"batch": ""}, "batch must be a whole number, 0 or more, got an empty value"),
        ({"batch": "0"}, "batch must be 1 or more, got 0"),
        ({"batch": "1.5"}, "batch must be a whole number"),
        ({"kept_blocks": "1"}, "kept_blocks must be 2, the 1s of keep_mask 11, got 1"),
    ],
)
def test_a_bad_value_is_one_line_with_the_place(tmp_path, change, message):
    path = write_csv(tmp_path / "r.csv", [result("10", 90.0), result("11", 100.0, **change)])
    with pytest.raises(ResultsError) as error:
        load_results(path)
    assert str(error.value).startswith(f"{path}: line 3 (net 11): {message}")
    assert "\n" not in str(error.value)


def test_a_broken_file_of_results_is_one_line(tmp_path):
    path = tmp_path / "r.csv"
    with pytest.raises(ResultsError, match="no such file"):
        load_results(path)
    write_csv(path, [])
    with pytest.raises(ResultsError, match="no rows"):
        load_results(path)
    write_csv(path, [result("11", 100.0)])
    for text in (path.read_text()[:-12] + "\n", path.read_text().rstrip() + ",1,2\n"):
        path.write_text(text)
        with pytest.raises(ResultsError, match=r"line 2: \d+ values for \d+ columns"):
            load_results(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ResultsError, match="cannot be read as text"):
        load_results(path)


# Every picture


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Every picture by its name, drawn once."""
    table = table_of_five()
    path = write_csv(
        tmp_path_factory.mktemp("pictures") / "results.csv",
        [result("11", 100.0, predicted_ms=11)],
    )
    spans = {"a": parse_plan("spans:" + "10|" * 20), "b": parse_plan("spans:" + "111" * 20)}
    points = [FrontierPoint(time_ms=t, importance=t, mask="01" * 25) for t in (1.0, 2.0)]
    frontier = FrontierCurve(label="a", points=tuple(points))
    return {
        "blocks": blocks_figure(table),
        "memory": memory_figure(table),
        "predicted": predicted_figure(table),
        "kept": kept_figure({"a": parse_plan("mask:10110")}, table=table),
        "kept spans": kept_figure(spans),
        "frontier": frontier_figure([frontier], budgets_ms=[1, 2]),
        "throughput": throughput_figure(load_results(path).results),
    }


def test_every_text_is_legible_in_a_readme(pictures):
    for name, figure in pictures.items():
        assert figure.get_figwidth() == 9.0, name
        small = [t.get_text() for t in texts(figure) if t.get_fontsize() < 9]
        assert not small, name


def test_every_text_lies_inside_of_the_picture(pictures):
    for name, figure in pictures.items():
        drawn = texts(figure)
        page = figure.bbox
        for text in drawn:
            box = text.get_window_extent()
            # Ticks beyond the limits of an axis exist, but are not drawn.
            if text in [
                t for a in figure.axes for t in (*a.get_xticklabels(), *a.get_yticklabels())
            ]:
                continue
            assert page.x0 - 1 <= box.x0 and box.x1 <= page.x1 + 1, (name, text.get_text())
            assert page.y0 - 1 <= box.y0 and box.y1 <= page.y1 + 1, (name, text.get_text())


@pytest.mark.parametrize("name", ["blocks", "predicted", "kept"])
def test_the_title_names_the_network_and_its_conditions(name, pictures):
    assert (
        "synthetic at 224x224, shed, onnxruntime 1.31.1, fp32, batch 8, 1 thread, thread CPU time"
        in words(pictures[name])
    )


@pytest.mark.parametrize("given", ["a.png", "a.svg", "a.PDF", "a", "new/folder/a.png"])
def test_both_files_are_written_whatever_the_suffix(tmp_path, given):
    png, svg = save_figure(blocks_figure(table_of_five()), tmp_path / given)
    assert (png.name, svg.name) == ("a.png", "a.svg")
    assert png.parent == svg.parent == (tmp_path / given).parent
    assert png.read_bytes().startswith(b"\x89PNG")
    assert ElementTree.parse(svg).getroot().tag.endswith("svg")


def test_a_dot_in_a_name_is_no_suffix(tmp_path):
    png, _ = save_figure(blocks_figure(table_of_five()), tmp_path / "MBV2-1.4-DS-A")
    assert png.name == "MBV2-1.4-DS-A.png"


def test_a_folder_is_no_name_for_a_picture(tmp_path):
    with pytest.raises(PlotError, match="not the name of a file"):
        save_figure(blocks_figure(table_of_five()), tmp_path)


def parameters():
    # Reading the backend would choose one, which is what a picture must not do.
    return {name: matplotlib.rcParams[name] for name in matplotlib.rcParams if name != "backend"}


def test_equal_pictures_are_equal_files_and_nothing_global_changes(tmp_path):
    before = parameters()
    for name in ("one", "two"):
        save_figure(memory_figure(table_of_five()), tmp_path / name)
    for suffix in (".png", ".svg"):
        first, second = ((tmp_path / name).with_suffix(suffix) for name in ("one", "two"))
        assert first.read_bytes() == second.read_bytes()
    assert parameters() == before


def test_drawing_needs_neither_pyplot_nor_torch():
    code = "import dshrink.plots, sys; print({'matplotlib.pyplot', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


# The command


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.mark.parametrize("command", ["blocks", "memory", "predicted"])
def test_a_command_draws_a_table_from_its_folder(command, tmp_path):
    save_table(table_of_five(), tmp_path / "table")
    done = run(command, tmp_path / "table", "--out", tmp_path / "x.png", "--json")
    assert done.exit_code == 0, done.output
    expected = [str(tmp_path / "x.png"), str(tmp_path / "x.svg")]
    assert json.loads(done.stdout)["files"] == expected
    assert (tmp_path / "x.png").stat().st_size and (tmp_path / "x.svg").stat().st_size


def test_the_kept_command_takes_plans_of_any_form(tmp_path):
    save_table(table_of_five(), tmp_path / "table")
    save_plan(parse_plan("mask:01101"), tmp_path / "fast.json")
    out = tmp_path / "kept"
    table = ("--table", tmp_path / "table", "--padding", "repad")
    done = run("kept", tmp_path / "fast.json", "mask:11110", *table, "--out", out)
    assert done.exit_code == 0, done.output
    assert done.stdout == f"wrote {out}.png and {out}.svg\n"
    done = run("kept", "paper:MBV2-1.4-DS-A", "paper:EffLite3-DS-A", "--out", out)
    assert done.exit_code == 0, done.output


def test_the_kept_command_knows_the_blocks_of_a_model(tmp_path, monkeypatch, network):
    monkeypatch.setattr("dshrink.network.models.load_network", network)
    out = ("--out", tmp_path / "kept.png")
    done = run("kept", "mask:" + "01" * 8 + "1", "--model", "mobilenetv2_100", *out)
    assert done.exit_code == 0, done.output
    done = run("kept", "paper:MBV2-1.4-DS-A", "--model", "mobilenetv2_100", *out)
    assert "the plan is for mobilenetv2_140, the network is mobilenetv2_100" in str(done.exception)
    done = run("kept", "spans:" + "0" * 4 + "1" * 46, "--model", "mobilenetv2_100", *out)
    assert done.exit_code == 0, done.output
    # Texts of an SVG are paths, with what they say as a comment.
    assert "<!-- original -->" in (tmp_path / "kept.svg").read_text(encoding="utf-8")


def test_the_throughput_command_draws_a_file_of_results(tmp_path):
    path = write_csv(tmp_path / "results.csv", [result("11", 100.0)])
    done = run("throughput", path, "--out", tmp_path / "fps.png")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "fps.svg").exists()


def test_bad_input_leaves_no_file_and_one_line_for_the_user(tmp_path):
    out = ("--out", tmp_path / "x.png")
    for arguments in (
        ("blocks", tmp_path / "nothing", *out),
        ("throughput", tmp_path / "nothing.csv", *out),
        ("kept", "mask:11", "--model", "a", "--table", tmp_path, *out),
    ):
        done = run(*arguments)
        assert isinstance(done.exception, DshrinkError | LatencyTableError), done.output
        assert "\n" not in str(done.exception)
    assert list(tmp_path.iterdir()) == []
