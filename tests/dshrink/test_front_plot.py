"""The picture of fronts and that of a mask's history, read back; and their commands."""

from __future__ import annotations

import csv
import dataclasses
import json

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.container import ErrorbarContainer
from typer.testing import CliRunner

from dshrink.cli.plot import app
from dshrink.errors import DshrinkError
from dshrink.front_results import CONDITION_COLUMNS, front_rows
from dshrink.fronts import Front, FrontPoint, MeanWithInterval
from dshrink.plots import PlotError, front_figure, load_mask_history, mask_history_figure
from dshrink.plots.front_labels import METHOD_STYLES
from dshrink.plots.point_labels import network_label
from dshrink.plots.style import BLACK, BLUE, GREY, PURPLE
from latency_tables.errors import LatencyTableError
from latency_tables.published_accuracy import points_on, published_points

METHODS = (
    *("original", "searched", "random", "layer_pruning", "width", "scratch"),
    *("no_free_activation", "distilled", "dp", "greedy"),
)


def around(mean, half):
    return MeanWithInterval(mean=mean, low=mean - half, high=mean + half)


def point(fps, percent, method="searched", seeds=(0, 1), **more):
    spread = range(len(seeds))
    return FrontPoint(
        **{"method": method, "network": f"{method} {fps}", "model": "toy", "kept_blocks": 3},
        seeds=seeds,
        throughput_fps=around(fps, 1.0),
        accuracy_percent=around(percent, 0.5),
        of_seeds=tuple((fps + 2 * n, percent - n) for n in spread),
        **more,
    )


def front(points, reference=60.0, **changes):
    conditions = {
        **{"device": "shed", "runtime": "onnxruntime", "precision": "fp32", "batch": "1"},
        **{"threads": "2", "clock": "wall", "statistic": "quiet", "launch": "plain"},
        **{"cache_mode": "hot", "data": "", **changes},
    }
    values = tuple(conditions[name] for name in CONDITION_COLUMNS)
    return Front(conditions=values, points=tuple(points), reference_percent=reference)


POINTS = (
    point(100, 90),
    point(200, 80),
    point(150, 70, "random"),
    point(90, 65, "layer_pruning"),
)


def marks(axes):
    """Label to the points of each scatter."""
    return {
        c.get_label(): [tuple(map(float, one)) for one in c.get_offsets()]
        for c in axes.collections
        if "front" in c.get_label() or "published" in c.get_label()
    }


