"""Which options each kind of ``dshrink search`` needs, and which it takes.

One command searches in several ways that share some options; an option that a way has no use for
is refused, not ignored.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import typer

from dshrink.errors import DshrinkError


@dataclass(frozen=True, slots=True)
class _Kind:
    """A kind of search: the parameters that it needs, and the others that it takes."""

    name: str
    needs: tuple[str, ...]
    takes: tuple[str, ...]


_TABLES = ("padding", "allow_unfit", "out_file")
_DP = ("budget_ms", "alpha", "frontier")
_BOUNDS = ("max_kernel", "max_peak_mib", "max_macs", "max_parameters", "keep_block")
GREEDY = _Kind("--method greedy", ("model", "table"), ("budget_ms", "keep", "seed", *_TABLES))
RANDOM = replace(GREEDY, name="--method random")
DP = _Kind(
    "--method dp (without --time-table)",
    ("importance", "model", "table"),
    (*_DP, "budget_share", "one_plan", "weight", *_BOUNDS, *_TABLES),
)
DP_FILES = _Kind(
    "--method dp with --time-table", ("importance", "time_table"), (*_DP, "compat", "prec")
)
_TRAINING = (
    *("epochs", "batch", "accumulate", "learning_rate", "warmup_epochs", "clip", "precision"),
    *("loaders", "unreadable", "checkpoint_steps", "seed"),
)
MASK = _Kind(
    "--method mask",
    ("model", "data", "out_file"),
    (
        *("table", "budget_ms", "keep", "weights", "resolution", "recipe", "decay", "mask_limit"),
        *_TRAINING,
        "allow_unfit",
    ),
)
_KINDS = {"greedy": GREEDY, "random": RANDOM, "dp": DP, "mask": MASK}
#: What every kind takes.
_EVERYWHERE = ("method", "json", "help")


def check_options(context: typer.Context, method: str) -> None:
    """Raise unless the options given are those of one kind of search, and suffice for it."""
    if method not in _KINDS:
        raise DshrinkError(f"--method {method}: known are {', '.join(_KINDS)}")
    names = {
        parameter.name or "": "MODEL" if parameter.name == "model" else parameter.opts[0]
        for parameter in context.command.params
    }
    given = [name for name in names if _is_given(context, name)]
    kind = DP_FILES if method == "dp" and "time_table" in given else _KINDS[method]
    if missing := [names[name] for name in kind.needs if name not in given]:
        raise DshrinkError(f"{kind.name} needs {' and '.join(missing)}")
    known = (*kind.needs, *kind.takes)
    if refused := [names[name] for name in given if name not in (*known, *_EVERYWHERE)]:
        raise DshrinkError(
            f"{kind.name} takes no {', '.join(refused)}; it takes "
            f"{', '.join(names[name] for name in known)}"
        )


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"
