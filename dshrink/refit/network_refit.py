"""A network with merged convolutions that are fitted, one after the other, to its own tensors.

Front to back: each unit reads what those before it, fitted already, give, and shall give what the
original gave on the same images; so errors do not add up. No labels, and no learning rate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, fx, nn

from dshrink.merge.merged_network import merged_layers
from dshrink.merge.merged_weights import merged_shape
from dshrink.merge.padding import merge
from dshrink.merge.region_graph import naming
from dshrink.merge.surgery import Surgery
from dshrink.network.layers import ConstantMap, PaddedConv2d
from dshrink.network.mask_changes import Region, Rewriting
from dshrink.network.models import Network
from dshrink.progress import OnProgress, no_progress
from dshrink.refit.distances import mean_error
from dshrink.refit.fitting import Fitting, Passes, UnitFit
from dshrink.refit.layers import KeptConv, MergedLayers
from dshrink.refit.linearised import linearised_graph
from dshrink.refit.norms import match_norms, norms_behind
from dshrink.refit.parts import result_of
from dshrink.refit.stream import Stream
from dshrink.refit.units import Unit, units_of
from latency_tables.opspec import Conv

#: A unit's fit and the tensors that it changed, by their names in the unit.
Fitted = tuple[UnitFit, Mapping[str, Tensor]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Refitted:
    """``module`` is the merged network, fitted, in eval mode.

    ``error`` is that of its result on the held-out images (``result_error``); ``norms_matched``
    says whether that was lower with the norms matched.
    """

    module: fx.GraphModule
    fits: tuple[UnitFit, ...]
    norms_matched: bool
    error: float


def refit_network(
    network: Network,
    changes: Rewriting,
    fit: Iterable[Tensor],
    held_out: Iterable[Tensor],
    *,
    padding: str,
    merged_only: bool = False,
    known: Mapping[str, Fitted] | None = None,
    keep: Callable[[Fitted], None] = lambda fitted: None,
    progress: OnProgress = no_progress,
) -> Refitted:
    """Merge ``network`` as ``changes`` say and fit the merged convolutions to the original.

    ``fit`` and ``held_out`` are batches of images (N, C, H, W) on the network's device, the same
    whenever they are asked for. Without ``merged_only`` the last convolutions of the blocks behind
    are fitted as well. ``keep`` is told of each unit; ``known`` are those of an interrupted run, by
    their labels. Raises NotMergeable for what does not merge, with the block or span.
    """
    run = _Refit.of(network, changes, fit, held_out, padding)
    units = units_of(network, changes, merged_only=merged_only)
    fits = []
    for number, unit in enumerate(units):
        progress(number, len(units) + 1, unit.label)
        if fitted := run.fit_unit(unit, (known or {}).get(unit.label)):
            fits.append(fitted[0])
            if unit.label not in (known or {}):
                keep(fitted)
    progress(len(units), len(units) + 1, "norms")
    run.change_activations(len(network.spec.ops))
    matched, error = run.match_norms()
    return Refitted(
        module=run.surgery.finish(), fits=tuple(fits), norms_matched=matched, error=error
    )


@dataclass(kw_only=True)
class _Refit:
    network: Network
    changes: Rewriting
    padding: str
    images: Iterable[Tensor]
    surgery: Surgery
    fit: Passes
    held_out: Passes
    #: The original's results on the held-out batches.
    wanted: Sequence[Tensor]
    #: The node of the first unit's convolution.
    first: fx.Node | None = None
    tensors: list[fx.Node] = field(init=False)
    #: What stands before the activations that have come, by tensor.
    linear: dict[int, fx.Node] = field(default_factory=dict)
    gone: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.tensors = self.network.lowered.tensor_nodes(self.network.module)

    @classmethod
    def of(
        cls,
        network: Network,
        changes: Rewriting,
        fit: Iterable[Tensor],
        held_out: Iterable[Tensor],
        padding: str,
    ) -> _Refit:
        surgery = Surgery(network, torch.float32)

        def passes(images: Iterable[Tensor]) -> Passes:
            original, refitted = (
                Stream(module=module, images=images) for module in (network.module, surgery.module)
            )
            return Passes(original=original, refitted=refitted)

        with torch.inference_mode():
            wanted = [network.module(batch) for batch in held_out]
        return cls(
            network=network,
            changes=changes,
            padding=padding,
            images=fit,
            surgery=surgery,
            fit=passes(fit),
            held_out=passes(held_out),
            wanted=wanted,
        )

    def fit_unit(self, unit: Unit, known: Fitted | None) -> Fitted | None:
        """Put a unit's layers into the network and fit them; None where nothing can be set."""
        if known is None:
            first = unit.number if unit.region is None else unit.region.ops[0]
            assert first is not None
            for passes in (self.fit, self.held_out):
                passes.original.advance(self.tensors[first + 1])
        layers = self._layers(unit, linearise=known is None)
        surgery, graph = self.surgery, self.surgery.module.graph
        makes = surgery.tensors[unit.makes]
        result = self.linear.get(unit.result, surgery.tensors[unit.result])
        self.change_activations(unit.result)
        if layers is None:
            return None
        graph.eliminate_dead_code()
        cut = next(node for node in graph.nodes if self._layer(node) is layers.conv)
        self.first = self.first or cut
        if known is not None:
            for name, tensor in layers.tensors().items():
                tensor.copy_(known[1][name])
            return known
        for passes in (self.fit, self.held_out):
            passes.refitted.advance(cut)
        found = Fitting(
            unit=unit,
            layers=layers,
            cut=cut,
            makes=makes,
            result=result,
            wanted=self.tensors[unit.wanted],
            fit=self.fit,
            held_out=self.held_out,
            wanted_results=self.wanted,
        ).run()
        return found, {name: tensor.cpu().clone() for name, tensor in layers.tensors().items()}

    def _layer(self, node: fx.Node) -> nn.Module | None:
        if node.op != "call_module":
            return None
        return self.surgery.module.get_submodule(str(node.target))

    def _layers(self, unit: Unit, *, linearise: bool) -> MergedLayers | KeptConv | None:
        """A merged unit's begin ``linearise``-d, else as zeros."""
        if unit.region is not None:
            return self._merged(unit.region, linearise=linearise)
        assert unit.number is not None
        layers = [
            self.surgery.module.get_submodule(name)
            for name in self.network.lowered.modules[unit.number]
        ]
        op = self.network.spec.ops[unit.number]
        assert isinstance(op, Conv)
        match layers:
            case [nn.Conv2d() as conv]:
                kept = KeptConv(conv=conv, norm=None, op=op)
            case [nn.Conv2d() as conv, nn.BatchNorm2d() as norm]:
                kept = KeptConv(conv=conv, norm=norm, op=op)
            case _:
                return None
        return kept if kept.can_be_set else None

    def _merged(self, region: Region, *, linearise: bool) -> MergedLayers:
        start = merged_shape(self.network, region, self.padding)
        if linearise:
            with naming(region):
                graph = linearised_graph(self.network, region, self.fit.original)
                found = merge(graph, self.padding)
            # Where a bias map has its place, there is one, whatever it holds now.
            values = start.bias_map if found.bias_map is None else found.bias_map
            start = replace(found, bias_map=values)
        device = next(self.network.module.parameters()).device
        layers = [layer.to(device) for layer in merged_layers(start, torch.float32)]
        self.surgery.replace(region, layers)
        conv, bias_map = layers[0], layers[1] if len(layers) > 1 else None
        assert isinstance(conv, PaddedConv2d)
        assert bias_map is None or isinstance(bias_map, ConstantMap)
        return MergedLayers(conv=conv, bias_map=bias_map, start=start)

    def change_activations(self, last: int) -> None:
        """Change those behind the tensors up to ``last``; several units may end at the same one."""
        changes, ops = self.changes, self.network.spec.ops
        removed = {n for n in changes.removed if ops[n].inputs[0] <= last} - self.gone
        activated = {
            tensor: path
            for tensor, path in changes.activated.items()
            if tensor <= last and tensor not in self.linear
        }
        self.gone |= removed
        self.linear |= {tensor: self.surgery.tensors[tensor] for tensor in activated}
        self.surgery.change_activations(
            replace(changes, removed=tuple(sorted(removed)), activated=activated)
        )

    @torch.inference_mode()
    def _error(self, results: Iterable[Tensor]) -> float:
        """Of the network's results on the held-out images."""
        return mean_error(zip(self.wanted, results, strict=True))

    def match_norms(self) -> tuple[bool, float]:
        """Match the norms behind the first unit to the original's, if that brings it closer.

        Whether that was so, and the network's error then.
        """
        module = self.surgery.module
        module.recompile()
        refitted = self.held_out.refitted
        before = self._error(result for (result,) in refitted.values([result_of(module)]))
        paths = norms_behind(module, self.first) if self.first else ()
        if not paths:
            return False, before
        norms = [module.get_submodule(path) for path in paths]
        states = [
            {name: value.clone() for name, value in norm.state_dict().items()} for norm in norms
        ]
        match_norms(self.network.module, module, paths, self.images)
        # The stream may have kept what lies behind a norm that has changed.
        matched = self._error(module(batch) for batch in refitted.images)
        if matched < before:
            return True, matched
        for norm, state in zip(norms, states, strict=True):
            norm.load_state_dict(state)
        return False, before
