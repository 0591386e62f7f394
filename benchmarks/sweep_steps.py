"""The steps that a sweep takes with one network of timm or torchvision, and what they find.

Everything that can fail is a step of its own, and what it raises is its result: a network that one
step fails with still goes through the others. Only what dshrink offers to its own commands is used,
so that two states of it can be compared.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import onnxruntime
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from dshrink.errors import DshrinkError
from dshrink.merge.merged_network import merge_network
from dshrink.merge.verify import certify
from dshrink.network.mask_changes import rewriting
from dshrink.network.models import Network, load_network
from dshrink.network.tracing import (
    import_timm,
    import_torchvision_models,
    without_fused_attention,
)
from dshrink.pieces.block_pieces import network_pieces
from dshrink.pieces.span_pieces import span_pieces
from dshrink.pieces.specs import shrunk_spec
from dshrink.search.plan import DEFAULT_PADDING
from latency_tables.opspec import Opaque, OpSpec
from latency_tables.pieces import NetworkPieces
from latency_tables.span_masks import MERGED
from profiler.workloads import build_onnx

#: Counts and results that differ by less, relatively, are called equal.
COUNT_TOLERANCE, RESULT_TOLERANCE = 1e-3, 1e-4
#: The biases that layers without one are given are no more than this share of all parameters.
BIASES = 0.02
#: A larger merged convolution is not written: it takes seconds, and says no more than a small one.
MOST_PARAMETERS = 4_000_000
#: No longer span is merged than gives a convolution of so many parameters.
MOST_MERGED_PARAMETERS = 16_000_000
YES, UNKNOWN = "yes", ""

Report = Callable[..., None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A network: "yes" or the reason why not, and what it was found to be.

    ``parameters`` and ``macs`` are those that dshrink counts, ``torch_parameters`` those that the
    eager network's result depends on. ``without_words`` are the operators that dshrink has no words
    for. What the steps before did not reach is empty.
    """

    name: str
    resolution: int
    traced: str = UNKNOWN
    parameters: int | str = UNKNOWN
    torch_parameters: int | str = UNKNOWN
    parameters_right: str = UNKNOWN
    macs: int | str = UNKNOWN
    torch_macs: int | str = UNKNOWN
    macs_right: str = UNKNOWN
    same_result: str = UNKNOWN
    without_words: str = UNKNOWN
    blocks: int | str = UNKNOWN
    positions: int | str = UNKNOWN
    spans: int | str = UNKNOWN
    by_blocks: str = UNKNOWN
    by_spans: str = UNKNOWN
    merged: str = UNKNOWN
    regions: str = UNKNOWN
    seconds: float | str = UNKNOWN

    @property
    def profiled(self) -> bool:
        return YES in (self.by_blocks, self.by_spans)


def eager(name: str, seed: int = 0) -> nn.Module:
    """The library's own module, with the weights that ``load_network`` draws."""
    torch.manual_seed(seed)
    library, _, short = name.rpartition(":")
    timm = import_timm()
    if library == "torchvision":
        return import_torchvision_models().get_model(short, weights=None).eval()
    return timm.create_model(short).eval()


def torch_macs(module: nn.Module, image: torch.Tensor) -> int:
    """Products that torch counts in one pass.

    Attention is taken apart into matrix products: the fused operator of CPUs is not counted.
    """
    counter = FlopCounterMode(display=False)
    module.requires_grad_(False)  # the counter has hooks for gradients, which fail without a graph
    with torch.inference_mode(), without_fused_attention(), sdpa_kernel(SDPBackend.MATH), counter:
        module(image)
    return int(counter.get_total_flops()) // 2


def used_parameters(module: nn.Module, image: torch.Tensor) -> dict[nn.Parameter, int]:
    """How many numbers each parameter has that the result depends on.

    A classifier that only training has (torchvision's Inception) is not counted.
    """
    module.requires_grad_(True)
    module.zero_grad()
    module(image).sum().backward()
    return {p: p.numel() for p in module.parameters() if p.grad is not None}


def reason(error: Exception) -> str:
    """Its first line; what is no error of dshrink's own is called by its class."""
    line = next(iter(str(error).strip().splitlines()), "")
    return (
        line[:300] if isinstance(error, DshrinkError) else f"{type(error).__name__}: {line[:200]}"
    )


def attempt(step: Callable[[], object]) -> str:
    """Yes, or why the step failed."""
    try:
        step()
    except Exception as error:
        return reason(error)
    return YES


def sweep(name: str, resolution: int, report: Report, *, run: bool) -> None:
    """Take every step with one network, and report each as soon as it is known."""
    try:
        network = load_network(name, resolution=resolution)
    except Exception as error:
        report(traced=reason(error))
        return
    report(traced=YES)
    for step, column in ((counts, "macs_right"), (structure, "without_words")):
        try:
            report(**step(network))
        except Exception as error:
            report(**{column: reason(error)})
    report(by_blocks=attempt(lambda: write_pieces(network, network_pieces(network), run=run)))
    report(by_spans=attempt(lambda: write_pieces(network, span_pieces(network), run=run)))
    report(**merge_throughout(network))