def legend(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def words(figure):
    figure.canvas.draw()
    found = [t for t in figure.findobj(matplotlib.text.Text) if t.get_text() and t.get_visible()]
    return " | ".join(" ".join(text.get_text().split()) for text in found)


def boxes(figure):
    """The extents of every text that is drawn, in pixels."""
    figure.canvas.draw()
    # Ticks beyond the limits of an axis exist, but are not drawn.
    hidden = {
        label
        for axes in figure.axes
        for axis in (axes.xaxis, axes.yaxis)
        for tick in axis.get_major_ticks()
        for label in (tick.label1, tick.label2)
        if not min(axis.get_view_interval()) <= tick.get_loc() <= max(axis.get_view_interval())
    }
    found = [t for t in figure.findobj(matplotlib.text.Text) if t.get_text() and t.get_visible()]
    drawn = [text for text in found if text not in hidden]
    return {f"{at} {text.get_text()}": text.get_window_extent() for at, text in enumerate(drawn)}


def check_texts(figure):
    """All texts lie within the figure, and none covers another."""
    found = boxes(figure)
    width, height = figure.canvas.get_width_height()
    for label, box in found.items():
        assert box.x0 >= -1 and box.x1 <= width + 1, label
        assert box.y0 >= -1 and box.y1 <= height + 1, label
    labels = list(found)
    for at, one in enumerate(labels):
        for other in labels[at + 1 :]:
            a, b = found[one], found[other]
            x = min(a.x1, b.x1) - max(a.x0, b.x0)
            y = min(a.y1, b.y1) - max(a.y0, b.y0)
            assert x <= 1 or y <= 1, (one, other)


# Fronts


def test_points_on_the_front_are_drawn_apart_from_those_off_it():
    (axes,) = front_figure([front(POINTS)]).axes
    assert marks(axes) == {
        "_searched, on the front": [(100, 90), (200, 80)],
        "_random, off the front": [(150, 70)],
        "_layer pruning, off the front": [(90, 65)],
    }
    on, off, _ = (c for c in axes.collections if "the front" in c.get_label())
    assert to_hex(on.get_edgecolors()[0]) == BLACK and on.get_linewidths()[0] > 0
    assert off.get_alpha() < 1 and off.get_linewidths()[0] == 0


def test_bars_reach_both_ways_to_the_ends_of_the_intervals():
    (axes,) = front_figure([front(POINTS[:1])]).axes
    (bars,) = [c for c in axes.containers if isinstance(c, ErrorbarContainer)]
    across, upwards = (lines.get_segments()[0] for lines in bars.lines[2])
    assert across.tolist() == [[99, 90], [101, 90]]
    assert upwards.tolist() == [[100, 89.5], [100, 90.5]]


def test_the_front_is_a_step_line_from_axis_to_axis():
    (axes,) = front_figure([front(POINTS)]).axes
    (line,) = [one for one in axes.lines if one.get_label() == "_front"]
    (left, _), (bottom, _) = axes.get_xlim(), axes.get_ylim()
    assert line.get_drawstyle() == "steps-pre"
    assert line.get_xydata().tolist() == [[left, 90], [100, 90], [200, 80], [200, bottom]]
    assert left < 90 and bottom < 65


def test_the_legend_has_names_and_the_rows_have_the_hypervolume_of_each_method():
    (axes,) = front_figure([front(POINTS)]).axes
    assert legend(axes) == ["searched", "random", "layer pruning", "Pareto front"]
    rows = {row["method"]: row for row in front_rows(front(POINTS))}
    assert rows["searched"]["hypervolume"] == 100 * 30 + 100 * 20
    # Of seeds: 5000 and 102 * 29 + 100 * 19 = 4858, whose mean is known to 12.706 * 142 / 2.
    assert rows["searched"]["method_hypervolume"] == 4929
    assert rows["searched"]["method_half_width"] == pytest.approx(12.706 * 71, rel=1e-4)
    (axes,) = front_figure([front([point(1, 90, "", seeds=(0,))])]).axes
    assert legend(axes)[0] == "measured"


def bars_of(axes):
    """The segments of all bars, those of hidden intervals left out."""
    return [
        segment.tolist()
        for bars in axes.containers
        if isinstance(bars, ErrorbarContainer)
        for lines in bars.lines[2]
        for segment in lines.get_segments()
        if len(segment) > 1
    ]


def test_intervals_that_would_hide_the_points_are_left_out_and_counted():
    wide = dataclasses.replace(
        point(150, 85), throughput_fps=around(150, 30), accuracy_percent=around(85, 1)
    )
    figure = front_figure([front([point(100, 90), wide, point(200, 80)])])
    (axes,) = figure.axes
    assert [[150, 84], [150, 86]] in bars_of(axes)
    assert [[120, 85], [180, 85]] not in bars_of(axes) and len(bars_of(axes)) == 5
    assert "1 interval wider than a quarter" in words(figure)


def test_points_off_the_front_have_no_bars_and_axes_are_cut_to_the_points():
    off = dataclasses.replace(point(90, 65, "random"), throughput_fps=around(90, 80))
    (axes,) = front_figure([front([*POINTS[:2], off])]).axes
    assert len(bars_of(axes)) == 4
    assert axes.get_xlim() == pytest.approx((90 - 0.12 * 110, 200 + 0.12 * 110))


def test_points_are_named_without_their_files_seeds_and_methods():
    for name, said in (
        ("searched_keep2_seed0.onnx", "keep 2"),
        ("random_keep11.onnx", "keep 11"),
        ("searched_6.5ms_seed1.onnx", "6.5 ms"),
        ("original_seed0.onnx", "original"),
        ("plan1.onnx", "plan1"),
        ("mobilenetv2_035", "mobilenetv2_035"),
        ("seed0", "seed0"),
    ):
        assert network_label(name) == said
    points = [dataclasses.replace(one, network=f"x_keep{n}") for n, one in enumerate(POINTS)]
    (axes,) = front_figure([front(points)]).axes
    assert {text.get_text() for text in axes.texts} == {f"keep {n}" for n in range(4)}


def test_a_name_without_room_is_left_out_and_the_fronts_come_first():
    crowd = [point(100 + n / 100, 90 - n / 100, "random") for n in range(30)]
    best = dataclasses.replace(point(130, 95), network="best")
    figure = front_figure([front([*crowd, best])])
    (axes,) = figure.axes
    assert "best" in {text.get_text() for text in axes.texts} and len(axes.texts) < 15
    check_texts(figure)


def mixed_recipes(names=("kd180", "kd360")):
    return [
        point(100 + 10 * n, 90 - 3 * n + at, method, recipe=recipe)
        for n, method in enumerate(METHODS[:7])
        for at, recipe in enumerate(names)
    ]


def test_recipes_of_one_method_are_named_and_marked_apart():
    (axes,) = front_figure([front(mixed_recipes())]).axes
    handles = axes.get_legend().legend_handles[:-1]
    assert len({(h.get_markerfacecolor(), h.get_marker()) for h in handles}) == 14
    looks = {h.get_label().split(",")[0]: h for h in handles}
    first, second = looks["searched (kd180)"], looks["searched (kd360)"]
    assert (first.get_markerfacecolor(), first.get_marker()) == METHOD_STYLES["searched"]
    assert second.get_markerfacecolor() == BLUE
    assert looks["no free activation (kd360)"].get_markerfacecolor() == PURPLE
    found = marks(axes)
    on, off = "_searched (kd360), on the front", "_searched (kd360), off the front"
    assert found.get(on, found.get(off)) == [(110, 88)]


def test_one_recipe_is_told_once_and_none_not_at_all():
    figure = front_figure([front([point(100, 90, recipe="kd180")])])
    assert legend(figure.axes[0])[0] == "searched"
    assert "quiet, recipe kd180 outlined: on the front" in words(figure)
    assert "recipe" not in words(front_figure([front(POINTS)]))


def test_long_recipes_of_many_methods_have_no_texts_that_meet():
    points = mixed_recipes([f"imagenet_mobilenetv2_140_kd{n}" for n in (180, 360)])
    figure = front_figure([front(points)])
    assert legend(figure.axes[0])[2] == "searched (...netv2_140_kd180)"
    check_texts(figure)
    check_texts(front_figure([front(points), front(points, device="tx2")]))


def test_panels_of_other_images_say_which_and_those_of_unknown_ones_say_so():
    digests = ("0123456789abcdef", "fedcba9876543210", "")
    figure = front_figure([front(POINTS, data=digest) for digest in digests])
    titles = [axes.get_legend().get_title().get_text() for axes in figure.axes[:3]]
    assert titles == ["shed, data 01234567", "shed, data fedcba98", "shed, data unknown"]
    check_texts(figure)
    assert "quiet, data 01234567 outlined" in words(front_figure([front(POINTS, data=digests[0])]))
    assert "data" not in words(front_figure([front(POINTS)]))


def test_the_picture_says_what_its_bars_are():
    seeds, images = point(100, 90), point(100, 80, "random", (0,), validation_images=719)
    nothing = point(100, 70, "width", (0,))
    for points in ([seeds], [images], [seeds, images], [nothing]):
        found = words(front_figure([front(points)]))
        assert "outlined: on the front (not clearly beaten), with 95 % intervals" in found
        assert ("no bar of accuracy where its noise is unknown" in found) == (nothing in points)


def test_what_is_said_of_a_panel_are_two_lines():
    figure = front_figure([front(POINTS, data="0123456789abcdef")])
    (title, below) = sorted(figure.texts, key=lambda text: -text.get_fontsize())
    assert title.get_text() == "Accuracy against throughput"
    assert below.get_text().count("\n") == 1


def test_every_method_has_a_mark_of_its_own_that_is_the_same_in_all_pictures():
    assert set(METHODS) < set(METHOD_STYLES)
    assert len(set(METHOD_STYLES.values())) == len(METHOD_STYLES)
    points = [point(10 * n, 50 + n, method) for n, method in enumerate([*METHODS, "ours", "new"])]
    (axes,) = front_figure([front(points)]).axes
    looks = {(h.get_markerfacecolor(), h.get_marker()) for h in axes.get_legend().legend_handles}
    assert len(looks) == len(METHODS) + 3  # the two others, and the line
    (alone,) = front_figure([front([point(10, 50, "random")])]).axes
    handle = alone.get_legend().legend_handles[0]
    assert (handle.get_markerfacecolor(), handle.get_marker()) == METHOD_STYLES["random"]


def test_too_many_methods_and_nothing_at_all_are_one_line():
    with pytest.raises(PlotError, match=r"60 methods and recipes are too many .*: draw them"):
        front_figure([front([point(10, 50, f"m{n}") for n in range(60)])])
    with pytest.raises(PlotError, match="nothing to draw: give results"):
        front_figure([])


def test_each_set_of_conditions_has_a_panel_that_says_what_differs():
    fronts = [
        front(POINTS),
        front(POINTS[:2], batch="8"),
        front(POINTS[2:], device="barn", launch="cuda_graph"),
    ]
    figure = front_figure(fronts, left_out=2)
    titles = [axes.get_legend().get_title().get_text() for axes in figure.axes[:3]]
    assert titles == [
        "shed, batch 1, plain launches",
        "shed, batch 8, plain launches",
        "barn, batch 1, CUDA graph",
    ]
    assert [len(marks(axes)) for axes in figure.axes[:3]] == [3, 1, 2]
    assert not figure.axes[3].axison
    said = words(figure)
    assert "onnxruntime, fp32, 2 threads, wall time, quiet outlined: on the front" in said
    assert "2 results without accuracy or throughput not drawn" in said
    check_texts(figure)


# Published points


def test_published_points_are_the_papers():
    points = published_points()
    found = {(p.name, p.device, p.training): (p.throughput_fps, p.top1_percent) for p in points}
    # DepthShrinker, Tab. 2, 3 and 7.
    assert found["MBV2-1.4-DS-B", "v100", "standard"] == (4778, 73.67)
    assert found["MBV2-1.4-DS-B", "v100", "kd180"] == (4778, 74.8)
    assert found["MBV2-DS-D", "tx2", "kd360"] == (258, 70.58)
    assert found["EffLite3-DS-A", "rtx2080ti", "standard"] == (1337, 76.79)
    assert ("EffLite3-DS-A", "rtx2080ti", "kd180") not in found
    assert {(p.device, p.batch) for p in points} == {("v100", 128), ("rtx2080ti", 128), ("tx2", 64)}
    assert {p.name for p in points if not p.is_shrunk} >= {"MBV2", "Uniform-0.35", "EffLite2"}
    assert not any(p.is_shrunk for p in points if p.name in ("MBV2-1.4", "AMC"))


def test_a_models_published_points_are_its_own_and_its_rivals():
    names = {p.name for p in points_on(["tx2"], "mobilenetv2_100")}
    assert names == {"MBV2", "AMC", *(f"MBV2-DS-{letter}" for letter in "ABCD")}
    assert {p.device for p in points_on(["tx2", "v100"])} == {"tx2", "v100"}
    assert points_on(["all"]) == published_points() and points_on([]) == ()


def test_a_published_series_is_a_line_a_training_and_names_are_beside_its_points():
    (axes,) = front_figure([], published=points_on(["tx2"], "mobilenetv2_100")).axes
    lines = [line for line in axes.lines if line.get_label() == "_published line"]
    assert len(lines) == 3 and all(
        sorted(line.get_xdata()) == [*line.get_xdata()] for line in lines
    )
    assert {"MBV2", "AMC", "MBV2-DS-A", "MBV2-DS-D"} <= {text.get_text() for text in axes.texts}


def test_published_points_are_hollow_and_only_in_a_panel_of_their_device():
    fronts = [front(POINTS), front(POINTS, device="v100")]
    figure = front_figure(fronts, published=points_on(["v100", "tx2"], "mobilenetv2_100"))
    local, v100, tx2, empty = figure.axes
    assert not [label for label in marks(local) if "published" in label]
    assert len(marks(v100)["_published: DS"]) == 4 and "_searched, on the front" in marks(v100)
    assert marks(tx2)["_published: others"] == [(115, 72.3), (152, 70.8)]
    assert marks(tx2)["_published: DS, KD 360"][0] == (177, 72.5)
    assert tx2.get_legend().get_title().get_text() == "tx2: published only"
    assert legend(tx2) == [
        *("published: DS", "published: DS, KD 180", "published: DS, KD 360", "published: others"),
    ]
    for scatter in (c for c in tx2.collections if "published" in c.get_label()):
        assert len(scatter.get_facecolors()) == 0 and to_hex(scatter.get_edgecolors()[0]) == (
            GREY.lower()
        )
    said = words(figure)
    assert "published, not measured by us (Fu et al. (DepthShrinker), ICML 2022" in said
    assert "batch 128 (v100), 64 (tx2)" in said
    assert not empty.axison


def test_the_fullest_panels_have_no_texts_that_meet():
    points = [point(50 + 10 * n, 95 - n, method) for n, method in enumerate(METHODS[:7])]
    fronts = [front(points, device=device) for device in ("v100", "tx2", "rtx2080ti")]
    check_texts(front_figure(fronts, published=points_on(["all"]), left_out=3))
    check_texts(front_figure(fronts[:1], published=points_on(["v100"])))


# The mask's history

HISTORY = ["epoch", "step", "block", "name", "mask", "kept", "saving_ms"]


def history_lines(epochs=3, blocks=(0, 2, 5), saving="0.25"):
    return [
        [epoch, 10 * epoch, block, f"blocks.{block}", block - epoch, int(block > epoch), saving]
        for epoch in range(1, epochs + 1)
        for block in blocks
    ]


def write(path, lines, header=HISTORY):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *lines])
    return path


