"""``dshrink data``: data sets to train on that need no download."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dshrink.cli import options, outputs
from dshrink.cli.console import show_result

app = typer.Typer(no_args_is_help=True, help="Data sets to train on that need no download.")


@app.command()
def digits(
    folder: Annotated[
        Path, outputs.folder_option("--out", help="folder to write; train/ and val/ in it")
    ],
    json: options.Json = False,
) -> None:
    """Write scikit-learn's handwritten digits as a folder of images: 10 classes, 8x8 pixels, grey.

    A folder that has them already is left unchanged.
    """
    from dshrink.cli.payloads.networks import DigitsData
    from dshrink.train.digits import write_digits

    tree = write_digits(folder)
    data = DigitsData(
        folder=str(tree.folder),
        classes=tree.classes,
        training_images=tree.training,
        validation_images=tree.validation,
        written=tree.written,
    )
    line = (
        f"{tree.folder}: {tree.training} training images of {tree.classes} digits, "
        f"{tree.validation} validation images by other writers"
        f"{'' if tree.written else ' (already there)'}"
    )
    show_result(data, [line], as_json=json)
