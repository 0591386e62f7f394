"""Plans that merge across blocks: texts, files, and what binding refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from synthetic_tables import synthetic_span_table

from dshrink.search.binding import bind_spans, plan_from_table
from dshrink.search.errors import PlanError
from dshrink.search.plan import Plan, load_plan, parse_plan, save_plan
from latency_tables.predictor import predict
from latency_tables.span_masks import SpanChain

STORED = Path(__file__).parent / "stored"
NAMES = ("a", "b", "c", "d")
CHAIN = SpanChain(convolutions=NAMES, mask="1|1|", skips=((0, 2),))
KNOWN = {(0, 1), (1, 2), (2, 3), (3, 4), (0, 2), (2, 4)}


def made(mask: str = "0|1|", names: tuple[str, ...] = NAMES) -> Plan:
    return Plan(
        model="net",
        resolution=(64, 64),
        span_mask=mask,
        convolutions=names,
        padding="repad",
        method="dp",
        importance=-0.25,
    )


def test_a_text_of_spans_is_a_plan_for_any_network() -> None:
    plan = parse_plan("spans:0|1|")
    assert (plan.model, plan.span_mask, plan.keep_mask) == (None, "0|1|", "")
    assert (plan.segments, plan.mask, plan.text) == ("spans", "0|1|", "spans:0|1|")
    assert plan.padding == "repad"


def test_a_text_of_blocks_is_no_plan_of_spans() -> None:
    plan = parse_plan("mask:0111")
    assert (plan.segments, plan.mask, plan.text) == ("blocks", "0111", "mask:0111")
    assert plan.padding == "bias_map"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("spans:", "holds no span mask"),
        ("spans:10", "span mask '10'"),
        ("spans:1x1", "span mask '1x1'"),
        ("mask:1|1", r"keep mask '1\|1'"),
    ],
)
def test_a_text_that_is_no_span_mask_is_refused(text: str, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        parse_plan(text)


def test_the_runs_that_merge_are_named_by_their_ends() -> None:
    assert made().merged == ("a .. b",)
    assert made("0001").merged == ("a .. d",)
    assert made("11|1").merged == parse_plan("spans:0|1|").merged == ()


def test_a_plan_of_spans_comes_back_from_its_file(tmp_path: Path) -> None:
    save_plan(made(), tmp_path / "plan.json")
    assert load_plan(tmp_path / "plan.json") == made()


def test_a_stored_plan_of_version_1_loads() -> None:
    found = load_plan(STORED / "spans_v1.json")
    assert (found.model, found.span_mask, found.importance) == ("net", "0|1|", -0.25)
    assert (found.convolutions, found.padding) == (NAMES, "repad")


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda d: d.update(keep_mask="01"), "either a keep mask or a span mask, not both"),
        (lambda d: d.update(span_mask="0|1"), "names 4 convolutions for 3 in its span mask"),
        (lambda d: d.update(span_mask="", keep_mask="1"), "names 4 convolutions for 0 in its"),
        (lambda d: d.update(span_mask="0|10"), "span mask '0.10' must hold one character"),
        (lambda d: d["convolutions"].append("a"), "for 4 in its span mask"),
        (lambda d: d["convolutions"].__setitem__(1, "a"), "duplicate convolution names"),
        (lambda d: d["convolutions"].__setitem__(1, 2), r"'convolutions\[1\]' must be a text"),
        (lambda d: d.update(importance="much"), "'importance' must be a number"),
    ],
)
def test_a_file_that_is_no_plan_of_spans_is_refused(
    tmp_path: Path, edit: Callable[[dict[str, Any]], object], message: str
) -> None:
    path = tmp_path / "plan.json"
    save_plan(made(), path)
    data = json.loads(path.read_text())
    edit(data)
    path.write_text(json.dumps(data))
    with pytest.raises(PlanError, match=message) as error:
        load_plan(path)
    assert str(error.value).startswith(str(path))


def test_binding_names_the_convolutions_of_a_bare_mask() -> None:
    plan = bind_spans(parse_plan("spans:0|1|"), model="net", chain=CHAIN, known=KNOWN)
    assert (plan.model, plan.convolutions) == ("net", made().convolutions)


def test_binding_goes_by_name_not_by_order() -> None:
    shifted = SpanChain(convolutions=("c", "d", "a", "b"), mask="1|1|")
    plan = bind_spans(made(), model="net.tag", chain=shifted, known=KNOWN)
    assert plan.span_mask == "1|0|"
    assert list(plan.convolutions) == ["c", "d", "a", "b"]


def test_what_merges_must_follow_one_another_in_the_network_too() -> None:
    apart = SpanChain(convolutions=("a", "c", "b", "d"), mask="1111")
    spans = {(i, j) for i in range(4) for j in range(i + 1, 5)}
    with pytest.raises(PlanError, match="merges a, b, which are not consecutive in the chain"):
        bind_spans(made("0111"), model="net", chain=apart, known=spans)
    turned = SpanChain(convolutions=("d", "b", "a", "c"), mask="1111")
    with pytest.raises(PlanError, match="merges a, b, which"):
        bind_spans(made("0111"), model="net", chain=turned, known=spans)
    single = bind_spans(made("1|11"), model="net", chain=apart, known=spans)
    assert single.span_mask == "11|1"


@pytest.mark.parametrize(
    ("plan", "model", "names", "message"),
    [
        (made(), "other", NAMES, r"for net, the network is other; .* give spans:0\|1\|"),
        (made(), "net", ("a", "b", "c", "e"), "names convolution 'd', which net does not have"),
        (made(), "net", (*NAMES, "e"), "does not say what happens to net's convolution 'e'"),
        (parse_plan("spans:11"), "net", NAMES, "2 characters, the chain of net has 4"),
        (made("10|1"), "net", NAMES, r"merges b \.\. c of net .* squared"),
    ],
)
def test_a_plan_of_spans_that_does_not_fit_the_network_is_refused(
    plan: Plan, model: str, names: tuple[str, ...], message: str
) -> None:
    chain = SpanChain(convolutions=names, mask="1" * len(names))
    with pytest.raises(PlanError, match=message):
        bind_spans(plan, model=model, chain=chain, known=KNOWN, unmergeable={(1, 3): "squared"})


def test_a_plan_of_a_span_table_names_convolutions_and_holds_the_prediction() -> None:
    spans = {(0, 1): 4.0, (1, 2): 3.0, (2, 3): 2.0, (0, 2): 5.0}
    table = synthetic_span_table(spans, mask="1|1")
    prediction = predict(table, "0|1", "interior")
    plan = plan_from_table(table, prediction, method="dp", importance=0.5)
    assert (plan.convolutions, plan.blocks) == (table.chain.convolutions, ())
    assert (plan.span_mask, plan.importance, plan.padding) == ("0|1", 0.5, "interior")
    assert plan.predicted and plan.table
    assert plan.predicted.latency_ms == prediction.latency_ms
    assert plan.table.digest == table.digest
