"""Whether a runtime computes what the network says: its outputs beside ONNX Runtime's on this host.

The device says what it read and what it computed; the host computes the same from that input.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from dshrink.errors import first_line
from dshrink.operations.selftest.asking import Array, AskedDevice
from dshrink.operations.selftest.check import Check, SelfTestError, State
from latency_tables.schema import Conditions
from profiler.planning.jobs import PROFILE_RULE

#: Most error by precision. The scales of int8 are made up and the same on both sides; where a sum
#: lies between two integers the sides may round differently, and one step moves those behind it.
#: fp16 rounds some 1e-3 off, a bias map or a bound of ReLU6 that is lost is 1e-1 and more.
TOLERANCES: Mapping[str, float] = {"fp32": 1e-4, "fp16": 3e-2, "int8": 1e-1}

#: No normal number lies so far from 0.
MOST_DRAWN = 100.0


def check_outputs(
    device: AskedDevice,
    conditions: Conditions,
    files: Mapping[str, Path],
    references: Mapping[str, Path],
) -> Check:
    """Compare the outputs of files, by their names, with those of their references.

    A file's reference is the same network in the types that ONNX Runtime computes in here. The
    error is the root mean square of the differences, as a share of that of the outputs.
    """
    errors: dict[str, float] = {}
    built: dict[str, None] = {}
    notes: dict[str, None] = {}
    for name, file in files.items():
        computed = device.compute(file, conditions, PROFILE_RULE)
        built.update(dict.fromkeys(_how_built(computed.built, conditions)))
        if note := computed.built.get("precision_note"):
            notes[f"{name}: {note}"] = None
        _require_drawn(name, computed.inputs)
        expected = _computed_here(references[name], computed.inputs)
        if set(computed.outputs) != set(expected):
            raise SelfTestError(
                f"{name} has the outputs {sorted(computed.outputs)}, not {sorted(expected)}"
            )
        errors[name] = max(
            _error(computed.outputs[output], wanted) for output, wanted in expected.items()
        )
    limit = TOLERANCES[conditions.precision]
    worst = max(errors, key=lambda name: errors[name])
    is_equal = errors[worst] <= limit
    told = f"relative error at most {errors[worst]:.1e}"
    if not isfinite(errors[worst]):
        told = "another shape, or values that are not finite"
    state: State = "noted" if notes else "passed"
    return Check(
        name="outputs",
        of=" ".join((conditions.runtime, conditions.precision, conditions.launch)),
        state=state if is_equal else "failed",
        finding="; ".join(
            (
                f"{'equal to' if is_equal else 'NOT equal to'} ONNX Runtime's: {told} (limit "
                f"{limit:.0e}, {worst})",
                f"built in {', '.join(built)}",
                *notes,
            )
        ),
        figures={
            f"relative_error, {name}": error for name, error in errors.items() if isfinite(error)
        },
    )


def _how_built(built: Mapping[str, Any], conditions: Conditions) -> Iterator[str]:
    """The precision, and by which interfaces, where there are several."""
    told = {"precision": conditions.precision, **built}
    for name, words in (("precision", "{}"), ("api", "API {}"), ("binding", "{}")):
        if told.get(name):
            yield words.format(told[name])


def _require_drawn(name: str, inputs: Mapping[str, Array]) -> None:
    """Refuse inputs that cannot show an error, such as zeros, or the same image twice."""
    for array in inputs.values():
        # Bounded before the deviation is computed, which may overflow.
        is_drawn = bool(np.abs(array).max(initial=0.0) < MOST_DRAWN) and 0.5 < array.std() < 2.0
        if not is_drawn or np.array_equal(array[0], array[-1]):
            raise SelfTestError(f"the input of {name} was not drawn from normal numbers")


def _computed_here(file: Path, inputs: Mapping[str, Array]) -> dict[str, Array]:
    import onnxruntime

    given = {name: array.astype(np.float32) for name, array in inputs.items()}
    try:
        session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        names = [one.name for one in session.get_outputs()]
        return dict(zip(names, session.run(names, given), strict=True))
    except Exception as error:  # its kinds have no common base
        raise SelfTestError(
            f"ONNX Runtime on this host cannot run the network on the input that the device "
            f"reports: {first_line(error)}"
        ) from error


def _error(found: Array, wanted: Array) -> float:
    """The relative error; infinite for another shape, or for values that are not finite."""
    if found.shape != wanted.shape or not np.isfinite(found).all():
        return float("inf")
    with np.errstate(all="ignore"):  # squares overflow, and outputs may be zero
        error = float(np.sqrt(np.square(found - wanted).mean() / np.square(wanted).mean()))
    return error if isfinite(error) else float("inf")
