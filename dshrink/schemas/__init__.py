"""The JSON that commands print with ``--json``: a schema each, derived from the type of the output.

The schema files beside this module are written by ``tests/support/schema_files.py`` from the types
and from ``descriptions.toml``, and committed: they are what scripts of users rely on. A field that
is added changes a file; one that goes, or means something else, raises the version as well.
``payload`` is "module:Class", as in the runtimes' registry: looking up a schema imports nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from dshrink.errors import DshrinkError

#: Of the names that outputs carry; files have names of their own, such as dshrink.latency_table.
PREFIX = "dshrink.output."


class SchemaError(DshrinkError):
    """A name that no schema has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Schema:
    """What one or several ``commands`` print; ``version`` is raised when a field goes or changes.

    ``what`` says in one line what the object is. With ``is_file`` it is the content of a file that
    has its own name and version.
    """

    name: str
    payload: str
    commands: tuple[str, ...]
    what: str
    version: int = 1
    is_file: bool = False

    @property
    def head(self) -> dict[str, Any]:
        """The first two fields of such an object."""
        prefix = "dshrink." if self.is_file else PREFIX
        return {"schema": f"{prefix}{self.name}", "schema_version": self.version}


def _schema(
    name: str,
    payload: str,
    what: str,
    commands: tuple[str, ...] = (),
    *,
    version: int = 1,
    file_version: int = 0,
) -> Schema:
    """A schema of the command of its name, unless others are given.

    ``payload`` is in ``dshrink.cli.payloads``, unless its module is given in full.
    """
    payload = payload if "." in payload else f"dshrink.cli.payloads.{payload}"
    commands = commands or (name.replace("_", " "),)
    return Schema(
        name=name,
        payload=payload,
        commands=commands,
        what=what,
        version=file_version or version,
        is_file=file_version > 0,
    )


