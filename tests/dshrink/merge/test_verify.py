"""The certificate: what it lets through, what it refuses, and what it says."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from merging import merge_blocks

from dshrink.errors import CertificateError
from dshrink.merge.verify import Certificate, Difference, allowed_float32, certify

MASK = "10110111101111110"


def merged_of(network, padding="bias_map", free_activation=True):
    """A fresh merge: tests corrupt its weights."""
    net = network("mobilenetv2_100", 96, "random")
    return merge_blocks(net, MASK, padding=padding, free_activation=free_activation)


def corrupted(merged, number, change):
    """The merge with block ``number`` of the merged ones changed."""
    regions = list(merged.regions)
    entry = regions[number]
    regions[number] = replace(entry, merged=change(entry.merged))
    return replace(merged, regions=tuple(regions))


@pytest.mark.parametrize("free_activation", [True, False])
@pytest.mark.parametrize("padding", ["bias_map", "repad"])
def test_an_exact_merge_is_certified(padding, free_activation, network):
    certificate = certify(merged_of(network, padding, free_activation))
    certificate.require()
    assert certificate.problem == ""
    assert [block.index for block in certificate.regions] == [1, 4, 9, 16]
    assert (certificate.padding, certificate.free_activation) == (padding, free_activation)
    for block in certificate.regions:
        assert max(block.interior_float64.relative, block.border_float64.relative) < 1e-12
        assert max(block.interior_float32.relative, block.border_float32.relative) < 1e-4
        # Float32 has some rounding error: zero would mean that nothing was compared.
        assert block.border_float32.absolute > 0
    assert certificate.network_float64.relative < 1e-10
    assert certificate.network_float32.relative > 0


def test_interior_is_certified_inside_and_reports_the_border(network):
    certificate = certify(merged_of(network, "interior"))
    certificate.require()
    for block in certificate.regions:
        assert block.interior_float64.relative < 1e-12
    assert max(block.border_float64.relative for block in certificate.regions) > 1e-2
    assert certificate.network_float64.relative > 1e-6


@pytest.mark.parametrize("padding", ["bias_map", "repad", "interior"])
def test_one_wrong_weight_is_refused_and_the_block_named(padding, network):
    def perturb(merged):
        weight = merged.conv.weight.clone()
        weight[0, 0, 1, 1] += 1e-3 * weight.abs().max()
        return replace(merged, conv=replace(merged.conv, weight=weight))

    certificate = certify(corrupted(merged_of(network, padding), 1, perturb))
    expected = r"mobilenetv2_100, mask 10110111101111110: the merge is refused: block 4 \(blocks"
    with pytest.raises(CertificateError, match=expected):
        certificate.require()
    assert "interior, float64" in certificate.problem


def test_one_wrong_place_of_a_bias_map_is_refused_at_the_border(network):
    def perturb(merged):
        values = merged.bias_map.clone()
        values[0, 0, 0] += 1e-6 * values.abs().max()
        return replace(merged, bias_map=values)

    certificate = certify(corrupted(merged_of(network), 1, perturb))
    assert "block 4 (blocks.2.1) differs" in certificate.problem
    assert "border, float64" in certificate.problem


def test_a_bias_map_left_out_is_refused(network):
    broken = corrupted(merged_of(network), 2, lambda merged: replace(merged, bias_map=None))
    assert "border, float64" in certify(broken).problem


def test_a_weight_that_is_not_a_number_is_refused(network):
    def perturb(merged):
        weight = merged.conv.weight.clone()
        weight[0, 0, 0, 0] = float("nan")
        return replace(merged, conv=replace(merged.conv, weight=weight))

    with pytest.raises(CertificateError):
        certify(corrupted(merged_of(network), 0, perturb)).require()


def test_an_error_of_the_graph_alone_is_refused(network, monkeypatch):
    merged = merged_of(network)
    whole = type(merged).module

    def one_wrong(self, dtype):
        module = whole(self, dtype)
        with torch.no_grad():
            module.get_submodule("classifier").bias[3] += 1.0
        return module

    monkeypatch.setattr(type(merged), "module", one_wrong)
    with pytest.raises(CertificateError, match="the network's result differs"):
        certify(merged).require()


def test_nothing_merged_is_certified(network):
    net = network("mobilenetv2_100", 96, "random")
    certificate = certify(merge_blocks(net, "1" * 17))
    certificate.require()
    assert certificate.regions == ()
    assert certificate.network_float64.absolute == 0


def test_the_certificate_is_json_with_its_tolerances(network):
    merged = merged_of(network)
    data = json.loads(json.dumps(certify(merged).to_json(), allow_nan=False))
    assert data["problem"] == ""
    assert (data["tolerance_float64"], data["tolerance_float32"]) == (1e-9, 1e-4)
    assert data["keep_mask"] == MASK
    assert data["blocks"][0]["name"] == merged.regions[0].region.name
    assert set(data["blocks"][0]["border_float64"]) == {"absolute", "relative"}


def certificate_of(float64, float32, rounding, padding="bias_map"):
    return Certificate(
        model="m",
        segments="blocks",
        mask="0",
        padding=padding,
        free_activation=True,
        regions=(),
        network_float64=Difference(absolute=float64, relative=float64),
        network_float32=Difference(absolute=float32, relative=float32),
        rounding_float32=rounding,
    )


@pytest.mark.parametrize(
    ("float64", "float32", "rounding", "fine"),
    [
        (1e-10, 9e-5, 1e-6, True),
        (1e-8, 9e-5, 1e-6, False),
        (1e-10, 2e-4, 1e-6, False),
        (1e-10, 2e-4, 1e-4, True),  # float32 alone does as much to the unmerged network
        (1e-10, 1e-3, 2e-2, False),  # and so much that nothing is proven
        (float("nan"), 0.0, 0.0, False),
        (0.0, float("nan"), 0.0, False),
    ],
)
def test_tolerances(float64, float32, rounding, fine):
    assert (certificate_of(float64, float32, rounding).problem == "") == fine


def test_interior_promises_nothing_of_the_whole_network():
    assert certificate_of(0.5, 0.5, 0.0, "interior").problem == ""


def test_what_float32_may_do_grows_with_what_it_does_anyway():
    assert allowed_float32(0.0) == 1e-4
    assert allowed_float32(1e-3) == pytest.approx(1e-2)
    assert allowed_float32(0.5) == 0.0
