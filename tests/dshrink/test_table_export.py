"""``dshrink table export``: other projects' readers find a real network's pieces in its table."""

from __future__ import annotations

import json
from dataclasses import replace

import pandas as pd
import pytest
from published_readers import HalpLookup, OfaLookup
from typer.testing import CliRunner

from dshrink.cli.table import app
from dshrink.pieces.block_pieces import network_pieces
from dshrink.pieces.span_pieces import span_pieces
from latency_tables.errors import TableFormatError
from latency_tables.io import load_table, save_table
from latency_tables.layers.io import load_layer_table
from latency_tables.origin import Origin
from latency_tables.pieces import piece_row
from latency_tables.schema import Conditions
from latency_tables.table import LatencyTable

CONDITIONS = Conditions(device="shed", runtime="tensorrt", runtime_version="8", batch=8)
#: MobileNetV2 (Sandler et al., 2018), Tab. 2: expansion, channels, blocks, stride of the first.
MOBILENET_V2 = (
    *((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2)),
    *((6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)),
)


@pytest.fixture(autouse=True)
def _shared_networks(monkeypatch, network):
    def load(name, resolution, model_args=(), in_channels=3):
        assert (list(model_args), in_channels) == ([], 3)
        return network(name, resolution=resolution[0])

    monkeypatch.setattr("dshrink.network.models.load_network", load)


def saved(pieces, folder, **changes):
    """A table whose piece number n takes (n + 1) / 16 ms, equal pieces what the first takes."""
    first = {}
    for n, piece in enumerate(pieces.pieces):
        first.setdefault(piece.spec.digest, n)
    table = LatencyTable(
        **pieces.cut,
        rows=tuple(
            piece_row(piece, verdict="published", latency_ms=(first[piece.spec.digest] + 1) / 16)
            for piece in pieces.pieces
            if piece.kind != "dense"
        ),
        conditions=CONDITIONS,
        origin=Origin(source="made up", licence="MIT"),
    )
    save_table(replace(table, **changes), folder)
    return load_table(folder)


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_once_for_all_walks_through_mobilenet_v2(tmp_path, network):
    table = saved(network_pieces(network("mobilenetv2_100"), dense=False), tmp_path / "table")
    done = run("export", tmp_path / "table", "--format", "ofa", "--out", tmp_path / "lut.yaml")
    assert done.exit_code == 0, done.output
    found = OfaLookup(tmp_path / "lut.yaml")
    assert found.query("Conv", [224, 224, 3], [112, 112, 32]) == table.row("stem").latency_ms
    size, channels, block = 112, 32, 0
    for expand, out, repeats, first in MOBILENET_V2:
        for repeat in range(repeats):
            stride = first if repeat == 0 else 1
            after = (size - 1) // stride + 1
            skip = int(stride == 1 and channels == out)
            shapes = [size, size, channels], [after, after, out]
            latency_ms = table.measured("original", block)[1]
            rest = {"kernel": 3, "stride": stride, "idskip": skip}
            assert found.query("expanded_conv", *shapes, expand=expand, **rest) == latency_ms
            rest |= {"se": 0, "hs": 0}
            mid = expand * channels
            assert found.query("expanded_conv", *shapes, expand=mid, **rest) == latency_ms
            size, channels, block = after, out, block + 1
    assert block == table.block_count
    # The head is a convolution, a pooling and a linear layer at once.
    assert "rows have no place in the format ofa: its keys name dense 3x3 and 1x1" in done.stdout


def test_squeeze_excite_of_mobilenet_v3_is_once_for_alls(tmp_path, network):
    pieces = network_pieces(network("mobilenetv3_large_100"), dense=False)
    table = saved(pieces, tmp_path / "table")
    run("export", tmp_path / "table", "--format", "ofa", "--out", tmp_path / "lut.yaml")
    found = OfaLookup(tmp_path / "lut.yaml")
    # MobileNetV3-Large (Howard et al., 2019), Tab. 1: rows 5 and 12 of the bottlenecks.
    said = {"expand": 120, "kernel": 5, "stride": 1, "idskip": 1, "se": 1, "hs": 0}
    latency_ms = found.query("expanded_conv", [28, 28, 40], [28, 28, 40], **said)
    assert latency_ms == table.measured("original", 4)[1]
    said = {"expand": 672, "kernel": 3, "stride": 1, "idskip": 1, "se": 1, "hs": 1}
    latency_ms = found.query("expanded_conv", [14, 14, 112], [14, 14, 112], **said)
    assert latency_ms == table.measured("original", 11)[1]