_PROFILES = ("profile", "table import")
_LAYERS = ("profile --layers", "profile --grid", "table import (layers)")
_PREDICTED_LAYERS = ("table predict --layer",)
_SEARCHES = ("search greedy", "search random", "search mask")
_PROGRAMS = ("search dp", "search csv")
_BLOCK_FIGURES = ("paper fig1", "paper fig4")
_PICTURES = (
    *("plot batches", "plot blocks", "plot frontier", "plot kept", "plot mask"),
    *("plot memory", "plot predicted", "plot throughput"),
)
_ALL = (
    _schema("chain", "networks:ChainData", "convolutions, blocks and spans of networks"),
    _schema("config", "configuration:ConfigData", "options and where their values come from"),
    _schema("init", "configuration:InitData", "the file of options that was written"),
    _schema("data_digits", "networks:DigitsData", "the folder of digits that was written"),
    _schema(
        "devices_list", "devices:DevicesData", "the devices of the catalog and of devices.toml"
    ),
    _schema("devices_show", "devices.inventory:Device", "the inventory entry of a device"),
    _schema("devices_probe", "devices:ProbeData", "what a device reports, and advice"),
    _schema(
        "devices_selftest",
        "dshrink.operations.selftest.result:SelfTest",
        "the checks of a device and what they found; also the file selftest.json",
    ),
    _schema("table_written", "tables:WrittenTable", "a latency table, and its folder", _PROFILES),
    _schema("table_show", "tables:TableData", "a latency table"),
    _schema("table_check", "tables:TableSummary", "a latency table without its rows"),
    _schema("table_export", "tables:ExportedTable", "a table in the format of another project"),
    _schema("layers_written", "layers:WrittenLayers", "a table of layers, and its folder", _LAYERS),
    _schema("layers_show", "layers:LayersData", "a table of layers", ("table show (layers)",)),
    _schema(
        "layers_check",
        "layers:LayersSummary",
        "a table of layers without its rows",
        ("table check (layers)",),
    ),
    _schema("layers_predict", "layers:LayerPredictions", "predicted layers", _PREDICTED_LAYERS),
    _schema(
        "layers_compare",
        "latency_tables.layers.compare:LayersComparison",
        "two tables of layers row by row",
        ("table compare (layers)",),
    ),
    _schema("table_predict", "latency_tables.predictor:Prediction", "a predicted latency"),
    _schema("table_compare", "latency_tables.compare:Comparison", "two tables row by row"),
    _schema("plan", "dshrink.search.plan:Plan", "a plan, as its file", _SEARCHES, file_version=2),
    _schema("search_dp", "networks:DpData", "what the dynamic program found", _PROGRAMS),
    _schema("importance", "networks:ImportanceData", "what was rated, and what has no value"),
    _schema("merge", "dshrink.operations.merge:MergeResult", "a merged network and its errors"),
    _schema("refit", "dshrink.operations.refit:RefitResult", "how convolutions were fitted"),
    _schema("finetune", "dshrink.operations.finetune:FinetuneResult", "a fine-tuned network"),
    _schema("expand", "dshrink.operations.expand:ExpandResult", "a network trained expanded"),
    _schema("bench", "networks:BenchData", "latency and throughput of networks"),
    _schema("demo", "dshrink.operations.demo_results:DemoResult", "what a demo has found"),
    _schema("run", "networks:StudyData", "results and files of a study"),
    _schema("run_dry_run", "networks:StudySteps", "the steps of a study", ("run --dry-run",)),
    _schema(
        "run_list", "networks:RecipesData", "the recipes that ship with dshrink", ("run --list",)
    ),
    _schema("paper", "paper:PaperData", "a table of networks beside what was published"),
    _schema("paper_blocks", "paper:PaperBlocks", "a figure of blocks", _BLOCK_FIGURES),
    _schema("paper_memory", "paper:PaperMemory", "the figure of memory", ("paper fig5",)),
    _schema("paper_kim", "paper:KimData", "Kim et al. beside DepthShrinker"),
    _schema("paper_list", "paper:ExperimentsData", "the experiments of `dshrink paper`"),
    _schema("report", "dshrink.operations.report:Report", "the page of a folder that was written"),
    _schema("plot", "networks:PlotData", "the files of a picture", _PICTURES),
    _schema("plot_front", "networks:FrontData", "the files of a picture of fronts, and its points"),
    _schema("schema", "networks:SchemasData", "the schemas that there are"),
)
SCHEMAS: Mapping[str, Schema] = {one.name: one for one in _ALL}

_BY_PAYLOAD = {schema.payload: schema for schema in SCHEMAS.values()}


def schema_of(payload: object) -> Schema:
    """The schema of what a command prints. Raises LookupError for a type that has none."""
    kind = type(payload)
    try:
        return _BY_PAYLOAD[f"{kind.__module__}:{kind.__qualname__}"]
    except KeyError:
        raise LookupError(
            f"{kind.__module__}:{kind.__qualname__} has no schema: name it in dshrink/schemas, and "
            "write the files again by `python tests/support/schema_files.py`"
        ) from None


def json_document(payload: object) -> dict[str, Any]:
    """A record that has a schema as JSON data: the schema's name and version, then its fields.

    Raises LookupError for another one.
    """
    from latency_tables.records import plain

    return {**schema_of(payload).head, **plain(payload)}


def find_schema(name: str) -> Schema:
    """The schema of a name ("table_show", or as outputs have it) or a command ("table show").

    Raises SchemaError.
    """
    words = " ".join(name.split()).removeprefix(PREFIX).removeprefix("dshrink.")
    words = words.removeprefix("dshrink ")
    by_command = {command: one for one in SCHEMAS.values() for command in one.commands}
    found = by_command.get(words) or SCHEMAS.get(words.replace(" ", "_").replace("-", "_"))
    if found is None:
        raise SchemaError(f"no schema {name!r}; known are {', '.join(SCHEMAS)}")
    return found


@cache
def load_schema(name: str) -> Mapping[str, Any]:
    """The JSON Schema (draft 2020-12) of that name. Raises SchemaError."""
    file = files(__package__).joinpath(f"{find_schema(name).name}.json")
    found: Mapping[str, Any] = json.loads(file.read_text("utf-8"))
    return found
