"""The units that a refit has finished, in a file, for the run that goes on after it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from dshrink.errors import DshrinkError
from dshrink.refit.fitting import UnitFit
from dshrink.refit.network_refit import Fitted
from dshrink.train.checkpoint import save_tensors
from dshrink.train.identity import differences, listed
from latency_tables.records import convert_record, parse_record, plain

NAME = "fitted.safetensors"
_KEY = "dshrink_refit"
_FIX = "delete it to start afresh"


class RefitError(DshrinkError):
    """A refit that cannot be done, or a folder of another one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stored:
    identity: dict[str, Any]
    fits: tuple[UnitFit, ...]


@dataclass(kw_only=True)
class RefitJournal:
    """A folder's finished units: the fits in the file's metadata, the tensors by unit and name.

    ``identity`` is what a fit depends on.
    """

    folder: Path
    identity: Mapping[str, Any]
    fitted: dict[str, Fitted] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: Path, identity: Mapping[str, Any]) -> RefitJournal:
        """With what an interrupted run has left. Raises RefitError for that of another refit."""
        journal = cls(folder=folder, identity=plain(identity))
        file = folder / NAME
        if not file.exists():
            return journal
        where = str(file)
        try:
            with safe_open(file, framework="pt") as stored:
                text = (stored.metadata() or {}).get(_KEY, "")
                tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise RefitError(f"{file}: cannot be read ({error}); {_FIX}") from None
        data = parse_record(text, dict[str, Any], where=where, error=RefitError, fix=_FIX)
        known = convert_record(data, _Stored, where=where, error=RefitError, fix=_FIX)
        if found := differences(known.identity, journal.identity):
            raise RefitError(
                f"{file} is of another refit ({listed(found)}): ask for the same again, choose "
                f"another --out, or {_FIX}"
            )
        for number, fit in enumerate(known.fits):
            prefix = f"{number}."
            own = {
                name.removeprefix(prefix): tensor
                for name, tensor in tensors.items()
                if name.startswith(prefix)
            }
            if "weight" not in own or not all(bool(one.isfinite().all()) for one in own.values()):
                raise RefitError(f"{file}: {fit.label} has no weights, or such of NaN; {_FIX}")
            journal.fitted[fit.label] = (fit, own)
        return journal

    def add(self, fitted: Fitted) -> None:
        """Keep a unit, on disk once this returns."""
        self.fitted[fitted[0].label] = fitted
        fits = [fit for fit, _ in self.fitted.values()]
        tensors: dict[str, Tensor] = {
            f"{number}.{name}": tensor
            for number, (_, own) in enumerate(self.fitted.values())
            for name, tensor in own.items()
        }
        about = {"identity": self.identity, "fits": [plain(fit) for fit in fits]}
        self.folder.mkdir(parents=True, exist_ok=True)
        save_tensors(tensors, self.folder / NAME, {_KEY: json.dumps(about)})
