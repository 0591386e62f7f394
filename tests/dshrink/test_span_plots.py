"""Pictures of networks cut into spans, read back: curves, cells and dots must be what was given."""

from __future__ import annotations

import itertools

import pytest
from synthetic_tables import synthetic_span_table
from typer.testing import CliRunner

from dshrink.cli.plot import app
from dshrink.plots import FrontierCurve, PlotError, frontier_figure, kept_figure, load_frontier
from dshrink.plots.frontier import FrontierPoint
from dshrink.search.plan import parse_plan, save_plan
from latency_tables.errors import MaskError
from latency_tables.io import save_table
from latency_tables.predictor import predict
from latency_tables.span_masks import SpanChain

# Six convolutions, blocks of three; nothing stands behind the third and the sixth.
CHAIN = SpanChain(convolutions=tuple("abcdef"), mask="11|11|", block_ends=(3, 6))
POINTS = ((1.0, -4.0, "000001"), (2.5, 0.5, "100|01"), (4.0, 2.0, "11101|"))


def frontier(label="table", points=POINTS):
    made = tuple(FrontierPoint(time_ms=t, importance=v, mask=mask) for t, v, mask in points)
    return FrontierCurve(label=label, points=made)


def span_table():
    spans = {(i, i + 1): 1.0 + i for i in range(6)} | {(0, 2): 2.2, (3, 5): 3.0}
    return synthetic_span_table(spans, mask=CHAIN.mask, block_ends=(3, 6))


def cells(axes, row, name):
    """The (first, last) convolutions of each cell with this name in a row."""
    (found,) = [c for c in axes.collections if c.get_label() == f"_{name} {row}"]
    boxes = [path.get_extents() for path in found.get_paths()]
    assert all(abs((box.y0 + box.y1) / 2 - row) < 1e-9 for box in boxes)
    return [(round(box.x0 + 0.5), round(box.x1 - 0.5)) for box in boxes]


def dots(axes, name):
    (found,) = [c for c in axes.collections if c.get_label() == f"_{name}"]
    return {tuple(map(float, point)) for point in found.get_offsets()}


def labels(axes):
    return [t.get_text() for t in axes.get_yticklabels()]


def legend(axes):
    return [t.get_text() for t in axes.get_legend().get_texts()]


# Strips


def test_convolutions_that_merge_share_a_cell_and_activations_are_dots():
    plans = {"one": parse_plan("spans:10|001"), "two": parse_plan("spans:11|11|")}
    (axes,) = kept_figure(plans).axes
    assert cells(axes, 0, "alone") == [(1, 1)]
    assert cells(axes, 0, "merged") == [(2, 3), (4, 6)]
    assert cells(axes, 1, "alone") == [(n, n) for n in range(1, 7)]
    assert cells(axes, 1, "merged") == []
    assert dots(axes, "activation") == {(1, 0), (6, 0), (1, 1), (2, 1), (4, 1), (5, 1)}
    assert dots(axes, "added activation") == set()
    assert "added activation" not in legend(axes)
    assert labels(axes) == ["one", "two"]
    assert [t.get_text() for t in axes.texts] == ["3 of 6 layers", "6 of 6 layers"]
    # The first plan stands on top.
    assert axes.get_ylim()[0] > axes.get_ylim()[1]


def test_a_chain_adds_the_original_network_its_blocks_and_hollow_dots():
    (axes,) = kept_figure({"plan": parse_plan("spans:001101")}, chain=CHAIN).axes
    assert labels(axes) == ["original", "plan"]
    assert cells(axes, 0, "merged") == [] and cells(axes, 1, "merged") == [(1, 3), (5, 6)]
    assert dots(axes, "activation") == {(1, 0), (2, 0), (4, 0), (5, 0), (4, 1)}
    assert dots(axes, "added activation") == {(3, 1), (6, 1)}
    assert "added activation" in legend(axes)
    assert list(axes.get_xticks()) == [3, 6]
    lines = [line.get_xdata()[0] for line in axes.lines]
    assert lines == [3.5]
    assert "last one of each block" in axes.get_xlabel()


