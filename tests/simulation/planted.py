"""Bugs planted on purpose, to see that the simulation finds them.

Each is a mistake that somebody could make, of another kind than the others, put into the loaded
code of a process. ``seeds`` says within how many seeds it must be found, of those that have enough of the
kinds of faults that it ``needs``; the same seeds are green without it. `planted.txt` keeps the seed that
found it last, which is tried first.
"""

from __future__ import annotations

import gc
import multiprocessing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import Any

from tests.simulation import runtime
from tests.simulation.simulation import run_seed
from tests.simulation.swarm import FAULTS, swarm_of

KNOWN_SEEDS = Path(__file__).with_name("planted.txt")
SHARE = 0.3
"""So much of what happens must be of the kinds that a bug needs."""
PLANTS: dict[str, Plant] = {}


@dataclass(frozen=True, slots=True)
class Plant:
    """A bug: its name, what it is, within how many seeds it must be found, and how it is planted."""

    name: str
    sentence: str
    seeds: int
    sow: Callable[[], None]
    needs: tuple[str, ...] = ()
    """Kinds of faults; "secret" = that the nodes share one."""

    def chosen(self) -> Iterator[int]:
        """The first ``seeds`` seeds in which it can show itself often enough."""
        kinds = [kind for kind in self.needs if kind in FAULTS]
        fit = (
            seed
            for seed in count()
            if swarm_of(seed).share(kinds or list(FAULTS)) >= SHARE
            and (swarm_of(seed).secret or "secret" not in self.needs)
        )
        return islice(fit, self.seeds)


@dataclass(frozen=True, slots=True)
class Finding:
    """Which seed found a bug, after how many; None = none did."""

    name: str
    seed: int | None
    tried: int
    violation: str


def plant(
    sentence: str, seeds: int = 10, needs: tuple[str, ...] = ()
) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """Register a function that plants a bug."""

    def register(sow: Callable[[], None]) -> Callable[[], None]:
        PLANTS[sow.__name__] = Plant(sow.__name__, sentence, seeds, sow, needs)
        return sow

    return register


def around(owner: Any, name: str, wrapper: Callable[..., Any]) -> None:
    """Replace ``owner.name`` by ``wrapper(original, ...)``."""
    original = getattr(owner, name)
    setattr(owner, name, lambda *args, **kwargs: wrapper(original, *args, **kwargs))


def sow(name: str | None) -> None:
    """Plant this one, before anything runs in this process; None = nothing."""
    runtime.load()
    gc.freeze()  # what is loaded stays: looking through it again and again took 5 % of a seed
    gc.set_threshold(20_000, 20, 50)
    if name is not None:
        PLANTS[name].sow()


def known_seeds() -> dict[str, int]:
    """By name: the seed that found it when they were recorded."""
    lines = KNOWN_SEEDS.read_text(encoding="utf-8").splitlines() if KNOWN_SEEDS.exists() else []
    pairs = (line.partition("#")[0].split() for line in lines)
    return {pair[0]: int(pair[1]) for pair in pairs if pair}


def record(finding: Finding) -> None:
    """Write down which seed found a bug."""
    known = known_seeds()
    if finding.seed is not None:
        known[finding.name] = finding.seed
    lines = [f"{name} {seed}" for name, seed in sorted(known.items()) if name in PLANTS]
    text = "# A seed that finds each planted bug; written by scripts/simulate --plants --record.\n"
    KNOWN_SEEDS.write_text(text + "\n".join(lines) + "\n", encoding="utf-8")


def find_all(names: list[str], jobs: int) -> Iterator[Finding]:
    """Look for each bug: under the seed that is known to find it, then under those that it chooses.

    Each in a process of its own, forked from this one, which loads the code once.
    """
    runtime.load()
    known = known_seeds()
    tasks = [(name, known.get(name)) for name in names]
    with multiprocessing.get_context("fork").Pool(jobs, maxtasksperchild=1) as pool:
        yield from pool.imap_unordered(_find, tasks, chunksize=1)


def _find(task: tuple[str, int | None]) -> Finding:
    name, first = task
    plant = PLANTS[name]
    plant.sow()
    seeds = [*([] if first is None else [first]), *plant.chosen()]
    for tried, seed in enumerate(seeds, start=1):
        outcome = run_seed(seed)
        if outcome.violations:
            return Finding(name, seed, tried, outcome.violations[0])
    return Finding(name, None, len(seeds), "")


from tests.simulation import bugs_in_replication, bugs_in_storage  # noqa: E402, F401  they register here
