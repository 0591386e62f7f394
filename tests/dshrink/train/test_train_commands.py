"""What the commands that train share: settings, resolutions, and the way from one to the next."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest
import torch
from safetensors.torch import save_file
from synthetic_tables import synthetic_table
from torch import nn
from typer.testing import CliRunner

from dshrink.cli import train_options
from dshrink.cli.main import app
from dshrink.errors import DshrinkError
from dshrink.merge.agreement import top1_agreement
from dshrink.merge.export import METADATA_KEY
from dshrink.network.models import Network
from dshrink.network.references import ModelChoice
from dshrink.network.tracing import import_timm, trace
from dshrink.operations import mask_search
from dshrink.operations import search as searching
from dshrink.operations.mask_search import MaskRequest, search_mask
from dshrink.progress import no_progress
from dshrink.search.goal import Goal
from dshrink.search.plan import load_plan, parse_plan, save_plan
from dshrink.train import opening, processes
from dshrink.train.errors import DataError
from dshrink.train.settings import Training
from latency_tables.files import WriteError
from latency_tables.io import save_table

MODEL = "test_resnet"


def invoke(*words: str) -> Any:
    return CliRunner().invoke(app, list(words), catch_exceptions=False)


def refusal(*words: str) -> str:
    with pytest.raises(DshrinkError) as caught:
        invoke(*words)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture(scope="module")
def trained(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A folder of ``finetune --no-free-activation``, and the words of the command it prints."""
    folder = tmp_path_factory.mktemp("trained") / "my weights"
    ran = invoke(
        *("finetune", MODEL, "--plan", "mask:0100", "--weights", "initial", "--epochs", "1"),
        *("--data", str(pictures), "--out", str(folder), "--batch", "24", "--resolution", "32"),
        "--no-free-activation",
    )
    (line,) = (line for line in ran.stdout.splitlines() if line.startswith("merge it: "))
    return folder, shlex.split(line.removeprefix("merge it: "))


def test_the_command_that_is_printed_merges_what_was_trained(
    trained: tuple[Path, list[str]],
) -> None:
    folder, words = trained
    assert words[:3] == ["dshrink", "merge", MODEL]
    assert invoke(*words[1:]).exit_code == 0
    file = onnx.load(folder / "merged.onnx")
    about = json.loads({p.key: p.value for p in file.metadata_props}[METADATA_KEY])
    assert about["free_activation"] is False
    certificate = json.loads((folder / "merged.onnx.certificate.json").read_text())
    assert (certificate["validation"]["differing"], certificate["unreadable"]) == (0, {})


def test_the_plan_beside_the_weights_has_the_padding_of_the_training(
    trained: tuple[Path, list[str]],
) -> None:
    assert load_plan(trained[0] / "plan.json").padding == "repad"


def test_a_merge_says_which_images_it_could_not_read(
    trained: tuple[Path, list[str]], pictures: Path, tmp_path: Path
) -> None:
    data = shutil.copytree(pictures, tmp_path / "data")
    broken = data / "val" / "class_1" / "2.png"
    broken.write_bytes(b"no picture")
    words = [*trained[1][1:], "--data", str(data), "--out", str(tmp_path / "m.onnx")]
    ran = invoke(*words, "--loaders", "1", "--json")
    assert f"1 image could not be read, and the run continued without: {broken}" in ran.stderr
    result = json.loads(ran.stdout)
    certificate = json.loads((tmp_path / "m.onnx.certificate.json").read_text())
    assert list(result["unreadable"]) == list(certificate["unreadable"]) == [str(broken)]
    assert result["agreement"]["images"] == certificate["validation"]["images"] == 11
    assert f"{broken}: not a readable image" in refusal(*words, "--unreadable", "stop")


