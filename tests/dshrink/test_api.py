"""``import dshrink``: what it gives, and networks, tables and plans in hand."""

from __future__ import annotations

import ast
import copy
import json
import subprocess
import sys
from dataclasses import replace
from inspect import getsource
from pathlib import Path
from typing import Any

import pytest
import reference_page
import torch
from safetensors.torch import save_file
from synthetic_tables import synthetic_span_table, synthetic_table
from torch import nn
from typer.main import get_command

import dshrink
from dshrink.cli.plot import app as plot_app
from dshrink.errors import DshrinkError, NetworkError, PlotError, UserCodeError
from dshrink.network.models import Network
from dshrink.network.references import ModelChoice
from dshrink.operations.bench_inputs import BenchInputs
from dshrink.operations.refit import require_refittable
from dshrink.operations.search import DpRequest, search_tables
from dshrink.plots.frontier import load_frontier
from dshrink.search.dp.files import save_frontier
from latency_tables.io import save_table
from latency_tables.table import LatencyTable

# the names


def test_importing_it_takes_under_a_second_and_no_other_package() -> None:
    """Processor time: the tests may share the machine."""
    code = "import sys, time; t = time.process_time(); import dshrink; dshrink.__dir__()"
    code += "\nassert time.process_time() - t < 1\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert "dshrink" in loaded
    assert not loaded & {"torch", "timm", "numpy", "pandas", "matplotlib", "onnx", "profiler"}


def test_every_name_is_there_and_type_checkers_see_the_same_ones() -> None:
    tree = ast.parse(Path(str(dshrink.__file__)).read_text("utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.asname: (node.module, alias.name)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert set(seen) == set(dshrink.__all__) <= set(dir(dshrink))
    for name, (module, original) in seen.items():
        assert original == name and module
        __import__(module)
        assert getattr(dshrink, name) is getattr(sys.modules[module], name)


def test_no_name_is_that_of_a_package_which_would_take_its_place() -> None:
    folder = Path(str(dshrink.__file__)).parent
    modules = {path.stem for path in folder.iterdir()}
    assert not modules & set(dshrink.__all__)


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'dshrink' has no attribute 'shrink_it'"):
        dshrink.shrink_it  # noqa: B018


def test_every_picture_of_the_command_is_a_function() -> None:
    pictures = {f"plot_{name}" for name in get_command(plot_app).commands}  # type: ignore[attr-defined]
    assert pictures == {name for name in dshrink.__all__ if name.startswith("plot_")}


def test_the_reference_is_that_of_the_docstrings() -> None:
    assert reference_page.PAGE.read_text("utf-8") == reference_page.page(), (
        "a signature or docstring has changed: python tests/support/reference_page.py"
    )


def test_everything_public_has_a_docstring() -> None:
    for name in set(dshrink.__all__) - {"__version__"}:
        assert getattr(dshrink, name).__doc__, name


# a module in hand


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        middle = 3 * width
        self.expand, self.first = nn.Conv2d(width, middle, 1), nn.BatchNorm2d(middle)
        self.depth = nn.Conv2d(middle, middle, 3, padding=1, groups=middle)
        self.second = nn.BatchNorm2d(middle)
        self.project, self.third = nn.Conv2d(middle, width, 1), nn.BatchNorm2d(width)
        self.act = nn.ReLU6()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.act(self.first(self.expand(x)))
        return x + self.third(self.project(self.act(self.second(self.depth(y)))))

    def linear(self, x: torch.Tensor) -> torch.Tensor:
        """Without the activations."""
        y = self.second(self.depth(self.first(self.expand(x))))
        result: torch.Tensor = x + self.third(self.project(y))
        return result


class Small(nn.Module):
    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, width, 3, stride=2, padding=1)
        self.blocks = nn.Sequential(Block(width), Block(width))
        self.head = nn.Linear(width, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.blocks(self.stem(x)).mean((2, 3)))
        return logits


@pytest.fixture(scope="module")
def module() -> Small:
    """In training mode, with norms that have seen images."""
    torch.manual_seed(3)
    made = Small()
    for _ in range(20):
        made(torch.randn(8, 2, 16, 16))
    return made.train()


@pytest.fixture(scope="module")
def small(module: Small) -> Network:
    return dshrink.load_network(module, resolution=16, in_channels=2)


@pytest.fixture
def table(small: Network) -> LatencyTable:
    made = synthetic_table([1.0, 1.0], [0.6, 0.4])
    names = tuple(block.name for block in small.blocks)
    facts = {"model": small.name, "resolution": (16, 16), "in_channels": 2}
    return replace(made, block_names=names, **facts)


def test_a_module_is_traced_as_a_copy_and_stays_as_it_is(module: Small) -> None:
    before = copy.deepcopy(module.state_dict())
    network = dshrink.load_network(module, resolution=(16, 24), in_channels=2, name="mine")
    assert (network.name, network.spec.input_shape) == ("in-memory:mine", (2, 16, 24))
    assert (network.weights, network.trained) == ("own", None)
    assert module.training and all(layer.training for layer in module.modules())
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, before[name])
    image = torch.randn(3, 2, 16, 24)
    with torch.no_grad():
        expected = copy.deepcopy(module).eval()(image)
        assert torch.allclose(network.module(image), expected, atol=1e-6)
        network.module.get_parameter("head.weight").zero_()
    assert torch.equal(module.head.weight, before["head.weight"])


