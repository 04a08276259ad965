"""Readers that ask every node everything all the time: an answer is right, or a clear refusal."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence

from tests.cluster.harness.client import Answer, InDoubt, NotSent
from tests.cluster.harness.crew import Crew
from tests.cluster.harness.ledger import DIMENSION, vector_of
from tests.cluster.harness.node import Node

PAUSE_SECS = 0.01
EXPECTED = {200, 404, 503}
KINDS = ("k1", "k3")


class Readers(Crew):
    """One reader for each node, as a context; what they met that must not be is told at its end."""

    def __init__(
        self,
        nodes: Callable[[], Sequence[Node]],
        collections: Sequence[str],
        seed: int = 1,
        pause_secs: float = PAUSE_SECS,
    ) -> None:
        self.nodes = nodes
        self.collections = collections
        self.pause_secs = pause_secs
        self.answers = 0
        self.wrong: list[str] = []
        self._random = random.Random(seed)
        super().__init__("a reader", [self._read])

    def raise_failure(self) -> None:
        """AssertionError if an answer was wrong, or none came."""
        super().raise_failure()
        assert not self.wrong, "\n".join(self.wrong[:5])
        assert self.answers, "nobody ever answered"

    def _read(self) -> None:
        while not self.stopped.is_set():
            for node in self.nodes():
                try:
                    self._ask(node)
                except (InDoubt, NotSent):
                    continue  # the node is down at the moment, or went down before it answered
            time.sleep(self.pause_secs)

    def _ask(self, node: Node) -> None:
        collection = self._random.choice(self.collections)
        path = f"/collections/{collection}"
        ask = self._random.choice([self._search, self._filtered, self._page, self._describe, self._status])
        answer = ask(node, path)
        if answer.status == 200:
            self.answers += 1
        if answer.status not in EXPECTED:
            self.wrong.append(f"{node.name} {path}: {answer.status} {answer.body}")

    def _search(self, node: Node, path: str) -> Answer:
        query = {"vector": vector_of(self._random.randrange(1, 5000)), "limit": 20, "with_vector": True}
        answer = node.request("POST", f"{path}/search", query)
        if answer.status == 200:
            self._check_hits(node, answer)
        return answer

    def _filtered(self, node: Node, path: str) -> Answer:
        kind = self._random.choice(KINDS)
        chosen = {"must": [{"key": "kind", "match": {"value": kind}}]}
        query = {"vector": vector_of(1), "limit": 20, "filter": chosen}
        answer = node.request("POST", f"{path}/search", query)
        if answer.status == 200:
            found = {hit["payload"]["kind"] for hit in answer.body["results"]}
            if not found <= {kind}:
                self.wrong.append(f"{node.name}: a search for {kind} found {found}")
        return answer

    def _check_hits(self, node: Node, answer: Answer) -> None:
        hits = answer.body["results"]
        ids = [hit["id"] for hit in hits]
        if len(set(ids)) != len(ids):
            self.wrong.append(f"{node.name}: an id twice in one answer: {sorted(ids)}")
        for hit in hits:
            serial = int(hit["vector"][0] + 4096 * hit["vector"][1])
            if len(hit["vector"]) != DIMENSION or hit["vector"] != vector_of(serial):
                self.wrong.append(
                    f"{node.name}: {hit['id']} has the vector {hit['vector']}, which nobody wrote"
                )

    def _page(self, node: Node, path: str) -> Answer:
        return node.request("GET", f"{path}/vectors?limit=50")

    def _describe(self, node: Node, path: str) -> Answer:
        return node.request("GET", self._random.choice([path, f"{path}/digest", "/collections", "/health"]))

    def _status(self, node: Node, path: str) -> Answer:
        return node.request("GET", "/replication/status")
