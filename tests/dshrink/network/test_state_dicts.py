"""Weights as training scripts leave them: what is taken of a file, and what its refusal says."""

from __future__ import annotations

import argparse
import pathlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from dshrink.errors import NetworkError, WeightsMisfitError
from dshrink.network.models import load, load_network, randomise
from dshrink.network.references import ModelChoice
from dshrink.network.tracing import import_timm, import_torchvision_models

MODEL = "test_resnet"
State = dict[str, torch.Tensor]


def state_of(seed: int, **options: Any) -> State:
    torch.manual_seed(seed)
    module = import_timm().create_model(MODEL, **options)
    randomise(module, (options.get("in_chans", 3), 32, 32), seed=seed)
    return {name: value.clone() for name, value in module.state_dict().items()}


@pytest.fixture(scope="module")
def state() -> State:
    return state_of(1)


@pytest.fixture(scope="module")
def average() -> State:
    return state_of(2)


def loaded(path: Path, said: list[str] | None = None, **options: Any) -> State:
    choice = ModelChoice(model=MODEL, weights=str(path), resolution=(32, 32), **options)
    return dict(load(choice, [].append if said is None else said.append).module.state_dict())


def check_equal(found: State, wanted: State, within: float = 0.0) -> None:
    for name, tensor in found.items():
        if not name.endswith("num_batches_tracked"):
            assert tensor.dtype == torch.float32
            torch.testing.assert_close(tensor, wanted[name], rtol=within, atol=within)


def refusal(path: Path, model: str = MODEL, **options: Any) -> str:
    with pytest.raises(NetworkError) as caught:
        load(ModelChoice(model=model, weights=str(path), resolution=(32, 32), **options))
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    return str(caught.value)


def below(prefix: str, state: State) -> State:
    return {f"{prefix}{name}": value for name, value in state.items()}


def compiled_inside(state: State) -> State:
    return {name.replace(".", "._orig_mod.", 1): value for name, value in state.items()}


