"""The options that several kinds of ``dshrink search`` share, each said once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dshrink.cli.options import SEARCH

BOUNDS = "Bounds"
DEVICES = "Several devices"

BudgetMs = Annotated[
    float | None,
    typer.Option(help="latency that the plan must meet", rich_help_panel=SEARCH),
]
Keep = Annotated[
    int | None,
    typer.Option(help="number of blocks that stay unmerged", rich_help_panel=SEARCH),
]
AllowUnfit = Annotated[
    bool,
    typer.Option(
        "--allow-unfit", help="use a table that is not fit for search", rich_help_panel=SEARCH
    ),
]
Importance = Annotated[
    Path, typer.Option(help="CSV of `dshrink importance`, or a published one: a line a key")
]
Alpha = Annotated[
    float | None,
    typer.Option(
        help="raw importances less alpha times the mean of single layers [1.6 if not given]",
        rich_help_panel=SEARCH,
    ),
]
FrontierFile = Annotated[
    Path | None, typer.Option("--frontier", help="CSV to write: every budget's best plan")
]
PlanFile = Annotated[Path | None, typer.Option("--out", help="plan to write")]
