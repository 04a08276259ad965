"""Swarm testing: which kinds of faults, orders and requests a seed has, and how much of each.

A cluster that meets only cuts and switchovers gets further into their corners than one that meets
everything. So each seed first draws how many kinds it does without, then which. The draw is of the seed
alone: what happens in the cluster does not change it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

FAULTS: Mapping[str, float] = {
    "crash master": 1.0,
    "crash replica": 1.0,
    "crash at a step": 1.0,
    "restart": 1.0,
    "cut": 1.0,
    "partition": 1.0,
    "partition one way": 1.0,
    "slow link": 1.0,
    "freeze": 1.0,
    "disk full": 1.0,
    "disk error": 0.5,
    "empty disk": 0.3,
    "promote": 1.0,
    "promote twice": 0.5,
    "fail over": 1.0,
    "follow": 0.3,
    "follow by force": 0.15,
    "chain": 0.7,
    "change sizes": 0.3,
    "switchover": 2.0,
    "switchover and crash": 1.5,
    "switchover and cut": 1.5,
    "abort switchover": 0.5,
    "take back by force": 0.15,
    "wrong secret": 0.7,
    "new secret": 0.3,
    "unreadable secret": 0.2,
    "start without secret": 0.2,
    "stranger": 0.5,
}
"""By kind: how often it comes, where the seed has it, compared with the others."""
REQUESTS: Mapping[str, float] = {
    "write": 3.0,
    "write and wait": 2.0,
    "delete": 1.0,
    "create": 0.5,
    "drop": 0.15,
    "read": 1.0,
    "read what was written": 1.5,
}
DO_WITHOUT = (0.2, 0.5, 0.8)
"""A seed does without each kind with one of these chances."""
WEIGHTS = (1.0, 1.0, 3.0)


@dataclass(frozen=True, slots=True)
class Swarm:
    """What one seed has: weights by kind, 0 for the kinds that it does without."""

    faults: Mapping[str, float]
    requests: Mapping[str, float]
    secret: bool
    """Whether the nodes share one."""

    def share(self, kinds: Sequence[str]) -> float:
        """How much of what happens is of these kinds of faults and orders, 0 to 1."""
        return sum(self.faults[kind] for kind in kinds) / sum(self.faults.values())


def swarm_of(seed: int) -> Swarm:
    """The same for the same seed, everywhere and always."""
    random = Random(f"swarm {seed}")
    faults, requests = _draw(random, FAULTS, "cut"), _draw(random, REQUESTS, "write")
    return Swarm(faults, requests, random.random() < 0.5)


def _draw(random: Random, kinds: Mapping[str, float], least: str) -> dict[str, float]:
    """``least`` is always there, so that something happens."""
    without = random.choice(DO_WITHOUT)
    weights = {
        kind: 0.0 if random.random() < without else random.choice(WEIGHTS) * share
        for kind, share in kinds.items()
    }
    weights[least] = weights[least] or 1.0
    return weights
