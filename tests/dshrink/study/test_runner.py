"""Whole studies of a tiny network: what is trained, from what, and that it goes on where it was."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest
import torch
from safetensors.torch import load_file
from synthetic_tables import synthetic_table

import dshrink.study.runner
from dshrink.merge.export import METADATA_KEY
from dshrink.network.models import Network, load_network
from dshrink.search.greedy import random_plan
from dshrink.study.comparison import AccuracyDifference, paired, welch
from dshrink.study.estimate import epoch_timer, estimate_line
from dshrink.study.folders import (
    DONE,
    MeasuredStep,
    MergedStep,
    PretrainedStep,
    SearchedStep,
    StepFolders,
    StepResult,
    TrainedStep,
)
from dshrink.study.recipe import MaskGoal, Recipe, TableSettings, load_recipe
from dshrink.study.report import RowResult, report_lines
from dshrink.study.rows import StepRunner, StudyContext, drawn_by, row_network
from dshrink.study.runner import Study, jobs_here
from dshrink.study.steps import Step, StepsFailedError, StudyError, steps_of
from dshrink.train.errors import DivergedError
from dshrink.train.image_sets import open_images
from dshrink.train.settings import Augmentation, Training
from latency_tables.files import write_atomically
from latency_tables.io import load_table, save_table

TRAINING = Training(
    epochs=1, batch=8, learning_rate=0.02, augmentation=Augmentation(auto_augment="")
)
NARROWER = "test_efficientnet"
RECIPE = Recipe(
    name="tiny",
    title="a tiny study",
    model="test_resnet",
    resolution=32,
    weights="initial",
    keep=(2,),
    narrower=(NARROWER,),
    rows=(
        *("original", "searched", "distilled", "no_free_activation", "scratch", "random"),
        *("layer_pruning", "width"),
    ),
    random_draws=2,
    pretrain=replace(TRAINING, learning_rate=0.05),
    search=TRAINING,
    finetune=TRAINING,
    distilled=replace(TRAINING, distillation=0.5),
)
SMALL = replace(RECIPE, rows=("searched", "random"), narrower=(), random_draws=1)

MakeContext = Callable[..., StudyContext]
STORED = Path(__file__).parent / "stored"


@pytest.fixture(scope="session")
def table(network: Network, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A latency table of the tiny network, made up."""

    names = tuple(block.name for block in network.blocks)
    made_up = synthetic_table([2.0, 3.0, 4.0, 5.0], [1.0] * 4)
    folder = tmp_path_factory.mktemp("table")
    save_table(replace(made_up, model=network.name, resolution=(32, 32), block_names=names), folder)
    return folder


@pytest.fixture(scope="session")
def make_context(pictures: Path, table: Path) -> MakeContext:
    def make(recipe: Recipe, folder: Path, data: str = "the pictures") -> StudyContext:
        steps = steps_of(recipe, measure_table=False, batch=2)
        folders = StepFolders.of(folder, {"data": data}, "made up", steps)
        return StudyContext(recipe=recipe, data=str(pictures), table=table, folders=folders)

    return make


@pytest.fixture(scope="session")
def finished(make_context: MakeContext, tmp_path_factory: pytest.TempPathFactory) -> StudyContext:
    """A study with every row."""
    context = make_context(RECIPE, tmp_path_factory.mktemp("study"))
    study(context).run()
    return context


def study(context: StudyContext, **more: Any) -> Study:
    return Study(context=context, images=open_images(context.data), **more)


def merged(context: StudyContext, name: str) -> MergedStep:
    found = context.folders.result(name, MergedStep)
    assert found is not None
    return found


def mask_of(context: StudyContext, name: str) -> str:
    found = context.folders.any_result(name)
    assert isinstance(found, SearchedStep | TrainedStep | MergedStep)
    return found.keep_mask


