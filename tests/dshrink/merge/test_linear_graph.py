"""Segments: what they accept, and how an ``OpSpec`` becomes one."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from dshrink.errors import MergeError, NotMergeable
from dshrink.merge.algebra import ConvWeights
from dshrink.merge.linear_graph import Layer, LinearGraph, Sum, collapse, from_spec
from dshrink.merge.padding import merge
from latency_tables import opspec


def spec_of(*ops, shape=(4, 7, 7)):
    return opspec.OpSpec(input_shape=shape, ops=ops)


def residual_spec(stride=(1, 1)):
    """Pointwise, depthwise, norm, pointwise, addition; an activation after the first two."""
    return spec_of(
        opspec.Conv(inputs=(0,), out_channels=8, kernel=(1, 1)),
        opspec.Activation(inputs=(1,), function="relu6"),
        opspec.Conv(
            inputs=(2,), out_channels=8, kernel=(3, 3), stride=stride, pads=(1, 1, 1, 1), groups=8
        ),
        opspec.Activation(inputs=(3,), function="relu6"),
        opspec.BatchNorm(inputs=(4,)),
        opspec.Conv(inputs=(5,), out_channels=4, kernel=(1, 1)),
        opspec.Add(inputs=(6, 0)),
    )


def residual_arrays(seed=0):
    rng = np.random.default_rng(seed)
    shapes = [
        ((8, 4, 1, 1), (8,)),
        (),
        ((8, 1, 3, 3), (8,)),
        (),
        ((8,), (8,)),
        ((4, 8, 1, 1), (4,)),
        (),
    ]
    return [tuple(rng.standard_normal(shape) for shape in entry) for entry in shapes]


def test_a_spec_with_its_arrays_computes_what_its_operators_do():
    arrays = [tuple(map(torch.as_tensor, entry)) for entry in residual_arrays()]
    (w1, b1), _, (w2, b2), _, (scale, shift), (w3, b3), _ = arrays
    x = torch.randn(2, 4, 7, 7, dtype=torch.float64)
    y = F.conv2d(F.conv2d(x, w1, b1), w2, b2, padding=1, groups=8)
    y = F.conv2d(y * scale[:, None, None] + shift[:, None, None], w3, b3) + x
    segment = from_spec(residual_spec(), residual_arrays(), removed=(1, 3))
    torch.testing.assert_close(segment.run(x), y, rtol=0, atol=1e-12 * float(y.abs().max()))
    merged = merge(segment).run(x)
    torch.testing.assert_close(merged, y, rtol=0, atol=1e-10 * float(y.abs().max()))


def test_a_spec_without_arrays_gives_the_shapes_of_the_merged_convolution():
    real = merge(from_spec(residual_spec(), residual_arrays(), removed=(1, 3)))
    meta = merge(from_spec(residual_spec(), removed=(1, 3)))
    assert meta.conv.weight.is_meta
    assert meta.conv.weight.shape == real.conv.weight.shape
    assert meta.conv.window == real.conv.window
    assert meta.bias_map.shape == real.bias_map.shape == (4, 7, 7)


def test_average_pooling_merges_with_what_follows():
    spec = spec_of(
        opspec.Pool(inputs=(0,), function="average", kernel=(2, 2), stride=(2, 2)),
        opspec.Conv(inputs=(1,), out_channels=3, kernel=(1, 1)),
    )
    rng = np.random.default_rng(1)
    weight, bias = rng.standard_normal((3, 4, 1, 1)), rng.standard_normal(3)
    x = torch.randn(1, 4, 7, 7, dtype=torch.float64)
    expected = F.conv2d(F.avg_pool2d(x, 2), torch.as_tensor(weight), torch.as_tensor(bias))
    conv = collapse(from_spec(spec, [(), (weight, bias)]))
    torch.testing.assert_close(conv.run(x), expected, rtol=0, atol=1e-12)
    assert collapse(from_spec(spec)).weight.is_meta


@pytest.mark.parametrize(
    ("op", "reason"),
    [
        (opspec.Activation(inputs=(0,), function="silu"), "features.0: the activation silu is not"),
        (opspec.Mul(inputs=(0, 0)), "features.0: mul does not merge"),
        (
            opspec.Opaque(inputs=(0,), operator="LayerNorm2d", shape=(4, 7, 7)),
            "features.0: LayerNorm2d does not merge into a convolution",
        ),
        (
            opspec.Pool(inputs=(0,), function="max", kernel=(2, 2), stride=(2, 2)),
            "features.0: pool does not merge",
        ),
        (
            opspec.Pool(
                inputs=(0,), function="average", kernel=(3, 3), stride=(2, 2), pads=(1, 1, 1, 1)
            ),
            "features.0: average pooling .* leaves its pads",
        ),
    ],
)
def test_what_does_not_merge_is_named_with_its_layer(op, reason):
    with pytest.raises(NotMergeable, match=reason):
        from_spec(spec_of(op), names=["features.0"])


def test_only_activations_are_left_out():
    spec = spec_of(opspec.Mul(inputs=(0, 0)))
    with pytest.raises(NotMergeable, match="operator 0: mul"):
        from_spec(spec, removed=(0,))


def test_a_flat_input_is_no_segment():
    spec = spec_of(opspec.Linear(inputs=(0,), out_features=2), shape=(4,))
    with pytest.raises(NotMergeable, match="no feature map"):
        from_spec(spec)


def layer(out, inner, kernel=1, source=0, **geometry):
    weight = torch.ones(out, inner, kernel, kernel, dtype=torch.float64)
    return Layer(conv=ConvWeights.from_weights(weight, **geometry), source=source, name=f"to {out}")


def test_a_segment_that_does_not_fit_together_says_where():
    with pytest.raises(MergeError, match="at least one layer"):
        LinearGraph(input_shape=(3, 5, 5), nodes=())
    with pytest.raises(MergeError, match="node 0 reads tensors"):
        LinearGraph(input_shape=(3, 5, 5), nodes=(layer(4, 3, source=1),))
    with pytest.raises(MergeError, match="to 4 takes 2 channels and gets 3"):
        LinearGraph(input_shape=(3, 5, 5), nodes=(layer(4, 2),))
    with pytest.raises(MergeError, match=r"skip gets shapes \(4, 5, 5\) and \(3, 5, 5\)"):
        nodes = (layer(4, 3), Sum(sources=(1, 0), name="skip"))
        LinearGraph(input_shape=(3, 5, 5), nodes=nodes)


def test_branches_of_unequal_stride_are_not_mergeable_even_where_their_sizes_agree():
    nodes = (layer(3, 3, stride=(2, 2)), Sum(sources=(1, 0)))
    with pytest.raises(NotMergeable, match="strides"):
        LinearGraph(input_shape=(3, 1, 1), nodes=nodes)


def test_a_segment_casts_all_its_weights():
    segment = LinearGraph(input_shape=(3, 2, 2), nodes=(layer(3, 3), Sum(sources=(1, 0))))
    single = segment.to(torch.float32)
    assert single.run(torch.ones(1, 3, 2, 2)).dtype == torch.float32
    assert segment.run(torch.ones(1, 3, 2, 2, dtype=torch.float64)).dtype == torch.float64


def test_a_skip_over_nothing_doubles_its_input():
    segment = LinearGraph(input_shape=(3, 2, 2), nodes=(Sum(sources=(0, 0)),))
    x = torch.randn(1, 3, 2, 2, dtype=torch.float64)
    assert torch.equal(collapse(segment).run(x), 2 * x)
