"""The errors of this package, each one a line that says what, where and how to fix it.

LatencyTableError (a ValueError)
    PieceError           a piece, or a list of pieces, that describes no network
    TableFormatError     a file that is not a table, or a table that contradicts itself
    MissingPieceError    a piece that the table does not hold
    ConditionsError      numbers measured under different conditions
    MaskError            a keep mask that does not fit the network
    CalibrationError     networks, or an estimate from them, that cannot be
    OnnxFileError        an ONNX file that is damaged, or that lacks data of its own
    NoKeyError           operators that another project's format has no key for
"""

from __future__ import annotations


class LatencyTableError(ValueError):
    """Base of all errors of ``latency_tables``."""


class PieceError(LatencyTableError):
    """A piece, or a list of pieces, that describes no network."""


class TableFormatError(LatencyTableError):
    """A file that is not a table, or a table that contradicts itself."""


class MissingPieceError(LatencyTableError):
    """A piece that the table does not hold, or whose measurement failed."""


class ConditionsError(LatencyTableError):
    """Numbers measured under different conditions, or conditions that make no sense."""


class MaskError(LatencyTableError):
    """A keep mask that does not fit the network."""


class CalibrationError(LatencyTableError):
    """Measured networks, or an estimate from them, that cannot be."""


class OnnxFileError(LatencyTableError):
    """An ONNX file that is damaged, or that lacks data of its own."""


class NoKeyError(LatencyTableError):
    """Operators that another project's format has no key for; the text is the reason."""
