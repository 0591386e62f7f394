from __future__ import annotations

import pytest

from latency_tables.opspec import Activation, Add, Conv, OpSpec, OpSpecError, join


def conv(tensor: int, out: int, kernel: int = 1) -> Conv:
    pad = kernel // 2
    return Conv(inputs=(tensor,), out_channels=out, kernel=(kernel, kernel), pads=(pad,) * 4)


FIRST = OpSpec(input_shape=(3, 8, 8), ops=(conv(0, 6, 3), Activation(inputs=(1,), function="relu")))
RESIDUAL = OpSpec(input_shape=(6, 8, 8), ops=(conv(0, 12), conv(1, 6), Add(inputs=(0, 2))))
LAST = OpSpec(input_shape=(6, 8, 8), ops=(conv(0, 4),))


def test_a_joined_spec_runs_its_parts_one_after_the_other() -> None:
    joined = join([FIRST, RESIDUAL, LAST])
    assert [op.inputs for op in joined.ops] == [(0,), (1,), (2,), (3,), (2, 4), (5,)]
    assert joined.shapes == (*FIRST.shapes, *RESIDUAL.shapes[1:], *LAST.shapes[1:])
    for count in ("macs", "parameters"):
        parts = (getattr(part, count) for part in (FIRST, RESIDUAL, LAST))
        assert getattr(joined, count) == sum(parts)


def test_joining_is_associative() -> None:
    whole = join([FIRST, RESIDUAL, LAST])
    left = join([join([FIRST, RESIDUAL]), LAST])
    right = join([FIRST, join([RESIDUAL, LAST])])
    assert whole == left == right
    assert whole.digest == left.digest == right.digest


def test_one_spec_joined_is_itself() -> None:
    assert join([RESIDUAL]) == RESIDUAL


def test_pieces_that_do_not_fit_are_refused() -> None:
    with pytest.raises(OpSpecError, match=r"gives \(4, 8, 8\) cannot come before one that takes"):
        join([LAST, RESIDUAL])
    with pytest.raises(OpSpecError, match="nothing to join"):
        join([])
