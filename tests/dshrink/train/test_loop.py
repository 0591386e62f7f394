"""The training loop: what a step is, and that nothing of a run is lost when it dies."""

from __future__ import annotations

import copy
import csv
import errno
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import training_process
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dshrink.merge.unmerged import unmerged_module
from dshrink.network.mask_changes import rewriting
from dshrink.network.models import Network
from dshrink.train import loop
from dshrink.train.checkpoint import (
    Checkpoint,
    TrainingState,
    held,
    load_checkpoint,
    save_checkpoint,
)
from dshrink.train.errors import CheckpointError, DivergedError, TrainError
from dshrink.train.feed import Feed
from dshrink.train.loop import LAST_GOOD, Fitted, fit
from dshrink.train.objectives import distilled
from dshrink.train.processes import make_accelerator
from dshrink.train.settings import Training
from dshrink.train.tuning import evaluate, prepared

MakeFeed = Callable[..., Feed]


class Killed(BaseException):
    """What ends a run here and there, as a kill does: nobody catches it."""


def kill_at(step: int) -> Callable[[int, int, str], None]:
    def progress(done: int, total: int, label: str) -> None:
        if done == step:
            raise Killed

    return progress


def small(seed: int = 0) -> nn.Module:
    """With dropout and a norm: what has a state of its own."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=4),
        nn.BatchNorm2d(4),
        nn.ReLU6(),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(4 * 8 * 8, 3),
    )


def trained(
    feed: Feed, folder: Path, module: nn.Module | None = None, **options: Any
) -> tuple[Fitted, nn.Module]:
    module = module or small()
    found = fit(module, feed, folder=folder, identity={"what": "test"}, **options)
    return found, module


def assert_same(one: Fitted, other: Fitted) -> None:
    assert one.history == other.history
    assert one.state.keys() == other.state.keys()
    for name, value in one.state.items():
        assert torch.equal(value, other.state[name]), name


def scaling(settings: Training, folder: Path | None = None) -> Accelerator:
    """Losses are scaled on a CPU too, by a number that rounds."""
    accelerator = make_accelerator(settings, folder)
    if settings.precision == "fp16":
        accelerator.scaler = torch.amp.GradScaler(
            "cpu", init_scale=3.0, growth_factor=1.7, growth_interval=2
        )
    return accelerator


CHANGES = [{}, {"ema": 0.9}, {"precision": "bf16"}, {"precision": "fp16"}, {"accumulate": 2}]


@pytest.mark.parametrize("changes", CHANGES)
@pytest.mark.parametrize("step", [2, 3, 5])
def test_a_run_that_was_killed_ends_as_one_that_was_not(
    changes: Mapping[str, Any],
    step: int,
    training: Training,
    make_feed: MakeFeed,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loop, "make_accelerator", scaling)
    settings = replace(training, checkpoint_steps=1, **changes)
    feed = make_feed(settings)
    whole, _ = trained(feed, tmp_path / "whole")
    with pytest.raises(Killed):
        trained(feed, tmp_path / "killed", progress=kill_at(step))
    seen: list[int] = []
    again, _ = trained(
        feed, tmp_path / "killed", progress=lambda done, total, label: seen.append(done)
    )
    assert_same(again, whole)
    # What a checkpoint holds is not done again; an epoch's last step has its own after validation.
    assert seen == list(range(3 if step == 3 else step + 1, 7))
    states = [
        json.loads((tmp_path / name / "checkpoint.json").read_text())
        for name in ("whole", "killed")
    ]
    assert states[0]["scaler"] == states[1]["scaler"]
    assert (states[0]["scaler"] is not None) == (settings.precision == "fp16")
    assert states[0]["images"] == states[1]["images"] == 48


def test_a_finished_run_is_not_run_again(
    training: Training, make_feed: MakeFeed, tmp_path: Path
) -> None:
    feed = make_feed(training)
    first, module = trained(feed, tmp_path)
    assert all(torch.equal(first.state[n], v) for n, v in module.state_dict().items())
    notices: list[str] = []
    again, _ = trained(feed, tmp_path, progress=kill_at(1), notice=notices.append)
    assert_same(again, first)
    assert again.images_per_second == first.images_per_second > 0
    assert not notices


def test_unreadable_images_are_told_once_and_known_to_a_finished_run(
    pictures: Path, training: Training, tmp_path: Path
) -> None:
    broken = shutil.copytree(pictures, tmp_path / "pictures")
    file = broken / "train/class_1/2.png"
    file.write_bytes(b"no picture")
    notices: list[str] = []
    for _ in range(2):
        feed = training_process.feed_of(broken, training)
        trained(feed, tmp_path / "out", notice=notices.append)
        assert list(feed.unreadable.reasons) == [str(file)]
    (notice,) = notices
    assert notice.startswith("1 image could not be read") and str(file) in notice


def test_a_step_is_that_of_sgd_on_the_mean_loss_of_its_batch(
    training: Training, make_feed: MakeFeed, tmp_path: Path
) -> None:
    settings = replace(training, epochs=1, weight_decay=0.01, clip=0.05)
    feed = make_feed(settings)
    module = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 3))
    mine = copy.deepcopy(module)
    trained(feed, tmp_path, module)

    optimiser = torch.optim.SGD(mine.parameters(), lr=0.02, momentum=0.9, nesterov=True)
    for step, (images, labels) in enumerate(feed.training(0, 0, 1)):
        optimiser.param_groups[0]["lr"] = 0.02 * (1 + math.cos(math.pi * step / 3)) / 2
        optimiser.zero_grad()
        loss = F.cross_entropy(
            mine(feed.preprocessing.normalise(images)), labels, label_smoothing=0.1
        )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(mine.parameters(), 0.05)
        linear = mine[1]
        assert isinstance(linear, nn.Linear) and linear.weight.grad is not None
        linear.weight.grad += 0.01 * linear.weight.detach()  # biases do not decay
        optimiser.step()
    for name, value in module.state_dict().items():
        torch.testing.assert_close(value, mine.state_dict()[name], msg=name)


def test_accumulated_parts_are_one_batch(
    training: Training, make_feed: MakeFeed, tmp_path: Path
) -> None:
    found = []
    for parts in (1, 4):
        settings = replace(training, accumulate=parts, precision="fp32")
        module = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 3))
        torch.manual_seed(0)
        module[1].reset_parameters()
        found.append(trained(make_feed(settings), tmp_path / str(parts), module)[0])
    for name, value in found[0].state.items():
        torch.testing.assert_close(value, found[1].state[name], msg=name)
    losses = [[entry["train_loss"] for entry in one.history] for one in found]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_the_average_of_the_weights_is_what_is_validated_and_kept(
    training: Training, make_feed: MakeFeed, tmp_path: Path
) -> None:
    feed = make_feed(replace(training, ema=0.5, epochs=1))
    seen: list[Tensor] = []
    module = small()

    def watch(done: int, total: int, label: str) -> None:
        seen.append(module.state_dict()["5.weight"].clone())

    found, _ = trained(feed, tmp_path, module, progress=watch)
    average = seen[0]
    for step, value in enumerate(seen[1:], start=1):
        decay = min(0.5, 1 - (1 + step) ** (-2 / 3))
        average = decay * average + (1 - decay) * value
    torch.testing.assert_close(found.state["5.weight"], average)
    module.load_state_dict(found.state)
    module.eval()
    right = sum(
        int((module(feed.preprocessing.normalise(images)).argmax(1) == labels).sum())
        for images, labels in feed.validation(0, 1)
    )
    assert found.accuracy == pytest.approx(100 * right / 12)


@pytest.mark.parametrize("ema", [None, 0.5])
def test_validation_is_in_float32_whatever_is_trained_in(
    ema: float | None, training: Training, make_feed: MakeFeed, tmp_path: Path
) -> None:
    seen = set()

    class Spy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3 * 32 * 32, 3)

        def forward(self, images: Tensor) -> Tensor:
            outputs: Tensor = self.layer(images.flatten(1))
            seen.add((self.training, outputs.dtype, torch.backends.cudnn.allow_tf32))
            return outputs

    module = Spy()
    trained(make_feed(replace(training, precision="bf16", ema=ema)), tmp_path, module)
    assert seen == {(True, torch.bfloat16, True), (False, torch.float32, False)}


@pytest.mark.parametrize(("ema", "kept"), [(None, "model."), (0.5, "average.")])
def test_weights_that_are_no_numbers_do_not_replace_a_checkpoint(
    ema: float | None, kept: str, training: Training, make_feed: MakeFeed, tmp_path: Path
) -> None:
    feed = make_feed(replace(training, checkpoint_steps=1, ema=ema))
    calls = 0

    def objective(outputs: Tensor, images: Tensor, labels: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        loss = F.cross_entropy(outputs, labels)
        # The root's slope at 0 is infinite, and the loss itself as it was.
        return loss + (outputs.sum() * 0).sqrt() if calls == 5 else loss

    with pytest.raises(DivergedError) as caught:
        trained(feed, tmp_path, objective=objective)
    assert "NaN or infinite weights after epoch 2, step 2" in str(caught.value)
    assert "(after epoch 2, step 1)" in str(caught.value)
    assert f"its weights are {tmp_path / LAST_GOOD}" in str(caught.value)
    identity = json.loads((tmp_path / "checkpoint.json").read_text())["identity"]
    found = load_checkpoint(tmp_path, identity)
    assert found is not None and (found.state.epoch, found.state.step) == (1, 1)
    assert all(torch.isfinite(value).all() for value in found.tensors.values())
    weights = load_file(tmp_path / LAST_GOOD)
    assert weights.keys() == small().state_dict().keys()
    assert all(torch.equal(value, found.tensors[kept + name]) for name, value in weights.items())


def test_a_loss_that_is_no_number_stops_the_run_and_the_last_good_state_stays(
    training: Training, make_feed: MakeFeed, tmp_path: Path
) -> None:
    feed = make_feed(training)
    calls = 0

    def objective(outputs: Tensor, images: Tensor, labels: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return F.cross_entropy(outputs, labels) * (math.nan if calls == 5 else 1.0)

    with pytest.raises(DivergedError) as caught:
        trained(feed, tmp_path, objective=objective)
    text = str(caught.value)
    assert "became nan in epoch 2, step 2 of 3" in text
    assert f"{tmp_path / 'checkpoint.json'} (after epoch 1)" in text and "lower --lr" in text
    found = load_checkpoint(
        tmp_path, json.loads((tmp_path / "checkpoint.json").read_text())["identity"]
    )
    assert found is not None and found.state.epoch == 1
    assert all(torch.isfinite(value).all() for value in found.tensors.values())


def test_without_any_good_state_the_error_says_so(
    training: Training, make_feed: MakeFeed, tmp_path: Path
) -> None:
    with pytest.raises(DivergedError, match="epoch 1, step 1 of 3; no state was kept before"):
        trained(make_feed(training), tmp_path, objective=lambda o, i, y: o.sum() * math.inf)


def test_another_run_in_the_folder_is_refused_by_what_differs(
    training: Training, make_feed: MakeFeed, tmp_path: Path
) -> None:
    trained(make_feed(training), tmp_path)
    other = make_feed(replace(training, seed=5))
    with pytest.raises(
        CheckpointError, match=r"another run \(training.seed was 0, now 5\).*choose another"
    ):
        trained(other, tmp_path)
    feed = make_feed(training)
    with pytest.raises(CheckpointError, match=r"plan was None, now 0011"):
        fit(small(), feed, folder=tmp_path, identity={"what": "test", "plan": "0011"})


def state_after(epoch: int) -> TrainingState:
    return TrainingState(
        epoch=epoch,
        step=0,
        losses=[],
        history=[],
        seconds=0.0,
        images=0,
        unreadable={},
        scaler=None,
    )


@pytest.mark.parametrize(
    "text", ["{", '{"schema": "other"}', "[]", '{"schema": "dshrink.checkpoint"}']
)
def test_a_broken_checkpoint_is_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "checkpoint.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"checkpoint\.json: .* delete the folder to start"):
        load_checkpoint(tmp_path, {})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"identity": [1]}, "'identity' must be an object"),
        ({"epoch": None}, "'epoch' must be an integer, got null"),
        ({"epoch": "x"}, "'epoch' must be an integer"),
        ({"epoch": -1}, "epoch -1 is no count"),
        ({"epoch": 3}, "epoch 3 is none of 2 epochs of 3 steps"),
        ({"epoch": 1}, "history is not of the epochs 1 to 1"),
        ({"step": 2}, "0 losses for 2 steps"),
        ({"losses": ["a"]}, "must be a number"),
        ({"history": "x"}, "'history' must be a list"),
        ({"history": [{"epoch": 1}, {"epoch": 2}]}, "epoch 1: train_loss is missing"),
        ({"seconds": "x"}, "'seconds' must be a number"),
        ({"unreadable": [1]}, "'unreadable' must be an object"),
        ({"tensors": "../x.safetensors"}, "is no such name as checkpoint-000001.safetensors"),
    ],
)
def test_a_finished_checkpoint_with_a_wrong_field_is_one_line(
    changes: dict[str, Any],
    said: str,
    training: Training,
    make_feed: MakeFeed,
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
) -> None:
    done = tmp_path_factory.getbasetemp() / "finished_run"
    if not done.exists():
        trained(make_feed(training), done)
    path = done / "checkpoint.json"
    before = path.read_text()
    request.addfinalizer(lambda: path.write_text(before))
    path.write_text(json.dumps({**json.loads(before), **changes}))
    with pytest.raises(CheckpointError, match=re.escape(said)) as caught:
        trained(make_feed(training), done)
    assert str(caught.value).startswith(str(path))
    assert str(caught.value).endswith("delete the folder to start afresh")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda tensors: {n: t * math.nan for n, t in tensors.items()}, "holds NaN or infinity"),
        (lambda tensors: {"model.x": torch.ones(1), **tensors}, "'model.x' is none of the run's"),
        (lambda tensors: {"model.0.bias": torch.ones(1)}, "tensor 'model.0.bias' is 1 float32, "),
        (lambda tensors: {"optimiser.0.bias": torch.ones(4)}, "'model.0.bias' is missing"),
        (
            lambda tensors: {**tensors, "model.0.bias": tensors["model.0.bias"].half()},
            "tensor 'model.0.bias' is 4 float16, the run's is 4 float32",
        ),
    ],
)
def test_tensors_of_a_finished_checkpoint_that_are_not_the_run_s_are_one_line(
    change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]],
    said: str,
    training: Training,
    make_feed: MakeFeed,
    tmp_path: Path,
) -> None:
    trained(make_feed(training), tmp_path)
    (file,) = tmp_path.glob("checkpoint-*.safetensors")
    floats = load_file(file)
    save_file(change(floats), file)
    with pytest.raises(CheckpointError, match=re.escape(said)):
        trained(make_feed(training), tmp_path)


def test_a_newer_checkpoint_and_one_without_tensors_are_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, {}, Checkpoint(state=state_after(1), tensors={"a": torch.ones(2)}))
    (tensors,) = tmp_path.glob("*.safetensors")
    tensors.write_bytes(tensors.read_bytes()[:-4])
    with pytest.raises(CheckpointError, match=r"cannot be read .* delete the folder"):
        load_checkpoint(tmp_path, {})
    path = tmp_path / "checkpoint.json"
    path.write_text(path.read_text().replace('"schema_version": 1', '"schema_version": 2'))
    with pytest.raises(CheckpointError, match=r"schema_version 2 is newer than 1.*: update"):
        load_checkpoint(tmp_path, {})


def test_a_stored_checkpoint_of_version_1_says_what_it_said(tmp_path: Path) -> None:
    stored = Path(__file__).parent / "stored" / "checkpoint_v1.json"
    shutil.copy(stored, tmp_path / "checkpoint.json")
    tensors = {"model.a": torch.tensor([0.5, -1.0])}
    save_file(tensors, tmp_path / "checkpoint-000001.safetensors")
    found = load_checkpoint(tmp_path, {"plan": "0100", "training": {"seed": 0}})
    assert found is not None
    assert (found.state.epoch, found.state.step, found.state.losses) == (1, 2, [1.5, 1.25])
    assert found.state.history == [{"epoch": 1, "val_accuracy": 50.0}]
    assert (found.state.seconds, found.state.images) == (3.5, 24)
    assert found.state.unreadable == {"a.png": "cut off"}
    assert found.state.scaler == {"scale": 65536.0, "growth_tracker": 3}
    assert torch.equal(found.tensors["model.a"], tensors["model.a"])


def test_only_the_newest_tensors_stay(tmp_path: Path) -> None:
    for number in range(3):
        tensors = {"a": torch.full((2,), float(number))}
        save_checkpoint(tmp_path, {}, Checkpoint(state=state_after(number), tensors=tensors))
    assert [path.name for path in tmp_path.glob("*.safetensors*")] == [
        "checkpoint-000003.safetensors"
    ]
    found = load_checkpoint(tmp_path, {})
    assert found is not None and found.tensors["a"].tolist() == [2.0, 2.0]


@pytest.mark.parametrize("file", ["checkpoint.json", "checkpoint-000002.safetensors"])
def test_on_a_full_disk_the_last_checkpoint_stays(
    file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_checkpoint(tmp_path, {}, Checkpoint(state=state_after(1), tensors={"a": torch.ones(2)}))
    before = sorted(tmp_path.iterdir())
    really = os.fsync

    def full(descriptor: int) -> None:
        if f"/.{file}." in str(Path(f"/proc/self/fd/{descriptor}").readlink()):
            raise OSError(errno.ENOSPC, "No space left on device")
        really(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=rf"^{tmp_path / file} cannot be written: No space left"):
        later = Checkpoint(state=state_after(2), tensors={"a": torch.zeros(2)})
        save_checkpoint(tmp_path, {}, later)
    assert sorted(tmp_path.iterdir()) == before
    found = load_checkpoint(tmp_path, {})
    assert found is not None and found.tensors["a"].tolist() == [1.0, 1.0]


def test_a_lock_that_the_dead_leave_is_waited_for(tmp_path: Path) -> None:
    waited: list[float] = []
    with ExitStack() as other:
        other.enter_context(held(tmp_path))

        def wait(seconds: float) -> None:
            waited.append(seconds)
            if len(waited) == 3:
                other.close()

        with held(tmp_path, wait):
            assert len(waited) == 3


def test_two_runs_in_one_folder_are_one_too_many(
    training: Training, make_feed: MakeFeed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed = make_feed(training)
    waited: list[float] = []
    monkeypatch.setattr(loop, "held", partial(held, wait=waited.append))

    def again(done: int, total: int, label: str) -> None:
        with pytest.raises(CheckpointError, match="is in use by another run"):
            trained(feed, tmp_path)
        raise Killed

    with pytest.raises(Killed):
        trained(feed, tmp_path, progress=again)
    assert sum(waited) == pytest.approx(10)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"batch": 32}, "24 training images are fewer than a batch of 32; lower --batch")],
)
def test_a_batch_larger_than_the_data_set_is_refused(
    changes: Mapping[str, Any], message: str, training: Training, make_feed: MakeFeed
) -> None:
    with pytest.raises(TrainError, match=message):
        make_feed(replace(training, **changes))


def test_a_batch_that_cannot_be_shared_out_is_refused(
    training: Training, make_feed: MakeFeed
) -> None:
    with pytest.raises(TrainError, match="a batch of 8 cannot be cut into 3 equal parts"):
        next(make_feed(training).training(0, 0, 3))


def test_processes_share_each_batch_as_accumulated_parts_do(
    training: Training, make_feed: MakeFeed
) -> None:
    one = make_feed(replace(training, accumulate=2))
    two = make_feed(training)
    shares = [list(two.training(1, rank, 2)) for rank in (0, 1)]
    parts = list(one.training(1, 0, 1))
    assert len(parts) == 6 and [len(share) for share in shares] == [3, 3]
    for number, (images, labels) in enumerate(parts):
        step, rank = divmod(number, 2)
        assert torch.equal(images, shares[rank][step][0])
        assert torch.equal(labels, shares[rank][step][1])
    validated = [sum(len(labels) for _, labels in two.validation(rank, 2)) for rank in (0, 1)]
    assert validated == [6, 6]


def test_what_was_before_is_not_read_again(training: Training, make_feed: MakeFeed) -> None:
    feed = make_feed(training)
    whole, rest = list(feed.training(1, 1, 2)), list(feed.training(1, 1, 2, start=2))
    assert len(rest) == 1 and torch.equal(rest[0][0], whole[2][0])


def test_a_feed_under_other_settings_has_the_same_images(
    training: Training, make_feed: MakeFeed
) -> None:
    feed = make_feed(training)
    other = replace(feed, settings=replace(training, batch=12))
    assert (feed.steps, other.steps) == (3, 2)
    assert other.images is feed.images and other.unreadable is feed.unreadable
    with pytest.raises(TrainError, match="fewer than a batch of 32"):
        replace(feed, settings=replace(training, batch=32))


def test_a_teacher_is_brought_to_the_images_once() -> None:
    class Teacher(nn.Linear):
        moves = 0

        def to(self, *place: Any, **more: Any) -> Any:
            Teacher.moves += 1
            return super().to(*place, **more)

    loss = distilled(Teacher(4, 3), Training(distillation=0.5))
    for _ in range(3):
        loss(torch.zeros(2, 3), torch.zeros(2, 4), torch.tensor([0, 1]))
    assert Teacher.moves == 1


def test_distillation_is_the_weighted_sum_of_cross_entropy_and_divergence() -> None:
    torch.manual_seed(0)
    teacher, images = nn.Sequential(nn.Flatten(), nn.Linear(12, 4)), torch.randn(5, 3, 2, 2)
    outputs, labels = torch.randn(5, 4, requires_grad=True), torch.tensor([0, 1, 2, 3, 0])
    settings = Training(distillation=0.3, temperature=2.0, label_smoothing=0.2)
    loss = distilled(teacher, settings)(outputs, images, labels)

    p = torch.softmax(teacher(images) / 2, 1)
    q = torch.softmax(outputs / 2, 1)
    divergence = (p * (p.log() - q.log())).sum(1).mean()
    target = 0.8 * F.one_hot(labels, 4) + 0.2 / 4
    entropy = -(target * torch.log_softmax(outputs, 1)).sum(1).mean()
    torch.testing.assert_close(loss, 0.7 * entropy + 0.3 * 4 * divergence)
    loss.backward()
    assert outputs.grad is not None
    assert all(parameter.grad is None for parameter in teacher.parameters())


def started(*arguments: object, processes: int = 1) -> subprocess.Popen[str]:
    """``tests/support/training_process.py`` in processes of its own."""
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    words = [*(launch if processes > 1 else []), training_process.__file__, *map(str, arguments)]
    return subprocess.Popen(
        [sys.executable, *words],
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def history_of(folder: Path) -> list[dict[str, float]]:
    with (folder / "history.csv").open() as file:
        return [{k: float(v) for k, v in line.items()} for line in csv.DictReader(file)]


@pytest.fixture(scope="module")
def shared(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of what two processes trained together; one validation image is broken."""
    folder = tmp_path_factory.mktemp("shared")
    broken = shutil.copytree(pictures, folder / "pictures")
    (broken / "val/class_0/1.png").write_bytes(b"no picture")  # the second process' first
    process = started("shared", pictures, broken, folder, processes=2)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    assert json.loads(out)["processes"] == 2  # and nothing of the second process
    return folder


