"""What docs/fleets.md has one type: certificates, commands of Dask, its configuration."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from profiler.errors import SessionError
from profiler.scheduling.fleet import DaskScheduler

distributed = pytest.importorskip("distributed", reason="Dask is not installed (dshrink[fleet])")
import dask  # noqa: E402
import yaml  # noqa: E402

PAGE = (Path(__file__).parents[2] / "docs" / "fleets.md").read_text("utf-8")
WHAT = ("ca", "cert", "key")


def blocks(language: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    return [text for name, text in found if name == language]


def commands(program: str) -> list[list[str]]:
    """The words of each command of the page's blocks that starts with the program."""
    lines = [line for block in blocks("") for line in block.replace("\\\n", " ").splitlines()]
    return [shlex.split(line) for line in lines if line.startswith(f"{program} ")]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the page's commands make."""
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl here")
    folder = tmp_path_factory.mktemp("certificates")
    found = commands("openssl")
    assert len(found) == 3
    for command in found:
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return folder


def test_the_dask_commands_are_dask_s_own_and_bind_what_the_page_says(
    certificates: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(certificates)
    from distributed.cli import dask_scheduler, dask_worker

    mains = {"scheduler": dask_scheduler.main, "worker": dask_worker.main}
    found = commands("dask")
    assert [words[1] for words in found] == ["scheduler", "worker", "worker", "worker"]
    for _, kind, *words in found:
        given = mains[kind].make_context(kind, words, resilient_parsing=False).params
        assert given["host"].startswith("10.0.0.")
        assert given["dashboard_address"].startswith("127.0.0.1:")
        assert given["dashboard"] is False
        assert [Path(given[f"tls_{name}"]).resolve() for name in ("ca_file", "cert", "key")] == [
            (certificates / f"{name}.pem").resolve() for name in WHAT
        ]
        if kind == "worker":
            assert given["scheduler"] == "tls://10.0.0.1:8786"
            assert given["resources"]


def test_the_certificates_and_the_configuration_of_the_page_make_a_fleet(
    certificates: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {name: str(certificates / f"{name}.pem") for name in WHAT}
    both = {
        f"tls_{who}_{what}": files[what]
        for who in ("scheduler", "worker", "client")
        for what in ("cert", "key")
    }
    security = distributed.Security(tls_ca_file=files["ca"], require_encryption=True, **both)
    options = {"security": security, "host": "127.0.0.1"}
    [text] = blocks("yaml")
    configuration = yaml.safe_load(text.replace("/home/me/fleet", str(certificates)))
    monkeypatch.setattr("profiler.scheduling.dask_connection.CONNECT_TIMEOUT_S", 5.0)
    with distributed.SpecCluster(
        workers={
            "pi-1": {
                "cls": distributed.Worker,
                "options": {**options, "nthreads": 1, "resources": {"raspi4": 1}},
            }
        },
        scheduler={
            "cls": distributed.Scheduler,
            "options": {**options, "protocol": "tls://", "dashboard_address": "127.0.0.1:0"},
        },
        security=security,
        silence_logs=50,
    ) as cluster:
        address = str(cluster.scheduler_address)
        assert address.startswith("tls://127.0.0.1:")
        with dask.config.set(dask.config.merge(dask.config.config, configuration)):
            scheduler = DaskScheduler(address, ("raspi4",))
            assert scheduler.boards() == ("raspi4-pi-1",)
            scheduler.close()
        with pytest.raises(SessionError, match=r"for tls:// set distributed\.comm\.tls"):
            DaskScheduler(address, ("raspi4",))
