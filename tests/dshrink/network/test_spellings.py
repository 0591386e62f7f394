"""Networks in the spellings that people use: counted, traced and written as the module computes.

The oracle is torch itself: eager results for two batch sizes, and FlopCounterMode's count.
"""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from spelled_networks import CASES, SIZE, Net, made
from torch import fx, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from dshrink.errors import NetworkError
from dshrink.merge.export import run_onnx
from dshrink.network.lowering import LoweredNetwork, lower
from dshrink.network.tracing import trace, without_fused_attention
from latency_tables.onnx_file import write_onnx
from latency_tables.opspec import Opaque, OpSpecError


def lowered(net: nn.Module) -> tuple[fx.GraphModule, LoweredNetwork]:
    traced = trace(net, (3, SIZE, SIZE))
    return traced, lower(traced)


@pytest.mark.parametrize("case", CASES)
def test_a_spelling_is_counted_and_written_as_torch_computes_it(case):
    make, opaque = CASES[case]
    net = made(make)
    traced, low = lowered(net)
    found = [op.operator for op in low.spec.ops if isinstance(op, Opaque)]
    assert found == opaque
    for batch in (1, 3):
        image = torch.randn(batch, 3, SIZE, SIZE)
        # Fused attention has no formula there.
        counter = FlopCounterMode(display=False)
        with without_fused_attention(), sdpa_kernel(SDPBackend.MATH), torch.no_grad(), counter:
            expected = net(image).numpy()
        assert low.spec.macs * batch * 2 == counter.get_total_flops()
        data = write_onnx(low.spec, low.weights(traced), batch=batch)
        assert np.abs(run_onnx(data, image.numpy()) - expected).max() < 1e-5


@pytest.mark.parametrize("case", ["split", "attention", "layer scale", "channels-last linear"])
def test_opaque_operators_are_written_in_half_precision_too(case):
    net = made(CASES[case][0])
    traced, low = lowered(net)
    image = torch.randn(1, 3, SIZE, SIZE)
    data = write_onnx(low.spec, low.weights(traced), precision="fp16")
    result = run_onnx(data, image.half().numpy()).astype(np.float32)
    assert np.abs(result - net(image).detach().numpy()).max() < 2e-2


def test_weights_of_opaque_operators_are_those_that_the_network_has_now():
    net = made(CASES["a convolution of one's own"][0])
    traced, low = lowered(net)
    with torch.no_grad():
        traced.get_submodule("a").weight.mul_(3.0)
    image = torch.randn(1, 3, SIZE, SIZE)
    data = write_onnx(low.spec, low.weights(traced))
    expected = traced(image).detach().numpy()
    assert np.abs(run_onnx(data, image.numpy()) - expected).max() < 1e-5


def test_buffers_that_are_not_saved_keep_their_values_in_the_nodes():
    class Positions(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("places", torch.rand(1, 8, 8, 8), persistent=False)

        def forward(self, x):
            return (x + self.places).softmax(1)

    net = made(lambda: Net(lambda s, x: s.positions(x), positions=Positions()))
    traced, low = lowered(net)
    image = torch.randn(2, 3, SIZE, SIZE)
    data = write_onnx(low.spec, low.weights(traced), batch=2)
    assert np.abs(run_onnx(data, image.numpy()) - net(image).detach().numpy()).max() < 1e-5


def test_a_module_that_keeps_what_it_computed_of_a_size_is_traced_with_real_tensors():
    class Keeps(nn.Module):
        kept = None

        def forward(self, x):
            if self.kept is None or self.kept.shape[-1] != x.shape[-1]:
                self.kept = torch.linspace(0, 1, x.shape[-1])
            return x * self.kept

    net = made(lambda: Net(lambda s, x: s.keeps(x), keeps=Keeps()))
    net.keeps.kept = None
    traced, low = lowered(net)
    assert type(net.keeps.kept) is torch.Tensor
    image = torch.randn(1, 3, SIZE, SIZE)
    data = write_onnx(low.spec, low.weights(traced))
    assert np.abs(run_onnx(data, image.numpy()) - net(image).detach().numpy()).max() < 1e-5


def test_equal_networks_have_equal_digests_whatever_their_weights():
    digests = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        net = CASES["split"][0]()
        net(torch.randn(1, 3, SIZE, SIZE))
        digests.append(lowered(net)[1].spec.digest)
    assert digests[0] == digests[1]


def test_the_module_that_is_traced_stays_as_it_is():
    net = made(CASES["skip of what a ReLU changes in place"][0])
    lowered(net)
    assert net.relu.inplace


def test_what_the_exporter_writes_wrongly_has_a_reason_and_no_nodes():
    net = made(lambda: Net(lambda s, x: s.p(x), p=nn.AvgPool2d(2, divisor_override=3)))
    (op,) = (op for op in lowered(net)[1].spec.ops if isinstance(op, Opaque))
    assert not op.graph and "other results" in op.reason


def test_what_cannot_be_counted_says_so():
    net = made(lambda: Net(lambda s, x: torch.fft.rfft2(x).abs()))
    (op,) = (op for op in lowered(net)[1].spec.ops if isinstance(op, Opaque))
    assert op.counted is None


class DependsOnTheCall(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return self.conv(x).mean((2, 3)) * self.calls


class WritesIntoAPart(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        x = self.conv(x)
        x[:, :2].relu_()
        return x


class StaysInTraining(nn.BatchNorm2d):
    def train(self, mode=True):
        return super().train(True)


def scripted(layer):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is deprecated
        return torch.jit.script(layer)


def assigns(net, x):
    x[:, :2] = 0
    return x


class TwoImages(nn.Module):
    def forward(self, left, right):
        return left + right


@pytest.mark.parametrize(
    ("net", "error", "reason"),
    [
        (
            Net(lambda s, x: F.dropout(x, training=True)),
            NetworkError,
            "another result each time it runs",
        ),
        (DependsOnTheCall(), NetworkError, "another result"),
        (WritesIntoAPart(), NetworkError, "relu_ writes in place into a part of a tensor"),
        (TwoImages(), NetworkError, r"takes 2 inputs \(left, right\)"),
        (Net(lambda s, x: x if x.sum() > 0 else -x), fx.proxy.TraceError, "branches on the values"),
        (
            Net(lambda s, x: s.norm(x), norm=StaysInTraining(8)),
            NetworkError,
            r"norm stays in training mode after eval\(\)",
        ),
        (
            Net(lambda s, x: s.r(x), r=scripted(nn.ReLU())),
            NetworkError,
            "r is TorchScript, which cannot be traced",
        ),
        (Net(assigns), fx.proxy.TraceError, "assigns into a part of conv2d|assigns into a part"),
        (Net(lambda s, x: x if len(x) > 1 else -x), fx.proxy.TraceError, "depends on the batch"),
    ],
)
def test_a_network_that_does_not_trace_says_why(net, error, reason):
    if isinstance(net, Net):
        net.head = nn.Linear(8, 5)
    with pytest.raises(error, match=reason):
        trace(net, (3, SIZE, SIZE))


def test_several_results_are_refused():
    class Two(nn.Module):
        def forward(self, x):
            return x.mean((2, 3)), x

    traced = trace(Two(), (3, SIZE, SIZE))
    with pytest.raises(OpSpecError, match="several results"):
        lower(traced)
