from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_tables import synthetic_table

from dshrink.search.binding import bind, plan_from_table
from dshrink.search.errors import PlanError, SearchError
from dshrink.search.plan import BlockLayers, Plan, load_plan, parse_plan, save_plan
from latency_tables.predictor import predict

STORED = Path(__file__).parent / "stored"
NAMES = ("blocks.0", "blocks.1", "blocks.2")


def plan(keep_mask: str = "011") -> Plan:
    table = synthetic_table([1.0, 2.0, 4.0], [0.5, None, 3.0])
    return plan_from_table(table, predict(table, keep_mask), method="greedy", seed=3)


def refusal(text: str) -> str:
    with pytest.raises(PlanError) as caught:
        parse_plan(text)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, SearchError)
    return str(caught.value)


def test_a_plan_of_a_table_names_blocks_layers_and_the_table() -> None:
    found = plan("011")
    assert found.keep_mask == "011"
    assert [block.name for block in found.blocks] == list(NAMES)
    assert found.merged == ("blocks.0",)
    assert found.blocks[2].first_layer == "block 2 original first"
    assert found.blocks[2].last_layer == "block 2 original last"
    assert (found.shrunk, found.kept_count) == ((0,), 2)
    assert found.table is not None
    assert found.table.conditions.device == "nowhere"
    assert found.predicted is not None
    assert found.predicted.latency_ms == pytest.approx(8.5)


def test_a_plan_comes_back_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "plan.json"
    save_plan(plan(), path)
    assert load_plan(path) == parse_plan(str(path)) == plan()


#: What a file can hold and a terminal print.
TEXT = st.characters(codec="utf-8", exclude_characters="\0")


@settings(deadline=None)
@given(
    mask=st.text("01", min_size=1, max_size=30),
    model=st.none() | st.text(TEXT),
    resolution=st.none() | st.tuples(st.integers(8, 999), st.integers(8, 999)),
    seed=st.none() | st.integers(-(2**63), 2**63 - 1),
    named=st.booleans(),
    source=st.text(TEXT),
)
def test_any_plan_comes_back_from_its_file(
    mask: str,
    model: str | None,
    resolution: tuple[int, int] | None,
    seed: int | None,
    named: bool,
    source: str,
) -> None:
    blocks = tuple(
        BlockLayers(name=f"layer{index}", activations=("act1", "act2")[:index])
        for index in range(len(mask))
    )
    written = Plan(
        model=model,
        resolution=resolution,
        keep_mask=mask,
        blocks=blocks if named else (),
        padding="interior",
        method="any",
        seed=seed,
        source=source,
    )
    with tempfile.TemporaryDirectory() as directory:
        save_plan(written, Path(directory) / "plan.json")
        assert load_plan(Path(directory) / "plan.json") == written


def test_the_file_can_be_read_and_names_the_schema(tmp_path: Path) -> None:
    save_plan(plan(), tmp_path / "plan.json")
    data = json.loads((tmp_path / "plan.json").read_text())
    assert (data["schema"], data["schema_version"]) == ("dshrink.plan", 2)
    assert data["keep_mask"] == "011"
    assert (data["merged"], data["blocks"][0]["name"]) == (["blocks.0"], "blocks.0")
    assert data["table"]["conditions"]["device"] == "nowhere"
    assert len(data["table"]["digest"]) == 16
    # Before version 2 plans did not say for how many channels they are.
    del data["in_channels"]
    (tmp_path / "old.json").write_text(json.dumps({**data, "schema_version": 1}))
    assert load_plan(tmp_path / "old.json") == replace(plan(), in_channels=None)
    assert set(data["predicted"]) == {"latency_ms", "low_ms", "high_ms", "padding"}


def test_a_stored_plan_of_version_1_loads() -> None:
    found = load_plan(STORED / "blocks_v1.json")
    assert (found.model, found.keep_mask, found.padding) == ("synthetic", "011", "repad")
    assert found.blocks[0].activations == ("blocks.0.act1", "blocks.0.act2")
    assert found.blocks[2].first_layer == "block 2 original first"
    assert found.predicted is not None and found.table is not None
    assert (found.predicted.padding, found.table.conditions.batch) == ("bias_map", 1)


def test_a_plan_says_the_padding_of_its_training_beside_that_of_its_prediction(
    tmp_path: Path,
) -> None:
    assert (parse_plan("mask:011").padding, plan().padding) == ("bias_map", "bias_map")
    save_plan(replace(plan(), padding="repad"), tmp_path / "plan.json")
    found = load_plan(tmp_path / "plan.json")
    assert found.predicted is not None
    assert (found.padding, found.predicted.padding) == ("repad", "bias_map")


