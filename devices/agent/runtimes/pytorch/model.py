"""A module of PyTorch in place: its runs, its clocks, its layers, and what was built."""

import ctypes
import re
import time
from collections import Counter
from typing import Any, Dict, List, Tuple

from ... import timing
from ...checks import RequestError, bad_model, clip, missing_runtime
from ...cuda.clocks import EventClocks
from ...protocol import Rule
from .. import Options, Prepared, TensorContent, check_size, is_out_of_memory, not_captured
from .clocks import TorchGpu

#: Runs before anything is recorded: the first of them choose algorithms and fill the allocator.
WARM_RUNS = 3
PRECISION_NAMES = {"float32": "fp32", "float16": "fp16"}


class TorchModel(Prepared):
    """A module in place, with its inputs; ``built`` becomes its facts."""

    def __init__(self, torch: Any, wired: Any, inputs: List[Any], chosen: Options) -> None:
        self.built: Dict[str, Any] = {}
        self._torch = torch
        self._wired = wired
        self._inputs = inputs
        self._chosen = chosen
        self._on_gpu = chosen.processor == "gpu"
        self._graph: Any = None
        self._recorded_peak = 0
        self._call = wired.module
        self.outputs: Any = None
        if chosen.launch == "compiled":
            if not hasattr(torch, "compile"):
                raise missing_runtime(
                    f"PyTorch {torch.__version__} has no torch.compile, which came with 2.0",
                    "install a newer PyTorch on the device, or measure with launch=plain",
                )
            self._call = torch.compile(wired.module, mode="default", fullgraph=True)

    def warm(self) -> None:
        """Make the first runs, then compile or record where that is asked for."""
        torch = self._torch
        with torch.inference_mode():
            try:
                self.outputs = self._call(*self._inputs)
            except Exception as error:
                if self._chosen.launch != "compiled" or is_out_of_memory(error):
                    raise
                raise _not_compiled(error) from error
        if self._chosen.launch == "cuda_graph":
            self._record()
        self.run(WARM_RUNS)

    def check_shapes(self, file: str) -> None:
        """Refuse the file where its outputs have other shapes here than it says."""
        found = [tuple(one.shape) for one in self.outputs]
        if found != self._wired.output_shapes:
            raise bad_model(
                f"{file} gives {found} in PyTorch, and says {self._wired.output_shapes}: "
                "PyTorch drops pooling windows that begin in the padding",
                "write the pooling's padding out",
            )

    def run(self, times: int) -> None:
        """Run so often, and return when the last run is done."""
        self.enqueue(times)
        if self._on_gpu:
            self._torch.cuda.synchronize()

    def enqueue(self, times: int) -> None:
        """Launch so many runs; on a GPU they may not be done yet."""
        if self._graph is not None:
            for _ in range(times):
                self._graph.replay()
            return
        call, inputs = self._call, self._inputs
        with self._torch.inference_mode():
            for _ in range(times):
                self.outputs = call(*inputs)

    def peak_bytes(self) -> int:
        """The most of the GPU's memory that is in use at once in a run, with all that stays there.

        It is not that of the warm-up, where cuDNN tries algorithms that want far more.  A graph
        takes no memory when it runs: what it writes to it took when it was recorded, which is a
        run like others to the allocator, and is counted there.
        """
        if self._graph is not None:
            return self._recorded_peak
        self._torch.cuda.reset_peak_memory_stats()
        self.run(1)
        return int(self._torch.cuda.max_memory_allocated())

    def measure(self, rule: Rule, threads: int) -> timing.Timing:
        """Take samples with the clocks of the processor that computes."""
        if not self._on_gpu:
            return timing.measure(self.run, rule, timing.SystemClocks(threads))
        # The stream is PyTorch's own, which its events are on: its number means nothing here.
        clocks = EventClocks(TorchGpu(self._torch), 0, self._chosen.is_cold)
        return timing.measure(self.enqueue, rule, clocks)

    def layers(self, passes: int) -> List[Tuple[str, List[int]]]:
        """The ns of each ONNX operator, run eagerly and one by one; on a GPU between events."""
        if self._chosen.launch == "compiled":
            raise RequestError(
                "bad_request",
                "torch.compile leaves no separate operators to time",
                "ask for the layers with launch plain",
            )
        times: Dict[str, List[int]] = {}
        self._profiled_pass()  # the interpreter's own first run
        for _ in range(passes):
            for name, ns in self._profiled_pass():
                times.setdefault(name, []).append(ns)
        return list(times.items())

    def tensors(self) -> Tuple[List[TensorContent], List[TensorContent]]:
        """The inputs, and the outputs of one run, by the names that the file gives them."""
        every = [*self._inputs, *self.outputs]
        check_size(one.numel() * one.element_size() for one in every)
        self.run(1)
        inputs = list(map(_tensor, self._wired.input_names, self._inputs))
        return inputs, list(map(_tensor, self._wired.output_names, self.outputs))

    def facts(self) -> Dict[str, Any]:
        """What was built, read off the module itself."""
        torch = self._torch
        named = torch.nn.functional
        weighted = (named.conv1d, named.conv2d, named.conv3d, named.linear, torch.matmul)
        layers: Dict[str, int] = Counter()
        for node in self._wired.module.graph.nodes:
            if node.target in weighted and node.args[1].op == "get_attr":
                weight = getattr(self._wired.module, node.args[1].target)
                layers[_precision_name(weight.dtype)] += 1
        seen = set(layers) | {_precision_name(one.dtype) for one in self.outputs}
        flags = {
            "channels_last": True,
            "cudnn_benchmark": bool(torch.backends.cudnn.benchmark),
            "tf32": bool(torch.backends.cuda.matmul.allow_tf32 or torch.backends.cudnn.allow_tf32),
            "launch": self._chosen.launch,
            "threads": torch.get_num_threads(),
        }
        facts = dict(
            self.built, precision="+".join(sorted(seen)), precision_layers=dict(layers), flags=flags
        )
        if self._on_gpu:
            facts["gpu"] = torch.cuda.get_device_name()
        return facts

    def close(self) -> None:
        """Drop the module, and give the GPU's memory back."""
        self._graph = self._call = self._wired = self.outputs = None
        self._inputs = []
        if self._chosen.launch == "compiled":
            getattr(self._torch, "compiler", self._torch._dynamo).reset()
        if self._on_gpu:
            self._torch.cuda.empty_cache()

    def _record(self) -> None:
        """Record one run as a CUDA graph, after runs on a stream of their own as torch asks."""
        cuda = self._torch.cuda
        side = cuda.Stream()
        side.wait_stream(cuda.current_stream())
        with self._torch.inference_mode():
            with cuda.stream(side):
                for _ in range(WARM_RUNS):
                    self._call(*self._inputs)
            cuda.current_stream().wait_stream(side)
            self.outputs = None
            cuda.reset_peak_memory_stats()
            graph = cuda.CUDAGraph()
            try:
                with cuda.graph(graph):
                    self.outputs = self._call(*self._inputs)
            except RuntimeError as error:
                if is_out_of_memory(error):
                    raise
                raise not_captured(str(error)) from error
            self._recorded_peak = int(cuda.max_memory_allocated())
        self._graph = graph

    def _profiled_pass(self) -> List[Tuple[str, int]]:
        """One run: each ONNX operator with its ns, those of several torch calls added up."""
        stamp, elapsed_ns = _stamps(self._torch, self._on_gpu)
        marks: List[Tuple[str, Any, Any]] = []
        interpreter = self._torch.fx.Interpreter(self._wired.module)
        run_node = interpreter.run_node

        def timed(node: Any) -> Any:
            layer = self._wired.layers.get(node.name)
            if layer is None:
                return run_node(node)
            start = stamp()
            value = run_node(node)
            marks.append((layer, start, stamp()))
            return value

        interpreter.run_node = timed
        with self._torch.inference_mode():
            interpreter.run(*self._inputs)
        if self._on_gpu:
            self._torch.cuda.synchronize()
        total: Dict[str, int] = Counter()
        for layer, start, end in marks:
            total[layer] += elapsed_ns(start, end)
        return list(total.items())


