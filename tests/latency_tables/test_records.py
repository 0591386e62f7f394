"""Records from JSON: what is refused, and in which words."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import pytest

from latency_tables.errors import CalibrationError, LatencyTableError, TableFormatError
from latency_tables.records import convert_record, format_record, parse_record


class StoreError(ValueError):
    """What a caller of another package raises."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    name: str
    latency_ms: float
    kernel: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.latency_ms <= 0:
            raise CalibrationError(f"latency_ms must be above 0, got {self.latency_ms}")


@dataclass(frozen=True, kw_only=True)
class Whole:
    DERIVED: ClassVar[tuple[str, ...]] = ("total_ms",)

    model: str
    parts: tuple[Part, ...]
    by_name: Mapping[str, Part] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    mode: Literal["cold", "hot"] | None = None
    seed: int = 0
    known: bool = True
    notes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def total_ms(self) -> float:
        return sum(part.latency_ms for part in self.parts)


PART = {"name": "a", "latency_ms": 1.5, "kernel": None}
MINIMAL = Whole(model="net", parts=(Part(name="a", latency_ms=1.5),))
WHOLE = Whole(
    model="net",
    parts=(Part(name="a", latency_ms=1.5, kernel=(3, 3)), Part(name="b", latency_ms=0.1 + 0.2)),
    by_name={"one": Part(name="c", latency_ms=2)},
    counts={"x": 3},
    mode="cold",
    notes={"free": [1, None, {"deep": True}]},
)


def parse(text: str, error: type[ValueError] = TableFormatError) -> Whole:
    return parse_record(
        text, Whole, where="f.json", error=error, fix="write it again", schema="test.whole"
    )


def document(**changes: Any) -> str:
    return json.dumps(json.loads(format_record(MINIMAL, "test.whole")) | changes)


def test_a_record_survives_its_file() -> None:
    assert parse(format_record(WHOLE, "test.whole")) == WHOLE


def test_derived_properties_are_written_and_computed_again_when_read() -> None:
    data = json.loads(format_record(WHOLE))
    assert data["total_ms"] == WHOLE.total_ms
    data["total_ms"] = 99
    read = convert_record(data, Whole, where="f", error=TableFormatError, fix="x")
    assert read.total_ms == WHOLE.total_ms


def test_fields_with_a_default_may_be_missing_in_a_file_of_an_earlier_version_only() -> None:
    data = json.loads(document())
    del data["seed"], data["parts"][0]["kernel"]
    kind: dict[str, Any] = {"where": "f", "error": TableFormatError, "fix": "x"}
    read = parse_record(json.dumps(data), Whole, **kind, schema="test.whole", version=2)
    assert read == MINIMAL
    with pytest.raises(TableFormatError, match=r"^f: field 'seed' is missing: x$"):
        parse_record(json.dumps(data), Whole, **kind, schema="test.whole", version=1)
    data["seed"] = 0
    with pytest.raises(TableFormatError, match=r"^f: parts\[0\]: field 'kernel' is missing: x$"):
        parse_record(json.dumps(data), Whole, **kind, schema="test.whole", version=1)


def test_data_of_people_may_leave_out_what_has_a_default() -> None:
    data = {"name": "a", "latency_ms": 1.5}
    found = convert_record(data, Part, where="f", error=StoreError, fix="x")
    assert found == MINIMAL.parts[0]
    with pytest.raises(StoreError, match=r"^f: field 'kernel' is missing: x$"):
        parse_record(json.dumps(data), Part, where="f", error=StoreError, fix="x")


