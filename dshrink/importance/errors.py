"""The error of measuring importance: one line that says what, where and how to fix it."""

from __future__ import annotations

from dshrink.errors import DshrinkError


class EvaluationError(DshrinkError):
    """Importances that cannot be measured, or a journal that belongs to others."""
