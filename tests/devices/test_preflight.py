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
    cpu_model: str = "Raspberry Pi 4 Model B Rev 1.4",
    health_gpu: dict[str, Any] | None = None,
    gpu_problem: str | None = None,
    runtime_problems: dict[str, str] | None = None,
    **health: Any,
) -> Preflight:
    facts = {
        "runtimes": runtimes or {},
        "governor": governor,
        "power_mode": power_mode,
        "gpu": gpu,
        "gpu_problem": gpu_problem,
        "runtime_problems": runtime_problems or {},
        "cpu_model": cpu_model,
    }
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


RUNS = {"onnxruntime": "1.16.3"}
V100 = {"name": "Tesla V100-SXM2-16GB", "compute_capability": "7.0"}
TURING = {"name": "NVIDIA GeForce RTX 2080 Ti", "compute_capability": "7.5"}


@pytest.mark.parametrize(
    ("device", "facts", "said"),
    [
        ("raspi4", {"runtimes": RUNS}, ""),
        (
            "raspi4",
            {"runtimes": RUNS, "cpu_model": "AMD EPYC"},
            "raspi4 should be a Raspberry Pi 4 Model B (BCM2711: 4 Cortex-A72), the machine "
            "reports AMD EPYC, no GPU",
        ),
        ("raspi4", {}, "onnxruntime is missing, its entry allows >=1.10"),
        ("raspi4", {"runtimes": {"onnxruntime": "1.9.0"}}, "onnxruntime is 1.9.0"),
        # What runs without being asked for is the first; the others may be missing.
        ("local", {"runtimes": RUNS, "cpu_model": "any"}, ""),
        ("v100", {"runtimes": {"tensorrt": "8.6.1"}, "gpu": V100}, ""),
        ("v100", {"runtimes": {"tensorrt": "8.6.1"}, "gpu": TURING}, "reports Raspberry Pi 4"),
        ("local_gpu", {"runtimes": {"tensorrt": "8.6.1"}}, "wants a GPU, and none is reported"),
    ],
)
def test_another_chip_or_a_missing_runtime_is_a_problem(
    device: str, facts: dict[str, Any], said: str
) -> None:
    problems = preflight(device, **facts).problems
    assert said in " ".join(problems) and len(problems) == bool(said)


NO_GPU = "the user must be in the group `video` (cuInit: CUDA_ERROR_NO_DEVICE)"
NO_START = "TensorRT 10.4 does not start on Tesla V100: error: 35;\n a newer driver"


def test_a_gpu_that_is_missing_is_a_problem_in_the_devices_own_words() -> None:
    """A Jetson has no `nvidia-smi`, and the reason is the driver's."""
    (chip, gpu, runtime) = preflight("tx2", gpu_problem=NO_GPU).problems
    assert gpu == f"tensorrt wants a GPU, and none is reported: {NO_GPU}"
    assert "tensorrt is missing, its entry allows" in runtime
    # That is TensorRT's own reason, too, where it is installed.
    problems = {"tensorrt": f"TensorRT needs an NVIDIA GPU: {NO_GPU}"}
    found = preflight("tx2", gpu_problem=NO_GPU, runtime_problems=problems)
    assert found.problems == (chip, gpu)
    assert found.no_gpu == NO_GPU and preflight("raspi4", gpu_problem=NO_GPU).no_gpu == ""


def test_a_runtime_that_is_installed_and_does_not_start_says_why_and_is_not_to_be_installed() -> (
    None
):
    found = preflight("v100", gpu=V100, runtime_problems={"tensorrt": NO_START})
    (problem,) = found.problems
    assert problem == f"tensorrt is missing: {' '.join(NO_START.split())}"
    assert found.no_gpu == ""
    # One that works says nothing, whatever it said before.
    works = preflight("v100", {"tensorrt": "10.4.0"}, gpu=V100, runtime_problems={"tensorrt": "x"})
    assert works.problems == () and works.why_missing("tensorrt") == ""


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
