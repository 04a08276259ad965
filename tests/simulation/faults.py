"""What happens to the cluster: faults and the operator's acts, chosen by the seed.

Each seed turns kinds on and off and gives the rest other weights (swarm testing): a cluster that
meets only cuts and promotions gets further into their corners than one that meets everything.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.simulation.machine import Machine
    from tests.simulation.world import World

PAUSE_SECS = 0.4
FOLLOW_SPREAD_SECS = 1.5


class Faults:
    """Injects one fault after the other until told to end."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.random = world.random
        self.kinds: dict[str, Callable[[], None]] = {
            "crash master": lambda: self.crash(world.master),
            "crash replica": lambda: self.crash(self.replica()),
            "crash at a step": self.crash_at_step,
            "restart": self.restart,
            "cut": self.cut,
            "partition": lambda: self.partition(one_way=False),
            "partition one way": lambda: self.partition(one_way=True),
            "slow link": self.slow,
            "freeze": self.freeze,
            "disk full": self.disk_full,
            "disk error": self.disk_error,
            "promote": self.promote,
            "promote twice": self.promote_twice,
            "follow": self.follow_at_random,
            "follow by force": self.follow_by_force,
            "empty disk": self.empty_disk,
            "change sizes": self.change_sizes,
        }
        rare = {
            "follow by force": 0.15,
            "empty disk": 0.3,
            "follow": 0.3,
            "disk error": 0.5,
            "promote twice": 0.5,
            "change sizes": 0.3,
        }
        self.weights = {
            kind: self.random.choice((0.0, 1.0, 1.0, 3.0)) * rare.get(kind, 1.0) for kind in self.kinds
        }
        if not any(self.weights.values()):
            self.weights["cut"] = 1.0

    def inject(self) -> None:
        """One fault of now."""
        kind = self.random.choices(list(self.weights), list(self.weights.values()))[0]
        self.world.checks.counts[f"fault: {kind}"] += 1
        self.world.note("!", kind)
        self.kinds[kind]()

    def pause(self) -> float:
        """Seconds until the next one."""
        return self.random.expovariate(1.0 / PAUSE_SECS)

    def later(self, seconds: float, act: Callable[[], None]) -> None:
        """Do it after about that long."""
        self.world.kernel.at(self.random.uniform(0.2, 1.8) * seconds, act)

    def replica(self) -> Machine:
        """Any machine but the master."""
        return self.random.choice([item for item in self.world.machines if item is not self.world.master])

    def anyone(self) -> Machine:
        """Any machine."""
        return self.random.choice(self.world.machines)

    # -- machines ----------------------------------------------------------------------------------

    def crash(self, machine: Machine) -> None:
        """Power loss, or kill -9; it comes back."""
        machine.crash(power=self.random.random() < 0.7, silent=self.random.random() < 0.4)
        self.later(0.8, machine.start)

    def crash_at_step(self) -> None:
        """The power goes off at a step of the disk soon; start up again later, again and again."""
        machine = self.anyone()
        machine.disk.stop_after = self.random.randint(0, 60)

        def look() -> None:
            machine.start()
            if machine.disk.stop_after is not None and machine.disk.stop_after >= 0:
                machine.disk.stop_after = None

        self.later(1.5, look)

    def restart(self) -> None:
        """SIGTERM and a new start; one that takes too long is killed."""
        machine = self.anyone()
        machine.stop()
        process = machine.process

        def again() -> None:
            if machine.process is process:
                machine.crash(power=False)
            machine.start()

        self.later(3.0, again)

    def freeze(self) -> None:
        """SIGSTOP for a while."""
        process = self.anyone().process
        if process is not None:
            process.freeze()
            self.later(self.random.choice((0.3, 3.0)), process.thaw)

    def disk_full(self) -> None:
        """No room for a while."""
        disk = self.anyone().disk
        disk.full = True

        def room() -> None:
            disk.full = False

        self.later(1.5, room)

    def disk_error(self) -> None:
        """The next sync of a file fails, and nobody knows what it has done."""
        self.anyone().disk.fail_syncs = 1

    def empty_disk(self) -> None:
        """The machine comes back with a new, empty disk."""
        machine = self.anyone()
        machine.crash(power=True)
        machine.new_disk()
        self.world.checks.disk_lost(machine)
        self.later(0.5, machine.start)

    def change_sizes(self) -> None:
        """The operator changes a limit live."""
        value = self.random.choice((5, 40, 10_000))
        self._configure(self.anyone(), {"log_size": value})

    # -- network -----------------------------------------------------------------------------------

    def cut(self) -> None:
        """Connections break, in the middle of whatever is under way."""
        one, other = self.random.sample(self.world.machines, 2)
        for machine in (self.world.master, one):
            if machine is not other and self.world.network.cut(machine.host, other.host):
                return

    def partition(self, *, one_way: bool) -> None:
        """A machine cannot reach some of the others (or is not reached by them) for a while."""
        network, machine = self.world.network, self.anyone()
        others = [item for item in self.world.machines if item is not machine]
        paths = [(machine.host, item.host) for item in others if self.random.random() < 0.7]
        if one_way and self.random.random() < 0.5:
            paths = [(target, source) for source, target in paths]
        if not one_way:
            paths += [(target, source) for source, target in paths]
        for path in paths:
            network.block(*path)
        self.later(self.random.choice((0.5, 4.0)), lambda: network.unblock(paths))

    def slow(self) -> None:
        """A path is slow for a while."""
        network = self.world.network
        one, other = self.random.sample(self.world.machines, 2)
        path = (one.host, other.host)
        network.slow[path] = self.random.choice((2_000, 20_000, 200_000))
        self.later(4.0, lambda: network.slow.pop(path, None))

    # -- the operator ------------------------------------------------------------------------------

    def promote(self) -> None:
        """A replica becomes the master; the others, the old master too, are told to follow it, in
        some order.
        """
        machine = self.replica()
        self.world.master = machine
        self._configure(machine, {"role": "master", "bind_address": machine.address})
        for other in self.world.machines:
            if other is not machine and self.random.random() < 0.9:
                self.later(FOLLOW_SPREAD_SECS, lambda other=other: self.follow(other, machine))

    def promote_twice(self) -> None:
        """A second promotion before the first one is over."""
        self.promote()
        self.later(0.3, self.promote)

    def follow(self, machine: Machine, master: Machine, *, force: bool = False) -> None:
        """``follow`` as the operator says it."""
        document: dict[str, object] = {"role": "replica", "master_address": master.address}
        if force:
            document["force"] = True
            self.world.checks.ever_forced = True
            self.world.checks.forced.add(machine.name)
        self._configure(machine, document)

    def follow_at_random(self) -> None:
        """Somebody is told to follow somebody."""
        machine, master = self.random.sample(self.world.machines, 2)
        if machine is not self.world.master:
            self.follow(machine, master)

    def follow_by_force(self) -> None:
        """A replica is told to take whatever the master has."""
        machine = self.replica()
        self.follow(machine, self.world.master, force=True)

    def _configure(self, machine: Machine, document: dict[str, object]) -> None:
        self.world.configure(machine, document)
