"""The options that several kinds of ``dshrink search`` share, and the groups that help shows."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from dshrink.cli.options import SEARCH

#: Options of the groups of ``--help``; the rest is "Options".
search_option = partial(typer.Option, rich_help_panel=SEARCH)
bound_option = partial(typer.Option, rich_help_panel="Bounds")
devices_option = partial(typer.Option, rich_help_panel="Several devices")

BudgetMs = Annotated[float | None, search_option(help="latency that the plan must meet")]
Keep = Annotated[int | None, search_option(help="number of blocks that stay unmerged")]
AllowUnfit = Annotated[
    bool, search_option("--allow-unfit", help="use a table that is not fit for search")
]
Importance = Annotated[
    Path, typer.Option(help="CSV of `dshrink importance`, or a published one: a line a key")
]
Alpha = Annotated[
    float | None,
    search_option(
        help="raw importances less alpha times the mean of single layers [1.6 if not given]"
    ),
]
FrontierFile = Annotated[
    Path | None, typer.Option("--frontier", help="CSV to write: every budget's best plan")
]
PlanFile = Annotated[Path | None, typer.Option("--out", help="plan to write")]
