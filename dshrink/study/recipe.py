"""Recipes: what a whole study trains and compares, as TOML files.

Those that ship with the package lie in ``recipes/``; a user's own file may say ``like = "digits"``
and name only what differs. Sections of training say what differs from ``[finetune]``: the paper
searches, and trains its baselines, with the settings of the fine-tuning (DepthShrinker, Sec. 5.1).
An unknown field is an error: a misspelled one would be ignored for days of training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from dshrink.network.references import LEAST_SIDE, ModelChoice, Size
from dshrink.search.published import published_mask
from dshrink.train.errors import TrainError
from dshrink.train.settings import OF_SHRINKING, Training
from latency_tables.records import convert_record, load_toml, parse_toml

#: What a row is, in the order in which tables show them.
ROWS: Mapping[str, str] = {
    "original": "the network as it is, fine-tuned as long as the others",
    "searched": "the mask of stage 1, fine-tuned and merged",
    "distilled": "the same, with the original network as its teacher",
    "free_activation": "the same with an activation after merged blocks, if the recipe has none",
    "no_free_activation": "the same without the activation after merged blocks",
    "scratch": "the same without that activation, from initial weights (the paper's Tab. 4)",
    "random": "masks drawn at random, of as many kept blocks",
    "layer_pruning": "the blocks of the searched mask removed instead of merged",
    "width": "narrower networks, by their names, trained from initial weights",
}
#: Rows that need a mask of stage 1.
SEARCHED_ROWS = (
    *("searched", "distilled", "free_activation", "no_free_activation", "scratch"),
    "layer_pruning",
)
#: Rows that start from initial weights.
FROM_INITIAL = ("scratch", "width")
#: Rows whose networks keep all the activations that they have.
_WITHOUT_CHANGES = ("original", "layer_pruning")
INITIAL = "initial"


class RecipeError(TrainError):
    """A recipe that does not exist, or that says what makes no sense."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskGoal:
    """What a row's mask is chosen by: a number of kept blocks, a latency, or a published mask."""

    keep: int | None = None
    budget_ms: float | None = None
    mask: str = ""

    @property
    def name(self) -> str:
        """Of folders and tables: "keep11", "2.5ms", "MBV2-DS-A"."""
        if self.mask:
            return self.mask
        return f"keep{self.keep}" if self.keep is not None else f"{self.budget_ms:g}ms"

    @property
    def is_searched(self) -> bool:
        """Whether stage 1 has anything to decide: not after the paper, nor with no block kept."""
        return not self.mask and self.keep != 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageCounts:
    """How large the data set is, for a dry run without it."""

    training: int
    validation: int
    classes: int

    def __post_init__(self) -> None:
        if min(self.training, self.validation, self.classes) < 1:
            raise RecipeError("training, validation and classes count from 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class TableSettings:
    """How the latency table is measured where none is given: options of ``dshrink profile``."""

    dense: bool = False
    hold_out: int = 20

    def __post_init__(self) -> None:
        if not 8 <= self.hold_out <= 1000:
            raise RecipeError("hold_out is from 8 to 1000")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A study: a network, how far to shrink it, what to compare, and how all of it is trained.

    ``data`` "digits": the images that a run writes itself where none are given.
    ``free_activation``: whether merged blocks have an activation after them, but for the rows that
    are about it. ``model_args``, ``in_channels`` and ``weights_ema`` are those of ``ModelChoice``,
    ``narrower`` the names of the row ``width``, which take no arguments; ``remarks`` are sentences
    of the report; ``decay`` and ``limit``, of the section [search] in a file, are those of stage 1
    (``search_masks``); None leaves the search's own.
    """

    title: str
    model: str
    finetune: Training
    search: Training
    distilled: Training
    name: str = ""
    data: Literal["", "digits"] = ""
    pretrain: Training | None = None
    resolution: int | tuple[int, int] = 224
    in_channels: int | None = None
    model_args: tuple[str, ...] = ()
    weights: str = "pretrained"
    weights_ema: bool = False
    seeds: tuple[int, ...] = (0,)
    keep: tuple[int, ...] = ()
    budgets_ms: tuple[float, ...] = ()
    masks: tuple[str, ...] = ()
    narrower: tuple[str, ...] = ()
    free_activation: bool = True
    rows: tuple[str, ...] = ("searched",)
    random_draws: int = 5
    remarks: tuple[str, ...] = ()
    images: ImageCounts | None = None
    decay: float | None = None
    limit: float | None = None
    table: TableSettings = field(default_factory=TableSettings)

    def __post_init__(self) -> None:
        self._check_lists()
        self._check_goals()
        if min(self.size) < LEAST_SIDE or self.random_draws < 1:
            raise RecipeError(f"resolution is {LEAST_SIDE} or more, random_draws 1 or more")
        self.choice  # noqa: B018 - refused here, before anything is trained
        if (self.decay or 0) < 0 or (self.limit is not None and not self.limit > 0):
            raise RecipeError(f"decay is 0 or more, limit above 0; got {self.decay}, {self.limit}")
        if (self.weights == INITIAL) != (self.pretrain is not None):
            raise RecipeError(
                'weights = "initial" goes with a section [pretrain], other weights without one'
            )
        for section, training in (("search", self.search), ("pretrain", self.pretrain)):
            if training is not None and training != replace(training, **OF_SHRINKING):
                raise RecipeError(
                    f"[{section}] removes no activations: {' and '.join(OF_SHRINKING)} belong in "
                    "[finetune] or [distilled]"
                )
        if "distilled" in self.rows and not self.distilled.distillation:
            raise RecipeError("the row distilled needs a section [distilled] with distillation")

    def _check_lists(self) -> None:
        lists: dict[str, Sequence[Any]] = {"seeds": self.seeds, "rows": self.rows}
        if self.narrower:
            lists["narrower"] = self.narrower
        for name, values in lists.items():
            if not values or len(set(values)) != len(values):
                raise RecipeError(f"{name} must name at least one, and none twice")
        if unknown := [row for row in self.rows if row not in ROWS]:
            raise RecipeError(f"unknown row {unknown[0]!r}; known are {', '.join(ROWS)}")
        if ("width" in self.rows) != bool(self.narrower):
            raise RecipeError(
                "the row width goes with a list narrower, such as "
                '["mobilenetv2_050", "mobilenetv2_035"]'
            )
        if min(self.seeds) < 0:
            raise RecipeError("seeds must be 0 or more")

    def _check_goals(self) -> None:
        lists: tuple[Sequence[Any], ...] = (self.keep, self.budgets_ms, self.masks)
        goals = [one for one in lists if one]
        needed = any(row in (*SEARCHED_ROWS, "random") for row in self.rows)
        if len(goals) > 1 or (needed and not goals):
            raise RecipeError("give one of keep, budgets_ms and masks")
        if any(len(set(one)) != len(one) for one in goals):
            raise RecipeError("no goal may be given twice")
        if min((*self.keep, *self.budgets_ms), default=0) < 0 or 0 in self.budgets_ms:
            raise RecipeError("keep must be 0 or more, budgets_ms above 0")
        for name in self.masks:
            if (base := published_mask(name).base_model) != self.model:
                raise RecipeError(f"masks: {name} is a mask of {base}, not of {self.model}")

    @property
    def size(self) -> Size:
        """Height and width."""
        at = self.resolution
        return Size(at, at) if isinstance(at, int) else Size(*at)

    @property
    def choice(self) -> ModelChoice:
        """The network of the recipe."""
        return ModelChoice(
            model=self.model,
            model_args=self.model_args,
            resolution=self.size,
            in_channels=self.in_channels,
            weights=self.weights,
            weights_ema=self.weights_ema,
        )

    @property
    def goals(self) -> tuple[MaskGoal, ...]:
        """How far to shrink, in the recipe's order."""
        return (
            *(MaskGoal(keep=keep) for keep in self.keep),
            *(MaskGoal(budget_ms=budget) for budget in self.budgets_ms),
            *(MaskGoal(mask=name) for name in self.masks),
        )

    def training_of(self, row: str) -> Training:
        """The settings of a row.

        What starts from initial weights is trained as the pre-training is, for the epochs of both:
        else it would be compared with networks that saw more. Activations fade, and block outputs
        are taught, only where trained weights lose activations.
        """
        if row == "distilled":
            return self.distilled
        if row in FROM_INITIAL and self.pretrain is not None:
            return replace(self.pretrain, epochs=self.pretrain.epochs + self.finetune.epochs)
        if row in (*FROM_INITIAL, *_WITHOUT_CHANGES):
            return replace(self.finetune, **OF_SHRINKING)
        return self.finetune

    def seeded(self, training: Training) -> Training:
        """Settings of this recipe for a single run: with its first seed where they name none."""
        return replace(training, seed=training.seed or self.seeds[0])

    def changed(self, *, rows: Sequence[str] = (), seeds: Sequence[int] = ()) -> Recipe:
        """The recipe with other rows or seeds where some are given. Raises RecipeError."""
        rows = tuple(rows) or self.rows
        narrower = self.narrower if "width" in rows else ()
        return replace(self, rows=rows, seeds=tuple(seeds) or self.seeds, narrower=narrower)

    def logged(self, log_with: Sequence[str]) -> Recipe:
        """The recipe with all its trainings told to these trackers where some are given."""
        names = ("finetune", "search", "distilled", "pretrain")
        trainings = {name: training for name in names if (training := getattr(self, name))}
        told = {name: replace(one, log_with=tuple(log_with)) for name, one in trainings.items()}
        return replace(self, **told) if log_with else self

    @property
    def log_with(self) -> tuple[str, ...]:
        """The trackers of all its trainings."""
        trainings = (self.finetune, self.search, self.distilled, self.pretrain)
        return tuple(dict.fromkeys(name for one in trainings if one for name in one.log_with))

    def with_all_of(self, other: Recipe) -> Recipe:
        """The recipe with the rows and seeds of another one, a ``changed`` one, besides its own."""
        return self.changed(
            rows=tuple(dict.fromkeys((*self.rows, *other.rows))),
            seeds=tuple(dict.fromkeys((*self.seeds, *other.seeds))),
        )


def shipped_recipes() -> tuple[str, ...]:
    """The names of the recipes in the package, in order."""
    folder = files("dshrink.study").joinpath("recipes")
    found = (entry.name for entry in folder.iterdir())
    return tuple(sorted(name[:-5] for name in found if name.endswith(".toml")))


def load_recipe(name: str) -> Recipe:
    """A shipped recipe by its name, or the one in a file ``*.toml``.

    Raises RecipeError, one line that names file and field.
    """
    if name.endswith(".toml"):
        path = Path(name)
        return _recipe(path.stem, _layered(load_toml(path, error=RecipeError), name), name)
    return _recipe(name, _shipped(name), f"{name}.toml")


def _shipped(name: str) -> dict[str, Any]:
    if name not in shipped_recipes():
        raise RecipeError(
            f"no recipe {name!r}; there are {', '.join(shipped_recipes())}, or give a file *.toml"
        )
    entry = files("dshrink.study").joinpath("recipes", f"{name}.toml")
    where = f"{name}.toml"
    return _layered(parse_toml(entry.read_text("utf-8"), where=where, error=RecipeError), where)


def _layered(values: dict[str, Any], where: str) -> dict[str, Any]:
    """The file's fields over those of the recipe that it is like."""
    like = values.pop("like", None)
    if like is None:
        return values
    if not isinstance(like, str):
        raise RecipeError(f"{where}: field 'like' must be a text, got {like!r}")
    try:
        base = _shipped(like)
    except RecipeError as error:
        raise RecipeError(f"{where}: like: {error}") from None
    found: dict[str, Any] = _over(base, values)
    return found


def _over(base: Any, own: Any) -> Any:
    """``own``, or both section by section where both are sections."""
    if not (isinstance(base, Mapping) and isinstance(own, Mapping)):
        return own
    return {**base, **{name: _over(base.get(name), value) for name, value in own.items()}}


def _recipe(name: str, values: dict[str, Any], where: str) -> Recipe:
    """Sections of training are as the fine-tuning where they say nothing else.

    Stage 1 and the pre-training take nothing from it that is about removed activations.
    """
    finetune = values.get("finetune", {})
    # First, so that its own errors are not those of the sections that repeat it.
    data = {"finetune": finetune, "distilled": {}, **values, "name": name}
    for section in ("search", "distilled", "pretrain"):
        if section in data:
            inherited = finetune
            if section != "distilled" and isinstance(finetune, Mapping):
                inherited = {key: finetune[key] for key in finetune if key not in OF_SHRINKING}
            data[section] = _over(inherited, data[section])
    if isinstance(search := data.get("search"), Mapping):
        data["search"] = {key: search[key] for key in search if key not in ("decay", "limit")}
        data |= {key: search[key] for key in ("decay", "limit") if key in search}
    if "finetune" not in values:
        del data["finetune"]
    return convert_record(
        data, Recipe, where=where, error=RecipeError, fix="change the recipe there"
    )
