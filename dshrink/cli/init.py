"""``dshrink init``: write a file of options for this folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from dshrink.cli import options, outputs
from dshrink.cli.configuration import NAME
from dshrink.cli.console import show_result


def command(
    file: Annotated[Path, outputs.file_option("--out", help="file to write")] = Path(NAME),
    device: options.Device = "local",
    json: options.Json = False,
) -> None:
    """Write dshrink.toml, the options of all commands in this folder, with what a probe finds.

    A file that exists is left as it is.
    """
    from dshrink.cli.payloads.configuration import InitData
    from dshrink.operations.settings_file import write_settings

    found = write_settings(file, device)
    data = InitData(
        file=str(file),
        device=found.device.name,
        processor=found.processor,
        cores=found.cores,
        gpu=found.gpu,
        runtime=found.runtime,
        runtimes=found.runtimes,
    )
    lines = (*found.lines, f"wrote {file}: `dshrink config` shows what it sets")
    show_result(data, lines, as_json=json)
