"""The agent under every Python it promises, and our files in the oldest ONNX Runtime it promises.

What is not installed is skipped with its reason. ``make test`` makes the environment with ONNX
Runtime 1.10 wherever it finds a Python 3.6; DSHRINK_TEST_PYTHON36 names another one.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from pythons import needs

from devices.agent.protocol import PROTOCOL, Rule, file_digest
from devices.agent_process import AgentProcess
from devices.connection import AGENT_FOLDER, LocalConnection
from devices.inventory import load_inventory
from dshrink.merge.export import run_onnx
from dshrink.network.models import Network
from latency_tables.onnx_file import IR_VERSION, OPSET
from latency_tables.opspec import (
    ACTIVATIONS,
    Activation,
    Add,
    BatchNorm,
    BiasMap,
    Concat,
    Conv,
    Flatten,
    GlobalPool,
    Linear,
    Mul,
    Op,
    OpSpec,
    Pool,
)
from latency_tables.places import Place
from profiler.profile import ProfileRequest, profile
from profiler.replies import LayerTimes, parse_result
from profiler.scheduling.serial import SerialScheduler
from profiler.settings import ProfileSettings
from profiler.table.layer_profile import share_out
from profiler.target import Target, probe_conditions
from profiler.workloads import build_onnx

Job = Callable[..., dict[str, Any]]

PATIENCE_S = 120.0
PROMISED = [f"3.{minor}" for minor in range(6, 15)]
OLDEST_RUNTIME = "1.10.0"
QUICK = Rule(
    warmup_s=0.0, warmup_cap_s=0.01, window_s=0.002, min_samples=5, min_total_s=0.0, cap_s=0.05
)
MODULES_OF_SMALL_NETWORK = Path(__file__).parents[1] / "profiler"


@pytest.fixture(scope="module")
def oldest() -> str:
    """A Python 3.6 that has ONNX Runtime 1.10."""
    made = Path(sys.prefix) / "python36" / "bin" / "python"
    python = os.environ.get("DSHRINK_TEST_PYTHON36") or str(made)
    if not Path(python).exists():
        pytest.skip(f"no Python 3.6 with ONNX Runtime {OLDEST_RUNTIME}: `make test` makes {made}")
    return python


@pytest.fixture(scope="module")
def old_agent(oldest: str) -> Iterator[AgentProcess]:
    with LocalConnection(python=oldest).start_agent() as agent:
        yield agent


@pytest.fixture
def no_devices_of_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The catalog alone."""
    monkeypatch.setenv("DSHRINK_DEVICES", str(tmp_path / "none.toml"))


