"""One simulated cluster: machines, network, clients and checks, with sizes chosen by the seed."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, Any
from zlib import crc32

from tests.simulation import network, runtime, virtual_gevent
from tests.simulation.checks import Checks
from tests.simulation.kernel import Kernel
from tests.simulation.machine import MACHINES, Machine, Watch
from tests.simulation.workload import Client

if TYPE_CHECKING:
    from vectorizer.config import Settings
    from vectorizer.node import Node
    from vectorizer.operations import Entry

MACHINE_COUNT = 4
TRACE_LINES = 400
KIB = 1024
EXPECTED_ERRORS = ("failed", "deposed")
"""What an operator has to act on although nothing is wrong with the program; the first is told otherwise."""


class World:
    """A cluster of a master (n0) and three replicas, before anything has happened. One at a time in
    a process.
    """

    def __init__(self, seed: int, tell: Callable[[str], None] | None = None) -> None:
        self.product = runtime.load()
        self.seed = seed
        self.kernel = kernel = Kernel(seed)
        virtual_gevent.use(kernel)
        MACHINES.clear()
        self.random = kernel.random
        self.network = network.Network(kernel)
        self.tell = tell
        self.trace: deque[str] = deque(maxlen=TRACE_LINES)
        self.fingerprint = 0
        self.sizes = choose_sizes(self.random)
        watch = Watch(self._built, self._dying, self._trouble, self.note)
        self.machines = [
            Machine(kernel, self.network, number, self._settings, watch) for number in range(MACHINE_COUNT)
        ]
        self.checks = Checks(self.machines, Random(seed), self.sizes["storage.fsync"] == "always")
        self.clients = [Client(self.random, self.checks, number) for number in range(3)]
        self.master = self.machines[0]
        kernel.after_event = self.checks.after_event
        kernel.on_spin = lambda: self.checks.violated(
            "something spins: thousands of events, and no time passes"
        )
        WORLD[:] = [self]

    # -- what happens ------------------------------------------------------------------------------

    @property
    def violations(self) -> list[str]:
        """What went wrong so far."""
        return self.checks.violations

    def note(self, who: str, text: str) -> None:
        """One line of the trace."""
        line = f"{self.kernel.now:9.4f} {who:>4} {text}"
        self.fingerprint = crc32(line.encode(), self.fingerprint)
        self.trace.append(line)
        if self.tell is not None:
            self.tell(line)

    def run(self, seconds: float, done: Callable[[], bool] | None = None) -> bool:
        """Let virtual time pass, until a violation or ``done``; whether it was ``done``."""
        ended = self.kernel.run(
            self.kernel.now + seconds, lambda: bool(self.violations) or (done is not None and done())
        )
        return ended and not self.violations

    def configure(self, machine: Machine, document: dict[str, object]) -> None:
        """``POST /replication/configure``."""

        def change() -> None:
            from vectorizer.errors import RequestError

            assert machine.server is not None
            try:
                machine.server.roles.configure(document)
            except RequestError as error:
                self.note(machine.name, f"refuses {document}: {error}")
            except OSError as error:
                self.note(machine.name, f"could not {document}: {error}")
                if not machine.disk.full and not machine.disk.broken:
                    self._trouble(machine, f"{document}: {error!r}")

        if machine.run(change) is not None:
            self.note(machine.name, f"is told {document}")

    def logged(self, record: logging.LogRecord) -> None:
        """The product has logged something."""
        task = self.kernel.current()
        machine = None if task is None else MACHINES.get(task.process)
        event, fields = getattr(record.msg, "event", str(record.msg)), getattr(record.msg, "fields", {})
        self.note("" if machine is None else machine.name, f"{event} {_brief(fields)}")
        if machine is None:
            return
        if event == "replica_joined":
            self.checks.joined(machine, fields)
        if record.levelno >= logging.ERROR and event not in EXPECTED_ERRORS:
            self._trouble(machine, f"logged {event}: {_brief(fields)}")

    def _built(self, machine: Machine) -> None:
        node = machine.node
        assert node is not None
        self.note(machine.name, f"has opened its data: generation {node.generation}, {node.describe()}")
        self.checks.built(machine)

    def _dying(self, machine: Machine) -> None:
        self.checks.dying(machine)

    def _trouble(self, machine: Machine, text: str) -> None:
        self.checks.violated(f"{machine.name}: {text}")

    # -- sizes -------------------------------------------------------------------------------------

    def _settings(self, machine: Machine) -> Settings:
        from vectorizer.config import Settings
        from vectorizer.settings import Source

        values: dict[str, Any] = {"storage.data_dir": machine.root, **self.sizes}
        if machine.number == 0:
            values |= {"replication.role": "master", "replication.bind_address": machine.address}
        else:
            values |= {"replication.role": "replica", "replication.master_address": self.machines[0].address}
        return Settings().replaced(values, source=Source.YAML)


def choose_sizes(random: Random) -> dict[str, Any]:
    """Small ones, so that everything that has a limit meets it."""
    journal_file_bytes = random.choice((4, 8, 32)) * KIB
    heartbeat_secs = random.choice((0.2, 0.5, 1.0))
    return {
        "storage.fsync": random.choices(("always", "everysec", "never"), (8, 1, 1))[0],
        "storage.journal_file_bytes": journal_file_bytes,
        "storage.journal_bytes_max": random.choice((32, 200, 2000)) * KIB,
        "storage.checkpoint_bytes": random.choice((2, 8, 64)) * KIB,
        "storage.checkpoint_interval_secs": random.choice((1.0, 3.0, 30.0)),
        "replication.log_size": random.choice((5, 30, 120, 1_000_000)),
        "replication.log_bytes_max": random.choice((4, 16, 64 * 1024)) * KIB,
        "replication.heartbeat_interval_secs": heartbeat_secs,
        "replication.replica_timeout_secs": heartbeat_secs * random.choice((3, 6)),
        "replication.reconnect_interval_secs": random.choice((0.1, 0.5, 2.0)),
        "replication.connect_timeout_secs": 0.5,
        "replication.handshake_timeout_secs": random.choice((0.5, 2.0)),
        "replication.snapshot_chunk_bytes": random.choice((4, 64)) * KIB,
        "replication.snapshot_pin_secs": random.choice((2.0, 60.0)),
        "index.merge_dead_fraction": random.choice((0.2, 0.5)),
        "index.merge_idle_secs": 10.0,
    }


def _brief(fields: dict[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in fields.items())[:400]


WORLD: list[World] = []
"""The one that runs: the product's log and its node's hooks lead here."""


class LogOfWorld(logging.Handler):
    """Takes what the product logs."""

    def createLock(self) -> None:
        self.lock = None

    def emit(self, record: logging.LogRecord) -> None:
        WORLD[0].logged(record)


def watch_nodes() -> None:
    """Hear of each applied operation and each mastership. Once a process."""
    from vectorizer.node import Node

    logger = logging.getLogger("vectorizer")
    if logger.handlers:
        return
    logger.addHandler(LogOfWorld())
    logger.setLevel(logging.INFO)
    logger.propagate = False
    apply, open_mastership = Node._apply, Node.open_mastership

    def watched_apply(node: Node, entry: Entry, encoded: bytes, now: float) -> None:
        apply(node, entry, encoded, now)
        WORLD[0].checks.applied(node, entry)

    def watched_opening(node: Node, *, raise_epoch: bool) -> None:
        open_mastership(node, raise_epoch=raise_epoch)
        WORLD[0].checks.opened(node, promotion=raise_epoch)

    Node._apply = watched_apply  # type: ignore[method-assign]
    Node.open_mastership = watched_opening  # type: ignore[method-assign]
