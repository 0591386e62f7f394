"""Which resolution a network is loaded at, where a plan, weights or a table know one."""

from __future__ import annotations

from dshrink.errors import DshrinkError


def one_resolution(
    asked: int | None, known: tuple[int, int] | None, whose: str
) -> int | tuple[int, int]:
    """What ``known`` says, else ``asked``, else 224. Raises DshrinkError where the two differ."""
    if known is None:
        return asked or 224
    if asked is not None and tuple(known) != (asked, asked):
        raise DshrinkError(
            f"--resolution {asked}: {whose} is for {known[0]}x{known[1]}; leave --resolution out"
        )
    return known[0], known[1]
