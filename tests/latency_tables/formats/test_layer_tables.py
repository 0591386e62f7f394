"""A table of layers leaves for other projects and comes back with what their keys can tell."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pandas as pd
import pytest
import yaml
from published_readers import HalpLookup, OfaLookup

from latency_tables.errors import TableFormatError
from latency_tables.formats.exporting import BESIDE, IN_NETWORK
from latency_tables.formats.published_layers import PublishedLayers, published_layer_table
from latency_tables.formats.registry import (
    FORMATS,
    check_format,
    holds_layers,
    load_published_layers,
    write_format,
)
from latency_tables.layers.io import load_layer_table, save_layer_table
from latency_tables.layers.layer_table import LayerRow, LayerTable
from latency_tables.layers.texts import parse_grid, parse_layer
from latency_tables.origin import Origin
from latency_tables.schema import Conditions

CONDITIONS = Conditions(device="shed", runtime="onnxruntime", runtime_version="1", batch=4)
ORIGIN = Origin(source="Somebody, 2020", licence="MIT")


def row(text: str, ms: float | None, beside_ms: float | None = None) -> LayerRow:
    layer = parse_layer(text)
    scaled = {
        name: ms and ms * factor
        for name, factor in {
            "latency_ms": 1,
            "low_ms": 0.99,
            "high_ms": 1.01,
            "median_ms": 1,
            "iqr_ms": 0.02,
            "min_ms": 0.9,
            "p90_ms": 1.1,
            "p99_ms": 1.2,
            "wall_latency_ms": 1,
            "round_spread_percent": 0.5,
        }.items()
    }
    return LayerRow(
        layer=layer,
        names=("one", "other"),
        digest=layer.spec.digest,
        **scaled,
        beside_ms=beside_ms,
        beside_low_ms=beside_ms,
        beside_high_ms=beside_ms,
        samples=45 if ms else 0,
        rounds=3 if ms else 0,
        macs=layer.spec.macs,
        parameters=layer.spec.parameters,
        peak_activations=layer.spec.peak_activations,
        verdict="ok" if ms else "failed",
        reason="" if ms else "timeout",
    )


GRID = "cin=16:48:16 cout=16,32 k=1,3 s=1,2 hw=56,28"


def table() -> LayerTable:
    grid = parse_grid(GRID).layers
    texts = [" ".join(f"{k}={v}" for k, v in layer.to_texts().items() if v) for layer in grid]
    rows = [row(text, 0.125 * (number + 1)) for number, text in enumerate(texts)]
    return LayerTable(
        rows=(
            *rows,
            row("cin=32 cout=32 k=3 hw=28 g=dw act=relu6", 1.5, beside_ms=0.25),
            row("cin=32 cout=32 k=5 hw=28", 2.5, beside_ms=-0.1),
            row("kind=linear cin=1280 cout=1000", 3.5),
            row("kind=global_pool cin=1280 hw=7", 0.75),
            row("cin=16 cout=16 k=1 hw=56 residual=1", 9.0),
            row("cin=16 cout=16 k=3 hw=7", None),
        ),
        conditions=CONDITIONS,
    )


def export(name: str, folder: Path, **more: str) -> Path:
    suffix = {"ofa": "yaml", "halp-pickle": "pkl", "csv": "csv"}.get(name, "json")
    path = folder / f"table.{suffix}"
    content = write_format(name, table(), **more).content
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def known(one: LayerTable | PublishedLayers) -> dict[str, float | None]:
    rows = one.rows if isinstance(one, LayerTable) else one.layers
    return {each.layer.name: each.latency_ms for each in rows}


def test_once_for_all_and_halp_find_each_layer_of_a_grid(tmp_path: Path) -> None:
    ofa, halp = OfaLookup(export("ofa", tmp_path)), HalpLookup(export("halp", tmp_path), 4)
    grid = parse_grid(GRID).layers
    assert len(grid) == 3 * 2 * 2 * 2 * 2
    for number, layer in enumerate(grid):
        out, k, s = (layer.height - 1) // layer.stride[0] + 1, layer.kernel[0], layer.stride[0]
        before = layer.height, layer.width, layer.in_channels
        found = ofa.query("Conv" if k == 3 else "Conv_1", before, (out, out, layer.out_channels))
        assert found == 0.125 * (number + 1)
        assert found == halp.latency(
            layer.in_channels, layer.out_channels, k, layer.height, s, groups=1
        )
    assert ofa.query("Logits", (1, 1, 1280), (1000,)) == 3.5
    assert ofa.query("AvgPool2D", (7, 7, 1280), (1, 1, 1280)) == 0.75
    assert halp.latency(32, 32, 3, 28, 1, groups=32) == 1.5
    assert halp.latency(32, 32, 5, 28, 1, groups=1) == 2.5


def test_what_has_no_place_is_counted_by_its_reason() -> None:
    assert [line.partition(": ")[0] for line in write_format("ofa", table()).lines("ofa")] == [
        # Depthwise, 5x5, residual; failed.
        "3 of 54 rows have no place in the format ofa",
        "1 of 54 rows have no place in the format ofa",
    ]
    assert sum(write_format("halp", table()).left_out.values()) == 4
    with pytest.raises(TableFormatError, match="the format kim holds spans of a network"):
        write_format("kim", table())


def test_what_a_layer_costs_beside_another_is_written_only_when_asked_for(tmp_path: Path) -> None:
    halp = HalpLookup(export("halp", tmp_path, which=BESIDE), 4)
    assert halp.table == {"4_32_32_28_3_1_32": 0.25}
    with pytest.raises(TableFormatError, match="53 rows: the table has no in_network_ms of them"):
        write_format("halp", table(), which=IN_NETWORK)
    with pytest.raises(TableFormatError, match="the format csv holds all latencies"):
        write_format("csv", table(), which=BESIDE)
    with pytest.raises(TableFormatError, match=r"unknown format 'onnx'; known: csv, json, ofa"):
        check_format("onnx")


def test_each_comes_back_as_a_published_table(tmp_path: Path) -> None:
    measured = {name: ms for name, ms in known(table()).items() if ms is not None}
    for name, lost in {
        "ofa": ["depthwise 3x3 32->32 at 28x28, relu6", "conv 5x5 32->32 at 28x28"],
        "halp": ["linear 1280->1000", "global_pool 1280 at 7x7"],
    }.items():
        published = load_published_layers(export(name, tmp_path))
        expected = {
            layer.removesuffix(", relu6"): ms
            for layer, ms in measured.items()
            if layer not in lost and "residual" not in layer
        }
        assert known(published) == expected
        back = published_layer_table(published, CONDITIONS, ORIGIN, date="2026-11-30")
        assert {one.verdict for one in back.rows} == {"published"}
        save_layer_table(back, tmp_path / name)
        assert load_layer_table(tmp_path / name) == back
    ofa = load_published_layers(tmp_path / "table.yaml").layers[0]
    assert ofa.stdev_ms == pytest.approx(0.02 * ofa.latency_ms / 1.34897950)


def test_a_csv_comes_back_with_all_that_it_says(tmp_path: Path) -> None:
    path = export("csv", tmp_path)
    lines = path.read_text().splitlines()
    frame = pd.read_csv(path)
    assert (len(frame), set(frame["device"]), set(frame["batch"])) == (54, {"shed"}, {4})
    published = load_published_layers(path)
    assert known(published) == {n: ms for n, ms in known(table()).items() if ms is not None}
    assert published.layers[0].names == ("one", "other")
    (warning,) = published.warnings()
    assert warning.startswith(
        "1 of 54 entries are left out: they are layers whose measurement fail"
    )
    # With an index in front and whole numbers as 16.0, as pandas writes them.
    counts = dict.fromkeys(["in_channels", "out_channels", "height", "width", "groups"], float)
    frame.astype(counts).to_csv(path)
    assert load_published_layers(path) == published
    path.write_text("\n".join(lines).replace(",failed,", ",ok,"))
    with pytest.raises(TableFormatError, match="line 55: latency_ms must be a finite number above"):
        load_published_layers(path)


def test_json_has_every_row_with_its_layer(tmp_path: Path) -> None:
    data = json.loads(export("json", tmp_path).read_text())
    assert data["conditions"]["device"] == "shed" and data["unit"] == "ms"
    assert len(data["rows"]) == 54
    assert data["rows"][0]["layer"]["kernel"] == [1, 1]
    with pytest.raises(TableFormatError, match="is a table that dshrink exported: import its CSV"):
        load_published_layers(tmp_path / "table.json")


def test_a_pickle_is_never_read(tmp_path: Path) -> None:
    path = export("halp-pickle", tmp_path)
    assert HalpLookup(path, 4).latency(32, 32, 5, 28, 1, 1) == 2.5
    for name in ("table.pkl", "other.json", "other.csv"):
        other = tmp_path / name
        other.write_bytes(path.read_bytes())
        with pytest.raises(TableFormatError, match="a pickle runs whatever it holds, so it is not"):
            holds_layers(other)


def test_the_published_form_of_once_for_all_is_read(tmp_path: Path) -> None:
    """Entries as in its tables for a Note10 and for ProxylessNAS, which has var for std."""
    path = tmp_path / "note10.yaml"
    path.write_text(
        """\
