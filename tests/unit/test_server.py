"""vectorizer.server: what one process is made of, its start and its end."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.unit.serving import Serving, follows
from vectorizer.errors import ConfigurationError, DamageError

Serve = Callable[..., Serving]


def test_what_was_written_is_there_after_a_restart(serve: Serve) -> None:
    node = serve()
    node.create()
    node.write(*range(20))
    before = node.digest()
    node.restart()
    assert node.digest() == before
    assert node.told("GET", "/health")["role"] == "standalone"


def test_a_second_server_on_the_same_data_is_refused(serve: Serve) -> None:
    node = serve()
    with pytest.raises(ConfigurationError, match="another running server holds it"):
        Serving(node.path)


def test_data_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="cannot be used"):
        Serving(tmp_path / "file")


def test_an_address_in_use_is_refused_and_the_data_are_free_again(serve: Serve, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigurationError):
            Serving(tmp_path / "one", server__port=port)
        address = f"127.0.0.1:{port}"
        with pytest.raises(ConfigurationError, match="cannot listen for replicas"):
            Serving(tmp_path / "one", replication__role="master", replication__bind_address=address)
    assert serve().told("GET", "/health")["status"] == "ok"


def test_what_rest_stored_is_in_force_after_a_restart(serve: Serve) -> None:
    node = serve()
    node.configure(role="master", bind_address="127.0.0.1:0", log_size=77)
    server = node.restart()
    status = node.status()
    assert status["role"] == "Master"
    assert status["settings"]["log_size"] == {"value": 77, "source": "rest", "where": "REST"}
    assert server.settings.replication.log_size == 77


def damage(node: Serving) -> None:
    """Flip a byte in the middle of the first file of vectors."""
    node.stop()
    file = next(node.path.rglob("vectors.npy"))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def test_damage_stops_the_start_of_a_master_with_the_file(serve: Serve) -> None:
    node = serve()
    node.create(segment_rows=16)
    node.write(*range(40))
    damage(node)
    with pytest.raises(DamageError, match=r"vectors\.npy"):
        node.start()


def test_damage_on_a_replica_is_put_aside_and_synced_anew(serve: Serve) -> None:
    master = serve("master", replication__role="master", replication__bind_address="127.0.0.1:0")
    master.create(segment_rows=16)
    master.write(*range(40))
    replica = serve("replica", replication__role="replica", replication__master_address=master.address)
    follows(replica, master)
    damage(replica)
    replica.start()
    follows(replica, master)
    assert replica.status()["counters"]["full_syncs"] == 1
    assert list((replica.path / "aside").iterdir())


def test_a_failed_journal_ends_everything(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    node = serve()
    node.create()
    journal = node.server.database.node.journal

    def broken() -> None:
        raise OSError(5, "Input/output error")

    batch = type(journal).take_batch

    def take_batch(self: Any, *words: Any) -> Any:
        taken = batch(self, *words)
        return None if taken is None else _Broken(taken, broken)

    monkeypatch.setattr(type(journal), "take_batch", take_batch)
    vector = {"vectors": [{"id": "a", "vector": [1, 2, 3, 4]}]}
    status, body = node.ask("POST", "/collections/things/vectors", vector)
    assert (status, body["error_type"]) == (503, "outcome_unknown")
    assert node.server.database.failed.ready()
    status, body = node.ask("POST", "/collections/things/vectors", vector)
    assert (status, body["error_type"]) == (503, "failed")
    assert node.told("GET", "/health")["status"] == "failed"
    node.running = False
    with pytest.raises(Exception, match="cannot be written"):
        node.server.stop()


class _Broken:
    """A batch whose disk is broken."""

    def __init__(self, batch: Any, broken: Callable[[], None]) -> None:
        self._batch, self._broken = batch, broken

    def write(self, _synced: bool) -> None:
        self._broken()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)


@pytest.mark.parametrize("mode", ["everysec", "never"])
def test_without_fsync_always_writes_are_there_after_a_clean_stop(serve: Serve, mode: str) -> None:
    node = serve(storage__fsync=mode)
    node.create()
    node.write(*range(20))
    before = node.digest()
    node.restart()
    assert node.digest() == before


def test_the_status_has_what_operators_look_at(serve: Serve) -> None:
    node = serve()
    status = node.status()
    assert (status["role"], status["enabled"], status["fsync"]) == ("Standalone", False, "always")
    assert status["settings"]["role"]["source"] == "default"
    assert status["event_loop"]["max_ms"] >= 0
    assert node.ask("GET", "/replication/stats")[0] == 400
    assert node.ask("GET", "/replication/replicas")[0] == 400
