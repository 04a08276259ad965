"""One seed from beginning to end: load, faults, peace, convergence, and a last loss of power everywhere."""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.simulation.faults import Faults
from tests.simulation.truth import key_of
from tests.simulation.world import World, watch_masters, watch_nodes

if TYPE_CHECKING:
    from tests.simulation.machine import Machine
    from vectorizer.node import Node

FAULT_SECS = 8.0
START_SECS = 2.0
THINK_SECS = 0.08
CONVERGE_SECS = 90.0
HANDOVER_SECS = 15.0
PROBE_SECS = 40.0
EVENTS_MAX = 400_000


@dataclass(slots=True)
class Outcome:
    """What one seed showed."""

    seed: int
    violations: list[str]
    trace: list[str]
    fingerprint: int
    events: int
    virtual_secs: float
    counts: Counter[str] = field(default_factory=Counter)
    kinds: list[str] = field(default_factory=list)
    """Of the violations: lost, doubled, not started, other."""
    stall_ms: float = 0.0
    """The longest that an acknowledged write took, of virtual time."""


class Simulation:
    """The phases of one run."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.faults = Faults(world)
        self.orders = self.faults.orders
        self.loading = False

    def run(self) -> None:
        """All phases; stops at the first violation."""
        for phase in (self._begin, self._suffer, self._converge, self._lose_power):
            phase()
            if self.world.violations:
                return

    def _begin(self) -> None:
        for machine in self.world.machines:
            self.world.kernel.at(self.world.random.random() * 0.5, machine.start)
        self.loading = True
        for client in self.world.clients:
            self._client(client.number)
        self.world.run(START_SECS)

    def _client(self, number: int) -> None:
        """Requests of one client, mostly to the master."""
        world = self.world
        if not self.loading:
            return
        machine = world.master if world.random.random() < 0.8 else world.random.choice(world.machines)
        world.clients[number].step(machine)
        world.kernel.at(world.random.expovariate(1.0 / THINK_SECS), lambda: self._client(number))

    def _suffer(self) -> None:
        world, end = self.world, self.world.kernel.now + FAULT_SECS
        while world.kernel.now < end and not world.violations:
            self.faults.inject()
            world.run(self.faults.pause())
            world.checks.handovers.look()
            world.checks.promises.believed()
            if world.kernel.events > EVENTS_MAX:
                world.checks.violated(
                    f"{world.kernel.events} events after {world.kernel.now:.1f} s: something spins"
                )

    def _converge(self) -> None:
        """The faults end; within bounded time all nodes hold the same."""
        world = self.world
        world.note("!", "peace")
        self.orders.over = True
        self._make_peace()
        world.run(2.0)
        self._make_peace()
        if not world.run(30.0, lambda: all(machine.started for machine in world.machines)):
            self._stuck("not all machines start")
            return
        world.run(self.world.random.choice((0.0, 2.0)))
        self.loading = False
        self._end_handovers()
        if not world.run(30.0, lambda: all(machine.started for machine in world.machines)):
            self._stuck("not all machines start")
            return
        world.master = max(world.machines, key=self._mastership)
        world.note("!", f"{world.master.name} is to be the master")
        end = world.kernel.now + CONVERGE_SECS
        while not self._converged() and not world.violations:
            if world.kernel.now > end:
                self._stuck(f"no convergence within {CONVERGE_SECS:g} s")
                return
            self._operate()
            world.run(2.0, self._converged)
        if not world.violations:
            self._probe()
            world.run(4.0)  # seals, merges, checkpoints
            world.checks.look_at_all("after convergence")
            world.checks.nothing_lost(world.master)

    def _end_handovers(self) -> None:
        """Switchovers that wait come to their end by themselves, or an operator in whose way they are ends
        them.
        """
        world, handovers = self.world, self.world.checks.handovers
        world.run(HANDOVER_SECS, lambda: not handovers.under_way())
        if world.violations:
            return
        wrong = handovers.wrong_end()
        if wrong is not None:
            world.checks.violated(wrong)
        for machine in handovers.under_way():
            world.checks.counts["switchovers ended by force"] += 1
            world.configure(machine, {"role": "master", "force": True})

    def _probe(self) -> None:
        """The master takes a write, and all get it."""
        world = self.world
        request = world.clients[0].probe(world.master)
        if request is None or not world.run(PROBE_SECS, lambda: request.done):
            self._stuck(f"{world.master.name} takes no write, although all is well")
        elif not world.run(PROBE_SECS, self._converged):
            self._stuck("a write does not reach all nodes, although all is well")

    def _make_peace(self) -> None:
        world = self.world
        world.network.heal()
        for machine in world.machines:
            machine.disk.full = False
            machine.disk.fail_syncs = 0
            machine.disk.stop_after = None
            if world.secret:
                machine.give_secret(world.secret)
            if machine.process is not None:
                machine.process.thaw()
            machine.start()

    def _mastership(self, machine: Machine) -> tuple[bool, int, bool, int]:
        node = machine.node
        assert node is not None
        return node.has_complete_data, node.epoch, node.role == "master", node.offset

    def _operate(self) -> None:
        """What an operator does until all is well."""
        world, master = self.world, self.world.master
        assert master.node is not None
        if master.node.role != "master":
            document: dict[str, object] = {"role": "master", "bind_address": master.address}
            if not master.node.has_complete_data:  # nobody has any: it starts empty
                document["force"] = True
            world.configure(master, document)
            return
        if self._deposed_by_a_forgotten_mastership(master.node):
            world.checks.counts["deposed by a forgotten mastership"] += 1
            world.configure(master, {"role": "master", "force": True})
            return
        for machine in world.machines:
            if machine is master or machine.server is None:
                continue
            link = None if machine.server.roles.replica is None else machine.server.roles.replica.link
            if link is None or not self._follows(machine, master):
                self.orders.follow(machine, master)
            elif link.state == "refused" and link.reason in (
                "foreign_history",
                "two_masters",
                "stale_master",
            ):
                self.orders.follow(machine, master, force=True)
            elif link.state == "failed":
                world.checks.counts["link failed for good"] += 1
                self.orders.follow(machine, master)

    def _deposed_by_a_forgotten_mastership(self, node: Node) -> bool:
        """Whether it heard of one that was newer, and that nobody has any more: only a word of the operator,
        who sees it in the status, lets it write again.
        """
        deposed, openings = node.deposed, self.world.checks.openings
        return deposed is not None and deposed.replication_id in openings and deposed.epoch > node.epoch

    def _follows(self, machine: Machine, master: Machine) -> bool:
        """Whether it follows the master; through others, if the operator leaves chains as they are."""
        by_address = {item.address: item for item in self.world.machines}
        for _ in self.world.machines:
            if machine.server is None or machine.server.roles.replica is None:
                return False
            upper = by_address[machine.server.roles.replica.master_address]
            if upper is master:
                return True
            if not self.world.keeps_chains or upper.server is None or upper.server.roles.master is None:
                return False
            machine = upper
        return False

    def _converged(self) -> bool:
        world, node = self.world, self.world.master.node
        if node is None or node.role != "master" or self._deposed_by_a_forgotten_mastership(node):
            return False
        key = key_of(node.history, node.offset)
        for machine in world.machines:
            other = machine.node
            if (
                other is None
                or other.offset != node.offset  # the cheap look first: this is asked after each event
                or key_of(other.history, other.offset) != key
                or other.durable_offset != other.offset
            ):
                return False
            if machine is not world.master:
                assert machine.server is not None
                replica = machine.server.roles.replica
                if replica is None or replica.link.state != "streaming":
                    return False
                if not self._follows(machine, world.master):
                    return False
        return True

    def _lose_power(self) -> None:
        """Everything that all nodes agreed on is there after the power went off everywhere."""
        world = self.world
        for machine in world.machines:
            machine.crash(power=True)
        for machine in world.machines:
            machine.start()
        if not world.run(30.0, lambda: all(machine.started for machine in world.machines)):
            self._stuck("not all machines start after the power was off")
        elif not world.run(CONVERGE_SECS, self._converged):
            self._stuck("nobody gave an order, and after the power was off the roles are other ones")

    def _stuck(self, text: str) -> None:
        if self.world.violations:
            return
        kind = "not started" if text.startswith("not all machines start") else "other"
        places = []
        for machine in self.world.machines:
            node, server = machine.node, machine.server
            if node is None or server is None:
                places.append(f"{machine.name} down")
                continue
            link = server.roles.replica
            about = (
                ""
                if link is None
                else f" link {link.link.state} ({link.link.reason}: {link.link.message[:150]})"
            )
            where = key_of(node.history, node.offset)
            places.append(f"{machine.name} {node.role} {where} durable {node.durable_offset}{about}")
        self.world.checks.violated(f"{text}: " + "; ".join(places), kind)


def run_seed(seed: int, tell: Callable[[str], None] | None = None) -> Outcome:
    """Simulate one seed. The same seed gives the same outcome, everywhere and always."""
    world = World(seed, tell)
    watch_nodes()
    watch_masters()
    kinds = [kind for kind, weight in world.swarm.faults.items() if weight]
    world.note("!", f"seed {seed}: {world.sizes}")
    world.note("!", f"faults: {', '.join(kinds)}; secret {bool(world.secret)}, upstream {world.upstream}")
    try:
        Simulation(world).run()
    except Exception as error:  # noqa: BLE001 - whatever it is, it is told with its seed
        world.checks.violated(f"{error!r}: {''.join(traceback.format_exception(error))[-1500:]}")
    return Outcome(
        seed,
        world.violations[:3],
        list(world.trace),
        world.fingerprint,
        world.kernel.events,
        world.kernel.now,
        world.checks.counts,
        world.checks.kinds[:3],
        1000 * world.checks.stall_secs,
    )
