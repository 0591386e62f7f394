"""What a profile may measure: every piece alone, and whole networks.

Equal pieces are one job. Networks are in three roles: those that every profile starts from (the
original and the all-merged ones), candidates, of which as many are measured as the predictions
need, and those that take no part in the estimate and check it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from latency_tables.opspec import OpSpec
from latency_tables.pieces import NetworkPieces, Piece
from latency_tables.places import Place
from profiler.planning.bounds import too_large
from profiler.planning.hold_out import between_masks, merged_forms, smallest_mask
from profiler.planning.jobs import Job, JobPlan

#: Networks that check the predictions, where nothing else is asked for.
CHECK_NETWORKS = 20
#: Networks that the ones to learn from are chosen among.
CANDIDATES = 80
#: Pieces that every board of a fleet measures, for comparison.
SHARED_PIECES = 3

#: compose(keep_mask, padding) is the whole network of a mask.
Compose = Callable[[str, str], OpSpec]
#: operators(keep_mask, padding) is the place of each operator of that network.
Operators = Callable[[str, str], tuple[Place, ...]]
NetworkRole = Literal["start", "candidate", "check"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedNetwork:
    """A whole network: its role, the job that measures it, and the one that profiles its layers.

    ``profile_id`` is empty where the runtime has no such profile, and for networks that check.
    """

    keep_mask: str
    padding: str
    role: NetworkRole
    job_id: str
    profile_id: str = ""


@dataclass(frozen=True, kw_only=True)
class ProfilePlan(JobPlan):
    """The jobs of a profile: what they are pieces of, and which role each whole network has.

    ``too_large`` are the pieces that are not measured, and why.
    """

    jobs: tuple[Job, ...]
    pieces: NetworkPieces
    networks: tuple[PlannedNetwork, ...]
    operators: Operators
    too_large: Mapping[Place, str] = field(default_factory=dict)

    @cached_property
    def by_id(self) -> Mapping[str, Job]:
        """The jobs by their id."""
        return {job.id: job for job in self.jobs}

    @cached_property
    def piece_ids(self) -> tuple[str, ...]:
        """The jobs that measure pieces alone."""
        return tuple(job.id for job in self.jobs if job.kind == "piece")

    @cached_property
    def in_networks(self) -> frozenset[Place]:
        """The places of the pieces that the planned networks are predicted from."""
        return frozenset(place for one in self.networks for place in self.places(one))

    def places(self, network: PlannedNetwork) -> tuple[Place, ...]:
        """The pieces of a planned network."""
        return self.pieces.forms.places(network.keep_mask, network.padding)

    def networks_of(self, *roles: NetworkRole) -> tuple[PlannedNetwork, ...]:
        """The networks of these roles."""
        return tuple(network for network in self.networks if network.role in roles)


def plan_jobs(
    pieces: NetworkPieces,
    compose: Compose,
    operators: Operators,
    *,
    check: int = CHECK_NETWORKS,
    candidates: int = CANDIDATES,
    seed: int = 0,
    profiles: bool = False,
    max_kernel: int | None = None,
) -> ProfilePlan:
    """List every piece and the networks; with ``profiles`` their layers as well.

    Spans that are too large, or whose kernel is wider than ``max_kernel``, are in no job.
    """
    left_out = too_large(pieces, max_kernel)
    wanted = [piece for piece in pieces.pieces if piece.place not in left_out]
    piece_jobs = [
        Job(id=spec.digest, kind="piece", label=label, spec=spec)
        for label, spec in _distinct(wanted)
    ]
    networks: list[PlannedNetwork] = []
    jobs: dict[str, Job] = {}
    for role, mask, padding in _masks(pieces, check, candidates, seed, left_out):
        spec = compose(mask, padding)
        if role != "start" and spec.digest in jobs:
            continue  # equal to another one: nothing new would be measured
        name = f"network {mask} {padding}"
        job = jobs.setdefault(spec.digest, Job(id=name, kind="network", label=name, spec=spec))
        is_profiled = profiles and role != "check"
        networks.append(
            PlannedNetwork(
                keep_mask=mask,
                padding=padding,
                role=role,
                job_id=job.id,
                profile_id=f"layers of {job.id}" if is_profiled else "",
            )
        )
    profiled = {network.job_id: network.profile_id for network in networks if network.profile_id}
    layers = [
        Job(id=profiled[job.id], kind="layers", label=f"layers of {job.label}", spec=job.spec)
        for job in jobs.values()
        if job.id in profiled
    ]
    return ProfilePlan(
        pieces=pieces,
        jobs=(*piece_jobs, *jobs.values(), *layers),
        networks=tuple(networks),
        operators=operators,
        shared=_shared(piece_jobs),
        too_large=left_out,
    )


def _masks(
    pieces: NetworkPieces, check: int, candidates: int, seed: int, left_out: Collection[Place]
) -> Iterator[tuple[NetworkRole, str, str]]:
    """Role, mask and padding of each network; those of different roles differ."""
    forms = merged_forms(pieces)
    base, merged = pieces.forms.base, smallest_mask(pieces, left_out)
    yield "start", base, forms[0]
    if merged != base:
        for padding in forms:
            yield "start", merged, padding
    checked = between_masks(pieces, check, seed, left_out=left_out)
    for mask, padding in checked:
        yield "check", mask, padding
    taken = [mask for mask, _ in checked]
    for mask, padding in between_masks(pieces, candidates, seed, taken, left_out):
        yield "candidate", mask, padding


def _distinct(wanted: Iterable[Piece]) -> Iterator[tuple[str, OpSpec]]:
    """Equal specs once, with a label that counts them."""
    specs: dict[str, OpSpec] = {}
    names: dict[str, list[str]] = {}
    for piece in wanted:
        specs[piece.spec.digest] = piece.spec
        names.setdefault(piece.spec.digest, []).append(piece.name)
    for digest, spec in specs.items():
        first, *others = names[digest]
        yield f"{first} (and {len(others)} equal)" if others else first, spec


def _shared(piece_jobs: Iterable[Job]) -> tuple[str, ...]:
    """Pieces of middling size, long enough to time well and short enough to repeat often."""
    ordered = sorted(piece_jobs, key=lambda job: (job.spec.macs, job.id))
    quarters = (len(ordered) * quarter // 4 for quarter in range(1, SHARED_PIECES + 1))
    return tuple(ordered[index].id for index in dict.fromkeys(quarters))
