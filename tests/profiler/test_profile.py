"""Whole profiles on a scripted device whose truth is known."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path

import pytest
from small_network import (
    compose,
    is_whole_network,
    jobs_by_round,
    latency_ms,
    layers,
    merged,
    network_pieces,
    original,
    request,
)

from latency_tables.io import load_table, save_table
from latency_tables.opspec import OpSpec
from latency_tables.predictor import predict
from profiler.duration import DurationEstimate
from profiler.errors import JournalError, SessionError
from profiler.fake_device import FakeConnection
from profiler.profile import Profile, profile
from profiler.profile_schedule import BATCH, LEAST_ROUNDS, PROFILES
from profiler.scheduling.serial import SerialScheduler
from profiler.session import Progress

CHECK = 8


def device(**script: object) -> FakeConnection:
    return FakeConnection(**{"latency_ms": latency_ms, "layers": layers} | script)  # type: ignore[arg-type]


def run(
    folder: Path,
    on: FakeConnection | None = None,
    progress: Progress | None = None,
    said: list[DurationEstimate] | None = None,
    **changes: object,
) -> Profile:
    return profile(
        request(folder, **changes),
        SerialScheduler(on or device()),
        on_start=(said if said is not None else []).append,
        progress=progress,
    )


def networks(jobs: Collection[str]) -> set[str]:
    return {name for name in jobs if name.startswith("network ")}


def candidates(rounds: list[set[str]]) -> set[str]:
    """The networks that joined."""
    return set.union(*map(networks, rounds[1:])) - networks(rounds[0])


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Profile]:
    """A profile that nothing disturbs, and its folder."""
    folder = tmp_path_factory.mktemp("plain")
    return folder, run(folder)


def test_one_call_plans_measures_and_builds_a_table_that_can_be_saved(tmp_path: Path) -> None:
    said: list[DurationEstimate] = []
    first = run(tmp_path, said=said)
    assert first.table.fit_for_search, first.table.fit_reason
    assert first.table.warnings == ()
    assert first.session.failed == 0
    save_table(first.table, tmp_path)
    assert load_table(tmp_path) == first.table
    assert not (tmp_path / "workloads").exists()
    again = run(tmp_path, said=said)
    assert again.table == first.table
    assert (again.session.measured, again.session.reused) == (0, first.session.measured)
    assert said[0].reused == 0 < said[0].remaining
    assert (said[1].reused, said[1].remaining) == (first.session.measured, 0)


def test_pieces_twice_networks_to_the_end_and_profiles_a_few_times(
    plain: tuple[Path, Profile],
) -> None:
    rounds = jobs_by_round(plain[0])
    assert len(rounds) == 6
    pieces = {piece.spec.digest for piece in network_pieces().pieces}
    assert [pieces & jobs for jobs in rounds] == [pieces] * 2 + [set()] * 4
    assert len(networks(rounds[0])) == 3 + CHECK
    joined = candidates(rounds)
    assert len(joined) == 2 * BATCH
    assert all(networks(jobs) == networks(rounds[0]) | joined for jobs in rounds[1:])
    counts = {name: sum(name in jobs for jobs in rounds) for name in set.union(*rounds)}
    profiles = {name: count for name, count in counts.items() if name.startswith("layers of ")}
    assert set(profiles.values()) == {PROFILES}
    assert len(profiles) == 3 + 2 * BATCH


def test_what_took_no_part_is_predicted(plain: tuple[Path, Profile]) -> None:
    table = plain[1].table
    assert table.hold_out is not None
    assert len(table.hold_out.networks) == CHECK
    assert table.hold_out.max_error_percent < 0.1
    assert table.hold_out.plain_sum_mape_percent > 2.0
    truth_ms = latency_ms(compose("101010", "repad"))
    found = predict(table, "101010", padding="repad")
    assert found.latency_ms == pytest.approx(truth_ms, rel=1e-3)


def test_a_target_that_cannot_be_met_takes_every_network_there_is(tmp_path: Path) -> None:
    pieces = network_pieces({5: "squeeze-excite"})
    run(tmp_path, pieces=pieces, check=2, target_percent=0.001)
    rounds = jobs_by_round(tmp_path)
    # 30 masks lie between none and all of five blocks.
    joined = candidates(rounds)
    assert len(joined) == 30 - 2
    seen = networks(rounds[0])
    batches = []
    for jobs in rounds[1:]:
        batches.append(len(networks(jobs) - seen))
        seen |= networks(jobs)
    # Each was in three rounds before the next one joined.
    assert batches[:7] == [2 * BATCH, 0, 0, BATCH, 0, 0, 4]
    for name in joined:
        assert sum(name in jobs for jobs in rounds) >= LEAST_ROUNDS


def test_the_time_limit_ends_a_profile_with_what_there_is(tmp_path: Path) -> None:
    table = run(tmp_path, time_limit_s=1e-6).table
    rounds = jobs_by_round(tmp_path)
    assert len(rounds) == 2
    assert {row.verdict for row in table.rows} == {"ok"}
    # Those that were in one process only are not learned from.
    assert len(networks(rounds[1])) == 3 + CHECK + 2 * BATCH
    assert len(table.networks) == 3 + CHECK
    assert table.hold_out is not None


def test_the_progress_shows_the_error_that_predictions_should_have(tmp_path: Path) -> None:
    calls: list[tuple[int, int, str]] = []
    run(tmp_path, progress=lambda *call: calls.append(call))
    assert [done for done, _, _ in calls] == list(range(len(calls)))
    assert all(done <= total for done, total, _ in calls)
    assert "error" not in calls[0][2]
    assert calls[-2][2].startswith("error 0.")
    assert calls[-1] == (len(calls) - 1, len(calls) - 1, "done")


# killed and resumed


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Profile]:
    folder = tmp_path_factory.mktemp("whole")
    return folder, run(folder, restless(), target_percent=0.2)


def restless() -> FakeConnection:
    return device(noise=0.004, round_noise=0.02, seed=3)


@pytest.mark.parametrize("share", [0.03, 0.3, 0.6, 0.98])
def test_a_resumed_profile_takes_the_decisions_that_the_killed_one_took(
    whole: tuple[Path, Profile], tmp_path: Path, share: float
) -> None:
    written = (whole[0] / "journal.jsonl").read_text().splitlines(keepends=True)
    kept = written[: int(share * len(written))]
    (tmp_path / "journal.jsonl").write_text("".join(kept))
    last = max(line.get("round", 0) for line in map(json.loads, kept))
    run(tmp_path, restless(), target_percent=0.2)
    assert jobs_by_round(tmp_path)[: last + 1] == jobs_by_round(whole[0])[: last + 1]


def test_a_killed_profile_ends_in_the_same_table(
    plain: tuple[Path, Profile], tmp_path: Path
) -> None:
    class Killed(BaseException):
        pass

    for count in (5, 60, 150):

        def stop(done: int, total: int, label: str, count: int = count) -> None:
            if done >= count:
                raise Killed

        with pytest.raises(Killed):
            run(tmp_path, progress=stop)
    made = run(tmp_path)
    assert made.session.reused >= 150
    assert made.table == plain[1].table
    assert jobs_by_round(tmp_path) == jobs_by_round(plain[0])


def test_a_journal_goes_on_with_another_target_but_not_with_other_networks(
    whole: tuple[Path, Profile], tmp_path: Path
) -> None:
    journal = tmp_path / "journal.jsonl"
    journal.write_bytes((whole[0] / "journal.jsonl").read_bytes())
    assert run(tmp_path, restless(), target_percent=50.0).session.measured == 0
    with pytest.raises(JournalError, match="pieces and networks to measure are not the same"):
        run(tmp_path, restless(), check=5)


# few networks, and failures


def test_a_network_that_cannot_merge_has_a_table_of_one_network(tmp_path: Path) -> None:
    pieces = network_pieces(dict.fromkeys(range(6), "squeeze-excite"))
    table = run(tmp_path, pieces=pieces).table
    assert [network.keep_mask for network in table.networks] == ["111111"]
    base_ms = latency_ms(compose("111111", "repad"))
    assert table.base_ms == pytest.approx(base_ms, rel=1e-3)
    assert predict(table, "111111").latency_ms == pytest.approx(base_ms, rel=0.01)
    assert table.level is not None and table.level.processes == len(jobs_by_round(tmp_path)) == 6
    assert "no hold-out check" in table.fit_reason
    assert "nothing can merge" in table.data_note


def test_one_block_that_can_merge_gives_all_the_networks_there_are(tmp_path: Path) -> None:
    pieces = network_pieces(dict.fromkeys(range(1, 6), "squeeze-excite"))
    table = run(tmp_path, pieces=pieces).table
    assert {network.keep_mask for network in table.networks} == {"111111", "011111"}
    saving_ms = latency_ms(compose("111111", "repad")) - latency_ms(compose("011111", "repad"))
    assert table.saving_ms(0, "repad") == pytest.approx(saving_ms, abs=0.01)
    assert "no hold-out check" in table.fit_reason


def test_a_block_that_cannot_merge_is_in_every_network(tmp_path: Path) -> None:
    table = run(tmp_path, pieces=network_pieces({2: "squeeze-excite"})).table
    assert table.fit_for_search
    assert len(table.networks) > 20
    assert {network.keep_mask[2] for network in table.networks} == {"1"}


def failing(*specs: OpSpec, fault: str = "bad_model") -> FakeConnection:
    broken = {spec.digest for spec in specs}
    return device(fault=lambda spec, call: fault if spec.digest in broken else None)


def test_a_piece_that_fails_takes_its_networks_with_it(tmp_path: Path) -> None:
    table = run(tmp_path, failing(merged(4, False))).table
    assert table.row("merged", 4).verdict == "failed"
    assert not table.fit_for_search
    assert any(
        text.startswith("1 of 20 rows are failed: block 4 merged") for text in table.warnings
    )
    # No network of it joined; those that every profile has were measured all the same.
    joined = [n for n in table.networks if n.role == "fit" and n.keep_mask != "000000"]
    assert len(joined) == 1 + 2 * BATCH
    assert all(n.keep_mask[4] == "1" or n.padding == "bias_map" for n in joined)
    assert table.hold_out is not None and table.hold_out.max_error_percent < 0.5


def test_where_every_piece_fails_the_table_says_so_and_nothing_joins(tmp_path: Path) -> None:
    on = device(fault=lambda spec, call: None if is_whole_network(spec) else "bad_model")
    table = run(tmp_path, on, check=20).table
    assert {(row.verdict, row.reason) for row in table.rows} == {
        ("failed", "bad_model: the script says so")
    }
    assert (table.estimate, table.networks, table.fit_for_search) == (None, (), False)
    assert table.warnings[0].startswith("20 of 20 rows are failed: stem, ")
    assert table.warnings[1].startswith("no piece, or no whole network, has a latency")
    rounds = jobs_by_round(tmp_path)
    assert len(rounds) == 6
    assert all(networks(jobs) == networks(rounds[0]) for jobs in rounds)


def test_a_device_on_which_nothing_works_ends_the_profile(tmp_path: Path) -> None:
    with pytest.raises(SessionError, match="5 jobs failed one after the other"):
        run(tmp_path, device(fault=lambda spec, call: "bad_model"))


def test_a_candidate_that_fails_is_named_and_the_others_go_on(
    plain: tuple[Path, Profile], tmp_path: Path
) -> None:
    lost = min(candidates(jobs_by_round(plain[0])))
    mask, padding = lost.split()[1:]
    made = run(tmp_path, failing(compose(mask, padding)))
    assert [text for text in made.table.warnings if f"network {mask} failed: bad_model" in text]
    rounds = jobs_by_round(tmp_path)
    assert sum(lost in jobs for jobs in rounds) == 1
    assert lost not in {f"network {n.keep_mask} {n.padding}" for n in made.table.networks}
    assert made.table.fit_for_search, made.table.fit_reason


def test_a_candidate_that_crashes_once_is_measured_in_enough_rounds(
    plain: tuple[Path, Profile], tmp_path: Path
) -> None:
    slow = min(candidates(jobs_by_round(plain[0])))
    spec = compose(*slow.split()[1:])
    on = device(fault=lambda one, call: "crash" if one.digest == spec.digest and call < 2 else None)
    made = run(tmp_path, on)
    network = next(n for n in made.table.networks if f"network {n.keep_mask} {n.padding}" == slow)
    assert network.processes >= LEAST_ROUNDS
    assert not made.table.warnings


def test_without_profiles_of_layers_pieces_alone_are_the_prior(tmp_path: Path) -> None:
    made = run(tmp_path, device(layers=None))
    assert made.table.estimate is not None and made.table.estimate.prior == "alone"
    assert {row.profiled_ms for row in made.table.rows} == {None}
    assert made.table.fit_for_search
    # Those of the first round were tried, once each.
    tried = [name for jobs in jobs_by_round(tmp_path) for name in jobs if "layers of" in name]
    assert len(tried) == len(set(tried)) == 3 == made.session.failed


def test_equal_pieces_are_measured_once_and_have_costs_of_their_own(
    plain: tuple[Path, Profile],
) -> None:
    table = plain[1].table
    rows = [table.row("original", 2), table.row("original", 3)]
    assert rows[0].digest == rows[1].digest == original(2).digest
    assert rows[0].latency_ms == rows[1].latency_ms
    assert all(row.in_network_ms is not None for row in rows)
