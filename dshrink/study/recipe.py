"""Recipes: what a whole study trains and compares, as TOML files.

Those that ship with the package lie in ``recipes/``; a user's own file may say ``like = "digits"``
and name only what differs. Sections of training say what differs from ``[finetune]``: the paper
searches, and trains its baselines, with the settings of the fine-tuning (DepthShrinker, Sec. 5.1).
An unknown field is an error: a misspelt one would be ignored for days of training.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from dshrink.search.errors import PlanError
from dshrink.search.published import published_mask
from dshrink.train.errors import TrainError
from dshrink.train.settings import Training
from latency_tables.json_fields import JsonObject

#: What a row is, in the order in which tables show them.
ROWS: Mapping[str, str] = {
    "original": "the network as it is, fine-tuned as long as the others",
    "searched": "the mask of stage 1, fine-tuned and merged",
    "distilled": "the same, taught by the original network as well",
    "free_activation": "the same with an activation after merged blocks, if the recipe has none",
    "no_free_activation": "the same without the activation after merged blocks",
    "scratch": "the same without that activation, from initial weights (the paper's Tab. 4)",
    "random": "masks drawn at random, of as many kept blocks",
    "layer_pruning": "the blocks of the searched mask removed instead of merged",
    "width": "the whole network made narrower, trained from initial weights",
}
#: Rows that need a mask of stage 1.
SEARCHED_ROWS = (
    *("searched", "distilled", "free_activation", "no_free_activation", "scratch"),
    "layer_pruning",
)
#: Rows that start from initial weights.
FROM_INITIAL = ("scratch", "width")
INITIAL = "initial"

_FIELDS = (
    "title",
    "model",
    "resolution",
    "weights",
    "seeds",
    "keep",
    "budgets_ms",
    "masks",
    "widths",
    "free_activation",
    "rows",
    "random_draws",
    "remarks",
    "images",
    "pretrain",
    "search",
    "finetune",
    "distilled",
    "table",
)


class RecipeError(TrainError):
    """A recipe that does not exist, or that says what makes no sense."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """How far to shrink: to a number of kept blocks, to a latency, or by a mask of the paper."""

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
    """How large the data set is, for an estimate where it is not at hand."""

    training: int
    validation: int
    classes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A study: a network, how far to shrink it, what to compare, and how all of it is trained.

    ``free_activation``: whether merged blocks have an activation behind them, but for the rows that
    are about it. ``remarks`` are sentences of the report; ``decay`` and ``limit`` those of stage
    1 (``search_masks``); None leaves the search's own. ``dense`` and ``hold_out`` are those of the
    latency table that is measured where none is given.
    """

    name: str
    title: str
    model: str
    finetune: Training
    search: Training
    distilled: Training
    pretrain: Training | None = None
    resolution: int = 224
    weights: str = "pretrained"
    seeds: tuple[int, ...] = (0,)
    keep: tuple[int, ...] = ()
    budgets_ms: tuple[float, ...] = ()
    masks: tuple[str, ...] = ()
    widths: tuple[float, ...] = ()
    free_activation: bool = True
    rows: tuple[str, ...] = ("searched",)
    random_draws: int = 5
    remarks: tuple[str, ...] = ()
    images: ImageCounts | None = None
    decay: float | None = None
    limit: float | None = None
    dense: bool = False
    hold_out: int = 20

    def __post_init__(self) -> None:
        self._check_lists()
        self._check_targets()
        if self.resolution < 8 or self.random_draws < 1 or self.hold_out < 8:
            raise RecipeError("resolution and hold_out are 8 or more, random_draws 1 or more")
        if (self.decay or 0) < 0 or (self.limit is not None and not self.limit > 0):
            raise RecipeError(f"decay is 0 or more, limit above 0; got {self.decay}, {self.limit}")
        if (self.weights == INITIAL) != (self.pretrain is not None):
            raise RecipeError(
                'weights = "initial" goes with a section [pretrain], other weights without one'
            )
        if "distilled" in self.rows and not self.distilled.distillation:
            raise RecipeError("the row distilled needs a section [distilled] with distillation")

    def _check_lists(self) -> None:
        lists: dict[str, Sequence[Any]] = {"seeds": self.seeds, "rows": self.rows}
        for name, values in lists.items():
            if not values or len(set(values)) != len(values):
                raise RecipeError(f"{name} must name at least one, and none twice")
        if unknown := [row for row in self.rows if row not in ROWS]:
            raise RecipeError(f"unknown row {unknown[0]!r}; known are {', '.join(ROWS)}")
        if ("width" in self.rows) != bool(self.widths):
            raise RecipeError("the row width goes with a list widths, such as [0.75, 0.5]")
        if min(self.seeds) < 0:
            raise RecipeError("seeds must be 0 or more")

    def _check_targets(self) -> None:
        lists: tuple[Sequence[Any], ...] = (self.keep, self.budgets_ms, self.masks)
        goals = [one for one in lists if one]
        needed = any(row in (*SEARCHED_ROWS, "random") for row in self.rows)
        if len(goals) > 1 or (needed and not goals):
            raise RecipeError("give one of keep, budgets_ms and masks")
        if any(len(set(one)) != len(one) for one in goals):
            raise RecipeError("no target may be given twice")
        for name in self.masks:
            if (base := published_mask(name).base_model) != self.model:
                raise RecipeError(f"masks: {name} is a mask of {base}, not of {self.model}")

    @property
    def targets(self) -> tuple[Target, ...]:
        """How far to shrink, in the recipe's order."""
        return (
            *(Target(keep=keep) for keep in self.keep),
            *(Target(budget_ms=budget) for budget in self.budgets_ms),
            *(Target(mask=name) for name in self.masks),
        )

    def training_of(self, row: str) -> Training:
        """The settings of a row.

        What starts from initial weights is trained as the pre-training is, for the epochs of both:
        else it would be compared with networks that saw more.
        """
        if row == "distilled":
            return self.distilled
        if row in FROM_INITIAL and self.pretrain is not None:
            return replace(self.pretrain, epochs=self.pretrain.epochs + self.finetune.epochs)
        return self.finetune

    def changed(self, *, rows: Sequence[str] = (), seeds: Sequence[int] = ()) -> Recipe:
        """The recipe with other rows or seeds where some are given. Raises RecipeError."""
        rows = tuple(rows) or self.rows
        widths = self.widths if "width" in rows else ()
        return replace(self, rows=rows, seeds=tuple(seeds) or self.seeds, widths=widths)

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

    Raises RecipeError or SettingsError, one line that names file and field.
    """
    if name.endswith(".toml"):
        path = Path(name)
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError(f"{path}: cannot be read ({error})") from None
        return _recipe(path.stem, _layered(text, name), name)
    return _recipe(name, _shipped(name), f"{name}.toml")


def _shipped(name: str) -> dict[str, Any]:
    if name not in shipped_recipes():
        raise RecipeError(
            f"no recipe {name!r}; there are {', '.join(shipped_recipes())}, or give a file *.toml"
        )
    entry = files("dshrink.study").joinpath("recipes", f"{name}.toml")
    return _layered(entry.read_text(encoding="utf-8"), f"{name}.toml")


def _layered(text: str, where: str) -> dict[str, Any]:
    """The file's fields over those of the recipe that it is like."""
    try:
        read = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{where}: not valid TOML: {error}") from None
    # TOML has dates, which no field of ours is: as texts they are refused like other texts.
    values: dict[str, Any] = json.loads(json.dumps(read, default=str))
    like = values.pop("like", None)
    if like is None:
        return values
    if not isinstance(like, str):
        raise RecipeError(f"{where}: field 'like' must be a text, got {like!r}")
    try:
        return _over(_shipped(like), values)
    except RecipeError as error:
        raise RecipeError(f"{where}: like: {error}") from None


