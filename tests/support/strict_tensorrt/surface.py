"""The recorded API surfaces, by version."""

from __future__ import annotations

import copy
import json
from functools import cache
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "surfaces"
#: JetPack 4.6.1's; it has no wheel.
DERIVED = "8.2.1.8"
DERIVED_FROM = "8.4.1.5"
#: What 8.4 added to the classes that are recorded: "API Changes For TensorRT 8.4.0 EA" in NVIDIA's
#: API reference, and the tactic source that its release notes announce.
ADDED_IN_84 = {
    "IBuilderConfig": ("set_memory_pool_limit", "get_memory_pool_limit"),
    "Builder": ("max_threads",),
    "Runtime": ("max_threads",),
    "TacticSource": ("EDGE_MASK_CONVOLUTIONS",),
    "MemoryPoolType": None,
}

VERSIONS = (
    DERIVED,
    *sorted((one.stem for one in FOLDER.glob("*.json")), key=lambda v: [*map(int, v.split("."))]),
)


@cache
def load(version: str) -> dict[str, Any]:
    """The surface of a version, exactly as recorded or derived."""
    if version != DERIVED:
        found: dict[str, Any] = json.loads((FOLDER / f"{version}.json").read_text())
        return found
    older = copy.deepcopy(load(DERIVED_FROM))
    older["version"] = DERIVED
    for name, added in ADDED_IN_84.items():
        if added is None:
            del older["classes"][name]
            continue
        found = older["classes"][name]
        for one in added:
            if found["enum"]:
                del found["enum"][one]
            elif one in found["methods"]:
                del found["methods"][one]
            else:
                found["properties"].remove(one)
    return older
