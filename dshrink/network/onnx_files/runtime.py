"""Running a model in ONNX Runtime, on the CPU: the independent judge of what a file computes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort


def run_onnx(data: bytes, image: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
    """The result of a model with one input, which gets ``image`` in the type that it takes."""
    return run_all(data, image)[0]


def run_all(data: bytes, image: npt.NDArray[np.floating]) -> list[npt.NDArray[np.float32]]:
    """All results of a model, in float32. Raises what ONNX Runtime raises."""
    session = _session(data)
    (entry,) = session.get_inputs()
    half = entry.type == "tensor(float16)"
    results = session.run(None, {entry.name: image.astype(np.float16 if half else np.float32)})
    return [np.asarray(one, np.float32) for one in results]


def run_as_written(data: bytes, feeds: Mapping[str, npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
    """All results of a model, node by node; ``feeds`` may hold more than its inputs."""
    session = _session(data, ort.GraphOptimizationLevel.ORT_DISABLE_ALL)
    results = session.run(None, {one.name: feeds[one.name] for one in session.get_inputs()})
    return [np.asarray(one) for one in results]


def node_session(data: bytes) -> ort.InferenceSession:
    """A session of one node: a network has many of them, so each is one thread, run as written."""
    return _session(data, ort.GraphOptimizationLevel.ORT_DISABLE_ALL, threads=1)


def _session(
    data: bytes,
    level: ort.GraphOptimizationLevel = ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
    *,
    threads: int = 0,
) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 4  # what it raises says what is wrong
    options.graph_optimization_level = level
    options.intra_op_num_threads = threads
    return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
