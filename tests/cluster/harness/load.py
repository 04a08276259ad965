"""Writers that send mixed operations to whichever node is the master and enter the answers in the ledger."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from tests.cluster.harness.client import InDoubt, NotSent, Refused, vector_path
from tests.cluster.harness.crew import Crew
from tests.cluster.harness.ledger import DIMENSION, NO_PAYLOAD, Ledger, Value, payload_of, vector_of
from tests.cluster.harness.node import Node
from tests.cluster.harness.waiting import wait_until

RETRY_SECS = 0.02
IDS_EACH = 400
METRICS = ("cosine", "euclidean", "dot")
TEMPORARY = {403, 503, 507}
UNKNOWN_OUTCOMES = {"outcome_unknown", "failed"}


def create_collections(node: Node, ledger: Ledger, names: Sequence[str]) -> None:
    """Create one collection for each name, metrics in turn."""
    for number, name in enumerate(names):
        metric = METRICS[number % len(METRICS)]
        ledger.created(
            name, node.post("/collections", {"name": name, "dimension": DIMENSION, "metric": metric})
        )


def row(vector_id: str, value: tuple[int, int]) -> dict[str, Any]:
    """One row of an upsert."""
    payload = payload_of(value[1])
    shown = {"id": vector_id, "vector": vector_of(value[0])}
    return shown if payload is None else {**shown, "payload": payload}


class Writer:
    """One client: a seeded sequence of operations on ids of its own, one after the other."""

    def __init__(
        self, name: str, target: Callable[[], Node], ledger: Ledger, seed: int, collections: Sequence[str]
    ) -> None:
        self.name = name
        self.target = target
        self.ledger = ledger
        self.random = random.Random(seed)
        self.collections = list(collections)
        self.own = f"own-{name}"
        self.sent = 0

    def step(self) -> None:
        """Send one operation; refused or unsent ones leave no trace, unanswered ones are in doubt."""
        action = self.random.choices(
            [
                self.upsert,
                self.payload_only,
                self.vector_only,
                self.delete_one,
                self.delete_many,
                self.turn_over,
            ],
            weights=[50, 15, 5, 12, 12, 6],
        )[0]
        try:
            self.settle()
            action()
        except NotSent:
            time.sleep(RETRY_SECS)
        except Refused as error:
            if error.answer.status not in TEMPORARY:
                raise
            time.sleep(RETRY_SECS)

    def upsert(self) -> None:
        collection = self._some_collection()
        size = self.random.choice([1, 1, 1, 2, 10, 40])
        values: dict[str, Value] = {}
        for vector_id in self._some_ids(size):
            serial = next(self.ledger.serials)
            values[vector_id] = (serial, self.random.choice([serial, serial, serial, NO_PAYLOAD]))
        rows = [row(vector_id, value) for vector_id, value in values.items() if value is not None]
        path = f"/collections/{collection}/vectors"
        self._write(collection, values, "POST", path, {"vectors": rows})

    def payload_only(self) -> None:
        for collection, vector_id, (vector_serial, _) in self._one_there():
            serial = self.random.choice([next(self.ledger.serials), NO_PAYLOAD])
            document = {"payload": payload_of(serial)}
            path = vector_path(collection, vector_id)
            self._write(collection, {vector_id: (vector_serial, serial)}, "PUT", path, document)

    def vector_only(self) -> None:
        for collection, vector_id, (_, payload_serial) in self._one_there():
            serial = next(self.ledger.serials)
            document = {"vector": vector_of(serial)}
            path = vector_path(collection, vector_id)
            self._write(collection, {vector_id: (serial, payload_serial)}, "PUT", path, document)

    def delete_one(self) -> None:
        for collection, vector_id, _ in self._one_there():
            path = vector_path(collection, vector_id)
            self._write(collection, {vector_id: None}, "DELETE", path)

    def delete_many(self) -> None:
        collection = self._some_collection()
        there = list(self.ledger.certain(collection, self._some_ids(12)))
        if there:
            path = f"/collections/{collection}/vectors/delete"
            values: dict[str, Value] = dict.fromkeys(there)
            self._write(collection, values, "POST", path, {"ids": there})

    def turn_over(self) -> None:
        """Create this writer's own collection, or drop it."""
        exists = self.own in self.ledger.collections()
        try:
            if exists:
                self.ledger.dropped(self.own, self.target().delete(f"/collections/{self.own}"))
            else:
                document = {"name": self.own, "dimension": DIMENSION}
                self.ledger.created(self.own, self.target().post("/collections", document))
            self.sent += 1
        except InDoubt:
            self.ledger.may_have_turned_over(self.own)
        except Refused as error:
            if error.error_type not in UNKNOWN_OUTCOMES:
                raise
            self.ledger.may_have_turned_over(self.own)

    def settle(self) -> None:
        """If a create or drop was not answered, look what became of it before anything else is done."""
        if self.own in self.ledger.unsettled:
            try:
                answer = self.target().request("GET", f"/collections/{self.own}")
            except InDoubt as error:
                raise NotSent(str(error)) from error  # a question changes nothing: ask again
            if answer.status not in (200, 404):
                raise Refused(answer, f"GET {self.own}")
            self.ledger.settled(self.own, answer.status == 200)

    def _write(
        self, collection: str, values: dict[str, Value], method: str, path: str, document: Any = None
    ) -> None:
        try:
            answer = self.target().ask(method, path, document)
        except InDoubt:
            self.ledger.may_have_written(collection, values)
        except Refused as error:
            if error.error_type not in UNKNOWN_OUTCOMES:
                raise
            self.ledger.may_have_written(collection, values)
        else:
            self.ledger.wrote(collection, values, answer)
            self.sent += 1

    def _some_collection(self) -> str:
        own = [self.own] if self.own in self.ledger.collections() else []
        return self.random.choice(self.collections + own)

    def _some_ids(self, count: int) -> list[str]:
        return [f"{self.name}/{number}" for number in self.random.sample(range(IDS_EACH), count)]

    def _one_there(self) -> list[tuple[str, str, tuple[int, int]]]:
        """At most one (collection, id, value) that is surely there."""
        collection = self._some_collection()
        for vector_id, value in self.ledger.certain(collection, self._some_ids(20)).items():
            return [(collection, vector_id, value)]
        return []


class Load(Crew):
    """Several writers at once, as a context: they run inside it and have ended after it."""

    def __init__(
        self,
        target: Callable[[], Node],
        ledger: Ledger,
        collections: Sequence[str],
        *,
        writers: int = 5,
        seed: int = 1,
        pause_secs: float = 0.002,
    ) -> None:
        self.writers = [
            Writer(f"w{seed}.{number}", target, ledger, seed * 1000 + number, collections)
            for number in range(writers)
        ]
        self.pause_secs = pause_secs
        super().__init__("a writer", [partial(self._write, writer) for writer in self.writers])

    @property
    def sent(self) -> int:
        """Operations answered so far."""
        return sum(writer.sent for writer in self.writers)

    def wait_sent(self, more: int, deadline_secs: float = 30.0) -> None:
        """Until `more` further operations were answered."""
        goal = self.sent + more
        wait_until(lambda: self.failures or self.sent >= goal, f"{more} more writes", deadline_secs)
        self.raise_failure()

    def _write(self, writer: Writer) -> None:
        while not self.stopped.is_set():
            writer.step()
            time.sleep(self.pause_secs)