def test_a_history_is_read_in_any_order(tmp_path):
    history = load_mask_history(write(tmp_path / "h.csv", history_lines()[::-1]))
    assert history.blocks == (0, 2, 5) and history.names[1] == "blocks.2"
    assert history.saving_ms == (0.25,) * 3
    assert [(r.epoch, r.step) for r in history.records] == [(1, 10), (2, 20), (3, 30)]
    assert history.records[0].values == (-1, 1, 4)
    assert history.records[2].kept == (False, False, True)


def test_the_strips_are_the_values_and_the_kept_blocks(tmp_path):
    history = load_mask_history(write(tmp_path / "h.csv", history_lines()))
    figure = mask_history_figure(history, "plan.history.csv")
    values, kept = (axes for axes in figure.axes if axes.get_title(loc="left"))
    assert np.array_equal(values.images[0].get_array(), [[-1, -2, -3], [1, 0, -1], [4, 3, 2]])
    (strip,) = kept.images
    assert np.array_equal(strip.get_array(), [[0, 0, 0], [1, 0, 0], [1, 1, 1]])
    assert to_hex(strip.cmap(strip.norm(1))) == BLUE.lower()
    assert [t.get_text() for t in values.get_yticklabels()] == [
        "blocks.0  0",
        "blocks.2  2",
        "blocks.5  5",
    ]
    assert [t.get_text() for t in kept.get_xticklabels()] == ["1", "2", "3"]
    said = words(figure)
    assert "plan.history.csv; 3 records to step 30; 1 of 3 blocks kept at the end" in said
    assert "the kept set changed 1 time" in said
    assert said.count("+0.250") == 3 and "Saving [ms]" in said
    check_texts(figure)


