from __future__ import annotations

import re
from pathlib import Path

import pytest

from devices.connection import LocalConnection
from devices.errors import InventoryError
from devices.inventory import CATALOG, connect, default_user_file, load_inventory
from devices.ssh import SshConnection


@pytest.fixture(autouse=True)
def no_file_of_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DSHRINK_DEVICES", str(tmp_path / "none.toml"))


def user_file(tmp_path: Path, content: str) -> Path:
    file = tmp_path / "devices.toml"
    file.write_text(content)
    return file


def test_the_catalog_has_the_devices_of_the_paper_at_its_batch_sizes() -> None:
    inventory = load_inventory()
    batches = {name: inventory.get(name).paper_batch for name in inventory.devices}
    assert batches == {
        "local": 1,
        "local_gpu": 128,
        "v100": 128,
        "rtx2080ti": 128,
        "tx2": 64,
        "pixel3": 1,
        "raspi4": 1,
    }


def test_no_install_line_brings_a_cuda_that_the_usual_driver_does_not_serve() -> None:
    """Today's wheel ``tensorrt`` is that of CUDA 13, which wants driver 580."""
    root = Path(CATALOG).parents[1]
    places = [CATALOG, root / "pyproject.toml", *root.glob("docs/**/*.md"), root / "README.md"]
    places += root.glob("devices/agent/runtimes/**/*.py")
    bare = re.compile(r"""['"\[ ]tensorrt(?P<range>[<>=][^'"\]]*)['"]""")
    for place in map(Path, places):
        for found in bare.finditer(place.read_text()):
            assert found["range"].endswith("<10.5"), f"{place}: {found[0]}"


def test_every_device_of_the_catalog_says_how_to_install_what_it_needs() -> None:
    inventory = load_inventory()
    for device in inventory.devices.values():
        assert device.runtimes and device.precisions and device.power_mode and device.chip
        for support in device.runtimes.values():
            assert support.versions and support.install


def test_the_oldest_supported_version_bounds_what_a_file_may_need() -> None:
    tx2, pixel3 = load_inventory().get("tx2"), load_inventory().get("pixel3")
    bounds = {name: (one.max_opset, one.max_ir) for name, one in tx2.runtimes.items()}
    assert bounds == {
        "tensorrt": (13, 7),
        "trtexec": (13, 7),
        "pytorch": (None, None),  # the onnx package reads all
        "onnxruntime": (15, 8),
    }
    assert "int8" not in tx2.precisions
    assert pixel3.runtimes["litert"].max_opset is None  # it reads no ONNX


@pytest.mark.parametrize(
    ("device", "runtime", "inside", "outside"),
    [
        ("tx2", "tensorrt", ["8.2.1.8"], ["8.4.0", "8.0.1"]),
        ("tx2", "onnxruntime", ["1.10.0"], ["1.11.0", "1.9.1"]),
        ("v100", "tensorrt", ["8.4.1.5", "10.4.0.26"], ["10.5.0", "8.2.1"]),
        ("local", "onnxruntime", ["1.10.0", "1.31.1", "1.32.0rc1"], ["1.9.0"]),
    ],
)
def test_a_version_that_was_found_is_supported_or_not(
    device: str, runtime: str, inside: list[str], outside: list[str]
) -> None:
    support = load_inventory().get(device).runtimes[runtime]
    assert all(support.includes(version) for version in inside)
    assert not any(support.includes(version) for version in outside)


def test_a_version_that_is_no_version_is_not_supported() -> None:
    support = load_inventory().get("local").runtimes["onnxruntime"]
    assert not support.includes("from source")


def test_this_machine_can_be_connected() -> None:
    assert connect(load_inventory().get("local")) == LocalConnection()


def test_clocks_are_held_where_the_caller_asks() -> None:
    assert connect(load_inventory().get("local"), hold=True) == LocalConnection(hold=True)


@pytest.mark.parametrize("name", ["v100", "rtx2080ti", "tx2", "raspi4"])
def test_a_device_without_an_address_says_what_to_write_and_where(name: str) -> None:
    with pytest.raises(InventoryError) as caught:
        connect(load_inventory().get(name))
    said = str(caught.value)
    assert str(default_user_file()) in said and f"[{name}]" in said
    assert 'host = "user@machine"' in said and "\n" not in said


