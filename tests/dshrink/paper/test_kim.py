"""What Kim et al. published: their results against their own latency tables."""

from __future__ import annotations

import csv
from importlib.resources import files

import pytest

from dshrink.paper.kim import headline, published_spans


@pytest.mark.parametrize(
    ("model", "original_ms", "smallest_ms"),
    [
        ("mobilenetv2_100", 33.670, 6.467),
        ("mobilenetv2_140", 43.201, 10.278),
        ("vgg19", 193.084, 155.990),
    ],
)
def test_published_tables_say_what_the_original_and_the_fastest_plan_take(
    model, original_ms, smallest_ms
):
    found = published_spans(model)
    assert found.original_ms == pytest.approx(original_ms, abs=1e-3)
    assert found.smallest_ms == pytest.approx(smallest_ms, abs=1e-3)
    file = {"vgg19": "pytorch_fp32_b64"}.get(model, "tensorrt_fp32_b128")
    path = files("latency_tables") / f"data/published/kim2023_2080ti_{file}_{model}.csv"
    times = {
        (int(line["st"]), int(line["end"])): float(line["time"])
        for line in csv.DictReader(path.read_text("utf-8").splitlines())
    }
    least = {0: 0.0}
    for end in range(1, found.convolutions + 1):
        least[end] = min(least[st] + times[st, end] for st in range(end) if (st, end) in times)
    assert found.smallest_ms == pytest.approx(least[found.convolutions])
    assert found.smallest_layers < found.convolutions


def test_every_published_budget_is_feasible_and_the_tables_alone_give_other_speedups():
    rows = [row for row in headline() if row.budget_ms is not None]
    assert len(rows) == 11 and len(headline()) == 14
    assert all(row.is_feasible for row in rows)
    differences = {
        (row.model, row.budget_ms): row.difference_percent
        for row in rows
        if row.method == "kim2023"
    }
    assert differences == {
        ("mobilenetv2_100", 25.0): pytest.approx(-4.48, abs=0.01),
        ("mobilenetv2_100", 22.1): pytest.approx(-2.34, abs=0.01),
        ("mobilenetv2_100", 20.0): pytest.approx(-4.89, abs=0.01),
        ("mobilenetv2_100", 18.0): pytest.approx(-4.07, abs=0.01),
        ("mobilenetv2_140", 27.0): pytest.approx(-0.62, abs=0.01),
        ("mobilenetv2_140", 26.0): pytest.approx(0.70, abs=0.01),
        ("mobilenetv2_140", 23.0): pytest.approx(2.64, abs=0.01),
        ("mobilenetv2_140", 20.0): pytest.approx(8.54, abs=0.01),
        ("vgg19", 160.0): pytest.approx(-16.20, abs=0.01),
    }
    for row in rows:
        both = row.unexplained_ms
        speedup = (row.spans.original_ms + both) / (row.budget_ms + both)
        assert speedup == pytest.approx(row.published_speedup)


def test_a_pretrained_network_has_no_budget_and_vgg_none_for_tensorrt():
    first, vgg = headline()[0], headline()[-1]
    assert first.method == "pretrained" and first.published_speedup == 1
    assert first.table_speedup is first.difference_percent is first.unexplained_ms is None
    assert first.is_feasible is None
    assert (vgg.spans.runtime, vgg.published_speedup, vgg.speedup_tensorrt) == (
        "pytorch",
        1.44,
        None,
    )
