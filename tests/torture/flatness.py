"""Is a measured quantity flat? The last third of a run against the first, with the noise that is allowed."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

MIB = 1 << 20
SAMPLES_MIN = 6


@dataclass(frozen=True, slots=True)
class Noise:
    """A quantity may grow by a share of itself and a fixed amount before it counts as growing."""

    share: float
    amount: float

    def most(self, value: float) -> float:
        """What ``value`` may have become."""
        return value * (1 + self.share) + self.amount


ALLOWED: Mapping[str, Noise] = {
    "RssAnon bytes": Noise(0.10, 3 * MIB),
    "open files": Noise(0.0, 5),
    "greenlets": Noise(0.0, 5),
    # The pools of threads are bounded, and filled as more is asked at once.
    "threads": Noise(0.0, 6),
    "disk bytes": Noise(0.25, MIB),
}


def thirds(series: Sequence[float]) -> tuple[float, float]:
    """The medians of the first and the last third. ValueError if there are too few to say."""
    if len(series) < SAMPLES_MIN:
        raise ValueError(f"{len(series)} samples, {SAMPLES_MIN} are needed")
    part = len(series) // 3
    return statistics.median(series[:part]), statistics.median(series[-part:])


def growths(name: str, series: Mapping[str, Sequence[float]]) -> list[str]:
    """A sentence for each quantity of ``name`` that is not flat."""
    found = []
    for quantity, values in series.items():
        if len(values) < SAMPLES_MIN:
            continue  # a run too short to say
        first, last = thirds(values)
        most = ALLOWED[quantity].most(first)
        if last > most:
            found.append(f"{name}: {quantity} grew from {first:,.0f} to {last:,.0f}; {most:,.0f} are allowed")
    return found
