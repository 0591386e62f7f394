"""Keep masks of results against their networks, of which a spreadsheet leaves no trace."""

from __future__ import annotations

from pathlib import Path

import pytest

from dshrink.network import models
from dshrink.network.models import Network
from dshrink.operations.result_masks import check_masks
from dshrink.results import BenchmarkResult, ResultsError, load_results, save_results

MODEL = "mobilenetv2_035"


def result(network: str, mask: str, model: str = MODEL) -> BenchmarkResult:
    return BenchmarkResult(
        network=network,
        model=model,
        keep_mask=mask,
        kept_blocks=mask.count("1") if mask and "|" not in mask else None,
        device="d",
        runtime="r",
        precision="fp32",
        batch=1,
        threads=1,
        throughput_fps=1.0,
        throughput_low_fps=1.0,
        throughput_high_fps=1.0,
    )


def check(folder: Path, *results: BenchmarkResult) -> None:
    save_results(results, folder / "r.csv")
    check_masks(load_results(folder / "r.csv"))


def test_a_mask_that_lost_its_zeros_is_refused_by_its_networks_blocks(tmp_path: Path) -> None:
    check(tmp_path, result("plan.onnx", "1" * 13 + "0000"))
    with pytest.raises(ResultsError) as caught:
        check(tmp_path, result("a.onnx", "", ""), result("plan.onnx", "1" * 13))
    assert "r.csv: line 3 (plan.onnx): keep_mask 1111111111111 has 13" in str(caught.value)
    assert f"{MODEL} has 17 blocks" in str(caught.value)


def test_masks_of_one_network_have_one_length(tmp_path: Path) -> None:
    check(tmp_path, result(MODEL, "111"), result("a", "011"), result("b", "1|01|"))
    with pytest.raises(ResultsError, match=r"line 3 \(a\): keep_mask 11 has 2 .* line 2 has 3"):
        check(tmp_path, result(MODEL, "111"), result("a", "11"))


def test_networks_are_made_only_where_zeros_may_be_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> Network:
        raise AssertionError("a network was made")

    monkeypatch.setattr(models, "load_network", refused)
    check(tmp_path, result("a", "011"), result("b", "110"))
    check(tmp_path, result(MODEL, "111"), result("b", "110"))
    check(tmp_path, result("a", "1|01|"), result("a.onnx", "", ""))
    check(tmp_path, result("a", "11", "net.py:make"))
    with pytest.raises(AssertionError, match="was made"):
        check(tmp_path, result("a", "11"))


def test_what_no_library_has_is_not_checked(tmp_path: Path) -> None:
    check(tmp_path, result("a", "11", "no_such_network"))