def test_a_phone_is_not_driven_yet_and_one_line_says_so() -> None:
    with pytest.raises(InventoryError, match=r"pixel3 \(Google Pixel 3\).*adb") as caught:
        connect(load_inventory().get("pixel3"))
    assert "\n" not in str(caught.value)


def test_a_board_is_reached_by_ssh_as_the_user_s_file_says(tmp_path: Path) -> None:
    file = user_file(
        tmp_path,
        '[kitchen]\nlike = "raspi4"\nhost = "pi@kitchen"\npython = "/opt/python"\n'
        'ssh_options = ["-p", "2222"]\nfolder = "/data/dshrink"\nkeep = true\n',
    )
    assert connect(load_inventory(file).get("kitchen"), hold=True) == SshConnection(
        host="pi@kitchen",
        python="/opt/python",
        options=("-p", "2222"),
        folder="/data/dshrink",
        keep=True,
        hold=True,
        name="kitchen",
    )


def test_an_unknown_device_is_answered_with_the_known_ones() -> None:
    with pytest.raises(InventoryError, match=r"'v1000'.*known are .*tx2, v100"):
        load_inventory().get("v1000")


def test_the_user_adds_a_board_that_is_like_a_known_one(tmp_path: Path) -> None:
    file = user_file(tmp_path, '[kitchen]\nlike = "raspi4"\nhost = "pi@kitchen"\n')
    inventory = load_inventory(file)
    kitchen, raspi4 = inventory.get("kitchen"), inventory.get("raspi4")
    assert (kitchen.host, kitchen.chip) == ("pi@kitchen", raspi4.chip)
    assert (kitchen.like, kitchen.kind) == ("raspi4", "raspi4")
    assert (raspi4.host, raspi4.like, raspi4.kind) == (None, None, "raspi4")


def test_a_board_may_be_like_another_board_above_but_has_an_address_of_its_own(
    tmp_path: Path,
) -> None:
    file = user_file(
        tmp_path,
        '[kitchen]\nlike = "raspi4"\nhost = "pi@kitchen"\nfolder = "/data"\n'
        '[cellar]\nlike = "kitchen"\n',
    )
    cellar = load_inventory(file).get("cellar")
    assert (cellar.kind, cellar.folder) == ("raspi4", "/data")
    assert cellar.host is None


def test_a_host_implies_ssh_whatever_the_board_is_like(tmp_path: Path) -> None:
    file = user_file(
        tmp_path,
        '[server]\nlike = "local"\nhost = "me@server"\n'
        '[other]\nlike = "server"\nconnection = "local"\n'
        '[phone]\nlike = "pixel3"\nhost = "me@phone"\nconnection = "adb"\n',
    )
    inventory = load_inventory(file)
    server = connect(inventory.get("server"))
    assert server == SshConnection("me@server", name="server")
    assert connect(inventory.get("other")) == LocalConnection(name="other")
    assert inventory.get("phone").connection == "adb"
    assert inventory.get("local").connection == "local"


def test_the_file_to_lock_is_named_for_a_near_and_for_a_far_device(tmp_path: Path) -> None:
    line = 'lock = "/shared/lock"\n'
    file = user_file(tmp_path, f'[local]\n{line}[tx2]\nhost = "tx2"\n{line}')
    inventory = load_inventory(file)
    assert connect(inventory.get("local")) == LocalConnection(lock="/shared/lock")
    assert connect(inventory.get("tx2")) == SshConnection("tx2", lock="/shared/lock")


def test_the_user_overrides_one_fact_of_one_runtime(tmp_path: Path) -> None:
    file = user_file(tmp_path, '[raspi4.runtimes.onnxruntime]\nversions = ">=1.16"\n')
    ours, known = load_inventory(file).get("raspi4"), load_inventory().get("raspi4")
    assert ours.runtimes["onnxruntime"].versions == ">=1.16"
    assert ours.runtimes["onnxruntime"].install == known.runtimes["onnxruntime"].install
    assert ours.runtimes["litert"] == known.runtimes["litert"]
    assert ours.like is None


