"""The stage of a story: machines in virtual time, of whose disks a photograph is taken before each step.

With each photograph goes the claim: what the node on this disk has promised by then, to clients, to its
master or to its operator.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.crash.photograph import Album, Photograph
from tests.simulation import runtime, virtual_gevent
from tests.simulation.kernel import Kernel
from tests.simulation.machine import MACHINES, Machine, PacedDisk, Watch
from tests.simulation.network import Network
from tests.simulation.truth import ROOT, Key, Truth, key_of
from tests.simulation.world import WORLD, watch_nodes

if TYPE_CHECKING:
    from vectorizer.config import Settings
    from vectorizer.node import Node
    from vectorizer.operations import Entry, Operation

KIB = 1024
WAIT_SECS = 60.0


@dataclass(frozen=True, slots=True)
class Claim:
    """What a start on this disk must find.

    ``replaceable``: the data is just being replaced, so a newer generation may be found instead. ``roles``:
    the one that was confirmed last, and the one that is being stored.
    """

    key: Key = ROOT
    generation: int = 0
    replaceable: bool = False
    epoch: int = 0
    roles: frozenset[str] = frozenset()
    node_id: str = ""


@dataclass(frozen=True, slots=True)
class Moment:
    """One step of a story: the machine, the number of its step, disk and claim just before it."""

    machine: int
    step: int
    photograph: Photograph
    claim: Claim


class WatchedDisk(PacedDisk):
    """A disk that is photographed before each of its steps."""

    def __init__(self, kernel: Kernel, look: Callable[[WatchedDisk], None]) -> None:
        super().__init__(kernel)
        self._look = look
        self.found_changes: list[object] = []
        """Of names, not synced by whoever was here before."""

    def step(self) -> None:
        """Before anything changes."""
        if self.kernel.current() is not None:
            self._look(self)
        super().step()


@dataclass(slots=True)
class Told:
    """What a machine has promised in all its lives."""

    claim: Claim = field(default_factory=Claim)
    role: str = ""
    asked: str = ""


class Stage:
    """Machines of one story or of one trial. One at a time is on."""

    def __init__(
        self,
        seed: int,
        settings: Callable[[Machine], Settings],
        machines: int = 1,
        truth: Truth | None = None,
    ) -> None:
        runtime.load()
        self.kernel = Kernel(seed)
        self.truth = truth or Truth()
        self.trouble: list[str] = []
        self.log: list[str] = []
        self.moments: list[Moment] = []
        self.watched = True
        self._album = Album()
        self.enter()
        network = Network(self.kernel)
        watch = Watch(
            self._built,
            self._dying,
            lambda machine, text: self._troubled(f"{machine.name}: {text}"),
            self.note,
        )
        self.machines = [Machine(self.kernel, network, number, settings, watch) for number in range(machines)]
        self.told = [Told() for _ in self.machines]
        for machine in self.machines:
            machine.disk = self._disk(machine)

    def enter(self) -> None:
        """From here on the product runs on this stage."""
        virtual_gevent.use(self.kernel)
        MACHINES.clear()
        WORLD[:] = [self]  # type: ignore[list-item]
        watch_nodes()

    def _disk(self, machine: Machine) -> WatchedDisk:
        return WatchedDisk(self.kernel, lambda disk: self._photograph(machine, disk))

    def _photograph(self, machine: Machine, disk: WatchedDisk) -> None:
        if self.watched:
            claim = self.claim(machine)
            self.moments.append(
                Moment(machine.number, disk.steps, self._album.take(disk, disk.found_changes), claim)
            )

    def claim(self, machine: Machine) -> Claim:
        """What this machine must still hold after a crash now."""
        told = self.told[machine.number]
        node, server = machine.node, machine.server
        if node is not None and server is not None:
            offset = min(node.durable_offset, node.offset)
            key = key_of(node.history, offset)
            # A mastership counts once an operation under it is durable; before, its epoch may be lost.
            entry = node.history.entry_at(offset)
            told.claim = Claim(
                key,
                node.generation,
                server.snapshots.installing,
                0 if entry is None else entry.epoch,
                frozenset(role for role in (told.role, told.asked) if role),
                node.node_id if machine.started else told.claim.node_id,
            )
        return told.claim

    # -- what the product tells -------------------------------------------------------------------------

    @property
    def checks(self) -> Stage:
        """For the hooks of the simulation."""
        return self

    def applied(self, node: Node, entry: Entry) -> None:
        """A node has applied an operation."""
        assert node.last_checksum is not None
        wrong = self.truth.saw(node.history, entry.offset, node.last_checksum, entry.operation)
        if wrong is not None:
            self._troubled(wrong)

    def opened(self, node: Node, *, promotion: bool) -> None:
        """A node has opened a mastership."""

    def logged(self, record: logging.LogRecord) -> None:
        """The product has logged something."""
        event, fields = getattr(record.msg, "event", str(record.msg)), getattr(record.msg, "fields", {})
        self.note("", f"{event} {fields}")
        if record.levelno >= logging.ERROR:
            self._troubled(f"logged {event}: {fields}")

    def note(self, who: str, text: str) -> None:
        """A line of the story."""
        self.log.append(f"{self.kernel.now:9.4f} {who:>3} {text}")

    def _built(self, machine: Machine) -> None:
        self.note(machine.name, "has opened its data")

    def _dying(self, machine: Machine) -> None:
        self.claim(machine)

    def _troubled(self, text: str) -> None:
        self.trouble.append(text)

    # -- what the story does ----------------------------------------------------------------------------

    def wait(self, done: Callable[[], bool], what: str, seconds: float = WAIT_SECS) -> None:
        """Let time pass until ``done``; AssertionError if that takes too long or something goes wrong."""
        ended = done() or self.kernel.run(self.kernel.now + seconds, lambda: bool(self.trouble) or done())
        assert ended and not self.trouble, f"{what}: {self.trouble or 'it took too long'}"

    def start(self, machine: Machine) -> None:
        """Start a machine and wait until it serves."""
        machine.start()
        self.wait(lambda: machine.started, f"{machine.name} starts")
        assert machine.node is not None
        self.told[machine.number].role = str(machine.node.role)

    def stop(self, machine: Machine) -> None:
        """SIGTERM, and wait for the end."""
        machine.stop()
        self.wait(lambda: machine.process is None, f"{machine.name} stops")

    def call(self, machine: Machine, function: Callable[[], Any]) -> Any:
        """What the function gives, called in the machine's process."""
        task = machine.run(function)
        assert task is not None, f"{machine.name} does not run"
        task.watched = True
        self.wait(lambda: task.done, f"{machine.name} answers")
        if task.exception is not None:
            raise task.exception
        return task.value

    def write(self, machine: Machine, operation: Operation) -> None:
        """A client's write, acknowledged. Its place is part of the claim from here on."""
        assert machine.server is not None
        database = machine.server.database
        result = self.call(machine, lambda: database.write(operation))
        held = key_of(database.node.history, result.offset)
        assert held == (result.replication_id, result.offset), "the answer names another operation"
        assert database.node.durable_offset >= result.offset, "acknowledged before it was durable"

    def configure(self, machine: Machine, document: dict[str, object]) -> None:
        """``POST /replication/configure``, answered."""
        assert machine.server is not None
        roles, told = machine.server.roles, self.told[machine.number]
        told.asked = str(document.get("role", ""))
        self.call(machine, lambda: roles.configure(document))
        told.role, told.asked = told.asked or told.role, ""
