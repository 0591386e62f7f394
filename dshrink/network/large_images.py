"""What images of thousands of pixels a side take, said before they are waited for.

A network is run several times while it is read, and each run takes as long as its pixels are many.
"""

from __future__ import annotations

import time
from contextlib import suppress

import torch
from torch import nn

from dshrink.network.references import USUAL_SIDE, Size
from dshrink.progress import Notice

#: Up to so many pixels nobody waits for long.
FEW_PIXELS = 1024 * 1024
#: The share of the height and width that is tried.
_PART = 8


def notice_large_images(
    module: nn.Module | None, shape: tuple[int, int, int], notice: Notice
) -> None:
    """Report how long large images will take.

    ``module`` is in eval mode, None where it is still to be read; ``shape`` is (C, H, W).
    """
    channels, height, width = shape
    pixels = height * width
    if pixels <= FEW_PIXELS:
        return
    part = (channels, max(32, height // _PART), max(32, width // _PART))
    said = f"{pixels / USUAL_SIDE**2:.0f} times as long as one of {USUAL_SIDE}x{USUAL_SIDE}"
    if module is not None:
        with suppress(Exception), torch.no_grad():  # some networks take images of one size only
            module(torch.zeros(1, *part))  # it is slower the first time
            begun = time.perf_counter()
            module(torch.zeros(1, *part))
            took_s = (time.perf_counter() - begun) * pixels / (part[1] * part[2])
            said = f"about {took_s:.2g} s on this machine"
    notice(
        f"images of {Size(height, width)} are large: one takes {said}, and the network runs "
        "several times before anything else happens"
    )
