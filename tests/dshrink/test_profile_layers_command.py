"""``dshrink profile --layers`` and ``--grid``, and what tables of layers answer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from layer_tables import table_of
from synthetic_tables import synthetic_table

import dshrink as api
from latency_tables.io import save_table
from latency_tables.layers.io import load_layer_table, save_layer_table
from latency_tables.opspec import OpSpec
from latency_tables.schema import Conditions
from profiler.fake_device import RUNTIME, RUNTIME_VERSION, FakeConnection, write_spec
from profiler.scheduling.serial import Scheduler, SerialScheduler

CONDITIONS = Conditions(
    device="fake",
    runtime=RUNTIME,
    runtime_version=RUNTIME_VERSION,
    power_mode="performance",
    clock="thread_cpu",
)
GRID = "cin=16,32,48,64 cout=16,32,64 k=3 hw=28,14"


def latency_ms(spec: OpSpec) -> float:
    return 0.01 + 1e-7 * spec.macs


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device whose latencies are a rule."""

    @contextmanager
    def measuring_on(target, notice) -> Iterator[tuple[Scheduler, Conditions]]:
        yield SerialScheduler(FakeConnection(latency_ms=latency_ms, noise=0.01)), CONDITIONS

    monkeypatch.setattr("dshrink.operations.profile_layers.measuring_on", measuring_on)
    monkeypatch.setattr("dshrink.operations.profile_layers.build_onnx", write_spec)


def test_a_list_is_measured_shown_checked_and_asked(tmp_path: Path, scripted, dshrink) -> None:
    file = tmp_path / "layers.csv"
    file.write_text("name,cin,cout,k,hw\nfirst,3,16,3,32\nagain,3,16,3,32\nlast,16,16,1,16\n")
    folder = tmp_path / "table"
    ran = dshrink("profile", "--layers", file, "--out", folder, "--context", "pair")
    assert ran.status == 0, ran.err
    assert "2 layers (1 conv 3x3, 1 conv 1x1), 1 more is equal to one of them" in ran.err
    assert "jobs in the first round, about " in ran.err
    assert "2 of 2 layers known within 2 %" in ran.out
    table = load_layer_table(folder)
    assert [row.names for row in table.rows] == [("first", "again"), ("last",)]
    assert all(row.beside_ms is not None for row in table.rows)
    shown = dshrink("table", "show", folder).out
    assert "first, again" in shown
    assert "conv 3x3 3->16 at 32x32" in shown
    assert dshrink("table", "check", folder).status == 0
    (found,) = dshrink(
        "table", "predict", folder, "--layer", "cin=16 cout=16 hw=16", "--json"
    ).data["predictions"]
    assert found["latency_ms"] == table.rows[1].latency_ms
    assert found["held_out"] is None


def test_a_layer_between_is_predicted_with_its_held_out_error(
    tmp_path: Path, scripted, dshrink
) -> None:
    assert dshrink("profile", "--grid", GRID, "--out", tmp_path, "--json").status == 0
    ran = dshrink("table", "predict", tmp_path, "--layer", "cin=32 cout=48 k=3 hw=28")
    assert ran.status == 0, ran.err
    assert "conv 3x3 32->48 at 28x28: 1.1" in ran.out  # 1.094 ms and the samples' noise
    assert "24 measured layers of its sort" in ran.out
    assert "% lay in their interval" in ran.out
    refused = dshrink("table", "predict", tmp_path, "--layer", "cin=32 cout=48 k=3 hw=56")
    assert refused.status == 2
    assert "outside of the measured" in refused.err


