"""Latency tables that others published: those that ship with the package, and files of one's own.

``data/published/tables.toml`` says of each that ships what it was measured under, who published it
and under which licence; ``published:NAME`` names it. Nothing in these tables was measured by us.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from types import MappingProxyType

from latency_tables.errors import TableFormatError
from latency_tables.origin import Origin
from latency_tables.pieces import NetworkPieces, Piece, piece_row
from latency_tables.places import Place, piece_name
from latency_tables.published_times import PublishedTimes, load_times
from latency_tables.schema import Conditions
from latency_tables.table import LatencyTable

PREFIX = "published:"
_FOLDER = "data/published"
_MANIFEST = "tables.toml"
#: More names than that do not help in a message.
_MOST_NAMED = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedTable:
    """What is known of one table: its file, its network, its conditions and its origin.

    ``name`` is for messages; ``resolution`` is (H, W).
    """

    name: str
    path: Traversable
    model: str
    resolution: tuple[int, int]
    conditions: Conditions
    origin: Origin

    def load_times(self) -> PublishedTimes:
        """Its latencies, by place. Raises TableFormatError."""
        return load_times(self.path, self.name, self.model)


@cache
def published_tables() -> Mapping[str, PublishedTable]:
    """The tables that ship with the package, by name, in the order of the manifest."""
    folder = files("latency_tables").joinpath(_FOLDER)
    manifest = tomllib.loads(folder.joinpath(_MANIFEST).read_text("utf-8"))
    origins = {name: Origin(**data) for name, data in manifest["origins"].items()}
    return MappingProxyType(
        {
            name: PublishedTable(
                name=f"{PREFIX}{name}",
                path=folder.joinpath(data["file"]),
                model=data["model"],
                resolution=(data["resolution"][0], data["resolution"][1]),
                conditions=Conditions(**data["conditions"]),
                origin=origins[data["origin"]],
            )
            for name, data in manifest["tables"].items()
        }
    )


def find_published(text: str) -> PublishedTable:
    """The table of this name, with or without "published:". Raises TableFormatError."""
    name, known = text.removeprefix(PREFIX), published_tables()
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    raise TableFormatError(
        f"no published table {name!r} ships with the package; "
        f"{'did you mean' if near else 'known'}: "
        f"{', '.join(f'{PREFIX}{each}' for each in near or known)}"
    )


def join_published(
    published: PublishedTable,
    times: PublishedTimes,
    pieces: NetworkPieces,
    *,
    date: str = "",
    dshrink_version: str = "",
) -> LatencyTable:
    """The table of these latencies, each joined by key with its piece.

    Published tables of spans have no rows for residual additions, so their chain has no skips
    either: what these cost is not known. Raises TableFormatError for keys that the network does not
    have, and where a convolution (or a block) of it has no latency of its own.
    """
    by_place = {time.place: time for time in times.times}
    _check_keys(published.name, times, pieces)
    left_out = sum(
        piece.kind in ("span", "merged") and piece.place not in by_place for piece in pieces.pieces
    )
    unmerged = (
        f"no published latency for {left_out} of the {times.segments} that could merge: "
        "they stay unmerged"
    )
    return LatencyTable(
        **pieces.cut | {"chain": replace(pieces.chain, skips=()) if pieces.chain else None},
        rows=tuple(
            piece_row(
                piece, verdict="published", latency_ms=time.latency_ms, stdev_ms=time.stdev_ms
            )
            for piece in pieces.pieces
            if (time := by_place.get(piece.place))
        ),
        conditions=published.conditions,
        origin=published.origin,
        warnings=tuple(text for text in (unmerged if left_out else "", times.note) if text),
        date=date,
        dshrink_version=dshrink_version,
    )


def _check_keys(name: str, times: PublishedTimes, pieces: NetworkPieces) -> None:
    given = {time.place for time in times.times}
    split: list[Place] = [("span", span) for span in sorted(times.split)]
    named = [*(time.place for time in times.times), *split]
    unknown = [piece_name(place) for place in named if place not in pieces.by_place]
    if unknown:
        size = (
            f"a chain of {pieces.chain.length} convolutions"
            if pieces.chain
            else f"{pieces.block_count} blocks, numbered from 0"
        )
        raise TableFormatError(
            f"{name} has {_named(unknown)}, which {pieces.model} ({size}) does not "
            "have or cannot merge: is it the table of another network?"
        )
    missing = [
        piece.name
        for piece in pieces.pieces
        if (piece.kind == "original" or _is_single(piece)) and piece.place not in given
    ]
    if missing:
        raise TableFormatError(
            f"{name} has no {_named(missing)} of {pieces.model}: every "
            f"{'convolution' if pieces.chain else 'block'} needs a latency of its own"
        )


def _is_single(piece: Piece) -> bool:
    return piece.kind == "span" and piece.span is not None and piece.span[1] - piece.span[0] == 1


def _named(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_MOST_NAMED])
    more = len(names) - _MOST_NAMED
    return f"{shown} and {more} more" if more > 0 else shown