def made_up(step: Step) -> StepResult:
    """A result of the step's kind."""
    return {
        "pretrain": PretrainedStep(accuracy_percent=1.0),
        "search": SearchedStep(keep_mask="1010"),
        "train": TrainedStep(keep_mask="1010", accuracy_percent=1.0),
        "merge": MergedStep(
            file="a.onnx",
            keep_mask="1010",
            structure="",
            macs=1,
            parameters=1,
            accuracy_percent=1.0,
            validation_images=1,
            onnx_difference=0.0,
        ),
    }[step.kind]


def weights(context: StudyContext, name: str) -> dict[str, torch.Tensor]:
    return load_file(context.folders.folder(name) / "weights.safetensors")


def test_every_step_comes_after_what_it_needs_and_baselines_share_the_searched_mask() -> None:
    recipe = load_recipe("digits")
    steps = steps_of(recipe, measure_table=True)
    names = [step.name for step in steps]
    assert len(set(names)) == len(names)
    for number, step in enumerate(steps):
        assert set(step.needs) <= set(names[:number])
    # Four keep counts, three seeds, five draws, two widths; one network is pre-trained for all.
    rows = Counter(step.method for step in steps if step.kind == "train")
    assert rows == {
        **{"original": 3, "random": 20, "width": 6},
        **dict.fromkeys(("searched", "distilled", "free_activation"), 12),
        **dict.fromkeys(("scratch", "layer_pruning"), 12),
    }
    kinds = Counter(step.kind for step in steps)
    assert kinds == {"table": 1, "pretrain": 1, "search": 12, "train": 89, "merge": 89}
    by_name = {step.name: step for step in steps}
    for row in ("searched", "layer_pruning", "scratch"):
        assert "search/keep8/seed2" in by_name[f"{row}/keep8/seed2"].needs
    assert "pretrain" in by_name["layer_pruning/keep8/seed2"].needs
    assert "pretrain" not in by_name["scratch/keep8/seed2"].needs
    assert by_name["random/keep8/seed4"].needs == ("pretrain", "table")


def test_all_rows_are_trained_alike_but_for_the_teacher_and_see_the_same_pictures() -> None:
    steps = [s for s in steps_of(RECIPE, measure_table=False) if s.kind == "train" and s.seed == 0]
    settings = {step.method: step.training for step in steps}
    assert settings.pop("distilled") == replace(TRAINING, distillation=0.5)
    # As long as the pre-training and the fine-tuning of the others, with the rate of the former.
    from_initial = replace(TRAINING, epochs=2, learning_rate=0.05)
    assert settings.pop("scratch") == settings.pop("width") == from_initial
    assert set(settings.values()) == {TRAINING}


def test_all_epochs_behind_a_network_are_counted() -> None:
    steps = steps_of(replace(RECIPE, search=replace(TRAINING, epochs=9)), measure_table=True)
    folders = StepFolders.of(Path(), {}, None, steps)
    epochs = {s.method: folders.epochs(s.name) for s in steps if s.kind == "merge"}
    assert epochs == dict.fromkeys(RECIPE.rows, 2)  # one and one; the search's are not in them


def test_masks_of_one_draw_are_no_parts_of_each_other(network: Network, table: Path) -> None:
    loaded = load_table(table)

    def mask(seed: int, keep: int) -> str:
        drawn = drawn_by(seed, MaskGoal(keep=keep))
        return random_plan(loaded, keep=keep, seed=drawn, padding="repad").keep_mask

    def inside(one: str, other: str) -> bool:
        return all(b == "1" for a, b in zip(one, other, strict=True) if a == "1")

    # By chance a block of one mask is among the two of the other in half of the draws.
    nested = sum(inside(mask(seed, 1), mask(seed, 2)) for seed in range(40))
    assert 8 < nested < 32
    assert mask(3, 2) == mask(3, 2)
    assert len({mask(seed, 2) for seed in range(40)}) == 6


