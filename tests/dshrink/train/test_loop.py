"""The training loop: what a step is, and that nothing of a run is lost when it dies."""

from __future__ import annotations

import copy
import csv
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from dshrink.models import Network
from dshrink.train.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from dshrink.train.errors import CheckpointError, DivergedError, TrainError
from dshrink.train.feed import Feed
from dshrink.train.loop import Fitted, fit
from dshrink.train.objectives import distilled
from dshrink.train.settings import Training

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
    settings = options.pop("settings", feed.settings)
    found = fit(module, feed, settings, folder=folder, identity={"what": "test"}, **options)
    return found, module


def assert_same(one: Fitted, other: Fitted) -> None:
    assert one.history == other.history
    assert one.state.keys() == other.state.keys()
    for name, value in one.state.items():
        assert torch.equal(value, other.state[name]), name


@pytest.mark.parametrize("changes", [{}, {"ema": 0.9}, {"precision": "bf16"}, {"accumulate": 2}])
@pytest.mark.parametrize("step", [2, 3, 5])
def test_a_run_that_was_killed_ends_as_one_that_was_not(
    changes: Mapping[str, Any], step: int, training: Training, make_feed: MakeFeed, tmp_path: Path
) -> None:
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


def test_a_finished_run_is_not_run_again(
    training: Training, make_feed: MakeFeed, tmp_path: Path
) -> None:
    feed = make_feed(training)
    first, module = trained(feed, tmp_path)
    assert all(torch.equal(first.state[n], v) for n, v in module.state_dict().items())
    again, _ = trained(feed, tmp_path, progress=kill_at(1))
    assert_same(again, first)


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
        loss = F.cross_entropy(mine(feed.look.normalise(images)), labels, label_smoothing=0.1)
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


def test_a_parameter_may_have_a_rate_of_its_own(
    training: Training, make_feed: MakeFeed, tmp_path: Path
) -> None:
    feed = make_feed(replace(training, epochs=1, momentum=0.0, weight_decay=0.5, batch=24))
    moved = {}
    for rate in (0.0, 1.0, 10.0):
        module = small()
        before = {name: value.clone() for name, value in module.state_dict().items()}
        rates = {"5.weight": rate}
        found, _ = trained(feed, tmp_path / str(rate), module, rates=rates)
        moved[rate] = found.state["5.weight"] - before["5.weight"]
    assert not moved[0.0].any()
    torch.testing.assert_close(moved[10.0], 10 * moved[1.0])


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
        int((module(feed.look.normalise(images)).argmax(1) == labels).sum())
        for images, labels in feed.validation(0, 1)
    )
    assert found.accuracy == pytest.approx(100 * right / 12)


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
    assert found is not None and found.state["epoch"] == 1
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
        CheckpointError, match=r"another run \(training was .*, now .*choose another"
    ):
        trained(other, tmp_path)
    feed = make_feed(training)
    with pytest.raises(CheckpointError, match=r"plan was None, now 0011"):
        fit(small(), feed, training, folder=tmp_path, identity={"what": "test", "plan": "0011"})


@pytest.mark.parametrize(
    "text", ["{", '{"schema": "other"}', "[]", '{"schema": "dshrink.checkpoint"}']
)
def test_a_broken_checkpoint_is_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "checkpoint.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"checkpoint\.json: not a readable checkpoint"):
        load_checkpoint(tmp_path, {})


def test_a_newer_checkpoint_and_one_without_tensors_are_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, {}, Checkpoint(state={"epoch": 1}, tensors={"a": torch.ones(2)}))
    (tensors,) = tmp_path.glob("*.safetensors")
    tensors.write_bytes(tensors.read_bytes()[:-4])
    with pytest.raises(CheckpointError, match=r"cannot be read .* delete the folder"):
        load_checkpoint(tmp_path, {})
    path = tmp_path / "checkpoint.json"
    path.write_text(path.read_text().replace('"schema_version": 1', '"schema_version": 2'))
    with pytest.raises(CheckpointError, match="schema version 2, this dshrink reads 1: update"):
        load_checkpoint(tmp_path, {})


