"""The importance table on disk: the published columns, and a JSON sidecar with how it was made."""

from __future__ import annotations

import json
import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dshrink.importance.evaluation import Evaluation, Platform
from dshrink.search.dp.files import SIDECAR_SCHEMA, SIDECAR_VERSION
from dshrink.search.importance import ImportanceKey
from latency_tables.csv_lines import write_csv
from latency_tables.files import write_atomically

#: Those of snu-mllab/Efficient-CNN-Depth-Compression. Changes against the original network: losses
#: in nats, accuracies in percentage points, below 0 where something is lost.
COLUMNS = "id,st,end,st_act,end_act,train_loss,train_acc,val_loss,val_acc"


@dataclass(frozen=True, kw_only=True)
class ImportanceTable:
    """An evaluation a key, in the keys' order, and the original network's."""

    evaluations: Mapping[ImportanceKey, Evaluation]
    original: Evaluation

    @property
    def missing(self) -> dict[ImportanceKey, str]:
        """Keys without a value, and why."""
        return {key: e.reason for key, e in self.evaluations.items() if e.reason}

    @property
    def platforms(self) -> Counter[Platform]:
        """How many networks were evaluated by what; their scores differ a little for it."""
        evaluated = {e.candidate: e for e in (self.original, *self.evaluations.values())}
        return Counter(e.platform for e in evaluated.values() if e.platform and not e.reason)

    def rows(self) -> list[Sequence[float]]:
        """Rows of the published format; a key's id is its number among all of them."""
        return [
            (number, *key, *(round(change, 6) for change in found.changes(self.original)))
            for number, (key, found) in enumerate(self.evaluations.items())
            if not found.reason
        ]


def save_importance(path: Path, table: ImportanceTable, about: Mapping[str, Any]) -> Path:
    """Write the CSV and, next to it, ``about`` it as JSON; returns that file's path."""
    write_csv(path, COLUMNS.split(","), table.rows())
    sidecar = path.with_suffix(".json")
    document = {
        "schema": SIDECAR_SCHEMA,
        "schema_version": SIDECAR_VERSION,
        **about,
        "keys": len(table.evaluations),
        "evaluated_by": [
            {**platform._asdict(), "networks": count} for platform, count in table.platforms.items()
        ],
        "original": {
            "train_loss": table.original.train_loss,
            "train_accuracy": table.original.train_accuracy,
            "val_loss": table.original.val_loss,
            "val_accuracy": table.original.val_accuracy,
        },
        "missing": [{"key": list(key), "reason": reason} for key, reason in table.missing.items()],
    }
    write_atomically(sidecar, json.dumps(document, indent=2, allow_nan=False) + "\n")
    return sidecar


def versions() -> dict[str, str]:
    """What the scores were computed with."""
    import timm
    import torch

    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "timm": str(timm.__version__),
    }