def test_nothing_is_searched_where_no_block_is_kept_or_the_paper_gives_the_mask() -> None:
    base = replace(SMALL, rows=("searched", "layer_pruning"))
    none = steps_of(replace(base, keep=(0,)), measure_table=True)
    published = replace(base, keep=(), masks=("MBV2-DS-A",), model="mobilenetv2_100")
    for steps in (none, steps_of(published, measure_table=True)):
        assert not [step for step in steps if step.kind == "search"]
        assert [s.method for s in steps if s.kind == "train"] == ["searched", "layer_pruning"]
    assert none[2].needs == ("pretrain", "table")


def test_every_row_ends_as_a_file_that_says_what_it_is(finished: StudyContext) -> None:
    results = finished.folders.results()
    assert set(results) == set(finished.folders.steps)
    searched = mask_of(finished, "search/keep2/seed0")
    assert searched.count("1") == 2
    for name, step in finished.folders.steps.items():
        if step.kind != "merge":
            continue
        facts = merged(finished, name)
        model = onnx.load(finished.folders.folder(name) / facts.file)
        known = json.loads(model.metadata_props[0].value)
        assert model.metadata_props[0].key == METADATA_KEY
        assert (known["method"], known["seed"]) == (step.method, step.seed)
        assert known["accuracy_percent"] == facts.accuracy_percent
        assert known["data"] == open_images(finished.data).digest
        assert (known["recipe"], known["validation_images"]) == ("tiny", 12)
        assert facts.validation_images == 12
        assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 2
        mask = known["keep_mask"]
        if step.method == "random":
            assert mask.count("1") == 2
        else:
            whole = {"original": "1111", "width": ""}
            assert mask == whole.get(step.method, searched)
        assert known["free_activation"] == (
            step.method not in ("no_free_activation", "scratch", "layer_pruning")
        )


def test_merged_networks_agree_with_the_unmerged_ones_on_every_picture(
    finished: StudyContext,
) -> None:
    names = [name for name in finished.folders.steps if name.startswith("merge/")]
    found = {name: merged(finished, name) for name in names}
    found = {name: facts for name, facts in found.items() if facts.differing is not None}
    assert len(found) == 6  # all rows but the original, layer pruning and width
    for name, facts in found.items():
        assert (facts.differing, facts.validation_images) == (0, 12)
        assert facts.accuracy_percent == facts.unmerged_accuracy_percent
        trained = finished.folders.result(finished.folders.steps[name].needs[0], TrainedStep)
        assert trained is not None and facts.accuracy_percent == trained.accuracy_percent


def test_rows_differ_in_what_they_start_from_and_in_what_becomes_of_activations(
    finished: StudyContext,
) -> None:
    searched = weights(finished, "searched/keep2/seed0")
    for row in ("distilled", "scratch"):
        other = weights(finished, f"{row}/keep2/seed0")
        assert set(other) == set(searched)
        assert any(not torch.equal(other[name], searched[name]) for name in searched)
    ours = merged(finished, "merge/batch2/searched/keep2/seed0")
    assert ours.structure == merged(finished, "merge/batch2/distilled/keep2/seed0").structure
    assert merged(finished, "merge/batch2/layer_pruning/keep2/seed0").macs < ours.macs
    whole = merged(finished, "merge/batch2/original/seed0").macs
    narrower = merged(finished, f"merge/batch2/width/{NARROWER}/seed0")
    assert narrower.macs == load_network(NARROWER, resolution=32, classes=3).spec.macs != whole
    draws = {
        (finished.folders.folder(f"random/keep2/seed{draw}") / "plan.json").read_text()
        for draw in (0, 1)
    }
    assert len(draws) == 2


