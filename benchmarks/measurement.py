"""What is measured: rows of the table, their targets, and how the runs of one become an outcome.

A *scene* is what a row is measured in (nodes with data, or nothing): a context manager. Rows in a sequence
that name the same scene are measured in one instance of it. In each run a row's references are measured
first and the row at once after them, so that both see the same machine; then everything is a median over
the runs.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

QUICK_FACTOR = 50
QUICK_ROWS_MIN = 1000


@dataclass(frozen=True)
class Bench:
    """What all measurements share. ``directory`` is on the disk that is measured."""

    directory: Path
    runs: int = 3
    size: int = 100_000
    quick: bool = False

    def scaled(self, count: int, least: int = QUICK_ROWS_MIN) -> int:
        """``count``; with ``quick`` a small part of it, but not below ``least``."""
        return min(count, max(least, count // QUICK_FACTOR)) if self.quick else count


Point = Mapping[str, float | str]
"""A line of a row's own table, by name with unit: growth at one size, recall at one ef."""


@dataclass(frozen=True)
class Figure:
    """One run of a row: its value, and what is worth showing beside it, by name with unit.

    ``references``: those that only this scene could measure. ``points``: a table of its own, and a plot.
    """

    value: float
    details: Mapping[str, float] = field(default_factory=dict)
    references: Mapping[str, float] = field(default_factory=dict)
    points: tuple[Point, ...] = ()


@dataclass(frozen=True)
class Target:
    """What a row must reach: ``bound`` makes it from the references of the same run.

    ``limits``: further bounds, on details of the row, each a test of (details, references).
    """

    text: str
    bound: Callable[[Mapping[str, float]], float]
    at_least: bool
    limits: Sequence[Callable[[Mapping[str, float], Mapping[str, float]], bool]] = ()

    def met(self, value: float, details: Mapping[str, float], references: Mapping[str, float]) -> bool:
        """Whether the row reaches it."""
        bound = self.bound(references)
        enough = value >= bound if self.at_least else value <= bound
        return enough and all(limit(details, references) for limit in self.limits)


def at_least(text: str, bound: Callable[[Mapping[str, float]], float]) -> Target:
    """More is better."""
    return Target(text, bound, at_least=True)


def at_most(text: str, bound: Callable[[Mapping[str, float]], float]) -> Target:
    """Less is better."""
    return Target(text, bound, at_least=False)


Derived = Callable[[float, Mapping[str, float], Mapping[str, float]], Mapping[str, float]]
Scene = Callable[[Bench], AbstractContextManager[Any]]


@dataclass(frozen=True)
class Row:
    """A line of the table. ``name`` is what ``--rows`` takes; ``references`` are names of ``references``.

    ``measure`` is one run in the scene. ``once``: too long to be repeated.
    """

    name: str
    what: str
    unit: str
    scene: Scene
    measure: Callable[[Any], Figure]
    references: Sequence[str] = ()
    target: Target | None = None
    once: bool = False
    derived: Derived | None = None
    """Further details, from value, details and references of all runs."""


@dataclass(frozen=True)
class Outcome:
    """A measured row, as it goes into the table and into JSON; medians over ``runs``."""

    name: str
    what: str
    unit: str
    value: float
    runs: tuple[float, ...]
    references: Mapping[str, float]
    details: Mapping[str, float]
    target: str
    bound: float | None
    met: bool | None
    revision: str
    measured_at: str
    points: tuple[Point, ...] = ()
    """Of the last run."""
    load: float | None = None
    """The machine's load average over the minute before: above 0.5 something else ran."""

    @property
    def share(self) -> float | None:
        """The value in terms of the target's bound."""
        return None if not self.bound else self.value / self.bound


Reference = Callable[[Bench], Mapping[str, float]]


def measure_row(
    row: Row, scene: Any, bench: Bench, known: Mapping[str, Reference], revision: str, now: str
) -> Outcome:
    """All runs of one row, its references beside each."""
    load = os.getloadavg()[0]
    figures: list[Figure] = []
    references: list[dict[str, float]] = []
    for _ in range(1 if row.once else bench.runs):
        beside: dict[str, float] = {}
        for name in row.references:
            beside.update(known[name](bench))
        figure = row.measure(scene)
        figures.append(figure)
        references.append({**beside, **figure.references})
    value = statistics.median(figure.value for figure in figures)
    middle, details = medians(references), medians([figure.details for figure in figures])
    if row.derived is not None:
        details.update(row.derived(value, details, middle))
    target = row.target
    return Outcome(
        row.name,
        row.what,
        row.unit,
        value,
        tuple(figure.value for figure in figures),
        middle,
        details,
        "" if target is None else target.text,
        None if target is None else target.bound(middle),
        None if target is None else target.met(value, details, middle),
        revision,
        now,
        figures[-1].points,
        load,
    )


def medians(runs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The median of each name, over those runs that have it."""
    names = dict.fromkeys(name for run in runs for name in run)
    return {name: statistics.median(run[name] for run in runs if name in run) for name in names}


def percentile(values: Sequence[float], share: float) -> float:
    """The value that ``share`` percent of the values do not exceed."""
    return float(np.percentile(values, share, method="higher"))


class Watch:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self._began = time.perf_counter()

    @property
    def seconds(self) -> float:
        """So far."""
        return time.perf_counter() - self._began
