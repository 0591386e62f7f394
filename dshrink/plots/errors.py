"""The error of drawing: PlotError (a DshrinkError)."""

from __future__ import annotations

from dshrink.errors import DshrinkError


class PlotError(DshrinkError):
    """Nothing to draw, or results that cannot be read: one line that says how to fix it."""