@pytest.mark.parametrize("row", [row for row in RECIPE.rows if row != "width"])
def test_what_becomes_of_a_row_s_activations(network: Network, row: str) -> None:
    (step,) = (
        step
        for step in steps_of(RECIPE, measure_table=False)
        if (step.kind, step.method, step.seed) == ("train", row, 0)
    )
    trained, changes = row_network(step, network, "1010")
    if row in ("original", "layer_pruning"):
        assert changes is None
        assert (trained.spec == network.spec) == (row == "original")
    else:
        assert changes is not None
        assert changes.mask == "1010"
        assert changes.free_activation == (row not in ("no_free_activation", "scratch"))


def test_a_recipe_without_the_activation_has_it_in_the_row_that_shows_it(network: Network) -> None:
    rows = ("searched", "random", "distilled", "scratch", "free_activation")
    recipe = replace(RECIPE, rows=rows, narrower=(), free_activation=False)
    found = {}
    for step in steps_of(recipe, measure_table=False):
        if step.kind == "train":
            _, changes = row_network(step, network, "1010")
            assert changes is not None
            found[step.method] = changes.free_activation
            assert step.about["free_activation"] == changes.free_activation
    assert found == {**dict.fromkeys(rows, False), "free_activation": True}


def test_scratch_starts_from_initial_weights_and_the_others_from_the_pretrained_ones(
    finished: StudyContext,
) -> None:
    runner = StepRunner(context=finished, images=open_images(finished.data))
    steps = finished.folders.steps
    known = weights(finished, "pretrain")
    for row in ("searched", "layer_pruning", "random", "original"):
        (name,) = (n for n, s in steps.items() if (s.kind, s.method, s.seed) == ("train", row, 0))
        start = runner.start(steps[name]).module.state_dict()
        assert all(torch.equal(start[key], known[key]) for key in known)
    start = runner.start(steps["scratch/keep2/seed0"]).module.state_dict()
    assert not torch.equal(start["fc.weight"], known["fc.weight"])


