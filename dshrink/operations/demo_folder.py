"""What a demo's folder says of the demo, so that a run goes on only with what belongs to it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dshrink.network.models import Network, weights_digest
from dshrink.operations.demo_plans import DemoError
from dshrink.refit.agreement import Closeness
from dshrink.search.plan import Plan
from latency_tables.files import write_atomically
from latency_tables.records import convert_record

STATE = "demo.json"


def state_of(folder: Path) -> dict[str, Any]:
    """What the demo in the folder is about; empty where there is none."""
    return read_object(folder / STATE) if (folder / STATE).exists() else {}


def keep_state(folder: Path, network: Network, data: str | None) -> None:
    """Write what the demo is about. Raises DemoError where the folder holds another one."""
    now = {
        "model": network.name,
        "resolution": list(network.resolution),
        "weights": network.weights,
        "weights_digest": weights_digest(network.module),
        "data": data,
    }
    known = state_of(folder)
    differing = [name for name in now if known and known.get(name) != now[name]]
    if differing:
        name = differing[0]
        raise DemoError(
            f"{folder} holds a demo with {name.replace('_', ' ')} {known.get(name)}, now "
            f"{now[name]}: choose another folder with --out, or remove that one"
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / STATE, json.dumps(now, indent=2) + "\n")


def read_object(path: Path) -> dict[str, Any]:
    """A JSON file of ours. Raises DemoError, which names it."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise DemoError(f"{path}: cannot be read ({error}): remove it, and run again") from None
    if not isinstance(found, dict):
        raise DemoError(f"{path}: holds something else: remove it, and run again")
    return found


def certificate_of(file: Path) -> Path:
    """Where ``merge_by_plan`` writes the certificate of an ONNX file."""
    return file.with_name(f"{file.name}.certificate.json")


def known_closeness(report: Path, plan: Plan) -> Closeness | None:
    """What the refit in the folder has found, if it is of this plan."""
    if not report.exists():
        return None
    found = read_object(report)
    if found.get("mask") != plan.mask:
        return None
    return convert_record(
        found["held_out"], Closeness, where=str(report), error=DemoError, fix="remove it"
    )