def _over(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Both, section by section, ``own`` where both say something."""
    found = dict(base)
    for name, value in own.items():
        known = base.get(name)
        if isinstance(known, Mapping) and isinstance(value, Mapping):
            value = _over(known, value)
        found[name] = value
    return found


def _recipe(name: str, values: Mapping[str, Any], where: str) -> Recipe:
    source = JsonObject.of(values, where, RecipeError)
    source.check_fields(_FIELDS)
    plain = _plain_fields(source)
    sections = _training_sections(source)
    if (table := source.data.get("table")) is not None:
        plain |= _table_fields(JsonObject.of(table, f"{where}: [table]", RecipeError))
    if (images := source.data.get("images")) is not None:
        plain["images"] = _image_counts(JsonObject.of(images, f"{where}: [images]", RecipeError))
    try:
        return Recipe(name=name, **plain, **sections)
    except (RecipeError, PlanError) as error:
        raise RecipeError(f"{where}: {error}") from None


def _plain_fields(source: JsonObject) -> dict[str, Any]:
    found: dict[str, Any] = {"title": source.text("title"), "model": source.text("model")}
    for name in ("resolution", "random_draws"):
        if name in source.data:
            found[name] = source.integer(name)
    for name in ("seeds", "keep"):
        if name in source.data:
            found[name] = source.integers(name)
    readers: dict[str, Callable[[str], Any]] = {
        **dict.fromkeys(("rows", "masks", "remarks"), source.texts),
        **dict.fromkeys(("budgets_ms", "widths"), lambda name: _numbers(source, name)),
        "weights": source.text,
        "free_activation": source.boolean,
    }
    for name, read in readers.items():
        if name in source.data:
            found[name] = read(name)
    return found


def _numbers(source: JsonObject, name: str) -> tuple[float, ...]:
    values = source.items(name)
    if not all(isinstance(v, int | float) and not isinstance(v, bool) and v > 0 for v in values):
        source.refuse(name, "a list of numbers above 0")
    return tuple(float(value) for value in values)


def _training_sections(source: JsonObject) -> dict[str, Any]:
    """The settings of each stage; all are those of the fine-tuning where they say nothing else."""
    where = source.where
    finetune = Training.from_mapping(source.mapping("finetune").data, f"{where}: [finetune]")
    found: dict[str, Any] = {"finetune": finetune}
    search = dict(source.mapping("search").data)
    for name in ("decay", "limit"):
        if name in search:
            found[name] = source.mapping("search").number(name)
            del search[name]
    sections = {"search": search, "distilled": source.data.get("distilled", {})}
    if "pretrain" in source.data:
        sections["pretrain"] = source.data["pretrain"]
    for name, section in sections.items():
        values = JsonObject.of(section, f"{where}: [{name}]", RecipeError).data
        found[name] = Training.from_mapping(values, f"{where}: [{name}]", finetune)
    return found


def _table_fields(source: JsonObject) -> dict[str, Any]:
    source.check_fields(("dense", "hold_out"))
    found: dict[str, Any] = {}
    if "dense" in source.data:
        found["dense"] = source.boolean("dense")
    if "hold_out" in source.data:
        found["hold_out"] = source.integer("hold_out")
    return found


def _image_counts(source: JsonObject) -> ImageCounts:
    names = ("training", "validation", "classes")
    source.check_fields(names)
    counts = {name: source.integer(name) for name in names}
    if min(counts.values()) < 1:
        raise RecipeError(f"{source.where}: {', '.join(names)} count from 1")
    return ImageCounts(**counts)
