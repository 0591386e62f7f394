"""Whether a runtime computes what the network says: its outputs beside ONNX Runtime's on this host.

The device says what it read and what it computed; the host computes the same from that input.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from pathlib import Path

import numpy as np

from dshrink.operations.selftest.asking import Array, AskedDevice
from dshrink.operations.selftest.check import Check, SelfTestError
from latency_tables.schema import Conditions
from profiler.planning.jobs import PROFILE_RULE

#: Largest error by precision, as a share of the largest output. The scales of int8 are made up and
#: the same on both sides; where a sum lies between two integers the sides may round differently.
TOLERANCES: Mapping[str, float] = {"fp32": 1e-4, "fp16": 3e-2, "int8": 1e-1}


def check_outputs(
    device: AskedDevice,
    conditions: Conditions,
    files: Mapping[str, Path],
    references: Mapping[str, Path],
) -> Check:
    """Compare the outputs of files, by their names, with those of their references.

    A file's reference is the same network in the types that ONNX Runtime computes in here.
    """
    errors: dict[str, float] = {}
    precisions: set[str] = set()
    for name, file in files.items():
        computed = device.compute(file, conditions, PROFILE_RULE)
        precisions.add(str(computed.built.get("precision", conditions.precision)))
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
    worst = max(errors, key=lambda name: (not errors[name] <= limit, errors[name]))
    is_equal = errors[worst] <= limit  # NaN is not
    return Check(
        name="outputs",
        of=" ".join((conditions.runtime, conditions.precision, conditions.launch)),
        state="passed" if is_equal else "failed",
        finding=f"{'equal to' if is_equal else 'NOT those of'} ONNX Runtime's: largest error "
        f"{errors[worst]:.1e} of the largest output (limit {limit:.0e}, {worst}); built in "
        f"{', '.join(sorted(precisions))}",
        figures={
            f"relative_error, {name}": error for name, error in errors.items() if isfinite(error)
        },
    )


def _require_drawn(name: str, inputs: Mapping[str, Array]) -> None:
    """Refuse inputs that cannot show an error, such as zeros."""
    for array in inputs.values():
        if not (np.isfinite(array).all() and 0.5 < array.std() < 2.0):
            raise SelfTestError(f"the input of {name} was not drawn from normal numbers")


def _computed_here(file: Path, inputs: Mapping[str, Array]) -> dict[str, Array]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_outputs()]
    given = {name: array.astype(np.float32) for name, array in inputs.items()}
    return dict(zip(names, session.run(names, given), strict=True))


def _error(found: Array, wanted: Array) -> float:
    """The largest difference, as a share of the largest value; infinite for another shape."""
    if found.shape != wanted.shape:
        return float("inf")
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())
