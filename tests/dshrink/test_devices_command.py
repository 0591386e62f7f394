"""``dshrink devices`` as a user gives it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from dshrink.cli import grids
from dshrink.cli import main as entry


@pytest.fixture
def devices(monkeypatch: pytest.MonkeyPatch, capsys, tmp_path: Path):
    """``devices("list")`` returns exit status, standard output and standard error."""
    monkeypatch.setenv("DSHRINK_DEVICES", str(tmp_path / "devices.toml"))

    def run(*words: str, columns: int = 80) -> tuple[int, str, str]:
        monkeypatch.setattr(grids, "screen_width", lambda: columns)
        monkeypatch.setattr(sys, "argv", ["dshrink", "devices", *words])
        monkeypatch.setenv("COLUMNS", str(columns))
        with pytest.raises(SystemExit) as end:
            entry.main()
        said = capsys.readouterr()
        return int(end.value.code or 0), said.out, said.err

    return run


def check_refused(ran: tuple[int, str, str], *said: str) -> None:
    """A user's error: status 2, nothing on standard output, one line that says it all."""
    status, out, err = ran
    assert (status, out) == (2, "")
    assert err.count("\n") == 1 and all(part in err for part in said)


@pytest.mark.parametrize("columns", [80, 120])
def test_the_list_shows_each_device_whole_on_a_line(devices, tmp_path: Path, columns: int) -> None:
    (tmp_path / "devices.toml").write_text('[kitchen]\nlike = "raspi4"\nhost = "pi@kitchen"\n')
    status, out, _ = devices("list", columns=columns)
    assert status == 0
    assert all(len(line) <= columns for line in out.splitlines())
    by_name = {line.split()[0]: line for line in out.splitlines() if line.strip()}
    assert "NVIDIA GeForce RTX 2080 Ti" in by_name["rtx2080ti"]
    assert by_name["rtx2080ti"].split()[-1] == "128"
    assert "no host yet" in by_name["tx2"] and "pi@kitchen" in by_name["kitchen"]


def test_the_list_is_there_as_json_too(devices) -> None:
    listed = json.loads(devices("list", "--json")[1])["devices"]
    tx2 = next(one for one in listed if one["name"] == "tx2")
    assert tx2["paper_batch"] == 64
    assert tx2["runtimes"]["tensorrt"]["max_opset"] == 13


def test_a_device_is_shown_with_lines_to_copy_that_are_not_broken(devices) -> None:
    status, out, _ = devices("show", "tx2")
    assert status == 0
    assert "onnxruntime >=1.10,<1.11, ONNX opset up to 15, IR up to 8" in out
    install = next(line for line in out.splitlines() if "to install onnxruntime" in line)
    assert install.endswith("pip install onnxruntime==1.10.0 numpy==1.19.4")
    assert json.loads(devices("show", "tx2", "--json")[1])["name"] == "tx2"


def test_a_device_that_is_not_known_is_refused_with_those_that_are(devices) -> None:
    check_refused(devices("show", "nowhere"), "no device 'nowhere'", "raspi4")
    check_refused(devices("probe", "nowhere"), "no device 'nowhere'")


@pytest.mark.parametrize("columns", [80, 120])
def test_this_machine_is_probed_on_one_page(devices, columns: int) -> None:
    status, out, _ = devices("probe", "local", columns=columns)
    assert status == 0
    keys = [line.split()[0] for line in out.splitlines() if not line.startswith(" ")]
    expected = ["device", "system", "processor", "memory", "Python", "board", "governor"]
    expected += ["clocks", "temperature", "throttling", "load", "others", "runtime"]
    assert [key for key in dict.fromkeys(keys) if key in expected] == expected
    assert "supported (>=1.10)" in out
    assert len(out.splitlines()) < 30


