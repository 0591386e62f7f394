"""What TensorRT makes of a file: its inputs and outputs as bytes, by the agent's own runtime.

    DEVICE_PYTHON engine_outputs.py AGENT_FOLDER OUT PRECISION LAUNCH FILE ...

Runs under the Python of the device, 3.6 and later, with nothing of the host. Writes for each file
OUT/<name>.json with the facts, and the tensors beside it.
"""

import importlib
import json
import sys
from pathlib import Path


def main(agent, out, precision, launch, files):
    sys.path.insert(0, str(agent.parent))
    engine_module = importlib.import_module(agent.name + ".runtimes.tensorrt.model")
    runtime = importlib.import_module(agent.name + ".runtimes.tensorrt.runtime").TensorRT()
    runtime.load()
    for file in files:
        model = runtime.prepare(str(file), 1, 0, {"precision": precision, "launch": launch})
        try:
            model.run(1)
            write(engine_module, model, out, file.name)
        finally:
            model.close()


def write(engine_module, model, out, name):
    tensors = {}
    for tensor, pointer in model._buffers:
        content = model._gpu.to_host(pointer, engine_module._bytes(tensor))
        (out / f"{name}.{tensor.name}.bin").write_bytes(content)
        tensors[tensor.name] = {
            "shape": list(tensor.shape),
            "element": tensor.element,
            "is_input": tensor.is_input,
        }
    said = {"tensors": tensors, "facts": model.facts()}
    (out / f"{name}.json").write_text(json.dumps(said), encoding="utf-8")


if __name__ == "__main__":
    agent, out, precision, launch, *files = sys.argv[1:]
    main(Path(agent), Path(out), precision, launch, [Path(file) for file in files])
