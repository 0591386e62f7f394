"""NVIDIA's parsers read every file that we write as its OpSpec says, and their builder takes it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx
import pytest
from real.network_files import NETWORKS, PRECISIONS, Workload, workloads
from real.understood import differences

from latency_tables.onnx_types import widen

if TYPE_CHECKING:
    from real.workers import Bindings, Parser

pytestmark = pytest.mark.tensorrt

#: Facts of the build that hold for each file.
FACTS = {"avg_timing_iterations": 4, "optimization_level": 3, "tf32": False}
BOUNDS = re.compile(r"t?\w+ \(activation\): (alpha|beta) is \S+ instead of (0|6)\.0")


@cache
def files_of(model: str) -> list[Workload]:
    return workloads(model)


def answers(
    model: str, precision: str, folder: Path, ask: Callable[[Path], Mapping[str, Any]]
) -> Iterator[tuple[Workload, Mapping[str, Any]]]:
    """What is answered to each file of a network that is written in a precision."""
    for one in files_of(model):
        if precision in one.precisions:
            file = one.write(folder, precision)
            yield one, ask(file)
            file.unlink()


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("model", NETWORKS)
def test_the_builder_takes_every_file_as_its_spec_says(
    bindings: Bindings, counted: Counter[str], tmp_path: Path, model: str, precision: str
) -> None:
    wrong = []

    def build(file: Path) -> Mapping[str, Any]:
        return bindings.build(file, precision)

    for one, found in answers(model, precision, tmp_path, build):
        if "message" in found:
            wrong.append(f"{one.name}: {found['message']}")
            continue
        wrong += [f"{one.name}: {what}" for what in differences(one.spec, found, precision)]
        if not FACTS.items() <= found["flags"].items():
            wrong.append(f"{one.name}: {found['flags']}")
        if not found["plan_bytes"] or not found["cache_bytes"]:
            wrong.append(f"{one.name}: an engine or a timing cache of no bytes")
        counted[f"files built by TensorRT {bindings.version} (RTX) in {precision}"] += 1
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("model", NETWORKS)
def test_the_parser_of_8_4_reads_every_file_as_its_spec_says(
    parser: Parser, counted: Counter[str], tmp_path: Path, model: str, precision: str
) -> None:
    wrong = []
    for one, found in answers(model, precision, tmp_path, parser.parse):
        if "errors" in found:
            wrong.append(f"{one.name}: {found['errors']}")
            continue
        wrong += [f"{one.name}: {what}" for what in differences(one.spec, found, precision)]
        counted[f"files parsed by TensorRT 8.4.1 in {precision}"] += 1
    assert not wrong, "\n".join(wrong)


def test_the_parser_of_8_4_reads_an_fp16_file_right_once_it_is_made_fp32(
    parser: Parser, counted: Counter[str], tmp_path: Path
) -> None:
    """What `dshrink bench` gives it in place of a user's file."""
    wrong = []

    def parse(file: Path) -> Mapping[str, Any]:
        model = onnx.load(file)
        widen(model)
        onnx.save(model, file)
        return parser.parse(file)

    for one, found in answers(NETWORKS[0], "fp16", tmp_path, parse):
        told = [found["errors"]] if "errors" in found else differences(one.spec, found, "fp32")
        wrong += [f"{one.name}: {what}" for what in told]
        counted["fp16 files, made fp32, parsed by TensorRT 8.4.1"] += 1
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("model", NETWORKS)
def test_the_parser_of_8_4_misreads_the_bounds_of_a_clip_in_fp16_files_and_nothing_else(
    parser: Parser, counted: Counter[str], tmp_path: Path, model: str
) -> None:
    """It takes the bytes of halves for floats: one more reason why it is given fp32 files."""
    wrong = []
    for one, found in answers(model, "fp16", tmp_path, parser.parse):
        told = differences(one.spec, found, "fp16")
        bounds = [what for what in told if BOUNDS.fullmatch(what)]
        wrong += [f"{one.name}: {what}" for what in told if what not in bounds]
        clips = any(getattr(op, "function", "") == "relu6" for op in one.spec.ops)
        if bool(bounds) != clips:
            wrong.append(f"{one.name}: {len(bounds)} bounds are misread")
        counted["files parsed by TensorRT 8.4.1 in fp16, but for the bounds of Clip"] += 1
    assert not wrong, "\n".join(wrong)