def test_numbers_of_many_convolutions_do_not_cover_each_other():
    mask = "1" * 200
    ends = tuple(range(2, 201, 2))
    chain = SpanChain(convolutions=tuple(f"c{n}" for n in range(200)), mask=mask, block_ends=ends)
    for given in (chain, None):
        figure = kept_figure({"plan": parse_plan(f"spans:{mask}")}, chain=given)
        figure.canvas.draw()
        boxes = [t.get_window_extent() for t in figure.axes[0].get_xticklabels() if t.get_text()]
        assert len(boxes) > 10
        assert all(a.x1 <= b.x0 for a, b in itertools.pairwise(boxes))


def test_a_span_table_gives_the_predicted_latency_of_a_plan():
    table = span_table()
    (axes,) = kept_figure({"plan": parse_plan("spans:01|01|")}, table=table).axes
    expected = predict(table, "01|01|").latency_ms
    assert [t.get_text() for t in axes.texts][1] == f"4 of 6 layers, {expected:.4g} ms"
    with pytest.raises(MaskError, match="positions 2 to 3"):
        kept_figure({"plan": parse_plan("spans:10|11|")}, table=table)


def test_plans_of_two_sorts_or_lengths_are_not_drawn_together():
    with pytest.raises(PlotError, match="some of the plans merge blocks, others spans"):
        kept_figure({"a": parse_plan("mask:01"), "b": parse_plan("spans:01")})
    with pytest.raises(PlotError, match="b has a chain of 3 convolutions, a one of 2"):
        kept_figure({"a": parse_plan("spans:01"), "b": parse_plan("spans:001")})
    with pytest.raises(PlotError, match="one of 6"):
        kept_figure({"a": parse_plan("spans:01")}, chain=CHAIN)


# Frontier


def test_the_curve_steps_up_at_each_point_and_stays_behind_the_last():
    figure = frontier_figure([frontier()])
    (axes,) = figure.axes
    (curve,) = axes.lines
    times, importances = curve.get_data()
    assert list(times[:3]) == [1.0, 2.5, 4.0] and times[3] > 4.0
    assert list(importances) == [-4.0, 0.5, 2.0, 2.0]
    assert curve.get_drawstyle() == "steps-post"
    assert axes.get_xlabel() == "Latency [ms]"


def test_a_budget_marks_the_best_point_within_it_and_draws_its_plan():
    figure = frontier_figure([frontier()], budgets_ms=[9, 2.5, 3.999], chain=CHAIN, source="shed")
    curves, strips = figure.axes
    assert [line.get_xdata()[0] for line in curves.lines[1:]] == [2.5, 3.999, 9]
    (marks,) = [c for c in curves.collections if c.get_label() == "_chosen 0"]
    assert marks.get_offsets().tolist() == [[2.5, 0.5], [2.5, 0.5], [4.0, 2.0]]
    assert labels(strips) == ["original", "2.5 ms", "3.999 ms", "9 ms"]
    assert cells(strips, 1, "merged") == cells(strips, 2, "merged") == [(2, 4), (5, 6)]
    assert cells(strips, 3, "merged") == [(4, 5)]
    written = [t.get_text() for t in strips.texts]
    assert written == ["6 layers", *["3 of 6 layers, 2.5 ms"] * 2, "5 of 6 layers, 4 ms"]
    assert curves.get_xlim()[1] > 9
    assert "shed; 3 points" in [t.get_text() for t in figure.texts]


def test_several_frontiers_are_curves_and_strips_of_one_colour_each():
    slower = frontier("slower", [(2 * t, v, mask) for t, v, mask in POINTS])
    figure = frontier_figure([frontier(), slower], budgets_ms=[5])
    curves, strips = figure.axes
    assert legend(curves) == ["table", "slower"]
    colours = [line.get_color() for line in curves.lines[:2]]
    assert len(set(colours)) == 2
    assert [t.get_color() for t in strips.get_yticklabels()] == colours
    assert [t.get_text() for t in strips.texts] == ["5 of 6 layers, 4 ms", "3 of 6 layers, 5 ms"]


