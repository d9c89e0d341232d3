"""The tasks as callers meet them: what an answer looks like, which ones may leave, and what outcomes are told as."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from services.answers import ClassPrediction, Degraded, Prediction, Probability, ProbabilityPrediction

if TYPE_CHECKING:
    from pipelines.registry.package import Band

THRESHOLD = 0.5
SLACK = 1e-6
"""How far from 1 the probabilities of all classes may sum."""
Shown = Prediction | ProbabilityPrediction | ClassPrediction


@dataclass(frozen=True)
class Kind:
    """A task. An answer is what a row of `Packaged.score` holds: a float, or a list of one float a class."""

    shape: tuple[int, ...]
    """Of the answer to one row."""
    sane: Callable[[Any], bool]
    """Whether an answer can be one: finite and in range."""
    shown: Callable[[Any, list[Degraded]], Shown]
    """What the caller gets of it."""
    number: Callable[[Any], float]
    """The one number of it that profiles count, as `tasks.columns` has it."""
    chances: Callable[[Any], dict[str, float] | UnsetType]
    """The probability of each class, where there are several."""
    documented: Callable[[str], type[msgspec.Struct]]
    """The type of what the caller gets, exactly; of several classes it is named after the model."""
    taken: Any
    """The type that the label of an outcome is decoded as."""
    told: Any
    """The type that it is documented as."""
    wrong: Callable[[Any], str]
    """What is wrong with a decoded label; empty when nothing is."""


def kind(task: str, classes: Sequence[str] | UnsetType = (), interval: Band | None = None) -> Kind:
    """The kind of a version's answers, by its manifest."""
    return KINDS[task](tuple(classes or ()), interval)


def _binary(_: tuple[str, ...], __: Band | None) -> Kind:
    return Kind(
        shape=(),
        sane=lambda chance: 0.0 <= chance <= 1.0,
        shown=lambda chance, gaps: ProbabilityPrediction(chance, gaps, chance, chance >= THRESHOLD),
        number=_itself,
        chances=_none,
        documented=lambda _: ProbabilityPrediction,
        taken=bool | float,
        told=bool | Annotated[int, Meta(ge=0, le=1)],  # 1.0 is an integer too, as JSON Schema has it
        wrong=lambda label: "" if label in (0, 1) else "Expected 0, 1, true or false",
    )


def _multiclass(classes: tuple[str, ...], _: Band | None) -> Kind:
    def shown(chances: list[float], gaps: list[Degraded]) -> ClassPrediction:
        return ClassPrediction(classes[chances.index(max(chances))], gaps, named(chances))

    def named(chances: list[float]) -> dict[str, float]:
        return dict(zip(classes, chances, strict=True))

    return Kind(
        shape=(len(classes),),
        sane=lambda chances: abs(sum(chances) - 1.0) <= SLACK and all(0.0 <= each <= 1.0 for each in chances),
        shown=shown,
        number=max,
        chances=named,
        documented=lambda title: _exact(title, classes),
        taken=str,
        told=Literal[classes],
        wrong=lambda label: "" if label in classes else f"Expected one of {', '.join(classes)}",
    )


def _regression(_: tuple[str, ...], band: Band | None) -> Kind:
    def shown(value: float, gaps: list[Degraded]) -> Prediction:
        return Prediction(value, gaps, value + band.low, value + band.high) if band else Prediction(value, gaps)

    return Kind(
        shape=(),
        sane=math.isfinite,
        shown=shown,
        number=_itself,
        chances=_none,
        documented=lambda _: Prediction,
        taken=float,
        told=float,
        wrong=lambda label: "" if math.isfinite(label) else "Expected a finite number",
    )


KINDS: Mapping[str, Callable[[tuple[str, ...], Band | None], Kind]] = MappingProxyType(
    {"binary": _binary, "multiclass": _multiclass, "regression": _regression}
)


def _exact(title: str, classes: tuple[str, ...]) -> type[msgspec.Struct]:
    """`ClassPrediction` with the classes that it speaks of."""
    rename = {f"{name}_": name for name in classes}
    chances = msgspec.defstruct(
        f"{title}Probabilities", [(name, Probability) for name in rename], rename=rename, frozen=True
    )
    exact: dict[str, Any] = {"prediction": Literal[classes], "probabilities": chances}
    fields = [(each.name, exact.get(each.name, each.type)) for each in msgspec.structs.fields(ClassPrediction)]
    document = {"__doc__": ClassPrediction.__doc__}
    return msgspec.defstruct(f"{title}Prediction", fields, frozen=True, namespace=document)


def _itself(value: float) -> float:
    return value


def _none(_: float) -> UnsetType:
    return UNSET
