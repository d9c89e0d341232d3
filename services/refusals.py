"""What the endpoint says when it does not answer: one JSON shape for every refusal."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

RETRY_AFTER_SECONDS = 1


class Complaint(msgspec.Struct, frozen=True):
    """What was wrong: a code for programs, a message for people, and the field it is about ("" for none)."""

    code: str
    message: str
    path: str = ""


class ErrorBody(msgspec.Struct, frozen=True):
    """The body of every answer that is not a prediction."""

    error: Complaint
    request_id: str = ""


class Refused(Exception):  # noqa: N818 - a refusal is an answer, not a fault
    """Raised on the way to an answer, and turned into an `ErrorBody` with `status`. Never holds the caller's input
    in what is logged: only `status` and `code` are.
    """

    def __init__(
        self, status: int, code: str, message: str, path: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.complaint = Complaint(code, message, path)
        self.headers = dict(headers or {})


def busy(code: str, message: str) -> Refused:
    """A 503 that asks the caller to come back."""
    return Refused(503, code, message, headers={"Retry-After": str(RETRY_AFTER_SECONDS)})
