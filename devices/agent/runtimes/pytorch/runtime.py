"""PyTorch, eager or compiled, on a CPU or a GPU: what most papers measure with.

What decides the latency is set here, never left to a default: channels_last memory, no TF32, the
threads, and cuDNN's search for the fastest algorithm of each convolution, whose first run measures
the candidates (as TensorRT's builder does) and so belongs to the preparation.  ``compiled`` is
``torch.compile`` of the whole graph; ``cuda_graph`` is a recorded eager run.
"""

import importlib
import importlib.util
import os
import re
import sys
import time
from contextlib import suppress
from typing import Any, Dict, List, Optional

from ...checks import Check, RequestError, clip, missing_runtime, one_of
from .. import Options, Prepared, Runtime, starting
from . import build
from .model import TorchModel


class PyTorch(Runtime):
    """ONNX files as modules of PyTorch."""

    ISOLATED = True
    OPTIONS: Dict[str, Check] = {
        "processor": one_of("cpu", "gpu"),
        "precision": one_of("fp32", "fp16"),
        "launch": one_of("plain", "cuda_graph", "compiled"),
        "cache": one_of("hot", "cold"),
    }

    def __init__(self) -> None:
        self._torch: Any = None
        self._onnx: Any = None

    def is_installed(self) -> bool:
        """Whether there is a package of that name."""
        return _version_file() is not None

    def version(self) -> Optional[str]:
        """The installed version, read without importing it, which takes seconds on a small board.

        It is PyTorch's alone: that ``onnx`` is missing beside it is what ``load`` says.
        """
        file = _version_file()
        if file is None:
            return None
        with open(file, encoding="utf-8") as stream:
            found = re.search(
                r"^__version__\s*(?::\s*\w+)?\s*=\s*['\"]([^'\"]+)", stream.read(), re.M
            )
        return found.group(1) if found else None

    def load(self) -> None:
        """Import PyTorch and onnx, once."""
        if self._torch is not None:
            return
        for name in ("torch", "torch.fx", "onnx", "onnx.shape_inference"):
            package = name.partition(".")[0]
            with starting(f"the PyTorch runtime needs {name}, which", package):
                importlib.import_module(name)
        self._onnx = sys.modules["onnx"]
        self._torch = sys.modules["torch"]
        with suppress(RuntimeError):  # only the first call in a process counts
            self._torch.set_num_interop_threads(1)

    def prepare(self, file: str, threads: int, seed: int, options: Dict[str, Any]) -> Prepared:
        """Build the module and run it until every choice of the libraries is made."""
        chosen = Options.of(options)
        on_gpu = chosen.processor == "gpu"
        if not on_gpu:
            _check_for_cpu(chosen)
        device = self._device(on_gpu)
        torch = self._torch
        torch.set_num_threads(threads)
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.benchmark = True
        start = time.perf_counter()
        if on_gpu:
            torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated() if on_gpu else 0
        dtype = torch.float16 if chosen.precision == "fp16" else torch.float32
        wired = build.build(torch, self._onnx, file)
        inputs = _inputs(torch, wired, seed, dtype, device)
        module = _place(torch, wired.module, dtype, device)
        model = TorchModel(torch, wired._replace(module=module), inputs, chosen)
        model.warm()
        model.check_shapes(file)
        model.built["build_s"] = time.perf_counter() - start
        if on_gpu:
            model.built["device_memory_bytes"] = max(0, model.peak_bytes() - before)
        return model

    def processor(self, options: Dict[str, Any]) -> str:
        """What the options ask for."""
        return Options.of(options).processor

    def is_broken(self) -> bool:
        """Whether no call to the GPU works any more."""
        if self._torch is None or not self._torch.cuda.is_initialized():
            return False
        try:
            self._torch.cuda.synchronize()
        except RuntimeError:
            return True
        return False

    def _device(self, on_gpu: bool) -> Any:
        torch = self._torch
        if on_gpu and not torch.cuda.is_available():
            raise missing_runtime(
                f"PyTorch {torch.__version__} cannot use a GPU here: {_why_no_gpu(torch)}",
                "install a build of PyTorch for this machine's CUDA driver, or ask for the cpu",
            )
        return torch.device("cuda" if on_gpu else "cpu")


def _why_no_gpu(torch: Any) -> str:
    """The reason, which ``is_available`` makes a warning, if anything."""
    if not torch.version.cuda:
        return "it was built without CUDA"
    try:
        torch.cuda.init()
    except Exception as error:  # also an assertion of torch's own
        return clip(str(error).strip().partition("\n")[0])
    return "no GPU was found"


def _check_for_cpu(chosen: Options) -> None:
    """Refuse what a CPU cannot do."""
    if chosen.precision == "fp16":
        raise RequestError(
            "bad_request",
            "fp16 on a CPU is not measured: PyTorch converts to fp32 and back on most of them, "
            "or has no such operator",
            "ask for fp32, or for the gpu",
        )
    if chosen.launch == "cuda_graph" or chosen.is_cold:
        asked = "launch cuda_graph" if chosen.launch == "cuda_graph" else "cache cold"
        raise RequestError("bad_request", f"{asked} is for a GPU alone", "ask for processor gpu")


def _version_file() -> Optional[str]:
    """Where the version of the installed PyTorch is written; finding it imports nothing."""
    spec = importlib.util.find_spec("torch")
    for folder in (spec.submodule_search_locations or []) if spec is not None else []:
        file = os.path.join(folder, "version.py")
        if os.path.exists(file):
            return file
    return None


def _inputs(torch: Any, wired: Any, seed: int, dtype: Any, device: Any) -> List[Any]:
    draw = torch.Generator().manual_seed(seed)
    return [
        _channels_last(torch, torch.randn(shape, generator=draw).to(device, dtype))
        for shape in wired.input_shapes
    ]


def _place(torch: Any, module: Any, dtype: Any, device: Any) -> Any:
    """The module on the device, its kernels in the order of channels_last."""
    module = module.to(device, dtype)
    for parameter in module.parameters():
        parameter.data = _channels_last(torch, parameter.data)
    return module


def _channels_last(torch: Any, tensor: Any) -> Any:
    if tensor.dim() != 4:
        return tensor
    return tensor.contiguous(memory_format=torch.channels_last)
