"""Networks merged across blocks, against the library's own modules run by hand, in float64."""

from __future__ import annotations

import json
import random
from functools import cache

import pytest
import torch
from merging import merge_blocks, merge_spans
from span_oracle import random_span_mask, run

from dshrink.errors import NetworkError, NotMergeable, ShrinkError
from dshrink.merge.export import merge_metadata
from dshrink.merge.verify import certify
from dshrink.network.chain import span_chain
from dshrink.network.models import with_state
from dshrink.network.tracing import import_timm, import_torchvision_models
from dshrink.pieces.specs import shrunk_spec
from latency_tables.opspec import Conv
from latency_tables.span_masks import mask_spans

RELATIVE = 1e-10
MOBILE = ("mobilenetv2_035", 64, "random")
RESNET = ("torchvision:resnet18", 97, "random")


def chain_of(net):
    return net.chain


@cache
def library_model(net):
    library, _, name = net.name.rpartition(":")
    maker = import_torchvision_models().get_model if library else import_timm().create_model
    model = maker(name)
    model.load_state_dict(net.module.state_dict())
    return model.double().eval()


def images(net, seed=3):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, *net.spec.input_shape, generator=generator, dtype=torch.float64)


def relative_error(result, expected):
    return float((result - expected).abs().max() / expected.abs().max())


def check(net, mask):
    """The merged and the unmerged network compute what the library's modules do, run by hand."""
    merged = merge_spans(net, mask)
    x = images(net)
    with torch.inference_mode():
        expected = run(library_model(net), x, mask)
        assert relative_error(merged.module(torch.float64)(x), expected) < RELATIVE
        assert relative_error(merged.unmerged(torch.float64)(x), expected) < RELATIVE
    assert merged.network.spec == shrunk_spec(net, mask, segments="spans")
    return merged


@pytest.mark.parametrize(
    ("made", "longest", "seed"),
    [
        (MOBILE, 5, 0),
        (MOBILE, 4, 1),
        (("tf_efficientnet_lite0", 97, "random"), 3, 0),
        (RESNET, 2, 0),
    ],
)
def test_any_spans_equal_the_library_with_all_padding_at_the_input_of_a_span(
    made, longest, seed, network
):
    net = network(*made)
    mask = random_span_mask(chain_of(net), random.Random(f"{net.name}/{seed}"), longest)
    merged = check(net, mask)
    spans = [span for span in mask_spans(mask) if span[1] - span[0] > 1]
    assert [entry.region.span for entry in merged.regions] == spans != []


def mask_with(net, *spans, active=()):
    """The original network's mask with these spans merged; ``active`` ends get an activation."""
    signs = list(span_chain(chain_of(net)).mask)
    for i, j in spans:
        signs[i : j - 1] = "0" * (j - i - 1)
        signs[j - 1] = "1" if j in active else "|"
    return "".join(signs)


@pytest.mark.parametrize(
    ("spans", "additions", "ends_active"),
    [
        ([(5, 8)], 9, True),  # a skip and no more
        ([(4, 9)], 9, False),  # a skip inside of a longer span
        ([(1, 5)], 10, True),  # two blocks, a stride inside
        ([(5, 7)], 10, False),  # starts where a skip starts, ends before it does
        ([(6, 8)], 10, True),  # ends where a skip ends: the addition stays behind it
        ([(6, 8)], 10, False),
        ([(11, 20)], 8, True),  # two skips in a row, then a stride
    ],
)
def test_a_span_swallows_the_skips_inside_it_and_no_others(spans, additions, ends_active, network):
    net = network(*MOBILE)
    active = [j for _, j in spans] if ends_active else []
    merged = check(net, mask_with(net, *spans, active=active))
    assert sum(op.kind == "add" for op in merged.network.spec.ops) == additions


def test_a_projection_merges_with_the_branch_beside_it(network):
    net = network(*RESNET)
    merged = check(net, mask_with(net, (2, 6), active=[6]))
    (entry,) = merged.regions
    # A block and the strided one behind it: the shortcut's 1x1 lands inside of the kernel.
    assert "layer2.0.downsample.0" in [net.lowered.layers[n] for n in entry.region.ops]
    assert entry.merged.conv.stride == (2, 2) and entry.merged.conv.kernel == (11, 11)


def test_average_pools_of_a_shortcut_merge_too(network):
    net = network("resnet14t", 64, "random")
    chain = chain_of(net)
    skip = chain.skips[1]
    merged = merge_spans(net, mask_with(net, skip, active=[skip[1]]))
    kinds = [net.spec.ops[n].kind for n in merged.regions[0].region.ops]
    assert "pool" in kinds
    x = images(net)
    with torch.inference_mode():
        expected = merged.unmerged(torch.float64)(x)
        assert relative_error(merged.module(torch.float64)(x), expected) < RELATIVE


