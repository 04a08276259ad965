"""scripts/cluster with real processes, on ports of its own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.cluster.harness import Client, free_port, wait_until
from tests.cluster.harness.node import ROOT, clean_environment
from tests.scripts.shell import SCRIPTS, run

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(120)]

DEMO_SECS = 60.0
STOP_SECS = 30.0


def base_port() -> int:
    """The first of three free ports in a row."""
    for _ in range(50):
        first = free_port()
        try:
            for port in (first + 1, first + 2):
                socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        return first
    raise AssertionError("no three free ports in a row")


class Script:
    """scripts/cluster as a process, its output in a file."""

    def __init__(self, directory: Path, *options: str) -> None:
        self.port = base_port()
        self.ports = ("--base-port", str(self.port), "--replication-port", str(free_port()))
        self.output = directory / "output"
        self.options = options
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> Script:
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(
                [SCRIPTS / "cluster", *self.ports, *self.options],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**clean_environment(), "TMPDIR": str(self.output.parent)},
                start_new_session=True,
            )
        return self

    def says(self, words: str) -> None:
        """Wait until it has printed that."""
        wait_until(lambda: words in self.text() or self.ended(), f"it says {words!r}", DEMO_SECS)
        assert words in self.text(), self.text()

    def text(self) -> str:
        return self.output.read_text()

    def ended(self) -> bool:
        assert self.process is not None
        return self.process.poll() is not None

    def exit_code(self) -> int:
        assert self.process is not None
        return self.process.wait(STOP_SECS)

    @property
    def clients(self) -> list[Client]:
        return [Client("127.0.0.1", self.port + number) for number in range(3)]

    @property
    def record(self) -> Path:
        return ROOT / ".cluster" / f"cluster-{self.port}.json"

    def node_pids(self) -> list[int]:
        return [node["pid"] for node in json.loads(self.record.read_text())["nodes"]]

    def interrupt(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGINT)

    def end(self) -> None:
        """Whatever happened, leave nothing behind."""
        run("cluster", "--stop", *self.ports)
        if self.process is not None and not self.ended():
            self.process.kill()
            self.process.wait(STOP_SECS)
        shutil.rmtree(ROOT / ".cluster" / f"data-{self.port}", ignore_errors=True)


@pytest.fixture
def script(tmp_path: Path) -> Iterator[Script]:
    made = Script(tmp_path, "--no-demo")
    yield made
    made.end()


def alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def data_directories(script: Script) -> list[Path]:
    return list(script.output.parent.glob("vectorizer-cluster-*"))


def test_the_demo_loads_on_the_master_and_finds_on_a_replica(script: Script) -> None:
    script.options = ()
    script.start().says("have a nearest image that shows the same digit")
    assert "All 3 nodes hold the same 1,797 vectors" in script.text()
    assert f"Searched on the replica http://127.0.0.1:{script.port + 1}" in script.text()
    counts = [client.get("/collections/digits")["vector_count"] for client in script.clients]
    assert counts == [1797, 1797, 1797]
    roles = [client.get("/replication/status")["role"] for client in script.clients]
    assert roles == ["Master", "Replica", "Replica"]
    script.says("master Master 2 replicas")
    pids = script.node_pids()
    script.interrupt()
    assert script.exit_code() == 0, script.text()
    assert "All nodes have stopped." in script.text()
    assert not any(alive(pid) for pid in pids)
    assert not data_directories(script)
    assert not script.record.exists()


def test_an_interrupt_while_the_nodes_start_ends_them(script: Script) -> None:
    script.start().says("Starting a master and two replicas")
    wait_until(lambda: script.record.exists() and script.node_pids(), "a node has been started")
    pids = script.node_pids()
    script.interrupt()
    assert script.exit_code() == 0, script.text()
    assert not any(alive(pid) for pid in pids)
    assert not data_directories(script)
    assert not script.record.exists()


def test_stop_ends_a_cluster_whose_script_was_killed(script: Script) -> None:
    script.start().says("replica-2 Replica")
    pids = script.node_pids()
    assert script.process is not None
    script.process.kill()
    script.exit_code()
    assert all(alive(pid) for pid in pids)
    again = run("cluster", "--no-demo", *script.ports)
    assert again.returncode == 1
    assert f"{script.port} (REST of master)" in again.stderr
    stopped = run("cluster", "--stop", *script.ports)
    assert stopped.returncode == 0, stopped.stderr
    assert "master, replica-1, replica-2" in stopped.stdout
    assert not any(alive(pid) for pid in pids)
    assert not data_directories(script)


def test_stop_ends_a_running_script_too(script: Script) -> None:
    script.start().says("replica-2 Replica")
    assert run("cluster", "--stop", *script.ports).returncode == 0
    assert script.exit_code() == 0
    assert not data_directories(script)


def test_a_process_that_has_only_the_recorded_id_is_left_alone(script: Script) -> None:
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        stranger = {"name": "master", "pid": bystander.pid, "started": 1.0}
        script.record.parent.mkdir(exist_ok=True)
        script.record.write_text(
            json.dumps(
                {"script": stranger, "nodes": [stranger], "directory": "/nonexistent/x", "keep": False}
            )
        )
        told = run("cluster", "--stop", *script.ports)
        assert "nothing, it had ended already" in told.stdout
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


@pytest.mark.parametrize("offset", [0, 2])
def test_a_taken_port_is_named_with_its_owner_and_nothing_is_started(script: Script, offset: int) -> None:
    with socket.create_server(("127.0.0.1", script.port + offset)):
        script.start()
        assert script.exit_code() == 1
    assert f"{script.port + offset} (REST of" in script.text()
    assert f"(process {os.getpid()})" in script.text()
    assert "Starting" not in script.text()
    assert not script.record.exists()
    assert not data_directories(script)


def test_a_node_that_dies_ends_the_others_with_its_last_words(script: Script) -> None:
    script.start().says("replica-2 Replica")
    pids = script.node_pids()
    os.kill(pids[1], signal.SIGKILL)
    assert script.exit_code() == 1
    assert "replica-1 has ended by itself. The last lines of its log:" in script.text()
    assert not any(alive(pid) for pid in pids)


def test_kept_data_are_found_again(script: Script) -> None:
    script.options = ("--no-demo", "--keep")
    script.start().says("replica-2 Replica")
    master = script.clients[0]
    master.post("/collections", {"name": "kept", "dimension": 2})
    master.post("/collections/kept/vectors", {"vectors": [{"id": "a", "vector": [1, 2]}]})
    script.interrupt()
    assert script.exit_code() == 0
    assert "The data is in" in script.text()
    script.output.write_text("")
    script.start().says("replica-2 Replica")
    for client in script.clients:
        wait_until(
            lambda client=client: client.request("GET", "/collections/kept").status == 200, "it is there"
        )
    script.interrupt()
    assert script.exit_code() == 0


@pytest.mark.parametrize("words", [("--bogus",), ("--base-port", "abc"), ("--base-port", "65534")])
def test_wrong_words_are_answered_by_the_usage_that_help_shows(words: tuple[str, ...]) -> None:
    done = run("cluster", *words)
    usage = run("cluster", "--help").stdout.splitlines()[0]
    assert (done.returncode, done.stderr.splitlines()[0]) == (2, f"usage: {usage}")
    assert words[-1] in done.stderr.splitlines()[1]
