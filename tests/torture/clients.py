"""Clients of the set checker: each writes ids that nobody wrote before, to whichever node takes them."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Any

from tests.cluster.harness import Answer, Client, InDoubt, Node, NotSent, payload_of, vector_of
from tests.cluster.harness.crew import Crew
from tests.cluster.harness.load import TEMPORARY, UNKNOWN_OUTCOMES

SET = "set"
TIMEOUT_SECS = 3.0
WAIT_MS = 1000
RETRY_SECS = 0.05
BATCH_ROWS = (1, 1, 1, 2, 5)


class Outcome(Enum):
    """What a client knows of a write."""

    ACKNOWLEDGED = "acknowledged"
    REFUSED = "refused"
    IN_DOUBT = "in doubt"


@dataclass(frozen=True, slots=True)
class Write:
    """One request: all its ids are new. Place in the history and time (monotonic) if there was an answer."""

    serials: tuple[int, ...]
    outcome: Outcome
    ended_at: float
    replication_id: str = ""
    offset: int = 0


def id_of(serial: int) -> str:
    """The id that is written with this serial number, once in a run."""
    return f"n{serial}"


class SetClients(Crew):
    """Several clients at once, as a context. ``wait`` replicas must hold a write before it counts."""

    def __init__(
        self, nodes: Sequence[Node], *, clients: int, writes_per_sec: float, wait: int, seed: int
    ) -> None:
        self.writes: list[Write] = []
        self._nodes = nodes
        self._serials = itertools.count(1)
        self._pause_secs = clients / writes_per_sec
        self._wait = wait
        chances = [random.Random(seed * 100 + number) for number in range(clients)]
        super().__init__("a client", [partial(self._write, chance) for chance in chances])

    def acknowledged(self) -> list[Write]:
        """Writes that were answered with success, in the order of their answers."""
        return [write for write in self.writes if write.outcome is Outcome.ACKNOWLEDGED]

    def _write(self, chance: random.Random) -> None:
        client = _Client(self._nodes, self._wait, chance)
        while not self.stopped.is_set():
            serials = tuple(itertools.islice(self._serials, chance.choice(BATCH_ROWS)))
            write = client.write(serials)
            self.writes.append(write)
            pause_secs = self._pause_secs if write.outcome is Outcome.ACKNOWLEDGED else RETRY_SECS
            self.stopped.wait(pause_secs * chance.uniform(0.5, 1.5))


class _Client:
    """One of them: goes where it is sent, and to the next node when it is not answered."""

    def __init__(self, nodes: Sequence[Node], wait: int, chance: random.Random) -> None:
        self._doors = [Client(node.host, node.port, TIMEOUT_SECS) for node in nodes]
        self._now = 0
        self._wait = wait
        self._chance = chance
        self._path = f"/collections/{SET}/vectors"
        if wait:
            self._path += f"?wait={wait}&timeout_ms={WAIT_MS}"

    def write(self, serials: tuple[int, ...]) -> Write:
        """One request and what became of it; AssertionError if the answer is none that may be given."""
        rows = [
            {"id": id_of(serial), "vector": vector_of(serial), "payload": payload_of(serial)}
            for serial in serials
        ]
        try:
            answer = self._doors[self._now].request("POST", self._path, {"vectors": rows})
        except NotSent:
            self._elsewhere()
            return Write(serials, Outcome.REFUSED, time.monotonic())
        except InDoubt:
            self._elsewhere()
            return Write(serials, Outcome.IN_DOUBT, time.monotonic())
        if answer.status < 300:
            return self._answered(serials, answer.body)
        error_type = answer.body.get("error_type", "") if isinstance(answer.body, dict) else ""
        assert answer.status in TEMPORARY, f"{answer.status} {answer.body}"
        self._follow(answer)
        outcome = Outcome.IN_DOUBT if error_type in UNKNOWN_OUTCOMES else Outcome.REFUSED
        return Write(serials, outcome, time.monotonic())

    def _answered(self, serials: tuple[int, ...], body: dict[str, Any]) -> Write:
        # Too few replicas is no error: the master has the write, and nobody promised that others do.
        safe = body.get("replicas_durable", 0) >= self._wait
        outcome = Outcome.ACKNOWLEDGED if safe else Outcome.IN_DOUBT
        return Write(serials, outcome, time.monotonic(), body["replication_id"], body["offset"])

    def _follow(self, answer: Answer) -> None:
        """A replica names its master; a node that cannot take writes at the moment is left."""
        named = answer.headers.get("x-vectorizer-master", "").rpartition(":")[2]
        ports = [str(door.port) for door in self._doors]
        if named in ports and ports.index(named) != self._now:
            self._now = ports.index(named)
        else:
            self._elsewhere()

    def _elsewhere(self) -> None:
        self._now = (self._now + self._chance.randrange(1, len(self._doors))) % len(self._doors)
