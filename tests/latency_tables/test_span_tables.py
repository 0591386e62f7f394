import json
import re
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import pytest
from synthetic_tables import synthetic_row, synthetic_span_table, synthetic_table

from latency_tables.compare import compare
from latency_tables.errors import (
    LatencyTableError,
    MaskError,
    MissingPieceError,
    PieceError,
    TableFormatError,
)
from latency_tables.io import load_table, save_table
from latency_tables.origin import Origin
from latency_tables.predictor import predict
from latency_tables.schema import Row
from latency_tables.span_masks import (
    INVALID,
    NO_ROW,
    SpanChain,
    SpanChoice,
    check_span_mask,
    mask_spans,
)
from latency_tables.table import LatencyTable

#: Four convolutions, a skip around 2 and 3; (1, 4] would cut through it.
SPANS = {
    (0, 1): 1.0,
    (1, 2): 2.0,
    (2, 3): 4.0,
    (3, 4): 8.0,
    (0, 2): 0.5,
    (1, 3): 5.0,
    (0, 3): 16.0,
    (0, 4): 40.0,
}
ADDITION_MS, FIXED_MS, BETWEEN_MS = 0.25, 32.0, 0.125
WHY = "after 1 of 3 rounds it takes 40 ms, more than 2 times the 15.25 ms of its layers"


def table(**changes: Any) -> LatencyTable:
    wanted = {
        "mask": "1|11",
        "skips": [(1, 3)],
        "block_ends": [3],
        "addition_ms": ADDITION_MS,
        "fixed_ms": FIXED_MS,
        "between_ms": {3: BETWEEN_MS},
        "bounded": {(0, 4): WHY},
    }
    return synthetic_span_table(SPANS, **{**wanted, **changes})


def published() -> LatencyTable:
    rows = [published_row((i, j), ms) for (i, j), ms in SPANS.items()]
    return replace(
        table(),
        rows=tuple(rows),
        networks=(),
        estimate=None,
        origin=Origin(source="Kim et al. (ICML 2023), code", licence="MIT", note="RTX 2080 Ti"),
    )


def published_row(span: tuple[int, int], ms: float, **changes: Any) -> Row:
    row = synthetic_row("span", span, latency_ms=None)
    facts = {"latency_ms": ms, "stdev_ms": 0.1, "reason": "", "digest": "", "macs": 0}
    return replace(row, **{**facts, "verdict": "published", **changes})


def by_hand(cuts: tuple[int, ...]) -> float:
    """The sum of the network cut there, added up without the package."""
    spans = list(pairwise((0, *cuts)))
    real_addition = not any(i <= 1 and j >= 3 for i, j in spans)
    return (
        sum(SPANS[span] for span in spans)
        + 2 * FIXED_MS
        + sum([ADDITION_MS * real_addition, BETWEEN_MS * (3 in cuts)])
    )


@pytest.mark.parametrize(
    ("mask", "cuts"),
    [
        ("1|11", (1, 2, 3, 4)),
        ("1111", (1, 2, 3, 4)),
        ("0111", (2, 3, 4)),
        ("1011", (1, 3, 4)),
        ("00||", (3, 4)),
    ],
)
def test_a_sum_is_of_spans_fixed_pieces_and_the_additions_that_stay(
    mask: str, cuts: tuple[int, ...]
) -> None:
    assert table().sum_ms(mask) == by_hand(cuts)
    assert table().sum_ms(mask, "interior") == table().sum_ms(mask, "repad") == by_hand(cuts)


def test_a_mask_is_refused_unless_all_its_spans_have_a_row() -> None:
    made = table()
    for signs in product("1|0", repeat=4):
        mask = "".join(signs)
        known = mask[-1] != "0" and all(span in SPANS for span in mask_spans(mask))
        if known:
            made.check_mask(mask)
        else:
            with pytest.raises(MaskError, match=f"span mask '{mask}'".replace("|", r"\|")):
                made.check_mask(mask)
    with pytest.raises(
        MaskError, match=r"convs\.1 \.\. convs\.3 of synthetic.*hard break or the end"
    ):
        made.check_mask("1001")
    with pytest.raises(MaskError, match="has 3 characters, the chain of synthetic has 4"):
        made.check_mask("111")


def test_a_span_without_a_row_is_not_called_invalid() -> None:
    chain = table().chain
    assert chain is not None
    for absent, part in ((INVALID, "cannot be: it crosses a hard break"), (NO_ROW, "no row of it")):
        with pytest.raises(MaskError, match=part):
            check_span_mask("1001", chain, SPANS, absent=absent)
    assert INVALID in NO_ROW
    assert "--span-mode exact" in NO_ROW


@pytest.mark.parametrize(
    ("spans", "words"),
    [
        (None, ""),
        (SpanChoice(mode="kim2023"), " --span-mode kim2023"),
        (SpanChoice(mode="exact", max_kernel=7), " --span-mode exact --max-kernel 7"),
    ],
)
def test_the_command_of_a_span_table_repeats_what_was_asked_for(
    spans: SpanChoice | None, words: str, tmp_path: Path
) -> None:
    save_table(replace(table(), spans=spans), tmp_path)
    found = load_table(tmp_path)
    assert found.spans == spans
    assert found.profile_command.endswith(f" --segments spans{words} --out DIR")