FORMS: dict[str, Callable[[State], Any]] = {
    "plain": lambda s: s,
    "data parallel": lambda s: below("module.", s),
    "compiled": lambda s: below("_orig_mod.", s),
    "compiled data parallel": lambda s: below("module._orig_mod.", s),
    "a compiled part": compiled_inside,
    "Lightning": lambda s: {
        "state_dict": {**below("model.", s), "loss.weight": torch.ones(3)},
        "hyper_parameters": {"lr": 0.1},
    },
    "Lightning's net": lambda s: {"state_dict": below("net.", s), "epoch": 1},
    "timm": lambda s: {
        "epoch": 3,
        "state_dict": s,
        "optimizer": {},
        "args": argparse.Namespace(lr=0.1, model="x", out=pathlib.PurePosixPath("a")),
        "metric": np.float64(70.1),
    },
    "torchvision": lambda s: {"model": below("module.", s), "epoch": 1},
    "a tutorial": lambda s: {"model_state_dict": s, "loss": torch.tensor(0.3)},
    "the net": lambda s: {"net": s, "acc": 93.1, "history": np.arange(3)},
    "wrapped twice": lambda s: {"model": {"state_dict": s, "n": 1}},
    "a namespace": lambda s: {"model": s, "cfg": SimpleNamespace(a=1)},
    "parameters": lambda s: {
        name: nn.Parameter(value) if value.is_floating_point() else value
        for name, value in s.items()
    },
    "channels last": lambda s: {
        name: v.contiguous(memory_format=torch.channels_last) if v.ndim == 4 else v
        for name, v in s.items()
    },
    "without counters": lambda s: {
        name: value for name, value in s.items() if not name.endswith("num_batches_tracked")
    },
    "averaged by torch": lambda s: {"n_averaged": torch.tensor(3), **below("module.", s)},
    "double": lambda s: {n: v.double() if v.is_floating_point() else v for n, v in s.items()},
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("suffix", [".pth"])
def test_a_state_dict_is_found_in_whatever_is_around_it(
    form: str, suffix: str, state: State, tmp_path: Path
) -> None:
    torch.save(FORMS[form](state), tmp_path / f"w{suffix}")
    check_equal(loaded(tmp_path / f"w{suffix}"), state)


@pytest.mark.parametrize("suffix", [".pt", ".pth.tar", ".bin", ".ckpt", ".PTH"])
def test_a_file_of_torch_may_have_any_of_its_names(
    suffix: str, state: State, tmp_path: Path
) -> None:
    torch.save(state, tmp_path / f"w ü{suffix}")
    check_equal(loaded(tmp_path / f"w ü{suffix}"), state)


def test_the_format_before_1_6_is_read(state: State, tmp_path: Path) -> None:
    torch.save({"state_dict": state}, tmp_path / "w.pth", _use_new_zipfile_serialization=False)
    check_equal(loaded(tmp_path / "w.pth"), state)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_half_precision_becomes_float32(kind: torch.dtype, state: State, tmp_path: Path) -> None:
    half = {n: v.to(kind) if v.is_floating_point() else v for n, v in state.items()}
    for name in ("w.pth", "w.safetensors", "model.bin"):
        save = torch.save if name == "w.pth" else save_file
        save(half, tmp_path / name)
        check_equal(loaded(tmp_path / name), {n: v.float() for n, v in half.items()})


@pytest.mark.parametrize(
    ("beside", "key"),
    [
        (lambda s, a: {"state_dict": s, "state_dict_ema": below("module.", a)}, "state_dict_ema"),
        (lambda s, a: {"model": s, "model_ema": a, "epoch": 1}, "model_ema"),
        (lambda s, a: {"model": s, "ema": {"module": a, "decay": 0.9}}, "ema.module"),
    ],
)
def test_the_moving_average_is_taken_where_it_is_asked_for_and_said(
    beside: Any, key: str, state: State, average: State, tmp_path: Path
) -> None:
    path = tmp_path / "w.pth"
    torch.save(beside(state, average), path)
    said: list[str] = []
    check_equal(loaded(path, said, weights_ema=True), average)
    assert said == [f"{path}: took the moving average of the weights ({key})"]
    said.clear()
    check_equal(loaded(path, said), state)
    assert len(said) == 1 and f"not their moving average ({key})" in said[0]


def test_a_moving_average_alone_or_missing_says_so(
    state: State, average: State, tmp_path: Path
) -> None:
    torch.save({"state_dict_ema": average}, tmp_path / "a.pth")
    torch.save(state, tmp_path / "w.pth")
    assert "give --ema" in refusal(tmp_path / "a.pth")
    assert "leave --ema out" in refusal(tmp_path / "w.pth", weights_ema=True)


def test_what_lies_beside_the_network_is_left_out_and_said(state: State, tmp_path: Path) -> None:
    whole = {**below("model.", state), "criterion.weight": torch.ones(2)}
    torch.save({"state_dict": whole}, tmp_path / "w.ckpt")
    said: list[str] = []
    loaded(tmp_path / "w.ckpt", said)
    assert said == [
        f"{tmp_path / 'w.ckpt'}: took the {len(state)} weights under model., not the 1 others"
    ]


# what is refused


def test_other_classes_and_channels_are_the_options_to_give(tmp_path: Path) -> None:
    torch.save(below("module.", state_of(3, num_classes=10)), tmp_path / "ten.pth")
    said = refusal(tmp_path / "ten.pth")
    assert "prefix module. left out: 2 of another shape" in said
    assert "10x" in said and said.endswith("give --classes 10")
    torch.save(state_of(3, in_chans=1), tmp_path / "grey.pth")
    assert refusal(tmp_path / "grey.pth").endswith("give --in-channels 1")
    torch.save(state_of(3, in_chans=1, num_classes=10), tmp_path / "both.pth")
    assert refusal(tmp_path / "both.pth").endswith("give --classes 10 --in-channels 1")
    check_equal(
        loaded(tmp_path / "both.pth", classes=10, in_channels=1),
        state_of(3, in_chans=1, num_classes=10),
    )


def test_a_factory_is_told_of_other_classes_by_its_arguments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "net.py").write_text(
        "from torch import nn\n"
        "def make(labels=5):\n"
        "    return nn.Sequential(nn.Conv2d(3, 4, 32), nn.Flatten(), nn.Linear(4, labels))\n"
    )
    monkeypatch.chdir(tmp_path)
    ten = load_network("net.py:make", resolution=32, model_args=("labels=10",))
    torch.save(ten.module.state_dict(), tmp_path / "ten.pth")
    said = refusal(tmp_path / "ten.pth", "net.py:make")
    assert said.endswith("for classes 10: tell the factory so by --model-arg KEY=VALUE")


def test_names_that_miss_and_names_too_many_are_listed_in_part(
    state: State, tmp_path: Path
) -> None:
    wrong = dict(state)
    gone = list(wrong)[:5]
    for name in gone:
        wrong[f"other.{name}"] = wrong.pop(name)
    torch.save(wrong, tmp_path / "w.pth")
    with pytest.raises(WeightsMisfitError) as caught:
        loaded(tmp_path / "w.pth")
    said = str(caught.value)
    wanted = [name for name in gone if not name.endswith("num_batches_tracked")]
    assert f"{len(wanted)} of {len(state)} names missing: {wanted[0]}, " in said
    assert f"unexpected: other.{wanted[0]}, " in said


def test_weights_of_a_known_network_say_which(tmp_path: Path) -> None:
    models, timm = import_torchvision_models(), import_timm()
    torch.save(models.get_model("mobilenet_v2", weights=None).state_dict(), tmp_path / "tv.pth")
    said = refusal(tmp_path / "tv.pth", "mobilenetv2_100")
    assert said.endswith("these are weights of torchvision:mobilenet_v2: give that as MODEL")
    torch.save(timm.create_model("mobilenetv2_050").state_dict(), tmp_path / "narrow.pth")
    said = refusal(tmp_path / "narrow.pth", "mobilenetv2_035")
    assert said.endswith("these are weights of mobilenetv2_050: give that as MODEL")


