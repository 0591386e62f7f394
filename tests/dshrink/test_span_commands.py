"""Plans of spans from the command's point of view: merged, exported, measured."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from merging import merge_spans
from synthetic_tables import synthetic_span_table

from dshrink.errors import NotMergeable
from dshrink.merge.export import run_onnx
from dshrink.network.chain import span_chain
from dshrink.network.references import ModelChoice
from dshrink.operations.bench import run_benchmark
from dshrink.operations.bench_networks import network_of_file, networks_by_plan
from dshrink.operations.bench_rows import predicted
from dshrink.operations.merge import merge_by_plan
from dshrink.pieces.plan_binding import bind_to_network
from dshrink.pieces.specs import shrunk_spec
from dshrink.search.errors import PlanError
from dshrink.search.plan import parse_plan, save_plan
from latency_tables.predictor import predict
from profiler.errors import SessionError

MODEL = "mobilenetv2_035"
#: The original network's mask with the convolutions 6 to 11 merged, an activation behind them.
MASK = "1|11|" + "000001" + "11|" * 13


def spans_of(network):
    return network(MODEL, 32, "random")


def test_a_plan_of_spans_is_merged_certified_and_written(network, tmp_path):
    net = spans_of(network)
    save_plan(bind_to_network(parse_plan(f"spans:{MASK}"), net), tmp_path / "plan.json")
    file = tmp_path / "a.onnx"
    ran = merge_by_plan(
        ModelChoice(model=MODEL, weights="random", resolution=(32, 32)),
        str(tmp_path / "plan.json"),
        file,
    ).result
    assert (ran.segments, ran.spans_merged, ran.blocks_merged) == ("spans", 1, 0)
    assert (ran.span_mask, ran.padding, ran.keep_mask) == (MASK, "repad", "")
    assert ran.onnx_difference < 1e-4
    certificate = json.loads((tmp_path / "a.onnx.certificate.json").read_text())
    assert certificate["span_mask"] == MASK and certificate["problem"] == ""
    assert certificate["onnx_sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert certificate["spans"][0]["label"].startswith("span 5-11 (blocks.1.1.conv_pw .. ")
    image = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(4))
    with torch.inference_mode():
        expected = merge_spans(net, MASK).module(torch.float64)(image.double()).numpy()
    result = run_onnx(onnx.load(file).SerializeToString(), image.numpy())
    assert np.abs(result - expected).max() / np.abs(expected).max() < 1e-4
    facts = network_of_file(file, 1).facts
    assert (facts.segments, facts.keep_mask, facts.padding) == ("spans", MASK, "repad")


def test_bench_measures_the_network_that_a_plan_of_spans_makes(network):
    net = spans_of(network)
    plans = [parse_plan(f"spans:{MASK}"), parse_plan("mask:" + "1" * 17)]
    original, spans, blocks = networks_by_plan(net, plans)
    assert (original.original, original.facts.keep_mask) == (True, "1" * 17)
    assert spans.job.spec == shrunk_spec(net, MASK, segments="spans")
    assert (spans.facts.segments, spans.facts.keep_mask, spans.facts.padding) == (
        "spans",
        MASK,
        "repad",
    )
    assert (blocks.facts.segments, spans.original) == ("blocks", False)


def test_a_plan_of_spans_is_bound_by_the_names_of_its_convolutions(network):
    net = spans_of(network)
    plan = bind_to_network(parse_plan(f"spans:{MASK}"), net)
    names = span_chain(net.chain).convolutions
    assert plan.convolutions == names
    assert plan.model == MODEL and plan.span_mask == MASK


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (MASK[1:], "49 characters, the chain of mobilenetv2_035 has 50"),
        ("1|1001" + MASK[6:], "the end of a skip"),
    ],
)
def test_a_plan_of_spans_that_misfits_is_refused(mask, message, network):
    with pytest.raises(PlanError, match=message):
        bind_to_network(parse_plan(f"spans:{mask}"), spans_of(network))


def test_a_plan_of_spans_whose_layers_cannot_merge_says_why(network):
    # At 97 the shortcuts' average pools hang over the end of their inputs.
    net = network("resnet14t", 97)
    bare = replace(parse_plan("spans:111" + "001" + "1" * 6), model="resnet14t")
    with pytest.raises(PlanError, match=r"span 3-6 .*layer2\.0\.downsample\.0: pool"):
        bind_to_network(bare, net)


def table_of(net):
    chain = net.chain
    spans = {(i, i + 1): 1.0 for i in range(50)} | {(5, 11): 2.0}
    made = synthetic_span_table(spans, mask=span_chain(chain).mask, skips=chain.skips)
    return replace(made, model=MODEL, resolution=(32, 32))


def test_a_span_table_predicts_the_original_and_plans_of_spans_alone(network):
    net = spans_of(network)
    table, said = table_of(net), []
    plans = [parse_plan(f"spans:{MASK}"), parse_plan("mask:" + "1" * 17)]
    candidates = networks_by_plan(net, plans)
    found = [predicted(c, table.conditions, [table], said.append) for c in candidates]
    assert found == [predict(table, table.chain.mask), predict(table, MASK), None]
    assert found[0].latency_ms > found[1].latency_ms
    (why,) = said
    assert "its plan merges blocks, the table is of spans" in why


def test_bench_says_what_its_table_cannot_predict_before_it_measures(network, tmp_path):
    net = spans_of(network)
    table, said = table_of(net), []
    other = "0|" + "11|" * 16
    candidates = networks_by_plan(net, [parse_plan(f"spans:{MASK}"), parse_plan(f"spans:{other}")])
    with pytest.raises(
        SessionError, match="synthetic on a cpu is not supported"
    ):  # no way to measure there
        run_benchmark(
            candidates, table.conditions, None, tmp_path, tables=[table], notice=said.append
        )
    (line,) = said
    assert line.startswith(f"no prediction for spans:{other}: ")


def test_a_kernel_of_an_absurd_size_is_not_merged(network):
    net = network("mobilenetv2_100", 32)
    line = r"span 0-50 \(.*\): its merged 245x245 kernel has 2345 MiB .* none above 256 MiB"
    with pytest.raises(NotMergeable, match=line):
        merge_spans(net, "0" * 49 + "1")