def test_halp_finds_the_spans_that_are_convolutions(tmp_path, network):
    pieces = span_pieces(network("mobilenetv2_100"), mode="exact")
    table = saved(pieces, tmp_path / "table")
    done = run(
        *("export", tmp_path / "table", "--format", "halp", "--out", tmp_path / "l.json", "--json")
    )
    assert done.exit_code == 0, done.output
    found = HalpLookup(tmp_path / "l.json", 8)
    # The depthwise convolution of the first block, and the expansion of the second.
    assert found.latency(32, 32, 3, 112, 1, groups=32) == table.measured("span", (0, 1))[1]
    assert found.latency(16, 96, 1, 112, 1, groups=1) == table.measured("span", (2, 3))[1]
    said = json.loads(done.stdout)
    assert said["rows"] == len(found.table) and said["format"] == "halp"
    assert said["latency"] == "alone" and sum(one["rows"] for one in said["left_out"]) > 0


def test_a_table_of_spans_comes_back_from_kim_et_als_csv(tmp_path, network):
    table = saved(span_pieces(network("mobilenetv2_100"), mode="exact"), tmp_path / "table")
    path = tmp_path / "time.csv"
    done = run("export", tmp_path / "table", "--format", "kim", "--out", path)
    assert done.exit_code == 0, done.output
    spans = {row.span: row.latency_ms for row in table.rows if row.kind == "span"}
    assert f"{len(spans)} rows as kim: {path}" in done.stdout
    frame = pd.read_csv(path)
    assert dict(zip(zip(frame["st"], frame["end"], strict=True), frame["time"], strict=True)) == {
        span: pytest.approx(ms, rel=1e-12) for span, ms in spans.items()
    }
    given = ["--model", "mobilenetv2_100", "--device", "shed", "--runtime", "tensorrt"]
    given += ["--batch", "8", "--source", "me", "--licence", "MIT"]
    done = run("import", path, *given, "--out", tmp_path / "again")
    assert done.exit_code == 0, done.output
    again = load_table(tmp_path / "again")
    assert {row.span: row.latency_ms for row in again.rows} == spans


def test_pieces_of_another_network_have_no_place(tmp_path, network):
    pieces = network_pieces(network("mobilenetv2_100"), dense=False)
    saved(pieces, tmp_path / "table", model="mobilenetv2_035")
    done = run("export", tmp_path / "table", "--format", "ofa", "--out", tmp_path / "lut.yaml")
    assert isinstance(done.exception, TableFormatError)
    assert "the network that its name stands for now has another piece there" in str(done.exception)
    assert not (tmp_path / "lut.yaml").exists()


def test_layers_of_halp_are_imported_with_what_is_said_of_them(tmp_path):
    path = tmp_path / "lut.json"
    path.write_text(json.dumps({"256_64_64_56_3_1_1": 2.5, "256_3_64_224_7_2_1": 1.5}))
    given = ["--device", "titanv", "--runtime", "cudnn", "--source", "Shen et al., 2022"]
    done = run("import", path, *given, "--licence", "NVIDIA", "--out", tmp_path / "table")
    assert done.exit_code == 0, done.output
    assert "2 layers, published by others: Shen et al., 2022" in done.stdout
    table = load_layer_table(tmp_path / "table")
    assert (table.conditions.device, table.conditions.batch) == ("titanv", 256)
    assert [row.latency_ms for row in table.rows] == [2.5, 1.5]
    done = run("import", path, *given, "--out", tmp_path / "table")
    assert "lut.json: to import a file give --licence as well" in str(done.exception)
    done = run("import", path, "--model", "resnet50", "--out", tmp_path / "table")
    assert "holds layers, of no network: leave out --model" in str(done.exception)
    # And out again, as they were.
    run("export", tmp_path / "table", "--format", "halp", "--out", tmp_path / "again.json")
    assert json.loads((tmp_path / "again.json").read_text()) == json.loads(path.read_text())
