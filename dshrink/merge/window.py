"""Which input positions an output position reads. Integers only, no weights.

Per axis, a window of kernel k, stride s and pads (begin, end) reads for output y the inputs
``s*y - begin .. s*y - begin + k - 1``. Whether a merge is exact at the border, how large a merged
kernel is and where a shortcut lies inside it are questions about windows alone. Negative pads
crop.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from dshrink.errors import MergeError, NotMergeable

#: (H, W) of a kernel, a stride or a feature map.
Pair = tuple[int, int]
#: top, left, bottom, right.
Sides = tuple[int, int, int, int]
NO_PADS: Sides = (0, 0, 0, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Kernel, stride and pads of a convolution whose dilation is written out."""

    kernel: Pair = (1, 1)
    stride: Pair = (1, 1)
    pads: Sides = NO_PADS

    def __post_init__(self) -> None:
        if min(*self.kernel, *self.stride) < 1:
            raise MergeError(f"kernel {self.kernel} and stride {self.stride} must be at least 1")

    @property
    def axes(self) -> tuple[tuple[int, int, int, int], ...]:
        """(kernel, stride, begin pad, end pad) of the vertical and of the horizontal axis."""
        ends = (self.pads[:2], self.pads[2:])
        return tuple(zip(self.kernel, self.stride, *ends, strict=True))

    def output_size(self, size: Pair) -> Pair:
        """(H, W) of the output. Raises MergeError where the kernel is larger than what it reads."""
        spans = [n + b + e - k for n, (k, _, b, e) in zip(size, self.axes, strict=True)]
        if min(spans) < 0:
            raise MergeError(
                f"kernel {self.kernel} with pads {self.pads} does not fit into an input of {size}"
            )
        return spans[0] // self.stride[0] + 1, spans[1] // self.stride[1] + 1

    def then(self, second: Window) -> Window:
        """The window of ``second`` after this one, seen from this one's input.

        k = (k2 - 1)*s1 + k1, s = s1*s2, p = p1 + s1*p2; the output size is that of the two in turn.
        """
        pairs = list(zip(self.axes, second.axes, strict=True))
        return Window(
            kernel=_pair((k2 - 1) * s1 + k1 for (k1, s1, _, _), (k2, _, _, _) in pairs),
            stride=_pair(s1 * s2 for (_, s1, _, _), (_, s2, _, _) in pairs),
            pads=_sides(
                [b1 + s1 * b2 for (_, s1, b1, _), (_, _, b2, _) in pairs],
                [e1 + s1 * e2 for (_, s1, _, e1), (_, _, _, e2) in pairs],
            ),
        )

    def union(self, other: Window) -> Window:
        """The smallest window that reads all that either of two parallel branches reads."""
        if self.stride != other.stride:
            raise NotMergeable(
                f"parallel branches have strides {self.stride} and {other.stride}: "
                "only branches of one stride add up to a convolution"
            )
        kernel, begin, end = [], [], []
        for (k1, _, b1, e1), (k2, _, b2, e2) in zip(self.axes, other.axes, strict=True):
            reach = max(k1 - b1, k2 - b2)
            begin.append(max(b1, b2))
            kernel.append(reach + begin[-1])
            # Both branches give one output size; the fewest end pads that still give it.
            end.append(reach + min(e1 - (k1 - b1), e2 - (k2 - b2)))
        return Window(kernel=_pair(kernel), stride=self.stride, pads=_sides(begin, end))

    def trimmed(self, size: Pair) -> Window:
        """The same window with no end pad beyond what an input of ``size`` needs."""
        ends = []
        for n, out, (k, s, b, _) in zip(size, self.output_size(size), self.axes, strict=True):
            ends.append(max(0, (out - 1) * s + k - n - b))
        return replace(self, pads=_sides(self.pads[:2], ends))

    def border(self, size: Pair) -> Sides:
        """How many output rows and columns at each side read padding."""
        begins, ends = [], []
        for n, out, (k, s, b, _) in zip(size, self.output_size(size), self.axes, strict=True):
            begins.append(min(out, -(-max(b, 0) // s)))
            first_beyond = (n + b - k) // s + 1
            ends.append(out - min(out, max(0, first_beyond)))
        return _sides(begins, ends)

    def silent_outside(self, size: Pair) -> tuple[bool, bool, bool, bool]:
        """At each side, whether positions beyond the output would read nothing of the input.

        A following layer may pad such a side with zeros: without biases they are what this window
        gives there anyway.
        """
        before, after = [], []
        for n, out, (k, s, b, _) in zip(size, self.output_size(size), self.axes, strict=True):
            before.append(k <= s + b)
            after.append(s * out - b >= n)
        return before[0], before[1], after[0], after[1]


def _pair(values: Iterable[int]) -> Pair:
    height, width = values
    return height, width


def _sides(begin: Iterable[int], end: Iterable[int]) -> Sides:
    return *_pair(begin), *_pair(end)
