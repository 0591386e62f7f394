"""What was measured of an experiment beside what was published, and its files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from dshrink.paper.experiments import PaperNetwork
from dshrink.paper.published import Setting
from dshrink.results import BenchmarkResult


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperResult:
    """A row: the published network, its speed-up by setting, and ours.

    ``published`` are speed-ups over the first network of the group, by setting; ``measured`` is
    None for a network that cannot be rebuilt.
    """

    network: PaperNetwork
    batch: int
    published: Mapping[Setting, float]
    measured: BenchmarkResult | None

    @property
    def macs_millions(self) -> float | None:
        macs = self.measured.macs if self.measured else None
        return macs / 1e6 if macs is not None else None

    def ratio(self, setting: Setting) -> float | None:
        """Our speed-up over the published one."""
        theirs = self.published.get(setting)
        ours = self.measured.speedup if self.measured else None
        return ours / theirs if ours and theirs else None


def paper_results(
    networks: Sequence[PaperNetwork], batch: int, measured: Iterable[BenchmarkResult]
) -> tuple[PaperResult, ...]:
    """A row a network, in order."""
    by_name = {result.network: result for result in measured}
    first: dict[str, PaperNetwork] = {}
    for one in networks:
        first.setdefault(one.group, one)
    return tuple(
        PaperResult(
            network=one,
            batch=batch,
            published={
                setting: fps / first[one.group].fps[setting]
                for setting, fps in one.fps.items()
                if setting in first[one.group].fps
            },
            measured=by_name.get(one.name),
        )
        for one in networks
    )


def reference(settings: Sequence[Setting], here: Setting) -> Setting | None:
    """The published figures that what was measured in the setting ``here`` is compared with.

    Those of its device and batch; else of its device, or of its batch, or the last (the paper's
    smallest device). None where nothing is published.
    """

    def fits(at: int) -> tuple[bool, bool, int]:
        # The last of equals.
        return settings[at].device == here.device, settings[at].batch == here.batch, at

    return settings[max(range(len(settings)), key=fits)] if settings else None


def csv_columns(settings: Sequence[Setting]) -> list[str]:
    return [*_COLUMNS, *(name for one in settings for name in _setting_columns(one))]


_OF_NETWORK = ("group", "form", "mask", "mflops", "top1_percent", "keeps_block_0", "missing")
_OF_RESULT = (
    *("model", "resolution", "keep_mask", "padding", "device", "runtime", "precision", "launch"),
    *("threads", "macs", "parameters", "latency_ms", "low_ms", "high_ms"),
    *("throughput_fps", "throughput_low_fps", "throughput_high_fps"),
    *("speedup", "speedup_low", "speedup_high", "compared", "peak_memory_mib", "energy_mj"),
    *("verdict", "reason"),
)
_COLUMNS = ("network", "batch", *_OF_NETWORK, *_OF_RESULT)


def _setting_columns(setting: Setting) -> tuple[str, str, str]:
    name = f"{setting.device}_batch{setting.batch}"
    return f"{name}_fps", f"{name}_speedup", f"{name}_ratio"


def record(result: PaperResult, settings: Sequence[Setting]) -> dict[str, Any]:
    """A flat record by column; the ratios are of our speed-up to the published one."""
    measured = asdict(result.measured) if result.measured else {}
    found = {"network": result.network.name, "batch": result.batch}
    found |= {name: getattr(result.network, name) or None for name in _OF_NETWORK}
    found |= {name: measured.get(name) for name in _OF_RESULT}
    for setting in settings:
        fps, speedup, ratio = _setting_columns(setting)
        found[fps] = result.network.fps.get(setting)
        found[speedup] = result.published.get(setting)
        found[ratio] = result.ratio(setting)
    return found
