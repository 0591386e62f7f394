"""Weights that cannot be downloaded are refused in seconds; those kept here still load."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants, hf_hub_download

from dshrink.errors import NetworkError
from dshrink.network import downloads
from dshrink.network.downloads import downloaded, short_of, unreachable
from dshrink.network.references import ModelChoice


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")


class Answer(BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        self.send_error(404)

    def log_message(self, *words: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Answer) as made:
        thread = threading.Thread(target=made.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{made.server_port}"
        made.shutdown()
        thread.join()


@pytest.fixture
def closed() -> str:
    """An address that nobody listens at."""
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{made.getsockname()[1]}"


def test_a_host_that_answers_anything_is_there(server: str) -> None:
    assert unreachable(server) == ""


def test_a_host_that_refuses_says_why(closed: str) -> None:
    assert "refused" in unreachable(closed)


def test_a_host_that_is_silent_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        start = time.monotonic()
        assert unreachable(f"http://127.0.0.1:{silent.getsockname()[1]}", 0.05)
        assert time.monotonic() - start < 2


def test_what_is_kept_loads_without_the_host(closed: str, tmp_path: Path) -> None:
    repository = tmp_path / "models--some--net"
    (repository / "snapshots" / "abc").mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    (repository / "snapshots" / "abc" / "config.json").write_text("{}")
    before = constants.HF_HUB_OFFLINE
    with short_of(closed) as reason:
        assert reason.startswith(f"{closed[7:]} cannot be reached: ")
        found = hf_hub_download("some/net", "config.json", cache_dir=tmp_path)
        assert Path(found).read_text() == "{}"
    assert before == constants.HF_HUB_OFFLINE and socket.getdefaulttimeout() is None


def test_where_the_host_is_there_nothing_is_changed(server: str) -> None:
    before = constants.HF_HUB_OFFLINE
    with short_of(server) as reason:
        assert (reason, constants.HF_HUB_OFFLINE) == ("", before)


def test_the_error_says_which_host_and_what_to_do(
    closed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "hub_url", lambda: closed)
    start = time.monotonic()
    with pytest.raises(NetworkError) as caught:
        downloaded(
            ModelChoice(model="mobilenetv2_100", weights="pretrained"),
            lambda: hf_hub_download("some/net", "config.json", cache_dir=tmp_path),
        )
    assert time.monotonic() - start < 5
    said = str(caught.value)
    for part in (f"{closed[7:]} cannot be reached", "--weights FILE", "~/.cache/huggingface"):
        assert part in said
    assert "\n" not in said
