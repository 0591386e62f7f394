"""What a user asks to bench: networks in hand, by name and ONNX files, and plans, at any batch.

A network by name is loaded once for all batch sizes; a file is read anew for each, for what it
leaves open is set to the batch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from dshrink.errors import DshrinkError
from dshrink.network.models import Network
from dshrink.network.onnx_files.source import is_onnx_name
from dshrink.network.references import Known, ModelChoice
from dshrink.operations.bench_networks import (
    BenchmarkError,
    BenchNetwork,
    network_of_file,
    networks_by_plan,
)
from dshrink.operations.known import known_of_plans, known_of_table
from dshrink.operations.opening import opened
from dshrink.pieces.advice import require_batch, require_writable
from dshrink.progress import Notice, no_notice
from dshrink.search.plan import Plan
from latency_tables.opspec import OpSpec
from latency_tables.table import LatencyTable


@dataclass(frozen=True, kw_only=True)
class BenchInputs:
    """The networks asked for; ``choice`` is what is asked of each by name, whatever its own is.

    ``tables`` by what errors call them say what they know of a network.
    """

    networks: Sequence[str | Network]
    plans: Sequence[Plan] = ()
    tables: Mapping[str, LatencyTable] = field(default_factory=dict)
    choice: ModelChoice | None = None
    padding: str | None = None
    notice: Notice = no_notice
    _loaded: dict[str, Network] = field(default_factory=dict, init=False, repr=False)

    def at(self, batch: int) -> list[BenchNetwork]:
        """All of them at this batch size. Raises DshrinkError for what cannot be measured."""
        files = self._files(batch)
        # A file of `dshrink merge` is what a plan made of a network, and no such network itself.
        given = [_normal(one) for one in self.networks]
        shrunk = all(isinstance(x, str) and x in files and not files[x].original for x in given)
        if self.plans and shrunk:
            raise DshrinkError("--plan needs a network given by name, not only merged ONNX files")
        others = [one for one in given if not isinstance(one, str) or one not in files]
        found: list[BenchNetwork] = []
        specs: dict[str, OpSpec] = {}
        for one in given:
            file = files.get(one) if isinstance(one, str) else None
            if file and not (self.plans and not others and file.original):
                found.append(file)
            else:
                network = self._network(one)
                require_batch(network, batch)
                require_writable(network)
                if specs.setdefault(network.name, network.spec) != network.spec:
                    raise BenchmarkError(
                        f"{one if isinstance(one, str) else one.name}: another network of these is "
                        f"called {network.name} as well: rename one, or measure them apart"
                    )
                found += networks_by_plan(network, self.plans, self.padding)
        return found

    def _files(self, batch: int) -> dict[str, BenchNetwork]:
        names = [one for one in self.networks if isinstance(one, str)]
        paths = [Path(name) for name in names if is_onnx_name(name)]
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

    def _network(self, one: str | Network) -> Network:
        if isinstance(one, Network):
            return opened(one, *self._known(one.name))
        if one not in self._loaded:
            asked = replace(self.choice, model=one) if self.choice else ModelChoice(model=one)
            self._loaded[one] = opened(asked, *self._known(asked.name), notice=self.notice)
        return self._loaded[one]

    def _known(self, name: str) -> list[Known | None]:
        """What plans and tables know of the network of that name."""
        of_tables = (
            known_of_table(table, f"the table {words}", name)
            for words, table in self.tables.items()
        )
        return [known_of_plans(self.plans), *of_tables]


def _normal(one: str | Network) -> str | Network:
    """A path of a file in one spelling."""
    return str(Path(one)) if isinstance(one, str) and is_onnx_name(one) else one
