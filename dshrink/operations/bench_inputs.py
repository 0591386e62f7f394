"""What a user asks to bench: networks by name, alone and under plans, and ONNX files, at any batch.

A network by name is loaded once for all batch sizes; a file is read anew for each, for what it
leaves open is set to the batch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from dshrink.errors import DshrinkError
from dshrink.network.models import Network, load
from dshrink.network.onnx_files.source import is_onnx_name
from dshrink.network.references import ModelChoice
from dshrink.operations.bench_networks import (
    BenchmarkError,
    BenchNetwork,
    network_of_file,
    networks_by_plan,
)
from dshrink.operations.known import known_of_plans, known_of_table
from dshrink.pieces.advice import require_batch, require_writable
from dshrink.search.plan import Plan
from latency_tables.opspec import OpSpec
from latency_tables.table import LatencyTable


@dataclass(frozen=True, kw_only=True)
class BenchInputs:
    """The networks asked for; ``choice`` is what is asked of each by name, whatever its own is.

    ``tables`` by their folder say what they know of a network.
    """

    names: Sequence[str]
    plans: Sequence[Plan] = ()
    tables: Mapping[Path, LatencyTable] = field(default_factory=dict)
    choice: ModelChoice | None = None
    padding: str | None = None
    _loaded: dict[str, Network] = field(default_factory=dict, init=False, repr=False)

    def at(self, batch: int) -> list[BenchNetwork]:
        """All of them at this batch size. Raises DshrinkError for what cannot be measured."""
        files = self._files(batch)
        # A file of `dshrink merge` is what a plan made of a network, and no such network itself.
        names = [str(Path(name)) if is_onnx_name(name) else name for name in self.names]
        shrunk = all(name in files and not files[name].original for name in names)
        if self.plans and shrunk:
            raise DshrinkError("--plan needs a network given by name, not only merged ONNX files")
        by_name = [name for name in names if name not in files]
        found: list[BenchNetwork] = []
        specs: dict[str, OpSpec] = {}
        for name in names:
            if name in files and not (self.plans and not by_name and files[name].original):
                found.append(files[name])
            else:
                network = self._network(name)
                require_batch(network, batch)
                require_writable(network)
                if specs.setdefault(network.name, network.spec) != network.spec:
                    raise BenchmarkError(
                        f"{name}: another network of these is called {network.name} as well: "
                        "rename one, or measure them apart"
                    )
                found += networks_by_plan(network, self.plans, self.padding)
        return found

    def _files(self, batch: int) -> dict[str, BenchNetwork]:
        paths = [Path(name) for name in self.names if is_onnx_name(name)]
        alike = Counter(path.name for path in paths)
        return {
            str(path): network_of_file(
                path,
                batch,
                str(path) if alike[path.name] > 1 else path.name,
                self.choice.resolution if self.choice else None,
            )
            for path in paths
        }

    def _network(self, name: str) -> Network:
        if name not in self._loaded:
            asked = replace(self.choice, model=name) if self.choice else ModelChoice(model=name)
            of_tables = [known_of_table(table, at, asked) for at, table in self.tables.items()]
            self._loaded[name] = load(asked.knowing(known_of_plans(self.plans), *of_tables))
        return self._loaded[name]
