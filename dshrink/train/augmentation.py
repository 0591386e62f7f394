"""Augmentation of training images: timm's random transforms, for bytes.

timm's policies may ask Pillow to keep no bit of a colour at all, at their largest magnitudes
(``rand-m9-mstd0.5-inc1`` gets there once in some hundred images). Pillow 13 refuses that, where
earlier ones gave black; here one bit is kept.
"""

from __future__ import annotations

import importlib
from itertools import chain
from typing import Any

from PIL import Image, ImageOps

from dshrink.network.tracing import import_timm
from dshrink.train.errors import DataError
from dshrink.train.settings import Augmentation


def training_transform(
    augment: Augmentation,
    size: tuple[int, int, int],
    *,
    interpolation: str,
    mean: tuple[float, ...],
) -> Any:
    """From an image to bytes of ``size`` (C, H, W). ``mean`` is the colour of what moves away.

    Raises DataError for a policy that timm does not know.
    """
    import_timm()
    try:
        found = importlib.import_module("timm.data").create_transform(
            size,
            is_training=True,
            auto_augment=augment.auto_augment or None,
            scale=augment.crop_scale,
            hflip=augment.flip,
            color_jitter=augment.color_jitter,
            interpolation=interpolation,
            mean=mean,
            normalize=False,
        )
    except (AssertionError, KeyError, ValueError) as error:
        raise DataError(
            f"auto_augment {augment.auto_augment!r} is not a policy of timm"
            f"{f' ({error})' if str(error) else ''}; give one such as rand-m5-mstd0.5-inc1, or an "
            "empty text for none"
        ) from error
    refused = importlib.import_module("timm.data.auto_augment").posterize
    for step in found.transforms:
        # A plain list in RandAugment and AugMix, pairs in AutoAugment.
        for operation in (*getattr(step, "ops", ()), *chain(*getattr(step, "policy", ()))):
            if operation.aug_fn is refused:
                operation.aug_fn = _posterize
    return found


def _posterize(image: Image.Image, bits: int, **_: Any) -> Image.Image:
    return image if bits >= 8 else ImageOps.posterize(image, max(1, bits))
