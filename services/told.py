"""Which requests get a line in the worker's log: what an engineer woken at night wants to read, and no more.

An unexpected error gets a line each, with its request id. Of refusals (a caller's mistake, a full house) the first of
a kind gets a line, and then one line every ten seconds says how many more there were: a flood of bad calls cannot bury
the rest, or fill the disk. Answers get none. HEADWAY_ACCESS_LOG=on gives every request its line. None quotes input.
"""

from __future__ import annotations

import asyncio

from services.exchange import Exchange
from services.report import report

SUM_UP_SECONDS = 10.0


class Told:
    """The lines of one worker about requests.

    Args:
        all: whether every request gets a line.
    """

    def __init__(self, *, all: bool = False) -> None:
        self.all = all
        self._quiet: dict[tuple[str, int, str], tuple[int, str]] = {}
        """Refusals without a line, by route, status and code: how many, and the last request id."""

    def refused(self, exchange: Exchange, status: int, code: str) -> None:
        """A request was refused."""
        kind = (exchange.route, status, code)
        if not self.all and kind in self._quiet:
            self._quiet[kind] = (self._quiet[kind][0] + 1, exchange.request_id)
            return
        _line(exchange, status, code=code)
        if not self.all:
            self._keep_quiet(kind)

    def broke(self, exchange: Exchange, error: str, where: list[str]) -> None:
        """Something unexpected went wrong: the name of the error and the frames that it came through."""
        _line(exchange, 500, code="internal", error=error, where=where)

    def answered(self, exchange: Exchange) -> None:
        """A request was answered."""
        if self.all:
            _line(exchange, exchange.status)

    def close(self) -> None:
        """Say what has not been said."""
        for kind in list(self._quiet):
            self._sum_up(kind)

    def _keep_quiet(self, kind: tuple[str, int, str]) -> None:
        self._quiet[kind] = (0, "")
        asyncio.get_running_loop().call_later(SUM_UP_SECONDS, self._over, kind)

    def _over(self, kind: tuple[str, int, str]) -> None:
        if self._sum_up(kind):
            self._keep_quiet(kind)

    def _sum_up(self, kind: tuple[str, int, str]) -> int:
        (more, last), (route, status, code) = self._quiet.pop(kind, (0, "")), kind
        if more:
            report(
                "refusals", level=_level(status), route=route, status=status, code=code, more=more,
                last_request_id=last,
            )  # fmt: skip
        return more


def _line(exchange: Exchange, status: int, **more: object) -> None:
    took = round(exchange.seconds * 1000, 3)
    report(
        "request", level=_level(status), request_id=exchange.request_id, route=exchange.route, status=status, ms=took,
        **more,
    )  # fmt: skip


def _level(status: int) -> str:
    return "error" if status >= 500 else "warning" if status >= 400 else "info"
