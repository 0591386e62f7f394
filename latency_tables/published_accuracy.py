"""Accuracy and throughput that DepthShrinker published (ICML 2022, Tab. 2, 3 and 7), on ImageNet.

Nothing here was measured by us; ``data/published`` holds the figures as they were published. The
paper states the batch, but neither runtime nor precision.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from types import MappingProxyType

from latency_tables.csv_lines import CsvLine, CsvSource, load_lines
from latency_tables.errors import TableFormatError

SOURCE = "Fu et al. (DepthShrinker), ICML 2022, Tab. 2, 3 and 7, ImageNet"
ALL_DEVICES = "all"
_FILE = "data/published/depthshrinker_accuracy_throughput.csv"
#: How a network was trained: the column of its accuracy.
TRAININGS: Mapping[str, str] = MappingProxyType(
    {"standard": "top1_percent", "kd180": "top1_kd180_percent", "kd360": "top1_kd360_percent"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedPoint:
    """One network on one device, trained one way.

    ``training`` is a key of TRAININGS: plain, or self-distilled for 180 or 360 epochs.
    ``base_model`` is a timm name, empty where the paper's rival was none; ``models`` are those that
    its table is about.
    """

    name: str
    base_model: str
    models: tuple[str, ...]
    device: str
    batch: int
    training: str
    top1_percent: float
    throughput_fps: float

    @property
    def is_shrunk(self) -> bool:
        """Whether it is a network of DepthShrinker's, which are named MBV2-1.4-DS-A."""
        return "-DS-" in self.name

    def belongs_to(self, model: str) -> bool:
        """Whether it is ``model``, shrunk or not, or one that its table compares with it."""
        return self.base_model == model or (not self.base_model and model in self.models)


@cache
def published_points() -> tuple[PublishedPoint, ...]:
    """All of them, in the order of the paper's tables. Raises TableFormatError."""
    path = files("latency_tables").joinpath(_FILE)
    lines = load_lines(path, CsvSource(where=_FILE, error=TableFormatError, fix="reinstall"))
    models: dict[str, dict[str, None]] = {}
    for line in lines:
        if base := line.text("base_model"):
            models.setdefault(line.text("table"), {})[base] = None
    return tuple(
        _point(line, training, tuple(models[line.text("table")]))
        for line in lines
        for training, column in TRAININGS.items()
        if line.text(column)
    )


def _point(line: CsvLine, training: str, models: tuple[str, ...]) -> PublishedPoint:
    return PublishedPoint(
        name=line.text("name"),
        base_model=line.text("base_model"),
        models=models,
        device=line.text("device"),
        batch=line.whole("batch"),
        training=training,
        top1_percent=line.number_in(TRAININGS[training], above=0),
        throughput_fps=line.number_in("fps", above=0),
    )


def points_on(devices: Sequence[str], model: str | None = None) -> tuple[PublishedPoint, ...]:
    """The points of these devices, "all" for every one, and of one model where it is given.

    Raises TableFormatError for a device, or a model, without any.
    """
    points = published_points()
    known = list(dict.fromkeys(point.device for point in points))
    for device in devices:
        if device not in (ALL_DEVICES, *known):
            raise TableFormatError(
                f"nothing is published for the device {device!r}: known are {', '.join(known)} and "
                f"{ALL_DEVICES}"
            )
    wanted = known if ALL_DEVICES in devices else devices
    found = tuple(
        point
        for point in points
        if point.device in wanted and (model is None or point.belongs_to(model))
    )
    if devices and not found:
        models = list(dict.fromkeys(point.base_model for point in points if point.base_model))
        raise TableFormatError(
            f"nothing is published of {model}: known are {', '.join(models)}; leave --published out"
        )
    return found
