"""A real server process with its own data directory, configuration file and ports on 127.0.0.1."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
import psutil
import yaml

from tests.cluster.harness.client import Client
from tests.cluster.harness.counters import Syncs, syncs_of
from tests.cluster.harness.waiting import wait_until

ROOT = Path(__file__).resolve().parents[3]
COMMAND = (sys.executable, "-m", "vectorizer")
START_SECS = 30.0
STOP_SECS = 20.0
LOG_TAIL_LINES = 40
# Below the range the system hands out for outgoing connections, so that a port stays ours over a restart.
PORTS = itertools.cycle(random.sample(range(17000, 30000), 12000))

SMALL_AND_QUICK: dict[str, dict[str, Any]] = {
    "server": {"shutdown_timeout_secs": 3},
    "storage": {"journal_file_bytes": 4 << 20},
    "index": {"builder_niceness": 0},  # what else is tested meanwhile must not hold the graphs up
    "replication": {
        "heartbeat_interval_secs": 0.2,
        "reconnect_interval_secs": 0.2,
        "replica_timeout_secs": 3,
        "connect_timeout_secs": 2,
        "handshake_timeout_secs": 2,
    },
}


class NotStarted(AssertionError):
    """The server ended, or answered nothing, before it was ready; carries the end of its log."""


def free_port() -> int:
    """A port on 127.0.0.1 that nobody listens on and outgoing connections are not given."""
    for port in itertools.islice(PORTS, 200):
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise AssertionError("no free port among 200 tried")


def clean_environment() -> dict[str, str]:
    """This process's environment without anything the server would read."""
    kept = {
        key: value for key, value in os.environ.items() if not key.startswith(("REPLICATION_", "VECTORIZER_"))
    }
    return {**kept, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}


