"""The expectations contract: what the data must look like. One file a data domain, one suite a source.

A rule is a Great Expectations expectation by its own name and arguments, so every expectation of its gallery
can be used. Severity decides what a failure does:

* critical: the batch stops: nothing of it is kept, retraining is vetoed, the champion goes on serving.
* warning: the rows that break the rule are quarantined, the others are kept.
* info: noted.
"""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import Field, model_validator

from features import _contract
from features._contract import DeclarationError, Name, contract, unique

__all__ = ["DeclarationError", "Expectations", "Rule", "Suite", "load", "names"]

Severity = Literal["critical", "warning", "info"]

_ABOUT_ROWS = re.compile(r"expect_(column_values?_|column_pair_values_|compound_|select_column_values_|multicolumn_)")
"""What Great Expectations calls those that say of each row whether it holds."""


@contract
class Rule:
    """One expectation on a batch.

    `expect` is a Great Expectations type such as `expect_column_values_to_be_between`; `args` are its arguments,
    `column` among them where it is about one.
    """

    expect: str = Field(pattern=r"^expect_[a-z_]+$")
    severity: Severity
    args: dict[str, Any] = Field(default_factory=dict)
    why: str = Field(min_length=1)
    """For the person who reads the quarantine: what a break of this rule means."""

    @model_validator(mode="after")
    def _rows(self) -> Rule:
        if self.severity == "warning" and not _ABOUT_ROWS.match(self.expect):
            raise ValueError(
                f"a warning quarantines rows, and {self.expect} speaks of a column or a table as a whole: make it "
                "critical or info, or use a rule about values, such as expect_column_values_to_be_between"
            )
        return self


@contract
class Suite:
    """What the batches of one source must look like."""

    source: Name
    rules: tuple[Rule, ...] = Field(min_length=1)
    fixed: tuple[str, ...] = ()
    """Columns that no correction changes. A known key that comes with another value names something else: an id used
    again. Such rows are quarantined."""
    unwatched: tuple[str, ...] = ()
    """Columns that may change in any way. What is usual for all others is learned from the source's own past: level,
    spread, missing share, longest run, order and relation of columns, categories, characters, clock (see
    `pipelines/data/learned.py`)."""


@contract
class Expectations:
    """The suites of one domain, and what a request may carry."""

    domain: Name
    suites: tuple[Suite, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _consistent(self) -> Expectations:
        unique(self.suites, "suites", lambda suite: suite.source)
        return self

    def suite(self, source: str) -> Suite:
        """The suite of a source. Raises DeclarationError naming the sources that have one."""
        for suite in self.suites:
            if suite.source == source:
                return suite
        raise DeclarationError(
            f"expectations/{self.domain}.py has no suite for source {source!r}; "
            f"it has: {', '.join(suite.source for suite in self.suites)}"
        )


def names() -> list[str]:
    """The domains that have expectations, sorted."""
    return _contract.names(__name__)


def load(name: str) -> Expectations:
    """The suites that `expectations/<name>.py` declares. Raises DeclarationError naming the valid ones."""
    return _contract.load(__name__, name, Expectations)
