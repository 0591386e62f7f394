"""``dshrink run``: what it lists, plans and writes."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
from click.testing import Result
from synthetic_tables import synthetic_table
from typer.testing import CliRunner

from dshrink.cli import run
from dshrink.errors import DshrinkError
from dshrink.network.models import Network
from dshrink.operations import study as study_operation
from dshrink.operations.bench_networks import network_of_file
from dshrink.operations.study import StudyStages
from dshrink.operations.study_plan import StudyRequest, own_images, study_context
from dshrink.results import BenchmarkResult
from dshrink.study.folders import MeasuredStep, StepFolders, StepResult
from dshrink.study.recipe import load_recipe, shipped_recipes
from dshrink.study.rows import StepRunner
from dshrink.study.steps import Step, StepsFailedError
from dshrink.train.errors import DivergedError
from dshrink.train.image_sets import open_images
from latency_tables.io import load_table, save_table
from profiler.target import Target

TINY = """
title = "a tiny study"
model = "test_resnet"
resolution = 32
weights = "initial"
keep = [2, 0]
rows = ["searched", "no_free_activation"]
[pretrain]
[search]
[finetune]
epochs = 1
batch = 8
learning_rate = 0.02
augmentation.auto_augment = ""
"""

Command = Callable[..., Result]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Command:
    """``command("digits", "--dry-run")``; latencies are made up."""
    monkeypatch.setattr(study_operation, "bench_networks", bench)
    monkeypatch.setenv("COLUMNS", "200")
    app = typer.Typer()
    app.command()(run.command)

    def start(*words: object) -> Result:
        return CliRunner().invoke(app, [str(word) for word in words])

    return start


def bench(
    networks: Sequence[str], file: object, target: object, **more: object
) -> list[BenchmarkResult]:
    """Each file takes 2 ms more than the one before."""
    found = []
    for number, path in enumerate(networks):
        candidate = network_of_file(Path(path), 1)
        ms = 2.0 * (number + 1)
        rest = dict.fromkeys(BenchmarkResult.__dataclass_fields__)
        facts = {
            **{
                "network": candidate.label,
                "model": candidate.facts.model,
                "verdict": "ok",
                "reason": "",
            },
            **{"keep_mask": candidate.facts.keep_mask, "padding": "repad", "device": "nowhere"},
            **{"runtime": "none", "precision": "fp32", "batch": 1, "threads": 1, "clock": "wall"},
            **{"statistic": "median", "latency_ms": ms, "launch": "plain", "cache_mode": "hot"},
            **{"throughput_fps": 1000 / ms, "built_precision": ""},
        }
        found.append(BenchmarkResult(**{**rest, **facts}))
    return found


@pytest.fixture
def tiny(tmp_path: Path, network: Network) -> tuple[Path, Path]:
    """A recipe file, and a table of its network."""
    names = tuple(block.name for block in network.blocks)
    table = synthetic_table([2.0, 3.0, 4.0, 5.0], [1.0] * 4)
    here = replace(table.conditions, device="local", runtime="onnxruntime", threads=2)
    table = replace(
        table, model=network.name, resolution=(32, 32), block_names=names, conditions=here
    )
    save_table(table, tmp_path / "table")
    (tmp_path / "tiny.toml").write_text(TINY)
    return tmp_path / "tiny.toml", tmp_path / "table"


def test_recipes_are_listed_with_a_line_each(command: Command) -> None:
    head, *lines = command("--list").output.splitlines()
    assert head.split() == ["recipe", "title"]
    assert [line.split()[0] for line in lines] == list(shipped_recipes())
    assert all(len(line.split()) > 3 for line in lines)
    listed = json.loads(command("--list", "--json").output)["recipes"]
    assert [one["name"] for one in listed] == list(shipped_recipes())


@pytest.mark.parametrize("recipe", shipped_recipes())
def test_every_shipped_recipe_says_what_it_would_do_without_images(
    command: Command, recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = command(recipe, "--dry-run", "--jobs", 1)
    assert result.exit_code == 0, result.exception
    assert "epochs of training left, 1 run at a time" in result.output
    known = json.loads(command(recipe, "--dry-run", "--jobs", 1, "--json").stdout)
    epochs = {step["step"]: step["epochs"] for step in known["steps"] if step["epochs"]}
    for name, number in epochs.items():
        counted = f"{number} epoch" if number == 1 else f"{number} epochs"
        assert any(line.split()[:3] == [name, *counted.split()] for line in lines_of(result))
    assert known["epochs_left"] == sum(epochs.values())
    assert f"{known['epochs_left']} epochs of training left" in result.output
    assert known["images"]["training"] == (1078 if recipe.startswith("digits") else 1281167)
    assert list(tmp_path.iterdir()) == []


def lines_of_csv(file: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(file.read_text().splitlines()))


def lines_of(result: Result) -> list[str]:
    return [line for line in result.output.splitlines() if line]


def test_a_study_ends_in_results_front_and_report_and_is_not_done_twice(
    command: Command, tiny: tuple[Path, Path], pictures: Path, tmp_path: Path
) -> None:
    recipe, table = tiny
    words = [recipe, "--data", pictures, "--table", table, "--out", tmp_path / "out", "--jobs", 1]
    before = json.loads(command(*words, "--dry-run", "--json").stdout)
    assert not any(step["done"] for step in before["steps"])
    result = command(*words)
    assert result.exit_code == 0, result.exception
    assert "keep2" in result.output
    after = json.loads(command(*words, "--dry-run", "--json").stdout)
    assert [step["step"] for step in after["steps"]] == [step["step"] for step in before["steps"]]
    assert all(step["done"] for step in after["steps"])
    assert after["epochs_left"] == 0

    rows = lines_of_csv(tmp_path / "out" / "results.csv")
    assert [(row["network"], row["method"], row["kept_blocks"]) for row in rows] == [
        ("searched_keep2_seed0.onnx", "searched", "2"),
        ("searched_keep0_seed0.onnx", "searched", "0"),
        ("no_free_activation_keep2_seed0.onnx", "no_free_activation", "2"),
        ("no_free_activation_keep0_seed0.onnx", "no_free_activation", "0"),
    ]
    # In this network the end of a block has its own activation: both rows are one structure.
    assert [row["latency_ms"] for row in rows] == ["2.0", "4.0", "2.0", "4.0"]
    assert all(Path(row["file"]).is_file() and row["accuracy_percent"] for row in rows)
    about = {(row["data"], row["recipe"], row["validation_images"]) for row in rows}
    assert about == {(open_images(str(pictures)).digest, "tiny", "12")}
    for name in ("front.csv", "front.png", "front.svg", "report.md"):
        assert (tmp_path / "out" / name).stat().st_size > 0

    # A part of the recipe: what was done before stays in the tables.
    few = command(*words, "--rows", "searched")
    assert few.exit_code == 0, few.exception
    assert lines_of_csv(tmp_path / "out" / "results.csv") == rows
    # But not what was done under other settings.
    done = tmp_path / "out" / "merge" / "batch1" / "no_free_activation" / "keep0" / "seed0"
    text = (done / "step.json").read_text()
    (done / "step.json").write_text(text.replace('"epochs": 1', '"epochs": 7'))
    few = command(*words, "--rows", "searched")
    assert few.exit_code == 0, few.exception
    assert (
        "not in the report: 1 network, as " in few.stderr
        and "no_free_activation/keep0" in few.stderr
    )
    assert len(lines_of_csv(tmp_path / "out" / "results.csv")) == 3


def test_what_could_be_done_is_measured_and_reported_where_steps_fail(
    command: Command,
    tiny: tuple[Path, Path],
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe, table = tiny
    do = StepRunner.do

    def act(runner: StepRunner, step: Step) -> StepResult:
        if step.kind == "train" and step.method == "no_free_activation":
            raise DivergedError("the loss became nan")
        return do(runner, step)

    monkeypatch.setattr(StepRunner, "do", act)
    folder = tmp_path / "out"
    words = [recipe, "--data", pictures, "--table", table, "--out", folder, "--jobs", 1]
    error = command(*words).exception
    assert isinstance(error, StepsFailedError)
    assert "leave the row out with --rows" in str(error)
    rows = lines_of_csv(folder / "results.csv")
    assert {row["method"] for row in rows} == {"searched"} and len(rows) == 2
    report = (folder / "report.md").read_text()
    assert "**Failed: no_free_activation/keep2/seed0: the loss became nan**" in report


def test_networks_are_measured_as_the_table_was(
    command: Command, tiny: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[StudyRequest] = []
    monkeypatch.setattr(study_operation, "run_study", lambda request, **more: asked.append(request))
    recipe, table = tiny
    words = [recipe, "--data", "somewhere", "--table", table]
    assert command(*words, "--threads", 2).exit_code == 0
    assert asked[0].target == Target(
        **{"device": "local", "runtime": "onnxruntime", "precision": "fp32", "batch": 1},
        **{"threads": 2, "statistic": "median"},
    )
    for option, value in (("device", "jetson"), ("threads", 1), ("batch", 8)):
        error = command(*words, f"--{option}", value).exception
        assert isinstance(error, DshrinkError)
        assert f"--{option} {value}: {table} was measured with {option} " in str(error)
    assert command(recipe, "--data", "somewhere", "--threads", 3).exit_code == 0
    assert [request.target for request in asked[1:]] == [Target(threads=3)]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"model": "resnet18"},
            "is of resnet18 at 32x32, the recipe is about test_resnet at 32x32",
        ),
        ({"resolution": (64, 64)}, "is of test_resnet at 64x64"),
        ({"networks": ()}, "not fit for search"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused_before_anything_is_trained(
    command: Command,
    tiny: tuple[Path, Path],
    pictures: Path,
    tmp_path: Path,
    change: dict[str, Any],
    said: str,
) -> None:
    recipe, folder = tiny
    table = load_table(folder)
    rows = tuple(
        replace(row, in_network_ms=None, in_network_low_ms=None, in_network_high_ms=None)
        for row in table.rows
    )
    known = {"rows": rows, "estimate": None} if "networks" in change else {}
    save_table(replace(table, **change, **known), folder)
    words = [recipe, "--data", pictures, "--table", folder, "--out", tmp_path / "out"]
    error = command(*words).exception
    assert isinstance(error, DshrinkError) and said in str(error)
    assert not (tmp_path / "out" / "pretrain").exists()


def test_weights_of_a_file_are_known_by_what_is_in_it(
    tiny: tuple[Path, Path], pictures: Path, tmp_path: Path
) -> None:
    file = tmp_path / "ours.safetensors"
    recipe = replace(load_recipe(str(tiny[0])), weights=str(file), pretrain=None)
    request = StudyRequest(recipe=recipe, data=str(pictures), folder=tmp_path, target=Target())
    images = open_images(request.data)

    def identity(content: bytes) -> Any:
        file.write_bytes(content)
        return study_context(request, images).folders.identity["weights"]

    assert identity(b"one") == identity(b"one") != identity(b"two")
    file.unlink()
    with pytest.raises(DshrinkError, match=r"ours\.safetensors' cannot be read"):
        study_context(request, images)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "give a RECIPE; `dshrink run --list` names them"),
        (["mobilenetv2_100_180"], "give --data DIR: the images to train on"),
        (["digits", "--seeds", "one"], "--seeds 'one': give whole numbers, such as 0,1,2"),
        (["digits", "--rows", "fast", "--dry-run"], "unknown row 'fast'"),
        (["digits", "--data", "nowhere", "--dry-run"], "nowhere"),
    ],
)
def test_what_is_missing_is_said(command: Command, words: list[str], said: str) -> None:
    error = command(*words).exception
    assert isinstance(error, DshrinkError)
    assert said in str(error)
    assert "\n" not in str(error)


def test_the_digits_bring_their_images(tmp_path: Path) -> None:
    recipe = load_recipe("digits")
    images = open_images(str(own_images(recipe, tmp_path)), recipe.choice.channels)
    assert recipe.images is not None
    assert (len(images.train), len(images.validation)) == (1078, 719)
    assert (len(images.train), len(images.classes)) == (recipe.images.training, 10)


def test_processes_that_train_together_do_not_measure(
    tiny: tuple[Path, Path], pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = StudyRequest(
        recipe=load_recipe(str(tiny[0])), data=str(pictures), folder=tmp_path, target=Target()
    )
    stages = StudyStages.of(request)
    monkeypatch.setattr(study_operation, "together", lambda: SimpleNamespace(num_processes=2))
    with pytest.raises(DshrinkError, match=r"--resolution 32 --classes 3.*give it with --table"):
        stages.measure_table()
    # Where it was measured before, there is nothing to measure.
    stages.context.folders.finish("table", MeasuredStep(digest="made up"))
    stages.measure_table()


def test_a_table_measured_under_other_conditions_is_another_one(
    tiny: tuple[Path, Path], pictures: Path, tmp_path: Path
) -> None:
    def folders(target: Target) -> StepFolders:
        request = StudyRequest(
            recipe=load_recipe(str(tiny[0])), data=str(pictures), folder=tmp_path, target=target
        )
        return study_context(request, open_images(request.data)).folders

    folders(Target()).finish("table", MeasuredStep(digest="one"))
    assert folders(Target()).result("table", MeasuredStep) == MeasuredStep(digest="one")
    with pytest.raises(DshrinkError, match=r"another study \(table"):
        folders(Target(threads=2)).result("table", MeasuredStep)
