"""Read the names and signatures of a real TensorRT module by introspection, as JSON.

    python read_surface.py MODULE > surfaces/VERSION.json

Runs under any Python that imports the module, 3.6 included; needs no GPU.
"""

import importlib
import json
import re
import sys

#: What a program that parses, builds, inspects and runs may touch.
CLASSES = (
    "Builder",
    "BuilderFlag",
    "DataType",
    "Dims",
    "EngineInspector",
    "ErrorCode",
    "IBuilderConfig",
    "ICudaEngine",
    "IExecutionContext",
    "IHostMemory",
    "ILayer",
    "ILogger",
    "INetworkDefinition",
    "IProfiler",
    "ITensor",
    "ITimingCache",
    "LayerInformationFormat",
    "LayerType",
    "Logger",
    "MemoryPoolType",
    "NetworkDefinitionCreationFlag",
    "OnnxParser",
    "ParserError",
    "PreviewFeature",
    "ProfilingVerbosity",
    "Runtime",
    "TacticSource",
    "TensorIOMode",
)
#: Layers of a network are made by its parser alone here.
LEFT_OUT = re.compile(r"add_.*")


def read(module):
    """Return version and classes; an enum's members with their values."""
    classes = {}
    for name in CLASSES:
        found = getattr(module, name, None)
        if isinstance(found, type):
            classes[name] = read_class(found)
    return {"version": module.__version__, "classes": classes}


def read_class(cls):
    """Return bases, enum members, method signatures (as pybind prints them) and properties."""
    members = getattr(cls, "__members__", None)
    enum = {name: int(value) for name, value in members.items()} if members else None
    methods, properties = {}, []
    for name, value in sorted(vars(cls).items()):
        if isinstance(value, property):
            properties.append(name + ("" if value.fset else " (ro)"))
        elif callable(value) and (not name.startswith("__") or name in ("__init__", "__len__")):
            lines = signatures(name, value)
            if lines and not LEFT_OUT.match(name) and not (enum and name.startswith("__")):
                methods[name] = lines
    nested = {
        name: {member: int(one) for member, one in value.__members__.items()}
        for name, value in vars(cls).items()
        if isinstance(value, type) and hasattr(value, "__members__")
    }
    bases = [one.__name__ for one in cls.__bases__ if one.__module__ == cls.__module__]
    return {
        "bases": bases,
        "enum": enum,
        "methods": methods,
        "nested": nested,
        "properties": [one for one in properties if not one.startswith("__")],
    }


def signatures(name, method):
    """The lines ``name(argument: type = default, ...) -> type`` of a docstring, one an overload."""
    lines = (getattr(method, "__doc__", None) or "").splitlines()
    found = []
    for line in lines:
        line = re.sub(r"^\d+\. ", "", line.strip())
        if line.startswith(name + "(") and "->" in line and "*args, **kwargs" not in line:
            found.append(re.sub(r"\b(tensorrt(_bindings)?\.)+", "", line))
    return found


def as_text(surface):
    """JSON with a line a class."""
    lines = [
        f"  {json.dumps(name)}: {json.dumps(found, sort_keys=True)}"
        for name, found in sorted(surface["classes"].items())
    ]
    head = f'{{\n "version": {json.dumps(surface["version"])},\n "classes": {{\n'
    return head + ",\n".join(lines) + "\n }\n}\n"


if __name__ == "__main__":
    sys.stdout.write(as_text(read(importlib.import_module(sys.argv[1]))))
