"""Batch sizes 1, 2, 4, ... until throughput saturates, or the device's memory ends.

That memory ends is what a sweep looks for, and no failure: the network's row of that batch is left
out, and the network of larger ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from dshrink.operations.bench_networks import BenchNetwork
from dshrink.operations.bench_run import BenchmarkRun
from dshrink.progress import Notice
from dshrink.results import BenchmarkResult
from dshrink.saturation import saturated_from
from profiler.errors import DeviceMemoryError

#: A sweep ends here whatever throughput does.
MOST_BATCH = 4096

#: Measures networks at a batch size.
Measure = Callable[[int, Sequence[BenchNetwork]], BenchmarkRun]


def sweep_batches(
    networks_at: Callable[[int], Sequence[BenchNetwork]], measure: Measure, notice: Notice
) -> list[BenchmarkRun]:
    """A run a batch size; ``networks_at`` says what the networks are at it.

    The sweep ends where throughput of every network has grown by less than 5 % over two doublings,
    where memory has ended for all, or at MOST_BATCH. Raises DeviceMemoryError where not even one
    image fits.
    """
    runs: list[BenchmarkRun] = []
    speeds: dict[str, dict[int, float]] = {}
    ended: set[str] = set()
    batch = 1
    while batch <= MOST_BATCH:
        networks = _left(networks_at(batch), ended)
        try:
            run = measure(batch, networks)
        except DeviceMemoryError:
            if not runs:
                raise
            notice(f"batch {batch}: more than the device's memory; the sweep ends")
            break
        for network, result in zip(networks, run.results, strict=True):
            if result.throughput_fps is not None:
                speeds.setdefault(network.job.id, {})[batch] = result.throughput_fps
                continue
            ended.add(network.job.id)
            if runs and is_out_of_memory(result):
                notice(f"{network.label}: batch {batch} is more than the device's memory")
        runs += [shown] if (shown := _without_memory_ends(run) if runs else run).results else []
        growing = [
            name
            for name, of_network in speeds.items()
            if name not in ended and saturated_from(of_network) is None
        ]
        if not growing:
            break
        batch *= 2
    else:
        notice(f"throughput still grows at batch {MOST_BATCH}; the sweep ends there")
    return runs


def is_out_of_memory(result: BenchmarkResult) -> bool:
    """Whether the network failed because the device has too little memory."""
    return result.throughput_fps is None and result.reason.startswith("out_of_memory")


def _left(networks: Sequence[BenchNetwork], ended: set[str]) -> list[BenchNetwork]:
    """Those that still fit; without its baseline a network is compared with the first of them."""
    gone = {network.label for network in networks if network.job.id in ended}
    return [
        replace(network, baseline="") if network.baseline in gone else network
        for network in networks
        if network.job.id not in ended
    ]


def _without_memory_ends(run: BenchmarkRun) -> BenchmarkRun:
    kept = [not is_out_of_memory(result) for result in run.results]
    return replace(
        run,
        results=tuple(one for one, keep in zip(run.results, kept, strict=True) if keep),
        efforts=tuple(one for one, keep in zip(run.efforts, kept, strict=True) if keep),
    )
