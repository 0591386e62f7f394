"""A device that lies about itself gets one line, and nothing of it reaches the terminal."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from mutations import mutations

from devices.inventory import load_inventory
from devices.preflight import Preflight
from devices.records import RecordError, checked
from devices.replies import parse_line
from devices.reports import Probe
from dshrink.cli.console import json_document
from dshrink.cli.devices import _print_preflight
from dshrink.cli.payloads.devices import ProbeData

HEALTH: dict[str, Any] = {
    "governor": "performance",
    "frequency_mhz": 1500.0,
    "temperature_c": 51.5,
    "throttle_events": 0,
    "throttle_bits": 0,
    "cooling_level": 0,
    "quota_throttled": 0,
    "load_average": 0.1,
    "steal_ms": 0,
    "power_mode": None,
    "gpu_mhz": None,
    "gpu": {"temperature_c": 40, "power_w": 30.5, "slowed_by": ["heat"], "ecc": True},
}
PROBE: dict[str, Any] = {
    "environment": {
        "python": "3.11.7",
        "os": "an OS",
        "kernel": "6.1",
        "machine": "x86_64",
        "cpu_model": "a CPU",
        "cores": 2,
        "cpu_affinity": [0, 1],
        "cpu_quota": 1.5,
        "governor": "performance",
        "frequency_mhz": 2600.0,
        "load_average": 0.1,
        "memory_gib": 8.0,
        "runtimes": {"onnxruntime": "1.23.0"},
        "agent_digest": "0" * 16,
        "protocol": 1,
        "board": "01234567",
        "power_mode": None,
        "gpu_problem": None,
        "runtime_problems": {},
        "gpu": {
            "name": "a GPU",
            "compute_capability": "9.0",
            "driver": "550",
            "cuda": "12.4",
            "memory_mib": 16000,
            "held_mhz": None,
        },
    },
    "health": HEALTH,
    "clocks": {
        "cpu": [
            {
                "cores": "0 1",
                "governor": "performance",
                "driver": "x",
                "min_mhz": 600.0,
                "max_mhz": 1500.0,
                "mhz": 1500.0,
            }
        ],
        "gpu_mhz": 1000.0,
        "memory_mhz": 2000.0,
        "gpu_max_mhz": 1980.0,
        "gpu_by_hand": "nvidia-smi",
    },
    "memory_available_gib": 4.0,
    "processes": [{"pid": 7, "name": "busy", "cpu_percent": 80.0}],
    "gpu_processes": [{"pid": 8, "name": "?", "memory_mib": 10}],
}


def is_shown(line: bytes, capsys: pytest.CaptureFixture[str]) -> bool:
    """Whether a result is accepted; then all that the command does with it works."""
    try:
        found = checked(Probe, parse_line(line), "probe")
    except (RecordError, ValueError) as error:
        assert "\n" not in str(error) and str(error).replace("�", "").isprintable()
        return False
    preflight = Preflight(device=load_inventory().get("local"), found=found)
    _print_preflight(preflight)
    json_document(ProbeData.of(preflight))
    shown = capsys.readouterr()
    assert all(text.replace("\n", "").isprintable() for text in (shown.out, shown.err))
    return True


@pytest.fixture(autouse=True)
def no_file_of_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setenv("DSHRINK_DEVICES", str(tmp_path / "none.toml"))


ONE_FOLDER = settings(
    deadline=5000, suppress_health_check=[HealthCheck.function_scoped_fixture], database=None
)


@settings(ONE_FOLDER, max_examples=80)
@given(line=mutations(PROBE))
def test_any_answer_to_a_probe_is_shown_or_refused(
    line: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    is_shown(line, capsys)


@pytest.mark.slow
@settings(ONE_FOLDER, max_examples=10_000)
@given(line=mutations(PROBE))
def test_ten_thousand_answers_to_a_probe_are_shown_or_refused(
    line: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    is_shown(line, capsys)