def test_a_span_that_cannot_merge_is_refused_with_its_reason() -> None:
    made = replace(table(), unmergeable={(1, 4): "grouped"})
    with pytest.raises(MaskError, match="which cannot be: grouped"):
        made.check_mask("1001")
    with pytest.raises(TableFormatError, match=r"row 'span 0-2' contradicts the table.*grouped"):
        replace(table(), unmergeable={(0, 2): "grouped"})
    with pytest.raises(TableFormatError, match="unmergeable: 1 should be a span"):
        replace(table(), unmergeable={1: "grouped"})
    with pytest.raises(TableFormatError, match=r"unmergeable: \(0, 2\) should be a block"):
        replace(synthetic_table([1.0], [0.5]), unmergeable={(0, 2): "grouped"})


def test_a_span_table_comes_back_as_it_was(tmp_path: Path) -> None:
    made = replace(table(), unmergeable={(1, 4): "grouped", (0, 9): "too"})
    save_table(made, tmp_path)
    found = load_table(tmp_path)
    assert found == made
    assert found.chain == SpanChain(
        convolutions=("convs.0", "convs.1", "convs.2", "convs.3"),
        mask="1|11",
        skips=((1, 3),),
        block_ends=(3,),
    )
    assert found.row("span", (0, 3)).place == ("span", (0, 3))
    assert found.row("between", (3, 3)).piece == "between 3"
    header, *lines = (tmp_path / "table.csv").read_text().splitlines()
    assert header.endswith(",start,end,stdev_ms,conditions")
    assert sum(",0,3,," in line for line in lines) == 1


def test_a_table_of_spans_has_no_price_for_bias_maps() -> None:
    with pytest.raises(
        MaskError, match=r"bias_map: a table of spans .* ask for padding repad or interior"
    ):
        predict(table(), "0111", "bias_map")
    base = table().chain.mask
    assert predict(table(), base, "bias_map").plain_sum_ms == predict(table(), base).plain_sum_ms


def test_a_bounded_row_is_in_no_prediction_and_harms_no_other(tmp_path: Path) -> None:
    save_table(table(), tmp_path)
    made = load_table(tmp_path)
    row = made.row("span", (0, 4))
    assert (row.latency_ms, row.is_measured, row.verdict) == (40.0, False, "bounded")
    with pytest.raises(MissingPieceError, match="'span 0-4', which is bounded: after 1 of 3"):
        predict(made, "0001")
    assert made.fit_for_search
    assert predict(made, "0111").latency_ms == pytest.approx(by_hand((2, 3, 4)))
    unbuilt = replace(
        synthetic_row("span", (0, 4), latency_ms=None, reason="too many weights"),
        verdict="bounded",
    )
    never = replace(made, rows=tuple(unbuilt if r.span == (0, 4) else r for r in made.rows))
    assert never.fit_for_search
    with pytest.raises(MissingPieceError, match="which is bounded: too many weights"):
        never.measured("span", (0, 4))
    with pytest.raises(TableFormatError, match="a row that is bounded needs a reason"):
        replace(row, reason="")


@pytest.mark.parametrize(
    ("lost", "part"),
    [("span 1-2", r"\(positions 2 to 2\)"), ("addition 1-3", "no row for 'addition 1-3'")],
)
def test_a_table_without_a_layer_or_an_addition_is_not_fit_for_search(lost: str, part: str) -> None:
    made = replace(table(), networks=())
    place = next(row.place for row in made.rows if row.piece == lost)
    kept = replace(made, rows=tuple(row for row in made.rows if row.place != place))
    with pytest.raises(MissingPieceError, match=rf"no row for '{lost}'.*--segments spans"):
        kept.measured(*place)
    assert kept.missing_row
    assert re.search(part, kept.fit_reason)


def test_a_merged_span_that_failed_spoils_no_table() -> None:
    made = synthetic_span_table({**SPANS, (0, 2): None}, mask="1|11", skips=[(1, 3)])
    assert made.fit_for_search
    with pytest.raises(MissingPieceError, match="its measurement failed"):
        made.sum_ms("0111")


def test_the_prediction_of_a_span_mask_is_for_moved_padding() -> None:
    assert predict(table(), "0111").padding == "repad"
    assert predict(table(), "0111", "interior").padding == "interior"
    assert predict(synthetic_table([2.0], [1.0]), "0").padding == "bias_map"


def test_a_span_table_has_no_blocks_to_shrink() -> None:
    assert replace(table(), block_names=("a",)).mergeable == ()


