"""Clients: writes of all kinds over a few collections, and readers that hold their view for a while."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random
from typing import TYPE_CHECKING

import numpy as np

from tests.simulation.checks import Checks
from tests.simulation.kernel import Task
from tests.simulation.machine import Machine
from tests.simulation.truth import Key, key_of, view_difference

if TYPE_CHECKING:
    from vectorizer.operations import Operation, Upsert
    from vectorizer.storage.store import Store

NAMES = ("alpha", "beta", "gamma")
IDS = tuple(f"id-{number:02d}".encode() for number in range(40))
DIMENSION = 3
HOLD_SECS = 0.4


class Client:
    """Makes requests of the seed's kinds, one at a time, of a machine that it is told."""

    def __init__(self, random: Random, checks: Checks, number: int, weights: Mapping[str, float]) -> None:
        self.random = random
        self.checks = checks
        self.number = number
        self.request: Task | None = None
        self.written = 0
        self.newest: Key | None = None
        """Its newest write, as the answer gave it."""
        self._kinds: dict[str, Callable[[Machine], None]] = {
            "write": lambda machine: self._write(machine, "write"),
            "write and wait": lambda machine: self._write(machine, "write", wait=True),
            "delete": lambda machine: self._write(machine, "delete"),
            "create": lambda machine: self._write(machine, "create"),
            "drop": lambda machine: self._write(machine, "drop"),
            "read": self._read,
            "read what was written": self._read_written,
        }
        assert self._kinds.keys() == weights.keys()
        self._weights = weights
        self._began = 0.0  # when the request was sent

    def step(self, machine: Machine) -> None:
        """Make the next request, unless the last one is still under way."""
        if self.request is not None and not self.request.done and self.request.process.alive:
            return
        kind = self.random.choices(list(self._weights), list(self._weights.values()))[0]
        self._began = machine.kernel.now
        self.request = machine.run(lambda: self._kinds[kind](machine))

    def probe(self, machine: Machine) -> Task | None:
        """A write that must succeed: the task ends when it is acknowledged, and otherwise waits for ever."""
        acknowledged = self.checks.counts["acknowledged"]
        self._began = machine.kernel.now

        def write() -> None:
            while self.checks.counts["acknowledged"] == acknowledged:
                self._write(machine, "write")
                machine.kernel.pause(0.2)

        return machine.run(write)

    # -- writes --------------------------------------------------------------------------------------

    def _write(self, machine: Machine, kind: str, *, wait: bool = False) -> None:
        """As REST does it: enough replicas, the write, the wait."""
        from vectorizer.errors import RequestError
        from vectorizer.guarantees import Guarantees
        from vectorizer.node import NodeFailure

        assert machine.server is not None
        database = machine.server.database
        replication = database.settings.replication
        guarantees = Guarantees(database)
        self.written += 1
        try:
            database.node.guard_writable()
            guarantees.guard_replicas()
            self.checks.promises.let_in(
                machine, replication.min_replicas_to_write, replication.min_replicas_max_lag_secs
            )
            result = database.write(self.next_operation(kind, database.node.store))
        except NodeFailure:
            return
        except RequestError as error:
            self.checks.counts[f"refused: {error.error_type}"] += 1
            return
        self.checks.wrote(machine, result.replication_id, result.offset)
        self.checks.stall_secs = max(self.checks.stall_secs, machine.kernel.now - self._began)
        self.newest = key = (result.replication_id, result.offset)
        if wait:
            count, timeout_ms = self.random.choice((1, 1, 2)), self.random.choice((100, 1_000, 5_000))
            reached = guarantees.durable_replicas(result.offset, count, timeout_ms, result.replication_id)
            self.checks.promises.counted(machine, key, reached, count)

    def next_operation(self, kind: str, store: Store) -> Operation:
        """An operation of that kind; another one if there is nothing of which it could be."""
        from vectorizer.operations import Create, Delete, Drop

        random = self.random
        missing = [name for name in NAMES if name not in store.collections]
        if missing and (kind == "create" or len(missing) == len(NAMES) or random.random() < 0.1):
            return Create(new_config(random, missing[0]))
        name = random.choice(sorted(store.collections))
        if kind == "drop":
            return Drop(name)
        if kind == "delete":
            return Delete(name, random.sample(IDS, random.randint(1, 6)))
        return _upsert(random, name, self.number, self.written)

    # -- reads ---------------------------------------------------------------------------------------

    def _read(self, machine: Machine) -> None:
        """A view stays what it was, whatever happens to the data meanwhile."""
        from vectorizer.errors import RequestError

        assert machine.server is not None
        database, truth = machine.server.database, self.checks.truth
        name = self.random.choice(NAMES)
        try:
            view = database.view(name)
        except RequestError as error:
            self.checks.counts[f"unread: {error.error_type}"] += 1
            return
        key = key_of(database.node.history, view.offset)
        expected = truth.state(key).get(name)
        for _ in range(2):
            wrong = "there is no such collection" if expected is None else view_difference(view, expected[1])
            if wrong is not None:
                self.checks.violated(
                    f"a view of {name} on {machine.name} at {key} is not what it was: {wrong}"
                )
                return
            machine.kernel.pause(self.random.random() * HOLD_SECS)
        self.checks.counts["read"] += 1

    def _read_written(self, machine: Machine) -> None:
        """Read, anywhere, no older than the own newest write (``min_offset``, ``replication_id``)."""
        from vectorizer.errors import RequestError
        from vectorizer.guarantees import Guarantees

        assert machine.server is not None
        database, asked = machine.server.database, self.newest
        if asked is None:
            return
        named = self.random.random() < 0.7
        try:
            Guarantees(database).await_offset(
                asked[1], asked[0] if named else None, self.random.choice((0, 200, 3_000))
            )
            view = database.view(self.random.choice(NAMES))
        except RequestError as error:
            self.checks.counts[f"unread: {error.error_type}"] += 1
            return
        self.checks.promises.read(machine, view, asked, named=named)


def new_config(random: Random, name: str) -> object:
    """A collection of very small segments."""
    from vectorizer.operations import CollectionConfig

    return CollectionConfig(
        name=name,
        dimension=DIMENSION,
        metric=random.choice(("cosine", "euclidean", "dot")),
        recall=0.95,
        segment_rows=random.randint(8, 16),
        segment_rows_max=random.choice((32, 64)),
        hnsw_m=8,
        ef_construction=50,
    )


def _upsert(random: Random, name: str, client: int, number: int) -> Upsert:
    from vectorizer import codec
    from vectorizer.operations import Rows, Upsert

    ids = random.sample(IDS, random.randint(1, 8))
    vectors = np.array([[random.uniform(0.1, 1.0) for _ in range(DIMENSION)] for _ in ids], np.float32)
    texts = [{"by": client, "number": number, "text": "x" * random.choice((0, 0, 5, 60))} for _ in ids]
    payloads = [codec.encode_payload(text if random.random() < 0.7 else None) for text in texts]
    return Upsert(name, Rows(ids, vectors, payloads))
