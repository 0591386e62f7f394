"""NVIDIA's parsers read every file that we write as its OpSpec says, and their builder takes it."""

from __future__ import annotations

from collections import Counter
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from real.network_files import NETWORKS, PRECISIONS, Workload, workloads
from real.understood import differences

if TYPE_CHECKING:
    from real.workers import Bindings, Parser

pytestmark = pytest.mark.tensorrt

#: Facts of the build that hold for each file.
FACTS = {"avg_timing_iterations": 4, "optimization_level": 3, "tf32": False}


@cache
def files_of(model: str) -> list[Workload]:
    return workloads(model)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("model", NETWORKS)
def test_the_builder_takes_every_file_as_its_spec_says(
    bindings: Bindings,
    counted: Counter[tuple[str, str]],
    tmp_path: Path,
    model: str,
    precision: str,
) -> None:
    wrong = []
    for one in files_of(model):
        if precision not in one.precisions:
            continue
        file = one.write(tmp_path, precision)
        found = bindings.build(file, precision)
        file.unlink()
        if "message" in found:
            wrong.append(f"{one.name}: {found['message']}")
            continue
        wrong += [f"{one.name}: {what}" for what in differences(one.spec, found, precision)]
        products = any(kind in ("conv", "linear") for kind in (op.kind for op in one.spec.ops))
        if found["has_products"] != products or not found["plan_bytes"]:
            wrong.append(f"{one.name}: {found['has_products']}, {found['plan_bytes']} bytes")
        if not FACTS.items() <= found["flags"].items() or found["cache_bytes"] == 0:
            wrong.append(f"{one.name}: {found['flags']}, {found['cache_bytes']} bytes of cache")
        counted[f"built by TensorRT {bindings.version} (RTX)", precision] += 1
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("model", NETWORKS)
def test_the_parser_of_8_4_reads_every_file_as_its_spec_says(
    parser: Parser,
    counted: Counter[tuple[str, str]],
    tmp_path: Path,
    model: str,
    precision: str,
) -> None:
    wrong = []
    for one in files_of(model):
        if precision not in one.precisions:
            continue
        file = one.write(tmp_path, precision)
        found = parser.parse(file)
        file.unlink()
        if "errors" in found:
            wrong.append(f"{one.name}: {found['errors']}")
            continue
        wrong += [f"{one.name}: {what}" for what in differences(one.spec, found, precision)]
        counted["parsed by TensorRT 8.4.1", precision] += 1
    assert not wrong, "\n".join(wrong)
