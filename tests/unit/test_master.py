"""The master's listener on a real socket: who gets in, who is dropped, and what the others notice of it."""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest

from tests.unit.running import Peer, RunningNode, caught_up, wait_until
from vectorizer import frame, snapshots
from vectorizer.address import parse_address
from vectorizer.errors import VectorizerError
from vectorizer.node import Role
from vectorizer.replication import master as master_module
from vectorizer.replication.history import History
from vectorizer.replication.master import HANDSHAKES_MAX, bind
from vectorizer.replication.messages import (
    Accept,
    Ack,
    Chunk,
    Complete,
    Goodbye,
    Heartbeat,
    Hello,
    OperationFrame,
    Received,
    Refuse,
    Snapshot,
    Welcome,
)
from vectorizer.replication.progress import Phase


@pytest.fixture
def master(tmp_path: Path) -> Iterator[RunningNode]:
    node = RunningNode(tmp_path / "master")
    node.create()
    node.write(*range(20))
    node.listen()
    yield node
    node.stop()


def address(node: RunningNode) -> str:
    assert node.server is not None
    return node.server.address


def hello_of(node: RunningNode, offset: int = 0, node_id: str = "peer", **fields: Any) -> Hello:
    history = node.node.history if offset else History()
    values = {"frame_bytes_max": 1 << 24, "rest_address": "", "listen_port": 0, **fields}
    return Hello(1, node_id, (node_id,), history, offset, None, **values)


def linked(node: RunningNode, offset: int | None = None, node_id: str = "peer") -> Peer:
    """A peer that streams."""
    peer = Peer(address(node))
    peer.say(hello_of(node, node.node.offset if offset is None else offset, node_id))
    assert peer.hear_a(Welcome).sync == "partial"
    return peer


GARBAGE = {
    "an HTTP request": b"GET /replication/status HTTP/1.1\r\nHost: x\r\n\r\n",
    "noise": bytes(range(256)) * 16,
    "4 GiB announced": struct.pack(">II", 0xFFFFFFFF, 0) + b"x" * 64,
    "a wrong checksum": struct.pack(">II", 12, 1) + b"\x08\x00\x00\x00xxxx",
    "an empty frame": struct.pack(">II", 4, 0),
    "no document": frame.encode(b"nonsense"),
    "a hello over the first ceiling": struct.pack(">II", 2 << 20, 0),
    "an operation": frame.encode(
        b"\x00\x00\x00\x00\x10o\x00\x01\x00\x00\x00\x10e\x00\x01\x00\x00\x00\x10t\x00\x01\x00\x00\x00"
    ),
}


@pytest.mark.parametrize("what", list(GARBAGE))
def test_garbage_is_dropped_with_a_sentence_and_the_master_is_well(
    master: RunningNode, what: str, capfd: pytest.CaptureFixture[str]
) -> None:
    master.change(handshake_timeout_secs=0.5)
    peer = Peer(address(master))
    peer.say(GARBAGE[what])
    refuse = peer.hear()
    assert isinstance(refuse, Refuse)
    assert refuse.reason.startswith(("frame_", "message_", "illegal_", "handshake_timeout"))
    assert peer.ended()
    assert master.server is not None
    wait_until(lambda: not master.server.lines)  # type: ignore[union-attr]
    assert "Traceback" not in capfd.readouterr().err
    linked(master).close()


def test_a_peer_that_hangs_up_at_once_is_nothing(master: RunningNode) -> None:
    Peer(address(master)).close()
    assert master.server is not None
    wait_until(lambda: not master.server.lines)  # type: ignore[union-attr]


def test_half_a_frame_and_silence_end_by_the_handshake_timeout(master: RunningNode) -> None:
    master.change(handshake_timeout_secs=0.2)
    peer = Peer(address(master))
    peer.say(struct.pack(">II", 1000, 0) + b"x")
    refuse = peer.hear()
    assert isinstance(refuse, Refuse)
    assert refuse.reason == "handshake_timeout"


