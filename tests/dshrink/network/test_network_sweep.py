"""Networks of timm and torchvision are still found to be what the sweep over them found.

``network_sweep.csv`` says what each gives, also where that is wrong or impossible ("no"). After an
intended change sweep again (benchmarks/network_sweep.py) and write the file again with --expected.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from dshrink.network.models import Network, load_network
from dshrink.network.tracing import (
    import_timm,
    import_torchvision_models,
    without_fused_attention,
)
from dshrink.pieces.block_pieces import network_pieces
from dshrink.pieces.span_pieces import span_pieces
from latency_tables.pieces import NetworkPieces, Piece
from profiler.workloads import build_onnx

Row = dict[str, str]

with (Path(__file__).parent / "network_sweep.csv").open(encoding="utf-8", newline="") as file:
    ROWS: list[Row] = list(csv.DictReader(file))
#: One of each kind of network and of fault: these are tried every time, all others by hand.
KINDS = frozenset(
    {
        "convnext_atto",
        "convnextv2_atto",
        "darknet17",
        "densenet121",
        "dla46_c",
        "dpn48b",
        "edgenext_xx_small",
        "efficientnet_b0",
        "efficientnet_b0_gn",
        "efficientvit_b0",
        "ese_vovnet19b_slim_dw",
        "fasternet_t0",
        "fastvit_t8",
        "ghostnet_100",
        "hardcorenas_a",
        "hgnetv2_b0",
        "hrnet_w18_small",
        "inception_next_atto",
        "lcnet_050",
        "levit_128s",
        "mnasnet_small",
        "mobileone_s0",
        "mobilenetv1_100",
        "mobilenetv2_035",
        "mobilenetv3_small_100",
        "mobilenetv4_conv_small",
        "mobilevit_xxs",
        "poolformer_s12",
        "regnetx_002",
        "regnety_002",
        "repghostnet_050",
        "repvgg_a0",
        "repvit_m0_9",
        "resnet10t",
        "resnetv2_18",
        "rexnet_100",
        "selecsls42",
        "skresnet18",
        "starnet_s050",
        "test_nfnet",
        "test_resnet",
        "tf_efficientnet_cc_b0_4e",
        "torchvision:googlenet",
        "torchvision:mobilenet_v2",
        "torchvision:regnet_x_400mf",
        "torchvision:resnet18",
        "torchvision:squeezenet1_1",
        "torchvision:vit_b_32",
        "xcit_nano_12_p16_224",
    }
)


def _parameter(row: Row) -> object:
    marks = () if row["name"] in KINDS else pytest.mark.slow
    return pytest.param(row, id=row["name"], marks=marks)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of torchvision, of its GoogLeNet
@pytest.mark.parametrize("row", [_parameter(row) for row in ROWS])
def test_a_network_is_what_the_sweep_found(row: Row) -> None:
    name, resolution = row["name"], int(row["resolution"])
    network = load_network(name, resolution=resolution)
    products = macs_of_torch(name, resolution)
    found = {
        "name": name,
        "resolution": resolution,
        "parameters": network.spec.parameters,
        "macs": network.spec.macs,
        "torch_macs": products,
        "macs_right": _word(abs(network.spec.macs - products) <= 0.001 * products),
        "blocks": len(network.blocks),
        "positions": network.chain.length,
        "spans": len(network.chain.spans("kim2023")),
        "by_blocks": _word(can_be_written(network, network_pieces)),
        "by_spans": _word(can_be_written(network, span_pieces)),
    }
    assert {column: str(value) for column, value in found.items()} == row


def test_the_sweep_has_many_networks_and_those_of_every_run_are_among_them() -> None:
    names = [row["name"] for row in ROWS]
    assert len(set(names)) == len(names) >= 150
    assert set(names) >= KINDS


def macs_of_torch(name: str, resolution: int) -> int:
    """Products that torch counts in the library's own network.

    Attention is taken apart into matrix products: its fused operator is not counted on a CPU.
    """
    library, _, short = name.rpartition(":")
    timm, torchvision = import_timm(), import_torchvision_models()
    module: nn.Module = torchvision.get_model(short) if library else timm.create_model(short)
    module.requires_grad_(False)  # the counter has hooks for gradients, which fail without a graph
    counter = FlopCounterMode(display=False)
    with torch.inference_mode(), without_fused_attention(), sdpa_kernel(SDPBackend.MATH), counter:
        module.eval()(torch.zeros(1, 3, resolution, resolution))
    return int(counter.get_total_flops()) // 2


def can_be_written(network: Network, cut: Callable[[Network], NetworkPieces]) -> bool:
    """Whether the pieces that are not merged can be, by which a table is measured."""
    try:
        specs = {piece.spec.digest: piece.spec for piece in cut(network).pieces if is_plain(piece)}
        for spec in specs.values():
            build_onnx(spec)
    except ValueError:  # what dshrink and its tables refuse; all else is a fault
        return False
    return True


def is_plain(piece: Piece) -> bool:
    if piece.span is not None and piece.kind == "span":
        return piece.span[1] == piece.span[0] + 1
    return not piece.kind.startswith(("merged", "dense"))


def _word(holds: bool) -> str:
    return "yes" if holds else "no"
