"""The base of every error of this package that a user can mend.

DshrinkError
  NetworkError   a network that cannot be had (models)
  ShrinkError    a keep mask that does not fit (shrink)
  MergeError     a merge that cannot be exact, or is not (merge)
  SearchError    no plan, or none that meets the goal (search)
  TrainError     images or weights that cannot be trained with (train)
  EvaluationError  importances that cannot be measured, or a journal of others (importance)
  BenchmarkError  nothing to measure, or results that cannot be read (benchmark)
  FrontError     results that make no front (fronts)
  PlotError      nothing to draw (plots)
"""

from __future__ import annotations


class DshrinkError(ValueError):
    """One line that says what is wrong, where, and how to mend it."""