def test_only_the_newest_tensors_stay(tmp_path: Path) -> None:
    for number in range(3):
        tensors = {"a": torch.full((2,), float(number))}
        save_checkpoint(tmp_path, {}, Checkpoint(state={"epoch": number}, tensors=tensors))
    assert [path.name for path in tmp_path.glob("*.safetensors*")] == [
        "checkpoint-000003.safetensors"
    ]
    found = load_checkpoint(tmp_path, {})
    assert found is not None and found.tensors["a"].tolist() == [2.0, 2.0]


def test_two_runs_in_one_folder_are_one_too_many(
    training: Training, make_feed: MakeFeed, tmp_path: Path
) -> None:
    feed = make_feed(training)

    def again(done: int, total: int, label: str) -> None:
        with pytest.raises(CheckpointError, match="is in use by another run"):
            trained(feed, tmp_path)
        raise Killed

    with pytest.raises(Killed):
        trained(feed, tmp_path, progress=again)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"batch": 32}, "24 images to train on make no batch of 32; lower --batch")],
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


def finetune_command(pictures: Path, out: Path, *more: str) -> list[str]:
    options = ["--epochs", "2", "--batch", "8", "--lr", "0.02", "--resolution", "32", "--json"]
    return [
        *("dshrink", "finetune", "test_resnet", "--plan", "mask:1010", "--weights", "initial"),
        *("--data", str(pictures), "--out", str(out), *options, *more),
    ]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def losses_of(folder: Path) -> list[float]:
    with (folder / "history.csv").open() as file:
        return [float(line["train_loss"]) for line in csv.DictReader(file)]


def test_two_processes_learn_what_one_does_with_the_same_batch(
    pictures: Path, tmp_path: Path
) -> None:
    # Norms see half of the batch in either case: one process accumulates two halves.
    one = [sys.executable, "-m", *finetune_command(pictures, tmp_path / "one", "--accumulate", "2")]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    launch += ["--nproc-per-node", "2", "-m"]
    two = [*launch, *finetune_command(pictures, tmp_path / "two")]
    runs = [
        subprocess.Popen(
            command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for command in (one, two)
    ]
    for run, processes in zip(runs, (1, 2), strict=True):
        out, err = run.communicate(timeout=240)
        assert run.returncode == 0, err
        assert json.loads(out)["processes"] == processes  # and nothing of the second process
    alone, shared = losses_of(tmp_path / "one"), losses_of(tmp_path / "two")
    assert len(alone) == 2 and alone == pytest.approx(shared, rel=1e-4)


def test_a_killed_process_goes_on_to_the_same_weights(pictures: Path, tmp_path: Path) -> None:
    def start(out: Path) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", *finetune_command(pictures, out)]
        return subprocess.Popen(
            command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    whole, killed = start(tmp_path / "whole"), start(tmp_path / "killed")
    deadline = time.monotonic() + 120
    while not (tmp_path / "killed" / "checkpoint.json").exists() and killed.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.002)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert not (tmp_path / "killed" / "weights.safetensors").exists()
    again = start(tmp_path / "killed")
    for run in (whole, again):
        assert run.wait(timeout=120) == 0, run.communicate()[1]
    one, other = (
        load_file(tmp_path / name / "weights.safetensors") for name in ("whole", "killed")
    )
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    assert losses_of(tmp_path / "whole") == losses_of(tmp_path / "killed")


def test_the_networks_module_is_left_as_it_was(
    network: Network, training: Training, make_feed: MakeFeed, tmp_path: Path
) -> None:
    settings = replace(training, precision="bf16", epochs=1)
    module = copy.deepcopy(network.module)
    trained(make_feed(settings), tmp_path, module)
    module.eval()
    assert module(torch.zeros(1, 3, 32, 32)).dtype == torch.float32
    copy.deepcopy(module)