def test_an_integer_is_a_number() -> None:
    latency = parse(document(parts=[{**PART, "latency_ms": 2}])).parts[0].latency_ms
    assert isinstance(latency, float)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "f.json: line 1: not valid JSON (Expecting value): write it again"),
        ('{\n"a": 1,\n', "f.json: line 3: not valid JSON"),
        ("[]", "f.json: expected an object, got []: write it again"),
        ("[" * 100_000, "f.json: nested too deeply: write it again"),
        ('{"a": NaN}', "f.json: NaN is not a JSON number: write it again"),
        ('{"a": -Infinity}', "f.json: -Infinity is not a JSON number"),
        ('{"a": 1, "a": 2}', "f.json: field 'a' is given twice: write it again"),
        ('{"a": {"b": 1, "b": 2}}', "f.json: field 'b' is given twice"),
        ("{}", "f.json: field 'schema' is missing: write it again"),
        (document(schema="other"), "f.json: field 'schema' must be 'test.whole', got \"other\": "),
        (document(schema_version=True), "field 'schema_version' must be an integer from 1 to 1, "),
        (
            document(schema_version=0),
            "field 'schema_version' must be an integer from 1 to 1, got 0",
        ),
        (
            document(schema_version=2),
            "f.json: schema_version 2 is newer than 1, the newest that this dshrink reads: "
            "update dshrink",
        ),
    ],
)
def test_a_document_that_is_none_is_refused(text: str, message: str) -> None:
    with pytest.raises(TableFormatError) as caught:
        parse(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"modle": "net"},
            "f.json: unknown field 'modle': remove or correct it, or update ",
        ),
        ({"parts": [PART, {**PART, "size": 1}]}, "f.json: parts[1]: unknown field 'size': remove"),
        ({"by_name": {"one": {**PART, "size": 1}}}, "f.json: by_name: one: unknown field 'size'"),
        ({"model": 3}, "f.json: field 'model' must be a text, got 3: write it again"),
        ({"model": None}, "f.json: field 'model' must be a text, got null: write it again"),
        ({"seed": 1.0}, "f.json: field 'seed' must be an integer, got 1.0: write it again"),
        ({"seed": True}, "f.json: field 'seed' must be an integer, got true: write it again"),
        ({"known": 1}, "f.json: field 'known' must be true or false, got 1: write it again"),
        ({"parts": {}}, "f.json: field 'parts' must be a list, got {}: write it again"),
        ({"parts": {"x": 1}}, "f.json: field 'parts' must be a list, got {"),
        ({"by_name": [[]]}, "f.json: field 'by_name' must be an object, got [[]]: write it again"),
        ({"parts": [3]}, "f.json: field 'parts[0]' must be an object, got 3: write it again"),
        (
            {"parts": [{"name": "a", "kernel": None}]},
            "f.json: parts[0]: field 'latency_ms' is missing: write",
        ),
        (
            {"parts": [{**PART, "latency_ms": "1,5"}]},
            "f.json: parts[0]: field 'latency_ms' must be a number, got \"1,5\": write it again",
        ),
        (
            {"parts": [{**PART, "latency_ms": True}]},
            "f.json: parts[0]: field 'latency_ms' must be a number, got true",
        ),
        (
            {"parts": [{**PART, "latency_ms": 10**400}]},
            "f.json: parts[0]: field 'latency_ms' must be a number of up to 64 bits, got 1000",
        ),
        (
            {"parts": [{**PART, "name": "a\0"}]},
            "parts[0]: field 'name' must be a text that UTF-8 can hold, without null characters",
        ),
        ({"parts": [{**PART, "name": "\ud800"}]}, "field 'name' must be a text that UTF-8 can"),
        ({"counts": {"\ud800": 1}}, "must be an object whose names are plain texts, got"),
        (
            {"parts": [{**PART, "kernel": [3]}]},
            "f.json: parts[0]: field 'kernel' must be a list of length 2, got [3]: write it again",
        ),
        (
            {"parts": [{**PART, "kernel": 3}]},
            "f.json: parts[0]: field 'kernel' must be a list or null, got 3: write it again",
        ),
        (
            {"by_name": {"one": PART, "two": {**PART, "name": 2}, "three": PART}},
            "f.json: by_name: two: field 'name' must be a text, got 2: write it again",
        ),
        (
            {"by_name": {"one": PART, "two": {"name": "b", "kernel": None}}},
            "f.json: by_name: two: field 'latency_ms' is missing: write it again",
        ),
        ({"counts": {"x": 1, "y": 1.5}}, "f.json: counts: field 'y' must be an integer, got 1.5"),
        ({"mode": "warm"}, 'field \'mode\' must be "cold" or "hot" or null, got "warm": write'),
        (
            {"parts": [PART, {**PART, "latency_ms": -1}]},
            "f.json: parts[1]: latency_ms must be above 0, got -1.0: write it again",
        ),
    ],
)
def test_an_error_names_file_field_expectation_value_and_fix(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(LatencyTableError) as caught:
        parse(document(**changes))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_overflowing_number_is_refused_wherever_it_is() -> None:
    text = document(notes={"free": [1]}).replace("[1]", "[1e999]")
    with pytest.raises(TableFormatError, match=r"notes: field 'free\[0\]' must be a finite number"):
        parse(text)


def test_parsed_data_with_nan_are_refused_as_toml_knows_it() -> None:
    data = {"name": "a", "latency_ms": float("nan")}
    with pytest.raises(StoreError, match="f: field 'latency_ms' must be a finite number, got NaN"):
        convert_record(data, Part, where="f", error=StoreError, fix="x")


def test_what_a_record_refuses_keeps_its_class_within_the_package() -> None:
    bad = document(parts=[{**PART, "latency_ms": 0}])
    with pytest.raises(CalibrationError):
        parse(bad)
    with pytest.raises(StoreError):
        parse(bad, StoreError)


def test_what_the_outermost_record_refuses_is_named_by_the_file_alone() -> None:
    data = {"name": "a", "latency_ms": -1.5}
    with pytest.raises(StoreError, match=r"^f: latency_ms must be above 0, got -1\.5: x$"):
        convert_record(data, Part, where="f", error=StoreError, fix="x")


def test_an_integer_of_too_many_digits_is_refused() -> None:
    with pytest.raises(TableFormatError, match=r"f\.json: .*digits"):
        parse(document(seed=7).replace("7", "7" * 5000))
