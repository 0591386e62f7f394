"""The recorded API surfaces, and what is concluded from them, against NVIDIA's own wheels.

``DSHRINK_TENSORRT_WHEELS`` names folders, joined by ":", each with one unpacked wheel: ``tensorrt``
or, from 10 on, ``tensorrt_bindings`` alone. Libraries that the wheel needs and this machine lacks
lie in its folder ``libx``: cuBLAS, cuDNN and the like, or stand-ins that only have their names.
No GPU is needed.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from pythons import interpreter
from strict_tensorrt import VERSIONS, build
from strict_tensorrt.surface import FOLDER, load

from devices.agent.runtimes.tensorrt.api import Capabilities

VARIABLE = "DSHRINK_TENSORRT_WHEELS"
WHEELS = [Path(one) for one in os.environ.get(VARIABLE, "").split(os.pathsep) if one]
ROOT = Path(__file__).parents[3]
PATIENCE_S = 300
READ = """
import importlib, json, sys
from read_surface import read
from devices.agent.runtimes.tensorrt.api import Capabilities
module = importlib.import_module(sys.argv[1])
print(json.dumps({"surface": read(module), "able": Capabilities.of(module)._asdict()}))
"""


def looked_at(folder: Path) -> Any:
    """What a Python that fits a wheel reads from it."""
    (tags,) = folder.glob("*.dist-info/WHEEL")
    found = re.search(r"^Tag: cp(3)(\d+)-", tags.read_text(), re.M)
    assert found, f"{tags} names no version of CPython"
    python = interpreter(".".join(found.groups()))
    if python is None:
        pytest.skip(f"{folder} needs Python {'.'.join(found.groups())}, which is not installed")
    package = "tensorrt" if (folder / "tensorrt").is_dir() else "tensorrt_bindings"
    libraries = [str(folder / "libx"), os.environ.get("LD_LIBRARY_PATH", "")]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, (folder, ROOT, FOLDER.parent))),
        "LD_LIBRARY_PATH": os.pathsep.join(filter(None, libraries)),
    }
    command = [python, "-c", READ, package]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.skipif(not WHEELS, reason=f"${VARIABLE} names no unpacked wheels of TensorRT")
@pytest.mark.parametrize("folder", WHEELS, ids=lambda one: one.name)
def test_a_real_module_has_what_is_recorded_and_is_judged_as_its_fake(folder: Path) -> None:
    found = looked_at(folder)
    version = found["surface"]["version"]
    family = re.match(r"8\.\d|\d+", version)
    assert family is not None
    recorded = [one for one in VERSIONS if one.startswith(family[0])]
    assert recorded, f"there is no surface for TensorRT {version}"
    if version in recorded:
        assert found["surface"] == load(version)
    fake = Capabilities.of(build(version if version in recorded else recorded[0]))
    judged = {**found["able"], "tactic_sources": tuple(found["able"]["tactic_sources"])}
    assert judged == fake._replace(version=version)._asdict()
