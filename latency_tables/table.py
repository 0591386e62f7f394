"""The latency table: what each piece of a network costs, alone and in the network.

Rows say what pieces take alone, networks what wholes take; from both follows what each piece costs
in a network (``estimator``). The latency of a network is the sum of these costs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import astuple, dataclass, field
from functools import cached_property
from typing import Any

from latency_tables.errors import TableFormatError
from latency_tables.estimator import Costs
from latency_tables.forms import merged_kind
from latency_tables.hold_out import HoldOut, HoldOutNetwork, fitted_line
from latency_tables.measured import one_line
from latency_tables.networks import Level, MeasuredNetwork
from latency_tables.places import Place
from latency_tables.priors import Estimate, known_networks, network_costs, observations
from latency_tables.span_masks import Span
from latency_tables.table_rows import TableRows, digest_of
from latency_tables.wording import counted

#: A table whose hold-out error is larger is not fit for search.
FIT_MAPE_PERCENT = 2.0
#: With fewer networks it is said that the pieces alone are nearly all that is known.
FEW_NETWORKS = 3


@dataclass(frozen=True, kw_only=True)
class LatencyTable(TableRows):
    """Rows, and the whole networks that say what the rows' pieces cost in a network.

    ``estimate`` says how that is estimated, None before it is and where no network was measured.
    ``level`` is how fast the machine was over the run, None where that is not known.
    ``fingerprint`` (the machine) and ``boards`` (how the boards that shared the work compare) are
    JSON data for readers.
    """

    networks: tuple[MeasuredNetwork, ...] = ()
    estimate: Estimate | None = None
    level: Level | None = None
    fingerprint: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    date: str = ""
    dshrink_version: str = ""
    boards: tuple[Mapping[str, Any], ...] = ()
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        # Tuples inside of free-form data would come back from a file as lists.
        object.__setattr__(self, "fingerprint", _plain_json(self.fingerprint, "fingerprint"))
        object.__setattr__(self, "boards", tuple(_plain_json(list(self.boards), "boards")))
        super().__post_init__()
        if self.networks and self.origin is not None:
            raise TableFormatError("a published table has no networks of ours")
        for network in self.networks:
            self.places(network.keep_mask, network.padding)

    @cached_property
    def digest(self) -> str:
        """16 hex digits of the rows and the networks: what a plan was made from."""
        return digest_of([self.rows_digest, *(astuple(network) for network in self.networks)])

    @cached_property
    def base_ms(self) -> float | None:
        """The original network, measured end to end; None where it was not."""
        base = self.forms.base
        return next((one.measured_ms for one in self.networks if one.keep_mask == base), None)

    @cached_property
    def known_networks(self) -> tuple[MeasuredNetwork, ...]:
        """Those whose pieces all have a latency."""
        return known_networks(self.networks, self.rows, self.forms)

    @cached_property
    def costs(self) -> Costs | None:
        """What the pieces cost in a network; None without networks or an estimate."""
        if not self.networks or self.estimate is None:
            return None
        seen = observations(self.known_networks, self.forms)
        return network_costs(self.rows, seen, self.estimate)

    @cached_property
    def _cost_by_place(self) -> Mapping[Place, float]:
        costs = self.costs
        return dict(zip(costs.places, costs.mean_ms.tolist(), strict=True)) if costs else {}

    def cost_ms(self, kind: str, at: int | Span | None = None) -> float:
        """What a piece costs in a network, where that is known, else alone.

        It may be 0 or below. Raises MissingPieceError.
        """
        alone_ms = self.measured(kind, at)[1]
        return self._cost_by_place.get((kind, at), alone_ms)

    def saving_ms(self, block: int, padding: str = "bias_map") -> float:
        """What merging the block saves in the network; negative where merging costs."""
        merged = merged_kind(self.by_place, block, padding)
        return self.cost_ms("original", block) - self.cost_ms(merged, block)

    def pair_ms(self, block: int) -> float:
        """What a network takes more if a block and the one before it are both merged.

        It is beside what each of them costs; negative where that is less.
        """
        return self._cost_by_place.get(("pair", (block - 1, block)), 0.0)

    def scaled_macs_ms(self, keep_mask: str, padding: str | None = None) -> float:
        """What the share of the MACs alone would say, of the original network where it is known."""
        macs, known_ms = self._reference
        return known_ms * self.macs(keep_mask, padding) / macs if macs else known_ms

    @cached_property
    def _reference(self) -> tuple[int, float]:
        base = self.forms.base
        for one in sorted(self.known_networks, key=lambda one: one.keep_mask != base):
            return self.macs(one.keep_mask, one.padding), one.measured_ms
        return self.macs(base), self.sum_ms(base)

    @cached_property
    def hold_out(self) -> HoldOut | None:
        """The networks of role "check" and their predictions; None where there are none."""
        checked = [network for network in self.known_networks if network.role == "check"]
        if self.costs is None or not checked:
            return None
        return HoldOut(tuple(self._held_out(network, self.costs) for network in checked))

    def _held_out(self, network: MeasuredNetwork, costs: Costs) -> HoldOutNetwork:
        mask, padding = network.keep_mask, network.padding
        predicted_ms, sd_ms = costs.predict(self.places(mask, padding))
        sum_ms, line = self.sum_ms(mask, padding), self._line
        return HoldOutNetwork(
            keep_mask=mask,
            padding=padding,
            measured_ms=network.measured_ms,
            measured_low_ms=network.low_ms,
            measured_high_ms=network.high_ms,
            predicted_ms=predicted_ms,
            predicted_sd_ms=sd_ms,
            plain_sum_ms=sum_ms,
            line_ms=line[0] * sum_ms + line[1] if line else None,
            scaled_macs_ms=self.scaled_macs_ms(mask, padding),
        )

    @cached_property
    def _fitted(self) -> tuple[MeasuredNetwork, ...]:
        return tuple(network for network in self.known_networks if network.role == "fit")

    @cached_property
    def _line(self) -> tuple[float, float] | None:
        sums_ms = [self.sum_ms(one.keep_mask, one.padding) for one in self._fitted]
        return fitted_line(sums_ms, [one.measured_ms for one in self._fitted]) if sums_ms else None

    @property
    def fit_for_search(self) -> bool:
        """Whether a search may trust this table; ``fit_reason`` says why not."""
        return not self.fit_reason

    @cached_property
    def fit_reason(self) -> str:
        """Why this table is not fit for search, or an empty text."""
        if self.origin is not None:
            return (
                f"its latencies were published by others, not measured here: {self.origin.source}"
            )
        if self.missing_row:
            return self.missing_row
        if self.costs is None or not self._fitted:
            return "no whole network was measured: its sums were never compared with one"
        if self.hold_out is None:
            return "it has no hold-out check: the error of its predictions is not known"
        if self.hold_out.mape_percent > FIT_MAPE_PERCENT:
            return (
                f"its predictions are off by {self.hold_out.mape_percent:.2f} % on held-out "
                f"networks (MAPE; at most {FIT_MAPE_PERCENT:g} % is fit for search)"
            )
        return ""

    @cached_property
    def data_note(self) -> str:
        """Where the data are thin, in one line; empty where they are not."""
        if self.origin is not None:
            return ""
        notes = [] if self.forms.can_merge else ["nothing can merge: there is one network only"]
        count = len(self._fitted)
        if self.costs is None:
            notes.append("no whole network was measured: each piece counts as much as alone")
        elif count < FEW_NETWORKS and not self.missing_row:
            notes.append(
                f"only {counted(count, 'whole network')} could be used: costs in "
                "the network are nearly those of pieces alone"
            )
        return "; ".join(notes)


def _plain_json(value: Any, name: str) -> Any:
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise TableFormatError(f"{name} is not JSON data: {one_line(str(error))}") from None
