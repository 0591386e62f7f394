"""Numbers out of all proportion are refused in one line, by commands and by Python alike."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest

import dshrink as api
from dshrink.errors import DshrinkError
from dshrink.importance.settings import ImportanceSettings, Level
from dshrink.limits import require_within
from dshrink.network.large_images import notice_large_images
from dshrink.network.models import randomise
from dshrink.train.expansion import expand
from dshrink.train.settings import Training
from profiler.errors import ProfilerError
from profiler.target import Target

MODEL = "mobilenetv2_035"
LAYER = api.Layer(in_channels=8, out_channels=8, height=8)


def importance(**asked: float) -> object:
    choice = api.ModelChoice(model=MODEL)
    level = Level.parse("recalibrate")
    return ImportanceSettings(choice=choice, data="d", level=level, **asked)  # type: ignore[arg-type]


def study(jobs: int) -> object:
    recipe = api.load_recipe("digits")
    return api.StudyRequest(recipe=recipe, data="d", folder=Path("f"), target=Target(), jobs=jobs)


#: Calls that must refuse their number before they look at anything else; nothing here exists.
ABSURD: dict[str, Callable[[], object]] = {
    "--hold-out 1000000000": lambda: api.profile_network(MODEL, "out", hold_out=10**9),
    "--hold-out 1": lambda: api.profile_network(MODEL, "out", hold_out=1),
    "--time-limit nan": lambda: api.profile_network(MODEL, "out", time_limit=math.nan),
    "--time-limit inf": lambda: api.measure_layers([LAYER], "out", time_limit=math.inf),
    "--max-kernel 0": lambda: api.profile_network(MODEL, "out", max_kernel=0),
    "--batch 1000000000": lambda: Target(batch=10**9),
    "--batch 0": lambda: Target(batch=0),
    "--threads so large": lambda: Target(threads=10**6000),
    "--batch -1": lambda: api.merge_by_plan(MODEL, "no file", batch=-1),
    "--images so large": lambda: api.refit_by_plan(MODEL, "no", "no", "out", images=10**5000),
    "--images 1": lambda: api.refit_by_plan(MODEL, "no", "no", "out", images=1),
    "--loaders 10000": lambda: api.refit_by_plan(MODEL, "no", "no", "out", loaders=10_000),
    "--loaders 9999": lambda: importance(loaders=9999),
    "--images 0": lambda: importance(images=0),
    "--weight-decay": lambda: importance(weight_decay=math.inf),
    "--jobs 0": lambda: study(0),
    "--jobs 100000": lambda: study(100_000),
    "ratio 1000000000": lambda: expand(None, (), ratio=10**9),  # type: ignore[arg-type]
    "loaders must be": lambda: Training(loaders=300),
    "resolution 8000x8000": lambda: api.load_network(MODEL, resolution=8000),
    "in_channels 10000": lambda: api.load_network(MODEL, in_channels=10_000),
    "--classes 10000000": lambda: api.load_network(MODEL, classes=10**7),
}


@pytest.mark.parametrize("said", ABSURD)
def test_python_has_the_limits_of_the_command_line(said: str) -> None:
    with pytest.raises((DshrinkError, ProfilerError)) as caught:
        ABSURD[said]()
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_the_ends_of_a_range_are_in_it_and_nothing_asked_is_nothing_refused() -> None:
    for value in (8, 1000, None):
        require_within("hold-out", value, 8, 1000)
    with pytest.raises(DshrinkError, match=r"--hold-out 7\.5: give a number from 8 to 1000"):
        require_within("hold-out", 7.5, 8, 1000)


@pytest.mark.parametrize(
    "words",
    [
        ("profile", MODEL, "--hold-out", "1000000000", "--out", "t"),
        ("profile", MODEL, "--time-limit", "nan", "--out", "t"),
        ("bench", MODEL, "--batch", "9" * 15, "--out", "r.csv"),
        ("merge", MODEL, "--plan", "mask:1", "--batch", "0", "--out", "o.onnx"),
        (
            "importance",
            MODEL,
            "--data",
            "d",
            "--level",
            "refit",
            "--loaders",
            "999",
            "--out",
            "i.csv",
        ),
        ("chain", MODEL, "--resolution", "8000"),
    ],
)
def test_commands_say_the_range_in_one_line(words: tuple[str, ...], dshrink, tmp_path) -> None:
    ran = dshrink(*words)
    assert ran.status == 2 and ran.err.startswith("dshrink: ") and ran.err.count("\n") == 1
    assert " 1 to " in ran.err or " 8 to " in ran.err or " 0 to " in ran.err or "most" in ran.err


def test_large_images_are_said_to_take_long_before_they_do() -> None:
    from torch import nn

    said: list[str] = []
    net = nn.Conv2d(3, 4, 3)
    notice_large_images(net, (3, 1024, 1024), said.append)
    assert said == []
    notice_large_images(net, (3, 2048, 4096), said.append)
    assert "images of 2048x4096 are large: one takes about" in said[0]
    notice_large_images(None, (3, 2240, 2240), said.append)
    assert "100 times as long as one of 224x224" in said[1]


def test_large_images_are_drawn_one_at_a_time() -> None:
    from torch import nn

    class Seen(nn.Module):
        def forward(self, x):
            self.batch = len(x)
            return x

    net = Seen()
    for side, batch in ((32, 4), (1100, 1)):
        randomise(net, (1, side, side))
        assert net.batch == batch
