"""Whole tables: resumed after a kill, in shards, always the same one."""

import csv
import json
import math
import shutil
import signal
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from importance_runs import KEYS, NETWORKS, begin, evaluations

from dshrink.errors import DshrinkError
from dshrink.importance.evaluation import Evaluation, Platform
from dshrink.importance.journal import ImportanceJournal, Shard, journal_path
from dshrink.importance.run import ImportanceRun
from dshrink.importance.settings import Candidate, EvaluationError, ImportanceSettings, Level
from dshrink.importance.table import ImportanceTable, save_importance
from dshrink.search.dp.files import load_importance, load_unevaluated
from dshrink.search.errors import ImportanceError
from dshrink.search.importance import ImportanceKey
from dshrink.train.unreadable import Unreadable
from dshrink.version import __version__

DIES_AFTER_THREE = """
import os, signal, sys, torch
from dshrink.importance.run import ImportanceRun
from dshrink.importance.settings import Level, ImportanceSettings
torch.set_num_threads(1)
from dshrink.network.references import ModelChoice
choice = ModelChoice(model="test_resnet", resolution=(32, 32), weights="random")
settings = ImportanceSettings(choice=choice, data=sys.argv[1], level=Level.parse("recalibrate:2"),
    batch=8)
def progress(done, total, label):
    if done == 13:
        os.kill(os.getpid(), signal.SIGKILL)
ImportanceRun(settings=settings, out=__import__("pathlib").Path(sys.argv[2])).run(progress)
"""


def test_rows_are_changes_against_the_original_by_key(finished: Path) -> None:
    with finished.open(newline="") as file:
        rows = list(csv.DictReader(file))
    about = json.loads(finished.with_suffix(".json").read_text())
    lines = evaluations(journal_path(finished, None))
    assert len(rows) == about["keys"] == KEYS
    assert len(lines) == NETWORKS
    assert [int(row["id"]) for row in rows] == list(range(KEYS))
    [original] = [line for line in lines if not line["tuned"]]
    assert original["val_accuracy"] == about["original"]["val_accuracy"]
    # (0, 2] merged: the first two of nine convolutions, an activation behind them.
    [merged] = [line for line in lines if line["mask"] == "011111111"]
    [row] = [r for r in rows if (r["st"], r["end"]) == ("0", "2")]
    assert (row["st_act"], row["end_act"]) == ("1", "1")
    for column, score in [
        ("train_loss", "train_loss"),
        ("train_acc", "train_accuracy"),
        ("val_loss", "val_loss"),
        ("val_acc", "val_accuracy"),
    ]:
        change = merged[score] - original[score]  # type: ignore[operator]
        assert float(row[column]) == pytest.approx(change, abs=1e-6)


def test_the_sidecar_says_how_the_table_was_made(
    finished: Path, settings: ImportanceSettings
) -> None:
    about = json.loads(finished.with_suffix(".json").read_text())
    chain = ImportanceRun(settings=settings, out=finished).evaluator.pieces.chain
    assert chain is not None and len(chain.convolutions) == 9
    assert about["schema"] == "dshrink.importance"
    wanted = {
        "model": "test_resnet",
        "resolution": 32,
        "level": "recalibrate:2",
        "seed": 0,
        "batch": 8,
        "classes": 3,
        "training_images": 16,
        "validation_images": 12,
        "missing": [],
        "convolutions": list(chain.convolutions),
    }
    assert {name: about[name] for name in wanted} == wanted
    assert {"data", "weights", "date", "versions", "dshrink_version"} <= about.keys()
    assert settings.data not in finished.with_suffix(".json").read_text()


def test_a_run_killed_in_the_middle_goes_on_to_the_same_table(
    finished: Path, settings: ImportanceSettings, tmp_path: Path
) -> None:
    out = tmp_path / "importance.csv"
    journal = begin(out, finished, 10)
    killed = subprocess.run(
        [sys.executable, "-c", DIES_AFTER_THREE, settings.data, str(out)], timeout=120
    )
    assert killed.returncode == -signal.SIGKILL
    before = journal.read_bytes()
    assert len(evaluations(journal)) == 13
    with journal.open("ab") as file:
        file.write(b'{"line": "evaluation", "mask": "0111')
    result = ImportanceRun(settings=settings, out=out).run()
    assert (result.evaluated, result.reused) == (NETWORKS - 13, 13)
    assert out.read_bytes() == finished.read_bytes()
    assert journal.read_bytes().startswith(before)
    candidates = [(line["mask"], line["tuned"]) for line in evaluations(journal)]
    assert len(candidates) == len(set(candidates)) == NETWORKS


