"""Builds files on NVIDIA's own Python bindings, by the agent's own code; run by their Python.

Reads a JSON object a line, answers with one:

- ``{"file": ..., "precision": ...}`` builds: the answer is what the network definition holds and
  facts of the build. ``"plan"`` is where to write the engine to. The timing cache is kept for the
  life of the process, as the agent does it; ``"cache"`` is text to take in place of it.
- ``{"engine": ...}`` loads an engine.

An error is answered as a user gets it.
"""

import json
import sys
from pathlib import Path

import tensorrt_bindings as trt

from devices.agent import cuda
from devices.agent.checks import as_request_error
from devices.agent.cuda.gpu import GpuInfo
from devices.agent.runtimes import Options
from devices.agent.runtimes.tensorrt import api, build, model

#: No builder that builds ahead of time looks for a GPU: this one only bounds the workspace.
GPU = GpuInfo(
    name="none",
    compute_capability=(7, 5),
    driver_cuda="12.9",
    memory_bytes=11 << 30,
    l2_bytes=None,
    uuid="GPU-none",
)
ATTRIBUTES = {
    "CONVOLUTION": (
        "num_output_maps",
        "num_groups",
        "kernel_size_nd",
        "stride_nd",
        "dilation_nd",
        "pre_padding",
        "post_padding",
    ),
    "ACTIVATION": ("type", "alpha", "beta"),
    "POOLING": (
        "type",
        "window_size_nd",
        "stride_nd",
        "pre_padding",
        "post_padding",
        "padding_mode",
        "average_count_excludes_padding",
    ),
    "ELEMENTWISE": ("op",),
    "REDUCE": ("op", "axes", "keep_dims"),
    "MATRIX_MULTIPLY": ("op0", "op1"),
    "SHUFFLE": ("reshape_dims",),
    "QUANTIZE": ("axis",),
    "DEQUANTIZE": ("axis",),
}
CLASSES = {
    "CONVOLUTION": "IConvolutionLayer",
    "ACTIVATION": "IActivationLayer",
    "POOLING": "IPoolingLayer",
    "ELEMENTWISE": "IElementWiseLayer",
    "REDUCE": "IReduceLayer",
    "MATRIX_MULTIPLY": "IMatrixMultiplyLayer",
    "SHUFFLE": "IShuffleLayer",
    "QUANTIZE": "IQuantizeLayer",
    "DEQUANTIZE": "IDequantizeLayer",
}

networks = []


class NoGpu:
    """What an engine asks of a GPU before it is loaded; without one nothing else is reached."""

    info = GPU

    def memory_free_bytes(self):
        return GPU.memory_bytes

    def close(self):
        pass


class Builder(trt.Builder):
    """NVIDIA's builder, whose networks are kept to be looked at after the build."""

    def create_network(self, flags):
        networks[:] = [trt.Builder.create_network(self, flags)]
        return networks[0]


class Module:
    """The package, with the builder that is looked at."""

    Builder = Builder

    def __getattr__(self, name):
        return getattr(trt, name)


def plain(value):
    """A value of the bindings as JSON has it: names of enumerations, lists of dimensions."""
    if isinstance(value, (bool, int, float)):
        return value
    return value.name if hasattr(value, "name") else list(value)


def tensor(one):
    return {"name": one.name, "shape": list(one.shape), "type": one.dtype.name}


def layer(network, number):
    found = network.get_layer(number)
    kind = found.type.name
    said = {
        "kind": kind,
        "inputs": [found.get_input(at).name for at in range(found.num_inputs)],
        "outputs": [tensor(found.get_output(at)) for at in range(found.num_outputs)],
    }
    if kind in CLASSES:
        found.__class__ = getattr(trt, CLASSES[kind])
        for name in ATTRIBUTES[kind]:
            said[name] = plain(getattr(found, name))
    return said


def definition(network):
    return {
        "layers": [layer(network, number) for number in range(network.num_layers)],
        "inputs": [tensor(network.get_input(at)) for at in range(network.num_inputs)],
        "outputs": [tensor(network.get_output(at)) for at in range(network.num_outputs)],
    }


def built(able, logger, asked, cache):
    """The answer to a build, and the timing cache after it."""
    cache = asked["cache"].encode() if "cache" in asked else cache
    done = build.build(Module(), able, logger, GPU, asked["file"], asked["precision"], cache)
    if "plan" in asked:
        Path(asked["plan"]).write_bytes(done.plan)
    answer = definition(networks[0])
    answer.update(plan_bytes=len(done.plan), flags=done.flags, cache_bytes=len(done.cache))
    return answer, done.cache


def main():
    able = api.Capabilities.of(trt)
    logger = build.logger_of(trt)
    cuda.open_gpu = NoGpu
    cache = b""
    print(json.dumps({"version": able.version}), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            if "engine" in asked:
                plan = Path(asked["engine"]).read_bytes()
                answer = model.Engine(trt, able, logger, plan, Options(), 0).facts()
            else:
                answer, cache = built(able, logger, asked, cache)
        except Exception as error:
            found = as_request_error(error)
            answer = {"kind": found.kind, "message": found.message, "advice": found.advice}
        networks[:] = []
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
