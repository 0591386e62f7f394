from __future__ import annotations

import re
from dataclasses import replace

import pytest
from synthetic_tables import CONDITIONS, synthetic_row, synthetic_table, without_networks

from latency_tables.errors import MaskError, MissingPieceError, TableFormatError
from latency_tables.forms import merged_kind
from latency_tables.masks import check_padding
from latency_tables.predictor import predict
from latency_tables.table import LatencyTable


def table() -> LatencyTable:
    return synthetic_table([1.0, 2.0, 4.0], [0.5, None, 3.0], bias_map_ms={2: 3.25})


def without(kind: str, block: int | None) -> LatencyTable:
    rows = tuple(row for row in table().rows if (row.kind, row.block) != (kind, block))
    return replace(table(), rows=rows)


def failing(kind: str, block: int | None) -> LatencyTable:
    failed = synthetic_row(kind, block, latency_ms=None, reason="out of memory")
    rows = tuple(failed if (r.kind, r.block) == (kind, block) else r for r in table().rows)
    return replace(table(), rows=rows)


def test_blocks_that_cannot_merge_are_not_mergeable() -> None:
    assert table().mergeable == (0, 2)


def test_the_sum_takes_fixed_pieces_and_one_form_a_block() -> None:
    assert table().sum_ms("111") == 1 + 1 + 1 + 2 + 4
    assert table().sum_ms("010", "repad") == 1 + 1 + 0.5 + 2 + 3
    assert table().sum_ms("010", "interior") == 1 + 1 + 0.5 + 2 + 3


def test_bias_map_rows_serve_blocks_that_have_one_and_merged_rows_the_others() -> None:
    assert table().sum_ms("010", "bias_map") == 1 + 1 + 0.5 + 2 + 3.25
    assert merged_kind(table().by_place, 0, "bias_map") == "merged"
    assert merged_kind(table().by_place, 2, "bias_map") == "merged_bias_map"


def test_pieces_between_blocks_are_part_of_every_sum() -> None:
    between = synthetic_row("between", 1, latency_ms=0.125, macs=7)
    longer = replace(table(), rows=(*table().rows, between))
    assert longer.sum_ms("111") == 9.125
    assert longer.macs("111") == table().macs("111") + 7


def test_dense_counterparts_are_part_of_no_sum() -> None:
    dense = synthetic_row("dense", 1, latency_ms=100.0, macs=7)
    longer = replace(table(), rows=(*table().rows, dense))
    assert longer.sum_ms("110") == table().sum_ms("110")
    assert longer.macs("110") == table().macs("110")


def test_macs_follow_the_mask() -> None:
    assert table().macs("111") == 1000 + 1000 + (1000 + 1100 + 1200)
    assert table().macs("110", "repad") == 1000 + 1000 + (1000 + 1100 + 2200)
    assert table().macs("110", "bias_map") == 1000 + 1000 + (1000 + 1100 + 2000)


def test_saving_is_original_less_merged() -> None:
    bare = without_networks(table())
    assert bare.saving_ms(0) == 0.5
    assert bare.saving_ms(2) == 0.75
    assert bare.saving_ms(2, "repad") == 1.0