def test_writes_reach_the_stream_at_once_and_acks_the_table(master: RunningNode) -> None:
    assert master.server is not None
    peer = linked(master)
    master.write(100)
    operation = peer.hear_a(OperationFrame)
    assert operation.offset == master.node.offset
    assert operation.frame is master.node.log.frame_at(
        operation.offset
    ) or operation.frame == master.node.log.frame_at(operation.offset)
    master.server.acknowledged.clear()
    peer.say(Ack(operation.offset, operation.offset))
    assert master.server.acknowledged.wait(5.0)
    wait_until(lambda: master.server.table.acknowledged(operation.offset) == 1)  # type: ignore[union-attr]
    peer.close()


def test_heartbeats_carry_offset_and_lag(master: RunningNode) -> None:
    peer = linked(master, master.node.offset - 1)
    beat = peer.hear_a(Heartbeat)
    assert (beat.offset, beat.durable) == (master.node.offset, master.node.durable_offset)
    assert beat.lag_ms >= 0
    assert abs(beat.timestamp_ms / 1000 - time.time()) < 60
    peer.close()


def test_a_full_sync_ships_the_files_of_the_manifest(master: RunningNode) -> None:
    assert master.server is not None
    master.change(snapshot_chunk_bytes=4096)
    peer = Peer(address(master))
    peer.say(hello_of(master))
    assert peer.hear_a(Welcome).reason == "empty_replica"
    peer.say(Accept())
    snapshot = peer.hear_a(Snapshot)
    assert snapshot.offset == master.node.offset
    assert master.maintenance.pins
    content = {file.name: b"" for file in snapshot.files}
    while any(len(content[file.name]) < file.bytes for file in snapshot.files):
        chunk = peer.hear_a(Chunk)
        assert len(chunk.data) <= 4096
        content[chunk.file] += chunk.data
        peer.say(Received(sum(map(len, content.values()))))
    assert peer.hear_a(Complete).offset == snapshot.offset
    peer.say(Ack(snapshot.offset, snapshot.offset))
    wait_until(lambda: not master.maintenance.pins)
    row = master.server.table.get("peer")
    assert row is not None
    assert (row.phase, row.full_syncs) == (Phase.STREAMING, 1)
    peer.close()


def test_a_replica_lost_during_a_full_sync_leaves_nothing_pinned(master: RunningNode) -> None:
    peer = Peer(address(master))
    peer.say(hello_of(master))
    peer.hear_a(Welcome)
    peer.say(Accept())
    peer.hear_a(Snapshot)
    assert master.maintenance.pins
    peer.close()
    wait_until(lambda: not master.maintenance.pins)


def test_a_replica_gone_before_the_snapshot_was_made_leaves_nothing_pinned(master: RunningNode) -> None:
    assert master.server is not None
    master.write(500)
    peer = Peer(address(master))
    with master.maintenance.manifest_lock:
        peer.say(hello_of(master))
        peer.hear_a(Welcome)
        peer.say(Accept())
        wait_until(lambda: [line.session.state for line in master.server.lines] == ["capturing"])  # type: ignore[union-attr]
        peer.close()
        wait_until(lambda: not master.server.lines)  # type: ignore[union-attr]
    gevent.sleep(0.05)
    with master.maintenance.manifest_lock:
        assert not master.maintenance.pins


def test_a_full_sync_whose_pin_was_dropped_fails_with_a_reason(master: RunningNode) -> None:
    master.change(snapshot_chunk_bytes=4096)
    master.write_large(9 << 20)
    peer = Peer(address(master))
    peer.say(hello_of(master))
    peer.hear_a(Welcome)
    peer.say(Accept())
    peer.hear_a(Snapshot)
    received = sum(len(peer.hear_a(Chunk).data) for _ in range(100))  # small files are less than a piece
    master.maintenance.pins.clear()
    peer.say(Received(received))
    assert peer.hear_a(Goodbye).reason == "snapshot_expired"
    peer.close()


