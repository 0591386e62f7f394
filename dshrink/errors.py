"""The errors of this package that a user can fix, and their base.

DshrinkError
  NetworkError     unknown name, not traceable, weights that cannot be read
    WeightsMisfitError  names or shapes of weights that are not the network's
    UserCodeError  what the code of the user's own network raised
  ShrinkError      a mask that does not fit the network, or merges what cannot merge
  MergeError       layers that do not fit together
    NotMergeable   layers that have no exact single convolution; the message says why
    CertificateError  a merged network that differs from what it replaces
  SearchError      no plan, or none that meets the goal (search.errors)
  TrainError       images or weights that cannot be trained with (train.errors)
  EvaluationError  importances that cannot be measured, or a journal of others (importance.settings)
  BenchmarkError   nothing to measure (benchmark)
  ResultsError     results that cannot be read (results)
  FrontError       results that make no front (fronts)
"""

from __future__ import annotations


class DshrinkError(ValueError):
    """One line that says what is wrong, where, and how to fix it."""


class NetworkError(DshrinkError):
    """A network that cannot be loaded: unknown name, not traceable, weights that do not fit."""


class WeightsMisfitError(NetworkError):
    """Weights whose names or shapes are not the network's."""


class UserCodeError(NetworkError):
    """What the code of the user's own network raised; ``trace`` is the user's traceback."""

    def __init__(self, message: str, trace: str = "") -> None:
        super().__init__(message)
        self.trace = trace


class ShrinkError(DshrinkError):
    """A mask that does not fit the network, or a block or span that cannot merge."""


class MergeError(DshrinkError):
    """Layers that do not fit together."""


class NotMergeable(MergeError):  # noqa: N818 - the word that plans and tables use for it
    """Layers without an exact single convolution under the padding mode asked for."""


class CertificateError(MergeError):
    """A merged network that differs from what it replaces by more than the tolerance."""


class PlotError(DshrinkError):
    """Nothing to draw, or a file of a picture's data that cannot be read."""


def first_line(error: BaseException) -> str:
    """What an error of a library says, in one line; its kind where it says nothing."""
    return (str(error).strip().splitlines() or [repr(error)])[0]