def test_a_saving_is_that_in_the_network_where_networks_say_so() -> None:
    made = synthetic_table([1.0, 2.0], [0.5, 1.5], slope=1.2)
    assert made.saving_ms(0) == pytest.approx(0.6, abs=1e-5)
    assert made.saving_ms(1) == pytest.approx(0.6, abs=1e-5)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ("11", "2 characters, synthetic has 3 blocks"),
        ("1111", "4 characters"),
        ("", "0 characters"),
        ("1x1", "'x' is neither 1"),
        ("101", r"shrinks block 1 \(blocks.1\), which cannot merge: made up"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused(mask: str, message: str) -> None:
    with pytest.raises(MaskError, match=message):
        table().sum_ms(mask)


def test_an_unknown_padding_is_refused() -> None:
    with pytest.raises(MaskError, match="unknown padding 'zero'; use one of bias_map, repad"):
        table().sum_ms("111", "zero")
    with pytest.raises(MaskError):
        check_padding("")


@pytest.mark.parametrize(
    ("kind", "block", "name"),
    [
        ("original", 1, "'block 1 original'"),
        ("merged", 0, "'block 0 merged'"),
    ],
)
def test_a_missing_piece_is_an_error_that_names_it_and_the_command(
    kind: str, block: int | None, name: str
) -> None:
    with pytest.raises(MissingPieceError) as caught:
        without(kind, block).sum_ms("011")
    message = str(caught.value)
    assert name in message
    assert "dshrink profile synthetic --device nowhere --runtime synthetic" in message
    assert "\n" not in message


def test_a_failed_piece_is_found_but_has_no_latency() -> None:
    failed = failing("merged", 0)
    assert failed.row("merged", 0).verdict == "failed"
    assert failed.sum_ms("111") == 9
    with pytest.raises(MissingPieceError, match=r"its measurement failed \(out of memory\)"):
        failed.sum_ms("011")


def test_a_failed_bias_map_is_not_replaced_by_the_merged_row() -> None:
    with pytest.raises(MissingPieceError, match="block 2 merged bias map"):
        failing("merged_bias_map", 2).sum_ms("110", "bias_map")


def test_the_command_repeats_the_conditions() -> None:
    conditions = replace(CONDITIONS, precision="fp16", batch=8, threads=2)
    command = replace(table(), conditions=conditions, resolution=(160, 320)).profile_command
    assert command == (
        "dshrink profile synthetic --device nowhere --runtime synthetic --precision fp16 "
        "--batch 8 --threads 2 --resolution 160x320 --out DIR"
    )


def test_a_good_table_is_fit_for_search() -> None:
    assert table().fit_for_search
    assert table().fit_reason == ""


@pytest.mark.parametrize(
    ("unfit", "reason"),
    [
        (without_networks(table()), "no whole network was measured: its sums"),
        (without_networks(table(), role="check"), "no hold-out check"),
        (
            synthetic_table([1.0, 2.0], [0.5, 1.0], hold_out_errors_percent=[2.5, -2.5]),
            r"off by 2.50 % on held-out networks \(MAPE; at most 2 %",
        ),
        (failing("original", 0), "block 0 original"),
        (failing("stem", None), "stem"),
        (failing("merged", 2), "block 2 merged"),
        (failing("merged_bias_map", 2), "block 2 merged bias map"),
        (without("merged", 0), "block 0 merged"),
    ],
)
def test_an_unfit_table_says_why(unfit: LatencyTable, reason: str) -> None:
    assert not unfit.fit_for_search
    assert re.search(reason, unfit.fit_reason)


def test_a_failed_dense_counterpart_does_not_matter() -> None:
    dense = synthetic_row("dense", 1, latency_ms=None)
    assert replace(table(), rows=(*table().rows, dense)).fit_for_search


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": ()}, "at least one row"),
        ({"model": ""}, "name of its model"),
        ({"resolution": (0, 224)}, "must be positive"),
        ({"block_names": ("a", "a", "b")}, "two blocks share a name"),
        ({"block_names": ("a", "b")}, "block 2 original' belongs to a block that does not exist"),
        ({"unmergeable": {3: "swish"}}, "block 3 does not exist"),
        ({"unmergeable": {0: "swish"}}, r"its block cannot merge \(swish\)"),
        ({"rows": (*table().rows, synthetic_row("stem"))}, "'stem' is duplicated"),
        ({"fingerprint": {"load": float("nan")}}, "fingerprint is not JSON data"),
        ({"boards": ({"at": object()},)}, "boards is not JSON data"),
    ],
)
def test_a_table_that_contradicts_itself_is_refused(
    changes: dict[str, object], message: str
) -> None:
    bare = without_networks(table())
    with pytest.raises(TableFormatError, match=message):
        replace(bare, **changes)


def test_networks_must_fit_the_blocks() -> None:
    other = synthetic_table([1.0, 2.0], [0.5, 1.5])
    with pytest.raises(MaskError):
        replace(table(), networks=other.networks)


def test_networks_of_a_failed_piece_say_nothing_and_the_others_do() -> None:
    failed = failing("merged", 0)
    assert 0 < len(failed.known_networks) < len(table().networks)
    assert all(network.keep_mask[0] == "1" for network in failed.known_networks)
    assert predict(failed, "110").latency_ms == pytest.approx(
        predict(table(), "110").latency_ms, rel=1e-4
    )


def test_costs_in_the_network_add_up_to_its_latency() -> None:
    made = table()
    assert predict(made, "010").latency_ms == pytest.approx(
        sum(made.row(*place).in_network_ms or 0 for place in made.places("010"))
    )
    assert predict(made, "111").latency_ms == pytest.approx(made.base_ms, rel=1e-4)
    other = synthetic_table([1.0, 2.0], [0.5, 1.5], offset_ms=1.0)
    assert other.cost_ms("stem") > other.measured("stem")[1] == 1.0


@pytest.mark.parametrize(
    ("kept", "note"),
    [
        (0, "no whole network was measured: each piece counts as much as alone"),
        (1, "only 1 whole network could be used: costs in the network are nearly those of pieces"),
        (2, "only 2 whole networks could be used: "),
        (3, ""),
    ],
)
def test_thin_data_are_noted(kept: int, note: str) -> None:
    made = replace(table(), networks=table().networks[:kept])
    assert re.fullmatch(f"{note}.*" if note else "", made.data_note)


def test_a_network_that_cannot_merge_is_noted() -> None:
    made = synthetic_table([1.0, 2.0], [None, None])
    assert made.data_note.startswith("nothing can merge: there is one network only; only 1 whole")
    assert predict(made, "11").latency_ms == pytest.approx(made.base_ms, rel=1e-4)


def test_the_digest_changes_with_any_row_and_with_the_conditions() -> None:
    changed = synthetic_table([1.0, 2.0, 4.5], [0.5, None, 3.0], bias_map_ms={2: 3.25})
    other = replace(table(), conditions=replace(CONDITIONS, batch=2))
    fewer = without_networks(table(), role="check")
    assert len({table().digest, changed.digest, other.digest, fewer.digest}) == 4
    assert fewer.rows_digest == table().rows_digest != changed.rows_digest
    assert replace(table(), date="2024-01-01").digest == table().digest