def test_a_finished_study_does_nothing_again(
    finished: StudyContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(runner: StepRunner, step: Step) -> StepResult:
        raise AssertionError(step)

    monkeypatch.setattr(StepRunner, "do", refuse)
    study(finished).run()


@pytest.fixture(scope="session")
def together(make_context: MakeContext, tmp_path_factory: pytest.TempPathFactory) -> StudyContext:
    """A smaller study, done by two processes."""
    context = make_context(SMALL, tmp_path_factory.mktemp("together"))
    counts: list[tuple[int, int]] = []
    study(context, jobs=2, progress=lambda done, total, label: counts.append((done, total))).run()
    assert counts[-1] == (6, 6)  # an epoch, or a merge, is 1
    return context


def test_several_processes_train_the_same_networks_as_one(
    finished: StudyContext, together: StudyContext
) -> None:
    for name in ("search/keep2/seed0", "merge/batch2/random/keep2/seed0"):
        assert mask_of(together, name) == mask_of(finished, name)
    for name in ("pretrain", "searched/keep2/seed0", "random/keep2/seed0"):
        alone, shared = weights(finished, name), weights(together, name)
        assert all(torch.equal(alone[key], shared[key]) for key in alone)


def test_what_was_done_is_kept_and_only_the_rest_is_done(
    together: StudyContext, make_context: MakeContext, tmp_path: Path
) -> None:
    shutil.copytree(together.folders.root, tmp_path / "copy")
    context = make_context(SMALL, tmp_path / "copy")
    open_names = {"random/keep2/seed0", "merge/batch2/random/keep2/seed0"}
    for name in open_names:
        (context.folders.folder(name) / DONE).unlink()
    seen: list[str] = []
    study(context, progress=lambda done, total, label: seen.append(label)).run()
    assert {label.split(":")[0] for label in seen} == open_names
    assert context.folders.results() == together.folders.results()


def test_processes_of_a_launcher_do_one_run_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    assert jobs_here(3) == 3
    assert jobs_here() >= 1
    monkeypatch.setattr(dshrink.study.runner, "together", lambda: SimpleNamespace(num_processes=2))
    assert jobs_here() == jobs_here(1) == 1
    with pytest.raises(StudyError, match="--jobs 4 with 2 processes of a launcher"):
        jobs_here(4)


def test_a_step_that_fails_stops_only_what_starts_from_it(
    make_context: MakeContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    def act(runner: StepRunner, step: Step) -> StepResult:
        done.append(step.name)
        if step.kind == "search":
            raise DivergedError("the loss became nan")
        return made_up(step)

    monkeypatch.setattr(StepRunner, "do", act)
    context = make_context(SMALL, tmp_path)
    with pytest.raises(StudyError) as error:
        study(context).run()
    assert str(error.value).startswith(
        "3 of 6 steps failed, first search/keep2/seed0: the loss became nan; the same command "
        "tries them again: change the recipe, or leave the row out with --rows"
    )
    assert isinstance(error.value, StepsFailedError)
    assert list(error.value.failures) == [
        *("search/keep2/seed0", "searched/keep2/seed0", "merge/batch2/searched/keep2/seed0"),
    ]
    assert done == [
        *("pretrain", "search/keep2/seed0", "random/keep2/seed0"),
        "merge/batch2/random/keep2/seed0",
    ]
    # What failed is tried again, and nothing else.
    done.clear()
    with pytest.raises(StudyError):
        study(context).run()
    assert done == ["search/keep2/seed0"]


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_step_names_the_one_that_failed_of_those_it_needs(
    jobs: int, make_context: MakeContext, tmp_path: Path
) -> None:
    recipe = replace(SMALL, rows=("random",), pretrain=replace(TRAINING, learning_rate=1e6))
    steps = steps_of(recipe, measure_table=True, batch=2)
    folders = StepFolders.of(tmp_path, {}, "these conditions", steps)
    folders.finish("table", MeasuredStep(digest="one"))
    context = replace(make_context(recipe, tmp_path), folders=folders)
    with pytest.raises(StepsFailedError, match="first pretrain") as error:
        study(context, jobs=jobs).run()
    row = "random/keep2/seed0"
    assert steps[-2].name == row and steps[-2].needs == ("pretrain", "table")
    assert error.value.failures[row] == "it starts from pretrain"
    assert error.value.failures[f"merge/batch2/{row}"] == f"it starts from {row}"


def test_a_full_gpu_is_a_step_s_error_that_says_what_helps(
    make_context: MakeContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def act(runner: StepRunner, step: Step) -> StepResult:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(StepRunner, "do", act)
    with pytest.raises(StepsFailedError, match="raise accumulate or lower batch in the recipe"):
        study(make_context(SMALL, tmp_path)).run()


@pytest.mark.parametrize("file", ["weights.safetensors", DONE])
def test_a_full_disk_ends_the_step_that_meets_it_and_not_the_study(
    file: str, make_context: MakeContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    really, row = os.fsync, "random/keep2/seed0"

    def full(descriptor: int) -> None:
        written = str(Path(f"/proc/self/fd/{descriptor}").readlink())
        if written.startswith(str(tmp_path / row / f".{file}.dshrink-")):
            raise OSError(errno.ENOSPC, "No space left on device")
        really(descriptor)

    def act(runner: StepRunner, step: Step) -> StepResult:
        done.append(step.name)
        content = f"of {step.name}"
        write_atomically(context.folders.folder(step.name) / "weights.safetensors", content)
        return made_up(step)

    monkeypatch.setattr(StepRunner, "do", act)
    context = make_context(replace(SMALL, rows=("random", "searched")), tmp_path)
    before = tmp_path / row / "weights.safetensors"
    before.parent.mkdir(parents=True)
    before.write_text("the last good ones")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StepsFailedError) as error:
            study(context).run()
    reason = f"{tmp_path / row / file} cannot be written: No space left on device; make room"
    assert error.value.failures[row].startswith(reason) and reason in str(error.value)
    assert list(error.value.failures) == [row, f"merge/batch2/{row}"]
    assert "search/keep2/seed0" in done and "merge/batch2/searched/keep2/seed0" in done
    assert before.read_text() == ("the last good ones" if file != DONE else f"of {row}")
    assert not [path for path in tmp_path.rglob(".*") if path.name.endswith(".tmp")]
    done.clear()
    study(context).run()
    assert done == [row, f"merge/batch2/{row}"]


def test_weights_that_cannot_be_read_are_named(together: StudyContext, tmp_path: Path) -> None:
    shutil.copytree(together.folders.root, tmp_path / "copy")
    context = replace(together, folders=replace(together.folders, root=tmp_path / "copy"))
    (context.folders.folder("searched/keep2/seed0") / "weights.safetensors").write_bytes(b"cut off")
    merge = "merge/batch2/searched/keep2/seed0"
    (context.folders.folder(merge) / DONE).unlink()
    with pytest.raises(StepsFailedError, match=r"searched/keep2/seed0.*to train it again") as error:
        study(context).run()
    assert list(error.value.failures) == [merge]


@pytest.fixture
def stored(tmp_path: Path) -> StepFolders:
    """A merge that was done, and stored by schema version 1."""
    trained = Step(name="searched/keep2/seed0", kind="train", method="searched")
    merge = Step(name="merge", kind="merge", method="searched", batch=2, needs=(trained.name,))
    identity = {"model": "test_resnet", "data": "0123"}
    folders = StepFolders.of(tmp_path, identity, "a table", (trained, merge))
    folders.folder("merge").mkdir()
    shutil.copy(STORED / "merge_v1.json", folders.folder("merge") / DONE)
    return folders


def test_a_stored_step_of_version_1_says_what_it_said(stored: StepFolders) -> None:
    assert stored.result("merge", MergedStep) == MergedStep(
        file="a.onnx",
        keep_mask="0100",
        structure="ab12",
        macs=1200,
        parameters=34,
        accuracy_percent=75.0,
        validation_images=12,
        onnx_difference=1e-7,
        unmerged_accuracy_percent=75.5,
        differing=1,
        certificate=2e-6,
    )


def test_a_step_of_a_newer_version_is_refused_with_advice(stored: StepFolders) -> None:
    path = stored.folder("merge") / DONE
    path.write_text(path.read_text().replace('"schema_version": 1', '"schema_version": 2'))
    with pytest.raises(StudyError, match=r"step.json: schema_version 2 is newer than 1.*: update"):
        stored.any_result("merge")


def test_a_table_that_is_measured_again_opens_what_depends_on_it(tmp_path: Path) -> None:
    recipe = replace(SMALL, rows=("original", "searched", "random"))
    steps = steps_of(recipe, measure_table=True)
    folders = StepFolders.of(tmp_path, {}, "these conditions", steps)
    folders.finish("table", MeasuredStep(digest="one"))
    for step in steps[1:]:
        folders.finish(step.name, made_up(step))
    assert folders.open_steps() == ()
    folders.finish("table", MeasuredStep(digest="another"))
    names = {step.name for step in folders.open_steps()}
    rows = {"searched/keep2/seed0", "random/keep2/seed0"}
    assert names == {"search/keep2/seed0", *rows, *(f"merge/batch1/{row}" for row in rows)}
    assert all(folders.is_stale(name) for name in names)
    assert not folders.is_stale("original/seed0")


def test_what_was_made_with_the_old_table_is_removed_before_it_is_made_again(
    make_context: MakeContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = make_context(SMALL, tmp_path)
    steps = steps_of(SMALL, measure_table=True, batch=2)
    context = replace(context, folders=StepFolders.of(tmp_path, {}, "these conditions", steps))
    context.folders.finish("table", MeasuredStep(digest="one"))
    told: list[str] = []
    left: list[bool] = []

    def act(runner: StepRunner, step: Step) -> StepResult:
        checkpoint = context.folders.folder(step.name) / "checkpoint.json"
        left.append(checkpoint.exists())
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        checkpoint.write_text("of this run")
        return made_up(step)

    monkeypatch.setattr(StepRunner, "do", act)
    study(context).run()
    context.folders.finish("table", MeasuredStep(digest="another"))
    study(context, notice=told.append).run()
    assert left == [False] * 11  # six steps, then all but the pre-training
    assert told[0] == "the table was measured again: 5 steps to do again"
    assert (context.folders.folder("pretrain") / "checkpoint.json").exists()


def test_a_table_is_known_by_how_densely_it_was_measured() -> None:
    def about(**table: Any) -> dict[str, Any]:
        recipe = replace(SMALL, table=TableSettings(**table))
        return steps_of(recipe, measure_table=True)[0].about

    assert about() == about()
    assert about() != about(dense=True) != about(hold_out=9) != about()


def test_a_folder_of_another_recipe_is_refused(
    finished: StudyContext, make_context: MakeContext
) -> None:
    longer = replace(TRAINING, epochs=2)
    changed = {
        "searched/keep2/seed0": replace(RECIPE, finetune=longer),
        "search/keep2/seed0": replace(RECIPE, search=longer),
    }
    for name, recipe in changed.items():
        context = make_context(recipe, finished.folders.root)
        with pytest.raises(StudyError, match=rf"{name}/step\.json: .*\(training") as error:
            context.folders.any_result(name)
        assert "choose another --out" in str(error.value)
    # The row itself is as it was, but not the mask that it starts from.
    with pytest.raises(StudyError, match=r"another study \(starts_from"):
        context.folders.any_result("searched/keep2/seed0")
    other = make_context(RECIPE, finished.folders.root, data="other pictures")
    with pytest.raises(StudyError, match=r"another study \(data"):
        other.folders.open_steps()


def test_the_first_epoch_is_timed_by_its_steps_and_a_resumed_one_from_where_it_was() -> None:
    for before in (0, 7):
        now, told = [100.0], list[float]()
        timer = epoch_timer(4, told.append, clock=lambda now=now: now[0])
        for done in range(before + 1, 17):  # four steps an epoch
            now[0] += 2.0
            timer(done, 16, "")
        assert told == [8.0]


def test_the_estimate_counts_the_first_epoch_up() -> None:
    assert estimate_line(30.0, 41, 1).startswith(
        "the first epoch took 30.0 s: about 20.5 min for 41 more epochs (1 run at"
    )
    assert "about 2.0 h for 960 more epochs (4 runs" in estimate_line(30.0, 960, 4)


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_study_says_how_much_there_is_and_how_long_it_takes_once_an_epoch_was_timed(
    make_context: MakeContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jobs: int
) -> None:
    told: list[str] = []
    monkeypatch.setattr(dshrink.study.runner, "LOOK_EVERY_S", 0.1)
    context = make_context(replace(SMALL, rows=("random",)), tmp_path)
    study(context, jobs=jobs, notice=told.append).run()
    assert told[0] == "3 steps, 2 epochs of training: an estimate follows the first epoch"
    assert "for 1 more epoch" in told[1] and len(told) == 2


def rows(
    method: str, *accuracies: float, place: str = "keep2", fps: float = 100
) -> list[RowResult]:
    return [
        RowResult(
            method=method,
            place=place,
            seed=seed,
            accuracy_percent=accuracy,
            throughput_fps=fps,
            macs=2_000_000,
            epochs=16,
            differing=0,
            validation_images=12,
        )
        for seed, accuracy in enumerate(accuracies)
    ]


def test_the_report_has_every_row_and_the_layout_of_tab_4() -> None:
    results = [
        *rows("original", 90, place="", fps=50),
        *rows("scratch", 70, 72),
        *rows("no_free_activation", 75),
        *rows("searched", 80, 82, fps=110),
    ]
    text = [" ".join(line.split()) for line in report_lines("tiny", results)]
    for line in (
        "| keep2 | searched | 2 | 16 | 81.00 (68.29 - 93.71) | 110.0 | 2.20 | 2.00 |",
        "| whole | original | 1 | 16 | 90.00 | 50.0 | 1.00 | 2.00 |",
        # Of the seeds that both have: 75 less 70, and 10 both times.
        "| keep2 | 71.00 | 75.00 [+5.00] | 81.00 [+10.00 (+10.00 to +10.00)] |",
        "Top-1 agreement of merged with unmerged networks: on 72 of 72 validation images (6 "
        "networks).",
    ):
        assert line in text


def test_the_report_tells_how_far_the_searched_masks_are_from_the_other_rows() -> None:
    results = [
        *rows("searched", 80, 82, 84, fps=110),
        *rows("layer_pruning", 78, 78, 81, fps=100),
        *rows("scratch", 80, 83, 84),
        *rows("random", 70, 74, fps=55),
        *rows("layer_pruning", 50, place="keep1"),
    ]
    text = [" ".join(line.split()) for line in report_lines("tiny", results)]
    for line in (
        # 2, 4, 3: a deviation of 1, and 4.303 / sqrt(3) of it.
        "| keep2 | layer_pruning | 3 | +3.00 (+0.52 to +5.48) | yes | 1.10 |",
        "| keep2 | scratch | 3 | -0.33 (-1.77 to +1.10) | no | 1.10 |",
        # Variances 4 / 3 and 8 / 2 make 1.68 degrees of freedom: 5.176 * sqrt(5.333).
        "| keep2 | random | 2 | +10.00 (-1.95 to +21.95) | no | 2.00 |",
    ):
        assert line in text
    assert not any("keep1" in line and "against" in line for line in text)
    one = report_lines("tiny", [*rows("searched", 80), *rows("layer_pruning", 78)])
    assert "| keep2 | layer_pruning | 1 | +2.00 | | 1.00 |" in [" ".join(x.split()) for x in one]


def test_differences_are_taken_seed_by_seed_and_between_draws_by_welch() -> None:
    assert paired({0: 80.0, 1: 90.0, 5: 1.0}, {1: 80.0, 0: 75.0, 9: 0.0}) == AccuracyDifference(
        mean=7.5, half_width=pytest.approx(12.7062047 * 2.5), runs=2
    )
    assert paired({0: 80.0}, {1: 80.0}) is None
    # Equal variances and sizes: twice the degrees of freedom of one sample.
    found = welch([1.0, 2.0, 3.0], [11.0, 12.0, 13.0])
    assert found.mean == -10 and found.half_width == pytest.approx(2.7764451 * (2 / 3) ** 0.5)
    assert found.is_significant
    assert not AccuracyDifference(mean=1.0, half_width=None, runs=1).is_significant
    assert welch([1.0, 1.0], [2.0, 2.0]).half_width == 0


def test_the_report_says_what_its_intervals_cover_and_what_failed() -> None:
    text = "\n".join(
        report_lines(
            "tiny",
            rows("searched", 80, 82),
            remarks=["Chosen by hand."],
            failures={"scratch/keep2/seed0": "the loss became nan"},
        )
    )
    assert "All seeds start from one pre-trained network" in text
    assert "Chosen by hand." in text
    assert "**Failed: scratch/keep2/seed0: the loss became nan**" in text
    assert "pre-trained" not in "\n".join(report_lines("tiny", rows("width", 80, 82)))


def test_the_report_says_what_is_not_there() -> None:
    failed = [replace(one, throughput_fps=None, differing=1) for one in rows("searched", 80)]
    text = "\n".join(report_lines("tiny", failed))
    assert "Tab. 4" not in text
    assert "All seeds" not in text and "against" not in text
    assert "ratio" in text
    assert "on 11 of 12 validation images (1 network)" in text
