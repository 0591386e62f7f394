"""The networks of an experiment, built to be measured: structure alone, weights cost no time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from dshrink.network.models import Network, load
from dshrink.network.references import ModelChoice
from dshrink.operations.bench_networks import BenchNetwork, NetworkFacts
from dshrink.paper.dense_counterpart import dense_counterpart
from dshrink.paper.experiments import UNMERGED, PaperNetwork
from dshrink.pieces.advice import require_batch
from dshrink.pieces.specs import shrunk_spec
from dshrink.search.published import published_mask
from latency_tables.opspec import OpSpec
from profiler.planning.jobs import Job


def with_unmerged(networks: Sequence[PaperNetwork]) -> Iterator[PaperNetwork]:
    """Each shrunk network, and behind it the same with its activations removed and not merged.

    It has no published figures: what it shows is what the merge alone brings.
    """
    for one in networks:
        yield one
        if one.form == "merged":
            yield replace(
                one,
                name=f"{one.name} {UNMERGED}",
                form=UNMERGED,
                fps={},
                mflops=None,
                top1_percent=None,
            )


class PaperNetworks:
    """Builds them, loading each network once; ``padding`` is that of merged blocks."""

    def __init__(self, padding: str) -> None:
        self._padding = padding
        self._loaded: dict[ModelChoice, Network] = {}

    def built(self, networks: Sequence[PaperNetwork], batch: int) -> tuple[BenchNetwork, ...]:
        """Those that can be rebuilt, each compared with the first of its group.

        Raises as ``require_batch`` and ``shrunk_spec``.
        """
        first: dict[str, str] = {}
        found = []
        for one in networks:
            if one.choice is None:
                continue
            network = self._network(one.choice)
            require_batch(network, batch)
            baseline = first.setdefault(one.group, one.name)
            found.append(self._built(one, network, baseline))
        return tuple(found)

    def _network(self, choice: ModelChoice) -> Network:
        if choice not in self._loaded:
            self._loaded[choice] = load(choice)
        return self._loaded[choice]

    def _built(self, one: PaperNetwork, network: Network, baseline: str) -> BenchNetwork:
        mask = "1" * len(network.blocks)
        spec: OpSpec = network.spec
        if one.form in ("merged", UNMERGED):
            mask = published_mask(one.mask).keep_mask
            mask = f"1{mask[1:]}" if one.keeps_block_0 else mask
            spec = shrunk_spec(network, mask, padding=self._padding, merged=one.form != UNMERGED)
        elif one.form == "dense":
            mask, spec = "", dense_counterpart(network)
        padding = self._padding if one.form == "merged" else ""
        return BenchNetwork(
            label=one.name,
            facts=NetworkFacts(
                model=network.name,
                keep_mask=mask if one.form in ("merged", "original") else "",
                padding=padding,
                method=one.method,
                accuracy_percent=one.top1_percent,
            ),
            resolution=network.resolution,
            job=Job(
                id=f"{network.name} {one.form} {mask} {padding}",
                kind="network",
                label=one.name,
                spec=spec,
            ),
            macs=spec.macs,
            parameters=spec.parameters,
            original=one.form == "original",
            baseline=baseline,
        )
