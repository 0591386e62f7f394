"""Whole networks: the algebraic merge where it is exact, least squares by brute force elsewhere."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from odd_networks import made
from refit_networks import images, layer, linear_mobile, mobile, network_of, residual
from torch import Tensor, nn

from dshrink.errors import NotMergeable
from dshrink.merge.algebra import ConvWeights
from dshrink.merge.merged_network import merge_network
from dshrink.merge.merged_network import network_of as merged_network_of
from dshrink.merge.merged_weights import MergedWeights, merged_module
from dshrink.merge.unmerged import unmerged_module
from dshrink.network.layers import ConstantMap, PaddedConv2d
from dshrink.network.mask_changes import rewriting
from dshrink.network.models import Network
from dshrink.pieces.specs import shrunk_spec
from dshrink.refit import fitting, network_refit
from dshrink.refit.distances import mean_error
from dshrink.refit.fitting import Fitting
from dshrink.refit.least_squares import LeastSquares
from dshrink.refit.network_refit import Fitted, Refitted, refit_network
from dshrink.refit.normal_equations import Factored
from dshrink.refit.stream import Stream

FIT, HELD_OUT = [images(12, seed=1), images(8, seed=2)], [images(6, seed=3), images(3, seed=4)]


def refit(
    network: Network,
    mask: str,
    *,
    segments: str = "blocks",
    free_activation: bool = False,
    padding: str = "bias_map",
    size: int = 16,
    fit: Sequence[Tensor] = FIT,
    held_out: Sequence[Tensor] = HELD_OUT,
    **options: Any,
) -> Refitted:
    changes = rewriting(network, mask, segments=segments, free_activation=free_activation)
    if size != 16:
        fit, held_out = ([F.interpolate(x, size) for x in part] for part in (fit, held_out))
    return refit_network(network, changes, fit, held_out, padding=padding, **options)


def algebraic(network: Network, mask: str, padding: str, segments: str = "blocks") -> nn.Module:
    changes = rewriting(network, mask, segments=segments, free_activation=False)
    return merge_network(network, changes, padding=padding).module(torch.float32)


def assert_equal_states(found: nn.Module, wanted: nn.Module, tolerance: float = 1e-6) -> None:
    """Up to a bias map that holds nothing, which the algebraic merge leaves out."""
    one, other = found.state_dict(), wanted.state_dict()
    for name in one.keys() - other.keys():
        assert name.endswith(".values") and one[name].abs().max() < tolerance
    assert other.keys() <= one.keys()
    for name, value in other.items():
        torch.testing.assert_close(one[name], value, rtol=tolerance, atol=tolerance, msg=name)


class Points(nn.Module):
    """Convolutions of one position in a row: no border, so that both paddings are exact."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(*layer(3, 4, 3, 2), nn.ReLU6())
        self.body = nn.Sequential(
            *(*layer(4, 6, 3), nn.ReLU6(), *layer(6, 8), nn.ReLU6(), *layer(8, 4), nn.ReLU6()),
        )
        self.classifier = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.body(self.stem(x)).mean((2, 3)))


def linear_points() -> nn.Module:
    torch.manual_seed(0)
    module = Points()
    with torch.no_grad():
        for norm in module.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.weight.uniform_(0.05, 0.1)
                norm.bias.normal_(3.0, 0.2)
                norm.momentum = None
        module.train()(images(64, seed=9))
    return module.eval()


@pytest.mark.parametrize("mask", ["011", "100", "000"])
def test_blocks_that_are_linear_already_give_the_algebraic_merge(mask: str) -> None:
    network = network_of(linear_mobile)
    found = refit(network, mask)
    assert_equal_states(found.module, algebraic(network, mask, "bias_map"))
    assert found.error < 1e-9
    assert all(fit.start is None or fit.start > 1 - 1e-9 for fit in found.fits)


@pytest.mark.parametrize("padding", ["bias_map", "repad"])
def test_branches_without_an_activation_give_the_algebraic_merge(padding: str) -> None:
    network = made("Reparameterised")
    mask = "0" * len(network.blocks)
    found = refit(network, mask, padding=padding, size=12)
    assert_equal_states(found.module, algebraic(network, mask, padding), 2e-6)
    assert found.error < 1e-9


