"""The graph of ``torch.fx`` under construction, and one ONNX node while its function is looked for.

A constant without dimensions is a number in the generated code, integers and conditions are
buffers, which keep their type, and every other constant is a parameter, which gets the precision
that is asked for. Sizes are those of the file, which are fixed: the generated code asks for none.
"""

import math
from typing import Any, Callable, Dict, List, Optional, Sequence, Set, Tuple

from ...checks import RequestError, bad_model


class Operator(object):
    """One ONNX node while its function is looked for."""

    def __init__(
        self, file: str, node: Any, attributes: Dict[str, Any], opset: int, read: Set[str]
    ) -> None:
        """``read`` are the names of all tensors that something reads."""
        self.kind: str = node.op_type
        self.name: str = node.name or f"{node.output[0]}/{node.op_type}"
        self.outputs: List[str] = list(node.output)
        while len(self.outputs) > 1 and self.outputs[-1] not in read:
            del self.outputs[-1]
        self.opset = opset
        self._file = file
        self._attributes = attributes
        if attributes.pop("auto_pad", b"NOTSET") not in (b"NOTSET", "NOTSET"):
            raise self.refused("has auto_pad")

    def take(self, name: str, default: Any = None) -> Any:
        """The value of an attribute, which is then known to be read."""
        return self._attributes.pop(name, default)

    def text(self, name: str, default: str = "") -> str:
        """The value of an attribute that is a word."""
        value = self.take(name, default)
        return value.decode() if isinstance(value, bytes) else value

    def expect(self, name: str, value: float) -> None:
        """Refuse the node where an attribute that is not read differs from what is assumed."""
        found = self.take(name, value)
        if not math.isclose(found, value, rel_tol=1e-5):
            raise self.refused(f"has {name} {found}, not {value}")

    def finish(self) -> None:
        """Refuse the node where an attribute was not read."""
        if self._attributes:
            raise self.refused(f"has the attributes {', '.join(sorted(self._attributes))}")

    def refused(self, why: str) -> RequestError:
        """The error of a node that we cannot run."""
        return bad_model(
            f"{self._file}: {self.kind} {self.name!r} {why}, which the PyTorch runtime cannot run",
            "measure this file with another runtime, such as onnxruntime",
        )


class Wiring(object):
    """The graph under construction: ONNX's names -> nodes of ``torch.fx``, or constants."""

    def __init__(
        self,
        torch: Any,
        constants: Dict[str, Any],
        infer: Callable[[], Dict[str, Tuple[int, ...]]],
    ) -> None:
        """``infer`` gives the shapes of the tensors that the file's own sizes decide."""
        self.torch = torch
        self.functional = torch.nn.functional
        self.root = torch.nn.Module()
        self.graph = torch.fx.Graph()
        self.layers: Dict[str, str] = {}
        self.values: Dict[str, Any] = {}
        self._constants = constants
        self._infer = infer
        self._shapes: Optional[Dict[str, Tuple[int, ...]]] = None

    def call(self, op: Operator, function: Callable[..., Any], *given: Any, **named: Any) -> Any:
        """A call of the function, as part of that operator."""
        node = self.graph.call_function(function, given, named)
        self.layers[node.name] = op.name
        return node

    def method(self, op: Operator, name: str, *given: Any) -> Any:
        """A call of a tensor's method, as part of that operator."""
        node = self.graph.call_method(name, given)
        self.layers[node.name] = op.name
        return node

    def value(self, name: str) -> Any:
        """What an input is: a node, a number, or a parameter or buffer made now."""
        if not name:
            return None
        if name not in self.values:
            constant = self._constants[name]
            self.values[name] = (
                constant.item() if constant.ndim == 0 else self.stored(name, constant)
            )
        return self.values[name]

    def tensor(self, name: str) -> Any:
        """What an input is, for a function that takes no number in its place."""
        value = self.value(name)
        return self.stored(name, self._constants[name]) if is_number(value) else value

    def is_constant(self, name: str) -> bool:
        """Whether that input is there and stands in the file."""
        return name in self._constants

    def constant(self, op: Operator, name: str) -> Any:
        """The array of an input that must be a constant."""
        if name not in self._constants:
            raise op.refused(f"computes its input {name!r}")
        return self._constants[name]

    def integers(self, op: Operator, names: Sequence[str], at: int) -> Optional[List[int]]:
        """The numbers of input ``at``, which must be a constant where it is given."""
        if len(names) <= at or not names[at]:
            return None
        return [int(one) for one in self.constant(op, names[at]).ravel()]

    def shape(self, op: Operator, name: str) -> Tuple[int, ...]:
        """The sizes of a tensor; refuse the node where the file does not decide them."""
        if name in self._constants:
            return tuple(self._constants[name].shape)
        if self._shapes is None:
            self._shapes = self._infer()
        if name not in self._shapes:
            raise op.refused(f"has {name!r}, whose shape is not known")
        return self._shapes[name]

    def axis(self, op: Operator, name: str, axis: int) -> int:
        """The axis of that tensor, counted from its first."""
        return axis if axis >= 0 else axis + len(self.shape(op, name))

    def stored(self, name: str, array: Any) -> Any:
        """A weight of the module; integers and conditions keep their type."""
        safe = name.replace(".", "_").replace("/", "_").replace(":", "_")
        if array.dtype.kind == "f":
            self._register(safe, self.torch.from_numpy(array.astype("float32")))
        else:
            self.root.register_buffer(safe, self.torch.from_numpy(array.copy()))
        return self.graph.get_attr(safe)

    def in_precision(self, op: Operator, x: Any) -> Any:
        """That tensor in the precision that is asked for, which all parameters get."""
        self._register("precision", self.torch.zeros(()))
        return self.method(op, "type_as", x, self.graph.get_attr("precision"))

    def _register(self, name: str, tensor: Any) -> None:
        parameter = self.torch.nn.Parameter(tensor, requires_grad=False)
        self.root.register_parameter(name, parameter)


Wire = Callable[[Wiring, Operator, List[str]], Any]


def is_number(value: Any) -> bool:
    """Whether a value is a number of the generated code."""
    return isinstance(value, (bool, int, float))


def plain(find: Callable[[Wiring], Callable[..., Any]], *constants: Any, **expected: float) -> Wire:
    """A function of all inputs and the constants; refused where an attribute is not as expected.

    The first input is a tensor, the others may be numbers.
    """

    def wire(wiring: Wiring, op: Operator, names: List[str]) -> Any:
        for name, value in expected.items():
            op.expect(name, value)
        first, *others = names
        given = [wiring.tensor(first), *(wiring.value(name) for name in others)]
        return wiring.call(op, find(wiring), *given, *constants)

    return wire