@pytest.mark.parametrize(
    ("run", "settings"),
    [
        ("plain", Training(epochs=2, batch=8, learning_rate=0.02)),
        ("progressive", training_process.PROGRESSIVE),
    ],
)
def test_two_processes_learn_what_one_does_with_the_same_batch(
    run: str, settings: Training, shared: Path, pictures: Path, tmp_path: Path
) -> None:
    # Norms see half of the batch in either case: one process accumulates two halves.
    alone = replace(settings, accumulate=2)
    found = training_process.tuned(training_process.feed_of(pictures, alone), tmp_path)
    history = history_of(shared / run)
    assert len(history) == 2
    for name in ("train_loss", *(["fade"] if run == "progressive" else [])):
        expected = [entry[name] for entry in found.fitted.history]
        assert [entry[name] for entry in history] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("run", ["plain", "average"])
def test_the_weights_of_two_processes_have_the_score_of_their_history(
    run: str, shared: Path, pictures: Path
) -> None:
    network = training_process.the_network()
    module = unmerged_module(network, rewriting(network, training_process.MASK), padding="repad")
    module.load_state_dict(load_file(shared / run / "weights.safetensors"))
    feed = training_process.feed_of(pictures)
    batches = prepared(feed.validation(0, 1), feed.preprocessing, torch.device("cpu"))
    score, last = evaluate(module, batches), history_of(shared / run)[-1]
    assert (score.loss, score.accuracy) == pytest.approx((last["val_loss"], last["val_accuracy"]))