@pytest.mark.parametrize("padding", ["bias_map", "repad"])
@pytest.mark.parametrize("mask", ["1011", "1101", "1001"])
def test_spans_that_are_linear_already_give_the_algebraic_merge(mask: str, padding: str) -> None:
    network = network_of(linear_points)
    assert network.chain.spans()
    found = refit(network, mask, segments="spans", padding=padding)
    assert len([fit for fit in found.fits if fit.merged]) == 1
    assert_equal_states(found.module, algebraic(network, mask, padding, "spans"))


def test_a_linear_span_that_pads_inside_is_exact_by_its_bias_map() -> None:
    network = network_of(linear_mobile)
    found = refit(network, "11|01|11|", segments="spans")
    assert_equal_states(found.module, algebraic(network, "11|01|11|", "bias_map", "spans"))
    assert any(isinstance(one, ConstantMap) for one in found.module.modules())


def explicit_patches(conv: PaddedConv2d, x: Tensor) -> np.ndarray:
    top, left, bottom, right = conv.pads
    columns = F.unfold(F.pad(x, (left, right, top, bottom)), conv.kernel_size, stride=conv.stride)
    found = columns.movedim(1, 2).flatten(0, 1)
    return torch.cat([found, torch.ones(len(found), 1)], dim=1).double().numpy()


def merged_of(module: nn.Module) -> list[tuple[str, PaddedConv2d]]:
    return [(name, one) for name, one in module.named_modules() if isinstance(one, PaddedConv2d)]


def taps(module: nn.Module, x: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """What each layer of a module reads and gives."""
    found: dict[str, tuple[Tensor, Tensor]] = {}
    hooks = [
        one.register_forward_hook(
            lambda _, given, made, name=name: found.__setitem__(name, (given[0], made))
        )
        for name, one in module.named_modules()
        if not list(one.children())
    ]
    with torch.no_grad():
        module(x)
    for hook in hooks:
        hook.remove()
    return found


def with_tiny_ridge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network_refit, "Fitting", partial(Fitting, ridges=(1e-12,)))


