"""A session of ONNX Runtime whose inputs and outputs stay where they are."""

from typing import Any, List

from ...checks import bad_model
from .. import Prepared, check_static

#: ONNX Runtime's names of element types, and numpy's.
ELEMENT_TYPES = {"tensor(float)": "float32", "tensor(double)": "float64"}
ELEMENT_TYPES.update(
    (f"tensor({name})", name) for name in ("float16", "int8", "uint8", "int32", "int64", "bool")
)


class BoundSession(Prepared):
    """A session with inputs drawn from the seed, bound once as all outputs are."""

    def __init__(self, ort: Any, numpy: Any, session: Any, seed: int) -> None:
        self._session = session
        self._binding = session.io_binding()
        draw = numpy.random.RandomState(seed)
        for node in session.get_inputs():
            value = _random_input(draw, _static_shape(node), _element_type(node))
            self._binding.bind_ortvalue_input(node.name, ort.OrtValue.ortvalue_from_numpy(value))
        for node in session.get_outputs():
            value = ort.OrtValue.ortvalue_from_shape_and_type(
                _static_shape(node), numpy.dtype(_element_type(node)).type
            )
            self._binding.bind_ortvalue_output(node.name, value)

    def run(self, times: int) -> None:
        """Run so often, back to back."""
        run, binding = self._session.run_with_iobinding, self._binding
        for _ in range(times):
            run(binding)

    def close(self) -> None:
        """Drop the session; its memory goes back to the shared arena."""
        self._session = self._binding = None


def _static_shape(node: Any) -> List[int]:
    check_static(f"tensor {node.name!r}", node.shape)
    return list(node.shape)


def _element_type(node: Any) -> str:
    if node.type not in ELEMENT_TYPES:
        raise bad_model(
            f"tensor {node.name!r} is a {node.type}, which the agent cannot fill",
            f"export the model with one of {', '.join(sorted(ELEMENT_TYPES))}",
        )
    return ELEMENT_TYPES[node.type]


def _random_input(draw: Any, shape: List[int], element_type: str) -> Any:
    """Normal numbers for floats; zeros and ones for the rest, which every index allows."""
    if element_type.startswith("float"):
        return draw.standard_normal(size=shape).astype(element_type)
    return draw.randint(0, 2, size=shape).astype(element_type)
