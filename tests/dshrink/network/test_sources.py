"""A MODEL becomes the network that its words say, or one line that says what to do instead."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dshrink.errors import NetworkError, UserCodeError
from dshrink.network.models import Network, load, load_network
from dshrink.network.references import Known, ModelChoice, Reference, Size, same_model
from dshrink.network.tracing import import_torchvision_models

NET = """
from dataclasses import dataclass

from torch import nn

from parts import activation


@dataclass
class Widths:
    entry: int = 4


class Net(nn.Module):
    def __init__(self, labels=5, inputs=3, width=4):
        super().__init__()
        self.entry = nn.Conv2d(inputs, Widths(width).entry, 3, 2, 1)
        self.act = activation()
        self.verdict = nn.Linear(width, labels)

    def forward(self, x):
        return self.verdict(self.act(self.entry(x)).mean((2, 3)))


def make(labels=5, inputs=3, width=4):
    print("made")
    return Net(labels, inputs, width)


class Box:
    make = staticmethod(make)


def needs(labels):
    return Net(labels)


def half():
    return Net().half()


def number():
    return 3


def broken():
    raise RuntimeError("no luck\\nat all")


class Wrong(nn.Module):
    def forward(self, x):
        return self.nothing(x)


class Deciding(nn.Module):
    def __init__(self):
        super().__init__()
        self.entry = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        if self.entry(x).sum() > 0:
            return self.entry(x)
        return x


