"""The algebra of convolutions, against running the layers one by one in float64."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dshrink.errors import MergeError, NotMergeable
from dshrink.merge.algebra import (
    ConvWeights,
    add_identity,
    add_parallel,
    compose,
    from_average_pool,
    identity,
    with_groups,
    write_out_dilation,
)

many = settings(max_examples=80, deadline=None, derandomize=True)


def same(actual: torch.Tensor, expected: torch.Tensor) -> None:
    """Equal to 1e-10 of the largest value."""
    scale = max(1e-300, float(expected.abs().max()))
    torch.testing.assert_close(actual, expected, rtol=0.0, atol=1e-10 * scale)


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make(seed, out, inner, kernel, groups=1, **geometry) -> ConvWeights:
    weight = normal(seed, out, inner // groups, *kernel)
    bias = normal(seed + 1, out)
    return ConvWeights.from_weights(weight, bias, groups=groups, **geometry)


def run(conv: ConvWeights, x: torch.Tensor) -> torch.Tensor:
    """What a framework computes, written without ``ConvWeights.run``."""
    top, left, bottom, right = conv.pads
    x = F.pad(x, (left, right, top, bottom))
    return F.conv2d(
        x, conv.weight, conv.bias, stride=conv.stride, dilation=conv.dilation, groups=conv.groups
    )


@st.composite
def convs(draw, out, inner, padded=True):
    names = {"dense": 1, "two": 2, "three": 3, "depthwise": inner}
    fitting = [g for g in names.values() if inner % g == 0 and out % g == 0]
    kernel = draw(st.tuples(*[st.integers(1, 5)] * 2))
    return make(
        draw(st.integers(0, 999)),
        out,
        inner,
        kernel,
        draw(st.sampled_from(fitting)),
        stride=draw(st.tuples(*[st.integers(1, 3)] * 2)),
        pads=draw(st.tuples(*[st.integers(0, 3)] * 4)) if padded else (0, 0, 0, 0),
        dilation=draw(st.tuples(*[st.integers(1, 2)] * 2)),
    )


@st.composite
def pairs(draw, padded=False):
    """Two convolutions in a row; the middle has 6 or 12 channels for every group structure."""
    inner, middle, out = draw(st.sampled_from([(6, 6, 6), (4, 12, 6), (6, 12, 12), (3, 6, 4)]))
    return draw(convs(middle, inner)), draw(convs(out, middle, padded=padded))


@many
@given(pairs(), st.tuples(st.integers(9, 19), st.integers(9, 19)))
def test_compose_equals_both_convolutions_in_turn(pair, size):
    first, second = pair
    x = normal(5, 2, first.in_channels, *size)
    middle = run(first, x)
    reach = second.window.kernel
    assume(middle.shape[2] >= reach[0] and middle.shape[3] >= reach[1])
    same(run(compose(first, second), x), run(second, middle))


@many
@given(pairs(padded=True), st.tuples(st.integers(12, 30), st.integers(12, 30)))
def test_compose_of_padded_layers_has_their_size_and_is_exact_inside(pair, size):
    first, second = pair
    x = normal(5, 1, first.in_channels, *size)
    middle = run(first, x)
    reach = second.window.kernel
    assume(middle.shape[2] >= reach[0] and middle.shape[3] >= reach[1])
    merged, expected = compose(first, second), run(second, middle)
    result = run(merged, x)
    assert result.shape == expected.shape
    top, left, bottom, right = merged.window.border(size)
    inside = (..., slice(top, result.shape[2] - bottom), slice(left, result.shape[3] - right))
    assume(result[inside].numel())
    same(result[inside], expected[inside])


def test_compose_of_pointwise_depthwise_pointwise_is_the_einsum_of_their_kernels():
    expand = make(1, 18, 3, (1, 1))
    depthwise = make(2, 18, 18, (3, 3), 18, stride=(2, 2))
    project = make(3, 5, 18, (1, 1))
    merged = compose(expand, depthwise, project)
    einsum = torch.einsum(
        "om,mhw,mi->oihw",
        project.weight[:, :, 0, 0],
        depthwise.weight[:, 0],
        expand.weight[:, :, 0, 0],
    )
    same(merged.weight, einsum)
    assert (merged.stride, merged.groups) == ((2, 2), 1)


@pytest.mark.parametrize(
    ("first", "second", "merged"),
    [(12, 12, 12), (12, 1, 1), (1, 12, 1), (4, 6, 2), (4, 2, 2), (3, 4, 1), (3, 6, 3), (12, 4, 4)],
)
def test_groups_keep_the_structure_that_both_factors_share(first, second, merged):
    a = make(1, 12, 12, (3, 2), first)
    b = make(2, 12, 12, (2, 3), second)
    result = compose(a, b)
    assert result.groups == merged
    assert (result.groups == result.in_channels > 1) == (first == second == 12)
    x = normal(3, 1, 12, 9, 9)
    same(run(result, x), run(b, run(a, x)))


@pytest.mark.parametrize(("groups", "multiplier"), [(1, 1), (1, 3), (4, 1), (4, 3)])
def test_depthwise_layers_with_a_channel_multiplier_compose(groups, multiplier):
    a = make(1, 4 * multiplier, 4, (3, 3), 4)
    b = make(2, 8 * multiplier, 4 * multiplier, (3, 3), groups * multiplier)
    x = normal(3, 1, 4, 9, 8)
    same(run(compose(a, b), x), run(b, run(a, x)))


@many
@given(st.data(), st.tuples(st.integers(10, 17), st.integers(10, 17)))
def test_parallel_branches_add_up_everywhere_the_border_included(data, size):
    stride = data.draw(st.tuples(*[st.integers(1, 3)] * 2))
    out_size = data.draw(st.tuples(*[st.integers(2, 4)] * 2))
    branches = []
    for seed in (1, 20):
        kernel = data.draw(st.tuples(*[st.integers(1, 5)] * 2))
        begin = data.draw(st.tuples(*[st.integers(0, 2)] * 2))
        # Pads at the end that give this output size, and some that the stride skips.
        ends = [
            (out - 1) * s + k - n - b + data.draw(st.integers(0, s - 1))
            for out, s, k, n, b in zip(out_size, stride, kernel, size, begin, strict=True)
        ]
        groups = data.draw(st.sampled_from([1, 2, 3, 6]))
        pads = (*begin, *ends)
        branches.append(make(seed, 6, 6, kernel, groups, stride=stride, pads=pads))
    a, b = branches
    x = normal(9, 2, 6, *size)
    total = add_parallel(a, b)
    same(run(total, x), run(a, x) + run(b, x))
    assert total.groups == torch.gcd(torch.tensor(a.groups), torch.tensor(b.groups)).item()


@pytest.mark.parametrize("kernel", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_adding_an_identity_adds_the_input(kernel, groups):
    begin = (kernel - 1) // 2
    end = kernel - 1 - begin
    conv = make(1, 4, 4, (kernel, kernel), groups, pads=(begin, end, end, begin))
    x = normal(2, 2, 4, 6, 7)
    residual = add_identity(conv)
    same(run(residual, x), run(conv, x) + x)
    assert residual.groups == groups
    assert residual.kernel == conv.kernel


def test_a_projection_shortcut_lands_on_the_tap_that_reads_the_same_input():
    main = make(1, 4, 3, (3, 3), stride=(2, 2), pads=(1, 1, 1, 1))
    shortcut = make(5, 4, 3, (1, 1), stride=(2, 2))
    total = add_parallel(main, shortcut)
    assert total.kernel == (3, 3)
    same(total.weight[:, :, 1, 1], main.weight[:, :, 1, 1] + shortcut.weight[:, :, 0, 0])
    x = normal(2, 1, 3, 9, 8)
    same(run(total, x), run(main, x) + run(shortcut, x))


def test_dilation_is_written_out_as_zeros():
    conv = make(1, 4, 4, (3, 2), 2, dilation=(2, 3), stride=(1, 2), pads=(2, 0, 1, 3))
    plain = write_out_dilation(conv)
    assert (plain.kernel, plain.dilation) == ((5, 4), (1, 1))
    x = normal(2, 1, 4, 9, 9)
    same(run(plain, x), run(conv, x))


def test_a_dilated_branch_adds_up():
    dilated = make(1, 4, 4, (3, 3), 4, dilation=(2, 2), pads=(2, 2, 2, 2))
    plain = make(5, 4, 4, (3, 3), pads=(1, 1, 1, 1))
    x = normal(2, 1, 4, 7, 7)
    same(run(add_parallel(dilated, plain), x), run(dilated, x) + run(plain, x))


def test_groups_coarsen_to_the_same_convolution():
    conv = make(1, 12, 6, (3, 3), 6)
    x = normal(2, 1, 6, 5, 5)
    for groups in (1, 2, 3, 6):
        coarse = with_groups(conv, groups)
        assert coarse.groups == groups
        same(run(coarse, x), run(conv, x))
    with pytest.raises(MergeError, match="6 groups do not coarsen to 4"):
        with_groups(conv, 4)


@pytest.mark.parametrize("pads", [(0, 0), (1, 0), (1, 1)])
@pytest.mark.parametrize("stride", [1, 2])
def test_average_pooling_is_a_depthwise_convolution(pads, stride):
    y, x = pads
    pool = from_average_pool(3, (7, 8), kernel=(3, 2), stride=(stride, 2), pads=(y, x, y, x))
    image = normal(1, 2, 3, 7, 8)
    same(run(pool, image), F.avg_pool2d(image, (3, 2), (stride, 2), (y, x)))
    assert pool.groups == pool.in_channels > 1


@pytest.mark.parametrize("size", range(4, 14))
@pytest.mark.parametrize(
    ("kernel", "stride", "begin"), [(2, 2, 0), (3, 2, 0), (3, 2, 1), (2, 3, 1), (4, 3, 2)]
)
@pytest.mark.parametrize("count_pads", [True, False])
def test_pooling_merges_exactly_where_all_its_windows_divide_alike(
    size, kernel, stride, begin, count_pads
):
    image = normal(1, 1, 2, size, size)
    expected = F.avg_pool2d(
        image, kernel, stride, begin, ceil_mode=True, count_include_pad=count_pads
    )
    pads = (begin,) * 4
    try:
        pool = from_average_pool(
            2,
            (size, size),
            kernel=(kernel, kernel),
            stride=(stride, stride),
            pads=pads,
            ceil=True,
            count_pads=count_pads,
        )
    except NotMergeable:
        floor = F.avg_pool2d(image, kernel, stride, begin, count_include_pad=True)
        assert floor.shape != expected.shape or not torch.allclose(floor, expected)
    else:
        same(run(pool, image), expected)


def test_layers_that_do_not_fit_say_what_they_have():
    with pytest.raises(MergeError, match=r"4 output channels .* 5\s+input channels"):
        compose(make(1, 4, 3, (1, 1)), make(1, 4, 5, (1, 1)))
    with pytest.raises(MergeError, match="3 to 4 and 3 to 5 channels"):
        add_parallel(make(1, 4, 3, (1, 1)), make(1, 5, 3, (1, 1)))
    with pytest.raises(MergeError, match="do not divide into 3 groups"):
        ConvWeights.from_weights(torch.ones(4, 2, 1, 1), groups=3)
    with pytest.raises(MergeError, match=r"bias \(3,\)"):
        ConvWeights.from_weights(torch.ones(4, 2, 1, 1), torch.ones(3))


def test_weights_are_read_in_float64_without_their_gradient():
    weight = torch.nn.Parameter(torch.ones(2, 2, 1, 1))
    conv = ConvWeights.from_weights(weight)
    assert conv.weight.dtype == conv.bias.dtype == torch.float64
    assert not conv.weight.requires_grad
    assert torch.equal(conv.bias, torch.zeros(2, dtype=torch.float64))


def test_merging_in_single_precision_is_refused():
    conv = make(1, 2, 2, (1, 1))
    half = conv.to(torch.float32)
    assert half.weight.dtype == half.bias.dtype == torch.float32
    with pytest.raises(MergeError, match="merge in float64"):
        compose(conv, half)
    with pytest.raises(MergeError, match="merge in float64"):
        add_parallel(half, conv)
    with pytest.raises(MergeError, match=r"weight is torch.float64, bias is torch.float32"):
        ConvWeights(weight=conv.weight, bias=half.bias)


def test_a_convolution_runs_as_the_framework_runs_it():
    conv = make(1, 4, 4, (3, 2), 2, stride=(2, 1), pads=(2, -1, 0, 1), dilation=(2, 1))
    x = normal(2, 1, 4, 9, 9)
    assert torch.equal(conv.run(x), run(conv, x))


def test_weights_on_the_meta_device_give_the_shapes_of_the_real_ones():
    real = [make(1, 12, 4, (1, 1)), make(2, 12, 12, (3, 3), 12), make(3, 4, 12, (1, 1))]
    meta = [
        ConvWeights.from_weights(c.weight.to("meta"), groups=c.groups, stride=c.stride)
        for c in real
    ]
    a, b = add_identity(compose(*real)), add_identity(compose(*meta))
    assert b.weight.is_meta
    assert (a.weight.shape, a.groups, a.window) == (b.weight.shape, b.groups, b.window)


def test_the_identity_changes_nothing():
    x = normal(1, 1, 5, 3, 3)
    assert torch.equal(run(identity(5), x), x)
