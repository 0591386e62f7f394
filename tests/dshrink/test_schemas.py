"""The JSON of every command: its schema is current, complete and stable, and outputs fit it."""

from __future__ import annotations

import copy
import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import schema_files
from command_list import command_lines
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError
from ran_command import Ran
from schema_files import LIKE, Derivation, broken, derived, descriptions, places, stored
from selftest_results import RESULT as SELFTEST
from synthetic_tables import (
    CONDITIONS,
    synthetic_row,
    synthetic_span_table,
    synthetic_table,
    without_networks,
)
from valid_json import check_json

from dshrink.cli.console import json_document, print_json
from dshrink.cli.payloads.layers import WrittenLayers
from dshrink.cli.payloads.networks import (
    BenchData,
    FrontPointData,
    ImportanceData,
    MissingImportance,
    StudyData,
)
from dshrink.cli.payloads.tables import TableData, WrittenTable
from dshrink.errors import DshrinkError
from dshrink.merge.activations import ChangedActivations
from dshrink.merge.agreement import Agreement
from dshrink.operations.demo_results import DemoAgreement, DemoNetwork, DemoResult
from dshrink.operations.expand import ExpandResult
from dshrink.operations.finetune import FinetuneResult
from dshrink.operations.merge import MergeResult
from dshrink.operations.refit import RefitResult
from dshrink.refit.agreement import Closeness
from dshrink.refit.fitting import UnitFit
from dshrink.results import BenchmarkResult, save_results
from dshrink.schemas import SCHEMAS, find_schema, load_schema, schema_of
from dshrink.search.importance import ImportanceKey
from dshrink.search.plan import SCHEMA, SCHEMA_VERSION, Plan, parse_plan
from latency_tables.io import save_table
from latency_tables.layers.io import save_layer_table
from latency_tables.layers.layer import Layer
from latency_tables.layers.layer_table import LayerRow, LayerTable
from latency_tables.measured import LATENCIES, SPREADS

WRITE = "if that is intended, write the files again by `python tests/support/schema_files.py`"

# The schemas themselves


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_shipped_schema_is_what_the_command_prints(name: str) -> None:
    now, shipped = derived()[name], stored(name)
    assert shipped is not None, f"{name} has no file: {WRITE}"
    lost = broken(shipped, now)
    assert not lost or now["$id"] != shipped["$id"], (
        f"scripts of users read what {name}.json says, and now " + "; ".join(lost) + ". Keep the "
        "field, or raise the version in dshrink/schemas and name the change in CHANGELOG.md"
    )
    added = set(places(now)) - set(places(shipped))
    assert now == shipped, f"{name} has new fields {sorted(added)} or other words: {WRITE}"


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_schema_is_valid_by_its_own_standard(name: str) -> None:
    Draft202012Validator.check_schema(load_schema(name))


def test_every_field_says_what_it_means_and_no_text_is_left_over() -> None:
    lacking, used = [], set()
    for schema in SCHEMAS.values():
        derivation = Derivation()
        derivation.document(schema)
        lacking += derivation.without_text
        used |= derivation.used
    assert not lacking, "give them a line each in dshrink/schemas/descriptions.toml"
    used |= {("any", "schema"), ("any", "schema_version")}
    written = {(table, name) for table, texts in descriptions().items() for name in texts}
    assert {one for one in written - used if one[1] != LIKE} == set()


def test_every_number_of_a_unit_has_it_in_its_name_or_its_text() -> None:
    for name in SCHEMAS:
        for one in (load_schema(name), *load_schema(name)["$defs"].values()):
            for field, found in one["properties"].items():
                for ending, unit in (("_ms", " ms"), ("_percent", "per cent"), ("_mib", "MiB")):
                    if field.endswith(ending):
                        assert unit in found["description"], (name, field)


def test_a_command_with_json_has_a_schema() -> None:
    covered = {
        re.sub(r" (--|\().*|(?<=^paper) .*", "", command)
        for one in SCHEMAS.values()
        for command in one.commands
    }
    having = {
        " ".join(word for word in line.split()[1:] if word.islower() and not word.startswith("--"))
        for line in command_lines()
        if " --json" in line
    }
    assert having - covered == set(), "name what they print in dshrink/schemas"
    assert covered - having == set()


def test_no_two_payloads_and_no_two_names_are_the_same() -> None:
    assert len({one.payload for one in SCHEMAS.values()}) == len(SCHEMAS)
    assert len({one.head["schema"] for one in SCHEMAS.values()}) == len(SCHEMAS)
    plan = SCHEMAS["plan"].head
    assert (plan["schema"], plan["schema_version"]) == (SCHEMA, SCHEMA_VERSION)


