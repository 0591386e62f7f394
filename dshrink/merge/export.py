"""A network as an ONNX file, and the proof that the file computes what torch computes."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dshrink.errors import DshrinkError, NetworkError, first_line
from dshrink.merge.merged_network import MergedNetwork
from dshrink.merge.onnx_surgery import edited_model
from dshrink.merge.verify import TOLERANCE, Certificate, allowed_float32
from dshrink.network.mask_changes import Rewriting
from dshrink.network.models import Network
from dshrink.network.onnx_files.bounds import MOST_BYTES
from dshrink.network.onnx_files.runtime import run_onnx
from dshrink.network.onnx_files.source import OnnxSource
from dshrink.network.tracing import needs_data, only_batch
from dshrink.version import __version__
from latency_tables.files import write_atomically
from latency_tables.onnx_file import write_onnx

METADATA_KEY = "dshrink"


class ExportError(DshrinkError):
    """A file that does not compute what the network computes, or that cannot be read back."""


def export_onnx(
    network: Network,
    path: Path | str,
    *,
    batch: int = 1,
    metadata: Mapping[str, Any] | None = None,
) -> float:
    """Write ``network`` as ONNX and return its relative difference from torch on random images.

    The file takes (``batch``, channels, height, width). It is written only once it has been shown
    to be equal. Raises ExportError otherwise.
    """
    path = Path(path)
    _check_path(path)
    weights = network.lowered.weights(network.module)
    data = write_onnx(network.spec, weights, batch=batch, metadata=_properties(metadata))
    difference, rounding = _difference(network, data, batch)
    _write_if_equal(path, data, difference, rounding)
    return difference


def export_edited(
    merged: MergedNetwork, source: OnnxSource, path: Path, *, metadata: Mapping[str, Any]
) -> float:
    """As ``export_onnx``, for a network that came from a file: that file with what was merged.

    It keeps its own batch. What rounding may do to a file in half precision is what it does to the
    one that the network came from. Raises ExportError.
    """
    _check_path(path)
    model = edited_model(merged, source, _properties(metadata))
    if model.ByteSize() > MOST_BYTES:
        raise ExportError(f"{path}: not written: it is above 2 GiB; merge fewer convolutions")
    data = model.SerializeToString()
    batch = source.batch or 2  # an open batch is shown to be one
    difference, rounding = _difference(merged.network, data, batch)
    if source.is_half:
        original = source.model.SerializeToString()
        rounding = max(rounding, _difference(merged.source, original, batch)[0])
    _write_if_equal(path, data, difference, rounding)
    return difference


def require_same_when_written(network: Network) -> None:
    """Raise ExportError unless the network's operators, written as a file, compute the same.

    What is measured and searched is made of these operators.
    """
    batch = only_batch(network.module) or 1
    weights = network.lowered.weights(network.module)
    data = write_onnx(network.spec, weights, batch=batch)
    try:
        difference, rounding = _difference(network, data, batch)
    except NetworkError:
        raise
    except Exception as error:
        if not needs_data(network.module):  # no operator that a user's file brought with it
            raise
        raise ExportError(
            f"{network.name}: ONNX Runtime cannot run its operators one by one "
            f"({first_line(error)[:160]}): `dshrink bench` measures the file as it is"
        ) from error
    if not difference <= max(TOLERANCE[torch.float32], 10 * rounding):
        raise ExportError(
            f"{network.name}: what dshrink understands of it gives results that differ by "
            f"{difference:.2g} (relative) from the network's: please report it"
        )


def _check_path(path: Path) -> None:
    if path.is_dir():
        raise ExportError(f"{path}: is a folder; give the name of the ONNX file to write")


def _properties(metadata: Mapping[str, Any] | None) -> dict[str, str]:
    return {METADATA_KEY: json.dumps({"version": __version__, **(metadata or {})})}


def _write_if_equal(path: Path, data: bytes, difference: float, rounding: float) -> None:
    if not difference <= allowed_float32(rounding):
        raise ExportError(
            f"{path}: not written: the file gives results that differ by {difference:.2g} "
            f"(relative) from the network in torch, more than {allowed_float32(rounding):.2g} "
            f"(rounding alone changes them by {rounding:.2g})"
        )
    write_atomically(path, data)


def merge_metadata(merged: MergedNetwork, certificate: Certificate) -> dict[str, Any]:
    """What a merged file says about itself, so that `dshrink bench` can find its prediction."""
    return {
        **plan_metadata(merged.source, merged.changes, merged.padding),
        "certificate": {
            "network_float64": certificate.network_float64.relative,
            "network_float32": certificate.network_float32.relative,
        },
    }


def plan_metadata(source: Network, changes: Rewriting, padding: str) -> dict[str, Any]:
    """What a file says of the plan that it was merged by."""
    return {
        "model": source.name,
        "resolution": list(source.resolution),
        "segments": changes.segments,
        "keep_mask": changes.mask,
        "padding": padding,
        "free_activation": changes.free_activation,
    }


def accuracy_metadata(percent: float, images: int, digest: str) -> dict[str, Any]:
    """What a file says of its top-1 accuracy, and of the validation images that it is of."""
    return {"accuracy_percent": percent, "validation_images": images, "data": digest}


def _difference(network: Network, data: bytes, batch: int) -> tuple[float, float]:
    """Of the file from torch, and of torch in float32 from torch in float64; both relative."""
    generator = torch.Generator().manual_seed(1)
    image = torch.randn(batch, *network.spec.input_shape, generator=generator)
    with torch.inference_mode():
        expected = network.module(image).numpy()
        exact = copy.deepcopy(network.module).double()(image.double()).numpy()
    scale = float(np.abs(exact).max()) or 1.0
    result = run_onnx(data, image.numpy())
    return (
        float(np.abs(result - expected).max()) / scale,
        float(np.abs(expected - exact).max()) / scale,
    )
