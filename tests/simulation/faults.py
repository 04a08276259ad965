"""What happens to the cluster: faults of machines, disks and network, and what an operator orders meanwhile.

Which kinds, and how often each, is the seed's (`swarm.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from tests.simulation.orders import Orders
from tests.simulation.stranger import Stranger
from tests.simulation.swarm import FAULTS

if TYPE_CHECKING:
    from tests.simulation.machine import Machine
    from tests.simulation.world import World

PAUSE_SECS = 0.4


class Faults:
    """Injects one fault after the other until told to end."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.random = world.random
        self.orders = Orders(world)
        self.stranger = Stranger(world)
        self.weights = world.swarm.faults
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
            "empty disk": self.empty_disk,
            "stranger": lambda: self.stranger.try_to_enter(self.anyone()),
            **self.orders.kinds,
        }
        assert self.kinds.keys() == FAULTS.keys(), self.kinds.keys() ^ FAULTS.keys()

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
        self.orders.later(seconds, act)

    def replica(self) -> Machine:
        """Any machine but the master."""
        return self.orders.replica()

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
