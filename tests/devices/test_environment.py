from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from devices.agent import system
from devices.connection import LocalConnection
from devices.environment import Environment
from devices.errors import AgentLostError

FACTS = system.describe()
GPU = {
    "name": "Tesla V100-SXM2-16GB",
    "compute_capability": "7.0",
    "driver": "550.54.15",
    "cuda": "12.4",
    "memory_mib": 16160,
    "held_mhz": None,
}


def test_a_fingerprint_holds_every_fact_of_hello_as_plain_json() -> None:
    environment = Environment.from_hello({"environment": FACTS})
    fingerprint = environment.fingerprint()
    lasting = {name: fact for name, fact in FACTS.items() if "_problem" not in name}
    assert fingerprint == json.loads(json.dumps(lasting))
    again = Environment.from_hello({"environment": fingerprint})
    assert again == replace(environment, gpu_problem=None, runtime_problems=None)
    assert environment.gpu_problem == FACTS["gpu_problem"]


def test_a_fact_of_a_newer_agent_is_left_out() -> None:
    newer = {"environment": FACTS | {"phase_of_the_moon": "full"}}
    assert Environment.from_hello(newer) == Environment.from_hello({"environment": FACTS})


@pytest.mark.parametrize("result", [{}, {"environment": None}, {"environment": {"python": "3.6"}}])
def test_a_hello_that_lacks_facts_is_refused(result) -> None:
    with pytest.raises(AgentLostError, match=r"lacks .*cpu_model"):
        Environment.from_hello(result)


def test_a_fact_of_a_gpu_that_a_newer_agent_tells_is_left_out() -> None:
    newer = Environment.from_hello({"environment": FACTS | {"gpu": GPU | {"colour": "green"}}})
    assert newer.gpu == GPU


@pytest.mark.parametrize(
    ("fact", "value", "said"),
    [
        ("cpu_affinity", 5, "cpu_affinity must be a list, got 5"),
        ("cpu_affinity", ["0"], "cpu_affinity[0] must be an integer, got ['0']"),
        ("runtimes", None, "runtimes must be a table of fields, got None"),
        ("runtimes", [], "runtimes must be a table of fields, got []"),
        ("runtimes", {"onnxruntime": 1}, "runtimes[...] must be a text, got {'onnxruntime': 1}"),
        ("cores", True, "cores must be an integer, got True"),
        ("cores", "4", "cores must be an integer, got '4'"),
        ("python", None, "python must be a text, got None"),
        ("governor", 3, "governor must be a text, got 3"),
        ("memory_gib", "1", "memory_gib must be a number, got '1'"),
        ("gpu", [], "gpu must be a table of fields, got []"),
        ("gpu", "V100", "gpu must be a table of fields, got 'V100'"),
        ("gpu", {}, "gpu lacks "),
        ("gpu", GPU | {"memory_mib": "much"}, "gpu.memory_mib must be an integer, got {"),
        ("gpu", GPU | {"held_mhz": True}, "gpu.held_mhz must be an integer, got {"),
        ("gpu", GPU | {"name": None}, "gpu.name must be a text, got {"),
    ],
)
def test_a_fact_of_another_type_is_refused_by_name(fact: str, value: object, said: str) -> None:
    with pytest.raises(AgentLostError, match=f"is not valid: {re.escape(said)}") as caught:
        Environment.from_hello({"environment": FACTS | {fact: value}})
    assert caught.value.type == "start_failed" and "\n" not in str(caught.value)


def test_what_changes_by_the_minute_changes_neither_digest_nor_comparison() -> None:
    before = Environment.from_hello({"environment": FACTS})
    after = replace(before, load_average=7.5, frequency_mhz=1.0)
    assert after.digest == before.digest and len(before.digest) == 8
    assert after.differences(before) == ()


def test_what_stays_and_yet_differs_is_named_with_both_values() -> None:
    before = replace(Environment.from_hello({"environment": FACTS}), governor="performance")
    after = replace(before, governor="powersave", runtimes={"onnxruntime": "9"})
    assert after.digest != before.digest
    first, second = after.differences(before)
    assert first == "governor: powersave, was performance"
    assert second.startswith("runtimes: {'onnxruntime': '9'}, was ")


@pytest.mark.parametrize("fact", ["board", "power_mode"])
def test_another_board_and_another_power_mode_are_another_environment(fact: str) -> None:
    before = Environment.from_hello({"environment": FACTS})
    after = replace(before, **{fact: "other"})
    assert after.digest != before.digest
    assert after.differences(before) == (f"{fact}: other, was {getattr(before, fact)}",)


@pytest.mark.parametrize(
    ("gpu", "power_mode", "mode"),
    [
        (None, None, "gpu default"),
        (GPU, None, "gpu default"),
        (GPU | {"held_mhz": 1380}, None, "gpu 1380 MHz"),
        (GPU | {"driver": None}, "MAXN", "MAXN"),
    ],
)
def test_the_gpu_s_clock_mode_is_the_board_s_or_the_clock_that_is_held(
    gpu, power_mode, mode: str
) -> None:
    facts = FACTS | {"gpu": gpu, "power_mode": power_mode, "governor": "performance"}
    environment = Environment.from_hello({"environment": facts})
    assert environment.gpu_clock_mode == mode
    assert environment.clock_mode == (power_mode or "performance")
    assert environment.fingerprint()["gpu"] == gpu


def test_another_gpu_or_another_clock_of_it_is_another_environment() -> None:
    before = Environment.from_hello({"environment": FACTS | {"gpu": GPU}})
    after = replace(before, gpu=GPU | {"held_mhz": 1380})
    assert after.digest != before.digest
    assert after.differences(before) != ()


def test_a_file_is_pushed_to_this_machine_by_naming_it(tmp_path: Path) -> None:
    (tmp_path / "abc").write_text("abc")
    (pushed,) = LocalConnection().push([tmp_path / "x" / ".." / "abc"])
    assert pushed.path == str(tmp_path / "abc")
    # The digest of "abc" in FIPS 180-2.
    assert pushed.sha256 == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