def test_with_enough_images_the_fit_is_least_squares_by_brute_force(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with_tiny_ridge(monkeypatch)
    network = network_of(mobile)
    x = torch.cat(FIT)
    found = refit(network, "101", padding="repad", held_out=FIT, merged_only=True)
    ((name, conv),) = merged_of(found.module)
    reads, made = taps(found.module, x)[name]
    wanted = taps(network.module, x)["blocks.1.body.7"][1]
    assert made.shape == wanted.shape
    targets = wanted.movedim(1, -1).flatten(0, 2).double().numpy()
    best = np.linalg.lstsq(explicit_patches(conv, reads), targets, rcond=None)[0]
    given = torch.cat([conv.weight.flatten(1), conv.bias[:, None]], dim=1).detach()
    np.testing.assert_allclose(given.T, best, rtol=1e-3, atol=1e-4)
    left = (made - wanted).square().sum()
    spread = (wanted - wanted.mean((0, 2, 3), keepdim=True)).square().sum()
    assert found.fits[0].explained == pytest.approx(1 - float(left / spread), rel=1e-4)
    assert found.fits[0].ridge == 1e-12
    start = found.fits[0].start
    assert start is not None and start < found.fits[0].explained


def test_a_span_inside_of_a_skip_is_least_squares_of_what_the_sum_lacks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with_tiny_ridge(monkeypatch)
    network = network_of(mobile)
    x = torch.cat(FIT)
    mask = "10|11|11|"
    found = refit(network, mask, segments="spans", padding="repad", held_out=FIT, merged_only=True)
    ((name, conv),) = merged_of(found.module)
    reads, _ = taps(found.module, x)[name]
    wanted = taps(network.module, x)["blocks.0.body.7"][1]  # the skip is the original's
    targets = wanted.movedim(1, -1).flatten(0, 2).double().numpy()
    best = np.linalg.lstsq(explicit_patches(conv, reads), targets, rcond=None)[0]
    given = torch.cat([conv.weight.flatten(1), conv.bias[:, None]], dim=1).detach()
    np.testing.assert_allclose(given.T, best, rtol=1e-3, atol=1e-4)


def test_the_bias_map_is_the_mean_of_what_is_missing_at_the_border() -> None:
    network = network_of(mobile)
    x = torch.cat(FIT)
    found = refit(network, "101", held_out=FIT, merged_only=True)
    (name,) = (name for name, one in found.module.named_modules() if isinstance(one, ConstantMap))
    missing = (taps(network.module, x)["blocks.1.body.7"][1] - taps(found.module, x)[name][1]).mean(
        dim=0
    )
    # A stride of 2 with a pad on each side reads it at the top and on the left.
    assert missing[:, 0].abs().max() < 1e-5 and missing[:, :, 0].abs().max() < 1e-5
    values = found.module.get_submodule(name).values
    assert values[:, 0].abs().max() > 0.01 and values[:, 1:, 1:].abs().max() == 0


def test_errors_do_not_add_up_as_each_layer_reads_what_those_before_it_give() -> None:
    network = network_of(mobile)
    found = refit(network, "000")
    wanted = [network.module(x) for x in HELD_OUT]
    with torch.no_grad():
        merged = algebraic(network, "000", "bias_map")
        errors = [
            mean_error((y, module(x)) for x, y in zip(HELD_OUT, wanted, strict=True))
            for module in (merged, found.module)
        ]
    assert errors[1] == pytest.approx(found.error, rel=1e-5)
    assert errors[1] < 0.3 * errors[0]
    # What is chosen never makes the result on held-out images worse.
    assert found.fits[-1].error >= found.error


KINDS: list[tuple[Callable[[], nn.Module], str, str, bool]] = [
    (mobile, "blocks", "010", True),
    (mobile, "blocks", "000", False),
    (mobile, "spans", "01|0||11|", True),
    (mobile, "spans", "10111|01|", True),
    (mobile, "spans", "00111111|", True),
    (residual, "blocks", "010", True),
    (residual, "spans", "0|1|||", True),
    (residual, "spans", "01|111", True),
    (residual, "spans", "||||||", True),
]


@pytest.mark.parametrize("padding", ["bias_map", "repad"])
@pytest.mark.parametrize(("make", "segments", "mask", "free"), KINDS)
def test_what_comes_out_is_the_merged_network_in_structure_and_by_its_weights(
    make: Callable[[], nn.Module], segments: str, mask: str, free: bool, padding: str
) -> None:
    network = network_of(make)
    changes = rewriting(network, mask, segments=segments, free_activation=free)
    options = {"segments": segments, "free_activation": free, "padding": padding}
    if padding == "bias_map" and make is residual and changes.regions:
        with pytest.raises(NotMergeable, match=r"^(block|span) \S+ \(.* use --padding repad"):
            refit(network, mask, **options)
        return
    before = copy.deepcopy(network.module.state_dict())
    found = refit(network, mask, **options)
    wanted = [network.module(x) for x in HELD_OUT]
    assert not found.module.training
    assert all(torch.equal(v, before[n]) for n, v in network.module.state_dict().items())
    # The state is that of the merged form, which computes the same with it.
    weights = MergedWeights(state=found.module.state_dict(), padding=padding, where="here")
    again = merged_module(network, changes, weights).eval()
    with torch.no_grad():
        for x in HELD_OUT:
            torch.testing.assert_close(again(x), found.module(x), rtol=1e-5, atol=1e-6)
        error = mean_error((y, found.module(x)) for x, y in zip(HELD_OUT, wanted, strict=True))
    assert error == pytest.approx(found.error, rel=1e-4)
    plain = merge_network(network, changes, padding=padding).module(torch.float32)
    with torch.no_grad():
        worst = mean_error((y, plain(x)) for x, y in zip(HELD_OUT, wanted, strict=True))
    assert found.error < worst
    if padding == "repad":
        spec = shrunk_spec(network, mask, segments=segments, padding=padding, free_activation=free)
        assert merged_network_of(network, found.module).spec == spec


class Linear(nn.Module):
    """Blocks with a projection beside them and no activation behind; a layer without a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.ReLU6())
        self.first, self.act = nn.Sequential(*layer(4, 6, 3)), nn.ReLU6()
        self.second, self.beside = nn.Sequential(*layer(6, 6, 3)), nn.Sequential(*layer(4, 6))
        self.bare, self.last = nn.Conv2d(6, 6, 3, padding=1, bias=False), nn.ReLU6()
        self.ends = nn.Sequential(*layer(6, 6))
        self.classifier = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = self.second(self.act(self.first(x))) + self.beside(x)
        x = x + self.ends(self.last(self.bare(x)))
        return self.classifier(x.mean((2, 3)))


def linear() -> nn.Module:
    torch.manual_seed(0)
    return Linear().eval()


def test_an_activation_comes_once_behind_two_branches_and_goes_where_nothing_can_be_fitted() -> (
    None
):
    network = network_of(linear)
    chain = [conv.name for conv in network.chain.body]
    mask = "".join({"bare": "|"}.get(name, "1") for name in chain)
    changes = rewriting(network, mask, segments="spans")
    assert changes.removed == (network.lowered.layers.index("last"),)
    assert network.lowered.layers.index("add") + 1 in changes.activated
    found = refit(network, mask, segments="spans", free_activation=True, padding="repad")
    wanted = unmerged_module(network, changes)
    wanted.load_state_dict(found.module.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(found.module(FIT[0]), wanted(FIT[0]))
    calls = [
        type(found.module.get_submodule(str(node.target))).__name__
        for node in found.module.graph.nodes
        if node.op == "call_module"
    ]
    reference = [
        type(wanted.get_submodule(str(node.target))).__name__
        for node in wanted.graph.nodes
        if node.op == "call_module"
    ]
    assert calls == reference
    assert "bare" not in [fit.label for fit in found.fits]


def test_a_network_that_changes_in_nothing_is_the_original() -> None:
    network = network_of(mobile)
    found = refit(network, "111")
    assert found.fits == () and not found.norms_matched
    assert found.error == pytest.approx(0, abs=1e-12)
    assert_equal_states(found.module, network.module, 0)


def test_a_convolution_of_too_many_weights_stays_as_it_was_linearised(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fitting, "MOST_UNKNOWNS", 35)  # a merged one has 36
    network = network_of(mobile)
    found = refit(network, "011", merged_only=True)
    (fit,) = found.fits
    assert (fit.unknowns, fit.ridge, fit.start, fit.explained) == (36, None, None, None)
    monkeypatch.setattr(fitting, "MOST_UNKNOWNS", 36)
    (fitted,) = refit(network, "011", merged_only=True).fits
    assert fitted.explained is not None and fitted.error <= fit.error


def test_a_fit_that_does_not_help_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    network = network_of(mobile)
    solver = LeastSquares.solver

    def spoilt(self: LeastSquares, prior: ConvWeights) -> Callable[[Factored], ConvWeights]:
        solve = solver(self, prior)

        def opposite(factored: Factored) -> ConvWeights:
            found = solve(factored)
            return replace(found, weight=-found.weight)

        return opposite

    monkeypatch.setattr(LeastSquares, "solver", spoilt)
    found = refit(network, "011", free_activation=True)
    assert [fit.ridge for fit in found.fits] == [None] * 3
    assert all(fit.start == fit.explained for fit in found.fits)
    state, own = found.module.state_dict(), network.module.state_dict()
    assert all(
        torch.equal(state[f"{name}.weight"], own[f"{name}.weight"])
        for name in ("blocks.1.body.6", "blocks.2.body.6")
    )


def test_norms_are_matched_only_where_that_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    network = network_of(mobile)
    without = refit_without_norms(network, monkeypatch)
    found = refit(network, "000")
    assert found.error <= without.error
    assert found.norms_matched == (found.error < without.error)

    def spoil(original: nn.Module, module: nn.Module, paths: Sequence[str], images: Any) -> None:
        for path in paths:
            norm = module.get_submodule(path)
            for values in norm.state_dict().values():
                values.zero_()

    monkeypatch.setattr(network_refit, "match_norms", spoil)
    kept = refit(network, "000")
    assert not kept.norms_matched
    assert_equal_states(kept.module, without.module, 0)


def refit_without_norms(network: Network, monkeypatch: pytest.MonkeyPatch) -> Refitted:
    with monkeypatch.context() as patch:
        patch.setattr(network_refit, "norms_behind", lambda module, cut: ())
        return refit(network, "000")


@pytest.mark.parametrize("mask", ["000", "010"])
@pytest.mark.parametrize("known", [0, 1, 2])
def test_a_run_that_was_interrupted_ends_as_one_that_was_not(known: int, mask: str) -> None:
    network = network_of(mobile)
    kept: list[Fitted] = []
    whole = refit(network, mask, keep=kept.append)
    assert [fit for fit, _ in kept] == list(whole.fits)
    more: list[Fitted] = []
    before = {fit.label: (fit, tensors) for fit, tensors in kept[:known]}
    again = refit(network, mask, known=before, keep=more.append)
    assert [fit.label for fit, _ in more] == [fit.label for fit, _ in kept[known:]]
    assert again.fits == whole.fits and again.error == whole.error
    assert_equal_states(again.module, whole.module, 0)


def test_values_need_not_be_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """The result is the same where each pass begins at the images."""
    network = network_of(residual)
    whole = refit(network, "011", padding="repad")
    monkeypatch.setattr(network_refit, "Stream", partial(Stream, limit=0))
    again = refit(network, "011", padding="repad")
    assert again.fits == whole.fits
    assert_equal_states(again.module, whole.module, 0)


def test_progress_names_each_layer_and_ends_with_the_norms() -> None:
    network = network_of(mobile)
    told: list[tuple[int, int, str]] = []
    found = refit(network, "011", progress=lambda *given: told.append(given))
    labels = [fit.label for fit in found.fits]
    assert told == [(n, 4, label) for n, label in enumerate([*labels, "norms"])]


def test_each_fit_says_what_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    network = network_of(mobile)
    found = refit(network, "011")
    assert [fit.merged for fit in found.fits] == [True, False, False]
    assert [fit.unknowns for fit in found.fits] == [4 * 9, 8, 12]
    for fit in found.fits:
        assert fit.ridge is None or fit.ridge in fitting.RIDGES
        assert fit.explained is not None and fit.start is not None
        assert fit.start <= fit.explained <= 1


def test_a_fit_through_an_activation_moves_targets_to_where_it_is_flat(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network = network_of(residual)
    with monkeypatch.context() as patch:
        patch.setattr(fitting, "ROUNDS", 0)
        without = refit(network, "101", padding="repad", merged_only=True)
    found = refit(network, "101", padding="repad", merged_only=True)
    assert found.fits[0].error < without.fits[0].error


class PaddedByALayer(nn.Module):
    """Zeros around by layers of their own, as converted networks have them; dropout before one."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(*layer(3, 4, 3), nn.ReLU6())
        self.block = nn.Sequential(
            *(*layer(4, 8), nn.ReLU6(), nn.ZeroPad2d((0, 1, 0, 1)), nn.Dropout2d()),
            *(nn.Conv2d(8, 4, 3, 2, bias=False), nn.BatchNorm2d(4)),
        )
        self.expand = nn.Sequential(*layer(4, 8), nn.ReLU6(), nn.ZeroPad2d(1))
        self.last = nn.Sequential(nn.Conv2d(8, 4, 3), nn.BatchNorm2d(4))
        self.classifier = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block(self.stem(x))
        return self.classifier((x + self.last(self.expand(x))).mean((2, 3)))


def padded_by_a_layer() -> nn.Module:
    torch.manual_seed(0)
    return PaddedByALayer().eval()


def test_zeros_around_by_a_layer_are_read_once() -> None:
    network = network_of(padded_by_a_layer)
    # An activation comes behind the addition; before it all is right as it is.
    (fit,) = refit(network, "11", segments="spans", free_activation=True, padding="repad").fits
    assert (fit.label, fit.unknowns, fit.ridge) == ("last.0", 72, None)
    assert fit.start == pytest.approx(1)
