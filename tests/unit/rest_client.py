"""A node's REST interface in this process, on real data, and a client for it."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import bson
import orjson

from vectorizer.database import Database, node_limits
from vectorizer.errors import ConfigurationError
from vectorizer.maintenance import Maintenance
from vectorizer.node import Node, Role
from vectorizer.rest.app import RestApp
from vectorizer.rest.server import RestServer
from vectorizer.settings import Settings
from vectorizer.storage.data_directory import DataDirectory
from vectorizer.storage.disk import RealDisk
from vectorizer.storage.recovery import StorageOptions, open_data

JSON = "application/json"
BSON = "application/bson"


def new_id() -> str:
    return uuid.uuid4().hex


class Control:
    """Replication of a node that has none: answers with what it was asked."""

    def status(self) -> Mapping[str, Any]:
        return {"role": "Standalone", "enabled": False}

    def stats(self) -> Mapping[str, Any]:
        return {"asked": "stats"}

    def replicas(self) -> Mapping[str, Any]:
        return {"replicas": [], "count": 0}

    def configure(self, document: Mapping[str, Any]) -> Mapping[str, Any]:
        if "rol" in document:
            raise ConfigurationError(
                "unknown key 'rol'", key="rol", source="REST", accepted="settings", nearest="role"
            )
        return {"success": True, **document}


@dataclass(frozen=True)
class Answer:
    """Status, headers with names in lower case, decoded body."""

    status: int
    headers: Mapping[str, str]
    body: Any
    raw: bytes


class RestNode:
    """A standalone node with its REST interface; ``database`` is for looking behind the scenes."""

    def __init__(self, path: Path, **settings: Any) -> None:
        self.settings = Settings().replaced(
            {name.replace("__", "."): value for name, value in settings.items()}
        )
        storage, replication = self.settings.storage, self.settings.replication
        directory = DataDirectory(RealDisk(), str(path))
        options = StorageOptions(
            storage.journal_file_bytes,
            storage.journal_bytes_max,
            replication.log_size,
            replication.log_bytes_max,
        )
        node = Node(
            open_data(directory, options, new_id), Role.STANDALONE, node_limits(self.settings), new_id
        )
        self.database = Database(self.settings, directory, node)
        self.maintenance = Maintenance(self.database)
        self.server = RestServer("127.0.0.1", 0)

    def start(self) -> None:
        self.database.start()
        self.maintenance.start()
        self.server.start(RestApp(self.database, Control()), self.settings)
        self.connection = HTTPConnection(self.server.host, self.server.port, timeout=30)

    def stop(self) -> None:
        self.connection.close()
        self.server.stop(2.0)
        self.database.close()

    def request(
        self,
        method: str,
        path: str,
        document: Any = None,
        *,
        raw: bytes | None = None,
        kind: str | None = JSON,
        accept: str | None = None,
    ) -> Answer:
        body = raw
        if body is None and document is not None:
            body = bson.encode(document) if kind == BSON else orjson.dumps(document)
        headers = {} if body is None or kind is None else {"Content-Type": kind}
        if accept is not None:
            headers["Accept"] = accept
        self.connection.request(method, path, body, headers)
        response = self.connection.getresponse()
        data = response.read()
        given = {name.lower(): value for name, value in response.getheaders()}
        decoded = bson.decode(data) if given["content-type"] == BSON else orjson.loads(data or b"null")
        return Answer(response.status, given, decoded, data)

    def get(self, path: str, **more: Any) -> Answer:
        return self.request("GET", path, **more)

    def post(self, path: str, document: Any = None, **more: Any) -> Answer:
        return self.request("POST", path, document, **more)

    def put(self, path: str, document: Any = None, **more: Any) -> Answer:
        return self.request("PUT", path, document, **more)

    def delete(self, path: str) -> Answer:
        return self.request("DELETE", path)

    def create(self, name: str = "c", dimension: int = 3, **more: Any) -> str:
        """The path of a new collection."""
        answer = self.post("/collections", {"name": name, "dimension": dimension, **more})
        assert answer.status == 201, answer.body
        return f"/collections/{name}"

    @property
    def offset(self) -> int:
        return self.database.node.offset
