"""The page of the paper's experiments: results of different conditions are kept apart."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "paper_page.py"
V100 = {
    **{"device": "v100", "runtime": "pytorch", "precision": "fp32", "launch": "plain"},
    **{"clock": "cuda_events", "batch": 128},
}


@pytest.fixture
def paper_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, which keeps its results in the test's folder."""
    spec = importlib.util.spec_from_file_location("paper_page", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "HERE", tmp_path)
    monkeypatch.setattr(module, "RESULTS", tmp_path / "kept")
    return module


def written(folder: Path, name: str, data: dict[str, Any]) -> Path:
    """What ``dshrink paper`` leaves in a folder, as far as the page looks at it."""
    folder.mkdir(exist_ok=True)
    whole = {"experiment": name, "dshrink": "0.1.0", "date": "2026-11-30T01:02:03+00:00", **data}
    (folder / f"{name}.json").write_text(json.dumps(whole))
    (folder / f"{name}.md").write_text(f"# Heading of {name}\n\nText.\n")
    (folder / f"{name}_batch128.png").write_bytes(b"")
    return folder


def table2(folder: Path, **conditions: Any) -> Path:
    run = {
        "conditions": {**V100, **conditions},
        "fingerprint": {"gpu": {"name": "Tesla V100-SXM2"}, "cpu_model": "Xeon"},
    }
    return written(folder, "table2", {"runs": [run]})


def test_runtimes_precisions_and_launch_modes_of_a_device_stand_side_by_side(
    paper_page: ModuleType, tmp_path: Path
) -> None:
    for number, more in enumerate(
        ({}, {"launch": "cuda_graph"}, {"precision": "fp16"}, {"runtime": "tensorrt"})
    ):
        paper_page.take(table2(tmp_path / str(number), **more))

    assert sorted(path.name for path in paper_page.RESULTS.iterdir()) == [
        "v100_pytorch_fp16", "v100_pytorch_fp32", "v100_pytorch_fp32_cuda_graph",
        "v100_tensorrt_fp32",
    ]  # fmt: skip
    page = paper_page.page()
    assert page.count("## Heading of table2") == 4
    assert page.count("Measured 2026-11-30 on Tesla V100-SXM2, dshrink 0.1.0.") == 4
    (row,) = (line for line in page.splitlines() if line.startswith("| table2 "))
    assert "v100 pytorch fp32 cuda_graph" in row
    assert row.rstrip("| ").endswith("RTX 2080 Ti, batch 128; Jetson TX2, batch 64")


def test_what_no_device_measured_is_not_taken(paper_page: ModuleType, tmp_path: Path) -> None:
    paper_page.take(written(tmp_path / "published", "kim", {"headline": []}))

    assert not paper_page.RESULTS.exists()
    rows = [line.split("|")[2].strip() for line in paper_page.page().splitlines() if "|" in line]
    assert set(rows[2:]) == {"not yet"}


def test_figures_of_blocks_wait_for_the_device_that_they_were_published_of(
    paper_page: ModuleType,
) -> None:
    (row,) = (line for line in paper_page.page().splitlines() if line.startswith("| fig4 "))
    assert "RTX 2080 Ti, batch 1024" in row