def test_the_user_overrides_a_field_of_a_known_device(tmp_path: Path) -> None:
    file = user_file(tmp_path, '[local]\npython = "/opt/python"\n')
    local = load_inventory(file).get("local")
    assert connect(local) == LocalConnection(python="/opt/python")
    assert local.chip == load_inventory().get("local").chip


def test_the_user_s_file_is_found_where_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = user_file(tmp_path, '[mine]\nlike = "tx2"\n')
    monkeypatch.setenv("DSHRINK_DEVICES", str(file))
    assert "mine" in load_inventory().devices
    monkeypatch.delenv("DSHRINK_DEVICES")
    assert default_user_file().name == "devices.toml"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[local", "not valid TOML"),
        ("speed = 3", "speed is outside of any"),
        ('[local]\nhots = "x"', "[local] has the unknown fields hots; known are chip, "),
        (
            '[local]\nname = "x"',
            "[local] has the unknown fields name; known are chip, connection, ",
        ),
        ("[local]\nhost = 3", "host must be a text, got 3"),
        ('[local]\nconnection = "pigeon"', "'pigeon' is none of adb, local, ssh"),
        ('[local]\nprecisions = ["fp12"]', "'fp12' is none of"),
        ("[local]\nprecisions = [3]", "precisions[0] must be a text, got 3"),
        ("[local]\npaper_batch = 0", "paper_batch must be from 1 to 65536"),
        ("[local]\npaper_batch = true", "paper_batch must be an integer, got True"),
        ("[local]\nkeep = 1", "keep must be true or false, got 1"),
        ('[local]\nssh_options = "-p 22"', "ssh_options must be a list, got '-p 22'"),
        ('[tx2]\nhost = "-oProxyCommand=x"', "host '-oProxyCommand=x' is no such as user@machine"),
        (
            '[board]\nlike = "local"\nhost = "x"\nconnection = "local"',
            "board: connection \"local\" is this machine, not host 'x'",
        ),
        ('[local]\nlock = "tmp/lock"', "local: lock 'tmp/lock' is no absolute path"),
        ('[tx2]\nhost = ""', "host '' is no such as"),
        ('[tx2]\nhost = "a\\u0000"', "tx2: 'a\\x00' holds control characters"),
        ('[tx2]\nssh_options = ["\\u0000"]', "tx2: '\\x00' holds control characters"),
        ('[tx2]\npython = "a\\u001b[2J"', "holds control characters"),
        ("x = " + "9" * 5000, "is not valid TOML: Exceeds the limit"),
        ("x = " + "[" * 3000, "is not valid TOML: nested too deeply"),
        ('[board]\nlike = "toaster"', "is like 'toaster'"),
        ('[board]\nlike = "board"', "is like 'board', which is not known above"),
        ('[a]\nlike = "b"\n[b]\nlike = "tx2"', "[a] is like 'b', which is not known above"),
        ("[board]\nlike = []", "is like []"),
        ('[board]\nhost = "x"', "lacks "),
        (
            '[local.runtimes.onnxruntime]\nversion = "1"',
            "onnxruntime] has the unknown fields version; known are install, ",
        ),
        (
            '[local.runtimes.new]\nversions = ">=1"',
            "[local.runtimes.new] lacks the fields install; known are ",
        ),
        ("[local.runtimes.onnxruntime]\nmax_ir = '8'", "max_ir must be an integer, got '8'"),
        ("[local.runtimes.onnxruntime]\nversions = 'new'", "versions must be such as '>=1.10,<2'"),
        ("[local]\nruntimes = { onnxruntime = 3 }", "the fields versions and install, got 3"),
        ("[local]\nruntimes = 3", "runtimes must be a table of fields, got 3"),
    ],
)
def test_a_mistake_in_the_user_s_file_is_one_line_that_names_it(
    tmp_path: Path, content: str, said: str
) -> None:
    with pytest.raises(InventoryError, match=re.escape(said)) as caught:
        load_inventory(user_file(tmp_path, content))
    assert "\n" not in str(caught.value)


def test_a_file_that_was_named_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(InventoryError, match="cannot be read"):
        load_inventory(tmp_path / "gone.toml")


def test_the_catalog_ships_beside_its_module() -> None:
    assert CATALOG.is_file()
