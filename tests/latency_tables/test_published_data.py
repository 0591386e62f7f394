from __future__ import annotations

import csv
from importlib.resources import files

import pytest

PUBLISHED = files("latency_tables").joinpath("data/published")


def read(name: str) -> list[dict[str, str]]:
    return list(csv.DictReader(PUBLISHED.joinpath(name).read_text("utf-8").splitlines()))


def test_every_file_is_explained_and_the_licence_stands_beside() -> None:
    readme = PUBLISHED.joinpath("README.md").read_text("utf-8")
    for path in PUBLISHED.iterdir():
        name = "kim2023_*.csv" if path.name.startswith("kim2023_") else path.name
        assert name in readme or path.name in ("README.md", "kim2023_LICENSE.txt")
    assert "MIT License" in PUBLISHED.joinpath("kim2023_LICENSE.txt").read_text("utf-8")


@pytest.mark.parametrize(("model", "blocks"), [("mobilenetv2_100", 17), ("mobilenetv2_140", 17)])
def test_block_latencies_of_the_authors_are_complete(model: str, blocks: int) -> None:
    rows = read("depthshrinker_2080ti_pytorch_block_latency.csv")
    found = [row for row in rows if row["model"] == model]
    assert [int(row["block"]) for row in found] == list(range(blocks))
    assert all(float(row["original_ms"]) > float(row["merged_ms"]) > 0 for row in found)


@pytest.mark.parametrize(
    ("name", "spans"),
    [
        ("kim2023_2080ti_tensorrt_fp32_b128_mobilenetv2_100.csv", 171),
        ("kim2023_2080ti_tensorrt_fp32_b128_mobilenetv2_140.csv", 171),
        ("kim2023_2080ti_pytorch_fp32_b64_vgg19.csv", 36),
    ],
)
def test_span_latencies_are_complete(name: str, spans: int) -> None:
    rows = read(name)
    assert len({(row["st"], row["end"]) for row in rows}) == len(rows) == spans
    assert all(float(row["time"]) > 0 for row in rows)
