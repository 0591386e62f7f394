"""Recipes: those that ship, and what is said of one that makes no sense."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from dshrink.search.published import published_masks
from dshrink.study.recipe import Recipe, load_recipe, shipped_recipes
from dshrink.train.errors import TrainError
from dshrink.train.settings import Augmentation, Training

MINIMAL = """
title = "tiny"
model = "test_resnet"
keep = [2]
[finetune]
epochs = 3
[search]
epochs = 1
"""
IMAGENET = [name for name in shipped_recipes() if not name.startswith("digits")]

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(text: str) -> Path:
        path = tmp_path / "mine.toml"
        path.write_text(text)
        return path

    return write


def load_text(write: Write, text: str) -> Recipe:
    return load_recipe(str(write(text)))


def test_the_paper_s_networks_ship_in_both_lengths_beside_the_digits() -> None:
    networks = ("efficientnet_lite0", "efficientnet_lite3", "mobilenetv2_100", "mobilenetv2_140")
    expected = {f"{name}_{epochs}" for name in networks for epochs in (180, 360)}
    assert set(shipped_recipes()) == {"digits", "digits_short"} | expected


@pytest.mark.parametrize("name", IMAGENET)
def test_recipes_of_imagenet_are_the_paper_s(name: str) -> None:
    recipe = load_recipe(name)
    length = int(name.rpartition("_")[2])
    assert recipe.rows == (("searched", "distilled") if length == 180 else ("distilled",))
    assert (recipe.finetune.epochs, recipe.distilled.epochs) == (180, length)
    assert recipe.weights == "pretrained"
    # The paper's Sec. 5.1, and the public configuration of its authors.
    assert recipe.finetune == replace(
        Training(epochs=180, batch=512, momentum=0.9, weight_decay=1e-5, label_smoothing=0.1),
        learning_rate=0.1 * 512 / 256,
        min_learning_rate=5e-6 * 512 / 256,
        warmup_epochs=0,
        clip=5.0,
        augmentation=Augmentation(auto_augment="rand-m5-mstd0.5-inc1"),
        precision="fp16",
        loaders=8,
        checkpoint_steps=500,
    )
    # "The same settings" in every field but the epochs, and but for the teacher.
    assert recipe.search == replace(recipe.finetune, epochs=20)
    assert recipe.distilled == replace(recipe.finetune, epochs=length, distillation=0.7)
    assert recipe.free_activation
    assert recipe.finetune.distillation == 0 < recipe.distilled.distillation
    masks = [mask for mask in published_masks().values() if mask.base_model == recipe.model]
    assert set(recipe.keep) == {mask.keep_mask.count("1") for mask in masks}


def test_the_digits_recipe_has_all_rows_over_three_seeds_and_a_short_form() -> None:
    digits, short = load_recipe("digits"), load_recipe("digits_short")
    assert len(digits.rows) == 8
    assert len(digits.seeds) == 3
    assert digits.random_draws == 5
    assert not digits.free_activation and "free_activation" in digits.rows
    assert digits.remarks == short.remarks != ()
    assert "were chosen on the same validation images" in digits.remarks[0]
    assert set(short.rows) == {"original", "searched", "random", "layer_pruning"}
    assert (short.model, short.keep) == (digits.model, digits.keep)
    assert short.finetune.epochs < digits.finetune.epochs
    # Sections are merged field by field.
    assert short.finetune.augmentation == digits.finetune.augmentation
    assert short.finetune.learning_rate == digits.finetune.learning_rate


def test_what_a_section_leaves_out_is_as_in_the_fine_tuning(write: Write) -> None:
    text = MINIMAL.replace("epochs = 3", "epochs = 3\nbatch = 8\naugmentation.flip = 0.0")
    recipe = load_text(write, text)
    assert recipe.name == "mine"
    assert (recipe.search.epochs, recipe.search.batch) == (1, 8)
    assert recipe.search.augmentation == Augmentation(flip=0.0)
    text = text + "learning_rate = 1\naugmentation.crop_scale = [0.25, 1]"
    read = load_text(write, text).search
    assert read.learning_rate == 1.0 and isinstance(read.learning_rate, float)
    assert read.augmentation == Augmentation(flip=0.0, crop_scale=(0.25, 1.0))
    assert recipe.distilled == recipe.finetune
    assert (recipe.pretrain, recipe.decay, recipe.images) == (None, None, None)
    searched = load_text(write, MINIMAL + "decay = 0.5\nlimit = 2")
    assert (searched.decay, searched.limit) == (0.5, 2.0)


def test_rows_from_initial_weights_are_trained_as_long_as_the_others_with_their_pre_training() -> (
    None
):
    digits = load_recipe("digits")
    assert digits.pretrain is not None and digits.pretrain != digits.finetune
    longer = replace(digits.pretrain, epochs=digits.pretrain.epochs + digits.finetune.epochs)
    for row in digits.rows:
        alone, taught = row in ("scratch", "width"), row == "distilled"
        expected = longer if alone else digits.distilled if taught else digits.finetune
        assert digits.training_of(row) == expected
    # Published weights bring training of which nobody here knows how long it was.
    published = load_recipe("mobilenetv2_100_180")
    assert published.training_of("scratch") == published.finetune


def test_merged_blocks_have_an_activation_behind_them_unless_the_recipe_says_no(
    write: Write,
) -> None:
    assert load_text(write, MINIMAL).free_activation
    text = MINIMAL.replace("keep = [2]", "keep = [2]\nfree_activation = false")
    assert not load_text(write, text).free_activation


def test_goals_are_keep_counts_budgets_or_masks_of_the_paper(write: Write) -> None:
    def names(line: str) -> list[str]:
        text = MINIMAL.replace("test_resnet", "mobilenetv2_100").replace("keep = [2]", line)
        return [goal.name for goal in load_text(write, text).goals]

    assert names("keep = [12, 0]") == ["keep12", "keep0"]
    assert names("budgets_ms = [2, 1.25]") == ["2ms", "1.25ms"]
    assert names('masks = ["MBV2-DS-A"]') == ["MBV2-DS-A"]


def test_rows_and_seeds_can_be_chosen_for_one_run() -> None:
    recipe = load_recipe("digits")
    few = recipe.changed(rows=["random"], seeds=[7])
    assert (few.rows, few.seeds, few.narrower) == (("random",), (7,), ())
    assert recipe.changed() == recipe
    with pytest.raises(TrainError, match="unknown row 'fast'"):
        recipe.changed(rows=["fast"])
    both = recipe.with_all_of(recipe.changed(rows=["no_free_activation", "random"], seeds=[7]))
    assert both.rows == (*recipe.rows, "no_free_activation")
    assert (both.seeds, both.narrower) == ((0, 1, 2, 7), recipe.narrower)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("keep = [2]", "keeps = [2]", "unknown field 'keeps'"),
        ("keep = [2]", "keep = [2.5]", "field 'keep[0]' must be an integer, got 2.5"),
        ("keep = [2]", "keep = [2]\nseeds = [1, 1]", "seeds must name at least one, and none"),
        ("keep = [2]", "keep = [2]\nseeds = [-1]", "seeds must be 0 or more"),
        ("keep = [2]", "keep = [2]\nrows = ['fast']", "unknown row 'fast'; known are original, se"),
        ("keep = [2]", "keep = [2]\nbudgets_ms = [1]", "give one of keep, budgets_ms and masks"),
        ("keep = [2]", "", "give one of keep, budgets_ms and masks"),
        ("keep = [2]", "keep = [2, 2]", "no goal may be given twice"),
        ("keep = [2]", "budgets_ms = [0]", "keep must be 0 or more, budgets_ms above 0"),
        ("keep = [2]", "masks = ['MBV2-DS-A']", "MBV2-DS-A is a mask of mobilenetv2_100, not of"),
        ("keep = [2]", "masks = ['MBV2-DS-Z']", "the paper has no network 'MBV2-DS-Z'"),
        (
            "keep = [2]",
            "keep = [2]\nweights = 'initial'",
            '"initial" goes with a section [pretrain',
        ),
        ("keep = [2]", "keep = [2]\nrows = ['distilled']", "needs a section [distilled]"),
        ("keep = [2]", "keep = [-1]", "keep must be 0 or more, budgets_ms above 0"),
        ("keep = [2]", "keep = [2]\nrows = ['width']", "the row width goes with a list narrower"),
        ("keep = [2]", "keep = [2]\nwidths = [0.5]", "unknown field 'widths'"),
        ("keep = [2]", "keep = [2]\nresolution = 4", "resolution is 8 or more"),
        ("keep = [2]", "keep = [2]\nfree_activation = 1", "must be true or false, got 1"),
        ("keep = [2]", "keep = [2]\nremarks = 'one'", "field 'remarks' must be a list"),
        ("keep = [2]", "keep = [2]\nimages = 3", "field 'images' must be an object or null, got 3"),
        ("keep = [2]", "keep = [2]\nimages.training = 3", "images: field 'validation' is missing"),
        ("keep = [2]", "keep = [2]\ntable.hold_out = 4", "table: hold_out is from 8 to 1000"),
        ("keep = [2]", "keep = [2]\ntable.dense = 1", "table: field 'dense' must be true or fals"),
        ('title = "tiny"', "", "field 'title' is missing"),
        ('title = "tiny"', "title = 2026-11-21", "field 'title' must be a text"),
        ("[finetune]", "[finetune", "not valid TOML"),
        ("epochs = 3", "epochs = 'many'", "finetune: field 'epochs' must be an integer, got"),
        ("epochs = 3", "epoch = 3", "finetune: unknown field 'epoch': remove or"),
        ("epochs = 3", "augmentation.flip = 2", "finetune: augmentation: flip must be a pr"),
        ("epochs = 1", "decay = -1", "decay is 0 or more, limit above 0; got -1"),
        ("epochs = 1", "limit = 0", "decay is 0 or more, limit above 0; got None, 0"),
        ("epochs = 1", "decay = 'much'", "field 'decay' must be a number"),
        ("[search]\nepochs = 1", "", "field 'search' is missing"),
        ('title = "tiny"', 'like = "nothing"', "like: no recipe 'nothing'; there are digits"),
        ('title = "tiny"', "like = 3", "field 'like' must be a text, got 3"),
    ],
)
def test_nonsense_is_refused_in_one_line_with_the_file(
    write: Write, old: str, new: str, said: str
) -> None:
    assert old in MINIMAL
    path = write(MINIMAL.replace(old, new))
    with pytest.raises(TrainError) as error:
        load_recipe(str(path))
    assert str(error.value).startswith(str(path))
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_name_that_is_no_recipe_gets_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(TrainError, match=r"no recipe 'digit'; there are digits, digits_short, "):
        load_recipe("digit")
    with pytest.raises(TrainError, match="cannot be read"):
        load_recipe(str(tmp_path / "none.toml"))


def test_a_single_run_has_the_first_seed_unless_its_settings_name_one() -> None:
    recipe = load_recipe("digits").changed(seeds=(7, 8))
    assert recipe.seeded(Training()).seed == 7
    assert recipe.seeded(Training(seed=3)).seed == 3


def test_a_recipe_may_be_of_a_network_of_ones_own(write: Write) -> None:
    own = """model = "nets/net.py:make"