AvgPool2D-input:5x5x1152-output:1x1x1152: {count: 491, mean: 0.0085, std: 0.0007}
Conv-input:160x160x3-output:80x80x24: {count: 498, mean: 0.4956, std: 0.0102}
Conv_1-input:5x5x192-output:5x5x1152: {count: 498, mean: 0.4457, var: 0.0004}
Conv_2-input:1x1x1152-output:1x1x1536: {count: 498, mean: 0.7474}
Logits-input:1x1x1536-output:1000: {mean: 0.6564}
Logits-input:7x7x1280-output:1000: {mean: 0.9}
expanded_conv-input:40x40x32-output:20x20x48-expand:128-kernel:3-stride:2-idskip:0-se:1-hs:0:
  {count: 72, mean: 0.7005}
expanded_conv-input:7x7x192-output:7x7x320-expand:6-kernel:5-stride:1-idskip:0: {mean: 5.26}
"""
    )
    assert holds_layers(path)
    published = load_published_layers(path)
    assert known(published) == {
        "global_pool 1152 at 5x5": 0.0085,
        "conv 3x3 3->24 at 160x160, stride 2": 0.4956,
        "conv 1x1 192->1152 at 5x5": 0.4457,
        "conv 1x1 1152->1536 at 1x1": 0.7474,
        "linear 1536->1000": 0.6564,
    }
    assert [one.stdev_ms for one in published.layers[:4]] == [0.0007, 0.0102, 0.02, None]
    assert published.warnings() == (
        "3 of 8 entries are left out: they are blocks of several layers, or what follows from the "
        "rest of a network",
    )


def test_keys_of_halp_name_the_batch_size(tmp_path: Path) -> None:
    path = tmp_path / "lut.json"
    path.write_text(json.dumps({"256_3_64_224_7_2_1": 1.5, "64_3_64_224_7_2_1": 0.5}))
    assert load_published_layers(path, 64).layers[0].latency_ms == 0.5
    assert load_published_layers(path, 256).batch == 256
    for batch in (None, 1):
        with pytest.raises(TableFormatError, match="are of batch size 64, 256: choose one of them"):
            load_published_layers(path, batch)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.json", "{", "cannot be read: "),
        ("t.json", "[1]", "must be a mapping from keys to latencies"),
        ("t.json", '{"256_3_64": 1}', "'256_3_64' is not a key of HALP"),
        ("t.json", '{"1_3_64_8_1_1_2": 1}', "'1_3_64_8_1_1_2': 3 input channels"),
        ("t.json", '{"1_3_64_8_1_1_1": 0}', "must be a number of ms above 0, got 0"),
        ("t.json", '{"1_3_64_8_1_1_1": NaN}', "must be a number of ms above 0, got nan"),
        ("t.json", '{"1_3_64_8_1_1_1": "1"}', "must be a number of ms above 0, got '1'"),
        ("t.yaml", "a: [", "cannot be read: "),
        ("t.yaml", "!!python/object/apply:os.system ['true']", "cannot be read: "),
        ("t.yaml", "Conv-input:8x8: {mean: 1}", "'Conv-input:8x8' is not a key of once-for-all"),
        ("t.yaml", "Conv-input:8x8x3-output:8x8x4: 1", "must hold mean (and std) in ms, got 1"),
        ("t.yaml", "Conv-input:8x8x3-output:8x8x4: {mean: -1}", "number of ms above 0, got -1"),
        (
            "t.yaml",
            "Conv-input:8x8x3-output:8x8x4: {mean: 1, var: -1}",
            "must be a number of ms 0 or more, got -1",
        ),
        ("t.yaml", "Conv-input:8x8x3-output:9x9x4: {mean: 1}", "holds no layer (1 of 1 entries"),
        ("t.csv", "in_channels,latency_ms,speed\n1,1,1\n", "line 1: unknown column speed"),
        ("t.csv", "cin,cout,hw,latency_ms\n1,1,7,0\n", "line 2: latency_ms must be a finite"),
        ("t.csv", "cin,cout,hw,latency_ms\n1,1,7,1\n1.0,1,7,1\n", "line 3: conv 1x1 1->1 at 7x7 i"),
        ("t.csv", "cin,cout,latency_ms\n1,1,1\n", "line 2: height (or hw) is missing"),
        ("t.csv", "cin,cout,hw\n1,1,7\n", "line 1: missing column latency_ms"),
    ],
)
def test_a_broken_file_is_one_line(tmp_path: Path, name: str, text: str, message: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    assert holds_layers(path)
    with pytest.raises(TableFormatError) as caught:
        load_published_layers(path)
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_files_of_spans_and_blocks_hold_no_layers(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    for header in ("id,st,end,time,stdev", "model,block,original_ms,merged_ms"):
        path.write_text(f"{header}\n{header}\n")
        assert not holds_layers(path)


def test_every_format_can_be_written_of_layers_but_spans() -> None:
    for name in set(FORMATS) - {"kim"}:
        content = write_format(name, table()).content
        assert isinstance(content, bytes) == (name == "halp-pickle")
        if name == "ofa":
            assert len(yaml.safe_load(content)) == 50
        elif name == "csv":
            assert isinstance(content, str) and len(pd.read_csv(io.StringIO(content))) == 54