def test_a_probe_of_a_machine_with_a_gpu_shows_it(devices, monkeypatch) -> None:
    from devices.agent import system
    from devices.inventory import load_inventory
    from devices.preflight import Preflight

    found = system.probe()
    found["environment"]["gpu"] = {
        "name": "Tesla V100-SXM2-16GB",
        "compute_capability": "7.0",
        "driver": "550.54.15",
        "cuda": "12.4",
        "memory_mib": 16384,
        "held_mhz": None,
    }
    found["health"]["gpu"] = {
        "temperature_c": 61,
        "power_w": 212.3,
        "power_limit_w": 300.0,
        "utilisation_percent": 97,
        "slowed_by": ["hardware slowdown"],
        "power_capped": True,
        "ecc": True,
    }
    found["gpu_processes"] = [{"pid": 7, "name": "trainer", "memory_mib": 900}]
    found["clocks"] |= {"gpu_mhz": 1350, "gpu_max_mhz": 1530, "gpu_by_hand": "sudo nvidia-smi ..."}
    preflight = Preflight(device=load_inventory().get("local"), found=found)
    monkeypatch.setattr("devices.preflight.probe", lambda device: preflight)
    out = " ".join(devices("probe", "local", columns=200)[1].split())
    for said in (
        "GPU Tesla V100-SXM2-16GB, compute capability 7.0, 16.0 GiB, driver 550.54.15, CUDA 12.4",
        "GPU state 61 °C, 212.3 W, of at most 300 W, 97 % busy, at its power limit, ECC on",
        "on the GPU trainer (7) 900 MiB",
        "gpu 1350 MHz",
        "throttling the GPU is slowed down: hardware slowdown",
        "advice: the GPU's clock is free (to 1530 MHz): measure with --hold-clocks",
        "advice: trainer (pid 7) computes on the GPU",
    ):
        assert said in out
    found["health"]["gpu"] = None
    found["gpu_processes"] = []
    out = " ".join(devices("probe", "local", columns=200)[1].split())
    assert "GPU state not reported by this machine" in out and "on the GPU no other process" in out


def test_a_probe_says_why_there_is_no_gpu_and_why_a_runtime_does_not_start(
    devices, monkeypatch
) -> None:
    from devices.agent import system
    from devices.inventory import load_inventory
    from devices.preflight import Preflight

    found = system.probe()
    no_gpu = "`nvidia-smi` must list one there (libcuda: NO_DRIVER (libcuda.so.1: cannot open it))"
    no_start = "trtexec failed to start (exit status 127): libnvinfer.so.8: no such file; find it"
    found["environment"] |= {
        "gpu": None,
        "gpu_problem": no_gpu,
        "runtimes": {"pytorch": "2.13.0"},
        "runtime_problems": {"trtexec": no_start},
    }
    preflight = Preflight(device=load_inventory().get("local_gpu"), found=found)
    monkeypatch.setattr("devices.preflight.probe", lambda device: preflight)
    status, out, err = devices("probe", "local_gpu")
    page, _, rest = out.partition("to install")
    assert status == 1 and all(len(line) <= 80 for line in page.splitlines())
    said = " ".join(page.split())
    assert f"GPU none reported: {no_gpu} Python" in said
    assert f"runtime trtexec missing (>=8.2,<12): {no_start}" in said
    # It is there already: what it lacks is in its reason.
    assert rest.startswith(" tensorrt on the device") and "trtexec" not in rest
    assert f"warning: tensorrt wants a GPU, and none is reported: {no_gpu}\n" in err


def test_a_probe_is_there_as_json_too(devices) -> None:
    found = json.loads(devices("probe", "local", "--json")[1])
    assert found["device"] == "local"
    assert found["runtimes"]["onnxruntime"]["state"] == "ok"
    assert set(found) >= {"environment", "health", "clocks", "processes", "advice", "problems"}


def test_a_runtime_that_is_missing_comes_with_the_line_that_installs_it(
    devices, tmp_path: Path
) -> None:
    (tmp_path / "devices.toml").write_text(
        '[local.runtimes.onnxruntime]\nversions = ">=99"\n'
        '[local.runtimes.toaster]\nversions = ">=1"\ninstall = "buy one"\n'
    )
    status, out, err = devices("probe", "local")
    assert status == 1 and "warning: onnxruntime is" in err and "allows >=99" in err
    assert "NOT within >=99" in out
    assert "to install onnxruntime on the device: python -m pip install onnxruntime" in out
    assert "toaster not looked for" in out and "to install toaster" not in out


def test_a_board_behind_ssh_is_probed_and_nothing_stays_on_it(
    devices, tmp_path: Path, ssh_server
) -> None:
    lines = [
        "[bench]",
        'like = "raspi4"',
        f"host = {json.dumps(ssh_server.host)}",
        f"ssh_options = {json.dumps(list(ssh_server.options))}",
        f"python = {json.dumps(sys.executable)}",
        f"folder = {json.dumps(str(ssh_server.folder))}",
    ]
    (tmp_path / "devices.toml").write_text("\n".join(lines))
    status, out, err = devices("probe", "bench")
    assert status == 1 and "warning: bench should be a Raspberry Pi 4 Model B" in err
    assert f"bench, Raspberry Pi 4 Model B ({ssh_server.host})" in out
    assert not ssh_server.folder.exists()


def test_a_device_that_cannot_be_reached_is_refused_in_one_line(devices, tmp_path: Path) -> None:
    check_refused(devices("probe", "v100"), "has no address yet", str(tmp_path / "devices.toml"))
    check_refused(devices("probe", "pixel3"), "adb")
