"""Published tables are read by key: every oracle here is the file itself, read in another way."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest

from latency_tables.errors import TableFormatError
from latency_tables.io import load_table, save_table
from latency_tables.opspec import Conv, OpSpec
from latency_tables.origin import Origin
from latency_tables.pieces import NetworkPieces, Piece
from latency_tables.published import (
    PublishedTable,
    find_published,
    join_published,
    published_tables,
)
from latency_tables.published_times import PublishedTimes, load_times
from latency_tables.schema import Conditions
from latency_tables.span_masks import SpanChain

SPANS = "id,st,end,time,stdev\n0,0,1,1.5,0.1\n1,0,2,2.25,\n2,1,2,0.5,0\n"
BLOCKS = "model,block,original_ms,merged_ms\ntoy,0,4.0,1.0\nother,0,9,9\ntoy,1,2,2.5\n"
ORIGIN = Origin(source="Somebody, 2020", licence="MIT", note="batch not stated")
CONDITIONS = Conditions(device="shed", runtime="tensorrt", runtime_version="8.2", batch=4)


def published(text: str, tmp_path: Path) -> PublishedTable:
    path = tmp_path / "theirs.csv"
    path.write_text(text, encoding="utf-8")
    return PublishedTable(
        name="theirs.csv",
        path=path,
        model="toy",
        resolution=(8, 8),
        conditions=CONDITIONS,
        origin=ORIGIN,
    )


def piece(kind: str, *, size: int = 1, **place: object) -> Piece:
    conv = Conv(inputs=(0,), out_channels=2, kernel=(size, size))
    spec = OpSpec(input_shape=(2, 8, 8), ops=(conv,))
    return Piece(kind=kind, layers=("first", "last"), spec=spec, **place)  # type: ignore[arg-type]


def chain_of_two() -> NetworkPieces:
    """Spans (0, 1], (1, 2], (0, 2], and a residual over the second convolution."""
    return NetworkPieces(
        model="toy",
        resolution=(8, 8),
        in_channels=2,
        block_names=("b",),
        pieces=(
            piece("stem"),
            piece("span", span=(0, 1)),
            piece("span", span=(0, 2), size=5),
            piece("span", span=(1, 2), size=3),
            piece("addition", span=(1, 2)),
            piece("head"),
        ),
        chain=SpanChain(convolutions=("c1", "c2"), mask="1|", skips=((1, 2),), block_ends=(2,)),
    )


def two_blocks() -> NetworkPieces:
    forms = [
        piece(kind, block=block) for block in (0, 1) for kind in ("original", "merged", "dense")
    ]
    return NetworkPieces(
        model="toy",
        resolution=(8, 8),
        in_channels=2,
        block_names=("a", "b"),
        pieces=(piece("stem"), *forms, piece("head")),
    )


@pytest.mark.parametrize("name", ["mobilenetv2_100", "mobilenetv2_140", "vgg19"])
def test_a_shipped_table_of_spans_has_the_numbers_of_its_file(name: str) -> None:
    table = find_published(f"published:kim2023_{name}")
    lines = list(csv.DictReader(table.path.read_text("utf-8").splitlines()))
    found = table.load_times()
    assert found.segments == "spans"
    assert {(t.place, t.latency_ms, t.stdev_ms) for t in found.times} == {
        (("span", (int(x["st"]), int(x["end"]))), float(x["time"]), float(x["stdev"]))
        for x in lines
    }


def test_a_shipped_table_of_blocks_has_the_rows_of_its_own_model() -> None:
    table = find_published("depthshrinker_efficientnet_lite0")
    found = table.load_times()
    lines = csv.DictReader(table.path.read_text("utf-8").splitlines())
    own = [line for line in lines if line["model"] == "tf_efficientnet_lite0"]
    assert found.segments == "blocks"
    assert {time.place: time.latency_ms for time in found.times} == {
        (kind, int(line["block"])): float(line[f"{kind}_ms"])
        for line in own
        for kind in ("original", "merged")
    }


def test_every_shipped_table_says_whose_it_is_and_what_is_only_inferred() -> None:
    assert len(published_tables()) == 6
    for name, table in published_tables().items():
        table.load_times()
        conditions = table.conditions
        assert conditions.device == "rtx2080ti"
        if name.startswith("kim2023"):
            file = table.path.name
            assert f"_{conditions.runtime}_{conditions.precision}_b{conditions.batch}_" in file
            assert "Kim et al." in table.origin.source and "MIT" in table.origin.licence
        else:
            assert conditions.batch == 1024 and "inferred" in table.origin.note
            assert "Fu et al." in table.origin.source


def test_an_unknown_name_is_answered_with_near_ones() -> None:
    with pytest.raises(TableFormatError, match=r"did you mean: published:kim2023_vgg19"):
        find_published("published:kim_vgg19")
    with pytest.raises(TableFormatError, match=r"known: published:kim2023_mobilenetv2_100, "):
        find_published("published:")


def test_latencies_are_joined_with_pieces_by_key(tmp_path: Path) -> None:
    theirs, pieces = published(SPANS, tmp_path), chain_of_two()
    table = join_published(theirs, theirs.load_times(), pieces, date="2026-11-21")
    assert {row.span: (row.latency_ms, row.stdev_ms, row.verdict) for row in table.rows} == {
        (0, 1): (1.5, 0.1, "published"),
        (0, 2): (2.25, None, "published"),
        (1, 2): (0.5, 0.0, "published"),
    }
    merged = table.row("span", (0, 2))
    spec = pieces.piece("span", (0, 2)).spec
    assert (merged.digest, merged.macs, merged.parameters) == (
        spec.digest,
        spec.macs,
        spec.parameters,
    )
    assert (merged.first_layer, merged.last_layer) == ("first", "last")
    assert (table.conditions, table.origin, table.model) == (CONDITIONS, ORIGIN, "toy")
    # What is published as T holds its additions: the sum must not ask for them.
    assert table.sum_ms("1|") == 2.0
    assert table.sum_ms("01") == 2.25
    assert not table.fit_for_search


def test_an_imported_table_survives_a_file(tmp_path: Path) -> None:
    theirs = published(SPANS, tmp_path)
    table = join_published(theirs, theirs.load_times(), chain_of_two())
    save_table(table, tmp_path / "table")
    assert load_table(tmp_path / "table") == table


def test_a_table_of_blocks_is_joined_too(tmp_path: Path) -> None:
    theirs = published(BLOCKS, tmp_path)
    table = join_published(theirs, theirs.load_times(), two_blocks())
    assert table.chain is None
    assert {(row.kind, row.block): row.latency_ms for row in table.rows} == {
        ("original", 0): 4.0,
        ("merged", 0): 1.0,
        ("original", 1): 2.0,
        ("merged", 1): 2.5,
    }


def test_a_time_that_is_a_sum_is_no_latency_of_its_span(tmp_path: Path) -> None:
    opt = 'st,end,time,stdev,breaks\n0,1,1.5,0.1,"0,1"\n0,2,2,0.1,"0,1,2"\n1,2,0.5,0,"1,2"\n'
    theirs = published(opt, tmp_path)
    table = join_published(theirs, theirs.load_times(), chain_of_two())
    assert {row.span: row.latency_ms for row in table.rows} == {(0, 1): 1.5, (1, 2): 0.5}
    assert table.warnings[0].startswith("no published latency for 1 of the spans")
    other = published(opt.replace("0,2,2,", "0,3,2,").replace("0,1,2", "0,1,2,3"), tmp_path)
    other.path.write_text(other.path.read_text() + '2,3,1,0,"2,3"\n')  # type: ignore[attr-defined]
    with pytest.raises(TableFormatError, match=r"theirs.csv has span 2-3, span 0-3, which toy"):
        join_published(other, other.load_times(), chain_of_two())


def test_spans_without_a_latency_are_counted(tmp_path: Path) -> None:
    theirs = published("st,end,time\n1,2,0.5\n0,1,1.5\n", tmp_path)
    table = join_published(theirs, theirs.load_times(), chain_of_two())
    assert table.warnings == (
        "no published latency for 1 of the spans that could merge: they stay unmerged",
    )
    assert [row.span for row in table.rows] == [(0, 1), (1, 2)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            SPANS + "3,1,3,1,1\n4,7,8,1,1\n",
            r"theirs.csv has span 1-3, span 7-8, which toy \(a chain of 2 convolutions\) does not",
        ),
        (
            "st,end,time\n0,1,1\n0,2,1\n",
            "theirs.csv has no span 1-2 of toy: every convolution needs",
        ),
    ],
)
def test_keys_that_do_not_fit_the_network_are_named(
    tmp_path: Path, text: str, message: str
) -> None:
    theirs = published(text, tmp_path)
    with pytest.raises(TableFormatError, match=message):
        join_published(theirs, theirs.load_times(), chain_of_two())


def test_blocks_that_do_not_fit_the_network_are_named(tmp_path: Path) -> None:
    more = published(BLOCKS + "toy,2,1,1\n", tmp_path)
    with pytest.raises(TableFormatError, match=r"block 2 original, .*\(2 blocks, numbered from 0"):
        join_published(more, more.load_times(), two_blocks())
    fewer = published("model,block,original_ms,merged_ms\ntoy,1,2,2.5\n", tmp_path)
    with pytest.raises(TableFormatError, match="no block 0 original of toy: every block needs"):
        join_published(fewer, fewer.load_times(), two_blocks())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty file"),
        ("st,end,time\n", "no rows below the header"),
        ("st,end,time\n0,1\n", "line 2: 2 values for 3 columns"),
        ("st,end,time\n0,1,1,5\n", "line 2: 4 values for 3 columns (cut off, or a decimal comma?)"),
        ("st,end,end\n0,1,1\n", "line 1: column end is given twice"),
        ("st,end,ms\n0,1,1\n", "line 1: missing column time"),
        (
            "st,end,time,breaks\n0,1,1,2\n",
            "line 2: breaks must be positions from 0 to 1, as in 0,1",
        ),
        ('st,end,time,breaks\n0,2,1,"0,2,1,2"\n', "line 2: breaks must be positions from 0 to 2"),
        (
            'st,end,time,breaks\n0,1,1,"0,1"\n0,2,2,"0,1,2"\n',
            "line 3: span 1-2, one of its convolutions by breaks, has no latency of its own",
        ),
        ("model,block,ms\na,0,1\n", "line 1: missing columns original_ms, merged_ms"),
        ("st,end,time\n0,1,1\n0,2,2\n0,1,1\n", "line 4: span 0-1 is a duplicate of line 2"),
        ("st,end,time\n1,1,1\n", "line 2: st must be smaller than end 1"),
        ("st,end,time\n-1,1,1\n", "line 2: st must be a whole number, 0 or more, got -1"),
        ("st,end,time\n0,1.5,1\n", "line 2: end must be a whole number, 0 or more, got 1.5"),
        ("st,end,time\n0,1,0\n", "line 2: time must be a finite number above 0, got 0"),
        ("st,end,time\n0,1,nan\n", "time must be a finite number above 0, got nan"),
        ("st,end,time\n0,1,1_0\n", "time must be a finite number above 0, got 1_0"),
        ("st,end,time,stdev\n0,1,1,-1\n", "stdev must be 0 or more, got -1"),
        ('st,end,time\n0,1,"1\n', "not CSV"),
        (BLOCKS.replace("toy", "else"), "no rows of toy, only of else, other"),
        (BLOCKS + "toy,1,2,2\n", "line 5: block 1 original is a duplicate of line 4"),
        (
            BLOCKS.replace("4.0", "fast"),
            "line 2: original_ms must be a finite number above 0, got fast",
        ),
    ],
)
def test_a_broken_file_is_one_line_with_the_place(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(TableFormatError) as error:
        times_of(text, tmp_path, "toy")
    assert str(error.value).startswith("theirs.csv: ") and message in str(error.value)
    assert "\n" not in str(error.value)


def times_of(text: str, folder: Path, model: str = "") -> PublishedTimes:
    file = folder / "theirs.csv"
    file.write_text(text)
    return load_times(file, file.name, model)


def test_without_a_network_only_spans_will_do(tmp_path: Path) -> None:
    assert len(times_of(SPANS, tmp_path).times) == 3
    with pytest.raises(TableFormatError, match=r"theirs.csv: holds blocks, where spans are needed"):
        times_of(BLOCKS, tmp_path)


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    missing = replace(published(SPANS, tmp_path), path=tmp_path / "none.csv")
    with pytest.raises(TableFormatError, match=r"theirs.csv: no such file: .*published:NAME"):
        missing.load_times()
    missing.path.write_bytes(b"\xff\xfe\x00")  # type: ignore[attr-defined]
    with pytest.raises(TableFormatError, match=r"theirs.csv: cannot be read as text"):
        missing.load_times()