@pytest.mark.parametrize(
    ("value", "part"), [(float("nan"), "NaN"), (float("inf"), "NaN or inf"), (-1.0, "negative")]
)
def test_numbers_that_are_none_are_refused_by_name(
    value: float, part: str, state: State, tmp_path: Path
) -> None:
    name = next(name for name in state if name.endswith("running_var"))
    bad = {**state, name: state[name].clone()}
    bad[name][0] = value
    torch.save(bad, tmp_path / "w.pth")
    said = refusal(tmp_path / "w.pth")
    assert name in said and part in said


@pytest.mark.filterwarnings("ignore")
def test_quantised_weights_are_refused_by_name(state: State, tmp_path: Path) -> None:
    name = next(iter(state))
    quantised = torch.quantize_per_tensor(state[name], 0.1, 0, torch.qint8)
    torch.save({**state, name: quantised}, tmp_path / "w.pth")
    assert f"{name} is quantised" in refusal(tmp_path / "w.pth")


def write_whole_module(path: Path) -> None:
    torch.save(import_timm().create_model(MODEL), path)


def write_script(path: Path) -> None:
    torch.jit.save(torch.jit.trace(nn.Conv2d(3, 4, 3), torch.zeros(1, 3, 8, 8)), path)


class Settings:
    """A class of a training script, which no list of harmless classes knows."""


OTHERS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "empty.pth": (lambda p: p.touch(), "is empty"),
    "lfs.pth": (
        lambda p: p.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
        "git lfs pull",
    ),
    "page.safetensors": (lambda p: p.write_text("<!doctype html><html></html>"), "web page"),
    "text.pth": (lambda p: p.write_text("weights"), "not a readable state dict"),
    "text.safetensors": (lambda p: p.write_text("weights"), "not a readable file of safetensors"),
    "folder.pth": (lambda p: p.mkdir(), "is a folder"),
    "none.pth": (lambda p: None, "no such file"),
    "module.pth": (write_whole_module, "holds a whole network"),
    "script.pt": (write_script, "TorchScript"),
    "numbers.npz": (lambda p: np.savez(p, a=np.ones(2)), "zip archive without a state dict"),
    "packed.pth.gz": (lambda p: p.write_bytes(b"\x1f\x8b123"), "unpack it"),
    "list.pth": (lambda p: torch.save([1, 2], p), "no state dict in it (a list)"),
    "optimizer.pth": (lambda p: torch.save({"optimizer": {}, "epoch": 1}, p), "keys optimizer, ep"),
    "settings.pth": (
        lambda p: torch.save({"model": {"a": torch.ones(1)}, "cfg": Settings()}, p),
        "Settings beside the weights",
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", OTHERS)
def test_a_file_of_something_else_says_what_it_is(name: str, tmp_path: Path) -> None:
    write, part = OTHERS[name]
    write(tmp_path / name)
    assert part in refusal(tmp_path / name)


def test_a_file_that_is_cut_off_says_so(state: State, tmp_path: Path) -> None:
    torch.save(state, tmp_path / "w.pth")
    save_file(state, tmp_path / "w.safetensors")
    for name in ("w.pth", "w.safetensors"):
        data = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(data[: len(data) // 2])
        assert "cut off" in refusal(tmp_path / name)


def test_the_advice_to_strip_a_file_does_strip_it(state: State, tmp_path: Path) -> None:
    import shlex
    import subprocess
    import sys

    (tmp_path / "training.py").write_text("class Settings:\n    lr = 0.1\n")
    save = (
        "import sys, torch, training; d = torch.load(sys.argv[1]);"
        "torch.save({'model': d, 'cfg': training.Settings()}, 'w.pth')"
    )
    torch.save(state, tmp_path / "s.pth")
    subprocess.run([sys.executable, "-c", save, "s.pth"], cwd=tmp_path, check=True)
    said = refusal(tmp_path / "w.pth")
    assert "training.Settings" in said
    words = shlex.split(said[said.index("python -c") :])
    subprocess.run([sys.executable, *words[1:]], cwd=tmp_path, check=True)
    check_equal(loaded(tmp_path / "weights.pth"), state)


def test_a_prefix_that_no_wrapper_explains_is_said(state: State, tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save({f"backbone.{name}": value for name, value in state.items()}, path)
    assert "prefix backbone. seen (save what is below it alone)" in refusal(path)


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("sparse", lambda tensor: tensor.to_sparse()),
        ("complex", lambda tensor: tensor.to(torch.complex64)),
        ("of 8-bit integers", lambda tensor: tensor.to(torch.int8)),
        ("without data", lambda tensor: tensor.to("meta")),
    ],
)
def test_weights_that_are_no_dense_floats_are_refused_by_name(
    kind: str, change: Callable[[torch.Tensor], torch.Tensor], state: State, tmp_path: Path
) -> None:
    path, name = tmp_path / "w.pth", next(name for name in state if name.endswith("weight"))
    torch.save({**state, name: change(state[name])}, path)
    assert f"{name} is {kind}" in refusal(path)