def test_a_snapshot_that_cannot_be_made_is_told(master: RunningNode, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room() -> None:
        raise OSError(28, "No space left on device")

    master.write(600)
    monkeypatch.setattr(snapshots, "HELD_BYTES_MAX", 0)  # more than may be held in memory
    monkeypatch.setattr(master.maintenance, "checkpoint", no_room)
    peer = Peer(address(master))
    peer.say(hello_of(master))
    peer.hear_a(Welcome)
    peer.say(Accept())
    goodbye = peer.hear_a(Goodbye)
    assert goodbye.reason == "snapshot_failed"
    assert "No space left" in goodbye.message
    monkeypatch.undo()
    peer.close()


def test_a_replica_that_falls_silent_is_dropped(master: RunningNode) -> None:
    assert master.server is not None
    master.change(replica_timeout_secs=0.3)
    peer = linked(master)
    assert peer.hear_a(Goodbye).reason == "replica_timeout"
    wait_until(lambda: not master.server.lines)  # type: ignore[union-attr]
    row = master.server.table.get("peer")
    assert row is not None
    assert (row.phase, row.gone_reason) == (Phase.GONE, "replica_timeout")


def test_a_replica_that_never_reads_is_cut_off_and_memory_stays(master: RunningNode) -> None:
    assert master.server is not None
    master.change(replica_timeout_secs=0.5)
    peer = linked(master)
    for _ in range(12):
        master.write_large(1 << 20)
    wait_until(lambda: not master.server.lines)  # type: ignore[union-attr]
    peer.close()


def test_a_newer_link_of_the_same_node_ends_the_older(master: RunningNode) -> None:
    assert master.server is not None
    first = linked(master)
    second = linked(master)
    assert first.hear_a(Goodbye).reason == "replaced"
    assert first.ended()
    master.write(700)
    assert second.hear_a(OperationFrame).offset == master.node.offset
    assert len(master.server.table) == 1
    for peer in (first, second):
        peer.close()


def test_more_connections_than_the_limits_are_closed_at_once(master: RunningNode) -> None:
    assert master.server is not None
    master.change(replicas_max=1)
    peers = [Peer(address(master)) for _ in range(1 + HANDSHAKES_MAX)]
    wait_until(lambda: len(master.server.lines) == 1 + HANDSHAKES_MAX)  # type: ignore[union-attr]
    assert Peer(address(master)).ended()
    assert master.server.turned_away == 1
    for peer in peers:
        peer.close()
    wait_until(lambda: not master.server.lines)  # type: ignore[union-attr]
    linked(master).close()


def test_drain_waits_for_what_replicas_have_not_applied(master: RunningNode) -> None:
    assert master.server is not None
    assert master.server.drain(0.0)
    peer = linked(master)
    master.write(800)
    assert not master.server.drain(0.05)
    draining = gevent.spawn(master.server.drain, 10.0)
    offset = peer.hear_a(OperationFrame).offset
    peer.say(Ack(offset, offset))
    assert draining.get(timeout=5.0)
    peer.close()


def test_stop_says_goodbye_to_all_and_frees_the_address(master: RunningNode) -> None:
    assert master.server is not None
    server, place = master.server, address(master)
    peer, stranger = linked(master), Peer(place)
    wait_until(lambda: len(server.lines) == 2)
    server.stop()
    assert peer.hear_a(Goodbye).reason == "shutdown"
    assert stranger.hear_a(Refuse).reason == "shutdown"
    assert not server.lines
    bind(place).close()
    server.stop()
    row = server.table.get("peer")
    assert row is not None
    assert row.phase is Phase.GONE


def test_stop_does_not_wait_for_a_replica_that_takes_nothing(
    master: RunningNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert master.server is not None
    monkeypatch.setattr(master_module, "STOP_SECS", 0.2)
    peer = linked(master)
    for _ in range(12):
        master.write_large(1 << 20)
    gevent.sleep(0.05)
    started = time.monotonic()
    master.server.stop()
    assert time.monotonic() - started < 2.0
    assert not master.server.lines
    peer.close()


def test_an_address_in_use_cannot_be_had(master: RunningNode) -> None:
    with pytest.raises(OSError, match="in use"):
        bind(address(master))


def test_ipv6(tmp_path: Path, master: RunningNode) -> None:
    other = RunningNode(tmp_path / "six")
    other.create()
    other.listen("[::1]:0")
    assert address(other).startswith("[::1]:")
    replica = RunningNode(tmp_path / "replica", Role.REPLICA)
    replica.follow(address(other))
    wait_until(lambda: replica.node.has_complete_data and caught_up(other, replica)())
    replica.stop()
    other.stop()


def test_ipv4_at_a_listener_for_both(tmp_path: Path) -> None:
    both = RunningNode(tmp_path / "both")
    both.create()
    server = both.listen("[::]:0")
    replica = RunningNode(tmp_path / "replica", Role.REPLICA)
    replica.follow(f"127.0.0.1:{parse_address(address(both)).port}")
    wait_until(lambda: replica.node.has_complete_data and caught_up(both, replica)())
    assert [row.host for row in server.table] == ["127.0.0.1"]
    replica.stop()
    both.stop()


def test_a_mistake_of_ours_ends_one_connection_and_not_the_master(
    master: RunningNode, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert master.server is not None
    peer = linked(master)
    [line] = master.server.lines

    def broken(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(line, "_carry_out", broken)
    master.write(900)
    assert peer.ended()
    wait_until(lambda: not master.server.lines)  # type: ignore[union-attr]
    assert "session_failed" in capfd.readouterr().err
    row = master.server.table.get("peer")
    assert row is not None
    assert row.gone_reason == "internal_error"
    linked(master).close()


def test_a_dead_capture_is_told_to_the_replica(
    master: RunningNode, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def broken(**_: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(master.snapshots, "capture", broken)
    peer = Peer(address(master))
    peer.say(hello_of(master))
    peer.hear_a(Welcome)
    peer.say(Accept())
    assert peer.hear_a(Goodbye).reason == "snapshot_failed"
    assert "ZeroDivisionError" in capfd.readouterr().err
    peer.close()


def test_the_end_of_the_acceptor_is_the_end_of_the_node(master: RunningNode) -> None:
    assert master.server is not None and master.server._acceptor is not None
    master.server._acceptor.kill(VectorizerError("a bug"), block=True)
    wait_until(lambda: master.database.failed.ready())
    assert "listener" in str(master.node.failure)


def test_a_window_in_the_journal_feeds_the_stream(tmp_path: Path) -> None:
    node = RunningNode(tmp_path / "small", replication={"log_bytes_max": 4096})
    node.create()
    for number in range(60):
        node.write(number, seed=number)
    node.listen()
    assert node.node.log.first_offset > 20
    peer = Peer(address(node))
    peer.say(hello_of(node, 3))
    assert peer.hear_a(Welcome).sync == "partial"
    offsets = [peer.hear_a(OperationFrame).offset for _ in range(node.node.offset - 3)]
    assert offsets == list(range(4, node.node.offset + 1))
    peer.close()
    node.stop()


def test_an_accept_that_fails_is_tried_again(
    master: RunningNode, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    failures = [OSError(24, "Too many open files"), OSError(22, "Invalid argument")]
    line_of = master_module.ReplicaLine

    def fails_at_first(*arguments: Any) -> Any:
        if failures:
            raise failures.pop()
        return line_of(*arguments)

    monkeypatch.setattr(master_module, "ReplicaLine", fails_at_first)
    for _ in range(2):
        assert Peer(address(master)).ended()
    linked(master).close()
    assert "connection_lost_at_once" in capfd.readouterr().err
