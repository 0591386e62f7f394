"""The errors of training, each one a line that says what, where and how to fix it.

TrainError (a DshrinkError)
    DataError       images that cannot be used; UnreadableError (in ``unreadable``) is one of them
    DivergedError   a loss that is not finite
    CheckpointError a checkpoint of another run, or one that cannot be read
    SettingsError   a setting that makes no sense, or is not known (in ``settings``)
"""

from __future__ import annotations

from dshrink.errors import DshrinkError


class TrainError(DshrinkError):
    """Base of all errors of ``dshrink.train``."""


class DataError(TrainError):
    """A folder of images that cannot be used."""


class DivergedError(TrainError):
    """A loss that is not finite."""


class CheckpointError(TrainError):
    """A checkpoint of another run, or one that cannot be read."""
