"""Errors that reach a user: each message is one sentence that names the thing and the way out."""

from __future__ import annotations


class UserError(Exception):
    """Something the caller can mend; printed without a traceback unless --debug is given."""


class Stopped(KeyboardInterrupt):
    """A signal asked the process to leave, and what it was doing was saved: not an error, and no cell's failure."""


class ImageError(UserError):
    """An image that cannot be read faithfully.

    Args:
        uid: the record's uid.
        reason: what is wrong, and the way out.
    """

    def __init__(self, uid: str, reason: str) -> None:
        super().__init__(f"image {uid!r}: {reason}")
        self.uid = uid
        self.reason = reason


class Unavailable(UserError):  # noqa: N818  (named after the status)
    """Weights or data that cannot be had here.

    Args:
        reason: what is missing.
        remedy: how to get it.
    """

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(f"{reason}; {remedy}")
        self.reason = reason
        self.remedy = remedy


class Unsupported(UserError):  # noqa: N818  (named after the status)
    """The method lacks the capability, or the data set lacks what a protocol needs: never a score of 0."""