def merged(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Two settings documents as one, section by section; `second` wins."""
    sections = {*first, *second}
    return {name: {**first.get(name, {}), **second.get(name, {})} for name in sections}


class Node(Client):
    """One server process and the client to it. Ports and data directory stay the same over restarts."""

    def __init__(
        self,
        name: str,
        directory: Path,
        settings: Mapping[str, Any] | None = None,
        *,
        port: int | None = None,
    ) -> None:
        super().__init__("127.0.0.1", free_port() if port is None else port)
        self.name = name
        self.directory = directory
        self.data_directory = directory / "data"
        self.log_file = directory / "log"
        self.config_file = directory / "config.yml"
        self.environment = clean_environment()
        self.prefix: list[str] = []
        """What the command begins with, where it is to run elsewhere."""
        self.arguments: list[str] = []
        self.settings = merged(SMALL_AND_QUICK, settings or {})
        self.process: subprocess.Popen[bytes] | None = None
        directory.mkdir(parents=True, exist_ok=True)

    def __repr__(self) -> str:
        return f"<{self.name} pid={self.process.pid if self.process else None} port={self.port}>"

    # -- life and death ------------------------------------------------------------------------------------

    def start(self, *, ready: bool = True) -> Node:
        """Start the process; wait until it answers /health unless `ready` is False."""
        assert not self.running, f"{self.name} runs already"
        self.close()
        self.write_config()
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *self.prefix,
                    sys.executable,
                    "-m",
                    "vectorizer",
                    "serve",
                    "--config",
                    str(self.config_file),
                    *self.arguments,
                ],
                stdout=log,
                stderr=log,
                cwd=self.directory,
                env=self.environment,
                start_new_session=True,
            )
        if ready:
            self.wait_ready()
        return self

    def wait_ready(self, deadline_secs: float = START_SECS) -> None:
        """Until /health answers; NotStarted with the end of the log if the process ends instead."""

        def answered_or_ended() -> bool:
            return not self.running or self.request("GET", "/health").status == 200

        try:
            wait_until(answered_or_ended, f"{self.name} answers /health", deadline_secs)
        except AssertionError as error:
            raise NotStarted(f"{error}\n{self.log_tail()}") from None
        if not self.running:
            raise NotStarted(f"{self.name} ended with {self.exit_code()}\n{self.log_tail()}")

    def write_config(self) -> None:
        """Write the settings as the YAML file the process is started with."""
        document = merged(
            {"server": {"port": self.port}, "storage": {"data_dir": str(self.data_directory)}}, self.settings
        )
        self.config_file.write_text(yaml.safe_dump(document))

    def stop(self) -> int:
        """SIGTERM, wait, return the exit code."""
        self.signal(signal.SIGTERM)
        return self.wait_ended()

    def kill(self) -> None:
        """kill -9."""
        self.signal(signal.SIGKILL)
        self.wait_ended()

    def restart(self, *, kill: bool = False) -> Node:
        """Stop (or kill -9) and start again on the same data and ports."""
        if self.running:
            self.kill() if kill else self.stop()
        return self.start()

    def freeze(self) -> None:
        """SIGSTOP: the process lives, its sockets stay open, nothing moves."""
        self.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        self.signal(signal.SIGCONT)

    def signal(self, number: int) -> None:
        assert self.process is not None, f"{self.name} was never started"
        os.kill(self.process.pid, number)

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def pid(self) -> int:
        assert self.process is not None, f"{self.name} was never started"
        return self.process.pid

    def exit_code(self) -> int | None:
        assert self.process is not None, f"{self.name} was never started"
        return self.process.poll()

    def wait_ended(self, deadline_secs: float = STOP_SECS) -> int:
        """Wait for the process to end by itself; its exit code."""
        assert self.process is not None, f"{self.name} was never started"
        try:
            code = self.process.wait(deadline_secs)
        except subprocess.TimeoutExpired:
            raise AssertionError(
                f"{self.name} still runs after {deadline_secs} s\n{self.log_tail()}"
            ) from None
        self.close()
        return code

    def end(self) -> None:
        """Whatever its state, end the process and the graph builders it may have started."""
        if self.process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(STOP_SECS)
        self.close()

    def forget_data(self) -> None:
        """Remove the data directory of a stopped node."""
        assert not self.running
        shutil.rmtree(self.data_directory, ignore_errors=True)

    def corrupt(self, file: Path, position: int) -> None:
        """Change one byte of a file of this node, which does not run."""
        assert not self.running
        with file.open("r+b") as opened:
            opened.seek(position)
            [byte] = opened.read(1)
            opened.seek(position)
            opened.write(bytes([byte ^ 0xFF]))

    # -- what it says --------------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """GET /replication/status."""
        document: dict[str, Any] = self.get("/replication/status")
        return document

    def stats(self) -> dict[str, Any]:
        """GET /replication/stats."""
        document: dict[str, Any] = self.get("/replication/stats")
        return document

    def replicas(self) -> list[dict[str, Any]]:
        """The rows of GET /replication/replicas."""
        rows: list[dict[str, Any]] = self.get("/replication/replicas")["replicas"]
        return rows

    def syncs(self) -> Syncs:
        """How many full and partial syncs this process took part in, and its refusals by reason."""
        return syncs_of(self.status())

    @property
    def role(self) -> str:
        role: str = self.status()["role"]
        return role.lower()

    @property
    def offset(self) -> int:
        """The newest operation this node holds."""
        stats = self.status()["stats"]
        return int(max(stats["master_offset"], stats["replica_offset"]))

    @property
    def connected(self) -> bool:
        """Is this replica's link to its master up (sync finished)?"""
        link = self.status().get("link") or {}
        return link.get("state") == "streaming"

    def configure(self, **document: Any) -> dict[str, Any]:
        """POST /replication/configure."""
        answer: dict[str, Any] = self.post("/replication/configure", document)
        return answer

    def collections(self) -> list[str]:
        """Names of all collections."""
        return sorted(row["name"] for row in self.get("/collections")["collections"])

    def digests(self) -> dict[str, tuple[str, int]]:
        """(digest, vector count) of every collection."""
        answers = {name: self.get(f"/collections/{name}/digest") for name in self.collections()}
        return {name: (answer["digest"], answer["vector_count"]) for name, answer in answers.items()}

    def vectors(self, collection: str, page: int = 1000) -> dict[str, tuple[tuple[float, ...], Any]]:
        """Everything in a collection by paging: id → (vector, payload); no id may come twice."""
        found: dict[str, tuple[tuple[float, ...], Any]] = {}
        cursor = ""
        for _ in range(10_000):
            answer = self.get(f"/collections/{collection}/vectors?limit={page}{cursor}")
            for row in answer["vectors"]:
                assert row["id"] not in found, f"{row['id']} twice in {collection} on {self.name}"
                found[row["id"]] = (tuple(row["vector"]), row.get("payload"))
            if not answer.get("next_cursor"):
                return found
            cursor = f"&cursor={answer['next_cursor']}"
        raise AssertionError("paging does not end")

    def anonymous_bytes(self) -> int:
        """RssAnon of the server process alone (its graph builders are other processes)."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("no RssAnon in /proc")

    def builders(self) -> list[psutil.Process]:
        """Child processes that build graphs now."""
        with contextlib.suppress(psutil.NoSuchProcess):
            return psutil.Process(self.pid).children(recursive=True)
        return []

    def log(self) -> str:
        """Everything this node ever logged, over all its restarts."""
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def log_tail(self, lines: int = LOG_TAIL_LINES) -> str:
        """The last lines of the log, under the node's name."""
        return f"--- {self.name}\n" + "\n".join(self.log().splitlines()[-lines:])

    def replica_row(self, replica: Node) -> dict[str, Any] | None:
        """The row this master shows for `replica`, found by its node id."""
        node_id = replica.status()["node_id"]
        return next((row for row in self.replicas() if row["id"] == node_id), None)


def newest_journal(node: Node) -> Path:
    """The journal file written last."""
    return max(node.data_directory.rglob("*.journal"), key=lambda path: (written_bytes(path) > 0, path.name))


def written_bytes(path: Path) -> int:
    """Where the zeros of the preallocated tail begin."""
    return len(path.read_bytes().rstrip(b"\0"))


def pretty(document: Any) -> str:
    """A document as readable JSON, for messages of failed assertions."""
    return orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS, default=repr).decode()
