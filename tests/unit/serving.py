"""Whole servers in this process: the composition root with real disks and sockets, driven over REST."""

from __future__ import annotations

import json
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from tests.unit.running import QUICK, wait_until
from vectorizer.server import Server
from vectorizer.settings import Settings

SMALL: dict[str, Any] = {
    "server.port": 0,
    "server.shutdown_timeout_secs": 2,
    "storage.journal_file_bytes": 1 << 20,
    **{f"replication.{name}": value for name, value in QUICK.items()},
}


class Serving:
    """A server that can be stopped and started again on its data."""

    def __init__(self, path: Path, **settings: Any) -> None:
        self.path = path
        self.settings = {name.replace("__", "."): value for name, value in settings.items()}
        self.start()

    def start(self) -> Server:
        settings = Settings().replaced({**SMALL, "storage.data_dir": str(self.path), **self.settings})
        self.server = Server(settings)
        self.server.start()
        self.running = True
        return self.server

    def stop(self) -> None:
        if self.running:
            self.running = False
            self.server.stop()

    def restart(self, **settings: Any) -> Server:
        self.stop()
        self.settings |= {name.replace("__", "."): value for name, value in settings.items()}
        return self.start()

    def ask(self, method: str, path: str, document: Any = None) -> tuple[int, Any]:
        """(status, decoded body)."""
        connection = HTTPConnection(*self.server.rest_address, timeout=20)
        try:
            body = None if document is None else json.dumps(document)
            connection.request(method, path, body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read() or b"null")
        finally:
            connection.close()

    def told(self, method: str, path: str, document: Any = None) -> Any:
        """The body of a successful answer."""
        status, body = self.ask(method, path, document)
        assert status < 300, (method, path, status, body)
        return body

    def configure(self, **document: Any) -> tuple[int, Any]:
        return self.ask("POST", "/replication/configure", document)

    def status(self) -> Any:
        return self.told("GET", "/replication/status")

    def create(self, name: str = "things", **more: Any) -> None:
        self.told("POST", "/collections", {"name": name, "dimension": 4, **more})

    def write(self, *numbers: int, name: str = "things") -> None:
        vectors = [{"id": f"v{n}", "vector": [n + 1, n % 7, 1, n % 3], "payload": {"n": n}} for n in numbers]
        self.told("POST", f"/collections/{name}/vectors", {"vectors": vectors})

    def digest(self, name: str = "things") -> str:
        digest: str = self.told("GET", f"/collections/{name}/digest")["digest"]
        return digest

    @property
    def address(self) -> str:
        """Where this master takes its replicas."""
        master = self.server.roles.master
        assert master is not None
        return master.address

    def streams(self) -> bool:
        """Whether this replica's link is up and it has all that its master has."""
        link = self.status()["link"]
        return bool(
            link and link["state"] == "streaming" and link["master_offset"] == self.status()["offset"]
        )


def follows(replica: Serving, master: Serving, name: str = "things") -> None:
    """Wait until a replica holds what its master holds."""
    wait_until(replica.streams)
    wait_until(lambda: replica.server.database.node.offset == master.server.database.node.offset)
    assert replica.digest(name) == master.digest(name)
