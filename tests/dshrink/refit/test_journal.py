"""What a refit keeps of its finished units, and what is said of a file that is another's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from dshrink.refit.fitting import UnitFit
from dshrink.refit.journal import NAME, RefitError, RefitJournal
from dshrink.refit.network_refit import Fitted

IDENTITY = {"mask": "0110", "images": 32, "resolution": [32, 32]}


def fitted(label: str, ridge: float | None = 0.1) -> Fitted:
    fit = UnitFit(
        label=label,
        merged=ridge is not None,
        unknowns=9,
        ridge=ridge,
        start=0.5,
        explained=None if ridge is None else 0.75,
        error=1 / 3,
    )
    torch.manual_seed(len(label))
    return fit, {"weight": torch.randn(3, 2), "bias": torch.randn(3)}


@pytest.fixture
def written(tmp_path: Path) -> Path:
    folder = tmp_path / "new" / "out"
    journal = RefitJournal.open(folder, IDENTITY)
    assert journal.fitted == {} and not folder.exists()
    # More units than there are digits: 1 and 10 begin alike.
    for number in range(12):
        journal.add(fitted("unit" * (number + 1), None if number == 3 else 0.1))
    return folder


def test_what_was_kept_comes_back_whole(written: Path) -> None:
    found = RefitJournal.open(written, {**IDENTITY, "resolution": (32, 32)})
    assert list(found.fitted) == ["unit" * (number + 1) for number in range(12)]
    for number, (label, (fit, tensors)) in enumerate(found.fitted.items()):
        wanted, own = fitted(label, None if number == 3 else 0.1)
        assert fit == wanted
        assert tensors.keys() == own.keys()
        assert all(torch.equal(tensors[name], value) for name, value in own.items())


def refusal(folder: Path, identity: dict[str, Any] | None = None) -> str:
    with pytest.raises(RefitError) as caught:
        RefitJournal.open(folder, identity or IDENTITY)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_that_of_another_refit_is_refused_with_what_differs(written: Path) -> None:
    said = refusal(written, {**IDENTITY, "mask": "0100"})
    assert said.startswith(f"{written / NAME} is of another refit (mask was 0110, now 0100): ")
    assert "choose another --out" in said
    assert "images was 32, now None" in refusal(written, {"mask": "0110", "resolution": [32, 32]})


def test_a_file_that_cannot_be_read_is_named(written: Path) -> None:
    file = written / NAME
    whole = file.read_bytes()
    file.write_bytes(whole[:-3])
    assert refusal(written).startswith(f"{file}: cannot be read (")
    file.write_bytes(b"")
    assert "delete it to start afresh" in refusal(written)


@pytest.mark.parametrize(
    ("about", "said"),
    [
        (None, "not valid JSON"),
        ({}, "not valid JSON"),
        ({"dshrink_refit": "[1]"}, "expected an object"),
        ({"dshrink_refit": "{}"}, "field 'identity' is missing"),
        (
            {"dshrink_refit": json.dumps({"identity": IDENTITY, "fits": [{"label": 3}]})},
            "must be a text",
        ),
    ],
)
def test_metadata_of_something_else_are_a_line(
    about: dict[str, str] | None, said: str, written: Path
) -> None:
    file = written / NAME
    save_file(load_file(file), file, about)
    found = refusal(written)
    assert found.startswith(f"{file}") and said in found
    assert found.endswith("delete it to start afresh")