def test_shards_make_the_table_of_one_run(
    finished: Path, settings: ImportanceSettings, tmp_path: Path
) -> None:
    out = tmp_path / "importance.csv"
    begin(out, finished, 12)
    for number in (1, 3):
        result = ImportanceRun(settings=settings, out=out, shard=Shard(number, 3)).run()
        assert (result.evaluated, result.reused, result.table) == (2, 4, None)
    assert not out.exists()
    again = ImportanceRun(settings=settings, out=out, shard=Shard(3, 3)).run()
    assert (again.evaluated, again.reused) == (0, 6)
    # The second shard never ran: whoever collects the others does its part.
    result = ImportanceRun(settings=settings, out=out).run()
    assert (result.evaluated, result.reused) == (2, 16)
    assert out.read_bytes() == finished.read_bytes()


def test_values_of_several_machines_are_distinguished(
    finished: Path, settings: ImportanceSettings, tmp_path: Path
) -> None:
    here = ImportanceRun(settings=settings, out=finished).evaluator.platform
    assert here == ("cpu", torch.__version__, __version__)
    count = {"device": "cpu", "torch": here.torch, "dshrink": here.dshrink, "networks": NETWORKS}
    assert json.loads(finished.with_suffix(".json").read_text())["evaluated_by"] == [count]
    out = tmp_path / "importance.csv"
    journal = begin(out, finished, NETWORKS)
    lines = journal.read_text().splitlines(keepends=True)
    lines[4] = lines[4].replace('"device":"cpu"', '"device":"NVIDIA H200"')
    journal.write_text("".join(lines))
    said: list[str] = []
    ImportanceRun(settings=settings, out=out).run(notice=said.append)
    assert json.loads(out.with_suffix(".json").read_text())["evaluated_by"] == [
        {**count, "networks": NETWORKS - 1},
        {**count, "networks": 1, "device": "NVIDIA H200"},
    ]
    [warning] = [line for line in said if line.startswith("warning: ")]
    assert f"cpu with torch {here.torch}" in warning and "; NVIDIA H200 with torch" in warning
    assert out.read_bytes() == finished.read_bytes()
    undisturbed: list[str] = []
    ImportanceRun(settings=settings, out=finished).run(notice=undisturbed.append)
    assert not any("warning" in line for line in undisturbed)


def test_an_evaluation_that_every_machine_died_of_names_none() -> None:
    found = Evaluation(candidate=Candidate("11"), seconds=1.0, reason="x")
    line = json.loads(json.dumps(found.to_json()))
    assert "device" not in line
    assert Evaluation.from_json(line, where="f", fix="fix") == found


def test_what_failed_is_missing_until_it_is_tried_again(
    finished: Path, settings: ImportanceSettings, tmp_path: Path
) -> None:
    out = tmp_path / "importance.csv"
    begin(out, finished, NETWORKS)
    measurement = ImportanceRun(settings=settings, out=out)
    failed = measurement.keys[(0, 2, 1, 1)]  # type: ignore[index]
    with closing(ImportanceJournal(out, None, measurement.evaluator.identity)) as opened:
        opened.add(Evaluation(candidate=failed, seconds=1.0, reason="out of memory"))
    result = measurement.run()
    assert result.evaluated == 0 and result.table is not None
    assert result.table.missing == {(0, 2, 1, 1): "out of memory"}
    lines = finished.read_text().splitlines(keepends=True)
    assert out.read_text() == "".join(line for line in lines if ",0,2,1,1," not in line)
    about = json.loads(out.with_suffix(".json").read_text())
    assert about["missing"] == [{"key": [0, 2, 1, 1], "reason": "out of memory"}]
    result = replace(measurement, retry_failed=True).run()
    assert result.evaluated == 1
    assert out.read_bytes() == finished.read_bytes()


def test_a_failure_does_not_hide_what_another_shard_knows(
    finished: Path, settings: ImportanceSettings, tmp_path: Path
) -> None:
    out = tmp_path / "importance.csv"
    measurement = ImportanceRun(settings=settings, out=out)
    failed = measurement.keys[(0, 2, 1, 1)]  # type: ignore[index]
    shutil.copy(journal_path(finished, None), journal_path(out, Shard(1, 2)))
    with closing(ImportanceJournal(out, None, measurement.evaluator.identity)) as opened:
        opened.add(Evaluation(candidate=failed, seconds=1.0, reason="out of memory"))
    result = measurement.run()
    assert result.evaluated == 0 and result.table is not None and not result.table.missing