def counts(network: Network) -> dict[str, object]:
    """What dshrink counts, what torch counts, and whether both compute the same.

    Folded norms have fewer parameters than they had, and every layer is given a bias.
    """
    module, spec = eager(network.name), network.spec
    image = torch.randn(1, *spec.input_shape, generator=torch.Generator().manual_seed(1))
    # First: some modules keep in evaluation mode what a pass without gradients made.
    used = used_parameters(module, image)
    products = torch_macs(module, image)
    norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    folded = sum(used.get(p, 0) for norm in norms for p in norm.parameters())
    stored = sum(used.values())
    with torch.inference_mode():
        wanted = module(image)
        difference = float((network.module.eval()(image) - wanted).abs().max())
    difference /= float(wanted.abs().max()) or 1.0
    enough = stored - folded <= spec.parameters * (1 + COUNT_TOLERANCE)
    kept = enough and spec.parameters <= stored * (1 + BIASES)
    right = abs(spec.macs - products) <= COUNT_TOLERANCE * products
    return {
        "parameters": spec.parameters,
        "torch_parameters": stored,
        "parameters_right": YES if kept else f"{100 * (spec.parameters / stored - 1):+.1f} %",
        "macs": spec.macs,
        "torch_macs": products,
        "macs_right": YES if right else f"{100 * (spec.macs / products - 1):+.1f} %",
        "same_result": YES if difference <= RESULT_TOLERANCE else f"off by {difference:.1g}",
    }


def structure(network: Network) -> dict[str, object]:
    unknown = {op.operator for op in network.spec.ops if isinstance(op, Opaque)}
    return {
        "without_words": " ".join(sorted(unknown)),
        "blocks": len(network.blocks),
        "positions": network.chain.length,
        "spans": len(network.chain.spans("kim2023")),
    }


def write_pieces(network: Network, pieces: NetworkPieces, *, run: bool) -> None:
    """Write the original network and its pieces as ONNX, merged ones of moderate size too."""
    original = "1" * len(network.blocks) if pieces.chain is None else pieces.chain.mask
    segments = "blocks" if pieces.chain is None else "spans"
    specs = [shrunk_spec(network, original, segments=segments)]
    for piece in pieces.pieces:
        merged = piece.kind.startswith(("merged", "dense")) or (
            piece.span is not None and piece.span[1] > piece.span[0] + 1
        )
        if not merged or piece.spec.parameters <= MOST_PARAMETERS:
            specs.append(piece.spec)
    for spec in {spec.digest: spec for spec in specs}.values():
        data = build_onnx(spec)
        if run:
            run_once(spec, data)


def run_once(spec: OpSpec, data: bytes) -> None:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    image = torch.randn(1, *spec.input_shape).numpy()
    (result,) = session.run(None, {session.get_inputs()[0].name: image})
    if result.shape != (1, *spec.output_shape):
        raise ValueError(f"ONNX Runtime gives {result.shape}, not {(1, *spec.output_shape)}")


def merge_throughout(network: Network) -> dict[str, object]:
    """Merge every block that merges, else the longest spans, with weights and norms drawn.

    Padding is that of a plan; where it cannot be exact, each layer's padding goes to the input.
    """
    try:
        segments, mask = mask_throughout(network)
        drawn = load_network(network.name, resolution=network.resolution, weights="random")
    except Exception as error:
        return {"merged": reason(error)}
    result = UNKNOWN
    for padding in dict.fromkeys((DEFAULT_PADDING[segments], "repad")):
        try:
            changes = rewriting(drawn, mask, segments=segments)
            merged = merge_network(drawn, changes, padding=padding)
            result = certify(merged).problem or YES
        except Exception as error:
            result = reason(error)
        if result == YES:
            among = f" of {len(mask)}" if segments == "blocks" else ""
            regions = f"{len(changes.regions)}{among} {segments}, {padding}"
            return {"merged": YES, "regions": regions}
    return {"merged": result}


def mask_throughout(network: Network) -> tuple[str, str]:
    """The segments and the mask of the network merged as far as it can be.

    Raises DshrinkError where nothing of it merges.
    """
    mask = "".join("1" if block.unmergeable else MERGED for block in network.blocks)
    if MERGED in mask:
        return "blocks", mask
    pieces = span_pieces(network)
    assert pieces.chain is not None
    ends: dict[int, int] = {}
    for piece in pieces.pieces:
        if piece.span is not None and piece.kind == "span":
            i, j = piece.span
            if j == i + 1 or piece.spec.parameters <= MOST_MERGED_PARAMETERS:
                ends[i] = max(j, ends.get(i, 0))
    at, signs = 0, ""
    while at < pieces.chain.length:
        signs += MERGED * (ends[at] - at - 1) + pieces.chain.mask[ends[at] - 1]
        at = ends[at]
    if MERGED not in signs:
        raise DshrinkError("nothing of it merges: no block, and no span of two convolutions")
    return "spans", signs