def _stamps(torch: Any, on_gpu: bool) -> Tuple[Any, Any]:
    """What notes the time, and what gives the ns between two of its notes."""
    if not on_gpu:
        return time.perf_counter, lambda start, end: int((end - start) * 1e9)

    def stamp() -> Any:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    return stamp, lambda start, end: int(start.elapsed_time(end) * 1e6)


def _tensor(name: str, tensor: Any) -> TensorContent:
    """Read where it lies, so that it needs no numpy."""
    here = tensor.detach().cpu().contiguous()
    content = ctypes.string_at(here.data_ptr(), here.numel() * here.element_size())
    element = str(tensor.dtype).rpartition(".")[2]
    return TensorContent(name, element, tuple(tensor.shape), content)


def _precision_name(dtype: Any) -> str:
    name = str(dtype).rpartition(".")[2]
    return PRECISION_NAMES.get(name, name)


def _not_compiled(error: Exception) -> RequestError:
    """torch.compile's errors have a kind for each of its parts; what it lacks is in the words."""
    said = str(error)
    if (
        re.search(r"compiler|triton", said, re.I)
        and "No such file" in said
        or (re.search(r"No working C\+\+ compiler|InvalidCxxCompiler|working triton", said))
    ):
        return missing_runtime(
            f"torch.compile has no compiler here: {clip(said.splitlines()[0])}",
            "install g++ for the cpu, triton for the gpu; or ask for another launch",
        )
    return RequestError(
        "runtime_error",
        f"torch.compile cannot compile the model: {clip(said)}",
        "ask for launch plain, or for cuda_graph on a gpu",
    )
