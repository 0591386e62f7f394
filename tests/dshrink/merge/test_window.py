"""Windows, against counting which elements a convolution of ones really reads."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dshrink.errors import MergeError, NotMergeable
from dshrink.merge.window import Window

small = st.integers(1, 5)
pads = st.tuples(*[st.integers(0, 3)] * 4)
windows = st.builds(
    Window,
    kernel=st.tuples(small, small),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    pads=pads,
)
sizes = st.tuples(st.integers(1, 12), st.integers(1, 12))
many = settings(max_examples=150, deadline=None, derandomize=True)


def read_counts(window: Window, size: tuple[int, int]) -> torch.Tensor:
    """How many real (not padded) elements each output position reads."""
    top, left, bottom, right = window.pads
    image = F.pad(torch.ones(1, 1, *size), (left, right, top, bottom))
    return F.conv2d(image, torch.ones(1, 1, *window.kernel), stride=window.stride)[0, 0]


def fits(window: Window, size: tuple[int, int]) -> bool:
    return all(n + b + e >= k for n, (k, _, b, e) in zip(size, window.axes, strict=True))


@many
@given(windows, sizes)
def test_border_counts_the_rows_that_read_padding(window, size):
    assume(fits(window, size))
    full = read_counts(window, size) == window.kernel[0] * window.kernel[1]
    top, left, bottom, right = window.border(size)
    inside = torch.zeros_like(full)
    inside[top : full.shape[0] - bottom, left : full.shape[1] - right] = True
    assert torch.equal(full, inside)


@many
@given(windows, sizes)
def test_trimmed_pads_give_the_same_outputs_with_as_few_zeros_as_possible(window, size):
    assume(fits(window, size))
    trimmed = window.trimmed(size)
    assert torch.equal(read_counts(trimmed, size), read_counts(window, size))
    for side in (2, 3):
        if trimmed.pads[side]:
            fewer = [*trimmed.pads]
            fewer[side] -= 1
            less = Window(kernel=window.kernel, stride=window.stride, pads=tuple(fewer))
            assert not fits(less, size) or less.output_size(size) != window.output_size(size)


@many
@given(windows, sizes)
def test_silent_outside_means_that_positions_beyond_the_output_read_nothing(window, size):
    assume(fits(window, size))
    claims = window.silent_outside(size)
    for axis in (0, 1):
        k, s, b, _ = window.axes[axis]
        out = window.output_size(size)[axis]

        def reads(y, k=k, s=s, b=b, n=size[axis]):
            return any(0 <= s * y - b + tap < n for tap in range(k))

        assert claims[axis] == (not any(reads(y) for y in range(-20, 0)))
        assert claims[axis + 2] == (not any(reads(y) for y in range(out, out + 20)))


@many
@given(windows, windows, sizes)
def test_then_has_the_output_size_of_both_in_turn(first, second, size):
    assume(fits(first, size) and fits(second, first.output_size(size)))
    assert first.then(second).output_size(size) == second.output_size(first.output_size(size))


def test_beside_covers_the_reach_of_both_branches():
    main = Window(kernel=(3, 3), stride=(2, 2), pads=(1, 1, 1, 1))
    pool = Window(kernel=(2, 2), stride=(2, 2))
    shortcut = Window(kernel=(1, 1), stride=(2, 2))
    assert main.union(shortcut) == main
    assert main.union(pool) == Window(kernel=(3, 3), stride=(2, 2), pads=(1, 1, 0, 0))
    assert pool.union(shortcut) == Window(kernel=(2, 2), stride=(2, 2))


def test_a_crop_beside_a_window_stands_in_its_middle():
    valid = Window(kernel=(3, 3))
    assert valid.union(Window(pads=(-1, -1, -1, -1))) == valid


def test_branches_of_unequal_stride_cannot_stand_side_by_side():
    with pytest.raises(NotMergeable, match=r"strides \(1, 1\) and \(2, 2\)"):
        Window().union(Window(stride=(2, 2)))


def test_a_kernel_larger_than_what_it_reads_is_an_error():
    with pytest.raises(MergeError, match="does not fit"):
        Window(kernel=(5, 5), pads=(1, 1, 1, 1)).output_size((2, 8))


def test_a_stride_of_nothing_is_an_error():
    with pytest.raises(MergeError, match="at least 1"):
        Window(stride=(0, 1))
