"""What an operator orders: promotions, switchovers, who follows whom, limits, the secret of the peers.

Some orders are mistakes (the wrong node, a wrong secret, a promotion too many): the cluster must stay sound
under them, too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from tests.simulation.truth import ROOT, Key, key_of

if TYPE_CHECKING:
    from tests.simulation.machine import Machine
    from tests.simulation.world import World

FOLLOW_SPREAD_SECS = 1.5
CUT_SECS = 0.03
"""About how far into a switchover something happens to it; undisturbed it takes 10 to 100 ms."""


class Orders:
    """Given at once, or later."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.random = world.random
        self.over = False
        self.kinds: dict[str, Callable[[], None]] = {
            "promote": self.promote,
            "promote twice": self.promote_twice,
            "fail over": self.fail_over,
            "follow": self.follow_at_random,
            "follow by force": self.follow_by_force,
            "chain": self.chain,
            "change sizes": self.change_sizes,
            "switchover": self.switchover,
            "switchover and crash": self.switchover_and_crash,
            "switchover and cut": self.switchover_and_cut,
            "abort switchover": self.abort_switchover,
            "take back by force": self.take_back,
            "wrong secret": self.wrong_secret,
            "new secret": self.new_secret,
            "unreadable secret": self.unreadable_secret,
            "start without secret": self.start_without_secret,
        }

    def later(self, seconds: float, act: Callable[[], None]) -> None:
        """Do it after about that long."""
        self.world.kernel.at(self.random.uniform(0.2, 1.8) * seconds, act)

    def order_later(self, seconds: float, order: Callable[[], None]) -> None:
        """The same for an order; it is not given any more when the operator goes about making all well."""
        self.later(seconds, lambda: None if self.over else order())

    def replica(self) -> Machine:
        """Any machine but the master."""
        return self.random.choice([item for item in self.world.machines if item is not self.world.master])

    # -- promotions --------------------------------------------------------------------------------

    def promote(self) -> None:
        """A replica becomes the master; the others, the old master too, are told to follow it, in
        some order.
        """
        self._make_master(self.replica())

    def _make_master(self, machine: Machine) -> None:
        self.world.master = machine
        self.order(machine, {"role": "master", "bind_address": machine.address})
        for other in self.world.machines:
            if other is not machine and self.random.random() < 0.9:
                self.order_later(FOLLOW_SPREAD_SECS, lambda other=other: self.follow(other, machine))

    def promote_twice(self) -> None:
        """A second promotion before the first one is over."""
        self.promote()
        self.order_later(0.3, self.promote)

    def fail_over(self) -> None:
        """The master is lost; the operator looks at all replicas and promotes the most advanced one."""
        old = self.world.master
        node = old.node
        tip, epoch = (ROOT, 0) if node is None else (key_of(node.history, node.offset), node.epoch)
        old.crash(power=self.random.random() < 0.7, silent=self.random.random() < 0.4)
        self.later(2.0, old.start)
        self.order_later(0.2, lambda: self._promote_best(old, tip, epoch))

    def _promote_best(self, old: Machine, tip: Key, epoch: int) -> None:
        others = [item for item in self.world.machines if item is not old]
        answering = all(
            item.started and item.process is not None and not item.process.frozen for item in others
        )
        if self.world.master is not old or not answering or tip == ROOT:
            return  # somebody else acts already, or a replica that might be the best one gives no answer
        best = max(others, key=self._advance)
        if best.node is not None and best.node.role == "replica":
            self.world.checks.promises.to_promote(best, others, tip, epoch)
            self._make_master(best)

    @staticmethod
    def _advance(machine: Machine) -> tuple[int, int]:
        node = machine.node
        return (0, 0) if node is None else (node.epoch, node.offset)

    # -- following ---------------------------------------------------------------------------------

    def follow(self, machine: Machine, master: Machine, *, force: bool = False) -> None:
        """``follow`` as the operator says it."""
        document: dict[str, object] = {"role": "replica", "master_address": master.address}
        if force:
            document["force"] = True
            self.world.checks.ever_forced = True
            self.world.checks.forced.add(machine.name)
        self.order(machine, document)

    def follow_at_random(self) -> None:
        """Somebody is told to follow somebody."""
        machine, master = self.random.sample(self.world.machines, 2)
        if machine is not self.world.master:
            self.follow(machine, master)

    def follow_by_force(self) -> None:
        """A replica is told to take whatever the master has."""
        machine = self.replica()
        self.follow(machine, self.world.master, force=True)

    def chain(self) -> None:
        """A replica listens, and another one follows it; two may be told to follow each other."""
        replicas = [item for item in self.world.machines if item is not self.world.master]
        machine, upper = self.random.sample(replicas, 2)
        self.order(
            upper,
            {
                "role": "replica",
                "master_address": self.world.master.address,
                "bind_address": upper.address,
            },
        )
        self.order_later(0.3, lambda: self.follow(machine, upper))
        if self.random.random() < 0.2:
            self.order_later(1.0, lambda: self.follow(upper, machine))

    def change_sizes(self) -> None:
        """The operator changes a limit live."""
        value = self.random.choice((5, 40, 10_000))
        self.order(self.random.choice(self.world.machines), {"log_size": value})

    def order(self, machine: Machine, document: dict[str, object]) -> None:
        """``POST /replication/configure``."""
        self.world.configure(machine, document)

    # -- switchovers -------------------------------------------------------------------------------

    def switchover(self) -> Machine:
        """The master hands over, to the best or to one that is named; who it may be."""
        fit = self._fit_targets()
        target = self.random.choice(fit) if fit and self.random.random() < 0.9 else self.replica()
        named = target.node is not None and self.random.random() < 0.8
        node_id = target.node.node_id if named and target.node is not None else None
        timeout_ms = self.random.choice((200, 2_000, 10_000))
        self.world.hand_over(self.world.master, node_id, timeout_ms)
        return target

    def _fit_targets(self) -> list[Machine]:
        """Replicas of the master that could take over, as its status shows them."""
        server = self.world.master.server
        if server is None or server.roles.master is None:
            return []
        fit = {row.node_id for row in server.roles.master.table.linked() if row.listens_at}
        return [item for item in self.world.machines if item.node is not None and item.node.node_id in fit]

    def switchover_and_crash(self) -> None:
        """One of the two dies meanwhile, at some time or at a step on its disk."""
        old = self.world.master
        machine = self.random.choice((old, self.switchover()))
        if self.random.random() < 0.5:
            machine.disk.stop_after = self.random.randint(0, 25)
            self.later(1.5, lambda: self._up_again(machine))
            return

        def crash() -> None:
            machine.crash(power=self.random.random() < 0.7, silent=self.random.random() < 0.4)
            self.later(self.random.choice((0.5, 3.0)), machine.start)

        self.world.kernel.at(self.random.expovariate(1.0 / CUT_SECS), crash)

    def _up_again(self, machine: Machine) -> None:
        machine.start()
        machine.disk.stop_after = None

    def switchover_and_cut(self) -> None:
        """The link between the two breaks meanwhile, or the path is blocked for a while."""
        old = self.world.master
        target, network = self.switchover(), self.world.network
        seconds = self.random.expovariate(1.0 / CUT_SECS)
        if self.random.random() < 0.4:
            self.world.kernel.at(seconds, lambda: network.cut(old.host, target.host))
            return
        paths = [(old.host, target.host), (target.host, old.host)]
        if self.random.random() < 0.6:
            paths = [self.random.choice(paths)]
        for path in paths:
            self.world.kernel.at(seconds, lambda path=path: network.block(*path))
        self.later(self.random.choice((0.5, 4.0)), lambda: network.unblock(paths))

    def abort_switchover(self) -> None:
        """One that has just begun, or none."""
        if self.random.random() < 0.7:
            self.switchover()
        machine = self.world.master
        self.world.kernel.at(
            self.random.expovariate(1.0 / CUT_SECS), lambda: self.world.abort_hand_over(machine)
        )

    def take_back(self) -> None:
        """The master, or who waits to be none any more, is to be the newest master by force."""
        self.order(self.world.master, {"role": "master", "force": True})

    # -- the secret --------------------------------------------------------------------------------

    def wrong_secret(self) -> None:
        """A machine's file holds another secret for a while; its links end so that it matters."""
        world, machine = self.world, self.random.choice(self.world.machines)
        if world.secret:
            machine.give_secret(b"a secret of somebody else")
            for other in world.machines:
                if other is not machine:
                    world.network.cut(machine.host, other.host)
            self.later(1.5, lambda: machine.give_secret(world.secret))

    def new_secret(self) -> None:
        """All get another one, in some order."""
        world = self.world
        if world.secret:
            world.secret = b"secret number %016d" % world.kernel.next_number()
            for machine in world.machines:
                self.later(1.0, lambda machine=machine: machine.give_secret(world.secret))

    def unreadable_secret(self) -> None:
        """A file holds nothing that could be a secret for a while; the one before stays in force."""
        world, machine = self.world, self.random.choice(self.world.machines)
        if world.secret:
            machine.files[machine.secret_path] = b"short"
            self.later(1.0, lambda: machine.give_secret(world.secret))

    def start_without_secret(self) -> None:
        """A machine is started anew, and its settings do not name the file; then again with it."""
        machine = self.random.choice(self.world.machines)
        if not self.world.secret:
            return
        machine.forgets_secret = True
        machine.crash(power=False)
        self.later(0.3, machine.start)

        def remember() -> None:
            machine.forgets_secret = False
            machine.crash(power=False)
            self.later(0.3, machine.start)

        self.later(2.0, remember)
