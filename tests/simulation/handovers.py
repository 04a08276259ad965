"""Planned switchovers, looked at from outside.

- The promotion is sent only when the target holds durably all that the master has.
- Who is promoted by it stands exactly where the master stood: nothing is lost, nothing is to be synced anew.
- From that promotion on the old master takes no write under an older epoch, whatever happens to it.
- A mastership has one writer, always; and who has heard of a newer one than his own writes no more.
- If it is cut, either node can be promoted, and has every write.
- It leaves no trace when it is rolled back: a node starts as what it died, and holds no writes for nothing.
- It ends: no later than some time after the faults, unless an operator sent one of the two elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.simulation.truth import Key, key_of

if TYPE_CHECKING:
    from tests.simulation.checks import Checks
    from tests.simulation.machine import Machine
    from vectorizer.node import Node


@dataclass(slots=True)
class Handover:
    """A switchover that has begun and of which the end is not known."""

    id: str
    old: Machine
    target: Machine | None
    key: Key | None = None  # where both stand, once the promotion is sent
    taken: str = ""  # the mastership that the target has opened by it
    forgotten: bool = False  # the old master lost its disk meanwhile, and its mastership with it


@dataclass(slots=True)
class Handovers:
    """Of one simulation."""

    checks: Checks
    open: dict[str, Handover] = field(default_factory=dict)  # by the old master's name
    meddled: set[str] = field(default_factory=set)  # machines that an operator sent elsewhere meanwhile
    ever_meddled: bool = False
    _superseded: dict[str, int] = field(default_factory=dict)  # by name: the epoch that was handed over to
    _writers: dict[str, str] = field(default_factory=dict)  # by replication id
    _role: dict[str, str] = field(default_factory=dict)  # by name: as what it died
    _told: dict[str, str] = field(default_factory=dict)  # replication id: by whom it heard that it is over

    # -- what the machines log --------------------------------------------------------------------------

    def logged(self, machine: Machine, event: str, fields: dict[str, Any]) -> None:
        """An event of the product."""
        node = machine.node
        if event == "switchover_started":
            target = next((item for item in self.checks.machines if _is(item, fields["node_id"])), None)
            self.open[machine.name] = Handover(fields["switchover"], machine, target)
            self.meddled -= {machine.name, "" if target is None else target.name}
            self.checks.counts["switchovers begun"] += 1
        elif event == "promotion_sent" and node is not None:
            self._sent(machine, node, fields["offset"])
        elif event == "switchover_finished":
            self._finished(machine)
        elif event == "switchover_rolled_back":
            self.checks.counts["switchovers rolled back"] += 1
            self._rolled_back(machine)
        elif event == "switchover_waiting":
            self.checks.counts["switchovers that waited"] += 1
        elif event == "replica_refused" and fields.get("reason") == "stale_master":
            self._heard(node, str(fields.get("replica")))

    def _rolled_back(self, machine: Machine) -> None:
        """The old master writes on. By right, too, if an operator made a replica of who was promoted already,
        before it wrote anything: nobody has that mastership any more.
        """
        handover = self.open.pop(machine.name, None)
        if handover is not None and self._interfered(handover) and handover.taken not in self._writers:
            self._superseded.pop(machine.name, None)

    def _heard(self, node: Node | None, teller: str) -> None:
        """A master has refused somebody who knows of a newer mastership."""
        if node is not None and node.role == "master":
            self._told[node.replication_id] = teller

    def _sent(self, machine: Machine, node: Node, offset: int) -> None:
        handover = self.open.get(machine.name)
        if handover is None:
            return
        handover.key = key_of(node.history, node.offset)
        if offset != node.offset:
            self.checks.violated(
                f"{machine.name} hands over at offset {offset} and stands at {node.offset}", "lost"
            )
        target = handover.target
        if target is not None and not self.checks.promises.ever_held(target, handover.key):
            self.checks.violated(
                f"{machine.name} hands over to {target.name}, which does not hold {handover.key} durably",
                "lost",
            )

    def _finished(self, machine: Machine) -> None:
        handover = self.open.pop(machine.name, None)
        self.checks.counts["switchovers done"] += 1
        if handover is not None and not handover.taken and not self._interfered(handover):
            self.checks.violated(
                f"{machine.name} calls the switchover done, and nobody has opened a mastership"
            )

    # -- masterships ------------------------------------------------------------------------------------

    def opened(self, machine: Machine, node: Node) -> None:
        """A machine was promoted, by a switchover or by an operator."""
        self._superseded.pop(machine.name, None)
        tip = key_of(node.history, node.offset)
        for handover in list(self.open.values()):
            if handover.key is None or machine not in (handover.target, handover.old):
                continue
            if handover.taken:  # that was the promotion which it is about; this is a later one
                continue
            if not self.checks.promises.holds(tip, handover.key) and not self._interfered(handover):
                self.checks.violated(
                    f"{machine.name} is promoted at {tip}, the switchover has left it {handover.key}", "lost"
                )
            if machine is handover.target:
                handover.taken = node.replication_id
                if machine.taking_over == handover.id:
                    self._took_over(handover, node, tip)
            elif machine is handover.old:
                self.open.pop(machine.name)

    def _took_over(self, handover: Handover, node: Node, tip: Key) -> None:
        if not handover.forgotten:
            self._superseded[handover.old.name] = node.epoch
        if tip != handover.key:
            self.checks.violated(
                f"{handover.old.name} stood at {handover.key}, who it hands over to opens at {tip}"
            )

    def committed(self, machine: Machine, node: Node) -> None:
        """A master has taken a client's write."""
        writer = self._writers.setdefault(node.replication_id, machine.name)
        if writer != machine.name:
            self.checks.violated(
                f"{machine.name} writes under {node.replication_id}, the mastership of {writer}"
            )
        newer = self._superseded.get(machine.name)
        if newer is not None and node.epoch < newer:
            self.checks.violated(
                f"{machine.name} takes a write of epoch {node.epoch}, after it handed over to epoch {newer}"
            )
        told = self._told.get(node.replication_id)
        if told is not None:
            self.checks.violated(
                f"{machine.name} takes a write although {told} told it of a newer mastership"
            )

    # -- roles over a restart ---------------------------------------------------------------------------

    def dying(self, machine: Machine) -> None:
        """Its process is about to die: the role that it has, unless that is just changing, is kept."""
        server, node = machine.server, machine.node
        assert server is not None and node is not None
        self._role.pop(machine.name, None)
        changing = server.roles.lock._owner is not None or _hands_over(machine)  # type: ignore[attr-defined]
        undone = node.role == "replica" and server.roles.settings.replication.role != "replica"
        if machine.started and not changing and not undone:  # of a promotion that failed on a full disk
            self._role[machine.name] = node.role

    def built(self, machine: Machine) -> None:
        """It is back: as what it died."""
        assert machine.server is not None
        was, role = self._role.pop(machine.name, None), machine.server.roles.settings.replication.role
        if was is not None:
            self.checks.counts["roles kept"] += 1
            if role != was:
                self.checks.violated(f"{machine.name} died as a {was} and starts as a {role}")

    # -- an operator's acts -----------------------------------------------------------------------------

    def meddle(self, machine: Machine) -> None:
        """This machine was told something else than a switchover would tell it."""
        self.meddled.add(machine.name)
        self.ever_meddled = True

    def disk_lost(self, machine: Machine) -> None:
        """What it knew of masterships is gone."""
        self.meddle(machine)
        self._superseded.pop(machine.name, None)
        if machine.name in self.open:
            self.open[machine.name].forgotten = True
        self._role.pop(machine.name, None)

    def _interfered(self, handover: Handover) -> bool:
        target = "" if handover.target is None else handover.target.name
        return bool(self.meddled & {handover.old.name, target})

    # -- the end ----------------------------------------------------------------------------------------

    def under_way(self) -> list[Machine]:
        """The machines that hand over."""
        return [
            machine
            for machine in self.checks.machines
            if machine.server is not None
            and machine.server.roles.switchover.document()["current"] is not None
        ]

    def look(self) -> None:
        """Now and then: nobody holds writes for nothing."""
        for machine in self.checks.machines:
            server = machine.server
            if server is None or not machine.started or server.roles.lock._owner is not None:  # type: ignore[attr-defined]
                continue
            node, current = server.database.node, server.roles.switchover.document()["current"]
            if node.fenced is not None and node.failure is None and current is None:
                self.checks.violated(f"{machine.name} holds writes and does nothing else: {node.fenced}")

    def wrong_end(self) -> str | None:
        """What is wrong some time after the last fault, as a sentence."""
        machines = self.checks.machines
        for machine in self.under_way():
            handover = self.open.get(machine.name)
            if handover is not None and not self._interfered(handover):
                return f"the switchover of {machine.name} does not end: {handover}"
        if self.ever_meddled:
            return None
        masters = [item.name for item in machines if item.node is not None and item.node.role == "master"]
        if len(masters) > 1:
            return f"nobody was promoted but by switchovers, and {masters} are masters"
        if not masters and not self.open:
            return "nobody is master, and no switchover explains it"
        self.checks.counts["both read-only after a switchover"] += not masters
        return None


def _hands_over(machine: Machine) -> bool:
    server = machine.server
    return server is not None and server.roles.switchover.document()["current"] is not None


def _is(machine: Machine, node_id: str) -> bool:
    return machine.node is not None and machine.node.node_id == node_id