ready = Net()
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a network in ``nets/net.py`` that imports what lies beside it."""
    nets = tmp_path / "nets"
    nets.mkdir()
    (nets / "net.py").write_text(NET)
    (nets / "parts.py").write_text("from torch.nn import ReLU as activation\n")
    (nets / "lost.py").write_text("import nothing_there\n")
    (nets / "half_a.py").write_text("def f(:\n")
    (nets / "script.py").write_text("import sys\nsys.exit('usage: me')\n")
    monkeypatch.chdir(tmp_path)
    return nets


def refusal(model: str, **options: Any) -> str:
    with pytest.raises(NetworkError) as caught:
        load(ModelChoice(model=model, **options))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def small(model: str, *arguments: str, **options: Any) -> Network:
    return load_network(model, resolution=32, model_args=arguments, **options)


# what comes in


@pytest.mark.parametrize("factory", ["make", "Net", "ready", "Box.make"])
def test_a_file_gives_its_network_by_function_class_or_module(folder: Path, factory: str) -> None:
    found = small(f"nets/net.py:{factory}")
    assert (found.name, found.spec.output_shape) == (f"net.py:{factory}", (5,))
    assert found.spec.input_shape == (3, 32, 32)


def test_arguments_are_literals_and_part_of_the_name(folder: Path) -> None:
    found = small("nets/net.py:make", "width=8", "labels=2")
    assert found.name == "net.py:make labels=2 width=8"
    assert found.spec.output_shape == (2,)
    assert found.module.get_submodule("entry").out_channels == 8


def test_a_module_of_the_current_folder_can_be_imported_only_meanwhile(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (folder.parent / "parts.py").write_text("from torch.nn import Hardswish as activation\n")
    before = list(sys.path)
    found = small("nets.net:make")
    assert (found.name, found.spec.output_shape) == ("nets.net:make", (5,))
    assert isinstance(found.module.get_submodule("act"), nn.Hardswish)
    # The file's own folder comes first for a file, and ``parts`` is another one there.
    assert isinstance(small("nets/net.py:make").module.get_submodule("act"), nn.ReLU)
    assert sys.path == before
    assert not {"nets", "nets.net", "parts"} & set(sys.modules)
    assert capfd.readouterr().out == ""  # what a factory prints is no result


def test_a_module_that_is_there_already_is_copied_and_keeps_its_weights(folder: Path) -> None:
    (folder.parent / "kept.py").write_text(
        "import torch\nfrom torch import nn\n"
        "net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))\n"
        "nn.init.constant_(net[0].weight, 0.25)\n"
    )
    found = small("kept.py:net")
    assert (found.module.get_submodule("0").weight == 0.25).all()


def test_a_half_precision_module_computes_in_float32(folder: Path) -> None:
    state = small("nets/net.py:half").module.state_dict()
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}


def test_initial_weights_are_drawn_by_the_seed(folder: Path) -> None:
    states = [small("nets/net.py:make", seed=seed).module.state_dict() for seed in (1, 1, 2)]
    assert torch.equal(states[0]["entry.weight"], states[1]["entry.weight"])
    assert not torch.equal(states[0]["entry.weight"], states[2]["entry.weight"])


def test_libraries_give_the_resolution_channels_and_classes_asked_for() -> None:
    found = load_network("test_resnet", resolution=(64, 32), in_channels=1, classes=7)
    assert (found.spec.input_shape, found.spec.output_shape) == ((1, 64, 32), (7,))
    assert load_network("timm:test_resnet", resolution=32).name == "test_resnet"
    assert small("test_resnet", "drop_rate=0.5").name == "test_resnet drop_rate=0.5"


def test_nothing_is_guessed_from_the_first_convolution(folder: Path) -> None:
    said = refusal("nets/net.py:make", model_args=("inputs=1",), resolution=(32, 32))
    assert said.startswith("net.py:make inputs=1: on an image of 1x3x32x32 its forward raises")
    assert said.endswith("; give --in-channels 1")
    found = small("nets/net.py:make", "inputs=1", in_channels=1)
    assert found.spec.input_shape == (1, 32, 32)


def test_a_network_of_which_parts_are_published_downloads_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    models = import_torchvision_models()

    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("a download was tried")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)
    monkeypatch.setattr("torch.hub.load_state_dict_from_url", refuse)
    assert "fcn_resnet50" in models.list_models()
    said = refusal("torchvision:fcn_resnet50", resolution=(64, 64))
    assert "download" not in said


# what is refused, in one line


@pytest.mark.parametrize(
    ("model", "parts"),
    [
        ("mobilenetv2_10", ["no such network", "did you mean"]),
        ("qqqqqqqqq", ["no such network", "FILE.py:FACTORY"]),
        ("torchvision:resnet19", ["did you mean", "resnet18"]),
        ("torchvison:resnet18", ["no module torchvison", "did you mean torchvision:resnet18?"]),
        ("nothing.there:make", ["no module nothing.there", "package.module:FACTORY"]),
        ("nets/net.py", ["FILE.py:FACTORY"]),
        ("nets/net.py:", ["FILE.py:FACTORY"]),
        ("nets/net.py:not a name", ["is no name in Python"]),
        ("nets/nut.py:make", ["nets/nut.py: no such file", "did you mean nets/net.py?"]),
        ("nets/net.py:mak", ["has no mak", "did you mean make"]),
        ("nets/net.py:xyzzy", ["has no xyzzy", "it has", "Net, make"]),
        ("nets/net.py:needs", ["missing a required argument: 'labels'", "--model-arg"]),
        ("nets/net.py:number", ["gives a int, not a torch.nn.Module"]),
        ("nets/net.py:__name__", ["is a str"]),
        ("nets/weights.pth", ["file of weights", "--weights takes it"]),
        ("a:b:c", ["unknown kind of model"]),
    ],
)
def test_what_is_no_network_says_what_to_give(folder: Path, model: str, parts: list[str]) -> None:
    said = refusal(model)
    for part in parts:
        assert part in said


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"model_args": ("width",)}, "give KEY=VALUE"),
        ({"model_args": ("width=1", "width=2")}, "given twice"),
        ({"model_args": ("depth=1",)}, "unexpected keyword argument 'depth'"),
        ({"classes": 3}, "--model-arg NAME=3"),
        ({"weights": "pretrained"}, "--weights FILE"),
        ({"resolution": (4, 4)}, "8 or more"),
        ({"in_channels": 0}, "count from 1"),
        ({"weights_ema": True}, "has no moving average"),
    ],
)
def test_what_a_factory_cannot_be_asked_for_is_refused(
    folder: Path, options: dict[str, Any], part: str
) -> None:
    assert part in refusal("nets/net.py:make", **options)


def test_torchvision_has_no_other_channels() -> None:
    assert "3 channels, not 1" in refusal("torchvision:resnet18", in_channels=1)


def test_an_argument_that_a_library_does_not_know_is_named() -> None:
    said = refusal("test_resnet", model_args=("wideness=2",))
    assert "wideness" in said and said.endswith("change --model-arg wideness=2")


def test_transformers_that_is_missing_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert "pip install transformers" in refusal("hf:microsoft/resnet-18")


def test_a_classifier_of_transformers_gives_its_logits_under_its_own_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic"
    )
    config.save_pretrained(tmp_path / "tiny")
    monkeypatch.chdir(tmp_path)
    found = small("hf:./tiny", classes=4, in_channels=1)
    assert (found.name, found.spec.output_shape) == ("hf:tiny", (4,))
    assert any(name.startswith("resnet.embedder.") for name in found.module.state_dict())
    assert "nothing is downloaded" in refusal("hf:nobody/nothing")


# the user's own errors


@pytest.mark.parametrize(
    ("model", "said", "frame"),
    [
        ("net.py:broken", "the factory raises: RuntimeError: no luck", "in broken"),
        ("net.py:Wrong", "its forward raises: AttributeError", "return self.nothing(x)"),
        ("net.py:Deciding", "cannot trace it at 32x32: TraceError", "if self.entry(x).sum() > 0"),
        ("lost.py:make", "fails: ModuleNotFoundError", "import nothing_there"),
        ("half_a.py:make", "fails: SyntaxError", "def f(:"),
        ("script.py:make", "fails: SystemExit: usage: me", "sys.exit("),
    ],
)
def test_what_the_users_code_raises_is_shown_from_its_first_frame(
    folder: Path, model: str, said: str, frame: str
) -> None:
    with pytest.raises(UserCodeError) as caught:
        load_network(f"nets/{model}", resolution=32)
    assert said in str(caught.value) and "\n" not in str(caught.value)
    trace = caught.value.trace
    assert frame in trace
    first = next(line for line in trace.splitlines() if line.startswith("  File"))
    assert model.partition(":")[0] in first
    assert "/dshrink/" not in trace and "torch/fx/_symbolic" not in trace


def test_an_error_of_the_users_own_survives_the_way_between_processes() -> None:
    import pickle

    error = pickle.loads(pickle.dumps(UserCodeError("one line", "its trace")))
    assert (str(error), error.trace) == ("one line", "its trace")


# names, and what is known


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("mobilenetv2_100.ra_in1k", "mobilenetv2_100.ra_in1k"),
        ("timm:resnet18", "resnet18"),
        ("torchvision:resnet18", "torchvision:resnet18"),
        ("../some where/net.py:Net.make", "net.py:Net.make"),
        ("package.module:make", "package.module:make"),
        ("hf:microsoft/resnet-18", "hf:microsoft/resnet-18"),
        ("hf:./tiny", "hf:tiny"),
        ("folder/NET.ONNX", "NET.ONNX"),
    ],
)
def test_a_name_is_without_folders(model: str, name: str) -> None:
    assert ModelChoice(model=model).name == Reference.parse(model).name == name


def test_two_factories_of_a_file_are_two_models_and_two_tags_are_one() -> None:
    assert same_model("mobilenetv2_100.ra_in1k", "mobilenetv2_100")
    assert not same_model("net.py:small", "net.py:large")
    assert not same_model("net.py:make", "net.py:make width=2")
    assert not same_model("a.onnx", "a.b.onnx")


def test_a_resolution_is_height_then_width() -> None:
    assert Size.parse("224x160") == (224, 160)
    assert (str(Size.parse("64")), str(Size(64, 32))) == ("64", "64x32")
    for text in ("", "x", "3x", "64x64x3", "-64", "64.0", "7"):
        with pytest.raises(NetworkError, match="resolution"):
            Size.parse(text)


def test_what_is_known_fills_what_is_not_asked_and_refuses_what_differs() -> None:
    plan = Known(whose="the plan P", resolution=(32, 48), in_channels=1)
    weights = Known(whose="W", resolution=(64, 64), classes=5)
    found = ModelChoice(model="resnet18").knowing(plan, None, weights)
    assert (found.size, found.channels, found.classes) == ((32, 48), 1, 5)
    assert found.knowing(plan) == found
    for asked, said in (
        ({"resolution": (64, 64)}, "--resolution 64: the plan P is for 32x48; leave --resolution"),
        ({"in_channels": 3}, "--in-channels 3: the plan P is for 1 input channel"),
        ({"classes": 10}, "--classes 10: W is for 5 classes; leave --classes out"),
    ):
        with pytest.raises(NetworkError, match=said):
            ModelChoice(model="resnet18", **asked).knowing(plan, weights)


def test_a_file_is_found_from_another_folder(
    folder: Path, monkeypatch: Any, tmp_path: Path
) -> None:
    choice = ModelChoice(model="nets/net.py:make", resolution=(32, 32)).with_absolute_paths()
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    assert load(choice).name == "net.py:make"


def test_a_file_may_import_torchvision_whose_operators_do_not_load(tmp_path: Path) -> None:
    """In a process of its own: here somebody else has imported it already."""
    (tmp_path / "own.py").write_text(
        "import torchvision\nfrom torch import nn\n\n\ndef make():\n"
        "    head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)\n"
        "    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), *head)\n"
    )
    code = (
        "from dshrink.network.models import load\n"
        "from dshrink.network.references import ModelChoice, Size\n"
        "choice = ModelChoice(model='own.py:make', resolution=Size(32, 32), weights='random')\n"
        "print(load(choice).name)\n"
    )
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.stdout == "own.py:make\n", done.stderr


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"resolution": (100_000, 100_000)}, "height and width are at most 4096"),
        ({"resolution": (0, 0)}, "height and width are 8 or more"),
        ({"classes": 10**12}, "--classes 1000000000000: at most 1000000"),
        ({"in_channels": 10**9}, "an image has 1 to 4096"),
        ({"seed": 1 << 64}, "give an integer of up to 64 bits"),
    ],
)
def test_a_network_of_absurd_size_is_refused_before_it_is_made(
    asked: dict[str, Any], said: str
) -> None:
    with pytest.raises(NetworkError, match=said):
        ModelChoice(model="mobilenetv2_035", **asked)


def test_a_tag_of_weights_that_timm_does_not_know_is_one_line() -> None:
    with pytest.raises(NetworkError, match=r"timm knows no weights 'none' of it: leave \.none out"):
        load_network("mobilenetv2_035.none")
