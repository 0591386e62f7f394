from __future__ import annotations

import re
from pathlib import Path

import pytest

from devices.connection import LocalConnection
from devices.errors import InventoryError
from devices.inventory import CATALOG, connect, default_user_file, load_inventory


@pytest.fixture(autouse=True)
def no_file_of_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DSHRINK_DEVICES", str(tmp_path / "none.toml"))


def user_file(tmp_path: Path, content: str) -> Path:
    file = tmp_path / "devices.toml"
    file.write_text(content)
    return file


def test_the_catalog_has_the_devices_of_the_paper_at_its_batch_sizes() -> None:
    inventory = load_inventory()
    batches = {name: inventory.get(name).paper_batch for name in inventory.names}
    assert batches == {
        "local": 1,
        "v100": 128,
        "rtx2080ti": 128,
        "tx2": 64,
        "pixel3": 1,
        "raspi4": 1,
    }


def test_every_device_of_the_catalog_says_how_to_install_what_it_needs() -> None:
    inventory = load_inventory()
    for device in inventory.devices.values():
        assert device.runtimes and device.precisions and device.power_mode and device.chip
        for support in device.runtimes.values():
            assert support.versions and support.install


def test_the_oldest_runtime_of_the_jetson_bounds_the_opset_and_the_precisions() -> None:
    tx2 = load_inventory().get("tx2")
    assert tx2.max_opset == 13
    assert "int8" not in tx2.precisions


def test_this_machine_can_be_connected() -> None:
    assert connect(load_inventory().get("local")) == LocalConnection()


@pytest.mark.parametrize("name", ["v100", "rtx2080ti", "tx2", "pixel3", "raspi4"])
def test_another_device_cannot_be_connected_and_one_line_says_what_to_do(name: str) -> None:
    with pytest.raises(InventoryError, match="drives `local` only") as caught:
        connect(load_inventory().get(name))
    assert name in str(caught.value) and "\n" not in str(caught.value)


def test_an_unknown_device_is_answered_with_the_known_ones() -> None:
    with pytest.raises(InventoryError, match=r"'v1000'.*known are .*tx2, v100"):
        load_inventory().get("v1000")


def test_the_user_adds_a_board_that_is_like_a_known_one(tmp_path: Path) -> None:
    file = user_file(tmp_path, '[kitchen]\nlike = "raspi4"\nhost = "pi@kitchen"\n')
    inventory = load_inventory(file)
    kitchen, raspi4 = inventory.get("kitchen"), inventory.get("raspi4")
    assert (kitchen.host, kitchen.chip) == ("pi@kitchen", raspi4.chip)
    assert raspi4.host is None


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
    assert "mine" in load_inventory().names
    monkeypatch.delenv("DSHRINK_DEVICES")
    assert default_user_file().name == "devices.toml"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[local", "not valid TOML"),
        ("speed = 3", "speed is outside of any"),
        ('[local]\nhots = "x"', "[local] does not know hots"),
        ("[local]\nhost = 3", "host must be of type str, got 3"),
        ('[local]\nconnection = "pigeon"', "'pigeon' is none of local, ssh"),
        ('[local]\nprecisions = ["fp12"]', "'fp12' is none of"),
        ("[local]\npaper_batch = 0", "paper_batch must be at least 1"),
        ("[local]\npaper_batch = true", "paper_batch must be of type int"),
        ('[board]\nlike = "toaster"', "is like 'toaster'"),
        ('[board]\nhost = "x"', "lacks "),
        ('[local.runtimes.onnxruntime]\nversion = "1"', "versions and install"),
        ("[local]\nruntimes = { onnxruntime = 3 }", "versions and install"),
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
