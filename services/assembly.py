"""From what a pointer names to a version that can answer: loaded, checked, and with all that answering needs."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import expectations
import features
import models
from features import HeadwayError
from pipelines.home import Home
from pipelines.registry import package
from pipelines.registry.pointers import Pointer
from services.answers import Role
from services.champion import Served
from services.lookup import Lookup
from services.online import OnlineStore
from services.report import report
from services.schema import RequestSchema


class Assembly:
    """Makes what serves. Slow (it reads files, unpickles, asks Feast): call it in a thread.

    Args:
        at: the root.
        request_clock: whether requests may carry `as_of`.
        now: the clock, for `Served.since`.
    """

    def __init__(self, at: Home, *, request_clock: bool, now: Callable[[], datetime]) -> None:
        self._at, self._request_clock, self._now = at, request_clock, now
        self._store: OnlineStore | None = None

    def make(self, pointer: Pointer, role: Role, *known: package.Packaged | None) -> Served:
        """The version that a pointer names, ready to answer. One of `known`, if it is that version, spares loading it.

        Raises HeadwayError: hashes or golden rows do not hold, it is another version than the pointer names, or its
        features cannot be served.
        """
        wanted = (pointer.tag, pointer.digest)
        same = (old for old in known if old and (old.manifest.tag, old.manifest.digest) == wanted)
        packaged = next(same, None) or package.load(self._at, pointer.tag)
        if (packaged.manifest.model, packaged.manifest.digest) != (pointer.model, pointer.digest):
            raise HeadwayError(
                f"{pointer.tag} is not the version that is named for {pointer.model}. The champion stays."
            )
        return self._assembled(pointer, packaged, role)

    def _assembled(self, pointer: Pointer, packaged: package.Packaged, role: Role) -> Served:
        manifest = packaged.manifest
        if packaged.fallback:
            report("slow_scorer", level="warning", model=manifest.model, tag=manifest.tag, why=packaged.fallback)
        declared, domain = models.load(manifest.model), features.load(manifest.domain)
        computed = domain.request_features_of(manifest.feature_service)
        lookup = Lookup(self._fresh_store(), manifest, computed)
        lookup.check()
        schema = RequestSchema(
            manifest.model,
            manifest.keys,
            manifest.inputs,
            required=[name for part in computed for name in part.inputs],
            rules=_rules(declared),
            clock=self._request_clock,
        )
        return Served(pointer, packaged, schema, lookup, declared.description, self._now(), role)

    def _fresh_store(self) -> OnlineStore:
        """Feast, as the registry is now; one for all versions."""
        if self._store is None:
            self._store = OnlineStore(self._at)
        else:
            self._store.refresh()
        return self._store


def _rules(model: models.Model) -> list[expectations.Rule]:
    """The rules on the sources that examples are made from: a request's fields are columns of those."""
    if model.domain not in expectations.names():
        return []
    suites = {suite.source: suite for suite in expectations.load(model.domain).suites}
    return [rule for source in model.examples.sources if source in suites for rule in suites[source].rules]
