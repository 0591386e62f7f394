"""Merging a network, proving the merge, and writing it as ONNX with its certificate.

The one way from trained weights to a merged file: nothing is written unless the merged network
equals the unmerged one and the file equals the merged network.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from dshrink.merge.activations import ChangedActivations, WeightsOrigin, changed_activations
from dshrink.merge.agreement import Agreement, ValidationImages, top1_agreement
from dshrink.merge.export import (
    accuracy_metadata,
    export_edited,
    export_onnx,
    merge_metadata,
)
from dshrink.merge.merged_network import MergedNetwork, merge_network
from dshrink.merge.verify import Certificate, certify
from dshrink.network.mask_changes import Rewriting
from dshrink.network.models import Network
from dshrink.network.onnx_files.source import source_of
from latency_tables.files import write_atomically


@dataclass(frozen=True, slots=True, kw_only=True)
class CertifiedExport:
    """What was merged, and how it was proven; ``agreement`` is None without images.

    ``activations`` says what the proof does not: whether the weights were trained for the merge.
    ``onnx_difference`` is that of the file in ONNX Runtime from torch, relative, None where no file
    was asked for; ``merge_s`` the time of the merge alone.
    """

    merged: MergedNetwork
    certificate: Certificate
    agreement: Agreement | None
    activations: ChangedActivations
    onnx_difference: float | None
    merge_s: float


def export_merged(
    network: Network,
    changes: Rewriting,
    file: Path | None,
    *,
    padding: str,
    certificate_file: Path | None,
    origin: WeightsOrigin,
    batch: int = 1,
    images: ValidationImages | None = None,
    about: Mapping[str, Any] | None = None,
) -> CertifiedExport:
    """Merge ``network`` as ``changes`` say and write it to ``file``, and its certificate, if asked.

    The top-1 agreement is checked on ``images``, if given: with the unmerged network, and with the
    original unless its weights are, by their ``origin``, those of the network without activations.
    Weights that were not trained for the merge are no error: the certificate says so. What is said
    ``about`` the network goes into the file's metadata, with its accuracy. A network that came from
    an ONNX file goes out as that file, in its own batch. Raises NotMergeable, CertificateError,
    ExportError.
    """
    start = time.perf_counter()
    merged = merge_network(network, changes, padding=padding)
    merge_s = time.perf_counter() - start
    certificate = certify(merged)
    certificate.require()
    metadata = {**merge_metadata(merged, certificate), **(about or {})}
    document, agreement = certificate.to_json(), None
    if images is not None:
        both = merged.unmerged(torch.float32), merged.module(torch.float32)
        whole = None if origin.trained == "without" else network.module
        agreement = top1_agreement(*both, images, whole)
        network.module.cpu()
        document |= {"validation": asdict(agreement), "unreadable": dict(images.unreadable_files)}
        if agreement.merged_accuracy_percent is not None:
            metadata |= accuracy_metadata(
                agreement.merged_accuracy_percent, agreement.images, images.digest
            )
    activations = changed_activations(changes, origin, agreement)
    document["activations"] = asdict(activations)
    metadata["trained"] = activations.trained
    difference = None
    if file is not None:
        if source := source_of(network.module):
            difference = export_edited(merged, source, file, metadata=metadata)
        else:
            difference = export_onnx(merged.network, file, batch=batch, metadata=metadata)
        # The two files are replaced one after the other: a kill between leaves those of two merges.
        with file.open("rb") as stream:
            document["onnx_sha256"] = hashlib.file_digest(stream, "sha256").hexdigest()
    if certificate_file is not None:
        write_atomically(certificate_file, json.dumps(document, indent=2) + "\n")
    return CertifiedExport(
        merged=merged,
        certificate=certificate,
        agreement=agreement,
        activations=activations,
        onnx_difference=difference,
        merge_s=merge_s,
    )
