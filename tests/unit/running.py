"""Nodes that run in this process: real databases on real disks, real sockets on 127.0.0.1."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import gevent
import numpy as np
from gevent import socket

from tests.unit.stored import OPTIONS, config, rows
from vectorizer.config import Settings
from vectorizer.database import Database, node_limits
from vectorizer.digest import digest_of
from vectorizer.frame import FrameDecoder
from vectorizer.maintenance import Maintenance
from vectorizer.node import Node, Role
from vectorizer.operations import Create, Rows, Upsert
from vectorizer.replication import messages
from vectorizer.replication.master import MasterServer, bind
from vectorizer.replication.replica import ReplicaClient
from vectorizer.replication.states import LinkState
from vectorizer.snapshots import Snapshots
from vectorizer.storage.data_directory import DataDirectory
from vectorizer.storage.disk import Disk, RealDisk
from vectorizer.storage.recovery import open_data

QUICK = {
    "heartbeat_interval_secs": 0.1,
    "replica_timeout_secs": 5.0,
    "reconnect_interval_secs": 0.2,
    "handshake_timeout_secs": 3.0,
}


def wait_until(condition: Callable[[], object], seconds: float = 15.0) -> None:
    """Let others run until the condition holds; fails after so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        gevent.sleep(0.005)


@dataclass
class RunningNode:
    """A database with the rooms around it that the stream needs."""

    root: Path
    role: Role = Role.MASTER
    replication: dict[str, Any] = field(default_factory=dict)
    frame_bytes_max: int = 1 << 24
    fsync: str = "always"
    disk: Disk = field(default_factory=RealDisk)
    server: MasterServer | None = None
    client: ReplicaClient | None = None

    def __post_init__(self) -> None:
        self._numbers = itertools.count(1)
        self.start()

    def start(self) -> None:
        settings = Settings()
        self.settings = replace(
            settings,
            replication=replace(settings.replication, **{**QUICK, **self.replication}),
            limits=replace(settings.limits, frame_bytes_max=self.frame_bytes_max),
            storage=replace(
                settings.storage,
                fsync=self.fsync,  # type: ignore[arg-type]
                journal_file_bytes=1 << 20,
                journal_bytes_max=1 << 26,
            ),
        )
        self.disk.make_directory(str(self.root))
        directory = DataDirectory(self.disk, str(self.root))
        options = replace(OPTIONS, log_bytes_max=self.settings.replication.log_bytes_max)
        recovered = open_data(directory, options, self._new_id)
        self.node = Node(recovered, self.role, node_limits(self.settings), self._new_id)
        self.database = Database(self.settings, directory, self.node)
        self.maintenance = Maintenance(self.database)
        self.snapshots = Snapshots(self.database, self.maintenance)
        self.database.start()
        self.database.flush()

    def _new_id(self) -> str:
        return f"{self.root.name}-{next(self._numbers)}"

    def listen(self, address: str = "127.0.0.1:0") -> MasterServer:
        self.server = MasterServer(self.database, self.snapshots, bind(address), "127.0.0.1:15002")
        self.server.start()
        return self.server

    def follow(self, address: str, *, force: bool = False) -> ReplicaClient:
        self.client = ReplicaClient(self.database, self.snapshots, address, "127.0.0.1:15003", force=force)
        self.client.start()
        return self.client

    def stop(self) -> None:
        for part in (self.client, self.server):
            if part is not None:
                part.stop()
        self.client = self.server = None
        self.database.close()

    def change(self, **replication: Any) -> None:
        """Settings of section replication, live."""
        self.database.settings = replace(
            self.database.settings, replication=replace(self.database.settings.replication, **replication)
        )

    def create(self, name: str = "things") -> None:
        self.database.write(Create(config(name)))

    def write(self, *ids: int, seed: int = 0, name: str = "things") -> None:
        self.database.write(Upsert(name, rows(ids, seed)))

    def write_large(self, payload_bytes: int, name: str = "things") -> None:
        """One operation of about that size."""
        content = b"\x00" * payload_bytes
        self.database.write(
            Upsert(
                name, Rows([b"large"], np.ones((1, 4), np.float32), [messages.codec.encode({"x": content})])
            )
        )

    def digest(self, name: str = "things") -> str:
        return digest_of(self.node.store.get(name).view(self.node.offset), lambda: None)[0]


def caught_up(master: RunningNode, *replicas: RunningNode) -> Callable[[], bool]:
    """Whether the replicas stream and stand where the master stands."""
    return lambda: all(
        replica.client is not None
        and replica.client.link.state is LinkState.STREAMING
        and replica.node.offset == master.node.offset
        for replica in replicas
    )


class Peer:
    """Somebody on the line who says what the test wants."""

    def __init__(self, address: str | None = None, sock: socket.socket | None = None) -> None:
        host, _, port = (address or "").rpartition(":")
        self.sock = socket.create_connection((host, int(port))) if sock is None else sock
        self._decoder = FrameDecoder(1 << 26)

    def say(self, *what: messages.Message | bytes) -> None:
        for item in what:
            self.sock.sendall(item if isinstance(item, bytes) else messages.encode(item))

    def hear(self, seconds: float = 10.0) -> messages.Message | messages.OperationFrame | None:
        """The next thing said; None at the end of the connection."""
        with gevent.Timeout(seconds, AssertionError("nothing was said")):
            while (line := self._decoder.next()) is None:
                try:
                    data = self.sock.recv(1 << 16)
                except ConnectionError:
                    return None
                if not data:
                    return None
                self._decoder.feed(data)
        return messages.decode(line)

    def hear_a(self, kind: type[Any]) -> Any:
        """The next message of that kind, others passed over."""
        while (message := self.hear()) is not None:
            if isinstance(message, kind):
                return message
        raise AssertionError(f"the connection ended without a {kind.__name__}")

    def ended(self, seconds: float = 10.0) -> bool:
        """Whether the connection ends; what is said until then is dropped."""
        while self.hear(seconds) is not None:
            pass
        return True

    def close(self) -> None:
        self.sock.close()
