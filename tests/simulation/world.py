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
from tests.simulation.machine import MACHINES, Machine, Watch, machine_of_current_process
from tests.simulation.swarm import swarm_of
from tests.simulation.workload import Client

if TYPE_CHECKING:
    from vectorizer.config import Settings
    from vectorizer.node import Node
    from vectorizer.operations import Entry
    from vectorizer.roles import Roles

MACHINE_COUNT = 4
TRACE_LINES = 400
KIB = 1024
EXPECTED_ERRORS = ("failed", "deposed", "replication_secret_unusable")
"""What an operator has to act on although nothing is wrong with the program; the first is told otherwise."""
SECRET = b"the secret of this cluster"


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
        self.swarm = swarm_of(seed)
        self.sizes = choose_sizes(self.random)
        self.secret = SECRET if self.swarm.secret else b""
        enough = self.sizes["replication.min_replicas_to_write"] == 0  # replicas of replicas do not count
        self.keeps_chains = enough and self.random.random() < 0.6
        """Whether the operator leaves chains as they are at the end."""
        self.listening = self.random.choice(((0, 1, 2, 3), (0, 1, 2, 3), (0, 1, 2, 3), (0, 2, 3), (0,)))
        self.upstream = choose_upstream(self.random, self.listening)
        watch = Watch(self._built, self._dying, self._trouble, self.note)
        self.machines = [
            Machine(kernel, self.network, number, self._settings, watch) for number in range(MACHINE_COUNT)
        ]
        self.checks = Checks(self.machines, Random(seed), self.sizes["storage.fsync"] == "always")
        self.clients = [Client(self.random, self.checks, number, self.swarm.requests) for number in range(3)]
        if self.secret:
            for machine in self.machines:
                machine.give_secret(self.secret)
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
        if "role" in document:
            self.checks.handovers.meddle(machine)

        def order(roles: Roles) -> None:
            roles.configure(document)
            if "role" in document:  # a switchover may have begun meanwhile
                self.checks.handovers.meddle(machine)

        self._order(machine, str(document), order)

    def hand_over(self, machine: Machine, target: str | None, timeout_ms: int) -> None:
        """``POST /replication/switchover``."""
        self._order(
            machine, f"to hand over to {target}", lambda roles: roles.switchover.run(target, timeout_ms)
        )

    def abort_hand_over(self, machine: Machine) -> None:
        """``POST /replication/switchover/abort``."""
        self._order(machine, "to abort the switchover", lambda roles: roles.switchover.abort())

    def _order(self, machine: Machine, text: str, order: Callable[[Roles], object]) -> None:
        def obey() -> None:
            from vectorizer.errors import ConfigurationError, RequestError
            from vectorizer.node import NodeFailure

            assert machine.server is not None
            try:
                order(machine.server.roles)
            except (RequestError, ConfigurationError, NodeFailure) as error:
                self.note(machine.name, f"refuses {text}: {error}")
            except OSError as error:
                self.note(machine.name, f"could not {text}: {error}")
                if not machine.disk.full and not machine.disk.broken:
                    self._trouble(machine, f"{text}: {error!r}")

        if machine.run(obey) is not None:
            self.note(machine.name, f"is told {text}")

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
        elif event == "link_up":
            self.checks.linked(machine)
        self.checks.handovers.logged(machine, event, fields)
        if record.levelno >= logging.ERROR and event not in EXPECTED_ERRORS:
            self._trouble(machine, f"logged {event}: {_brief(fields)}")

    def took_over(self, machine: Machine) -> None:
        """If it is the master now, clients and operator turn to it."""
        handover = self.checks.handovers.open.get(self.master.name)
        if handover is not None and handover.taken and handover.target is machine:
            self.master = machine

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
            values["replication.role"] = "master"
        else:
            upper = self.machines[self.upstream[machine.number]]
            values |= {"replication.role": "replica", "replication.master_address": upper.address}
        if machine.number in self.listening:
            values["replication.bind_address"] = machine.address
        if self.secret and not machine.forgets_secret:
            values["security.replication_secret_file"] = machine.secret_path
        else:
            machine.secrets.add(b"")
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
        "replication.min_replicas_to_write": random.choice((0, 0, 0, 1, 2)),
        "replication.min_replicas_max_lag_secs": heartbeat_secs * random.choice((1.5, 4.0, 20.0)),
    }


def choose_upstream(random: Random, listening: tuple[int, ...]) -> dict[int, int]:
    """Whom each replica follows at first: the master, or a replica before it that listens."""
    upstream = {}
    for number in range(1, MACHINE_COUNT):
        above = [other for other in listening if other < number]
        upstream[number] = random.choice(above) if random.random() < 0.3 else 0
    return upstream


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


def watch_masters() -> None:
    """Hear of each write that a master takes, of each handover, and of each proof. Once a process."""
    from vectorizer.node import Node
    from vectorizer.replication.authentication import Exchange
    from vectorizer.roles import Roles

    if hasattr(Node.commit, "watched"):
        return
    commit, take_over, answer = Node.commit, Roles.take_over, Exchange.answer

    def watched_commit(node: Node, *about: Any) -> int:
        offset = commit(node, *about)
        WORLD[0].checks.handovers.committed(machine_of_current_process(), node)
        return offset

    def watched_take_over(roles: Roles, client: Any, switchover: str, offset: int) -> None:
        machine = machine_of_current_process()
        machine.taking_over = switchover
        try:
            take_over(roles, client, switchover, offset)
            WORLD[0].took_over(machine)
        finally:
            machine.taking_over = ""

    def watched_answer(exchange: Any, given: Any) -> Any:
        seen_at = machine_of_current_process().host
        WORLD[0].network.seen_proofs[seen_at] = exchange._greet, given
        return answer(exchange, given)

    watched_commit.watched = True  # type: ignore[attr-defined]
    Node.commit = watched_commit  # type: ignore[method-assign]
    Roles.take_over = watched_take_over  # type: ignore[method-assign]
    Exchange.answer = watched_answer  # type: ignore[method-assign]
