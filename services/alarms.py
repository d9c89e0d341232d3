"""The room of Sentry: by HEADWAY_SENTRY_DSN unexpected errors are told there, without input, without variables."""

from __future__ import annotations

import time
from typing import Any

from features import HeadwayError
from services.exchange import Exchange

QUIET_SECONDS = 10.0


class Alarms:
    """Unexpected errors of one worker, sent in the background.

    A client of our own, with none of the integrations: nothing is patched, no request, log line or breadcrumb is read.
    The message of an error may quote what a caller sent, so it stays here; its kind and its frames go.

    Args:
        dsn: where Sentry, or what speaks like it, listens.

    Raises HeadwayError when `dsn` is none.
    """

    def __init__(self, dsn: str) -> None:
        import sentry_sdk
        from sentry_sdk.utils import BadDsn, event_from_exception

        try:
            self._client = sentry_sdk.Client(
                dsn=dsn, include_local_variables=False, send_default_pii=False, max_request_body_size="never",
                default_integrations=False, auto_enabling_integrations=False, auto_session_tracking=False,
                send_client_reports=False, max_breadcrumbs=0, spotlight=False, before_send=_without_message,
            )  # fmt: skip
        except BadDsn:
            raise HeadwayError("HEADWAY_SENTRY_DSN is not a DSN: it looks like https://KEY@HOST/PROJECT.") from None
        self._event = event_from_exception
        self._told: dict[tuple[type[Exception], str], float] = {}

    def tell(self, error: Exception, exchange: Exchange, model: str) -> None:
        """An error that nobody foresaw, under the request's id; of a kind and route the first in ten seconds.

        To build an event takes a millisecond of the event loop, and a flood of errors is the last to be slowed by it.
        """
        kind, now = (type(error), exchange.route), time.monotonic()
        if now - self._told.get(kind, -QUIET_SECONDS) < QUIET_SECONDS:
            return
        self._told[kind] = now
        event, hint = self._event(error, client_options=self._client.options)
        event["tags"] = {"request_id": exchange.request_id, "route": exchange.route, "model": model or "none"}
        self._client.capture_event(event, hint)

    def close(self) -> None:
        """Send what waits, and stop."""
        self._client.close(timeout=2.0)


def _without_message(event: Any, _: Any) -> Any:
    for value in event.get("exception", {}).get("values", ()):
        value["value"] = ""
    return event
