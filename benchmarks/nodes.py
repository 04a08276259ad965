"""Real server processes to measure: ``python -m vectorizer`` with data directories on the disk."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any

import yaml

from benchmarks.data import DIMENSION
from benchmarks.rest_client import HOST, RequestFailed, RestClient

ROOT = Path(__file__).resolve().parents[1]
START_SECS = 120.0
STOP_SECS = 60.0
POLL_SECS = 0.002
SETTLED_SECS = 2.0
LOG_TAIL_BYTES = 3000
COLLECTION = "bench"
# Below the range from which the system gives ports to outgoing connections.
PORTS = range(17000, 30000)


def free_port() -> int:
    """A port on 127.0.0.1 that nobody listens on."""
    for port in random.sample(PORTS, 200):
        with contextlib.suppress(OSError), socket.create_server((HOST, port)):
            return port
    raise OSError("no free port among 200 tried")


def wait_until(condition: Callable[[], object], what: str, seconds: float = START_SECS) -> None:
    """Return when the condition holds; TimeoutError after so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:g} s in vain: {what}")
        time.sleep(POLL_SECS)


class Node:
    """One server process. ``settings`` are sections as in the configuration file."""

    def __init__(self, name: str, directory: Path, settings: Mapping[str, Mapping[str, Any]]) -> None:
        self.name = name
        self.port = free_port()
        self.directory = directory / name
        self.directory.mkdir(parents=True)
        self.settings = {section: dict(values) for section, values in settings.items()}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process; it must run."""
        assert self._process is not None, f"{self.name} does not run"
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process lives."""
        return self._process is not None and self._process.poll() is None

    def start(self, *, ready: bool = True) -> Node:
        """Start the process; return when it answers, unless ``ready`` is False."""
        self.settings.setdefault("server", {})["port"] = self.port
        self.settings.setdefault("storage", {})["data_dir"] = str(self.directory / "data")
        config = self.directory / "config.yml"
        config.write_text(yaml.safe_dump(self.settings), encoding="utf-8")
        environment = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("VECTORIZER_", "REPLICATION_"))
        }
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "vectorizer", "--config", str(config)],
                stdout=log,
                stderr=log,
                cwd=self.directory,
                env={**environment, "PYTHONPATH": str(ROOT)},
                start_new_session=True,
            )
        if ready:
            self.wait_ready()
        return self

    def wait_ready(self) -> None:
        """Return when it answers; RequestFailed with the end of its log if it ends instead."""
        wait_until(lambda: not self.running or self._answers(), f"{self.name} answers")
        if not self.running:
            raise RequestFailed(f"{self.name} has ended: {self.log_tail()}")

    def _answers(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.get("/health")["status"] == "ok")
        except (OSError, RequestFailed):
            return False

    def client(self) -> RestClient:
        """A new connection to it."""
        return RestClient(self.port)

    def get(self, path: str) -> Any:
        """GET by a connection of its own."""
        with self.client() as client:
            return client.get(path)

    def stop(self) -> None:
        """SIGTERM, and wait for its end."""
        if self.running:
            os.kill(self.pid, signal.SIGTERM)
            self._process_ended()

    def kill(self) -> None:
        """End it and the graph builders it has started, whatever they do."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process_ended()

    def _process_ended(self) -> None:
        assert self._process is not None
        self._process.wait(STOP_SECS)

    def log_tail(self) -> str:
        """The end of its log."""
        return (self.directory / "log").read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace")

    def logged_at(self, event: str) -> float:
        """Unix seconds of the last line with this event in its log; LookupError if there is none."""
        for line in reversed((self.directory / "log").read_text(errors="replace").splitlines()):
            words = line.split(maxsplit=3)
            if len(words) > 2 and words[2] == event:
                return datetime.fromisoformat(words[0]).timestamp()
        raise LookupError(f"{self.name} has logged no {event}")

    # -- what the system knows of it ---------------------------------------------------------------------

    def anonymous_bytes(self) -> int:
        """RssAnon of the process, without its graph builders."""
        return 1024 * int(self._proc("status", "RssAnon:"))

    def written_bytes(self) -> int:
        """Bytes that the process caused to be written to disk so far."""
        return int(self._proc("io", "write_bytes:"))

    def cpu_secs(self) -> float:
        """Processor time of the process so far, without its graph builders."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rsplit(") ", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def _proc(self, file: str, key: str) -> str:
        for line in Path(f"/proc/{self.pid}/{file}").read_text().splitlines():
            if line.startswith(key):
                return line.split()[1]
        raise KeyError(key)


