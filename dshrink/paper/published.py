"""The throughput that DepthShrinker published, a figure a network and device (ICML 2022).

Nothing here was measured by us: Tab. 1, 2, 3, 5, 7 and 8 as they stand in ``latency_tables/data``.
The paper states device and batch, but neither runtime (TFLite in Tab. 5 aside) nor precision.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files

from latency_tables.csv_lines import CsvLine, CsvSource, load_lines
from latency_tables.errors import TableFormatError

SOURCE = "Fu et al., DepthShrinker, ICML 2022"
#: How devices are called in titles and columns.
DEVICE_TITLES = {
    **{"v100": "V100", "rtx2080ti": "RTX 2080 Ti", "tx2": "Jetson TX2"},
    **{"pixel3": "Pixel 3", "raspi4": "Raspberry Pi 4"},
}


@dataclass(frozen=True, slots=True, order=True)
class Setting:
    """A device and a batch size that figures were published for."""

    device: str
    batch: int

    @property
    def title(self) -> str:
        return f"{DEVICE_TITLES.get(self.device, self.device)}, batch {self.batch}"


#: What the latencies of single blocks are of: the batch is inferred from their sum.
BLOCK_LATENCIES = Setting("rtx2080ti", 1024)


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedNetwork:
    """A network of a table: frames per second by setting, and what else the table says of it.

    ``base_model`` is a timm name, empty where the paper's rival was none; ``mflops`` are millions
    of multiply-accumulates. Accuracies are top-1 in percent on ImageNet after standard training and
    after 180 and 360 epochs of self-distillation.
    """

    name: str
    base_model: str = ""
    fps: Mapping[Setting, float] = field(default_factory=dict)
    mflops: float | None = None
    top1_percent: float | None = None
    top1_kd180_percent: float | None = None
    top1_kd360_percent: float | None = None

    @property
    def best_top1_percent(self) -> float | None:
        """The longest training's."""
        return self.top1_kd360_percent or self.top1_kd180_percent or self.top1_percent


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedDense:
    """A network of Tab. 1 and its dense counterpart of the same FLOPs."""

    model: str
    mflops: float
    original_fps: Mapping[Setting, float]
    dense_fps: Mapping[Setting, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedDepth:
    """A network of Tab. 8: ``depth`` is 50, or the blocks of each stage as "1,2,3,4,3,3,1"."""

    family: str
    depth: str
    width: float
    fps: Mapping[Setting, float]


@cache
def of_table(table: str) -> tuple[PublishedNetwork, ...]:
    """The networks of ``table2``, ``table3`` or ``table7``, in the table's order."""
    lines = [
        line
        for line in _lines("depthshrinker_accuracy_throughput.csv")
        if line.text("table") == table
    ]
    return tuple(
        PublishedNetwork(
            name=name,
            base_model=its[0].text("base_model"),
            fps={_setting(line): line.number_in("fps", above=0) for line in its},
            **{
                field: its[0].number_if_any(field, above=0)
                for field in ("mflops", "top1_percent", "top1_kd180_percent", "top1_kd360_percent")
            },
        )
        for name, its in _grouped(lines, "name").items()
    )


@cache
def dense_counterparts() -> tuple[PublishedDense, ...]:
    """Tab. 1."""
    groups = _grouped(_lines("depthshrinker_table1_dense_counterparts.csv"), "model")
    return tuple(
        PublishedDense(
            model=model,
            mflops=1000.0 * its[0].number_in("gflops", above=0),
            original_fps={_setting(one): one.number_in("original_fps", above=0) for one in its},
            dense_fps={_setting(one): one.number_in("dense_fps", above=0) for one in its},
        )
        for model, its in groups.items()
    )


@cache
def cpu_latencies() -> tuple[PublishedNetwork, ...]:
    """Tab. 5: TFLite on the CPUs of two boards, as frames per second."""
    groups = _grouped(_lines("depthshrinker_table5_cpu_latency.csv"), "name")
    return tuple(
        PublishedNetwork(
            name=name,
            base_model=its[0].text("base_model"),
            fps={
                _setting(line): line.whole("batch") / line.number_in("latency_s", above=0)
                for line in its
            },
        )
        for name, its in groups.items()
    )


@cache
def depths_and_widths() -> tuple[PublishedDepth, ...]:
    """Tab. 8."""
    lines = _lines("depthshrinker_table8_depth_width.csv")
    groups: dict[tuple[str, str], list[CsvLine]] = {}
    for line in lines:
        family = "resnet" if line.text("model").startswith("resnet") else line.text("model")
        groups.setdefault((family, line.text("depth")), []).append(line)
    return tuple(
        PublishedDepth(
            family=family,
            depth=depth,
            width=its[0].number_in("width_scale", above=0),
            fps={_setting(line): line.number_in("fps", above=0) for line in its},
        )
        for (family, depth), its in groups.items()
    )


@cache
def block_latencies(model: str) -> tuple[tuple[float, float], ...]:
    """(original, merged) in ms of each block on an RTX 2080 Ti, by the authors' code.

    Empty where nothing is published of ``model``.
    """
    return tuple(
        (line.number_in("original_ms", above=0), line.number_in("merged_ms", above=0))
        for line in _lines("depthshrinker_2080ti_pytorch_block_latency.csv")
        if line.text("model") == model
    )


def _lines(name: str) -> list[CsvLine]:
    where = f"data/published/{name}"
    source = CsvSource(where=where, error=TableFormatError, fix="reinstall dshrink")
    return load_lines(files("latency_tables").joinpath(where), source)


def _grouped(lines: list[CsvLine], column: str) -> dict[str, list[CsvLine]]:
    groups: dict[str, list[CsvLine]] = {}
    for line in lines:
        groups.setdefault(line.text(column), []).append(line)
    return groups


def _setting(line: CsvLine) -> Setting:
    return Setting(line.text("device"), line.whole("batch"))
