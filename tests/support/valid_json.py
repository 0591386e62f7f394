"""What commands print as JSON, checked against the schema that it names."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

from dshrink.cli import console
from dshrink.schemas import SCHEMAS, load_schema


@cache
def validator(name: str) -> Draft202012Validator:
    return Draft202012Validator(load_schema(name))


def check_json(document: Mapping[str, Any]) -> None:
    """Fails unless the document is valid by the schema whose name it has."""
    by_head = {schema.head["schema"]: name for name, schema in SCHEMAS.items()}
    name = by_head[document["schema"]]
    wrong = best_match(validator(name).iter_errors(document))
    assert wrong is None, f"{name}: {wrong.json_path}: {wrong.message}"


@contextmanager
def all_json_checked() -> Iterator[None]:
    """Within it every command of this process that prints JSON has it checked."""
    real: Callable[[Any], dict[str, Any]] = console.json_document

    def checked(payload: Any) -> dict[str, Any]:
        document = real(payload)
        check_json(json.loads(json.dumps(document, allow_nan=False)))
        return document

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(console, "json_document", checked)
        yield
