"""Trackers of experiments: what they are told, when they start and end, what is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
import torch
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker
from torch import nn

from dshrink.network.references import ModelChoice
from dshrink.study.recipe import load_recipe
from dshrink.train import trackers
from dshrink.train.errors import TrainError
from dshrink.train.feed import Feed
from dshrink.train.loop import Fitted, fit
from dshrink.train.opening import require_trainable
from dshrink.train.settings import Training
from dshrink.train.trackers import require_trackers

if TYPE_CHECKING:
    from ran_command import Ran

MakeFeed = Callable[..., Feed]


class Recorder(GeneralTracker):  # type: ignore[misc]
    """What Accelerate does with a tracker, as a list."""

    name = "recorder"
    requires_logging_directory = True
    told: ClassVar[list[tuple[Any, ...]]] = []

    def __init__(self, run_name: str, logging_dir: str, **options: Any) -> None:
        super().__init__()
        self.told.append(("init", run_name, str(logging_dir)))

    def start(self) -> None:
        self.told.append(("start",))

    @property
    def tracker(self) -> None:
        return None

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.told.append(("configuration", values))

    def log(self, values: dict[str, Any], step: int | None = None, **options: Any) -> None:
        self.told.append(("log", step, values))

    def finish(self) -> None:
        self.told.append(("finish",))


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What the recorder was told so far; it is one of the trackers meanwhile."""
    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "recorder", Recorder)
    monkeypatch.setattr(Recorder, "told", [])
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    return Recorder.told


def trained(feed: Feed, folder: Path, **options: Any) -> Fitted:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 3))
    return fit(module, feed, folder=folder, identity={"what": "test"}, **options)


def logged(told: list[tuple[Any, ...]]) -> list[tuple[int, dict[str, float]]]:
    return [(one[1], one[2]) for one in told if one[0] == "log"]


def test_a_tracker_is_told_the_configuration_the_losses_and_the_history(
    training: Training, make_feed: MakeFeed, tmp_path: Path, told: list[tuple[Any, ...]]
) -> None:
    settings = replace(training, log_with=("recorder",), checkpoint_steps=1)
    fitted = trained(make_feed(settings), tmp_path)
    assert told[0] == ("init", "dshrink", str(tmp_path))
    configuration = told[2][1]
    assert configuration["what"] == "test"
    assert configuration["training.learning_rate"] == 0.02
    assert configuration["training.augmentation.crop_scale"] == "[0.08, 1.0]"
    assert [one[0] for one in told[:3]] == ["init", "start", "configuration"]
    assert [one[0] for one in told].count("finish") == 1 and told[-1] == ("finish",)
    epochs = [(step, values) for step, values in logged(told) if "epoch" in values]
    assert epochs == list(zip((3, 6), fitted.history, strict=True))
    losses = [(step, values["loss"]) for step, values in logged(told) if "loss" in values]
    assert [step for step, _ in losses] == [1, 2, 3, 4, 5, 6]
    for at, epoch in enumerate(fitted.history):
        of_epoch = [loss for _, loss in losses[3 * at : 3 * at + 3]]
        assert sum(of_epoch) / 3 == pytest.approx(epoch["train_loss"])
    # What is finished is not tracked again.
    before = len(told)
    trained(make_feed(settings), tmp_path)
    assert len(told) == before


def test_tracking_changes_nothing_and_a_resumed_run_is_told_what_was_before(
    training: Training, make_feed: MakeFeed, tmp_path: Path, told: list[tuple[Any, ...]]
) -> None:
    plain = trained(make_feed(training), tmp_path / "plain")

    def stop(done: int, total: int, label: str) -> None:
        if done == 5:
            raise KeyboardInterrupt

    feed = make_feed(replace(training, log_with=("recorder",)))
    with pytest.raises(KeyboardInterrupt):
        trained(feed, tmp_path / "tracked", progress=stop)
    assert told[-1] == ("finish",)
    told.clear()
    assert trained(feed, tmp_path / "tracked").history == plain.history
    assert [one for one in logged(told) if "epoch" in one[1]] == [
        *zip((3, 6), plain.history, strict=True)
    ]


def test_what_is_no_number_is_not_logged() -> None:
    values = {"epoch": 1, "mask": [0.5], "keep_mask": "01", "val_loss": 0.25}
    assert trackers._numbers(values) == {"epoch": 1, "val_loss": 0.25}


def test_a_tracker_that_does_not_start_is_one_line_before_the_first_step(
    training: Training,
    make_feed: MakeFeed,
    tmp_path: Path,
    told: list[tuple[Any, ...]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def start(self: Recorder) -> None:
        raise RuntimeError("not logged in\nlong story")

    def finish(self: Recorder) -> None:
        raise AttributeError("never started")

    monkeypatch.setattr(Recorder, "start", start)
    monkeypatch.setattr(Recorder, "finish", finish)
    seen: list[int] = []
    feed = make_feed(replace(training, log_with=("recorder",)))
    with pytest.raises(TrainError, match=r"--log-with: recorder did not start \(not logged in\)"):
        trained(feed, tmp_path, progress=lambda done, total, label: seen.append(done))
    assert not seen


def test_a_missing_package_and_an_unknown_tracker_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(trackers, "get_available_trackers", lambda: ["tensorboard"])
    require_trackers(["tensorboard"])
    with pytest.raises(TrainError, match="wandb: its package is not installed: python -m pip inst"):
        require_trackers(["tensorboard", "wandb"])
    with pytest.raises(TrainError, match="pip install comet-ml"):
        require_trackers(["comet_ml"])
    with pytest.raises(
        TrainError, match=r"--log-with wand: no such tracker; known are aim, .*wandb"
    ):
        require_trackers(["wand"])
    with pytest.raises(TrainError, match="no such tracker"):
        require_trainable(ModelChoice(model="resnet18"), Training(log_with=("wand",)))


@pytest.mark.parametrize(
    "words",
    [
        ("finetune", "resnet18", "--plan", "mask:0", "--out", "out"),
        ("expand", "resnet18", "--out", "out"),
        ("search", "mask", "resnet18", "--keep", "1", "--out", "plan.json"),
        ("run", "digits", "--out", "out"),
    ],
)
def test_a_command_refuses_a_missing_tracker_before_it_opens_images(
    words: tuple[str, ...],
    dshrink: Callable[..., Ran],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    ran = dshrink(*words, "--data", "missing", "--log-with", "wand")
    assert ran.status == 2
    assert ran.err.startswith("dshrink: --log-with wand: no such tracker")
    assert not list(tmp_path.iterdir())


def test_a_recipe_tells_all_its_trainings_to_a_tracker_and_stays_the_same_study() -> None:
    recipe = load_recipe("digits")
    told = recipe.logged(["wandb", "mlflow"])
    assert recipe.log_with == () and told.log_with == ("wandb", "mlflow")
    for one in ("finetune", "search", "distilled", "pretrain"):
        training = getattr(told, one)
        assert training.log_with == ("wandb", "mlflow")
        assert training.identity == getattr(recipe, one).identity
    assert recipe.logged([]) is recipe
