"""A session of ONNX Runtime whose inputs and outputs stay where they are."""

import os
import tempfile
from typing import Any, Callable, Dict, List, Tuple

from ...checks import bad_model
from .. import Prepared, TensorContent, check_size, check_static
from .profile import read_layers

#: ONNX Runtime's names of element types, and numpy's.
ELEMENT_TYPES = {"tensor(float)": "float32", "tensor(double)": "float64"}
ELEMENT_TYPES.update(
    (f"tensor({name})", name) for name in ("float16", "int8", "uint8", "int32", "int64", "bool")
)
#: Runs of a profile that do not count: the first find weights and activations out of the cache.
WARM_RUNS = 2

#: Makes a session; one that gets the start of a file's name writes its profile there.
OpenSession = Callable[[str], Any]


class BoundSession(Prepared):
    """A session with inputs drawn from the seed, bound once as all outputs are."""

    def __init__(self, ort: Any, numpy: Any, open_session: OpenSession, seed: int) -> None:
        self._ort = ort
        self._numpy = numpy
        self._open = open_session
        self._seed = seed
        self._session = open_session("")
        self._binding, self._inputs, self._outputs = self._bound(self._session)

    def run(self, times: int) -> None:
        """Run so often, back to back."""
        _run(self._session, self._binding, times)

    def layers(self, passes: int) -> List[Tuple[str, List[int]]]:
        """Each node's ns by ONNX Runtime's profiler, in a session of its own.

        The profiler writes a file, in a folder that is gone afterwards.
        """
        with tempfile.TemporaryDirectory(prefix="dshrink-profile-") as folder:
            session = self._open(os.path.join(folder, "nodes"))
            _run(session, self._bound(session)[0], WARM_RUNS + passes)
            layers = read_layers(session.end_profiling(), WARM_RUNS + passes)
        return [(name, times[WARM_RUNS:]) for name, times in layers]

    def tensors(self) -> Tuple[List[TensorContent], List[TensorContent]]:
        """The inputs, and the outputs of one run."""
        sides = [
            [(name, value.numpy()) for name, value in side.items()]
            for side in (self._inputs, self._outputs)
        ]
        check_size(array.nbytes for side in sides for _, array in side)
        self.run(1)
        inputs, outputs = [[_tensor(*one) for one in side] for side in sides]
        return inputs, outputs

    def close(self) -> None:
        """Drop the session; its memory goes back to the shared arena."""
        self._session = self._binding = None
        self._inputs = self._outputs = {}

    def _bound(self, session: Any) -> Tuple[Any, Dict[str, Any], Dict[str, Any]]:
        """The binding of a session, with its inputs and its outputs in place."""
        numpy, ort_value = self._numpy, self._ort.OrtValue
        binding = session.io_binding()
        inputs: Dict[str, Any] = {}
        outputs: Dict[str, Any] = {}
        draw = numpy.random.RandomState(self._seed)
        for node in session.get_inputs():
            value = _random_input(draw, _static_shape(node), _element_type(node))
            inputs[node.name] = ort_value.ortvalue_from_numpy(value)
            binding.bind_ortvalue_input(node.name, inputs[node.name])
        for node in session.get_outputs():
            outputs[node.name] = ort_value.ortvalue_from_shape_and_type(
                _static_shape(node), numpy.dtype(_element_type(node)).type
            )
            binding.bind_ortvalue_output(node.name, outputs[node.name])
        return binding, inputs, outputs


def _tensor(name: str, array: Any) -> TensorContent:
    return TensorContent(name, str(array.dtype), tuple(array.shape), array.tobytes())


def _run(session: Any, binding: Any, times: int) -> None:
    run = session.run_with_iobinding
    for _ in range(times):
        run(binding)


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