def row_with(**changes: Any) -> Callable[[], object]:
    return lambda: replace(synthetic_row("span", (0, 2)), **changes)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (row_with(start=2, end=2, piece="span 2-2"), "needs its span"),
        (row_with(start=None, end=None), "needs its span"),
        (row_with(end=None), "belong together"),
        (row_with(block=1), "belong together, and a row has either"),
        (row_with(end=3), "'span 0-2' should be named 'span 0-3' for its kind and span"),
        (row_with(kind="merged"), "cannot be at the span"),
        (row_with(stdev_ms=0.1), "a ok row has no stdev_ms"),
        (row_with(digest=""), "is not 16 hex digits"),
        (lambda: published_row((0, 1), 1.0, low_ms=0.9), "a published row has no low_ms"),
        (lambda: published_row((0, 1), 1.0, samples=3), "has no samples of ours"),
        (lambda: published_row((0, 1), -1.0), "latency_ms must be above 0"),
        (lambda: published_row((0, 1), 1.0, stdev_ms=-1.0), "stdev_ms must be 0 or more"),
        (lambda: Origin(source="", licence="MIT"), "source must be one line of text"),
        (lambda: Origin(source="a\nb", licence="MIT"), "source must be one line of text"),
        (lambda: replace(table(), origin=published().origin), "published rows, and no others"),
        (lambda: replace(published(), origin=None), "published rows, and no others"),
        (lambda: replace(table(), chain=None, block_names=("a",)), "belongs to a chain"),
        (
            lambda: replace(table(), rows=(*table().rows, synthetic_row("original", 0))),
            "belongs to a block, and synthetic is cut into spans",
        ),
        (
            lambda: replace(table(), rows=(*table().rows, synthetic_row("span", (3, 9)))),
            "leaves the chain of synthetic, which has 4",
        ),
        (
            lambda: replace(table(), rows=(*table().rows, synthetic_row("addition", (0, 2)))),
            "belongs to no skip",
        ),
        (
            lambda: replace(table(), rows=(*table().rows, synthetic_row("span", (0, 2)))),
            "'span 0-2' is duplicated",
        ),
    ],
)
def test_rows_that_make_no_sense_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises((TableFormatError, PieceError), match=message):
        make()


def test_a_published_table_says_so_and_is_not_fit_for_search(tmp_path: Path) -> None:
    save_table(published(), tmp_path)
    found = load_table(tmp_path)
    assert found == published()
    assert found.row("span", (0, 2)).stdev_ms == 0.1
    assert not found.fit_for_search
    assert found.fit_reason.endswith(
        "published by others, not measured here: Kim et al. (ICML 2023), code"
    )
    assert found.profile_command.startswith("(published, not measured here: Kim et al.")
    with pytest.raises(MissingPieceError, match="'addition 1-3'; it was published so: Kim et al"):
        found.sum_ms("1|11")
    bare = replace(found, chain=replace(found.chain, skips=()) if found.chain else None)
    assert predict(bare, "00|1").plain_sum_ms == SPANS[0, 3] + SPANS[3, 4]


def test_published_rows_have_no_interval_to_compare_by() -> None:
    measured = table()
    digests = {row.place: row.digest for row in measured.rows}
    theirs = published()
    rows = tuple(replace(row, digest=digests[row.place]) for row in theirs.rows)
    found = compare(replace(theirs, rows=rows), measured)
    assert {row.verdict for row in found.rows} == {"unknown"}
    assert {row.span for row in found.rows} == set(SPANS) - {(0, 4)}
    assert found.failed == ("span 0-4",)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("chain", {"convolutions": ["a"]}, "field 'mask' is missing"),
        ("chain", 3, "chain"),
        ("spans", {"mode": "exact"}, "'max_kernel' is missing"),
        ("spans", {"mode": "exact", "max_kernel": 0}, "a largest kernel of 1 or more"),
        ("spans", {"mode": "exact", "max_kernel": 3, "by": 1}, "unknown field 'by'"),
        ("origin", {"source": "x", "licence": "MIT", "note": "", "by": "y"}, "unknown field 'by'"),
        ("unmergeable", {"3-": "x"}, "'3-' is not the number of a block, nor a span"),
        ("unmergeable", {"1-2-3": "x"}, "is not the number of a block, nor a span"),
    ],
)
def test_a_sidecar_that_makes_no_sense_is_refused(
    field: str, value: object, message: str, tmp_path: Path
) -> None:
    save_table(table(), tmp_path)
    path = tmp_path / "table.json"
    data = json.loads(path.read_text())
    data[field] = value
    path.write_text(json.dumps(data))
    with pytest.raises(LatencyTableError, match=message):
        load_table(tmp_path)


def test_a_chain_with_odd_skips_is_refused(tmp_path: Path) -> None:
    save_table(table(), tmp_path)
    path = tmp_path / "table.json"
    for skips, message in (
        ([[1]], "a list of length 2"),
        ([[1, True]], "must be an integer"),
        ([[3, 9]], "leaves"),
    ):
        data = json.loads(path.read_text())
        data["chain"]["skips"] = skips
        path.write_text(json.dumps(data))
        with pytest.raises(LatencyTableError, match=message):
            load_table(tmp_path)
