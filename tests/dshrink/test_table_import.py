"""``dshrink table import``: the origin stays with the table, and its keys fit a real network."""

from __future__ import annotations

import csv
import json

import pytest
from typer.testing import CliRunner

from dshrink.cli.table import app
from dshrink.errors import DshrinkError
from latency_tables.errors import TableFormatError
from latency_tables.io import load_table
from latency_tables.published import find_published

OPTIONS = {
    "--model": "mobilenetv2_100",
    "--device": "shed",
    "--runtime": "tensorrt",
    "--batch": 8,
    "--source": "Somebody, 2020",
    "--licence": "MIT",
}


@pytest.fixture(autouse=True)
def _shared_networks(monkeypatch, network):
    monkeypatch.setattr(
        "dshrink.network.models.load_network", lambda name, resolution: network(name)
    )


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def flat(options):
    return [part for pair in options.items() for part in pair]


def test_a_shipped_table_is_imported_by_its_name_alone(tmp_path):
    done = run("import", "published:kim2023_mobilenetv2_100", "--out", tmp_path / "table")
    assert done.exit_code == 0, done.output
    assert "171 rows of 115 pieces: 171 published" in done.stdout
    table = load_table(tmp_path / "table")
    published = find_published("kim2023_mobilenetv2_100")
    assert (table.conditions, table.origin) == (published.conditions, published.origin)
    lines = csv.DictReader(published.path.read_text("utf-8").splitlines())
    theirs = {(int(line["st"]), int(line["end"])): float(line["time"]) for line in lines}
    assert {row.span: row.latency_ms for row in table.rows} == theirs
    # The whole network is its convolutions one by one, as published.
    single = sum(theirs[i, i + 1] for i in range(50))
    assert table.sum_ms(table.forms.base) == pytest.approx(single, rel=1e-12)
    assert table.chain.block_ends[-1] == table.chain.length == 50
    done = run("show", tmp_path / "table")
    assert done.exit_code == 0, done.output
    assert "published" in done.stdout and "Kim et al." in done.stdout


def test_published_blocks_are_imported_too(tmp_path):
    done = run("import", "published:depthshrinker_mobilenetv2_100", "--out", tmp_path, "--json")
    assert done.exit_code == 0, done.output
    rows = json.loads(done.stdout)["rows"]
    assert len(rows) == 34 and {row["verdict"] for row in rows} == {"published"}
    table = load_table(tmp_path)
    assert table.measured("merged", 3)[1] < table.measured("original", 3)[1]


def test_a_file_of_ones_own_is_imported_with_what_is_said_of_it(tmp_path):
    path = tmp_path / "own.csv"
    path.write_text("st,end,time\n" + "".join(f"{i},{i + 1},1.5\n" for i in range(50)))
    options = {**OPTIONS, "--runtime-version": "8.2", "--precision": "fp16", "--note": "by hand"}
    done = run("import", path, *flat(options), "--out", tmp_path / "table")
    assert done.exit_code == 0, done.output
    table = load_table(tmp_path / "table")
    c = table.conditions
    found = (c.device, c.runtime, c.runtime_version, c.precision, c.batch)
    assert found == ("shed", "tensorrt", "8.2", "fp16", 8)
    assert (table.origin.source, table.origin.licence) == ("Somebody, 2020", "MIT")
    assert table.origin.note == "by hand"
    assert table.sum_ms(table.forms.base) == 75


def test_conditions_are_given_once_and_in_full(tmp_path):
    out = ("--out", tmp_path / "table")
    done = run("import", "published:kim2023_vgg19", "--batch", 64, "--device", "x", *out)
    assert isinstance(done.exception, DshrinkError)
    assert "has its own conditions: leave out --device, --batch" in str(done.exception)
    for lacking in OPTIONS:
        given = {name: value for name, value in OPTIONS.items() if name != lacking}
        done = run("import", tmp_path / "own.csv", *flat(given), *out)
        assert str(done.exception).endswith(f"to import a file give {lacking} as well")
    done = run("import", tmp_path / "own.csv", *flat(OPTIONS), *out)
    assert isinstance(done.exception, TableFormatError)
    assert "no such file" in str(done.exception)
    assert not (tmp_path / "table").exists()
