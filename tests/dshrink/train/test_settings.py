"""Settings of training: what is refused, and what a result depends on."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dshrink.train.settings import SettingsError, Training
from latency_tables.records import convert_record, plain


def read(base: Training, **values: object) -> Training:
    """The settings with these values, as a recipe's are read."""
    return convert_record(
        {**plain(base), **values},
        Training,
        where="recipe.toml: finetune",
        error=SettingsError,
        fix="change the recipe",
    )


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("epochs", 0, "epochs must be 1 or more"),
        ("batch", 10, "batch must be a multiple of 4"),
        ("warmup_epochs", 5, "warmup_epochs must be fewer"),
        ("learning_rate", 0.0, "learning_rate must be above 0"),
        ("momentum", 1.0, "momentum must be"),
        ("label_smoothing", 1.0, "label_smoothing must be"),
        ("fade_epochs", -1, "fade_epochs must be 0 or more"),
        ("fade_epochs", 6, "fade_epochs must be no more than the epochs (5), got 6"),
        ("block_distillation", -0.5, "block_distillation must be 0 or more"),
        ("distillation", 1.5, "distillation must be a weight"),
        ("temperature", 0.0, "temperature must be above"),
        ("ema", 1.0, "ema must be a decay"),
        ("clip", 0.0, "clip must be"),
        ("precision", "int8", "precision must be fp32 or fp16 or bf16, got 'int8'"),
        ("checkpoint_steps", 0, "checkpoint_steps must be 1"),
        ("weight_decay", -1.0, "weight_decay must be 0 or more"),
        ("batch", "many", "field 'batch' must be an integer, got \"many\""),
        ("batch", True, "field 'batch' must be an integer, got true"),
        ("speed", 1, "unknown field 'speed': remove or"),
        ("augmentation", 3, "field 'augmentation' must be an object, got 3"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused_by_file_and_name(
    field: str, value: object, message: str
) -> None:
    base = Training(epochs=5, accumulate=4, batch=8)
    with pytest.raises(SettingsError) as caught:
        read(base, **{field: value})
    assert message in str(caught.value)
    assert str(caught.value).startswith("recipe.toml: finetune: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [("crop_scale", [0.9, 0.5]), ("crop_scale", [0.5]), ("flip", 2.0), ("color_jitter", -0.1)],
)
def test_an_augmentation_that_makes_no_sense_is_refused(field: str, value: object) -> None:
    with pytest.raises(SettingsError, match=rf"finetune: augmentation: .*{field}.* must be"):
        read(Training(), augmentation={field: value})


def test_what_changes_only_the_speed_is_no_part_of_the_identity() -> None:
    slow, fast = Training(), Training(loaders=8, checkpoint_steps=100)
    assert slow.identity == fast.identity
    assert slow.identity == json.loads(json.dumps(slow.identity))
    for name in ("seed", "batch", "epochs", "warmup_epochs"):
        other = Training(**{name: getattr(slow, name) * 2 + 4})  # type: ignore[arg-type]
        assert other.identity != slow.identity


def test_settings_that_do_not_fade_are_those_that_older_checkpoints_hold() -> None:
    """The fields of a checkpoint or a study from before there were such settings."""
    older = {
        *("epochs", "batch", "accumulate", "learning_rate", "min_learning_rate", "warmup_epochs"),
        *("momentum", "weight_decay", "label_smoothing", "augmentation", "distillation"),
        *("temperature", "ema", "precision", "clip", "seed"),
    }
    assert Training().identity.keys() == older
    assert Training(fade_epochs=0, block_distillation=0.0).identity == Training().identity
    fading = Training(fade_epochs=2, block_distillation=0.5).identity
    assert fading == {**Training().identity, "fade_epochs": 2, "block_distillation": 0.5}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"loaders": 10_000}, "loaders must be from 0 to 256, got 10000"),
        ({"learning_rate": 1e300}, "learning_rate must be above 0, up to 1000000"),
        ({"seed": 1 << 64}, "seed must be an integer of up to 64 bits"),
        ({"epochs": 10**9}, "epochs must be 1 or more, up to 1000000"),
        ({"weight_decay": 1e300}, "weight_decay must be 0 or more, up to 1000000"),
    ],
)
def test_a_setting_of_absurd_size_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        Training(**changes)