def test_a_merge_opens_the_images_before_it_computes_anything(
    trained: tuple[Path, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dshrink.merge.certified_export.merge_network", None)
    assert "no such folder" in refusal(*trained[1][1:], "--data", str(tmp_path / "nothing"))


def test_agreement_is_checked_on_a_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    went: list[torch.device] = []

    class Goes(nn.Linear):
        def to(self, device: torch.device) -> Goes:  # type: ignore[override]
            went.append(device)
            return self

    images: Any = SimpleNamespace(
        validation_on=lambda device: went.append(device) or (), labelled=True
    )
    for there, kind in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        top1_agreement(Goes(1, 1), Goes(1, 1), images)
        assert went == [torch.device(kind)] * 3
        went.clear()


@pytest.fixture
def plan_at_32(tmp_path: Path) -> str:
    file = tmp_path / "plan.json"
    save_plan(replace(parse_plan("mask:0100"), resolution=(32, 32)), file)
    return str(file)


def test_another_resolution_than_the_plans_is_refused(plan_at_32: str, tmp_path: Path) -> None:
    end = ["--resolution", "64", "--out", str(tmp_path / "out")]
    expected = f"--resolution 64: the plan {plan_at_32} is for 32x32; leave --resolution out"
    assert refusal("finetune", MODEL, "--plan", plan_at_32, "--data", "x", *end) == expected
    assert refusal("merge", MODEL, "--plan", plan_at_32, *end) == expected


def test_another_resolution_than_the_weights_is_refused(trained: tuple[Path, list[str]]) -> None:
    told = refusal(*trained[1][1:], "--resolution", "64")
    assert told.endswith("weights.safetensors is for 32x32; leave --resolution out")


def test_another_resolution_than_the_tables_is_refused(pictures: Path, tmp_path: Path) -> None:
    table = replace(synthetic_table([2.0, 3.0], [1.0, 1.0]), model=MODEL, resolution=(32, 32))
    save_table(table, tmp_path / "table")
    told = refusal(
        *("search", "mask", MODEL, "--data", str(pictures), "--keep", "2"),
        *("--table", str(tmp_path / "table"), "--resolution", "64", "--out", str(tmp_path / "p")),
    )
    assert told.startswith("--resolution 64: the table ") and "is for 32x32" in told


@pytest.fixture
def settings_of(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Training]:
    """``settings_of("finetune", "--seed", "3")``: what such a command would train with."""
    seen: list[Training] = []

    def note(*, settings: Training, **more: Any) -> None:
        seen.append(settings)

    def note_search(request: MaskRequest, *arguments: Any, **more: Any) -> None:
        seen.append(request.training)

    monkeypatch.setattr("dshrink.operations.finetune.finetune_by_plan", note)
    monkeypatch.setattr("dshrink.operations.expand.expand_network", note)
    monkeypatch.setattr(mask_search, "search_mask", note_search)
    starts = {
        "finetune": ["finetune", MODEL, "--plan", "mask:0100"],
        "expand": ["expand", MODEL],
        "search": ["search", "mask", MODEL, "--keep", "2"],
    }

    def run(name: str, *words: str) -> Training:
        ran = invoke(*starts[name], "--data", "x", "--out", "y", *words)
        assert ran.exit_code == 0, ran.output
        return seen.pop()

    return run


COMMANDS = ("finetune", "expand", "search")


@pytest.mark.parametrize("name", COMMANDS)
def test_the_seed_is_the_recipes_unless_one_is_given(
    name: str, settings_of: Callable[..., Training], tmp_path: Path
) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text('like = "digits"\nseeds = [5, 6]\n')
    assert settings_of(name).seed == 0
    assert settings_of(name, "--recipe", str(recipe)).seed == 5
    recipe.write_text('like = "digits"\nseeds = [5]\n[finetune]\nseed = 7\n')
    assert settings_of(name, "--recipe", str(recipe)).seed == 7
    assert settings_of(name, "--recipe", str(recipe), "--seed", "0").seed == 0


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_that_trains_has_the_options_of_training(
    name: str, settings_of: Callable[..., Training]
) -> None:
    words = "--epochs 9 --batch 32 --accumulate 2 --lr 0.3 --warmup-epochs 2 --clip 1.5"
    words += " --precision bf16 --loaders 3 --checkpoint-steps 50"
    found = settings_of(name, *words.split())
    expected = Training(
        epochs=9,
        batch=32,
        accumulate=2,
        learning_rate=0.3,
        warmup_epochs=2,
        clip=1.5,
        precision="bf16",
        loaders=3,
        checkpoint_steps=50,
    )
    assert found == expected


def test_a_fine_tuning_has_an_option_for_each_number_of_its_settings(
    settings_of: Callable[..., Training],
) -> None:
    words = "--min-lr 0.001 --momentum 0.8 --weight-decay 0.01 --label-smoothing 0.2 --ema 0.99"
    words += " --distillation 0.5 --temperature 4 --fade-epochs 20 --block-distillation 0.25"
    found = settings_of("finetune", *words.split())
    assert found == Training(
        min_learning_rate=0.001,
        momentum=0.8,
        weight_decay=0.01,
        label_smoothing=0.2,
        ema=0.99,
        distillation=0.5,
        temperature=4.0,
        fade_epochs=20,
        block_distillation=0.25,
    )


@pytest.mark.parametrize("option", ["--distillation", "--block-distillation"])
@pytest.mark.parametrize("weights", ["initial", "random"])
def test_an_untrained_network_teaches_nothing(weights: str, option: str, tmp_path: Path) -> None:
    told = refusal(
        *("finetune", MODEL, "--plan", "mask:0100", "--weights", weights, "--data", "x"),
        *("--out", str(tmp_path / "out"), option, "0.5"),
    )
    assert told.startswith(f"--weights {weights} with distillation: an untrained teacher")
    assert f", or {option} 0" in told


def test_a_teacher_has_all_its_activations(trained: tuple[Path, list[str]], tmp_path: Path) -> None:
    file = str(trained[0] / "weights.safetensors")
    start = ["finetune", MODEL, "--plan", "mask:0100", "--data", "x", "--out", str(tmp_path)]
    for words in (["--weights", file], ["--weights", "initial", "--teacher", file]):
        told = refusal(*start, *words, "--distillation", "0.5")
        assert "trained without the activations that 0100 removes" in told
    assert "give its weight, such as" in refusal(*start, "--teacher", file)


def test_the_teacher_has_the_weights_of_its_file(
    network: Network, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taught: list[Any] = []

    def note(*given: Any, teacher: nn.Module, **more: Any) -> None:
        taught.append(teacher.state_dict())
        raise DshrinkError("that is all")

    monkeypatch.setattr("dshrink.operations.finetune.finetune", note)
    state = network.module.state_dict()
    save_file(state, tmp_path / "teacher.safetensors")
    refusal(
        *("finetune", MODEL, "--plan", "mask:0100", "--data", str(pictures), "--batch", "8"),
        *("--weights", "initial", "--teacher", str(tmp_path / "teacher.safetensors")),
        *("--distillation", "0.5", "--resolution", "32", "--out", str(tmp_path / "out")),
    )
    assert all(torch.equal(taught[0][name], value) for name, value in state.items())


@pytest.mark.parametrize(
    ("plan", "stem"),
    [
        ("plan.json", "plan"),
        ("mbv2-1.0", "mbv2-1.0"),
        ("mbv2-1.4", "mbv2-1.4"),
        ("a.b.json", "a.b"),
    ],
)
def test_what_lies_beside_a_plan_is_named_after_it(plan: str, stem: str) -> None:
    goal, file = Goal(budget_ms=None, keep=2), Path("plans") / plan
    choice = ModelChoice(model=MODEL)
    wanted = MaskRequest(choice=choice, data="x", goal=goal, file=file, training=Training())
    assert wanted.folder == Path("plans") / f"{stem}.search"
    assert wanted.history_file == Path("plans") / f"{stem}.history.csv"


def test_a_plan_that_could_not_be_written_is_not_searched(tmp_path: Path) -> None:
    goal, choice = Goal(budget_ms=None, keep=2), ModelChoice(model=MODEL)
    wanted = MaskRequest(choice=choice, data="x", goal=goal, file=tmp_path, training=Training())
    with pytest.raises(WriteError, match=f"^{tmp_path} cannot be written: it is a folder"):
        search_mask(wanted)


def test_images_have_the_channels_of_the_network(
    pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dshrink.network.lowering import lower

    def grey(channels: int) -> Network:
        module = import_timm().create_model(MODEL, num_classes=3, in_chans=channels)
        traced = trace(module, (channels, 32, 32))
        return Network(name=MODEL, module=traced, lowered=lower(traced))

    monkeypatch.setattr(opening, "load_for", lambda *given, **more: grey(1))
    images, network = opening.open_both(str(pictures), ModelChoice(model=MODEL))
    assert images.train.mode == images.validation.mode == "L"
    feed = opening.feed_of(images, network, Training(batch=12))
    assert next(feed.validation(0, 1))[0].shape == (12, 1, 32, 32)
    monkeypatch.setattr(opening, "load_for", lambda *given, **more: grey(2))
    with pytest.raises(DataError, match="the network wants 2"):
        opening.open_both(str(pictures), ModelChoice(model=MODEL))


def test_only_the_process_that_speaks_shows_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    for main in (True, False):
        monkeypatch.setattr(processes, "is_main_process", lambda main=main: main)
        with train_options.progress_of_main("train") as update:
            assert (update is not no_progress) == main


def test_a_random_search_without_a_seed_draws_with_seed_0(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seeds: list[int | None] = []

    def note(model: str, table: Path, *, seed: int | None = None, **more: Any) -> Any:
        seeds.append(seed)
        raise DshrinkError("that is all")

    monkeypatch.setattr(searching, "search_blocks", note)
    words = [MODEL, "--table", "x", "--keep", "2"]
    refusal("search", "random", *words)
    refusal("search", "random", *words, "--seed", "7")
    refusal("search", "greedy", *words)
    assert seeds == [0, 7, None]
