"""Errors of the tracking package."""

from __future__ import annotations

from harness.tracking.server_errors import Failure


class TrackingError(ValueError):
    """The store cannot be used, or does not have what was asked for; the message names what is allowed."""


class NothingToReport(TrackingError):
    """A sweep has no run with a loss yet."""


class SweepBusy(TrackingError):
    """Another process runs this sweep, or writes to this store."""


class RefusedFile(TrackingError):
    """Files outside the store's own root, a link, or something that is no regular file; `failure` says which."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(str(failure))
        self.failure = failure


class ServerError(TrackingError):
    """A server did not answer or refused a request; `failure` says why."""

    def __init__(self, message: str, failure: Failure) -> None:
        super().__init__(message)
        self.failure = failure