class Cluster:
    """A master and its replicas; each started when it is asked for, all ended on leaving."""

    def __init__(self, directory: Path, settings: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        self._directory = directory
        self._settings = settings or {}
        self.replication_address = f"{HOST}:{free_port()}"
        self.nodes: list[Node] = []
        self._numbers = count(1)
        self.master = self._node("master", {"role": "master", "bind_address": self.replication_address})

    def __enter__(self) -> Cluster:
        self.master.start()
        return self

    def __exit__(self, *_: object) -> None:
        for node in self.nodes:
            node.kill()

    def _node(self, name: str, replication: Mapping[str, Any]) -> Node:
        settings: dict[str, dict[str, Any]] = {
            section: dict(values) for section, values in self._settings.items()
        }
        settings.setdefault("replication", {}).update(replication)
        settings.setdefault("storage", {}).setdefault("fsync", "always")
        node = Node(name, self._directory, settings)
        self.nodes.append(node)
        return node

    def replica(self, *, start: bool = True) -> Node:
        """One more replica; with ``start``, returned when it streams."""
        name = f"replica-{next(self._numbers)}"
        node = self._node(name, {"role": "replica", "master_address": self.replication_address})
        if start:
            node.start()
            wait_until(lambda: streams(node), f"{node.name} streams")
        return node

    def create_collection(self, name: str = COLLECTION, **options: Any) -> str:
        """A collection for the benchmark's vectors; the path of its vectors."""
        with self.master.client() as client:
            client.post("/collections", {"name": name, "dimension": DIMENSION, **options}, status=201)
        return f"/collections/{name}/vectors"

    def wait_replicas(self, replicas: int = 1, seconds: float = START_SECS) -> None:
        """Return when so many replicas hold all writes durably."""
        path = f"/replication/wait?replicas={replicas}&timeout_ms={int(seconds * 1000)}"
        answer = self.master.get(path)
        if not answer["reached"]:
            raise TimeoutError(f"{answer['replicas_durable']} of {replicas} replicas have all: {answer}")


def streams(replica: Node) -> bool:
    """Whether a replica's link is up and synced."""
    link = replica.get("/replication/status").get("link") or {}
    return bool(link.get("state") == "streaming")


def indexed(node: Node, name: str = COLLECTION) -> bool:
    """Whether all that is sealed has a graph, and nothing full waits to be sealed."""
    status = node.get(f"/collections/{name}")["indexing_status"]
    return bool(status["segments"] == status["graphs"] and status["growing_vectors"] < status["segment_rows"])


def wait_settled(node: Node, name: str = COLLECTION, seconds: float = 600.0) -> None:
    """Return when background work on the collection is over: all sealed, merged, and with graphs.

    Between two pieces of that work nothing shows that there is more to come, so nothing may change for
    SETTLED_SECS, which is several times as long as maintenance waits.
    """
    since, last = time.monotonic(), None

    def settled() -> bool:
        nonlocal since, last
        status = node.get(f"/collections/{name}")["indexing_status"]
        is_building = node.get("/replication/status")["graphs"]["building"]  # a merge may wait for it
        if status != last or is_building or not indexed(node, name):
            since, last = time.monotonic(), status
        time.sleep(0.1)
        return time.monotonic() - since > SETTLED_SECS

    wait_until(settled, f"{name} on {node.name} is indexed", seconds)