model_args = ["labels=3"]
in_channels = 1
resolution = [32, 48]
weights = "w.pth"
weights_ema = true"""
    found = load_text(write, MINIMAL.replace('model = "test_resnet"', own))
    assert found.choice.name == "net.py:make labels=3"
    assert (found.choice.size, found.choice.channels) == ((32, 48), 1)
    assert (found.choice.weights, found.choice.weights_ema) == ("w.pth", True)
    for field in ('model = "net.py"', 'model_args = ["labels"]', "in_channels = 0"):
        with pytest.raises(TrainError, match=r"\.toml"):
            load_text(write, f'like = "digits"\n{field}\n')


FADING = MINIMAL.replace("epochs = 3", "epochs = 3\nfade_epochs = 2\nblock_distillation = 0.5")


def test_only_what_loses_activations_fades(write: Write) -> None:
    pretrain = 'weights = "initial"\n' + FADING + "[pretrain]\nepochs = 1\n"
    for text in (FADING, pretrain):
        recipe = load_text(write, text)
        progressive = (recipe.finetune.fade_epochs, recipe.finetune.block_distillation)
        assert progressive == (2, 0.5)
        for row in ("searched", "distilled", "free_activation", "no_free_activation", "random"):
            training = recipe.training_of(row)
            assert (training.fade_epochs, training.block_distillation) == progressive
        others = [recipe.training_of(row) for row in ("original", "layer_pruning", "scratch")]
        for training in (recipe.search, *others, *([recipe.pretrain] if recipe.pretrain else [])):
            assert (training.fade_epochs, training.block_distillation) == (0, 0.0)


@pytest.mark.parametrize("section", ["search", "pretrain"])
def test_a_section_that_removes_no_activations_cannot_fade_them(section: str, write: Write) -> None:
    text = 'weights = "initial"\n' + MINIMAL.replace("[search]\nepochs = 1\n", "")
    both = {"search": "epochs = 1\n", "pretrain": "epochs = 1\n"}
    both[section] += "fade_epochs = 1\n"
    text += "".join(f"[{name}]\n{lines}" for name, lines in both.items())
    with pytest.raises(TrainError, match=rf"mine\.toml.*\[{section}\] removes no activations"):
        load_text(write, text)
