"""What clients were promised beyond an acknowledgement: replicas that hold a write, replicas enough to write
at all, reads that are no older than asked.

- ``wait=n``: the nodes that the answer counts held the write durably at that time; a node that held it and is
  promoted still holds it; a promotion of the best of all replicas loses none of these writes.
- What a node believes to be durable on a replica was so at some time.
- ``min_replicas_to_write``: a write is let in only if so many replicas were heard within the accepted lag,
  and had by then what was written before it.
- ``min_offset``: what is read then contains the write that was asked for.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.simulation.truth import ROOT, Key, key_of

if TYPE_CHECKING:
    from tests.simulation.checks import Checks
    from tests.simulation.machine import Machine
    from vectorizer.node import Node
    from vectorizer.storage.chunk import View


@dataclass(slots=True)
class Waited:
    """A write that was answered with a number of replicas, and who held it then."""

    key: Key
    machine: str
    at: float
    holders: set[str]


@dataclass(slots=True)
class Promises:
    """Of one simulation."""

    checks: Checks
    waited: list[Waited] = field(default_factory=list)
    got: dict[str, dict[Key, float]] = field(default_factory=dict)  # when a process applied an operation
    _had: dict[str, list[Key]] = field(default_factory=dict)  # where a machine's data ended, each time
    _applied: dict[str, list[Key]] = field(default_factory=dict)  # the same, with what was not durable
    _best: dict[str, set[Key]] = field(default_factory=dict)  # what the machine to be promoted must hold

    # -- who held what --------------------------------------------------------------------------------------

    def ended(self, machine: Machine, key: Key, applied: Key) -> None:
        """The machine goes on with other data, or dies: up to here it held, and had applied, what it had."""
        self._had.setdefault(machine.name, []).append(key)
        self._applied.setdefault(machine.name, []).append(applied)

    def gave_up(self, machine: Machine, key: Key) -> None:
        """Its data is another one now, by right: up to here. A promotion of before that was refused."""
        self._best.pop(machine.name, None)
        chain = self._chain(key)
        for write in self.waited:
            if machine.name in write.holders and write.key not in chain:
                write.holders.discard(machine.name)

    def disk_lost(self, machine: Machine) -> None:
        """Its disk is a new one."""
        self._best.pop(machine.name, None)
        for write in self.waited:
            write.holders.discard(machine.name)

    def ever_held(self, machine: Machine, key: Key) -> bool:
        """Whether this machine has held the operation durably at some time."""
        node = machine.node
        ends = list(self._had.get(machine.name, ()))
        if node is not None:
            ends.append(key_of(node.history, min(node.durable_offset, node.offset)))
        return self._is_below(key, ends)

    def _is_below(self, key: Key, ends: list[Key]) -> bool:
        return any(end == key or (end in self.checks.truth.facts and self.holds(end, key)) for end in ends)

    def _has_now(self, machine: Machine, key: Key) -> bool:
        """Whether its data of now, or that with which it died, holds the operation: not what it gave up."""
        node = machine.node
        if node is not None:
            tip = key_of(node.history, node.offset)
        else:
            tip = next(reversed(self._had.get(machine.name, ())), ROOT)
        return tip == key or (tip in self.checks.truth.facts and self.holds(tip, key))

    def holds(self, end: Key, key: Key) -> bool:
        """Whether a node whose newest operation is ``end`` has the operation ``key``."""
        return end[1] >= key[1] and self.checks.truth.holds(end, key)

    def _chain(self, key: Key) -> set[Key]:
        facts, chain = self.checks.truth.facts, set()
        while key != ROOT and key in facts:
            chain.add(key)
            key = facts[key].parent
        return chain

    # -- wait -----------------------------------------------------------------------------------------------

    def counted(self, machine: Machine, key: Key, reached: int, count: int) -> None:
        """A client was told that so many replicas hold its write durably."""
        checks = self.checks
        checks.counts["waited" if reached >= count else "waited in vain"] += 1
        if reached == 0:
            return
        holders = {
            other.name for other in checks.machines if other is not machine and self.ever_held(other, key)
        }
        if len(holders) < reached:
            checks.violated(
                f"{machine.name} counts {reached} replicas that hold {key} durably, it is {sorted(holders)}",
                "lost",
            )
        still = {other.name for other in checks.machines if self._has_now(other, key)} & holders
        self.waited.append(Waited(key, machine.name, machine.kernel.now, still))

    def to_promote(self, machine: Machine, others: list[Machine], old: Key, epoch: int) -> None:
        """An operator has looked at all replicas and promotes the best: what was waited for is there. ``old``
        is where the lost master stood, under the mastership of this epoch.
        """
        for other in others:
            node = other.node
            if node is None or node.epoch > epoch or not self.holds(old, key_of(node.history, node.offset)):
                return  # a newer mastership, or another branch: which writes go is the operator's choice
        looked_at = {other.name for other in others if other.started}
        chain = self._chain(old)
        self._best[machine.name] = {
            write.key for write in self.waited if write.key in chain and write.holders & looked_at
        }
        self.checks.counts["promoted the best"] += 1

    def opened(self, machine: Machine, node: Node) -> None:
        """A machine was promoted: what it was counted for it still has."""
        tip = key_of(node.history, node.offset)
        chain = self._chain(tip)
        best = self._best.pop(machine.name, set())
        for write in self.waited:
            told = machine.name in write.holders or write.key in best
            if told and write.key not in chain:
                self.checks.violated(
                    f"{machine.name} is promoted at {tip} without the write {write.key}, which "
                    f"{sorted(write.holders)} held when {write.machine} answered it at {write.at:.3f}",
                    "lost",
                )
                return

    def believed(self) -> None:
        """What a node believes to be durable on its replicas is so."""
        checks = self.checks
        by_id = {item.node.node_id: item for item in checks.machines if item.node is not None}
        for machine in checks.machines:
            door = None if machine.server is None else machine.server.roles.master
            for row in () if door is None else door.table.linked():
                replica, node = by_id.get(row.node_id), machine.node
                if replica is None or node is None or row.phase != "streaming" or not row.acked_durable:
                    continue
                key = key_of(node.history, row.acked_durable)
                if not self.ever_held(replica, key):
                    checks.violated(
                        f"{machine.name} believes {key} to be durable on {replica.name}, it never was", "lost"
                    )

    # -- enough replicas ------------------------------------------------------------------------------------

    def let_in(self, machine: Machine, needed: int, max_lag_secs: float) -> None:
        """A master takes a write, with so many replicas to be well."""
        checks, node = self.checks, machine.node
        if needed == 0 or node is None:
            return
        checks.counts["let in by enough replicas"] += 1
        now, network = machine.kernel.now, machine.network
        others = [other for other in checks.machines if other is not machine]
        heard = [
            other
            for other in others
            if now - network.heard.get((other.host, machine.host), -1e9) <= max_lag_secs + 1e-6
        ]
        if len(heard) < needed:
            checks.violated(
                f"{machine.name} takes a write, {needed} replicas must be well, and within "
                f"{max_lag_secs:g} s it has heard only {[other.name for other in heard]}"
            )
            return
        key, facts = key_of(node.history, node.offset), checks.truth.facts
        got = self.got.get(machine.name, {})
        while key in facts and got.get(key, 0.0) >= now - max_lag_secs - 1e-3:
            key = facts[key].parent
        near = [other for other in heard if key == ROOT or self._was_at(other, key)]
        if len(near) < needed:
            checks.violated(
                f"{machine.name} takes a write, {needed} replicas must be at most {max_lag_secs:g} s behind, "
                f"and {key} of before that is only on {[other.name for other in near]}"
            )

    def _was_at(self, machine: Machine, key: Key) -> bool:
        """Whether it has applied that at some time, durably or not."""
        node = machine.node
        ends = list(self._applied.get(machine.name, ()))
        if node is not None:
            ends.append(key_of(node.history, node.offset))
        return self.ever_held(machine, key) or self._is_below(key, ends)

    # -- fresh reads ----------------------------------------------------------------------------------------

    def read(self, machine: Machine, view: View, asked: Key, *, named: bool) -> None:
        """A read that asked for a write got this view; ``named``: for that mastership's write."""
        checks, node = self.checks, machine.node
        assert node is not None
        checks.counts["read what was written"] += 1
        key = key_of(node.history, view.offset)
        if view.offset < asked[1] or (named and key != asked and not self.holds(key, asked)):
            checks.violated(f"a read on {machine.name} that asked for {asked} sees {key}")
