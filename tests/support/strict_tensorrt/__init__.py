"""A fake ``tensorrt`` that has exactly the names of one version, on the simulated GPU.

    trt = build("8.5.3.1")
    trt.world.fails["build"] = "10: Could not find any implementation for node t1/Conv"

It parses real ONNX files, obeys flags, fuses activations, refuses engines and timing caches of
another version or GPU, and costs time on the simulated GPU; it computes nothing.
"""

from __future__ import annotations

import os
import types
from importlib.machinery import ModuleSpec
from typing import Any

from fake_cuda import simulated

from . import building, running
from .strict import Crash, NotPlayedError, make_classes
from .surface import VERSIONS, load
from .world import World

__all__ = ["VERSIONS", "Crash", "NotPlayedError", "build"]

#: "build=some text": a step of ``World.fails``, for processes that a test cannot reach into.
FAILS_VARIABLE = "FAKE_TENSORRT_FAILS"


def build(version: str) -> Any:
    """A new module of this version; ``world`` holds its knobs and what it saw."""
    world = World(version=version, gpu=simulated())
    step, _, text = os.environ.get(FAILS_VARIABLE, "").partition("=")
    if step:
        world.fails[step] = text
    surface = load(version)
    world.classes = make_classes(surface, {**building.PLAYED, **running.PLAYED}, world)
    world.classes["Dims"].__getitem__ = lambda self, at: self._shape[at]  # type: ignore[attr-defined]
    module: Any = types.ModuleType("tensorrt")
    module.__spec__ = ModuleSpec("tensorrt", None)
    public = {name: one for name, one in world.classes.items() if name in surface["classes"]}
    module.__dict__.update(public, __version__=version, world=world, nptype=_nptype)
    return module


def _nptype(trt_type: Any) -> Any:
    raise AttributeError("module 'numpy' has no attribute 'bool'")  # with numpy from 1.24 on