def test_a_history_without_a_table_has_no_savings(tmp_path):
    history = load_mask_history(write(tmp_path / "h.csv", history_lines(saving="")))
    assert history.saving_ms == (None,) * 3
    assert "Saving" not in words(mask_history_figure(history))


def test_a_long_history_of_many_blocks_stays_legible(tmp_path):
    lines = history_lines(epochs=180, blocks=range(50))
    figure = mask_history_figure(load_mask_history(write(tmp_path / "h.csv", lines)))
    ticks = [t.get_text() for t in figure.axes[0].get_xticklabels()]
    assert len(ticks) == 9 and ticks[-1] == "180"
    check_texts(figure)


SHARED = [*HISTORY, "share"]


def shared_lines(**options):
    """With shares 0.1, 0.2, ... 0.9, 0.1, ... in the order of the blocks."""
    lines = history_lines(**options)
    blocks = list(dict.fromkeys(line[2] for line in lines))
    return [[*line, (blocks.index(line[2]) % 9 + 1) / 10] for line in lines]


def test_the_share_of_steps_stands_between_the_values_and_the_kept_blocks(tmp_path):
    history = load_mask_history(write(tmp_path / "h.csv", shared_lines()[::-1], SHARED))
    assert [record.shares for record in history.records] == [(0.1, 0.2, 0.3)] * 3
    figure = mask_history_figure(history)
    values, shares, kept = (axes for axes in figure.axes if axes.get_title(loc="left"))
    assert shares.get_title(loc="left") == "Share of steps kept"
    strip = shares.images[0]
    assert np.array_equal(strip.get_array(), [[0.1] * 3, [0.2] * 3, [0.3] * 3])
    assert strip.get_clim() == (0, 1) and to_hex(strip.cmap(strip.norm(1))) == BLUE.lower()
    assert np.array_equal(values.images[0].get_array()[0], [-1, -2, -3])
    assert np.array_equal(kept.images[0].get_array()[2], [1, 1, 1])
    assert "kept in the largest share of the last epoch's steps" in words(figure)
    check_texts(figure)


