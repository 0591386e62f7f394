"""Files that are read, made hostile: each is refused in one line, or read as what it says.

A short run is part of the suite, one of 10,000 of each kind is slow.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from mutated_files import (
    mutated_bytes,
    mutated_json,
    mutated_lines,
    refused_or_read,
    written,
)
from pictures import write_pictures
from safetensors.torch import save_file
from torch import nn

from devices.errors import DevicesError
from devices.inventory import connect, load_inventory
from dshrink.errors import DshrinkError
from dshrink.importance.table import SIDECAR_SCHEMA
from dshrink.network.weights.metadata import about_weights
from dshrink.search.dp.files import load_importance, load_unevaluated
from dshrink.search.plan import BlockLayers, Plan, load_plan, save_plan
from dshrink.train.errors import CheckpointError, DivergedError
from dshrink.train.feed import Feed
from dshrink.train.image_sets import open_images, preprocessing_of
from dshrink.train.loop import fit
from dshrink.train.settings import Augmentation, Training
from latency_tables.errors import LatencyTableError

SHORT = settings(
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
LONG = settings(
    SHORT, max_examples=10_000, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
)
PLAN = Plan(
    model="mobilenetv2_035",
    resolution=(64, 64),
    in_channels=3,
    keep_mask="0110",
    padding="bias_map",
    seed=3,
    importance=-0.5,
    source="here",
    blocks=tuple(
        BlockLayers(name=f"b{at}", activations=("a",), first_layer="c", last_layer="d")
        for at in range(4)
    ),
)
DEVICES = """\
[kitchen]
like = "raspi4"
host = "pi@kitchen"
python = "python3"
ssh_options = ["-p", "22"]
folder = "/var/tmp/x"
keep = true
[bench]
title = "A board"
chip = "chip"
paper_batch = 4
precisions = ["fp32"]
power_mode = "none"
connection = "ssh"
known_by = ["cortex"]
[bench.runtimes.onnxruntime]
versions = ">=1.10,<2"
install = "pip install onnxruntime"
max_opset = 15
"""
IMPORTANCE = """\
id,st,end,st_act,end_act,train_loss,train_acc,val_loss,val_acc
0,0,1,0,1,0.1,-1.5,0.2,-2.0
1,1,2,1,1,0.1,-1.5,0.2,-1.0
2,0,2,0,1,0.1,-1.5,0.2,-4.0
"""
SIDECAR = {
    "schema": SIDECAR_SCHEMA,
    "schema_version": 1,
    "model": "mobilenetv2_035",
    "keys": 4,
    "missing": [{"key": [0, 2, 0, 1], "reason": "no loss"}],
}
ABOUT = {
    "model": "mobilenetv2_035",
    "resolution": [64, 64],
    "classes": 10,
    "segments": "blocks",
    "mask": "0110",
    "free_activation": True,
    "padding": "bias_map",
    "in_channels": 3,
    "form": "",
    "accuracy_percent": 50.0,
    "expanded": ["a"],
    "ratio": 6,
}


def plan_text(folder: Path) -> str:
    save_plan(PLAN, folder / "made.json")
    return (folder / "made.json").read_text()


def check_plan(content: bytes, folder: Path) -> None:
    def read() -> None:
        plan = load_plan(written(folder / "plan.json", content))
        assert plan.resolution is None or all(8 <= side <= 4096 for side in plan.resolution)
        save_plan(plan, folder / "again.json")
        assert load_plan(folder / "again.json") == plan

    refused_or_read(read, (DshrinkError,))


def check_devices(content: bytes, folder: Path) -> None:
    def read() -> None:
        inventory = load_inventory(written(folder / "devices.toml", content))
        for device in inventory.devices.values():
            if device.connection == "ssh" and device.host:
                connect(device)

    refused_or_read(read, (DevicesError,))


def check_importance(content: bytes, sidecar: bytes, folder: Path) -> None:
    path = written(folder / "importance.csv", content)
    written(folder / "importance.json", sidecar)

    def read() -> None:
        assert all(map(math.isfinite, load_importance(path).values()))

    refused_or_read(read, (LatencyTableError, DshrinkError))
    refused_or_read(
        lambda: load_unevaluated(path, "mobilenetv2_035"), (LatencyTableError, DshrinkError)
    )


def check_metadata(content: bytes, folder: Path) -> None:
    file = folder / "weights.safetensors"
    text = content.decode("utf-8", "replace")
    save_file({"a": torch.ones(2)}, file, metadata={"dshrink": text})
    refused_or_read(lambda: about_weights(file), (DshrinkError,))


class FinishedRun:
    """A finished training, whose folder is made anew for each mutation."""

    def __init__(self, folder: Path) -> None:
        pictures = write_pictures(folder / "pictures", train=8)
        training = Training(
            epochs=1, batch=8, learning_rate=0.02, augmentation=Augmentation(auto_augment="")
        )
        self.feed = Feed(
            images=open_images(pictures),
            preprocessing=preprocessing_of("test_resnet", (32, 32)),
            settings=replace(training, ema=0.9),
        )
        self.folder = folder / "run"
        self.resume()
        self.state = (self.folder / "checkpoint.json").read_text()
        (file,) = self.folder.glob("*.safetensors")
        self.tensors_name, self.tensors = file.name, file.read_bytes()

    def resume(self) -> None:
        torch.manual_seed(0)
        module = nn.Sequential(
            nn.Conv2d(3, 4, 3, stride=8), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, 3)
        )
        fitted = fit(module, self.feed, folder=self.folder, identity={"what": "test"})
        assert all(one.isfinite().all() for one in fitted.state.values())
        assert math.isfinite(fitted.accuracy) and math.isfinite(fitted.loss)

    def check(self, state: bytes | None = None, tensors: bytes | None = None) -> bool:
        for left in self.folder.glob("*.safetensors"):
            left.unlink()
        written(self.folder / "checkpoint.json", self.state.encode() if state is None else state)
        written(self.folder / self.tensors_name, self.tensors if tensors is None else tensors)
        return refused_or_read(self.resume, (CheckpointError, DivergedError))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    return FinishedRun(tmp_path_factory.mktemp("finished"))


@pytest.fixture(scope="module")
def changed_plans(tmp_path_factory: pytest.TempPathFactory) -> st.SearchStrategy[bytes]:
    return mutated_json(plan_text(tmp_path_factory.mktemp("plan")))


def importance_pairs() -> st.SearchStrategy[tuple[bytes, bytes]]:
    text = json.dumps(SIDECAR)
    return st.tuples(mutated_lines(IMPORTANCE, ","), mutated_json(text))


def test_a_hostile_plan_is_one_line_or_a_plan(
    changed_plans: st.SearchStrategy[bytes], tmp_path: Path
) -> None:
    @SHORT
    @given(changed_plans)
    def check(content: bytes) -> None:
        check_plan(content, tmp_path)

    check()


@SHORT
@given(mutated_lines(DEVICES, " = "))
def test_a_hostile_file_of_devices_is_one_line_or_devices(tmp_path: Path, content: bytes) -> None:
    check_devices(content, tmp_path)


@SHORT
@given(importance_pairs())
def test_a_hostile_importance_table_is_one_line_or_finite(
    tmp_path: Path, pair: tuple[bytes, bytes]
) -> None:
    check_importance(*pair, tmp_path)


@SHORT
@given(mutated_json(json.dumps(ABOUT)))
def test_hostile_metadata_of_weights_are_one_line_or_facts(tmp_path: Path, content: bytes) -> None:
    check_metadata(content, tmp_path)


def test_a_hostile_checkpoint_is_one_line_or_finite_weights(finished: FinishedRun) -> None:
    @settings(SHORT, max_examples=25)
    @given(mutated_json(finished.state))
    def check(content: bytes) -> None:
        finished.check(state=content)

    check()


def test_hostile_tensors_of_a_checkpoint_are_one_line(finished: FinishedRun) -> None:
    @settings(SHORT, max_examples=15)
    @given(mutated_bytes(finished.tensors))
    def check(content: bytes) -> None:
        finished.check(tensors=content)

    check()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["plan", "devices", "importance", "metadata", "state", "tensors"])
def test_ten_thousand_hostile_files_of_each_kind(
    kind: str,
    changed_plans: st.SearchStrategy[bytes],
    finished: FinishedRun,
    tmp_path: Path,
) -> None:
    checks: dict[str, tuple[st.SearchStrategy[Any], Callable[[Any], object]]] = {
        "plan": (changed_plans, lambda content: check_plan(content, tmp_path)),
        "devices": (mutated_lines(DEVICES, " = "), lambda c: check_devices(c, tmp_path)),
        "importance": (importance_pairs(), lambda pair: check_importance(*pair, tmp_path)),
        "metadata": (mutated_json(json.dumps(ABOUT)), lambda c: check_metadata(c, tmp_path)),
        "state": (mutated_json(finished.state), lambda c: finished.check(state=c)),
        "tensors": (mutated_bytes(finished.tensors), lambda c: finished.check(tensors=c)),
    }
    strategy, check = checks[kind]

    @LONG
    @given(strategy)
    def run(content: Any) -> None:
        check(content)

    run()
