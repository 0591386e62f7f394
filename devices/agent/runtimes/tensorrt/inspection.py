"""What an engine is made of, from its inspector's JSON: precisions and tactics.

The builder need not use the precision that it is allowed: what was built counts, not what was asked
for.  The form changed over the versions:

- "Format/Datatype": "Row major linear FP32", "Two wide channel vectorized row major FP16 format"
  (8.x); "Half", "Float", "Int8 NC/32HW32" (10.x); split in "Format" and "DataType" (11.x);
- without details a layer is its name alone, a string.
"""

import json
import re
from collections import Counter
from typing import Any, Dict, List, NamedTuple, Tuple

from ...checks import RequestError

#: In this order: a format's words may hold a shorter one.
_TYPES = (
    ("bf16", re.compile(r"bf16|bfloat", re.I)),
    ("fp8", re.compile(r"fp8|e4m3", re.I)),
    ("fp16", re.compile(r"fp16|half|float16", re.I)),
    ("int8", re.compile(r"int8", re.I)),
    ("fp32", re.compile(r"fp32|float", re.I)),
)
#: Where a tensor's type is written, by version.
_TYPE_KEYS = ("DataType", "Datatype", "Format/Datatype", "Format")
#: Layers that multiply: convolutions are "correlation" too where Myelin compiled them.
_MULTIPLIES = re.compile(r"conv|gemm|correlation|matrix|fully_?connected|fprop|dgrad", re.I)
#: What Myelin compiled as a whole: what is in it is not reported.
_OPAQUE = re.compile(r"^(?:myelin|foreignnode)\b|\{ForeignNode\[|__myl", re.I)
#: Those that only move data, whatever their names hold.
_MOVES = re.compile(r"reformat|noop|constant|shuffle|copy|signal|wait|cast", re.I)
#: Kernels that round fp32 to TF32: CASK's and CUTLASS's names for them.
_TF32 = re.compile(r"tf32|s1688|tfloat32", re.I)


class Layer(NamedTuple):
    """A layer: the precision it computes in ("" where that is not reported), whether it multiplies.

    One that is ``opaque`` may do so; of one without details the name alone is known.
    """

    name: str
    precision: str
    multiplies: bool
    tactic: str
    opaque: bool
    has_details: bool


class Inspected(NamedTuple):
    """All layers of an engine."""

    layers: Tuple[Layer, ...]

    @property
    def multiplying(self) -> List[Layer]:
        """Layers that multiply, and those that may."""
        return [layer for layer in self.layers if layer.multiplies or layer.opaque]

    @property
    def precision_layers(self) -> Dict[str, int]:
        """Layers a precision: those that multiply, or all that compute where none does."""
        counted = self.multiplying or list(self.layers)
        return dict(Counter(layer.precision for layer in counted if layer.precision))

    @property
    def precision(self) -> str:
        """As built: "fp16", or "fp16+fp32" where an engine is mixed; "" where not reported."""
        return "+".join(sorted(self.precision_layers))

    @property
    def tactics(self) -> List[List[str]]:
        """The tactic of each layer that has one."""
        return [[layer.name, layer.tactic] for layer in self.layers if layer.tactic]


def inspect(text: str) -> Inspected:
    """Read an inspector's JSON; that of 8.6.0 holds control characters (issue 2779 of TensorRT)."""
    try:
        found = json.loads(text, strict=False)
        layers = found["Layers"]
    except (ValueError, KeyError, TypeError) as error:
        raise RequestError(
            "runtime_error",
            f"the engine inspector's answer is not understood ({error!r}): {text[:200]!r}",
            "report it with the version of TensorRT",
        ) from error
    return Inspected(tuple(_layer(one) for one in layers))


def check(inspected: Inspected, precision: str) -> str:
    """Say what else was built than what was asked for; "" where that was built.

    In fp16 and int8 the builder is allowed that precision, and takes another where it is faster:
    that is no failure, but what a user gets.  Raises where there is no telling, and
    ``wrong_precision`` where an fp32 engine computes in less.
    """
    if not all(layer.has_details for layer in inspected.layers):
        raise RequestError(
            "runtime_error",
            f"the engine inspector gives no details of its {len(inspected.layers)} layers, so "
            f"there is no proof that they are in {precision}",
            "build the engine again: it must be built with detailed profiling verbosity",
        )
    computing = [layer for layer in inspected.layers if layer.precision]
    if precision == "fp32":
        _check_fp32(inspected, computing)
        return ""
    what = "that multiply"
    counted = [layer for layer in inspected.layers if layer.multiplies]
    if precision == "fp16":  # in int8 nothing else has scales
        counted = inspected.multiplying or computing
        what = what if inspected.multiplying else "that compute"
    right = [layer for layer in counted if layer.precision == precision]
    # Files in int8 ask for products of floats as well.
    if not counted or (right and (precision == "int8" or 2 * len(right) >= len(counted))):
        return ""
    how_many = f"only {len(right)}" if right else "none"
    return (
        f"{inspected.precision or 'an unknown precision'} was built where {precision} was asked "
        f"for: {how_many} of its {len(counted)} layers {what} is in {precision}"
    )


def _check_fp32(inspected: Inspected, computing: List[Layer]) -> None:
    wrong = [layer for layer in computing if layer.precision != "fp32"]
    if wrong:
        shown = ", ".join(f"{one.name!r} in {one.precision}" for one in wrong[:3])
        raise RequestError(
            "wrong_precision",
            f"fp32 was asked for and {inspected.precision} was built: {len(wrong)} layers are not "
            f"in fp32: {shown}",
            "this version of TensorRT ignores that TF32 is off: measure it in another precision",
        )


def _layer(found: Any) -> Layer:
    if not isinstance(found, dict):
        return Layer(str(found), "", False, "", False, False)
    name = str(found.get("Name", ""))
    tactic = str(found.get("TacticName") or found.get("TacticValue") or "")
    kind = f"{found.get('LayerType', '')} {found.get('ParameterType', '')}"
    moves = bool(_MOVES.search(kind))
    multiplies = not moves and bool(_MULTIPLIES.search(f"{kind} {found.get('TacticName', '')}"))
    precision = "" if moves else _precision(found)
    # Tactics without a name do not say it; there the builder's flag, which is off, is relied on.
    if precision in ("", "fp32") and not moves and _TF32.search(str(found.get("TacticName", ""))):
        precision = "tf32"
    opaque = not moves and bool(_OPAQUE.search(kind) or _OPAQUE.search(name))
    return Layer(name, precision, multiplies, tactic, opaque, True)


def _precision(found: Dict[str, Any]) -> str:
    """The type of the weights where it is reported, else that of the first tensor that has one."""
    weights = found.get("Weights")
    words = [weights.get("Type")] if isinstance(weights, dict) else []
    for side in ("Inputs", "Outputs"):
        tensors = found.get(side)
        for tensor in tensors if isinstance(tensors, list) else []:
            if isinstance(tensor, dict):
                words += [tensor.get(key, "") for key in _TYPE_KEYS]
    types = (name for word in words for name, pattern in _TYPES if pattern.search(str(word)))
    return next(types, "")
