"""Starting and ending a node: in this process, and as a process with its signals and exit codes."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gevent
import pytest
from gevent import socket, subprocess

import vectorizer
from tests.unit.served import (
    QUICK,
    Cluster,
    Served,
    cluster_at,
    master_settings,
    wait_until,
)
from vectorizer.errors import ConfigurationError, DamageError
from vectorizer.server import FAILED, Server, lock_data, serve
from vectorizer.storage.disk import RealDisk

REPOSITORY = Path(vectorizer.__file__).parents[1]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with cluster_at(tmp_path) as cluster:
        yield cluster


# -- in this process ------------------------------------------------------------------------------------


def test_what_was_written_is_there_after_a_restart(cluster: Cluster) -> None:
    node = cluster.start("node", {"index.segment_rows": 16})
    node.create(segment_rows=16)
    node.put(*range(40))
    node.request("DELETE", "/collections/things/vectors/id-3")
    before = node.digest()
    node.restart()
    assert node.digest() == before
    node.put(1, seed=9)
    assert node.digest()[0] != before[0]


def test_two_servers_do_not_share_a_data_directory(cluster: Cluster) -> None:
    node = cluster.start("node")
    with pytest.raises(ConfigurationError, match="another running server holds it"):
        Server(node.settings())
    assert node.request("GET", "/health")[0] == 200


def test_a_data_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a directory")
    served = Served(tmp_path / "file" / "data")
    with pytest.raises(ConfigurationError, match="cannot be used: Not a directory"):
        Server(served.settings())


@pytest.mark.parametrize("there", ["", "a", "a/data"])
def test_the_names_of_a_new_data_directory_are_durable(tmp_path: Path, there: str) -> None:
    """Also of one that an earlier process made, which was killed before it could sync them."""
    (tmp_path / there).mkdir(parents=True, exist_ok=True)
    synced: list[str] = []

    class Disk(RealDisk):
        def sync_directory(self, path: str) -> None:
            synced.append(path)
            if path == str(tmp_path.parent):
                raise PermissionError(errno.EACCES, "not ours", path)
            super().sync_directory(path)

    lock_data(Disk(), str(tmp_path / "a" / "data")).release()
    assert {str(tmp_path / "a"), str(tmp_path), str(tmp_path.parent)} <= set(synced)


def test_rest_in_use(cluster: Cluster, tmp_path: Path) -> None:
    node = cluster.start("node")
    other = Served(tmp_path / "other", {"server.port": node.server.rest_address[1]})
    with pytest.raises(ConfigurationError, match="cannot serve REST"):
        Server(other.settings())
    assert not (tmp_path / "other").exists()


def damage(root: Path, pattern: str) -> Path:
    """Flip a byte in the middle of the largest such file."""
    path = max(root.glob(pattern), key=lambda item: item.stat().st_size)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    return path


def written(cluster: Cluster, node: Served) -> None:
    node.create(segment_rows=16)
    node.put(*range(40))
    node.stop()


@pytest.mark.parametrize(
    "pattern", ["*/segments/*/vectors.npy", "*/manifest-*", "*/segments/*/rows.bson", "CURRENT"]
)
def test_damage_stops_a_master_with_a_sentence(cluster: Cluster, pattern: str) -> None:
    node = cluster.master()
    written(cluster, node)
    path = damage(node.root, pattern)
    with pytest.raises(DamageError, match=path.name):
        Server(node.settings())
    assert serve(node.settings()) == FAILED


@pytest.mark.parametrize("pattern", ["*/segments/*/vectors.npy", "*/manifest-*", "CURRENT"])
def test_damage_on_a_replica_is_moved_aside_and_synced_anew(cluster: Cluster, pattern: str) -> None:
    master = cluster.master()
    master.create(segment_rows=16)
    master.put(*range(40))
    replica = cluster.replica(master)
    replica.follows(master)
    replica.stop()
    damage(replica.root, pattern)
    replica.start()
    replica.follows(master)
    assert replica.counters.full_syncs == 1
    assert len(list((replica.root / "aside").glob("*-damaged-*"))) == 1
    replica.restart()
    replica.follows(master)
    assert replica.counters.full_syncs == 0


@pytest.mark.parametrize("pattern", ["*/segments/*/hashes.npy", "*/segments/*", "*/journal", "*/manifest-*"])
def test_missing_files_are_damage(cluster: Cluster, pattern: str) -> None:
    master = cluster.master()
    master.create(segment_rows=16)
    master.put(*range(40))
    replica = cluster.replica(master)
    replica.follows(master)
    for node in (replica, master):
        node.stop()
        path = max(node.root.glob(pattern))
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(DamageError, match=path.name):
        Server(master.settings())
    with pytest.raises(DamageError, match="missing"):
        Server(Served(replica.root).settings())
    replica.start()
    assert replica.offset == 0


def test_damage_without_a_current_file_is_no_new_data(cluster: Cluster) -> None:
    node = cluster.start("node")
    written(cluster, node)
    (node.root / "CURRENT").unlink()
    with pytest.raises(DamageError, match="CURRENT"):
        Server(node.settings())


def test_a_torn_tail_is_cut_and_told(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    node = cluster.start("node")
    node.create()
    node.put(1)
    journal = node.server.database.node.journal
    place = journal.appended_bytes
    path = Path(journal.files()[-1].path)
    node.stop()
    with path.open("r+b") as file:
        file.seek(place + 200)  # behind the last mark
        file.write(b"\x00\x00\x00\x50torn")
    node.start()
    assert node.digest()[1] == 1


def test_stored_settings_override_the_file_and_are_told(
    cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    node = cluster.start("node", {"replication.log_size": 100})
    assert node.configure(log_size=200)[0] == 200
    node.restart()
    assert node.status()["settings"]["log_size"] == {"value": 200, "source": "rest", "where": "REST"}


# -- as a process, also in this one ----------------------------------------------------------------------


def as_environment(values: dict[str, Any]) -> dict[str, str]:
    return {f"VECTORIZER_{name.replace('.', '_').upper()}": str(value) for name, value in values.items()}


class Child:
    """A server process; its log is read as it comes."""

    def __init__(self, root: Path, values: dict[str, Any], **environment: str) -> None:
        values = {**QUICK, **values}
        replication = {
            f"replication.{key[12:]}": values.pop(key) for key in list(values) if key.startswith("repl")
        }
        settings = as_environment(values) | {
            f"REPLICATION_{name[12:].upper()}": str(value) for name, value in replication.items()
        }
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, "-m", "vectorizer", "--data-dir", str(root), "--port", "0"],
            env={**os.environ, "PYTHONPATH": str(REPOSITORY), **settings, **environment},
            cwd=root.parent,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._reader = gevent.spawn(self._read)

    def _read(self) -> None:
        for line in self.process.stderr:
            self.lines.append(line)

    def said(self, word: str) -> str | None:
        return next((line for line in self.lines if word in line), None)

    def started(self) -> str:
        """Wait until it serves; its REST address."""
        wait_until(lambda: self.said(" started ") or self.process.poll() is not None, "the start")
        line = self.said(" started ")
        assert line is not None, self.lines
        return line.partition("rest=http://")[2].split()[0]

    def exit_code(self) -> int:
        with gevent.Timeout(20, AssertionError(f"it did not end: {self.lines}")):
            code: int = self.process.wait()
            self._reader.join()
        return code

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._reader.join()
        self.process.stderr.close()


@contextmanager
def child(root: Path, values: dict[str, Any] | None = None, **environment: str) -> Iterator[Child]:
    running = Child(root, values or {}, **environment)
    try:
        yield running
    finally:
        running.end()


def test_sigint_ends_a_process_with_zero_and_systemd_hears_of_it(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(str(tmp_path / "notify"))
        with child(tmp_path / "data", NOTIFY_SOCKET=str(tmp_path / "notify")) as process:
            process.started()
            assert channel.recv(100) == b"READY=1"
            process.process.send_signal(signal.SIGINT)
            assert channel.recv(100) == b"STOPPING=1"
            assert process.exit_code() == 0
            assert process.said(" stopped ")


def test_sigterm_ends_serve_with_zero(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = sys.getswitchinterval()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind("\0" + str(tmp_path))
        monkeypatch.setenv("NOTIFY_SOCKET", "@" + str(tmp_path))
        running = gevent.spawn(serve, Served(tmp_path / "data").settings())
        try:
            assert channel.recv(100) == b"READY=1"
            monkeypatch.setenv("NOTIFY_SOCKET", "@nobody-listens-here")  # systemd is gone: only a warning
            os.kill(os.getpid(), signal.SIGTERM)
            assert running.get(timeout=20) == 0
        finally:
            running.kill()
            sys.setswitchinterval(before)


def test_a_data_directory_in_use_is_exit_code_2(cluster: Cluster, tmp_path: Path) -> None:
    node = cluster.start("node")
    with child(node.root) as process:
        assert process.exit_code() == 2
    assert len(process.lines) == 1
    assert "another running server holds it" in process.lines[0]


def test_a_replication_address_in_use_is_exit_code_2(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with child(tmp_path / "data", master_settings(**{"replication.bind_address": address})) as process:
            assert process.exit_code() == 2
    assert f"cannot listen for replicas on {address}" in process.lines[-1]


def test_a_disk_that_fails_ends_the_process_with_one(tmp_path: Path) -> None:
    with child(tmp_path / "data", {"storage.checkpoint_interval_secs": 0.1}) as process:
        host, _, port = process.started().rpartition(":")
        shutil.rmtree(tmp_path / "data")
        with socket.create_connection((host, int(port))) as client:
            body = b'{"name":"c","dimension":3}'
            head = b"POST /collections HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            client.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            assert process.exit_code() == FAILED
    assert process.said("background work failed")
    assert not process.said("Traceback")


def test_a_killed_master_keeps_what_it_acknowledged(cluster: Cluster, tmp_path: Path) -> None:
    with child(tmp_path / "data", master_settings()) as process:
        host, _, port = process.started().rpartition(":")
        served = Served(tmp_path / "data", master_settings())
        served.server = type("Elsewhere", (), {"rest_address": (host, int(port))})()  # type: ignore[assignment]
        served.create()
        offset = served.put(*range(10))
        before = served.digest()
        process.process.kill()
        assert process.exit_code() == -signal.SIGKILL
    node = cluster.start("data", master_settings())
    assert (node.offset, node.digest()) == (offset, before)