def test_a_field_that_goes_or_changes_breaks_and_one_that_comes_does_not() -> None:
    old = derived()["bench"]
    result = old["$defs"]["BenchmarkResult"]["properties"]

    def changed(change: Callable[[dict[str, Any]], object]) -> list[str]:
        new = copy.deepcopy(old)
        change(new["$defs"]["BenchmarkResult"]["properties"])
        return broken(old, new)

    assert changed(lambda fields: fields.pop("latency_ms")) == [
        "$defs/BenchmarkResult/latency_ms has gone"
    ]
    (line,) = changed(lambda fields: fields["rank"].update(type="string"))
    assert line.startswith("$defs/BenchmarkResult/rank was {'type': ['integer', 'null']}, is")
    assert changed(lambda fields: fields.update(median_fps={"type": "number"})) == []
    assert changed(lambda fields: fields["rank"].update(description="place")) == []
    assert "latency_ms" in result


def test_schema_files_are_not_written_over_a_field_that_went(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    old = copy.deepcopy(derived()["run_list"])
    old["$defs"]["RecipeData"]["properties"]["author"] = {"type": "string"}
    (tmp_path / "run_list.json").write_text(json.dumps(old))
    monkeypatch.setattr(schema_files, "FOLDER", tmp_path)
    monkeypatch.setattr(schema_files, "SCHEMAS", {"run_list": SCHEMAS["run_list"]})
    with pytest.raises(SystemExit, match=r"run_list: raise its version(.|\n)*author has gone"):
        schema_files.main()
    monkeypatch.setitem(
        schema_files.derived(), "run_list", {**derived()["run_list"], "$id": "urn:dshrink:x:2"}
    )
    schema_files.main()
    assert "author" not in (tmp_path / "run_list.json").read_text()


# Outputs


def result(**changes: Any) -> BenchmarkResult:
    return BenchmarkResult(
        **{
            **dict(network="a.onnx", model="net", keep_mask="01", kept_blocks=1, padding="repad"),
            **dict(device="local", runtime="onnxruntime", precision="fp32", batch=1, threads=1),
            **dict(throughput_fps=100.0, throughput_low_fps=99.0, throughput_high_fps=101.0),
            **dict(latency_ms=10.0, low_ms=9.9, high_ms=10.1, method="searched", seed=0),
            **dict(accuracy_percent=70.0, validation_images=1000),
            **changes,
        }
    )


def merge_result() -> MergeResult:
    return MergeResult(
        **dict(file="a.onnx", certificate="a.json", certificate_line="equal", segments="blocks"),
        **dict(keep_mask="01", span_mask="", padding="repad", blocks_merged=1, spans_merged=0),
        **dict(merge_s=0.1, onnx_difference=1e-7, agreement=AGREEMENT, accuracy_percent=70.0),
        **dict(validation_images=10, unreadable={"a.png": "empty"}),
        activations=ChangedActivations(
            removed=2, added=1, trained="with", warning="lost", advice=("refit it",)
        ),
        cost={"macs": (10, 8), "parameters": (5, 6)},
    )


SPANS = synthetic_span_table({(0, 1): 2.0, (1, 2): 2.0, (0, 2): 1.0}, mask="11")
AGREEMENT = Agreement(
    images=10, unmerged_accuracy_percent=70.0, merged_accuracy_percent=70.0, differing=0
)


def refit_result() -> RefitResult:
    fit = UnitFit(
        **dict(label="blocks.1", merged=True, unknowns=9, ridge=None, start=None),
        **dict(explained=0.9, error=0.1),
    )
    shares = {"algebraic": 10.0, "refitted": 90.0}
    close = Closeness(
        **dict(images=4, agreement_percent=shares, in_top5_percent=shares, error=shares),
        accuracy_percent={},
    )
    return RefitResult(
        **dict(fits=[fit], norms_matched=True, images=8, held_out=close, validation=None),
        **dict(seconds=1.0, weights="w", plan="p", unreadable={}),
    )


def finetune_result() -> FinetuneResult:
    epoch = {"epoch": 1, "train_loss": 0.5, "val_loss": 0.4, "val_accuracy": 70.0, "fade": 1.0}
    return FinetuneResult(
        **dict(accuracy_percent=70.0, val_loss=0.4, processes=1, images_per_second=10.0),
        **dict(weights="w", history=[epoch], plan="plan.json", mask="01", unreadable={}),
    )


def expand_result() -> ExpandResult:
    return ExpandResult(
        **dict(weights="w", rule="vgg", expanded=["a"], left_alone={"b": "stem"}, ratio=6),
        **dict(accuracy_percent={"expanded": 70.0}, agreement=AGREEMENT, unreadable={}),
        relative_error_float64=1e-15,
        cost={"macs": (1, 2, 1), "parameters": (1, 2, 1)},
    )


PLAN = "mask:" + "0" + "1" * 16
MISSING = MissingImportance(key=ImportanceKey(0, 2, 1, 1), reason="out of memory")


def layer_table() -> LayerTable:
    layer = Layer(kind="conv", in_channels=8, out_channels=8, kernel=(3, 3), height=7)
    failed = LayerRow(
        **dict(layer=layer, names=("a",), digest=layer.spec.digest, verdict="failed"),
        **dict(reason="timeout", macs=1, parameters=1, peak_activations=1),
    )
    known = Layer(kind="conv", in_channels=4, out_channels=4, height=7)
    numbers = dict.fromkeys((*LATENCIES, *SPREADS), 1.0)
    measured = replace(
        failed,
        **dict(layer=known, digest=known.spec.digest, verdict="ok", reason="", samples=9),
        **dict(rounds=3, **numbers),
    )
    return LayerTable(rows=(failed, measured), conditions=CONDITIONS)


#: A record for each schema that takes training or measuring to make one; other tests do that.
def demo_result() -> DemoResult:
    held_out = refit_result().held_out
    agreement = DemoAgreement(merged=3, predicted_speedup=1.06, closeness=held_out)
    return DemoResult(
        model="m", resolution=(224, 224), weights="pretrained", table="t", fit_for_search=True,
        usable="Usable", networks=(DemoNetwork(result=result(), blocks=17),),
        agreement=agreement, notes=(), report="r.html", pictures="p",
    )  # fmt: skip


RECORDS: dict[str, Callable[[], object]] = {
    "table_written": lambda: WrittenTable.of(SPANS, folder="table"),
    "layers_written": lambda: WrittenLayers.of(layer_table(), folder="layers"),
    "plan": lambda: parse_plan(PLAN),
    "importance": lambda: ImportanceData(evaluated=1, reused=0, missing=(MISSING,)),
    "merge": merge_result,
    "refit": refit_result,
    "finetune": finetune_result,
    "expand": expand_result,
    "bench": lambda: BenchData(results=(result(), result(throughput_fps=None))),
    "demo": demo_result,
    "devices_selftest": lambda: SELFTEST,
    "run": lambda: StudyData(results=(result(),), files=("results.csv",)),
}
TABLE, OTHER, LAYERS, RESULTS = "table", "other", "layers", "results.csv"
NETWORK = ("test_resnet", "--resolution", 32)
IMPORTANCE, TIMES = "importance.csv", "times.csv"
#: Words of a command for each of the others, run in a folder with the files above.
COMMANDS: dict[str, tuple[object, ...]] = {
    "chain": ("chain", *NETWORK),
    "config": ("config", "profile"),
    "init": ("init",),
    "data_digits": ("data", "digits", "--out", "digits"),
    "devices_list": ("devices", "list"),
    "devices_show": ("devices", "show", "tx2"),
    "devices_probe": ("devices", "probe", "local"),
    "table_show": ("table", "show", TABLE),
    "table_check": ("table", "check", TABLE),
    "table_export": ("table", "export", LAYERS, "--format", "halp", "--out", "halp.json"),
    "layers_show": ("table", "show", LAYERS),
    "layers_check": ("table", "check", LAYERS),
    "layers_compare": ("table", "compare", LAYERS, LAYERS),
    "layers_predict": ("table", "predict", LAYERS, "--layer", "cin=4 cout=4 hw=7"),
    "table_predict": ("table", "predict", TABLE, "--keep", "01"),
    "table_compare": ("table", "compare", TABLE, OTHER),
    "search_dp": (
        *("search", "csv", "--time-table", TIMES, "--importance", IMPORTANCE),
        *("--budget-ms", 2),
    ),
    "run_dry_run": ("run", "digits_short", "--dry-run"),
    "run_list": ("run", "--list"),
    "paper_list": ("paper", "list"),
    "paper_kim": ("paper", "kim", "--out", "paper"),
    "plot": ("plot", "memory", TABLE, "--out", "memory.png"),
    "plot_front": ("plot", "front", RESULTS, "--out", "front.png"),
    "report": ("report", ".", "--out", "report.html"),
    "schema": ("schema",),
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    grey = np.zeros((8, 8), np.uint8)
    images = {"train/0/0.png": grey, "val/0/0.png": grey}
    monkeypatch.setattr("dshrink.train.digits._images", images.items)
    save_table(synthetic_table([1.0, 2.0], [0.5, 1.5]), Path(TABLE))
    save_table(synthetic_table([1.1, 2.0], [0.5, 1.5]), Path(OTHER))
    save_layer_table(layer_table(), Path(LAYERS))
    save_results([result(), result(network="b.onnx", seed=1)], Path(RESULTS))
    Path(TIMES).write_text("st,end,time\n0,1,2\n1,2,2\n0,2,1\n")
    Path(IMPORTANCE).write_text("st,end,st_act,end_act,imp\n0,1,1,1,1\n1,2,1,1,1\n0,2,1,1,0.5\n")
    return tmp_path


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_prints_what_its_schema_says(
    folder: Path, dshrink: Callable[..., Ran], name: str
) -> None:
    ran = dshrink(*COMMANDS[name], "--json")
    assert ran.status == (1 if name == "layers_check" else 0), ran.err  # its layer has failed
    assert find_schema(ran.data["schema"]).name == name
    check_json(ran.data)
    check_is_exact(ran.data)


@pytest.mark.parametrize("name", RECORDS)
def test_a_record_is_printed_as_its_schema_says(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    payload = RECORDS[name]()
    print_json(payload)
    printed = json.loads(capsys.readouterr().out)
    assert find_schema(printed["schema"]).name == name
    check_json(printed)
    check_is_exact(printed)


def check_is_exact(document: dict[str, Any]) -> None:
    """A field that is missing, and one that is not known, make it invalid."""
    check = Draft202012Validator(load_schema(document["schema"]))
    for field in document:
        with pytest.raises(ValidationError):
            check.validate({key: value for key, value in document.items() if key != field})
    with pytest.raises(ValidationError):
        check.validate({**document, "more": 1})


def test_every_schema_is_tried() -> None:
    elsewhere = {"paper", "paper_blocks", "paper_memory"}  # test_paper_command.py measures them
    assert {*COMMANDS, *RECORDS, *elsewhere} == set(SCHEMAS)


def test_a_number_that_json_lacks_is_a_defect_not_an_output(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(ValueError, match="JSON"):
        print_json(replace(finetune_result(), val_loss=math.nan))
    assert capsys.readouterr().out == ""


def test_a_record_without_a_schema_is_a_defect_that_says_what_to_do() -> None:
    with pytest.raises(LookupError, match="Agreement has no schema: name it in dshrink/schemas"):
        schema_of(AGREEMENT)


def test_a_plan_among_others_is_a_plan_file(dshrink: Callable[..., Ran], folder: Path) -> None:
    document = json_document(Plan(keep_mask="01", padding="repad", model="net"))
    (folder / "plan.json").write_text(json.dumps(document))
    assert parse_plan("plan.json").keep_mask == "01"


def test_a_failed_table_is_still_as_its_schema_says() -> None:
    table = without_networks(synthetic_table([1.0], [0.5]))
    rows = [
        synthetic_row(row.kind, row.block, latency_ms=None, reason="timeout") for row in table.rows
    ]
    failed = TableData.of(replace(table, rows=tuple(rows)))
    check_json(json.loads(json.dumps(json_document(failed))))


def test_points_of_a_front_have_numbers_for_numbers() -> None:
    hints = FrontPointData.__annotations__
    assert hints["batch"] == "int" and hints["seeds"] == "tuple[int, ...]"


# docs/json.md

PAGE = (Path(__file__).parents[2] / "docs" / "json.md").read_text("utf-8")


def test_the_example_of_the_page_is_an_output_that_its_snippet_validates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (example,) = re.findall(r"--json\n(\{.*?^\})", PAGE, re.DOTALL | re.MULTILINE)
    (snippet,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    check_json(json.loads(example))
    monkeypatch.chdir(tmp_path)
    Path("predicted.json").write_text(example)
    exec(snippet, {})
    Path("predicted.json").write_text(example.replace('"calibrated": true', '"calibrated": 1'))
    with pytest.raises(ValidationError):
        exec(snippet, {})


def test_the_page_names_schemas_that_there_are() -> None:
    named = re.findall(r"`((?:run|paper|table)_\w+)`", PAGE)
    assert len(named) > 5 and set(named) <= set(SCHEMAS)


# dshrink schema


def test_a_schema_is_found_by_command_name_and_output() -> None:
    for words in ("table show", "dshrink table show", "table_show", "dshrink.output.table_show"):
        assert find_schema(words).name == "table_show"
    assert find_schema("search greedy") is find_schema("dshrink.plan") is SCHEMAS["plan"]
    with pytest.raises(DshrinkError, match="no schema 'toast'; known are chain, "):
        find_schema("toast")


def test_the_command_prints_a_schema_to_validate_with(dshrink: Callable[..., Ran]) -> None:
    assert dshrink("schema", "table", "show").data == stored("table_show")
    listed = dshrink("schema").out
    assert all(name in listed for name in SCHEMAS)
    refused = dshrink("schema", "toast")
    assert refused.status == 2 and refused.err.count("\n") == 1
    assert "leave out --json" in dshrink("schema", "chain", "--json").err
