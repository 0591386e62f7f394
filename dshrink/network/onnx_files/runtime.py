"""Running a model in ONNX Runtime, on the CPU: the independent judge of what a file computes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnxruntime as ort


def run_onnx(data: bytes, image: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
    """The result of a model with one input, which gets ``image`` in the type that it takes."""
    return run_all(data, image)[0]


def run_all(data: bytes, image: npt.NDArray[np.floating]) -> list[npt.NDArray[np.float32]]:
    """All results of a model, in float32. Raises what ONNX Runtime raises."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    (entry,) = session.get_inputs()
    half = entry.type == "tensor(float16)"
    results = session.run(None, {entry.name: image.astype(np.float16 if half else np.float32)})
    return [np.asarray(one, np.float32) for one in results]