def test_where_nothing_can_be_evaluated_the_run_says_why(
    settings: ImportanceSettings, tmp_path: Path
) -> None:
    diverging = replace(settings, level=Level.parse("steps:4"), learning_rate=1e6)
    with pytest.raises(EvaluationError, match=r"no network could be evaluated.*lower --lr"):
        ImportanceRun(settings=diverging, out=tmp_path / "a.csv", shard=Shard(9, 9)).run()
    assert not (tmp_path / "a.csv").exists()


def test_a_journal_of_another_measurement_is_refused(
    finished: Path, settings: ImportanceSettings
) -> None:
    before = journal_path(finished, None).read_bytes()
    other = replace(settings, choice=replace(settings.choice, seed=1), batch=4)
    with pytest.raises(
        EvaluationError, match=r"another measurement \(batch was 8, now 4; seed was 0, now 1"
    ):
        ImportanceRun(settings=other, out=finished).run()
    with pytest.raises(EvaluationError, match="another measurement"):
        ImportanceRun(settings=other, out=finished, shard=Shard(1, 2)).run()
    assert journal_path(finished, None).read_bytes() == before


def test_a_journal_in_use_is_waited_for_by_the_user(
    settings: ImportanceSettings, tmp_path: Path
) -> None:
    out = tmp_path / "a.csv"
    identity = ImportanceRun(settings=settings, out=out).evaluator.identity
    with closing(ImportanceJournal(out, Shard(1, 2), identity)):
        with pytest.raises(EvaluationError, match=r"a\.shard-1-of-2.*in use by another run"):
            ImportanceJournal(out, None, identity)
        ImportanceJournal(out, Shard(2, 2), identity).close()  # shards run side by side


STORED = Path(__file__).parent / "stored"
EVALUATION = {
    **{"line": "evaluation", "mask": "0111", "reinitialised": 0, "tuned": True, "seconds": 1.5},
    **{"train_loss": 1.0, "train_accuracy": 50.0, "val_loss": 1.0, "val_accuracy": 25.0},
    **{"device": "cpu", "torch": "2.0", "dshrink": "0.1"},
}


def changed(**fields: object) -> str:
    return json.dumps({**EVALUATION, **fields})


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("no json", "Expecting value"),
        ("[" * 100_000, "nested too deeply"),
        ("[1]", "expected an object"),
        ('{"line": "other"}', 'field \'line\' must be "evaluation", got "other"'),
        ('{"line": "evaluation"}', "field '[a-z]+' is missing"),
        (changed(mask=5), "field 'mask' must be a text, got 5"),
        (changed(seconds="abc"), "field 'seconds' must be a number, got \"abc\""),
        (changed(seconds=math.nan), "NaN is not a JSON number"),
        (changed(val_loss=None), "needs four finite scores, or a reason"),
        (changed(unreadable=True), "field 'unreadable' must be an integer, got true"),
        (changed(device=None), "field 'device' must be a text, got null"),
        (changed(gpu=1), "unknown field 'gpu'"),
    ],
)
def test_a_damaged_journal_says_where(line: str, message: str, tmp_path: Path) -> None:
    ImportanceJournal(tmp_path / "a.csv", None, {"seed": 0}).close()
    with journal_path(tmp_path / "a.csv", None).open("a") as file:
        file.write(line + "\n")
    with pytest.raises(EvaluationError, match=rf"a\.journal\.jsonl, line 2: .*{message}") as caught:
        ImportanceJournal(tmp_path / "a.csv", None, {"seed": 0})
    assert "\n" not in str(caught.value)


def test_a_journal_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    path = journal_path(tmp_path / "a.csv", None)
    path.write_text('{"line":"header","schema":"dshrink.importance.journal","schema_version":99}\n')
    with pytest.raises(EvaluationError, match="update dshrink"):
        ImportanceJournal(tmp_path / "a.csv", None, {})
    path.write_text('{"schema": "another"}\n')
    with pytest.raises(EvaluationError, match="no journal of importances"):
        ImportanceJournal(tmp_path / "a.csv", None, {})