def test_a_history_without_shares_has_no_strip_of_them(tmp_path):
    history = load_mask_history(write(tmp_path / "h.csv", history_lines()))
    assert {record.shares for record in history.records} == {None}
    assert "hare" not in words(mask_history_figure(history))


def test_a_long_history_with_shares_stays_legible(tmp_path):
    lines = shared_lines(epochs=180, blocks=range(50))
    figure = mask_history_figure(load_mask_history(write(tmp_path / "h.csv", lines, SHARED)))
    assert [t.get_text() for t in figure.axes[1].get_xticklabels()][-1] == "180"
    check_texts(figure)


def test_a_share_beyond_the_whole_is_named_with_its_line(tmp_path):
    lines = shared_lines()
    lines[1][-1] = 1.5
    with pytest.raises(PlotError, match=r"line 3: share must be between 0 and 1, got 1\.5"):
        load_mask_history(write(tmp_path / "h.csv", lines, SHARED))


@pytest.mark.parametrize(
    ("at", "value", "message"),
    [
        (4, "nan", "line 2: mask must be a finite number"),
        (5, "2", "line 2: kept must be 0 or 1, got 2"),
        (6, "fast", "line 2: saving_ms must be a finite number"),
        (2, "2", "line 3: block 2 is twice in one record"),
        (1, "9", "line 3: the record of epoch 1, step 10 has 2 blocks, the first one has 1"),
    ],
)
def test_a_bad_history_is_named_with_its_line(at, value, message, tmp_path):
    lines = history_lines()
    lines[0][at] = value
    with pytest.raises(PlotError, match=message):
        load_mask_history(write(tmp_path / "h.csv", lines))