def test_half_and_compiled_modules_are_taken(module: Small) -> None:
    half = dshrink.load_network(copy.deepcopy(module).half(), resolution=16, in_channels=2)
    assert all(p.dtype == torch.float32 for p in half.module.parameters())
    wrapped = torch.compile(module, backend="eager")
    assert dshrink.load_network(wrapped, resolution=16, in_channels=2).spec == half.spec


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": "random"}, "Small: a module comes as it is: leave out weights"),
        ({"classes": 3, "model_args": ["a=1"]}, "leave out classes, model_args"),
        ({"in_channels": 0}, "in_channels counts from 1, got 0"),
        ({"resolution": 4}, "resolution 4x4: height and width are 8 or more"),
        ({"name": "two words"}, "name 'two words': give a word"),
        ({"name": ""}, "name '': give a word"),
    ],
)
def test_what_a_module_cannot_be_asked_is_a_line(
    options: dict[str, Any], message: str, module: Small
) -> None:
    with pytest.raises(NetworkError, match=message):
        dshrink.load_network(module, **{"resolution": 16, "in_channels": 2, **options})


def test_what_fails_in_the_code_of_a_module_is_the_users(module: Small) -> None:
    with pytest.raises(UserCodeError, match=r"in-memory:Small: on an image of 1x3x16x16") as found:
        dshrink.load_network(module, resolution=16)
    assert "give --in-channels 2" in str(found.value)
    assert "self.stem(x)" in found.value.trace


def test_a_name_in_memory_loads_nothing() -> None:
    for name in ("in-memory:Small", "in-memory:"):
        with pytest.raises(NetworkError, match=r"give the module itself to dshrink\.load_network"):
            dshrink.load_network(name)
    with pytest.raises(NetworkError, match="name is for a module"):
        dshrink.load_network("test_resnet", name="mine")


def test_what_is_no_network_is_a_line(module: Small, table: LatencyTable) -> None:
    with pytest.raises(NetworkError, match=r"Small is no network: .* dshrink.load_network"):
        dshrink.search_blocks(module, table, keep=1)  # type: ignore[arg-type]


# operations with what is in hand


