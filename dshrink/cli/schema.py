"""``dshrink schema``: the JSON Schemas of what commands print with ``--json``."""

from __future__ import annotations

import json as json_format
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from dshrink.cli import options
from dshrink.cli.console import print_json
from dshrink.cli.grids import Column, print_grid
from dshrink.errors import DshrinkError
from dshrink.schemas import SCHEMAS, load_schema

if TYPE_CHECKING:
    from dshrink.schemas import Schema


def command(
    name: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[COMMAND]", help="a command, such as table show, or a name of the list"
        ),
    ] = None,
    wide: options.Wide = False,
    json: options.Json = False,
) -> None:
    """Print the JSON Schema (draft 2020-12) of a command's --json; without COMMAND list them.

    Each output names its schema and version in its first two fields.
    """
    if name:
        if json:
            raise DshrinkError("a schema is JSON as it is: leave out --json")
        found = load_schema(" ".join(name))
        sys.stdout.write(json_format.dumps(found, indent=2) + "\n")
        return
    if json:
        from dshrink.cli.payloads.networks import SchemaData, SchemasData

        listed = (
            SchemaData(name=one.name, version=one.version, commands=one.commands, what=one.what)
            for one in SCHEMAS.values()
        )
        print_json(SchemasData(schemas=tuple(listed)))
        return
    columns: list[Column[Schema]] = [
        Column("schema", lambda one: one.name),
        Column("version", lambda one: str(one.version), is_number=True),
        Column("of", lambda one: ", ".join(one.commands), least=16, is_prose=True, rank=1),
        Column("what", lambda one: one.what, least=20, is_prose=True),
    ]
    print_grid(columns, list(SCHEMAS.values()), wide=wide)
