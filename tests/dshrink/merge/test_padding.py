"""Merging whole segments under each padding mode, against the unmerged layers in float64."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dshrink.errors import NotMergeable
from dshrink.merge.algebra import ConvWeights, from_average_pool
from dshrink.merge.linear_graph import Layer, LinearGraph, Sum
from dshrink.merge.padding import (
    border_mask,
    merge,
    pads_inside,
    reference,
    repad,
)
from latency_tables.errors import MaskError
from latency_tables.masks import PADDING_MODES

many = settings(max_examples=120, deadline=None, derandomize=True)


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def layer(seed, source, out, inner, kernel=1, stride=1, pads=0, groups=1, eps=1e-5):
    """A convolution with its batch norm, whose statistics are a trained network's: not 0 and 1."""
    kernel = (kernel, kernel) if isinstance(kernel, int) else kernel
    gamma, beta, mean = (normal(seed + shift, out) for shift in (1, 2, 3))
    scale = gamma / (normal(seed + 4, out).abs() + 0.01 + eps).sqrt()
    conv = ConvWeights.from_weights(
        normal(seed, out, inner // groups, *kernel) * scale.reshape(-1, 1, 1, 1),
        beta - mean * scale,
        stride=(stride, stride) if isinstance(stride, int) else stride,
        pads=(pads,) * 4 if isinstance(pads, int) else pads,
        groups=groups,
    )
    return Layer(conv=conv, source=source, name=f"layer{seed}")


def segment(size, channels, *nodes):
    return LinearGraph(input_shape=(channels, *size), nodes=nodes)


def run_unmerged(part, x):
    """Each layer by torch's own functions, each padding where the network has it."""
    tensors = [x]
    for node in part.nodes:
        if isinstance(node, Sum):
            a, b = (
                F.pad(tensors[tensor], (left, right, top, bottom))
                for tensor, (top, left, bottom, right) in zip(node.sources, node.pads, strict=True)
            )
            tensors.append(a + b)
            continue
        top, left, bottom, right = node.conv.pads
        tensors.append(
            F.conv2d(
                F.pad(tensors[node.source], (left, right, top, bottom)),
                node.conv.weight,
                node.conv.bias,
                node.conv.stride,
                0,
                node.conv.dilation,
                node.conv.groups,
            )
        )
    return tensors[-1]


def run_padded_at_the_input(part, x):
    """What re-padding means: tensors go on beyond their edges, the input alone is zero there."""

    def values(tensor, top, left, bottom, right):
        """Rows top..bottom-1 and columns left..right-1 of a tensor, in its own coordinates."""
        if tensor == 0:
            height, width = part.size
            return F.pad(x, (-left, right - width, -top, bottom - height))
        node = part.nodes[tensor - 1]
        if isinstance(node, Sum):
            return sum(values(source, top, left, bottom, right) for source in node.sources)
        (kh, kw), (sy, sx) = node.conv.window.kernel, node.conv.stride
        py, px = node.conv.pads[:2]
        inputs = values(
            node.source,
            sy * top - py,
            sx * left - px,
            sy * (bottom - 1) - py + kh,
            sx * (right - 1) - px + kw,
        )
        return F.conv2d(
            inputs,
            node.conv.weight,
            node.conv.bias,
            node.conv.stride,
            0,
            node.conv.dilation,
            node.conv.groups,
        )

    return values(len(part.nodes), 0, 0, *part.sizes[-1])


def same(actual, expected):
    assert actual.shape == expected.shape
    scale = max(1e-300, float(expected.abs().max()))
    torch.testing.assert_close(actual, expected, rtol=0.0, atol=1e-10 * scale)


def check_exact(part, padding="bias_map"):
    merged = merge(part, padding)
    x = normal(99, 2, *part.input_shape)
    oracle = run_padded_at_the_input if padding == "repad" else run_unmerged
    same(merged.run(x), oracle(part, x))
    return merged


def same_pads(size, kernel, stride):
    """TensorFlow's "SAME": what is odd goes to the end."""
    total = [max((-(-n // stride) - 1) * stride + kernel - n, 0) for n in size]
    return (total[0] // 2, total[1] // 2, total[0] - total[0] // 2, total[1] - total[1] // 2)


def inverted_residual(size, kernel=3, stride=1, pads=None, eps=1e-5, skip=True):
    pads = kernel // 2 if pads is None else pads
    nodes = [
        layer(10, 0, 18, 3, eps=eps),
        layer(20, 1, 18, 18, kernel, stride, pads, groups=18, eps=eps),
        layer(30, 2, 3, 18, eps=eps),
    ]
    return segment(size, 3, *nodes, *([Sum(sources=(3, 0), name="add")] if skip else []))


def basic_block(size, stride=1):
    """Two padded 3x3 convolutions, as in ResNet-18."""
    main = [layer(10, 0, 4, 4, 3, stride, 1), layer(20, 1, 4, 4, 3, 1, 1)]
    if stride == 1:
        return segment(size, 4, *main, Sum(sources=(2, 0)))
    return segment(size, 4, *main, layer(30, 0, 4, 4, 1, stride), Sum(sources=(2, 3)))


def bottleneck(size, stride, shortcut, groups=1):
    """1x1, 3x3, 1x1 and a projection: of stride 2, or after 2x2 average pooling."""
    nodes = [
        layer(10, 0, 6, 4),
        layer(20, 1, 6, 6, 3, stride, 1, groups=groups),
        layer(30, 2, 8, 6),
    ]
    if shortcut == "pool":
        pool = from_average_pool(4, size, kernel=(stride,) * 2, stride=(stride,) * 2)
        nodes += [Layer(conv=pool, source=0, name="pool"), layer(40, 4, 8, 4)]
    else:
        nodes.append(layer(40, 0, 8, 4, 1, stride))
    return segment(size, 4, *nodes, Sum(sources=(3, len(nodes))))


@pytest.mark.parametrize("size", [(8, 8), (7, 9), (5, 6)])
@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("eps", [1e-3, 1e-5])
def test_an_inverted_residual_with_a_bias_map_is_exact_everywhere(size, kernel, stride, eps):
    part = inverted_residual(size, kernel, stride, eps=eps, skip=stride == 1)
    merged = check_exact(part)
    assert merged.conv.kernel == (kernel, kernel)
    assert merged.conv.groups == 1


@pytest.mark.parametrize("size", [(8, 8), (9, 9), (8, 7), (14, 13)])
@pytest.mark.parametrize("kernel", [2, 3, 4, 5])
@pytest.mark.parametrize("stride", [1, 2])
def test_asymmetric_padding_merges_exactly(size, kernel, stride):
    pads = same_pads(size, kernel, stride)
    merged = check_exact(inverted_residual(size, kernel, stride, pads, 1e-3, skip=stride == 1))
    assert merged.conv.pads == pads
    check_exact(inverted_residual(size, kernel, stride, pads, 1e-3, skip=stride == 1), "repad")


def test_the_bias_map_is_nothing_in_the_interior_and_something_at_the_border():
    part = inverted_residual((40, 33))
    merged = merge(part)
    mask = border_mask(merged.border, (40, 33))
    assert merged.border == (1, 1, 1, 1)
    assert torch.count_nonzero(merged.bias_map[:, ~mask]) == 0
    assert float(merged.bias_map[:, mask].abs().min()) > 0
    same(
        merged.run(torch.zeros(1, 3, 40, 33).double()),
        run_unmerged(part, torch.zeros(1, 3, 40, 33).double()),
    )


@pytest.mark.parametrize("size", [(1, 1), (1, 4), (2, 2), (3, 2)])
@pytest.mark.parametrize("kernel", [3, 5])
def test_images_that_are_all_border_merge_exactly(size, kernel):
    check_exact(inverted_residual(size, kernel))


def test_a_map_that_is_the_same_everywhere_becomes_the_plain_bias():
    assert merge(inverted_residual((1, 1))).bias_map is None
    part = inverted_residual((6, 6))
    unbiased = [
        Layer(
            conv=ConvWeights.from_weights(n.conv.weight, pads=n.conv.pads, groups=n.conv.groups),
            source=n.source,
        )
        for n in part.nodes[:3]
    ]
    part = segment((6, 6), 3, *unbiased)
    assert pads_inside(part)
    assert check_exact(part).bias_map is None


def test_a_map_that_is_rounding_alone_becomes_the_plain_bias():
    expand = ConvWeights.from_weights(torch.ones(2, 2, 1, 1), torch.ones(2))
    weight = torch.full((2, 1, 3, 3), 1e-14, dtype=torch.float64)
    weight[:, :, 1, 1] = 1.0
    spatial = ConvWeights.from_weights(weight, pads=(1, 1, 1, 1), groups=2)
    part = segment((6, 6), 2, Layer(conv=expand, source=0), Layer(conv=spatial, source=1))
    assert check_exact(part).bias_map is None


def test_a_block_that_pads_its_input_alone_needs_no_map():
    part = segment((9, 9), 6, layer(10, 0, 6, 6, 3, 2, 1, groups=6), layer(20, 1, 4, 6))
    assert not pads_inside(part)
    for padding in PADDING_MODES:
        merged = check_exact(part, padding)
        assert merged.bias_map is None
        same(merged.run(normal(1, 1, 6, 9, 9)), run_unmerged(part, normal(1, 1, 6, 9, 9)))


def test_depthwise_layers_alone_stay_depthwise():
    part = segment(
        (9, 9),
        6,
        layer(10, 0, 6, 6, 3, 1, 1, 6),
        layer(20, 1, 6, 6, 3, 1, 0, 6),
    )
    assert check_exact(part).conv.groups == check_exact(part).conv.in_channels > 1
    skipped = segment((9, 9), 6, layer(10, 0, 6, 6, 3, 1, 1, 6), Sum(sources=(1, 0)))
    assert check_exact(skipped).conv.groups == check_exact(skipped).conv.in_channels > 1


@pytest.mark.parametrize("padding", ["bias_map", "repad"])
@pytest.mark.parametrize(
    ("stride", "shortcut"), [(1, "conv"), (2, "conv"), (2, "pool"), (3, "conv")]
)
@pytest.mark.parametrize("size", [(8, 10), (6, 4)])
@pytest.mark.parametrize("groups", [1, 3])
def test_a_bottleneck_with_its_shortcut_merges_exactly(padding, stride, shortcut, size, groups):
    merged = check_exact(bottleneck(size, stride, shortcut, groups), padding)
    assert merged.conv.kernel == (3, 3)


@pytest.mark.parametrize("size", [(9, 7), (11, 9)])
def test_a_strided_shortcut_merges_exactly_on_odd_sizes(size):
    check_exact(bottleneck(size, 2, "conv"))
    check_exact(bottleneck(size, 2, "conv"), "repad")


@pytest.mark.parametrize("stride", [1, 2])
def test_two_padded_convolutions_have_no_bias_map_and_the_reason_names_the_layer(stride):
    part = basic_block((9, 8), stride)
    with pytest.raises(NotMergeable, match=r"layer20 pads what a 3x3 kernel computed.*repad"):
        merge(part)
    merged = check_exact(part, "repad")
    assert merged.conv.kernel == (3 + 2 * stride,) * 2


@pytest.mark.parametrize("stride", [1, 2])
def test_interior_is_exact_inside_and_wrong_at_the_border(stride):
    part = basic_block((13, 12), stride)
    merged = merge(part, "interior")
    x = normal(3, 1, 4, 13, 12)
    difference = merged.run(x) - run_unmerged(part, x)
    mask = border_mask(merged.border, part.sizes[-1])
    scale = float(run_unmerged(part, x).abs().max())
    assert float(difference[..., ~mask].abs().max()) < 1e-10 * scale
    assert float(difference[..., mask].abs().max()) > 0.01 * scale


def test_interior_and_repad_are_one_convolution_for_two_references():
    part = basic_block((9, 8))
    a, b = merge(part, "interior").conv, merge(part, "repad").conv
    assert torch.equal(a.weight, b.weight) and torch.equal(a.bias, b.bias) and a.window == b.window
    x = normal(1, 1, 4, 9, 8)
    same(reference(part, "repad").run(x), run_padded_at_the_input(part, x))
    assert reference(part, "interior") is reference(part, "bias_map") is part


def test_repadding_moves_all_pads_to_the_first_layer():
    chain = (layer(10, 0, 4, 4, 3, 2, 1), layer(20, 1, 4, 4, 5, 1, 2), layer(30, 2, 4, 4, 3, 1, 1))
    moved = repad(segment((17, 17), 4, *chain))
    assert [node.conv.pads for node in moved.nodes] == [(7, 7, 7, 7), (0,) * 4, (0,) * 4]
    even = repad(segment((16, 16), 4, *chain))
    assert [node.conv.pads for node in even.nodes] == [(7, 7, 6, 6), (0,) * 4, (0,) * 4]


def test_repadding_crops_an_inner_skip_at_its_centre_and_leaves_an_outer_one():
    inner = segment(
        (8, 8), 4, layer(10, 0, 4, 4, 3, 1, 1), layer(20, 1, 4, 4, 3, 1, 1), Sum(sources=(2, 1))
    )
    *_, addition = repad(inner).nodes
    assert addition.pads == ((0,) * 4, (-1,) * 4)
    outer = segment((8, 8), 4, *inner.nodes[:2], Sum(sources=(2, 0)))
    *_, addition = repad(outer).nodes
    assert addition.pads == ((0,) * 4, (0,) * 4)
    first_of_two = segment(
        (8, 8), 4, layer(10, 0, 4, 4, 3, 1, 1), Sum(sources=(1, 0)), layer(20, 2, 4, 4, 3, 1, 1)
    )
    _, addition, _ = repad(first_of_two).nodes
    assert addition.pads == ((0,) * 4, (1,) * 4)
    for part in (inner, outer, first_of_two):
        check_exact(part, "repad")
        same(
            repad(part).run(normal(1, 1, 4, 8, 8)),
            run_padded_at_the_input(part, normal(1, 1, 4, 8, 8)),
        )


@pytest.mark.parametrize("wide_first", [True, False])
def test_repadding_gives_a_tensor_the_margin_of_its_hungriest_reader(wide_first):
    wide, narrow = layer(20, 1, 4, 4, 5, 1, 2), layer(30, 1, 4, 4, 3, 1, 1)
    branches = (wide, narrow) if wide_first else (narrow, wide)
    part = segment((8, 9), 4, layer(10, 0, 4, 4), *branches, Sum(sources=(2, 3)))
    moved = repad(part)
    assert moved.nodes[0].conv.pads == (2, 2, 2, 2)
    assert {node.conv.pads for node in moved.nodes[1:3]} == {(0,) * 4, (-1,) * 4}
    x = normal(1, 1, 4, 8, 9)
    same(moved.run(x), run_padded_at_the_input(part, x))
    check_exact(part, "repad")


def test_repadding_crops_no_row_that_a_stride_skips_anyway():
    part = segment((8, 10), 4, layer(10, 0, 4, 4), layer(20, 1, 4, 4, 1, 2))
    assert [node.conv.pads for node in repad(part).nodes] == [(0, 0, 0, 0), (0, 0, 0, 0)]
    check_exact(part, "repad")
    once = repad(basic_block((9, 8), 2))
    assert [n.conv.pads for n in once.nodes[:3]] == [(3, 3, 3, 2), (0,) * 4, (0,) * 4]
    assert [n.pads for n in repad(once).nodes[3:]] == [n.pads for n in once.nodes[3:]]
    assert [n.conv.pads for n in repad(once).nodes[:3]] == [n.conv.pads for n in once.nodes[:3]]


@pytest.mark.parametrize(("size", "pads"), [((8, 9), (1, 1, 0, 1)), ((9, 8), (1, 1, 1, 0))])
def test_end_pads_are_what_the_output_size_needs(size, pads):
    assert merge(inverted_residual(size, stride=2, skip=False)).conv.pads == pads


def test_an_unknown_mode_lists_the_known_ones():
    for function in (merge, reference):
        with pytest.raises(
            MaskError, match="unknown padding 'same'; use one of bias_map, repad, interior"
        ):
            function(inverted_residual((4, 4)), "same")


def test_a_merged_segment_runs_in_single_precision():
    part = inverted_residual((8, 8))
    single = merge(part).to(torch.float32)
    x = normal(1, 1, 3, 8, 8)
    expected = run_unmerged(part, x)
    result = single.run(x.float())
    assert result.dtype == torch.float32
    assert float((result - expected).abs().max() / expected.abs().max()) < 1e-4


def test_a_map_is_refused_where_an_addition_pads_what_a_kernel_computed():
    nodes = (
        layer(10, 0, 4, 4, 3, 1, 0),
        Sum(sources=(1, 1), pads=((1,) * 4, (1,) * 4), name="add"),
    )
    with pytest.raises(NotMergeable, match="add pads what a 3x3 kernel"):
        merge(segment((8, 8), 4, *nodes))
    nodes = (layer(10, 0, 4, 4), Sum(sources=(1, 1), pads=((1,) * 4, (1,) * 4), name="add"))
    check_exact(segment((8, 8), 4, *nodes))


@st.composite
def random_segments(draw):
    """Chains of two to five layers with skips wherever shapes agree; all sizes, pads and groups."""
    size = draw(st.tuples(*[st.integers(5, 16)] * 2))
    nodes = []
    sources = [0]
    shapes = [(1, size)]
    for _ in range(draw(st.integers(2, 5))):
        strides, (height, width) = shapes[-1]
        kernel = draw(st.tuples(*[st.sampled_from([1, 1, 2, 3, 4, 5])] * 2))
        stride = draw(st.sampled_from([1, 1, 2, 3]))
        dilation = draw(st.sampled_from([1, 1, 2]))
        reach = [(k - 1) * dilation + 1 for k in kernel]
        pads = draw(
            st.sampled_from(
                [(0,) * 4, (1,) * 4, (0, 1, 1, 0), same_pads((height, width), reach[0], stride)]
            )
        )
        groups = draw(st.sampled_from([1, 1, 2, 4]))
        weight = normal(len(nodes) + draw(st.integers(0, 99)), 4, 4 // groups, *kernel)
        conv = ConvWeights.from_weights(
            weight,
            weight.sum((1, 2, 3)) + 1,
            stride=(stride, stride),
            pads=pads,
            dilation=(dilation, dilation),
            groups=groups,
        )
        assume(height + pads[0] + pads[2] >= reach[0] and width + pads[1] + pads[3] >= reach[1])
        nodes.append(Layer(conv=conv, source=sources[-1], name=f"layer{len(nodes)}"))
        shape = (strides * stride, conv.window.output_size((height, width)))
        skips = [tensor for tensor, other in zip(sources, shapes, strict=True) if other == shape]
        if skips and draw(st.booleans()):
            nodes.append(Sum(sources=(len(nodes), draw(st.sampled_from(skips)))))
        sources.append(len(nodes))
        shapes.append(shape)
    return segment(size, 4, *nodes)


@many
@given(random_segments())
def test_any_segment_is_exact_where_its_mode_promises_it(part):
    check_exact(part, "repad")
    x = normal(5, 1, *part.input_shape)
    expected = run_unmerged(part, x)
    same(repad(part).run(x), run_padded_at_the_input(part, x))
    inside = merge(part, "interior")
    mask = border_mask(inside.border, part.sizes[-1])
    if not mask.all():
        same(inside.run(x)[..., ~mask], expected[..., ~mask])


@many
@given(random_segments())
def test_a_bias_map_is_refused_exactly_where_the_border_depends_on_the_input(part):
    """The border's error for two inputs is equal if and only if a constant map can correct it."""
    plain = merge(part, "interior")
    x, y = normal(5, 1, *part.input_shape), normal(6, 1, *part.input_shape)
    errors = [run_unmerged(part, z) - plain.run(z) for z in (x, y)]
    scale = float(run_unmerged(part, x).abs().max())
    constant = float((errors[0] - errors[1]).abs().max()) < 1e-10 * scale
    try:
        merged = merge(part, "bias_map")
    except NotMergeable:
        assert not constant
    else:
        assert constant
        same(merged.run(x), run_unmerged(part, x))
        assert all(pad >= 0 for pad in merged.conv.pads)