def talk(python: str, folder: Path, *requests: dict[str, Any]) -> list[dict[str, Any]]:
    """What an agent of that Python answers, every warning being an error and nothing printed."""
    whole = [{"protocol": PROTOCOL, "id": "a", **request} for request in requests]
    done = subprocess.run(
        # Its two pipes are closed by its end, which is no leak.
        [python, "-W", "error", "-W", "ignore::ResourceWarning", folder / "__main__.py"],
        input="".join(f"{json.dumps(one)}\n" for one in whole),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("python", [needs(version) for version in PROMISED])
def test_each_python_says_hello_measures_and_quits_without_a_warning(
    python: str, fake_job: Job, tmp_path: Path
) -> None:
    # A fresh copy: what is compiled already does not warn about its syntax again.
    folder = tmp_path / "agent"
    shutil.copytree(AGENT_FOLDER, folder, ignore=shutil.ignore_patterns("__pycache__"))
    hello, measured, quitted = talk(
        python, folder, {"do": "hello"}, fake_job("work", busy_us=50), {"do": "quit"}
    )
    version = subprocess.run([python, "--version"], capture_output=True, text=True).stdout
    assert hello["result"]["environment"]["python"] == version.split()[1]
    assert len(measured["result"]["wall_ns"]) >= 3
    assert min(measured["result"]["wall_ns"]) >= 50_000
    assert quitted["ok"]


@pytest.mark.parametrize("python", [needs("2.7")])
def test_a_python_that_is_too_old_reads_the_agent_and_ends_with_status_3(python: str) -> None:
    done = subprocess.run([python, AGENT_FOLDER / "__main__.py"], capture_output=True, text=True)
    assert done.returncode == 3
    assert "needs Python 3.6 or newer" in done.stderr and "is 2.7" in done.stderr


def everything_we_write() -> OpSpec:
    """A small network with every kind of operator and activation that an OpSpec can have."""
    ops: list[Op] = []

    def add(op: Op) -> int:
        ops.append(op)
        return len(ops)

    def conv(tensor: int, out: int, kernel: int, **fields: Any) -> int:
        size = (kernel, kernel)
        return add(Conv(inputs=(tensor,), out_channels=out, kernel=size, **fields))

    x = conv(0, 8, 3, stride=(2, 2), pads=(0, 0, 1, 1))
    for function in ACTIVATIONS:
        x = add(Activation(inputs=(x,), function=function))
    x = add(BatchNorm(inputs=(x,)))
    deep = conv(x, 8, 3, pads=(2, 2, 2, 2), dilation=(2, 2), groups=8)
    deep = add(BiasMap(inputs=(conv(deep, 8, 3, pads=(1, 1, 1, 1), groups=2),)))
    x = add(Add(inputs=(x, deep)))
    x = add(Concat(inputs=(x, deep)))
    gate = conv(add(GlobalPool(inputs=(x,))), 16, 1)
    x = add(Mul(inputs=(x, add(Activation(inputs=(gate,), function="hard_sigmoid")))))
    window: dict[str, Any] = {"kernel": (3, 3), "stride": (2, 2), "pads": (1, 1, 1, 1)}
    x = add(Pool(inputs=(x,), function="max", ceil=True, **window))
    x = add(Pool(inputs=(x,), function="average", count_pads=True, **window))
    x = add(Pool(inputs=(x,), function="average", kernel=(2, 2), stride=(1, 1)))
    x = add(Flatten(inputs=(add(GlobalPool(inputs=(x,))),)))
    add(Linear(inputs=(x,), out_features=10))
    return OpSpec(input_shape=(3, 32, 32), ops=tuple(ops))


def test_the_example_has_every_operator_that_we_write() -> None:
    ops = everything_we_write().ops
    assert {op.kind for op in ops} == {cls.kind for cls in Op.__subclasses__()} - {"opaque"}
    assert {op.function for op in ops if isinstance(op, Activation)} == set(ACTIVATIONS)


def test_our_files_are_of_the_opset_and_ir_version_that_we_say() -> None:
    model = onnx.load_from_string(build_onnx(everything_we_write()))
    assert [(one.domain, one.version) for one in model.opset_import] == [("", OPSET)]
    assert model.ir_version == IR_VERSION
    assert {node.domain for node in model.graph.node} == {""}


@pytest.mark.usefixtures("no_devices_of_the_user")
def test_the_oldest_runtime_that_a_device_allows_reads_them() -> None:
    devices = load_inventory().devices.values()
    limits = [one for device in devices for one in device.runtimes.values() if one.max_opset]
    assert len(limits) >= len(devices) - 1  # one board reads no ONNX
    for limit in limits:
        assert limit.max_opset >= OPSET and limit.max_ir >= IR_VERSION, limit


def measure_file(agent: AgentProcess, file: Path, do: str = "measure") -> dict[str, Any]:
    """What the agent answers about a file of ours."""
    request = {"do": do, "runtime": "onnxruntime", "file": str(file)}
    request |= {"sha256": file_digest(str(file)), "rule": QUICK._asdict()}
    return agent.request(request, PATIENCE_S)


@pytest.mark.parametrize("what", ["every operator", "a whole network"])
def test_the_oldest_runtime_measures_our_files(
    old_agent: AgentProcess, network: Callable[..., Network], tmp_path: Path, what: str
) -> None:
    assert old_agent.environment.python.startswith("3.6.")
    assert old_agent.environment.runtimes["onnxruntime"] == OLDEST_RUNTIME
    whole = what == "a whole network"
    spec = network("mobilenetv2_100", resolution=64).spec if whole else everything_we_write()
    file = tmp_path / "model.onnx"
    file.write_bytes(build_onnx(spec))
    result = measure_file(old_agent, file)
    for samples in (result["wall_ns"], result["cpu_ns"]):
        assert len(samples) >= 3
        # Between a hundred multiply-accumulates a nanosecond and one a microsecond.
        assert spec.macs / 100 < min(samples) <= max(samples) < spec.macs * 1000
    assert 0 < result["prepare_s"] < PATIENCE_S


@pytest.mark.parametrize("what", ["every operator", "a whole network"])
def test_the_oldest_runtime_says_how_long_each_operator_took(
    old_agent: AgentProcess, network: Callable[..., Network], tmp_path: Path, what: str
) -> None:
    whole = what == "a whole network"
    spec = network("mobilenetv2_100", resolution=64).spec if whole else everything_we_write()
    file = tmp_path / "model.onnx"
    file.write_bytes(build_onnx(spec))
    found = parse_result(measure_file(old_agent, file, "profile"))
    assert isinstance(found, LayerTimes)
    owners: list[Place] = [("original", number) for number in range(len(spec.ops))]
    shared = share_out(found, spec, owners)
    assert shared.unnamed_percent == 0.0
    # Those that are fused into others are named after the last of them.
    assert sum(times[0] > 0 for times in shared.places_ns.values()) > len(spec.ops) / 3


def test_the_oldest_runtime_computes_what_the_newest_does(oldest: str, tmp_path: Path) -> None:
    content = build_onnx(everything_we_write())
    image = np.random.default_rng(5).standard_normal((1, 3, 32, 32)).astype(np.float32)
    (tmp_path / "model.onnx").write_bytes(content)
    np.save(tmp_path / "image.npy", image)
    code = (
        "import numpy, onnxruntime\n"
        "session = onnxruntime.InferenceSession('model.onnx')\n"
        "result, = session.run(None, {session.get_inputs()[0].name: numpy.load('image.npy')})\n"
        "numpy.save('result.npy', result)\n"
    )
    subprocess.run([oldest, "-c", code], cwd=tmp_path, check=True, capture_output=True)
    result = np.load(tmp_path / "result.npy")
    np.testing.assert_allclose(result, run_onnx(content, image), rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("no_devices_of_the_user")
def test_a_profile_with_the_oldest_runtime_ends_in_a_table(
    oldest: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(MODULES_OF_SMALL_NETWORK))
    small_network = importlib.import_module("small_network")
    with closing(SerialScheduler(LocalConnection(python=oldest))) as scheduler:
        local = load_inventory().get("local")
        conditions = probe_conditions(local, scheduler, Target(runtime="onnxruntime"))
        request = ProfileRequest(
            pieces=small_network.network_pieces(),
            compose=small_network.compose,
            operators=small_network.operators,
            build=build_onnx,
            conditions=conditions,
            folder=tmp_path,
            date="2026-01-01",
            dshrink_version="1",
            check=2,
            time_limit_s=1e-3,
            settings=ProfileSettings(rounds=1, repeats=0, rule=QUICK),
        )
        made = profile(request, scheduler)
    table = made.table
    assert table.conditions.runtime == "onnxruntime"
    assert table.conditions.runtime_version == OLDEST_RUNTIME
    assert table.fingerprint["python"].startswith("3.6.")
    assert made.session.failed == 0
    assert all(row.latency_ms is not None and row.latency_ms > 0 for row in table.rows)
