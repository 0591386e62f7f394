"""The errors of this package, each one a line that says what, where and how to fix it.

ProfilerError
    MeasurementError    samples that no statistic can be derived from
    InvalidJobError     a job, or a plan of jobs, that cannot be measured
    JournalError        a journal that cannot be read, or that belongs to another run
    SessionError        a run that cannot continue, whatever the jobs are
        BoardLostError      one board of a fleet was lost; the others continue
        DeviceMemoryError   one job after the other needs more memory than the device has

A job that fails on the device is no error but a value: ``replies.Failure``.
"""

from __future__ import annotations


class ProfilerError(Exception):
    """Base of all errors of ``profiler``."""


class MeasurementError(ProfilerError, ValueError):
    """Samples that no statistic can be derived from."""


class InvalidJobError(ProfilerError, ValueError):
    """A job, or a plan of jobs, that cannot be measured."""


class JournalError(ProfilerError, ValueError):
    """A journal that cannot be read, or that belongs to another run."""


class SessionError(ProfilerError):
    """A run that cannot continue, whatever the jobs are: a missing runtime, a broken agent."""


class BoardLostError(SessionError):
    """A board that was lost in the middle of a run; it may come back."""


class DeviceMemoryError(SessionError):
    """One job after the other failed for more memory than the device has."""