def test_nothing_merged_is_the_network_with_its_activations_changed(network):
    net = network(*MOBILE)
    mask = "1" * 7 + "|" + "1" * 21 + "|" * 21
    assert merge_spans(net, mask).regions == ()
    check(net, mask)


def test_without_the_free_activation_linear_ends_stay_linear(network):
    net = network(*MOBILE)
    mask = mask_with(net, (5, 8), active=[8])
    bare = merge_spans(net, mask, free_activation=False)
    linear = merge_spans(net, mask_with(net, (5, 8)))
    assert bare.network.spec == linear.network.spec
    with torch.inference_mode():
        x = images(net)
        assert torch.equal(bare.module(torch.float64)(x), linear.module(torch.float64)(x))


def test_an_unmerged_network_is_trained_under_its_own_names_and_merges_exactly(network):
    net = network(*MOBILE)
    mask = mask_with(net, (1, 4), (5, 8), (9, 11), active=[8])
    trained = merge_spans(net, mask).unmerged(torch.float32)
    assert list(trained.state_dict()) == list(net.module.state_dict())
    before = {name: value.clone() for name, value in trained.state_dict().items()}
    trained.train()
    optimiser = torch.optim.SGD(trained.parameters(), lr=0.01)
    trained(images(net).float().repeat(2, 1, 1, 1)).square().mean().backward()
    assert all(parameter.grad is not None for parameter in trained.parameters())
    optimiser.step()
    trained.eval()
    changed = [n for n, value in trained.state_dict().items() if not torch.equal(value, before[n])]
    assert {"blocks.1.1.conv_dw.weight", "blocks.1.1.bn2.running_mean"} <= set(changed)
    merged = merge_spans(with_state(net, trained.state_dict()), mask)
    check(merged.source, mask)
    x = images(net)
    with torch.inference_mode():
        result = merged.module(torch.float64)(x)
        assert relative_error(result, trained.double()(x)) < RELATIVE
        assert relative_error(result, merge_spans(net, mask).module(torch.float64)(x)) > 1e-4


def test_weights_of_another_network_do_not_fit(network):
    net = network(*MOBILE)
    with pytest.raises(
        NetworkError,
        match=r"a trained copy: its weights do not fit mobilenetv2_035: .*names missing",
    ):
        with_state(net, {})


def test_a_bias_map_that_cannot_be_exact_names_the_span_the_layer_and_the_way_out(network):
    net = network(*MOBILE)
    with pytest.raises(
        NotMergeable,
        match=r"span 3-8 \(blocks\.1\.0\.conv_dw \.\. blocks\.1\.1\.conv_pwl\): "
        r"blocks\.1\.1\.conv_dw pads .*--padding repad",
    ) as error:
        merge_spans(net, mask_with(net, (3, 8)), padding="bias_map")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("padding", ["bias_map", "interior"])
def test_the_certificate_covers_spans(padding, network):
    net = network(*MOBILE)
    merged = merge_spans(net, mask_with(net, (1, 4)), padding=padding)
    certificate = certify(merged)
    certificate.require()
    (region,) = certificate.regions
    assert (region.span, region.index) == ((1, 4), None)
    assert 0 < region.interior_float64.relative < 1e-12
    assert region.interior_float32.relative < 1e-4
    exact = certificate.network_float64.relative < RELATIVE
    assert exact == (padding != "interior")
    data = json.loads(json.dumps(certificate.to_json(), allow_nan=False))
    assert data["span_mask"] == merged.changes.mask and "keep_mask" not in data
    assert data["spans"][0]["span"] == [1, 4]
    metadata = merge_metadata(merged, certificate)
    assert (metadata["segments"], metadata["keep_mask"]) == ("spans", merged.changes.mask)


def test_a_block_and_its_span_merge_into_the_same_convolution(network):
    net = network(*MOBILE)
    block = merge_blocks(net, "110" + "1" * 14, padding="repad")
    span = merge_spans(net, mask_with(net, (5, 8), active=[8]))
    assert block.network.spec == span.network.spec
    (a,), (b,) = block.regions, span.regions
    assert torch.equal(a.merged.conv.weight, b.merged.conv.weight)
    assert a.graph.groups[-1] == a.merged.conv.groups == 1
    assert isinstance(span.network.spec.ops[b.region.ops[0]], Conv)


def test_a_span_that_crosses_the_end_of_a_skip_is_refused(network):
    with pytest.raises(ShrinkError, match="the end of a skip"):
        merge_spans(network(*MOBILE), "0" * 6 + "1" * 44)