def test_a_frontier_without_masks_has_no_strips():
    bare = frontier(points=[(t, v, "") for t, v, _ in POINTS])
    figure = frontier_figure([bare], budgets_ms=[3], chain=CHAIN)
    assert len(figure.axes) == 1


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(PlotError, match=r"table: no network takes 0.9 ms or less, .* takes 1 ms"):
        frontier_figure([frontier()], budgets_ms=[0.9])
    with pytest.raises(PlotError, match="7 frontiers are too many"):
        frontier_figure([frontier()] * 7)
    with pytest.raises(PlotError, match="no frontier to draw"):
        frontier_figure([])
    wrong = frontier(points=[(1.0, 0.0, "01x")])
    with pytest.raises(PlotError, match="1 ms: span mask '01x'"):
        frontier_figure([wrong], budgets_ms=[1], chain=CHAIN)


def test_a_frontier_is_read_from_its_file_whatever_else_stands_in_it(tmp_path):
    path = tmp_path / "f.csv"
    path.write_text("time_ms,importance,layers,mask\n1.5,-2,1,001\n2.5,0.25,2,10|\n")
    found = load_frontier(path, "f")
    assert found == frontier("f", [(1.5, -2.0, "001"), (2.5, 0.25, "10|")])
    path.write_text("importance,time_ms\n0,1\n")
    assert load_frontier(path, "f").points[0].mask == ""


def test_points_that_another_one_beats_are_not_on_the_frontier(tmp_path):
    path = tmp_path / "f.csv"
    path.write_text("time_ms,importance\n3,1\n1,-1\n2,1\n2,0\n4,0.5\n1,-2\n5,2\n")
    found = [(p.time_ms, p.importance) for p in load_frontier(path, "f").points]
    assert found == [(1, -1), (2, 1), (5, 2)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("time_ms\n1\n", "line 1: missing column importance ("),
        ("time_ms,importance\n", "no rows below the header"),
        ("time_ms,importance\n0,1\n", "line 2: time_ms must be a finite number above 0, got 0"),
        ("time_ms,importance\n1,inf\n", "line 2: importance must be a finite number, got inf"),
        ("time_ms,importance\n1,1,2\n", "line 2: 3 values for 2 columns"),
        (
            f"time_ms,importance,mask\n1,1,{'1' * 15}00\n",
            "line 2: mask 11111111111111100 ends with 0, which no span ends with (read as a number",
        ),
    ],
)
def test_a_broken_frontier_is_one_line_with_the_place(tmp_path, text, message):
    path = tmp_path / "f.csv"
    path.write_text(text)
    with pytest.raises(PlotError) as error:
        load_frontier(path, "f")
    assert str(error.value).startswith(f"{path}: {message}")
    assert "\n" not in str(error.value)


# The command


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_frontier_command_draws_files_with_the_table_that_was_searched(tmp_path):
    path = tmp_path / "f.csv"
    path.write_text("time_ms,importance,mask\n8.5,-2,01|01|\n9.5,0.25,11|01|\n")
    save_table(span_table(), tmp_path / "table")
    options = ("--budget-ms", 9, "--budget-ms", 10, "--table", tmp_path / "table")
    done = run("frontier", path, *options, "--out", tmp_path / "x.png")
    assert done.exit_code == 0, done.output
    assert done.stdout == f"wrote {tmp_path / 'x.png'} and {tmp_path / 'x.svg'}\n"
    done = run("frontier", path, "--budget-ms", 8, "--out", tmp_path / "y.png")
    assert "f: no network takes 8 ms or less" in str(done.exception)
    assert not (tmp_path / "y.png").exists()


def test_the_kept_command_takes_plans_of_spans(tmp_path):
    save_table(span_table(), tmp_path / "table")
    save_plan(parse_plan("spans:01|01|"), tmp_path / "fast.json")
    drawn = ("--table", tmp_path / "table", "--out", tmp_path / "x.png")
    done = run("kept", tmp_path / "fast.json", "spans:11|01|", "spans:11|11|", *drawn)
    assert done.exit_code == 0, done.output
    done = run("kept", "mask:01", *drawn)
    assert "mask:01 merges blocks, the table of synthetic is of spans" in str(done.exception)
    done = run("kept", "spans:10|11|", *drawn)
    assert "positions 2 to 3" in str(done.exception)
    done = run("blocks", tmp_path / "table", "--out", tmp_path / "y.png")
    assert "is cut into spans, not into blocks" in str(done.exception)
