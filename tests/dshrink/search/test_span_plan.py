"""Plans that merge across blocks: texts, files, and what binding refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from synthetic_tables import synthetic_span_table, synthetic_table

from dshrink.search.binding import bind_spans, span_plan
from dshrink.search.choices import convolution_choices
from dshrink.search.errors import PlanError
from dshrink.search.plan import Plan, load_plan, parse_plan, save_plan
from latency_tables.predictor import predict
from latency_tables.span_masks import SpanChain

NAMES = ("a", "b", "c", "d")
CHAIN = SpanChain(convolutions=NAMES, mask="1|1|", skips=((0, 2),))
KNOWN = {(0, 1), (1, 2), (2, 3), (3, 4), (0, 2), (2, 4)}


def made(mask: str = "0|1|", names: tuple[str, ...] = NAMES) -> Plan:
    return Plan(
        model="net",
        resolution=(64, 64),
        span_mask=mask,
        convolutions=convolution_choices(mask, names),
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


def test_choices_spell_out_the_mask() -> None:
    found = [(c.position, c.name, c.boundary, c.activation) for c in made().convolutions]
    assert found == [
        (1, "a", False, False),
        (2, "b", True, False),
        (3, "c", True, True),
        (4, "d", True, False),
    ]
    assert "".join(choice.sign for choice in made().convolutions) == "0|1|"


def test_a_plan_of_spans_comes_back_from_its_file(tmp_path: Path) -> None:
    save_plan(made(), tmp_path / "plan.json")
    assert load_plan(tmp_path / "plan.json") == made()


def test_a_file_of_the_first_version_still_loads(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    plan = Plan(model="net", resolution=None, keep_mask="01", method="greedy", seed=3)
    save_plan(plan, path)
    data = json.loads(path.read_text())
    for name in ("span_mask", "convolutions", "importance", "borders"):
        del data[name]
    path.write_text(json.dumps({**data, "schema_version": 1}))
    assert load_plan(path) == plan
    path.write_text(json.dumps({**data, "schema_version": 1, "importance": 2.0}))
    with pytest.raises(PlanError, match="unknown field 'importance'"):
        load_plan(path)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda d: d.update(keep_mask="01"), "a keep mask a block or a span mask, not both"),
        (lambda d: d.update(span_mask="1|1|"), r"convolution 1 \(a\): .* says 1"),
        (lambda d: d.update(span_mask="0|1"), "span mask of 3 convolutions"),
        (lambda d: d.update(span_mask="", keep_mask="1"), "its span mask is empty"),
        (lambda d: d["convolutions"][0].update(activation=True), r"convolution 1 \(a\)"),
        (lambda d: d["convolutions"][1].update(name="a"), "two convolutions one name"),
        (lambda d: d["convolutions"][1].update(boundary=1), "'boundary' must be true or false"),
        (lambda d: d["convolutions"][1].pop("position"), "'position' is missing"),
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
    assert [choice.name for choice in plan.convolutions] == ["c", "d", "a", "b"]


def test_what_merges_must_follow_one_another_in_the_network_too() -> None:
    apart = SpanChain(convolutions=("a", "c", "b", "d"), mask="1111")
    spans = {(i, j) for i in range(4) for j in range(i + 1, 5)}
    with pytest.raises(PlanError, match="merges a, b, which do not follow one another so"):
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
        (made(), "net", (*NAMES, "e"), "does not say what follows net's convolution 'e'"),
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
    plan = span_plan(table, "0|1", method="dp", padding="interior", importance=0.5)
    assert [choice.name for choice in plan.convolutions] == list(table.chain.convolutions)
    assert (plan.span_mask, plan.importance, plan.padding) == ("0|1", 0.5, "interior")
    assert plan.predicted and plan.table
    assert plan.predicted.latency_ms == predict(table, "0|1", "interior").latency_ms
    assert plan.table.digest == table.digest


def test_a_table_of_blocks_gives_no_plan_of_spans() -> None:
    with pytest.raises(PlanError, match="--segments spans"):
        span_plan(synthetic_table([1.0, 2.0], [0.5, 0.5]), "11", method="dp")
