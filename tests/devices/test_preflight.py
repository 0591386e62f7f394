from __future__ import annotations

from typing import Any

import pytest

from devices.inventory import load_inventory
from devices.preflight import Preflight, probe


def clock(low: float | None = 600.0, high: float | None = 1500.0) -> dict[str, Any]:
    return {
        "cores": "0 1 2 3",
        "governor": None,
        "driver": None,
        "min_mhz": low,
        "max_mhz": high,
        "mhz": None,
    }


def preflight(
    device: str = "raspi4",
    runtimes: dict[str, str] | None = None,
    governor: str | None = "performance",
    power_mode: str | None = None,
    cpu: tuple[dict[str, Any], ...] = (),
    processes: tuple[dict[str, Any], ...] = (),
    gpu: dict[str, Any] | None = None,
    gpu_processes: tuple[dict[str, Any], ...] = (),
    by_hand: str | None = None,
    health_gpu: dict[str, Any] | None = None,
    **health: Any,
) -> Preflight:
    facts = {"runtimes": runtimes or {}, "governor": governor, "power_mode": power_mode, "gpu": gpu}
    found = {
        "environment": facts,
        "health": {**health, "gpu": health_gpu},
        "clocks": {"cpu": cpu, "gpu_max_mhz": 1980, "gpu_by_hand": by_hand},
        "processes": processes,
        "gpu_processes": gpu_processes,
    }
    return Preflight(device=load_inventory().get(device), found=found)


@pytest.fixture(autouse=True)
def no_file_of_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setenv("DSHRINK_DEVICES", str(tmp_path / "none.toml"))


def test_runtimes_are_supported_too_old_missing_or_not_driven() -> None:
    for found, state in (
        ({"onnxruntime": "1.16.3"}, "ok"),
        ({"onnxruntime": "1.9.0"}, "other version"),
        ({}, "missing"),
    ):
        first, second = preflight(runtimes=found).runtimes
        assert (first.name, first.state) == ("onnxruntime", state)
        assert first.version == found.get("onnxruntime")
        assert (second.name, second.state) == ("litert", "not driven")


def test_a_quiet_device_needs_no_advice() -> None:
    calm = {"pid": 5, "name": "cron", "cpu_percent": 3.0}
    assert preflight(processes=(calm,), throttle_bits=0x50000).advice == ()
    assert preflight(governor=None).advice == ()


def test_advice_names_what_disturbs_and_what_to_do() -> None:
    busy = {"pid": 77, "name": "updater", "cpu_percent": 84.2}
    found = preflight(governor="powersave", processes=(busy,), throttle_bits=0x1)
    governor, hot, process = found.advice
    assert "governor powersave" in governor and "sudo tee" in governor
    assert "under-voltage" in hot and "power supply" in hot
    assert process == "updater (pid 77) uses 84 % of a core: wait for it, or end it"


def test_a_governor_does_not_matter_where_the_clock_is_pinned() -> None:
    assert preflight(governor="schedutil", cpu=(clock(low=1500.0),)).advice == ()
    assert preflight(governor="schedutil", cpu=(clock(low=None, high=None),)).advice != ()


@pytest.mark.parametrize(
    ("mode", "low", "is_ready"),
    [("MAXN", 1500.0, True), ("MAXN", 300.0, False), ("15W", 1500.0, False)],
)
def test_a_jetson_is_ready_in_its_best_mode_with_its_clocks_pinned(mode, low, is_ready) -> None:
    advice = preflight("tx2", governor="schedutil", power_mode=mode, cpu=(clock(low=low),)).advice
    assert (advice == ()) is is_ready
    if not is_ready:
        assert f"power mode {mode}" in advice[0] and "sudo jetson_clocks" in advice[0]


LOCK = "sudo nvidia-smi -i GPU-1 -lgc 1380,1380"


def test_advice_for_a_gpu_names_its_clock_its_heat_and_who_computes_on_it() -> None:
    stranger = {"pid": 42, "name": "trainer", "memory_mib": 900}
    advice = preflight(
        gpu={"held_mhz": None},
        by_hand=LOCK,
        gpu_processes=(stranger,),
        health_gpu={"slowed_by": ["power brake"]},
    ).advice
    assert advice == (
        f"the GPU's clock is free (to 1980 MHz): measure with --hold-clocks, or, on the device, "
        f"{LOCK}",
        "trainer (pid 42) computes on the GPU: wait for it, or end it",
        "the GPU is slowed down: power brake: let it cool, check its power supply",
    )


def test_a_gpu_whose_clock_is_held_or_cannot_be_needs_no_advice() -> None:
    assert preflight(gpu={"held_mhz": 1380}, by_hand=LOCK).advice == ()
    assert preflight(gpu={"held_mhz": None}, by_hand=None).advice == ()


def test_this_machine_is_probed() -> None:
    found = probe(load_inventory().get("local"))
    assert ("onnxruntime", "ok") in [(one.name, one.state) for one in found.runtimes]
    assert found.found["environment"]["cores"] > 0
    assert set(found.found) >= {"environment", "health", "clocks", "processes", "gpu_processes"}
