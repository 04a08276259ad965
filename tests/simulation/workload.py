"""Clients: writes of all kinds over a few collections, and readers that hold their view for a while."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

import numpy as np

from tests.simulation.checks import Checks
from tests.simulation.kernel import Task
from tests.simulation.machine import Machine
from tests.simulation.truth import key_of, view_difference

if TYPE_CHECKING:
    from vectorizer.operations import Operation, Upsert
    from vectorizer.storage.store import Store

NAMES = ("alpha", "beta", "gamma")
IDS = tuple(f"id-{number:02d}".encode() for number in range(40))
DIMENSION = 3
HOLD_SECS = 0.4


class Client:
    """Writes, one request at a time, to a machine that it is told; reads now and then."""

    def __init__(self, random: Random, checks: Checks, number: int) -> None:
        self.random = random
        self.checks = checks
        self.number = number
        self.request: Task | None = None
        self.written = 0

    def step(self, machine: Machine) -> None:
        """Make the next request, unless the last one is still under way."""
        if self.request is not None and not self.request.done and self.request.process.alive:
            return
        if self.random.random() < 0.12:
            self.request = machine.run(lambda: self._read(machine))
        else:
            self.request = machine.run(lambda: self._write(machine))

    def _write(self, machine: Machine) -> None:
        from vectorizer.errors import RequestError
        from vectorizer.node import NodeFailure

        assert machine.server is not None
        database = machine.server.database
        self.written += 1
        operation = next_operation(self.random, database.node.store, self.number, self.written)
        try:
            result = database.write(operation)
        except NodeFailure:
            return
        except RequestError as error:
            self.checks.counts[f"refused: {error.error_type}"] += 1
            return
        self.checks.wrote(machine, result.replication_id, result.offset)

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


def next_operation(random: Random, store: Store, client: int, number: int) -> Operation:
    """What a client would write to this store."""
    from vectorizer.operations import Create, Delete, Drop

    missing = [name for name in NAMES if name not in store.collections]
    if missing and (len(missing) == len(NAMES) or random.random() < 0.15):
        return Create(new_config(random, missing[0]))
    name = random.choice(sorted(store.collections))
    chance = random.random()
    if chance < 0.02:
        return Drop(name)
    if chance < 0.25:
        return Delete(name, random.sample(IDS, random.randint(1, 6)))
    return _upsert(random, name, client, number)


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
