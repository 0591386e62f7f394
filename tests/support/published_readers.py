"""How the projects whose formats we write read them, from their code's description.

Written for these tests: nothing of it knows how dshrink writes a file.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import yaml


class OfaLookup:
    """once-for-all: ofa/nas/efficiency_predictor/latency_lookup_table.py, ``query``."""

    def __init__(self, path: Path) -> None:
        self.table = yaml.load(path.read_text(), Loader=yaml.FullLoader)

    def query(self, kind: str, before: Sequence[int], after: Sequence[int], **more: int) -> float:
        """Shapes are (h, w, channels); ``more`` are the numbers of an expanded_conv, in order."""
        words = [kind, f"input:{self._shape(before)}", f"output:{self._shape(after)}"]
        words += [f"{name}:{number:d}" for name, number in more.items()]
        return float(self.table["-".join(words)]["mean"])

    @staticmethod
    def _shape(shape: Sequence[int]) -> str:
        return "x".join(str(number) for number in shape)


class HalpLookup:
    """HALP: prune/cost.py, ``CostCalculator._get_layer_latency`` for a table's batch size."""

    def __init__(self, path: Path, batch: int) -> None:
        data = path.read_bytes()
        self.table = pickle.loads(data) if path.suffix == ".pkl" else json.loads(data)
        self.batch = batch

    def latency(
        self, cin: int, cout: int, kernel: int, feat_size: int, stride: int, groups: int
    ) -> float:
        if cin <= 0 or cout <= 0:
            return 0.0
        return float(
            self.table[f"{self.batch}_{cin}_{cout}_{feat_size}_{kernel}_{stride}_{groups}"]
        )


def kim_value(frame: pd.DataFrame, st: int, end: int, column: str) -> Any:
    """Kim et al.: utils/dp.py, ``val_df``: None where the table lacks the span."""
    chosen = frame.loc[(frame["st"] == st) & (frame["end"] == end), :]
    if not len(chosen):
        return None
    assert len(chosen) == 1
    return chosen[column].values[0]


def kim_optimal_times(frame: pd.DataFrame, spans: Sequence[tuple[int, int]]) -> pd.DataFrame:
    """Kim et al.: utils/dp.py, ``generate_optimal_time_table``: opt_time from time."""
    best: dict[tuple[int, int], tuple[float, float, list[int]]] = {}
    for st, end in spans:
        found = (
            float(kim_value(frame, st, end, "time")),
            float(kim_value(frame, st, end, "stdev")),
            [st, end],
        )
        for cut in range(st + 1, end):
            if (st, cut) in best and (cut, end) in spans:
                ms = best[st, cut][0] + float(kim_value(frame, cut, end, "time"))
                if ms < found[0]:
                    stdev = best[st, cut][1] + float(kim_value(frame, cut, end, "stdev"))
                    found = ms, stdev, [*best[st, cut][2], end]
        best[st, end] = found
    return pd.DataFrame(
        {
            "id": range(len(spans)),
            "st": [st for st, _ in spans],
            "end": [end for _, end in spans],
            "time": [best[span][0] for span in spans],
            "stdev": [best[span][1] for span in spans],
            "breaks": [",".join(map(str, best[span][2])) for span in spans],
        }
    )