def test_a_history_of_other_columns_says_what_writes_one(tmp_path):
    path = write(tmp_path / "h.csv", [[1]], ["epoch"])
    with pytest.raises(PlotError, match=r"missing column.* kept.*: write it with `dshrink search"):
        load_mask_history(path)


# The commands

RESULTS = [
    *("network", "model", "device", "runtime", "precision", "batch", "threads"),
    *("throughput_fps", "throughput_low_fps", "throughput_high_fps"),
    *("accuracy_percent", "method", "seed"),
]


def result(fps, percent, method="searched", device="tx2", seed=0):
    shared = ["onnxruntime", "fp32", 1, 1]
    return [f"{method}.onnx", "toy", device, *shared, fps, "", "", percent, method, seed]


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_front_command_writes_picture_and_points_of_several_files(tmp_path):
    one = write(tmp_path / "a.csv", [result(100, 90)], RESULTS)
    two = write(tmp_path / "b.csv", [result(50, 80, "random"), result(9, "")], RESULTS)
    out = ("--out", tmp_path / "front.png", "--csv", tmp_path / "front.csv")
    done = run("front", one, two, *out, "--published", "tx2", "--reference", "10", "--json")
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    names = ("front.png", "front.svg", "front.csv")
    assert said["files"] == [str(tmp_path / name) for name in names]
    assert [(p["method"], p["on_front"], p["kept_blocks"]) for p in said["points"]] == [
        ("searched", True, None),
        ("random", False, None),
    ]
    assert said["points"][1]["method_hypervolume"] == 50 * 70
    rows = list(csv.DictReader((tmp_path / "front.csv").read_text().splitlines()))
    assert [float(row["throughput_fps"]) for row in rows] == [100, 50]
    picture = (tmp_path / "front.svg").read_text(encoding="utf-8")
    assert "<!-- published: DS, KD 360 -->" in picture
    assert "1 result without" in " ".join(picture.split())