def test_what_stays_unsure_is_said_and_fails_the_check(tmp_path: Path, scripted, dshrink) -> None:
    ran = dshrink(
        *("profile", "--grid", "cin=16 cout=16,32,64 hw=8", "--out", tmp_path),
        *("--target-error", "0.0001"),
    )
    assert ran.status == 0
    assert "0 of 3 layers known within 0.0001 %" in ran.out
    assert "3 of 3 layers are noisy: " in ran.out
    checked = dshrink("table", "check", tmp_path, "--json")
    assert checked.status == 1
    assert checked.data["within_target"] == 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "give a MODEL, or layers with --layers FILE.csv or --grid TEXT"),
        (["resnet18", "--grid", GRID], "leave MODEL out"),
        (["resnet18", "--context", "pair"], "--context is for --layers and --grid"),
        (["--grid", GRID, "--resolution", "32"], "--resolution is for a network"),
        (["--grid", GRID, "--model-arg", "a=1"], "--model-arg is for a network"),
        (["--grid", GRID, "--hold-out", "9"], "--hold-out is for a network"),
        (["--grid", GRID, "--layers", "x.csv"], "give either --layers FILE or --grid TEXT"),
        (["--layers", "missing.csv"], "missing.csv: no such file"),
        (["--grid", "cin=3 hw=4"], "out_channels (cout) is missing"),
        (["--grid", GRID, "--context", "three"], "unknown --context 'three'"),
        (["--grid", GRID, "--target-error", "0"], "must be between 0 and 100 %"),
    ],
)
def test_what_does_not_go_together_is_refused_in_one_line(
    words: list[str], says: str, tmp_path: Path, scripted, dshrink
) -> None:
    ran = dshrink("profile", *words, "--out", tmp_path / "table")
    assert ran.status == 2
    assert says in ran.err
    assert not (tmp_path / "table" / "layers.csv").exists()


def test_each_kind_of_table_says_which_option_asks_it(tmp_path: Path, scripted, dshrink) -> None:
    grid = "cin=16 cout=16,32,64 hw=8"
    assert dshrink("profile", "--grid", grid, "--out", tmp_path).status == 0
    for words, says in (
        ((), "--layer TEXT for one of layers"),
        (("--keep", "11"), "holds a table of layers, and a network's is needed"),
        (("--keep", "11", "--layer", "cin=16"), "--layer for one of layers"),
    ):
        ran = dshrink("table", "predict", tmp_path, *words)
        assert ran.status == 2
        assert says in ran.err


def test_the_same_command_again_measures_nothing(tmp_path: Path, scripted, dshrink) -> None:
    words = ("profile", "--grid", "cin=16 cout=16,32,64 hw=8", "--out", tmp_path, "--json")
    first = dshrink(*words)
    again = dshrink(*words)
    assert "0 measurements made" in again.err
    assert json.loads(again.out)["rows"] == json.loads(first.out)["rows"]


def test_tables_of_layers_are_compared_and_a_limit_is_kept(tmp_path: Path, dshrink) -> None:
    def rule(layer):
        return 0.01 + 1e-7 * layer.spec.macs

    save_layer_table(table_of(GRID, rule), tmp_path / "a")
    save_layer_table(table_of(GRID, lambda layer: 1.1 * rule(layer)), tmp_path / "b")
    ran = dshrink("table", "compare", tmp_path / "a", tmp_path / "b")
    assert ran.status == 0, ran.err
    assert "conv 3x3 16->16 at 28x28" in ran.out and "24 slower" in ran.out
    last = ran.out.splitlines()[-1]
    assert last.startswith("geometric mean: B / A 1.100 (95 %: 1.09")
    assert last.endswith("24 layers measured in both): B is slower than A")
    words = ("table", "compare", tmp_path / "a", tmp_path / "b", "--fail-above")
    ran = dshrink(*words, "5%")
    assert ran.status == 1 and "B is 10.0 % slower than A, above the limit of 5 %" in ran.err
    assert dshrink(*words, "12%", "--json").data["whole"]["layers"] == 24
    save_table(synthetic_table([1.0], [0.5]), tmp_path / "network")
    ran = dshrink("table", "compare", tmp_path / "a", tmp_path / "network")
    assert ran.status == 2 and "A is a table of layers and B one of a network" in ran.err


def test_layers_and_tables_in_hand_do_as_well_as_texts_and_paths(tmp_path: Path, scripted) -> None:
    layers = api.parse_grid("cin=16:64:16 cout=16,32,64 k=3 hw=14,28").layers
    found = api.measure_layers([*layers, layers[0]], tmp_path / "hand", time_limit=1)
    assert [row.layer for row in found.table.rows] == [*layers]
    text = "cin=48 cout=32 k=3 hw=21"
    by_path = api.predict_layer(tmp_path / "hand", text)
    assert by_path == api.predict_layer(found.table, api.parse_layer(text))
    assert api.export_table(found.table, "halp") == api.export_table(tmp_path / "hand", "halp")
    with pytest.raises(api.DshrinkError, match="no layer given"):
        api.measure_layers([], tmp_path / "none")
