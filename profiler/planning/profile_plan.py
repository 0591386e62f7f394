"""What a profile measures: every piece, and the networks a table is fitted to and tested on.

Equal pieces are one job. Whole networks are jobs in the same rounds as the pieces, so that
whatever disturbs the machine disturbs both. A duplicate is a piece measured again from a file
with other weights: two numbers that ought to be one. Other contexts than the isolated one need
more: a pair is a piece after the one before it, a layers job asks for the runtime's own profile of
a whole network.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from latency_tables.contexts import CONTEXTS
from latency_tables.opspec import OpSpec, join
from latency_tables.pieces import NetworkPieces, Piece
from latency_tables.places import Place
from profiler.errors import InvalidJobError
from profiler.planning.bounds import too_large
from profiler.planning.hold_out import between_masks, merged_forms, smallest_mask
from profiler.planning.jobs import Job, JobPlan
from profiler.planning.places import network_order, piece_before

DUPLICATES = 3
HOLD_OUT_NETWORKS = 20
#: Networks between the original and the all-merged one that the calibration is fitted to.
CALIBRATION_NETWORKS = 6

#: Weights of a duplicate come from another seed, so that a value among them cannot make them agree.
DUPLICATE_SEED = 1

#: compose(keep_mask, padding) is the whole network of a mask.
Compose = Callable[[str, str], OpSpec]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedNetwork:
    """A whole network: the ``role`` it has in the table and the job that measures it."""

    keep_mask: str
    padding: str
    role: str
    job_id: str


@dataclass(frozen=True, kw_only=True)
class ProfilePlan(JobPlan):
    """The jobs of a profile: what they are pieces of, and which role each whole network has.

    ``contexts`` are those that the pieces are costed in, ``too_large`` are the pieces that are
    not measured, and why.
    """

    jobs: tuple[Job, ...]
    pieces: NetworkPieces
    networks: tuple[PlannedNetwork, ...]
    contexts: tuple[str, ...] = CONTEXTS[:1]
    too_large: Mapping[Place, str] = field(default_factory=dict)

    @cached_property
    def in_networks(self) -> frozenset[Place]:
        """The places of the pieces that the planned networks are predicted from."""
        forms = self.pieces.forms
        return frozenset(
            place for one in self.networks for place in forms.places(one.keep_mask, one.padding)
        )

    def networks_of(self, role: str) -> tuple[PlannedNetwork, ...]:
        """The networks of a role: "base", "merged", "calibration" or "hold_out"."""
        return tuple(network for network in self.networks if network.role == role)


def pair_job_id(pair: OpSpec) -> str:
    """The id of the job of a piece after the one before it."""
    return f"pair {pair.digest}"


def duplicate_job_id(digest: str) -> str:
    """The id of the job that measures the piece of a digest a second time."""
    return f"duplicate {digest}"


def layers_job_id(network: PlannedNetwork) -> str:
    """The id of the job that profiles the layers of a network."""
    return f"layers of {network.job_id}"


def plan_jobs(
    pieces: NetworkPieces,
    compose: Compose,
    *,
    hold_out: int = HOLD_OUT_NETWORKS,
    duplicates: int = DUPLICATES,
    seed: int = 0,
    contexts: Sequence[str] = CONTEXTS[:1],
    max_kernel: int | None = None,
) -> ProfilePlan:
    """List every piece, the base, the all-merged networks, the hold-out networks, and duplicates.

    Then what the ``contexts`` need besides. Pieces are jobs in each of them: pairs are costed by
    the piece before them alone, and duplicates and the audit rest on pieces. Spans that
    are too large, or whose kernel is wider than ``max_kernel``, are in no job. Raises
    InvalidJobError where a network is not its pieces in their order, as "layers" needs it.
    """
    left_out = too_large(pieces, max_kernel)
    wanted = [piece for piece in pieces.pieces if piece.place not in left_out]
    piece_jobs = [
        Job(id=spec.digest, kind="piece", label=label, spec=spec)
        for label, spec in _distinct((piece.name, piece.spec) for piece in wanted)
    ]
    networks, network_jobs = _plan_networks(pieces, compose, hold_out, seed, left_out)
    more = _pair_jobs(pieces, wanted) if "pair" in contexts else []
    more += _layers_jobs(pieces, networks, network_jobs) if "layers" in contexts else []
    return ProfilePlan(
        pieces=pieces,
        jobs=(*piece_jobs, *network_jobs, *_duplicates(piece_jobs, duplicates), *more),
        networks=networks,
        shared=_shared(piece_jobs),
        contexts=tuple(contexts),
        too_large=left_out,
    )


def _distinct(named: Iterable[tuple[str, OpSpec]]) -> Iterator[tuple[str, OpSpec]]:
    """Equal specs once, with a label that counts them."""
    specs: dict[str, OpSpec] = {}
    names: dict[str, list[str]] = {}
    for name, spec in named:
        specs[spec.digest] = spec
        names.setdefault(spec.digest, []).append(name)
    for digest, spec in specs.items():
        first, *others = names[digest]
        yield f"{first} (and {len(others)} equal)" if others else first, spec


def _plan_networks(
    pieces: NetworkPieces,
    compose: Compose,
    hold_out: int,
    seed: int,
    left_out: Collection[Place],
) -> tuple[tuple[PlannedNetwork, ...], list[Job]]:
    forms = merged_forms(pieces)
    base, merged = pieces.forms.base, smallest_mask(pieces, left_out)
    wanted = [("base", base, forms[0])]
    if merged != base:
        wanted += [("merged", merged, padding) for padding in forms]
    unseen = between_masks(pieces, hold_out, seed, left_out=left_out)
    taken = [mask for mask, _ in unseen]
    fitted = between_masks(pieces, CALIBRATION_NETWORKS, seed, taken, left_out)
    wanted += [("calibration", *choice) for choice in fitted]
    wanted += [("hold_out", *choice) for choice in unseen]
    networks: list[PlannedNetwork] = []
    jobs: dict[str, Job] = {}
    for role, mask, padding in wanted:
        spec = compose(mask, padding)
        name = f"network {mask} {padding}"
        job = jobs.setdefault(spec.digest, Job(id=name, kind="network", label=name, spec=spec))
        networks.append(PlannedNetwork(keep_mask=mask, padding=padding, role=role, job_id=job.id))
    return tuple(networks), list(jobs.values())


def _pair_jobs(pieces: NetworkPieces, wanted: Iterable[Piece]) -> list[Job]:
    pairs = (
        (f"{before.name} + {piece.name}", join([before.spec, piece.spec]))
        for piece in wanted
        if (before := piece_before(pieces, piece))
    )
    return [
        Job(id=pair_job_id(spec), kind="pair", label=label, spec=spec)
        for label, spec in _distinct(pairs)
    ]


def _layers_jobs(
    pieces: NetworkPieces, networks: Iterable[PlannedNetwork], jobs: Iterable[Job]
) -> list[Job]:
    """Few networks that hold every piece between them: the original, and the all-merged ones."""
    if pieces.chain is not None:
        raise InvalidJobError(
            "the context 'layers' is for --segments blocks: the additions of a network of spans "
            "reach back, so a layer's operators do not identify its span; use isolated or pair"
        )
    specs = {job.id: job.spec for job in jobs}
    found: dict[str, Job] = {}
    for network in networks:
        if network.role not in ("base", "merged"):
            continue
        order = network_order(pieces, network.keep_mask, network.padding)
        spec = specs[network.job_id]
        if join([piece.spec for piece in order]).digest != spec.digest:
            raise InvalidJobError(
                f"{network.job_id} is not its pieces one after the other: a layer's operators do "
                "not identify its piece; leave the context 'layers' out"
            )
        name = layers_job_id(network)
        label = f"layers of {network.job_id.removeprefix('network ')}"
        found[name] = Job(id=name, kind="layers", label=label, spec=spec)
    return list(found.values())


def _by_macs(jobs: Iterable[Job]) -> list[Job]:
    return sorted(jobs, key=lambda job: (job.spec.macs, job.id))


def _duplicates(piece_jobs: Sequence[Job], count: int) -> list[Job]:
    """Duplicates of pieces spread evenly from the smallest to the largest."""
    ordered = _by_macs(piece_jobs)
    count = min(count, len(ordered))
    chosen = [ordered[(2 * number + 1) * len(ordered) // (2 * count)] for number in range(count)]
    return [
        Job(
            id=duplicate_job_id(job.digest),
            kind="duplicate",
            label=f"duplicate of {job.label}",
            spec=job.spec,
            weights_seed=DUPLICATE_SEED,
        )
        for job in chosen
    ]


def _shared(piece_jobs: Sequence[Job]) -> tuple[str, ...]:
    """Three pieces by which boards are compared: of middling size, one above and one below it."""
    ordered = _by_macs(piece_jobs)
    quarters = (len(ordered) * quarter // 4 for quarter in (2, 3, 1))
    return tuple(ordered[index].id for index in dict.fromkeys(quarters))