def test_the_front_command_draws_published_points_alone(tmp_path):
    done = run("front", "--published", "tx2", "--out", tmp_path / "front.png")
    assert done.exit_code == 0, done.output
    assert done.stdout == f"wrote {tmp_path}/front.png and {tmp_path}/front.svg\n"


def test_a_history_of_one_epoch_is_a_line_and_no_picture(tmp_path):
    path = write(tmp_path / "plan.history.csv", history_lines(epochs=1))
    done = run("mask", path, "--out", tmp_path / "mask.png")
    assert done.exit_code == 0
    assert done.stdout == (
        f"{path}: 1 epoch to step 10: no history to draw; kept at its end: 2 blocks of 3 (2, 5)\n"
    )
    done = run("mask", path, "--out", tmp_path / "mask.png", "--json")
    assert (done.exit_code, json.loads(done.stdout)["files"]) == (0, [])
    assert [*tmp_path.iterdir()] == [path]


def test_the_mask_command_draws_a_history(tmp_path):
    path = write(tmp_path / "plan.history.csv", history_lines())
    done = run("mask", path, "--out", tmp_path / "mask.png", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["files"] == [str(tmp_path / f"mask.{s}") for s in ("png", "svg")]
    assert "<!-- plan.history.csv; 3 records" in (tmp_path / "mask.svg").read_text("utf-8")


def test_bad_input_is_one_line_and_leaves_no_file(tmp_path):
    known = write(tmp_path / "known.csv", [result(100, 90)], RESULTS)
    bare = write(tmp_path / "bare.csv", [result(100, "")], RESULTS)
    empty = write(tmp_path / "empty.csv", [], RESULTS)
    before = set(tmp_path.iterdir())
    out = ("--out", tmp_path / "x.png")
    for arguments, part in (
        (("front",), "give results"),
        (("front", bare), "no accuracy_percent in any row"),
        (("front", empty), "no rows below the header"),
        (("front", tmp_path / "none.csv"), "no such file"),
        (("front", known, "--model", "vgg"), "no results of vgg"),
        (("front", known, "--published", "tx3"), "known are v100, rtx2080ti, tx2 and all"),
        (("front", known, "--published", "tx2", "--model", "toy"), "nothing is published of toy"),
        (("front", "--published", "tx2", "--csv", tmp_path / "x.csv"), "give RESULTS.csv"),
        (("mask", known), "missing column"),
    ):
        done = run(*arguments, *out)
        assert isinstance(done.exception, DshrinkError | LatencyTableError), done.output
        assert part in str(done.exception) and "\n" not in str(done.exception)
    assert set(tmp_path.iterdir()) == before