def test_a_mask_that_is_edited_in_the_file_counts(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    save_plan(plan("011"), path)
    path.write_text(path.read_text().replace('"011"', '"110"'))
    assert (load_plan(path).keep_mask, load_plan(path).merged) == ("110", ("blocks.2",))


def test_a_bare_mask_is_a_plan_for_any_network() -> None:
    found = parse_plan("mask:0011")
    assert (found.model, found.keep_mask, found.blocks) == (None, "0011", ())
    assert found.source == "mask:0011"


def test_a_network_of_the_paper_is_a_plan() -> None:
    found = parse_plan("paper:eff-lite0-b")
    assert (found.model, found.keep_mask) == ("tf_efficientnet_lite0", "0001100010011111")
    assert (found.method, found.source) == ("paper", "paper:Eff-Lite0-B")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mask:", "keep mask ''"),
        ("mask:01x", "keep mask '01x'"),
        ("paper:nothing", "the paper has no network 'nothing'"),
        ("no-such-file.json", "no-such-file.json: no such file; a plan is a JSON file of `dshrink"),
        ("", "."),
    ],
)
def test_a_text_that_is_no_plan_is_refused(text: str, message: str) -> None:
    assert message in refusal(text)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda d: d.update(schema="dshrink.latency_table"), "field 'schema' must be"),
        (lambda d: d.update(schema_version=3), "newer than 2, the newest that this dshrink reads"),
        (
            lambda d: d.update(padding="none"),
            "padding must be bias_map, repad, interior, got 'none'",
        ),
        (lambda d: d.pop("padding"), "field 'padding' is missing"),
        (lambda d: d.pop("model"), "field 'model' is missing"),
        (lambda d: d.update(colour=1), "unknown field 'colour'"),
        (lambda d: d.update(keep_mask="01"), "names 3 blocks for 2 in its keep mask"),
        (lambda d: d.update(keep_mask="01x"), "keep mask '01x' must hold one 1 (keep) or 0"),
        (lambda d: d.update(resolution=[1]), "field 'resolution' must be a list of length 2"),
        (lambda d: d["blocks"][1].update(name="blocks.0"), "duplicate block names"),
        (lambda d: d["blocks"][1].update(name=True), "blocks[1]: field 'name' must be a text"),
        (lambda d: d["blocks"][1].update(activations=[1]), "field 'activations[0]' must be a"),
        (lambda d: d["table"]["conditions"].pop("device"), "'device' is missing"),
        (lambda d: d["predicted"].update(latency_ms=None), "'latency_ms' must be a number"),
    ],
)
def test_a_file_that_is_no_plan_is_refused(
    tmp_path: Path, edit: Callable[[dict[str, Any]], object], message: str
) -> None:
    path = tmp_path / "plan.json"
    save_plan(plan(), path)
    data = json.loads(path.read_text())
    edit(data)
    path.write_text(json.dumps(data))
    found = refusal(str(path))
    assert message in found
    assert found.startswith(str(path))


def test_a_file_that_is_no_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text("keep: 011")
    assert "line 1: not valid JSON" in refusal(str(tmp_path / "plan.json"))
    (tmp_path / "plan.json").write_bytes(b"\xff\xff")
    assert "cannot be read as text" in refusal(str(tmp_path / "plan.json"))


def test_binding_a_mask_names_its_blocks() -> None:
    acts = {0: ("blocks.0.act1", "blocks.0.act2")}
    found = bind(parse_plan("mask:011"), model="net", block_names=NAMES, activations=acts)
    assert [block.name for block in found.blocks] == list(NAMES)
    assert found.blocks[0].activations == ("blocks.0.act1", "blocks.0.act2")
    assert found.model == "net"


def test_binding_goes_by_name_not_by_order() -> None:
    backwards = ("blocks.2", "blocks.1", "blocks.0")
    found = bind(plan("011"), model="synthetic", block_names=backwards)
    assert found.keep_mask == "110"
    assert tuple(block.name for block in found.blocks) == backwards
    assert found.blocks[2].first_layer == "block 0 original first"


def test_binding_keeps_the_activations_that_the_plan_names() -> None:
    blocks = plan().blocks
    acts = replace(blocks[1], activations=("act",))
    named = replace(plan(), blocks=(blocks[0], acts, blocks[2]))
    found = bind(named, model="synthetic", block_names=NAMES[::-1])
    assert found.blocks[1].activations == ("act",)


def test_the_tag_of_the_weights_does_not_make_another_network() -> None:
    made = replace(plan(), model="mobilenetv2_100")
    found = bind(made, model="mobilenetv2_100.ra_in1k", block_names=NAMES)
    assert found.model == "mobilenetv2_100.ra_in1k"


@pytest.mark.parametrize(
    ("made", "model", "names", "unmergeable", "message"),
    [
        (plan(), "other", NAMES, {}, "for synthetic, the network is other; .* give mask:011"),
        (plan(), "synthetic", ("a", *NAMES[1:]), {}, "names block 'blocks.0', which synthetic"),
        (
            plan(),
            "synthetic",
            (*NAMES, "b"),
            {},
            "does not say what happens to synthetic's block 'b'",
        ),
        (parse_plan("mask:01"), "net", NAMES, {}, "2 characters, net has 3 blocks"),
        (plan(), "synthetic", NAMES, {0: "swish"}, r"block 0 \(blocks.0\), which cannot merge: sw"),
    ],
)
def test_a_plan_that_does_not_fit_the_network_is_refused(
    made: Plan, model: str, names: tuple[str, ...], unmergeable: dict[int, str], message: str
) -> None:
    with pytest.raises(PlanError, match=message):
        bind(made, model=model, block_names=names, unmergeable=unmergeable)