def test_what_one_process_could_not_read_all_know_and_the_first_tells(shared: Path) -> None:
    first, second = (json.loads((shared / f"{rank}.json").read_text()) for rank in (0, 1))
    file = str(shared / "pictures" / "val/class_0/1.png")
    assert first["unreadable"] == second["unreadable"] == [file]
    (notice,) = first["notices"]
    assert notice.startswith("1 image could not be read") and file in notice
    assert second["notices"] == []


def test_processes_that_do_not_share_a_disk_do_not_go_on(shared: Path) -> None:
    for rank, folder in enumerate(("broken", "elsewhere")):
        error = json.loads((shared / f"{rank}.json").read_text())["error"]
        assert error == (
            f"{shared / folder}: process 0 would resume after epoch 1, process 1 after its start: "
            "--out must lie on a disk that all processes share"
        )


def test_a_disk_that_is_full_for_the_first_process_ends_the_run_of_both(shared: Path) -> None:
    file = shared / "full" / "checkpoint.json"
    for rank in (0, 1):
        told = json.loads((shared / f"{rank}.json").read_text())["full"]
        assert told.startswith(f"{file} cannot be written: No space left on device; make room")


def test_a_killed_process_goes_on_to_the_same_weights(pictures: Path, tmp_path: Path) -> None:
    process = started("killed", pictures, tmp_path / "killed")
    feed = training_process.feed_of(pictures)
    training_process.tuned(feed, tmp_path / "whole")
    _, err = process.communicate(timeout=240)
    assert process.returncode == -signal.SIGKILL, err
    assert not (tmp_path / "killed" / "weights.safetensors").exists()
    notices: list[str] = []
    training_process.tuned(feed, tmp_path / "killed", notice=notices.append)
    assert notices == [f"{tmp_path / 'killed'}: resumed after epoch 2, step 2"]
    one, other = (
        load_file(tmp_path / name / "weights.safetensors") for name in ("whole", "killed")
    )
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    assert history_of(tmp_path / "whole") == history_of(tmp_path / "killed")


def test_the_networks_module_is_left_as_it_was(
    network: Network, training: Training, make_feed: MakeFeed, tmp_path: Path
) -> None:
    settings = replace(training, precision="bf16", epochs=1)
    module = copy.deepcopy(network.module)
    trained(make_feed(settings), tmp_path, module)
    module.eval()
    assert module(torch.zeros(1, 3, 32, 32)).dtype == torch.float32
    copy.deepcopy(module)
