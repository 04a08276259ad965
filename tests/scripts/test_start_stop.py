"""scripts/start and scripts/stop: a node, found again by its process id and its start time."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cluster.harness import Client, NotSent, free_port, wait_until
from tests.cluster.harness.node import clean_environment
from tests.scripts.shell import SCRIPTS, run

pytestmark = pytest.mark.cluster

Start = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def start(tmp_path: Path, port: int) -> Iterator[Start]:
    """Runs a script with its run directory here; the node `one` is ended with the test."""
    environment = {"VECTORIZER_RUN_DIR": str(tmp_path / "run")}

    def call(*words: str) -> subprocess.CompletedProcess[str]:
        return run(*words, environment=environment)

    yield call
    call("stop", "one")


def options(tmp_path: Path, port: int) -> tuple[str, ...]:
    return ("--port", str(port), "--data-dir", str(tmp_path / "data"))


def test_a_node_in_the_background_is_ready_when_start_returns_and_gone_when_stop_does(
    tmp_path: Path, port: int, start: Start
) -> None:
    started = start("start", "--background", "one", *options(tmp_path, port))
    assert started.returncode == 0, started.stderr
    assert Client("127.0.0.1", port).get("/health")["role"] == "standalone"
    twice = start("start", "--background", "one", *options(tmp_path, port))
    assert twice.returncode == 1
    assert "runs already" in twice.stderr
    stopped = start("stop", "one")
    assert (stopped.returncode, stopped.stdout) == (0, "one has stopped.\n")
    with pytest.raises(NotSent):
        Client("127.0.0.1", port).request("GET", "/health")
    assert start("stop", "one").stdout == "one does not run.\n"


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["one", "two"],
        ["one", "--timeout"],
        ["--timeout", "soon", "one"],
        ["--timeout", "9x", "one"],
        ["a/b"],
    ],
)
def test_words_that_stop_cannot_take_end_nothing(
    tmp_path: Path, port: int, start: Start, words: list[str]
) -> None:
    refused = start("stop", *words)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert len(refused.stderr.splitlines()) == 1


def test_an_option_is_no_name_of_a_node(tmp_path: Path, port: int, start: Start) -> None:
    refused = start("start", "--background", *options(tmp_path, port))
    assert (refused.returncode, refused.stdout) == (2, "")


def test_a_node_that_cannot_start_shows_why(tmp_path: Path, start: Start) -> None:
    failed = start("start", "--background", "one", "--port", "nonsense", "--data-dir", str(tmp_path))
    assert failed.returncode == 1
    assert "nonsense" in failed.stderr


def test_a_process_that_has_only_the_recorded_id_is_left_alone(tmp_path: Path, start: Start) -> None:
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "one.pid").write_text(f"{bystander.pid} 1\n")
        assert start("stop", "one").stdout == "one does not run.\n"
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


@pytest.mark.parametrize("name", ["../one", ".one", ""])
def test_a_name_is_no_path(name: str, start: Start) -> None:
    assert start("stop", name).returncode != 0


def test_systemd_is_told_when_the_node_is_ready_and_when_it_stops(tmp_path: Path, port: int) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(str(tmp_path / "notify"))
        channel.settimeout(30)
        server = subprocess.Popen(
            [SCRIPTS / "start", *options(tmp_path, port)],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**clean_environment(), "NOTIFY_SOCKET": str(tmp_path / "notify")},
        )
        try:
            assert channel.recv(100) == b"READY=1"
            assert Client("127.0.0.1", port).get("/health")["status"] == "ok"
            server.send_signal(signal.SIGTERM)
            assert channel.recv(100) == b"STOPPING=1"
            assert server.wait(20) == 0
        finally:
            server.kill()
            server.wait()


def test_in_the_foreground_the_script_becomes_the_server(tmp_path: Path, port: int) -> None:
    server = subprocess.Popen(
        [SCRIPTS / "start", *options(tmp_path, port)],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=tmp_path,
        env=clean_environment(),
    )
    try:
        client = Client("127.0.0.1", port)
        wait_until(lambda: client.request("GET", "/health").status == 200, "it answers")
        server.send_signal(signal.SIGTERM)
        assert server.wait(20) == 0
    finally:
        server.kill()
        server.wait()
