"""Importances of refitted networks: what a candidate is, and what a journal knows of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from importance_runs import begin, evaluations
from pictures import write_pictures
from refit_networks import MOBILE, SIZE, mobile
from safetensors.torch import save_file

from dshrink.errors import DshrinkError
from dshrink.importance.evaluator import Evaluator
from dshrink.importance.journal import journal_path
from dshrink.importance.run import ImportanceRun
from dshrink.importance.settings import Candidate, EvaluationError, ImportanceSettings, Level
from dshrink.network.mask_changes import rewriting
from dshrink.network.references import ModelChoice
from dshrink.refit.network_refit import refit_network

BASE = "1" * 9
MERGED = "01" + BASE[2:]


@pytest.fixture(scope="module")
def refit_settings(settings: ImportanceSettings) -> ImportanceSettings:
    return replace(settings, level=Level.parse("refit:16"))


@pytest.fixture(scope="module")
def evaluator(refit_settings: ImportanceSettings) -> Evaluator:
    return Evaluator(refit_settings)


def test_levels_of_a_refit_count_images() -> None:
    assert str(Level.parse("refit")) == "refit:128"
    assert Level.parse("refit:20") == Level("refit", 20)
    assert [Level("refit", n).batches(18, 8) for n in (1, 8, 16, 17, 99)] == [1, 1, 2, 3, 13]
    with pytest.raises(EvaluationError, match="unknown level 'refit:0'"):
        Level.parse("refit:0")


def test_a_candidate_that_changes_nothing_is_the_original(evaluator: Evaluator) -> None:
    original = evaluator.evaluate(Candidate(BASE, tuned=False))
    found = evaluator.evaluate(Candidate(BASE))
    assert found.reason == ""
    assert found.scores == pytest.approx(original.scores, rel=1e-6)


def test_a_candidate_is_scored_as_it_was_refitted(evaluator: Evaluator) -> None:
    network, calibration = evaluator.network, evaluator._calibration
    assert (calibration.fit.batches.count, calibration.held_out.batches.count) == (13, 3)
    changes = rewriting(network, MERGED, segments="spans")
    module = refit_network(
        *(network, changes, list(calibration.fit), list(calibration.held_out)),
        padding="repad",
        merged_only=True,
    ).module
    normalise = evaluator._preprocessing.normalise
    with torch.no_grad():
        pairs = [(module(normalise(x)), labels) for x, labels in evaluator.validation]
    outputs, labels = (torch.cat(part) for part in zip(*pairs, strict=True))
    found = evaluator.evaluate(Candidate(MERGED))
    loss = torch.nn.functional.cross_entropy(outputs, labels).item()
    assert found.val_loss == pytest.approx(loss, rel=1e-4)
    right = 100 * (outputs.argmax(dim=1) == labels).float().mean().item()
    assert found.val_accuracy == pytest.approx(right)


def test_a_refit_is_closer_to_the_original_than_recalibration(
    evaluator: Evaluator, settings: ImportanceSettings
) -> None:
    original = evaluator.evaluate(Candidate(BASE, tuned=False))
    other = Evaluator(settings).evaluate(Candidate(MERGED))
    found = evaluator.evaluate(Candidate(MERGED))
    assert None not in (found.val_loss, other.val_loss, original.val_loss)
    refitted, recalibrated = (abs(one.val_loss - original.val_loss) for one in (found, other))
    assert refitted < recalibrated


def test_a_score_depends_on_neither_order_nor_process(
    refit_settings: ImportanceSettings, evaluator: Evaluator
) -> None:
    wanted = evaluator.evaluate(Candidate(MERGED)).scores
    again = Evaluator(refit_settings)
    before = {name: value.clone() for name, value in again.network.module.state_dict().items()}
    again.evaluate(Candidate(BASE[:-1] + "|"))
    assert again.evaluate(Candidate(MERGED)).scores == wanted
    after = again.network.module.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_what_cannot_merge_is_a_reason(evaluator: Evaluator) -> None:
    assert "which cannot be" in evaluator.evaluate(Candidate("101111111")).reason


def test_single_layers_are_not_drawn_anew(settings: ImportanceSettings) -> None:
    with pytest.raises(EvaluationError, match="--keep-single-layers"):
        replace(settings, level=Level.parse("refit"), reinitialise=True)


@pytest.fixture
def small(tmp_path: Path) -> ImportanceSettings:
    """Of a network whose widest spans are fitted in a blink."""
    weights = tmp_path / "mobile.safetensors"
    save_file(mobile(classes=3).state_dict(), weights)
    choice = ModelChoice(
        model=MOBILE, model_args=("classes=3",), resolution=(SIZE, SIZE), weights=str(weights)
    )
    data = str(write_pictures(tmp_path / "data", size=SIZE))
    return ImportanceSettings(choice=choice, data=data, level=Level.parse("refit:10"), batch=8)


def test_a_run_is_resumed_and_its_journal_says_what_it_is_of(
    small: ImportanceSettings, tmp_path: Path
) -> None:
    whole, resumed = tmp_path / "whole.csv", tmp_path / "resumed.csv"
    told = ImportanceRun(settings=small, out=whole).run()
    about = json.loads(whole.with_suffix(".json").read_text())
    assert (about["level"], about["missing"]) == ("refit:10", [])
    assert about["reinitialised_single_layers"] is False
    lines = evaluations(journal_path(whole, None))
    assert len(lines) == told.evaluated and all(line["reason"] == "" for line in lines)
    begin(resumed, whole, 5)
    again = ImportanceRun(settings=small, out=resumed).run()
    assert (again.evaluated, again.reused) == (told.evaluated - 5, 5)
    assert resumed.read_bytes() == whole.read_bytes()
    other = replace(small, level=Level.parse("refit:12"))
    with pytest.raises(DshrinkError, match="level was refit:10, now refit:12"):
        ImportanceRun(settings=other, out=resumed).run()
