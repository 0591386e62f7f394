"""The profile by node that ONNX Runtime writes: read from its file, sorted into runs."""

import json
from typing import Any, Dict, List, Tuple

#: What ends the name of an event that says how long a node computed.
COMPUTED = "_kernel_time"


def read_layers(file: str, runs: int) -> List[Tuple[str, List[int]]]:
    """Each node's name and its ns (whole microseconds) in each of so many runs, in order.

    A node in the blocked layout is named after a tensor alone, and gets its operator behind it:
    "t2_nchwc/Conv".  Raises RuntimeError where the runs are not the same nodes.
    """
    with open(file, encoding="utf-8") as stream:
        events: List[Dict[str, Any]] = json.load(stream)
    nodes = [
        (_name(event), int(event["dur"]) * 1000)
        for event in events
        if event.get("cat") == "Node" and event["name"].endswith(COMPUTED)
    ]
    count = len(nodes) // runs
    names = [name for name, _ in nodes[:count]]
    if not names or [name for name, _ in nodes] != names * runs:
        raise RuntimeError("ONNX Runtime's profile does not hold the same nodes in each run")
    return [(name, [ns for _, ns in nodes[at::count]]) for at, name in enumerate(names)]


def _name(event: Dict[str, Any]) -> str:
    name, operator = event["name"][: -len(COMPUTED)], event["args"]["op_name"]
    return name if operator in name else f"{name}/{operator}"