def test_tables_in_hand_and_in_folders_give_the_same_plan(
    small: Network, table: LatencyTable, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    save_table(table, tmp_path)
    plan = dshrink.search_blocks(small, table, keep=1)
    assert plan == dshrink.search_blocks(small, str(tmp_path), keep=1)
    assert (plan.keep_mask, plan.model) == ("10", "in-memory:Small")
    assert plan.merged == ("blocks.1",)
    dshrink.save_plan(plan, str(tmp_path / "plan.json"))
    for given in ("10", "mask:10"):
        assert dshrink.predict_latency(table, given) == dshrink.predict_latency(tmp_path, "10")
    # A plan says how its blocks are padded: this network has no bias maps.
    assert plan.padding == "repad"
    for given in (plan, tmp_path / "plan.json", str(tmp_path / "plan.json")):
        expected = dshrink.predict_latency(tmp_path, "10", "repad")
        assert dshrink.predict_latency(table, given) == expected
    assert dshrink.compare_tables(table, tmp_path).count("equal") == len(table.rows)
    assert capfd.readouterr() == ("", "")


def test_a_network_in_hand_is_for_the_images_of_its_table(
    module: Small, table: LatencyTable
) -> None:
    other = dshrink.load_network(module, resolution=24, in_channels=2)
    what = r"was loaded with resolution=\(24, 24\), the table of in-memory:Small on .* is for"
    with pytest.raises(NetworkError, match=rf"{what} \(16, 16\): load it again"):
        dshrink.search_blocks(other, table, keep=1)


@pytest.mark.parametrize("padding", ["bias_map", "repad"])
def test_a_merged_module_computes_what_the_blocks_do_without_activations(
    padding: str, module: Small, small: Network, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Against the user's own module, run without them; repad differs at the border alone."""
    made = dshrink.merge_by_plan(
        small, dshrink.parse_plan("mask:10"), padding=padding, free_activation=False
    )
    reference = copy.deepcopy(module).eval()
    image = torch.randn(2, 2, 16, 16)
    with torch.no_grad():
        first, second = reference.blocks
        features = second.linear(first(reference.stem(image)))
        expected = reference.head(features.mean((2, 3)))
        error = (made.network.module(image) - expected).abs().max()
    assert (error < 1e-5) == (padding == "bias_map")
    assert made.certificate is not None and made.certificate.problem == ""
    assert (made.result.file, made.result.certificate, made.result.onnx_difference) == (None,) * 3
    assert (made.plan.keep_mask, made.result.blocks_merged) == ("10", 1)
    assert list(tmp_path.iterdir()) == [] and capfd.readouterr() == ("", "")


def test_a_file_of_a_merge_computes_what_the_module_does(small: Network, tmp_path: Path) -> None:
    from dshrink.network.onnx_files.runtime import run_onnx

    file = str(tmp_path / "merged.onnx")
    made = dshrink.merge_by_plan(small, "mask:00", file)
    assert made.result.file == file and Path(str(made.result.certificate)).exists()
    dshrink.export_onnx(made.network, str(tmp_path / "again.onnx"))
    image = torch.randn(1, 2, 16, 16)
    expected = made.network.module(image).detach().numpy()
    for path in (file, tmp_path / "again.onnx"):
        assert run_onnx(Path(path).read_bytes(), image.numpy()) == pytest.approx(expected, abs=1e-5)


def test_what_weights_say_of_their_training_holds_in_hand_too(tmp_path: Path) -> None:
    """A merge by another padding or activation would be of a network that nobody trained."""
    source = "\n".join(["import torch", "from torch import nn", *map(getsource, (Block, Small))])
    (tmp_path / "net.py").write_text(source, "utf-8")
    model, mask = f"{tmp_path}/net.py:Small", "10"
    drawn = dshrink.load_network(model, weights="random", resolution=16, in_channels=2)
    about = {
        **{"model": "net.py:Small", "resolution": [16, 16], "classes": 4, "mask": mask},
        **{"segments": "blocks", "free_activation": False, "padding": "repad"},
    }
    file = tmp_path / "tuned.safetensors"
    save_file(drawn.module.state_dict(), file, {"dshrink": json.dumps(about)})
    network = dshrink.load_network(model, weights=file, resolution=16, in_channels=2)
    made = dshrink.merge_by_plan(network, f"mask:{mask}")
    assert made.certificate is not None
    assert (made.result.padding, made.certificate.free_activation) == ("repad", False)
    with pytest.raises(DshrinkError, match="these weights were fine-tuned for padding repad"):
        dshrink.merge_by_plan(network, f"mask:{mask}", padding="interior")
    with pytest.raises(DshrinkError, match="a refit wants the network with all of its"):
        require_refittable(network)
    for untrained in (drawn, ModelChoice(model=model)):
        with pytest.raises(DshrinkError, match="a refit keeps what trained weights compute"):
            require_refittable(untrained)


def test_weights_of_a_module_may_be_refitted(small: Network) -> None:
    require_refittable(small)


def test_networks_in_hand_are_benched_beside_their_plans(module: Small, small: Network) -> None:
    plans = [dshrink.parse_plan("mask:00")]
    original, merged = BenchInputs(networks=[small], plans=plans).at(1)
    assert (original.label, merged.label) == ("in-memory:Small", "mask:00")
    assert original.macs == small.spec.macs and original.original
    assert merged.baseline == original.label
    wider = dshrink.load_network(Small(8), resolution=16, in_channels=2)
    with pytest.raises(DshrinkError, match="another network of these is called in-memory:Small"):
        BenchInputs(networks=[small, wider]).at(1)
    named = dshrink.load_network(Small(8), resolution=16, in_channels=2, name="Wider")
    labels = [one.label for one in BenchInputs(networks=[small, named]).at(1)]
    assert labels == ["in-memory:Small", "in-memory:Wider"]


def test_a_chain_has_a_line_for_each_convolution(small: Network) -> None:
    frame = dshrink.chain_frame(small)
    convolutions = [m for m in Small().modules() if isinstance(m, nn.Conv2d)]
    assert len(frame) == len(convolutions)
    assert list(frame["groups"]) == [m.groups for m in convolutions]
    assert frame["output_shape"][0] == (6, 8, 8)
    data = dshrink.describe_chain(small)
    assert data.macs == small.spec.macs and len(data.blocks) == 2


# pictures and frames


RESULTS = Path(__file__).parents[2] / "benchmarks" / "results" / "digits_study_local.csv"


def drawn(figure: Any) -> list[Any]:
    """The numbers of a picture."""
    return [line.get_xydata().tolist() for axes in figure.axes for line in axes.lines]


def test_pictures_of_what_is_in_hand_are_those_of_the_files(
    table: LatencyTable, small: Network, tmp_path: Path
) -> None:
    save_table(table, tmp_path)
    assert drawn(dshrink.plot_predicted(table)) == drawn(dshrink.plot_predicted(tmp_path))
    results = dshrink.load_results(RESULTS).results
    assert drawn(dshrink.plot_front(results)) == drawn(dshrink.plot_front([RESULTS])) != []
    assert drawn(dshrink.plot_front(results)) == drawn(dshrink.plot_front(str(RESULTS)))
    with pytest.raises(PlotError, match="in hand and files together"):
        dshrink.plot_front([results[0], RESULTS])  # type: ignore[list-item]
    plan = dshrink.parse_plan("mask:10")
    for beside in ({"table": table}, {"network": small}, {}):
        labels = dshrink.plot_kept({"mine": plan}, **beside).axes[-1].get_yticklabels()  # type: ignore[arg-type]
        assert "mine" in {label.get_text() for label in labels}


def test_a_frontier_in_hand_is_drawn_as_its_file_is(tmp_path: Path) -> None:
    times = {(0, 1): 2.0, (1, 2): 2.0, (0, 2): 1.0}
    searched = synthetic_span_table(times, mask="11", slope=1.05)
    importance = tmp_path / "importance.csv"
    importance.write_text("st,end,st_act,end_act,imp\n0,1,1,1,1\n1,2,1,1,1\n0,2,1,1,0.5\n", "utf-8")
    request = DpRequest(importance=str(importance), frontier=True)
    found = search_tables([searched], request)
    assert found.frontier is not None and found.problem is not None
    file = tmp_path / "frontier.csv"
    save_frontier(found.frontier, file, found.problem.predicted_ms)
    assert len(load_frontier(file, "a").points) == 2
    assert drawn(dshrink.plot_frontier([found])) == drawn(dshrink.plot_frontier([file])) != []
    with pytest.raises(PlotError, match="a search without a frontier"):
        dshrink.plot_frontier([replace(found, frontier=None)])


def test_a_frame_of_results_has_the_columns_and_numbers_of_their_file() -> None:
    import pandas as pd

    stored = dshrink.load_results(str(RESULTS)).results
    frame, file = dshrink.results_frame(stored), pd.read_csv(RESULTS)
    assert len(frame) == len(file) and set(file.columns) <= set(frame.columns)
    for column in ("latency_ms", "throughput_fps", "accuracy_percent", "macs"):
        assert list(frame[column]) == pytest.approx(list(file[column]))
    assert list(dshrink.results_frame([]).columns) == list(frame.columns)
