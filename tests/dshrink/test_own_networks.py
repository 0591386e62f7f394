"""The page about networks of one's own, done: its files written, its commands run in order."""

from __future__ import annotations

import csv
import json
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from synthetic_tables import synthetic_table
from typer.testing import CliRunner

from dshrink.cli import main as entry
from dshrink.network.models import load_network
from dshrink.network.references import ModelChoice
from dshrink.operations.bench import bench_networks
from dshrink.search.plan import load_plan
from latency_tables.io import load_table

PAGE = (Path(__file__).parents[2] / "docs" / "own_networks.md").read_text("utf-8")
NET, CHECKPOINT, EXPORT = re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.M | re.S)
COMMANDS = re.findall(r"^\$ dshrink (.*)$", PAGE, flags=re.M)


def run(words: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["dshrink", *words])
    with pytest.raises(SystemExit) as end:
        entry.main()
    return int(end.value.code or 0)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "net.py").write_text(NET)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_page_leads_from_a_file_to_a_benchmark(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    subprocess.run([sys.executable, "-c", CHECKPOINT], cwd=folder, check=True)
    subprocess.run([sys.executable, "-W", "ignore", "-c", EXPORT], cwd=folder, check=True)
    journey = ("chain", "profile", "search", "merge", "bench")
    assert tuple(text.split()[0] for text in COMMANDS) == (*journey, "chain", *journey)
    for text in COMMANDS:
        assert run(shlex.split(text), monkeypatch) == 0, capsys.readouterr().err
    table, plan = load_table(folder / "table"), load_plan(folder / "plan.json")
    assert table.model == plan.model == "net.py:make"
    assert (table.resolution, table.in_channels) == (plan.resolution, plan.in_channels)
    with (folder / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["network"], row["model"]) for row in rows] == [
        ("net.py:make", "net.py:make"),
        ("small.onnx", "net.py:make"),
    ]
    assert all(row["predicted_ms"] and row["resolution"] == "64x64" for row in rows)
    with (folder / "onnx_results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["network"] for row in rows] == ["net.onnx", "small_net.onnx"]
    assert all(row["predicted_ms"] and row["model"] == "net.onnx" for row in rows)
    assert load_table(folder / "onnx_table").block_names == table.block_names
    # The merged file has the checkpoint's weights, not freshly drawn ones.
    certificate = json.loads((folder / "small.onnx.certificate.json").read_text())
    assert certificate
    drawn = load_network("net.py:make", resolution=64, seed=0).module.state_dict()
    found = load_network("net.py:make", resolution=64, weights="checkpoint.pth").module.state_dict()
    saved = torch.load("checkpoint.pth", weights_only=False)["model"]
    assert torch.equal(found["entry.0.weight"], saved["module.entry.0.weight"])
    assert not torch.equal(found["entry.0.weight"], drawn["entry.0.weight"])


def test_an_error_of_the_users_code_is_a_line_and_the_users_traceback(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "bad.py").write_text("def make():\n    return undefined\n")
    for words in (
        ["chain", "bad.py:make"],
        ["merge", "bad.py:make", "--plan", "mask:0", "--weights", "initial", "--out", "m.onnx"],
    ):
        assert run(words, monkeypatch) == 2
        said = capsys.readouterr()
        first, *rest = said.err.splitlines()
        assert first.startswith("dshrink: bad.py:make: the factory raises: NameError")
        assert rest[0] == "Traceback (most recent call last):"
        assert "bad.py" in rest[1] and rest[-1].startswith("NameError: name 'undefined'")
        assert said.out == ""


def invoke(*words: str) -> Any:
    return CliRunner().invoke(entry.app, list(words), catch_exceptions=False)


def test_every_command_that_loads_a_network_takes_its_inputs_and_classes() -> None:
    lines = (Path(__file__).parent / "commands.txt").read_text().splitlines()
    loading = [one for one in lines if " --model-arg " in one]
    assert [one for one in lines if re.match(r"dshrink [a-z ]+ (MODELS?|NETWORKS) ", one)]
    for one in lines:
        loads = re.match(r"dshrink [a-z ]+ (MODELS?|NETWORKS) ", one) or "plot kept" in one
        assert bool(loads) == (one in loading)
    for one in loading:
        assert all(f" {option} " in one for option in ("--resolution", "--in-channels")), one
        assert " --classes " in one


def test_a_merge_takes_size_channels_and_classes_where_no_file_knows_them(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = load_network("test_resnet", resolution=(32, 48), in_channels=1, classes=4)
    save_file(dict(made.module.state_dict()), folder / "w.safetensors")
    words = ("merge", "test_resnet", "--plan", "mask:0111", "--weights", "w.safetensors")
    words = (*words, "--padding", "repad")
    words = (*words, "--in-channels", "1", "--classes", "4", "--resolution", "32x48")
    assert invoke(*words, "--out", "m.onnx").exit_code == 0
    import onnx

    (image,) = onnx.load("m.onnx").graph.input
    assert [one.dim_value for one in image.type.tensor_type.shape.dim] == [1, 1, 32, 48]


def test_a_plan_of_a_network_of_one_channel_knows_so(folder: Path) -> None:
    plan = {"schema": "dshrink.plan", "schema_version": 1, "keep_mask": "0111"}
    plan |= {"padding": "repad", "in_channels": 1, "resolution": [32, 32]}
    (folder / "p.json").write_text(json.dumps(plan))
    words = ("merge", "test_resnet", "--plan", "p.json", "--weights", "random")
    assert invoke(*words, "--out", "m.onnx").exit_code == 0
    with pytest.raises(ValueError, match=r"--in-channels 3: the plan p.json is for 1 input"):
        invoke(*words, "--out", "m.onnx", "--in-channels", "3")


def test_two_networks_of_one_name_are_not_taken_for_one(folder: Path) -> None:
    for place, width in (("a", "8"), ("b", "12")):
        (folder / place).mkdir()
        (folder / place / "net.py").write_text(NET.replace("unit(3, 8,", f"unit(3, {width},"))
    text = (
        (folder / "b" / "net.py")
        .read_text()
        .replace("Step(8, 8), Step(8,", "Step(12, 12), Step(12,")
    )
    (folder / "b" / "net.py").write_text(text)
    with pytest.raises(ValueError, match=r"another network of these is called net\.py:make"):
        bench_networks(
            ["a/net.py:make", "b/net.py:make"],
            folder / "r.csv",
            choice=ModelChoice(model="a/net.py:make", resolution=(64, 64)),
        )


def test_the_command_that_measures_a_table_again_has_the_networks_arguments() -> None:
    table = synthetic_table([2.0, 3.0], [1.0, 1.0])
    mine = replace(table, model="net.py:make labels=7 name='a b'", in_channels=1)
    words = shlex.split(mine.profile_command)
    assert words[:7] == [
        *("dshrink", "profile", "net.py:make"),
        *("--model-arg", "labels=7", "--model-arg", "name=a b"),
    ]
    assert words[words.index("--in-channels") + 1] == "1"
    choice = ModelChoice(model="net.py:make", model_args=("name=a b", "labels=7"))
    assert shlex.split(choice.name) == shlex.split(mine.model)
