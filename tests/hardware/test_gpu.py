"""On a real GPU: what TensorRT computes is what the network says, by both of its interfaces.

    DSHRINK_GPU_PYTHON=/path/to/python pytest -m hardware tests/hardware

The variable names the Python that has TensorRT; it need not be this one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from devices.agent import cuda
from dshrink.network.models import load_network
from dshrink.pieces.block_pieces import network_pieces
from dshrink.pieces.specs import shrunk_spec
from profiler.workloads import build_onnx

AGENT = Path(__file__).parents[2] / "devices" / "agent"
SCRIPT = Path(__file__).with_name("engine_outputs.py")
SIMULATED = Path(__file__).parents[1] / "support" / "fake_gpu"
NUMPY_TYPES = {"FLOAT": np.float32, "HALF": np.float16}
#: Largest difference as a share of the largest output.
TOLERANCES = {"fp32": 1e-4, "fp16": 3e-2}

Tensors = dict[str, npt.NDArray[np.floating]]


def run_engines(
    files: list[Path], out: Path, precision: str, launch: str, python: str, **variables: str
) -> dict[Path, tuple[Tensors, Tensors, dict[str, object]]]:
    """Inputs, outputs and facts of each file."""
    words = [python, str(SCRIPT), str(AGENT), str(out), precision, launch, *map(str, files)]
    subprocess.run(words, check=True, timeout=900, env={**os.environ, **variables})
    return {file: read(out / file.name) for file in files}


def read(place: Path) -> tuple[Tensors, Tensors, dict[str, object]]:
    said = json.loads(Path(f"{place}.json").read_text())
    sides: tuple[Tensors, Tensors] = ({}, {})
    for name, tensor in said["tensors"].items():
        content = Path(f"{place}.{name}.bin").read_bytes()
        array = np.frombuffer(content, NUMPY_TYPES[tensor["element"]]).reshape(tensor["shape"])
        sides[0 if tensor["is_input"] else 1][name] = array
    return (*sides, said["facts"])


def expected(file: Path, inputs: Tensors) -> Tensors:
    """What the network computes: by ONNX Runtime where it is installed, else by onnx itself."""
    try:
        import onnxruntime
    except ImportError:
        evaluator = ReferenceEvaluator(onnx.load(file))
        names = [one.name for one in onnx.load(file).graph.output]
        return dict(zip(names, evaluator.run(None, dict(inputs)), strict=True))
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_outputs()]
    return dict(zip(names, session.run(None, dict(inputs)), strict=True))


def some_files(folder: Path, batch: int) -> list[Path]:
    """Blocks of MobileNetV2-1.4, original and merged, stem, head, and a whole shrunk network."""
    network = load_network("mobilenetv2_140", resolution=96)
    pieces = network_pieces(network)
    wanted = [(kind, block) for block in (0, 1, 2, 16) for kind in ("original", "merged")]
    specs = [pieces.piece(*place).spec for place in (("stem", None), *wanted, ("head", None))]
    specs.append(shrunk_spec(network, "1" + "0" * 16, padding="repad"))
    files = []
    for number, spec in enumerate(specs):
        files.append(folder / f"{number}.onnx")
        files[-1].write_bytes(build_onnx(spec, batch=batch))
    return files


@pytest.mark.hardware
@pytest.mark.parametrize("launch", ["plain", "cuda_graph"])
@pytest.mark.parametrize("api", ["tensors", "bindings"])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_an_engine_computes_what_the_network_says(
    tmp_path: Path, precision: str, api: str, launch: str
) -> None:
    if cuda.find_gpu() is None:
        pytest.skip("no GPU")
    python = os.environ.get("DSHRINK_GPU_PYTHON", sys.executable)
    files = some_files(tmp_path, batch=2)
    ran = run_engines(files, tmp_path, precision, launch, python, DSHRINK_TENSORRT_API=api)
    for file, (inputs, outputs, facts) in ran.items():
        assert facts["api"] == api or "bindings" not in (api, facts["api"])
        for name, wanted in expected(file, inputs).items():
            largest = float(np.abs(outputs[name].astype(np.float64) - wanted).max())
            assert largest <= TOLERANCES[precision] * float(np.abs(wanted).max()), (file, facts)


def test_the_script_that_asks_a_gpu_works_on_a_simulated_one(tmp_path: Path) -> None:
    files = some_files(tmp_path, batch=2)[:2]
    ran = run_engines(
        files, tmp_path, "fp32", "cuda_graph", sys.executable, PYTHONPATH=str(SIMULATED)
    )
    for file, (inputs, outputs, facts) in ran.items():
        wanted = expected(file, inputs)
        assert {name: array.shape for name, array in wanted.items()} == {
            name: array.shape for name, array in outputs.items()
        }
        (source,) = inputs.values()
        assert source.shape[0] == 2 and 0.9 < float(source.std()) < 1.1
        assert facts["gpu"] == "Simulated H200"
