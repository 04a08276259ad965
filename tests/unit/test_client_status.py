"""``vectorizer status``, ``promote``, ``follow`` and ``switchover`` against living nodes."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest
from rich.console import Console

from tests.unit.served import Cluster, Served, cluster_at, free_port, wait_until
from tests.unit.served_client import run, url
from vectorizer.cli import main
from vectorizer.client import status
from vectorizer.client.node import Node

pytestmark = pytest.mark.usefixtures("logging_as_before")
Capsys = pytest.CaptureFixture[str]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with cluster_at(tmp_path / "nodes") as cluster:
        yield cluster


@pytest.fixture
def pair(cluster: Cluster) -> tuple[Served, Served]:
    master = cluster.master()
    master.create()
    master.put(1, 2, 3)
    replica = cluster.replica(master, **{"replication.bind_address": "127.0.0.1:0"})
    replica.follows(master)
    return master, replica


def test_a_master(pair: tuple[Served, Served], capsys: Capsys) -> None:
    master, replica = pair
    ran = run(capsys, "status", url(master))
    assert (ran.code, ran.err) == (0, "")
    lines = [line.split() for line in ran.out.splitlines()]
    assert lines[0] == [url(master), "master"]
    assert ["takes", "writes", "yes"] in lines
    (listed,) = (line for line in lines if line[0] == url(replica).removeprefix("http://"))
    assert listed[1:4] == ["Connected", "2", "2"]
    assert ["1", "0", master.status()["replication_id"]] in lines
    assert ["things", "3", "4", "cosine"] in [line[:4] for line in lines]
    assert "\x1b" not in ran.out


def test_a_replica(pair: tuple[Served, Served], capsys: Capsys) -> None:
    master, replica = pair
    out = run(capsys, "status", url(replica).removeprefix("http://")).out
    assert "state          streaming" in out
    assert f"{master.address}, REST" in out
    assert "0 operations, " in out
    assert "takes writes  no" in out


def test_a_standalone_node(cluster: Cluster, capsys: Capsys) -> None:
    out = run(capsys, "status", url(cluster.start("one"))).out
    assert "standalone" in out.splitlines()[0]
    assert "replicas" not in out


def test_a_terminal_gets_the_same(pair: tuple[Served, Served]) -> None:
    stream = io.StringIO()
    found = status.gather(Node(url(pair[0])))
    Console(file=stream, force_terminal=True, width=120).print(status.drawn(found))
    drawn = stream.getvalue()
    assert "\x1b[" in drawn
    for word in ("master", "Connected", "history", "things", "streaming"):
        assert (word in drawn) == (word != "streaming")


def test_a_running_sync_is_shown() -> None:
    sync = {"percent": 42.5, "bytes_total": 3 << 20, "eta_secs": 65.0}
    link: dict[str, Any] = dict.fromkeys(
        ("state", "master_address", "master_rest_address", "master_offset", "heartbeat_age_ms"), "x"
    )
    document = {
        "role": "Replica",
        "node_id": "n\x1b[2J",
        "offset": 0,
        "durable_offset": 0,
        "epoch": 0,
        "window": {"first_offset": 1, "last_offset": 0, "operations": 0},
        "stats": {"lag_operations": 9, "lag_ms": 8},
        "serves_data": False,
        "link": {**link, "last_sync_reason": None, "last_error": None},
        "sync": sync,
    }
    text = status.plain(status.sections("http://x:1", document, {}))
    assert "42.5 % of 3.0 MiB, 1 min 5 s to go" in text
    assert "serves data   no" in text
    assert "\x1b" not in text, "names from the network must not steer the terminal"


def test_nobody_there(capsys: Capsys) -> None:
    place = f"http://127.0.0.1:{free_port()}"
    ran = run(capsys, "status", place, "--watch")
    assert (ran.code, ran.sentence) == (1, f"{place} does not answer: Connection refused")


def test_watching_ends_with_ctrl_c(cluster: Cluster, capsys: Capsys) -> None:
    served = cluster.start("one")
    watch = gevent.spawn(main, ["status", url(served), "--watch", "--interval", "0.01"])
    printed = ""

    def shown_thrice() -> bool:
        nonlocal printed
        printed += capsys.readouterr().out
        return printed.count("standalone") >= 3

    wait_until(shown_thrice)
    watch.kill(KeyboardInterrupt)
    assert watch.value == 0


def test_a_real_ctrl_c_while_it_waits(cluster: Cluster) -> None:
    words = [sys.executable, "-m", "vectorizer", "status", url(cluster.start("one")), "--watch"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        while not process.stdout.readline().startswith(b"collections"):
            assert process.poll() is None
        gevent.sleep(0.1)  # most likely it waits for the next second now; it must not matter
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=20)[1] == b""
    assert process.returncode == 0


def test_a_key_is_shown(cluster: Cluster, capsys: Capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    served = cluster.start("locked", {"security.require_auth": True})
    place = url(served)
    ran = run(capsys, "status", place)
    assert (ran.code, "needs an API key" in ran.sentence) == (1, True)
    made = run(capsys, "keys", "add", "--data-dir", served.root)
    key = made.out.strip()
    wait_until(lambda: run(capsys, "status", place, "--api-key", key).code == 0, "the key to count")
    monkeypatch.setenv("VECTORIZER_API_KEY", key)
    assert run(capsys, "status", place).code == 0
    assert "is not known here" in run(capsys, "status", place, "--api-key", "wrong").sentence


# -- masterships -----------------------------------------------------------------------------------


def test_switchover(pair: tuple[Served, Served], capsys: Capsys) -> None:
    master, replica = pair
    ran = run(capsys, "switchover", url(master), "--to", url(replica).removeprefix("http://"))
    assert ran.code == 0, ran.err
    assert replica.role == "master"
    wait_until(lambda: master.streams, "the old master follows")


def test_promote_and_follow(pair: tuple[Served, Served], capsys: Capsys) -> None:
    master, replica = pair
    ran = run(capsys, "promote", url(replica), "--bind", "127.0.0.1:0")
    assert ran.code == 0, ran.err
    assert replica.role == "master"
    ran = run(capsys, "follow", url(master), replica.address)
    assert ran.code == 0, ran.err
    wait_until(lambda: master.streams, "the old master follows")


def test_what_is_refused(cluster: Cluster, capsys: Capsys) -> None:
    place = url(cluster.start("one"))
    ran = run(capsys, "follow", place, "nowhere")
    assert (ran.code, "it has no port" in ran.sentence) == (1, True)
    for words in (["switchover", place], ["switchover", place, "--abort"]):
        ran = run(capsys, *words)
        assert (ran.code, ran.sentence.startswith(place)) == (1, True)
    assert run(capsys, "switchover", place, "--abort", "--to", "x").code == 2
