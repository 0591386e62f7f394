"""What a self-test of a machine without a GPU found."""

from __future__ import annotations

from dshrink.operations.selftest.check import Check
from dshrink.operations.selftest.result import SelfTest

RESULT = SelfTest(
    device="local",
    title="this machine",
    date="2026-11-30T10:00:00+00:00",
    dshrink_version="0.1",
    packages={"onnxruntime": "1.20"},
    complete=True,
    checks=(
        Check(name="load", of="onnxruntime fp32", state="passed", finding="", figures={"a": 1.0}),
    ),
    probe={
        "environment": {
            "board": "",
            "python": "3.11.7",
            "os": "Linux",
            "kernel": "6",
            "machine": "x86_64",
            "cpu_model": "a CPU",
            "cores": 2,
            "cpu_affinity": [0, 1],
            "cpu_quota": None,
            "governor": None,
            "power_mode": None,
            "frequency_mhz": None,
            "load_average": 0.1,
            "memory_gib": 8.0,
            "gpu": None,
            "gpu_problem": "no driver",
            "runtimes": {"onnxruntime": "1.20"},
            "runtime_problems": {},
            "agent_digest": "0" * 16,
            "protocol": 1,
        },
        "health": {
            "governor": None,
            "frequency_mhz": None,
            "temperature_c": None,
            "throttle_events": None,
            "throttle_bits": None,
            "cooling_level": None,
            "quota_throttled": None,
            "load_average": 0.1,
            "steal_ms": None,
            "power_mode": None,
            "gpu_mhz": None,
            "gpu": None,
        },
        "clocks": {
            "cpu": [],
            "gpu_mhz": None,
            "memory_mhz": None,
            "gpu_max_mhz": None,
            "gpu_by_hand": None,
        },
        "memory_available_gib": 4.0,
        "processes": [],
        "gpu_processes": [],
    },
)