def test_a_stored_journal_of_version_1_says_what_it_said(tmp_path: Path) -> None:
    table = tmp_path / "a.csv"
    shutil.copy(STORED / "importance_v1.journal.jsonl", journal_path(table, None))
    cpu = Platform("cpu", "2.9.0", "0.1.0")
    original = Evaluation(
        candidate=Candidate("0111", tuned=False),
        seconds=0.5,
        train_loss=1.25,
        train_accuracy=75.0,
        val_loss=1.5,
        val_accuracy=50.0,
        platform=cpu,
    )
    merged = Evaluation(
        candidate=Candidate("0111", reinitialised=1),
        seconds=0.75,
        train_loss=1.3,
        train_accuracy=70.0,
        val_loss=1.75,
        val_accuracy=48.5,
        unreadable=2,
        platform=cpu,
    )
    failed = Evaluation(candidate=Candidate("0011"), seconds=2.0, reason="diverged")
    identity = {"model": "test_resnet", "seed": 0}
    with closing(ImportanceJournal(table, None, identity)) as journal:
        assert list(journal.known.values()) == [original, merged, failed]
    evaluations = {ImportanceKey(0, 1, 1, 1): merged, ImportanceKey(0, 2, 1, 1): failed}
    found = ImportanceTable(evaluations=evaluations, original=original)
    save_importance(table, found, {**identity, "level": "recalibrate:2"})
    assert table.read_bytes() == (STORED / "importance_v1.csv").read_bytes()
    written, stored = (
        json.loads(path.read_text())
        for path in (table.with_suffix(".json"), STORED / "importance_v1.json")
    )
    assert written == stored


def test_a_stored_table_of_version_1_says_what_it_said() -> None:
    path = STORED / "importance_v1.csv"
    # Normalised by the mean of the single layers: -1.5 - 1.6 * -1.5.
    assert load_importance(path) == {(0, 1, 1, 1): pytest.approx(0.9)}
    assert load_unevaluated(path, "test_resnet") == {(0, 2, 1, 1)}


def test_a_table_of_a_newer_version_is_refused_with_advice(tmp_path: Path) -> None:
    text = (STORED / "importance_v1.json").read_text()
    (tmp_path / "a.json").write_text(text.replace('"schema_version": 1', '"schema_version": 2'))
    with pytest.raises(ImportanceError, match=r"a\.json: schema_version 2 .*: update dshrink"):
        load_unevaluated(tmp_path / "a.csv", "test_resnet")


@pytest.mark.parametrize("text", ["", "epochs", "steps:0", "recalibrate:", "steps:-1", "steps:1.5"])
def test_a_level_must_be_known(text: str) -> None:
    with pytest.raises(EvaluationError, match="give recalibrate"):
        Level.parse(text)


def test_a_level_knows_its_batches() -> None:
    assert Level.parse("recalibrate").batches(100, 8) == 12
    assert Level.parse("recalibrate:5").batches(100, 8) == 5
    assert Level.parse("steps:70").batches(100, 8) == 70
    assert Level.parse("epochs:2").batches(100, 8) == 24
    assert Level.parse("epochs:2").batches(5, 8) == 2


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "a/b", "-1/2", "1/"])
def test_a_shard_must_be_one_of_its_number(text: str) -> None:
    with pytest.raises(DshrinkError, match="K/N"):
        Shard.parse(text)
    assert Shard.parse("2/2") == (2, 2)


def test_images_that_were_left_out_are_told_once_the_networks_are_evaluated(
    finished: Path, settings: ImportanceSettings, tmp_path: Path
) -> None:
    tree = shutil.copytree(settings.data, tmp_path / "pictures")
    file = tree / "val/class_2/0.png"
    file.write_bytes(b"x" * file.stat().st_size)  # as large as before, so the journal's data
    out = tmp_path / "importance.csv"
    begin(out, finished, NETWORKS - 1)
    skipping = replace(settings, data=str(tree), unreadable=Unreadable.SKIP)
    said: list[str] = []
    ImportanceRun(settings=skipping, out=out).run(notice=said.append)
    assert f"1 image could not be read, and the run continued without: {file}" in said[-2]
    # The others were evaluated on all images.
    assert said[-1].startswith("warning: not all networks were evaluated on the same images")
    again: list[str] = []
    ImportanceRun(settings=skipping, out=out).run(notice=again.append)
    assert again[-2] == "images that could not be read where networks were evaluated: 1"


def test_an_original_that_failed_before_ends_the_run_at_once(
    finished: Path, settings: ImportanceSettings, tmp_path: Path
) -> None:
    out = tmp_path / "importance.csv"
    measurement = ImportanceRun(settings=settings, out=out)
    with closing(ImportanceJournal(out, None, measurement.evaluator.identity)) as opened:
        opened.add(Evaluation(candidate=measurement.original, seconds=1.0, reason="bad.png"))
    with pytest.raises(EvaluationError, match=r"original .* evaluated: bad.png; .*--retry-failed"):
        measurement.run()
    assert len(evaluations(journal_path(out, None))) == 1
