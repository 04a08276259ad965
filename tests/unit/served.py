"""Whole servers in this process: REST and replication on real sockets of 127.0.0.1, data on a real disk."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import gevent
import numpy as np
import orjson
from gevent import socket

from vectorizer.config import Settings, Source
from vectorizer.replication.states import LinkState
from vectorizer.server import Server

QUICK: dict[str, Any] = {
    "server.host": "127.0.0.1",
    "server.port": 0,
    "server.shutdown_timeout_secs": 5,
    "storage.journal_file_bytes": 1 << 18,
    "storage.journal_bytes_max": 1 << 24,
    "replication.heartbeat_interval_secs": 0.05,
    "replication.replica_timeout_secs": 10,
    "replication.reconnect_interval_secs": 0.1,
    "replication.connect_timeout_secs": 2,
}
DIMENSION = 4


def wait_until(condition: Callable[[], object], what: str = "the condition", seconds: float = 20.0) -> None:
    """Let others run until the condition holds; fails after so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds:g} s in vain for {what}"
        gevent.sleep(0.005)


def free_port() -> int:
    """A port that nobody listens on at the moment."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def vector(number: int, seed: int = 0, dimension: int = DIMENSION) -> list[float]:
    values = np.random.default_rng([seed, number]).standard_normal(dimension).astype(np.float32)
    return [float(value) for value in values]


def master_settings(**more: Any) -> dict[str, Any]:
    return {"replication.role": "master", "replication.bind_address": "127.0.0.1:0", **more}


def replica_settings(address: str, **more: Any) -> dict[str, Any]:
    return {"replication.role": "replica", "replication.master_address": address, **more}


@dataclass
class Served:
    """A server that a test starts and stops; what REST stored survives, as in a process."""

    root: Path
    values: Mapping[str, Any] = field(default_factory=dict)
    flags: Mapping[str, Any] = field(default_factory=dict)
    server: Server = field(init=False)

    def settings(self) -> Settings:
        values = {**QUICK, **self.values, "storage.data_dir": str(self.root)}
        settings = Settings().replaced(values, source=Source.YAML)
        return settings.replaced(self.flags, source=Source.FLAG) if self.flags else settings

    def start(self) -> Served:
        server = Server(self.settings())
        server.start()
        self.server = server
        return self

    def stop(self) -> None:
        if not self.server.database._closing:
            self.server.stop()

    def restart(self) -> Served:
        self.stop()
        return self.start()

    # -- over REST --------------------------------------------------------------------------------------

    def request(self, method: str, path: str, document: Any = None) -> tuple[int, Any]:
        connection = HTTPConnection(*self.server.rest_address, timeout=30)
        try:
            body = None if document is None else orjson.dumps(document)
            headers = {"Connection": "close"} | ({} if body is None else {"Content-Type": "application/json"})
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return response.status, orjson.loads(response.read() or b"null")
        finally:
            connection.close()

    def told(self, method: str, path: str, document: Any = None) -> Any:
        """The body of a successful answer."""
        code, answer = self.request(method, path, document)
        assert code < 300, (method, path, code, answer)
        return answer

    def configure(self, **values: Any) -> tuple[int, Any]:
        return self.request("POST", "/replication/configure", values)

    def status(self) -> Any:
        code, document = self.request("GET", "/replication/status")
        assert code == 200
        return document

    def create(self, name: str = "things", dimension: int = DIMENSION, **more: Any) -> None:
        code, answer = self.request("POST", "/collections", {"name": name, "dimension": dimension, **more})
        assert code == 201, answer

    def put(self, *ids: int, seed: int = 0, name: str = "things", dimension: int = DIMENSION) -> int:
        """Upsert; the offset."""
        code, answer = self.upsert(ids, seed, name, dimension)
        assert code == 200, answer
        return int(answer["offset"])

    def upsert(
        self, ids: Sequence[int], seed: int = 0, name: str = "things", dimension: int = DIMENSION
    ) -> tuple[int, Any]:
        rows = [{"id": f"id-{item}", "vector": vector(item, seed, dimension)} for item in ids]
        return self.request("POST", f"/collections/{name}/vectors", {"vectors": rows})

    def digest(self, name: str = "things") -> tuple[str, int]:
        code, answer = self.request("GET", f"/collections/{name}/digest")
        assert code == 200, answer
        return answer["digest"], answer["vector_count"]

    # -- behind the scenes ------------------------------------------------------------------------------

    @property
    def offset(self) -> int:
        return self.server.database.node.offset

    @property
    def role(self) -> str:
        return self.server.database.node.role.value

    @property
    def address(self) -> str:
        """Where replicas connect to."""
        assert self.server.roles.master is not None
        return self.server.roles.master.address

    @property
    def counters(self) -> Any:
        assert self.server.roles.replica is not None
        return self.server.roles.replica.link.totals

    @property
    def link_state(self) -> LinkState | None:
        replica = self.server.roles.replica
        return None if replica is None else replica.link.state

    @property
    def streams(self) -> bool:
        return self.link_state is LinkState.STREAMING

    def follows(self, master: Served) -> None:
        """Wait until this node holds what the master holds, and compare."""
        wait_until(
            lambda: self.streams and self.offset == master.offset,
            f"offset {master.offset}, at {self.link_state} {self.offset}",
        )
        for name in master.server.database.node.store.collections:
            assert self.digest(name) == master.digest(name)


class Cluster:
    """Servers by name, below one directory; all are stopped at the end."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._served: list[Served] = []

    def start(self, name: str, values: Mapping[str, Any] | None = None, **flags: Any) -> Served:
        served = Served(self._root / name, values or {}, flags)
        served.start()
        self._served.append(served)
        return served

    def master(self, name: str = "master", **more: Any) -> Served:
        return self.start(name, master_settings(**more))

    def replica(self, master: Served, name: str = "replica", **more: Any) -> Served:
        return self.start(name, replica_settings(master.address, **more))

    def stop(self) -> None:
        for served in self._served:
            served.stop()


@contextmanager
def cluster_at(root: Path) -> Iterator[Cluster]:
    cluster = Cluster(root)
    try:
        yield cluster
    finally:
        cluster.stop()
