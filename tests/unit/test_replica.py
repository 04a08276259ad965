"""The replica's client against real masters and against peers that misbehave, on real sockets and disks."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest
from gevent import socket

from tests.unit.running import Peer, RunningNode, caught_up, wait_until
from tests.unit.stored import rows
from vectorizer import frame
from vectorizer.errors import ApplyError, DamageError
from vectorizer.node import Role
from vectorizer.operations import Delete, Drop, Upsert, encode_operation
from vectorizer.replication import replica as replica_module
from vectorizer.replication.history import History, HistoryEntry
from vectorizer.replication.messages import Accept, Ack, Goodbye, Heartbeat, Hello, Refuse, Snapshot, Welcome
from vectorizer.replication.replica import ReplicaClient
from vectorizer.replication.states import LinkState
from vectorizer.storage.disk import File, RealDisk


class FullDisk(RealDisk):
    """A disk on which nothing new fits while `full`."""

    full = False

    def create(self, path: str, size: int) -> File:
        if self.full and "/segments/" in path:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().create(path, size)


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Callable[..., RunningNode]]:
    made: list[RunningNode] = []

    def make(name: str, role: Role = Role.REPLICA, **options: Any) -> RunningNode:
        made.append(RunningNode(tmp_path / name, role, **options))
        return made[-1]

    yield make
    for node in reversed(made):
        node.stop()


@pytest.fixture
def master(nodes: Callable[..., RunningNode]) -> RunningNode:
    node = nodes("master", Role.MASTER)
    node.create()
    node.write(*range(30))
    node.listen()
    return node


def address(node: RunningNode) -> str:
    assert node.server is not None
    return node.server.address


def up(*replicas: RunningNode) -> Callable[[], bool]:
    return lambda: all(
        replica.client is not None and replica.client.link.state is LinkState.STREAMING
        for replica in replicas
    )


def test_a_first_sync_then_the_stream(master: RunningNode, nodes: Callable[..., RunningNode]) -> None:
    replicas = [nodes(f"replica{number}") for number in range(3)]
    for replica in replicas:
        replica.follow(address(master))
        assert not replica.node.has_complete_data
    writers = [
        gevent.spawn(lambda base=base: [master.write(base + step, seed=step) for step in range(40)])
        for base in (100, 200, 300)
    ]
    gevent.joinall(writers, raise_error=True)
    wait_until(caught_up(master, *replicas))
    assert {replica.digest() for replica in replicas} == {master.digest()}
    for replica in replicas:
        assert replica.client is not None
        assert replica.node.has_complete_data
        assert replica.node.master_url == "http://127.0.0.1:15002"
        totals = replica.client.link.totals
        assert (totals.full_syncs, totals.partial_syncs) == (1, 0)
        assert totals.bytes_received > 0 and totals.bytes_sent > 0


def test_acks_tell_applied_at_once_and_durable_after_the_journal(
    master: RunningNode, nodes: Callable[..., RunningNode]
) -> None:
    assert master.server is not None
    replica = nodes("replica")
    replica.follow(address(master))
    wait_until(up(replica))
    master.write(100)
    offset, table = master.node.offset, master.server.table
    wait_until(lambda: table.acknowledged(offset) == 1)
    assert replica.node.durable_offset == offset


def test_a_cut_link_comes_back_by_partial_sync(
    master: RunningNode, nodes: Callable[..., RunningNode]
) -> None:
    assert master.server is not None
    replica = nodes("replica")
    client = replica.follow(address(master))
    wait_until(up(replica))
    for number in range(5):
        for line in master.server.lines:
            line.abandon()
        master.write(200 + number)
        wait_until(caught_up(master, replica))
    assert client.link.totals.full_syncs == 1
    assert client.link.totals.partial_syncs >= 1
    assert replica.digest() == master.digest()


def test_a_restarted_replica_comes_back_by_partial_sync(
    master: RunningNode, nodes: Callable[..., RunningNode]
) -> None:
    replica = nodes("replica")
    replica.follow(address(master))
    wait_until(caught_up(master, replica))
    replica.stop()
    master.write(300)
    replica.start()
    client = replica.follow(address(master))
    assert replica.node.has_complete_data
    wait_until(caught_up(master, replica))
    assert (client.link.totals.full_syncs, client.link.totals.partial_syncs) == (0, 1)


def test_a_promoted_sibling_is_followed_by_partial_sync_and_the_old_masters_extra_writes_are_saved(
    master: RunningNode, nodes: Callable[..., RunningNode]
) -> None:
    first, second = nodes("first"), nodes("second")
    for replica in (first, second):
        replica.follow(address(master))
    wait_until(caught_up(master, first, second))
    assert first.client is not None and second.client is not None and master.server is not None
    for replica in (first, second):
        assert replica.client is not None
        replica.client.stop()
    master.write(400)
    master.server.stop()
    first.node.promote()
    first.database.committed()
    first.database.flush()
    first.write(401)
    first.listen()
    second.follow(address(first))
    master.node.role = Role.REPLICA
    old = master.follow(address(first))
    wait_until(caught_up(first, second, master))
    assert second.client.link.totals.full_syncs == 0
    assert master.digest() == first.digest() == second.digest()
    assert [file.operations for file in master.snapshots.diverged] == [1]
    assert (old.link.totals.full_syncs, old.link.totals.partial_syncs) in {(0, 1), (1, 0)}


def test_a_foreign_master_is_refused_until_it_is_forced(
    master: RunningNode, nodes: Callable[..., RunningNode]
) -> None:
    other = nodes("other", Role.MASTER)
    other.create("mine")
    other.write(1, name="mine")
    other.node.role = Role.REPLICA
    client = other.follow(address(master))
    wait_until(lambda: client.link.totals.refusals["foreign_history"])
    assert other.node.has_complete_data
    assert list(other.node.store.collections) == ["mine"]
    client.stop()
    other.follow(address(master), force=True)
    wait_until(caught_up(master, other))
    assert other.digest() == master.digest()
    generations = [path for path in other.root.iterdir() if path.name.isdigit()]
    assert (other.root / "aside").exists() or len(
        generations
    ) == 2  # moved there at once, or at the next start


def test_a_full_disk_keeps_the_old_state_and_is_tried_again(
    master: RunningNode, nodes: Callable[..., RunningNode]
) -> None:
    disk = FullDisk()
    replica = nodes("replica", disk=disk)
    disk.full = True
    client = replica.follow(address(master))
    wait_until(lambda: client.link.reason == "insufficient_storage")
    assert replica.node.offset == 0
    disk.full = False
    wait_until(caught_up(master, replica))
    assert replica.digest() == master.digest()


def test_an_operation_too_large_for_the_replicas_limit_comes_by_a_full_sync(
    master: RunningNode, nodes: Callable[..., RunningNode]
) -> None:
    replica = nodes("replica", frame_bytes_max=1 << 17)
    client = replica.follow(address(master))
    wait_until(caught_up(master, replica))
    master.write_large(1 << 18)
    wait_until(caught_up(master, replica))
    assert client.link.totals.full_syncs == 2
    assert client.link.totals.disconnects["operation_too_large"] == 1
    assert replica.digest() == master.digest()


def test_an_operation_that_fails_here_only_is_counted_and_resynchronised(
    master: RunningNode, nodes: Callable[..., RunningNode], monkeypatch: pytest.MonkeyPatch
) -> None:
    replica = nodes("replica")
    client = replica.follow(address(master))
    wait_until(up(replica))
    apply, failed = replica.node.apply_frame, []

    def fails_once(line: bytes, now: float) -> int:
        if not failed:
            failed.append(line)
            raise ApplyError("apply_failed", "this node's own mistake")
        return apply(line, now)

    monkeypatch.setattr(replica.node, "apply_frame", fails_once)
    master.write(500)
    wait_until(caught_up(master, replica))
    assert client.link.failures.total == 1
    assert client.link.totals.full_sync_reasons["requested"] == 1
    assert replica.digest() == master.digest()


def test_no_room_in_the_journal_is_waited_for(
    master: RunningNode, nodes: Callable[..., RunningNode], monkeypatch: pytest.MonkeyPatch
) -> None:
    replica = nodes("replica")
    client = replica.follow(address(master))
    wait_until(up(replica))
    monkeypatch.setattr(replica.node, "_has_room", lambda size: False)
    master.write(500)
    wait_until(lambda: client.link.reason == "insufficient_storage")
    assert client.link.failures.total == 0
    monkeypatch.undo()
    wait_until(caught_up(master, replica))
    assert client.link.totals.full_syncs == 1


def test_a_damaged_file_of_the_replica_is_not_reused(
    master: RunningNode, nodes: Callable[..., RunningNode], monkeypatch: pytest.MonkeyPatch
) -> None:
    replica = nodes("replica")
    begin, calls = replica.snapshots.begin, []

    def damaged_first(document: Any, files: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            raise DamageError("segments/x", "its checksum is wrong")
        return begin(document, files)

    monkeypatch.setattr(replica.snapshots, "begin", damaged_first)
    client = replica.follow(address(master))
    wait_until(caught_up(master, replica))
    assert client.link.totals.disconnects["damaged_file"] == 1
    assert not client._distrusts_files


def test_stop_is_quick_at_any_moment(master: RunningNode, nodes: Callable[..., RunningNode]) -> None:
    for number in range(8):
        replica = nodes(f"replica{number}")
        client = replica.follow(address(master))
        gevent.sleep(0.004 * number)
        started = time.monotonic()
        client.stop()
        client.stop()
        assert time.monotonic() - started < 2.5
        assert client.link.state is LinkState.STOPPED
        assert client.stopped_for_good
    assert master.server is not None
    wait_until(lambda: not master.server.lines and not master.maintenance.pins)  # type: ignore[union-attr]


def test_others_run_while_a_replica_catches_up(
    master: RunningNode, nodes: Callable[..., RunningNode]
) -> None:
    replica = nodes("replica")
    client = replica.follow(address(master))
    wait_until(caught_up(master, replica))
    client.stop()
    for number in range(60):
        master.database.write(Upsert("things", rows(range(1000 + number * 200, 1200 + number * 200))))
    behind = []

    def look() -> None:
        while True:
            gevent.sleep(0)
            behind.append(replica.node.offset)

    watch = gevent.spawn(look)
    replica.follow(address(master))
    wait_until(caught_up(master, replica))
    watch.kill()
    assert len(set(behind)) > 5  # it was seen in between, not only at the end


def test_single_writes_are_taken_in_runs_with_the_outcome_of_one_by_one(
    master: RunningNode, nodes: Callable[..., RunningNode]
) -> None:
    replica = nodes("replica")
    replica.follow(address(master))
    wait_until(caught_up(master, replica))
    assert replica.client is not None
    replica.client.stop()
    before = replica.node.offset
    for number in range(400):  # new ones, then changes of theirs; now and then something that ends a run
        master.write(number % 300)
        if number % 150 == 149:
            master.database.write(Delete("things", [b"id-%d" % (number % 7)]))
    client = replica.follow(address(master))
    wait_until(caught_up(master, replica))
    assert client.link.operations_applied == master.node.offset - before
    assert client.link.totals.partial_syncs == 1
    assert replica.digest() == master.digest()


# -- peers that are no good masters -------------------------------------------------------------------


class Listener:
    """A master made by the test."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.listener.getsockname()[1]}"

    def accept(self) -> Peer:
        with gevent.Timeout(10, AssertionError("nobody connected")):
            sock, _ = self.listener.accept()
        return Peer(sock=sock)

    def close(self) -> None:
        self.listener.close()


@pytest.fixture
def listener() -> Iterator[Listener]:
    made = Listener()
    yield made
    made.close()


HISTORY = History((HistoryEntry("A", 1, 0),))


def welcome(**fields: Any) -> Welcome:
    values: dict[str, Any] = {
        "protocol": 1,
        "node_id": "m",
        "path": ("m",),
        "history": HISTORY,
        "offset": 0,
        "epoch": 1,
        "sync": "partial",
        "reason": "continues",
        "fork_offset": 0,
        "window_first": 1,
        "window_last": 0,
        "heartbeat_interval_secs": 0.1,
        "frame_bytes_max": 1 << 20,
        "rest_address": "",
        **fields,
    }
    return Welcome(**values)


def test_a_listener_that_never_answers_times_out_and_is_tried_again(
    listener: Listener, nodes: Callable[..., RunningNode]
) -> None:
    replica = nodes("replica", replication={"handshake_timeout_secs": 0.2})
    client = replica.follow(listener.address)
    first = listener.accept()
    assert isinstance(first.hear(), Hello)
    assert client.link.state is LinkState.HANDSHAKE
    assert first.hear_a(Goodbye).reason == "handshake_timeout"
    first.close()
    second = listener.accept()
    assert isinstance(second.hear(), Hello)
    assert client.link.reason == "handshake_timeout"
    second.close()


def test_a_connection_that_ends_in_the_handshake_is_lost_at_once_and_tried_again(
    listener: Listener, nodes: Callable[..., RunningNode]
) -> None:
    replica = nodes("replica", replication={"handshake_timeout_secs": 60, "reconnect_interval_secs": 0.01})
    client = replica.follow(listener.address)
    began = time.monotonic()
    for _ in range(5):
        peer = listener.accept()
        assert isinstance(peer.hear(), Hello)
        peer.close()
    listener.accept().close()
    assert client.link.reason == "connection_lost"
    assert time.monotonic() - began < 60, "nobody waited for the handshake to time out"


def test_nobody_there_then_somebody(nodes: Callable[..., RunningNode], master: RunningNode) -> None:
    replica = nodes("replica")
    assert master.server is not None
    place = address(master)
    master.server.stop()
    client = replica.follow(place)
    wait_until(lambda: client.link.retry.attempts >= 3)
    assert client.link.reason == "connect_failed"
    master.listen(place)
    wait_until(caught_up(master, replica))


def test_a_master_that_stops_reading_and_writing_is_given_up(
    listener: Listener, nodes: Callable[..., RunningNode], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replica_module, "LINGER_SECS", 0.2)
    replica = nodes("replica", replication={"replica_timeout_secs": 0.4})
    client = replica.follow(listener.address)
    peer = listener.accept()
    peer.hear()
    peer.say(welcome())
    wait_until(up(replica))
    assert replica.node.has_complete_data
    wait_until(lambda: client.link.totals.disconnects["master_timeout"] == 1)
    peer.close()


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "frame_too_large"),
        (frame.encode(b"nonsense"), "message_malformed"),
        (Ack(1, 1), "illegal_message"),
        (Refuse("too_many_replicas", "try another one"), "too_many_replicas"),
        (Goodbye("shutdown", "not now"), "shutdown"),
        (welcome(node_id="other", path=("other", "replica-1")), "cycle"),
    ],
)
def test_answers_that_end_the_attempt(
    listener: Listener, nodes: Callable[..., RunningNode], answer: Any, reason: str
) -> None:
    replica = nodes("replica")
    client = replica.follow(listener.address)
    peer = listener.accept()
    peer.hear()
    peer.say(answer)
    wait_until(lambda: client.link.reason == reason)
    peer.close()
    listener.accept().close()


def test_a_frame_over_the_limit_is_refused_before_it_is_read(
    listener: Listener, nodes: Callable[..., RunningNode]
) -> None:
    replica = nodes("replica", frame_bytes_max=1 << 17)
    client = replica.follow(listener.address)
    peer = listener.accept()
    peer.hear()
    peer.say(welcome(), encode_operation(Drop("c"), 1, 1, 0), b"\x7f\xff\xff\xff\x00\x00\x00\x00")
    wait_until(lambda: client.link.totals.disconnects.total() == 1)
    assert client.link.reason in ("frame_too_large", "apply_failed")
    peer.close()


def test_a_snapshot_that_lies_is_refused_and_nothing_is_left(
    listener: Listener, nodes: Callable[..., RunningNode]
) -> None:
    replica = nodes("replica")
    client = replica.follow(listener.address)
    peer = listener.accept()
    peer.hear()
    peer.say(welcome(sync="full", offset=5))
    peer.hear_a(Accept)
    peer.say(Snapshot(5, {"m": "manifest", "version": 99}, (), 0))
    goodbye = peer.hear_a(Goodbye)
    assert goodbye.reason == "snapshot_malformed"
    assert "version 99" in goodbye.message
    wait_until(lambda: client._receiver is None)
    assert not replica.node.has_complete_data
    peer.close()


def test_heartbeats_are_answered_on_the_line(listener: Listener, nodes: Callable[..., RunningNode]) -> None:
    replica = nodes("replica", replication={"heartbeat_interval_secs": 60.0})
    replica.follow(listener.address)
    peer = listener.accept()
    hello = peer.hear()
    assert isinstance(hello, Hello)
    assert hello.rest_address == "127.0.0.1:15003"
    peer.say(welcome(heartbeat_interval_secs=60.0))
    assert peer.hear() == Ack(0, 0)
    peer.say(Heartbeat(0, 0, 0, 0))
    assert peer.hear() == Ack(0, 0)
    peer.close()


def test_the_end_of_the_link_is_the_end_of_the_node(
    nodes: Callable[..., RunningNode], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: ReplicaClient) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(ReplicaClient, "_attempt", broken)
    replica = nodes("replica")
    replica.follow("127.0.0.1:1")
    wait_until(lambda: replica.database.failed.ready())
    assert "ZeroDivisionError" in str(replica.node.failure)


def test_the_same_failure_again_and_again_is_not_logged_each_time(
    nodes: Callable[..., RunningNode], capfd: pytest.CaptureFixture[str]
) -> None:
    replica = nodes("replica", replication={"reconnect_interval_secs": 0.01})
    client = replica.follow("127.0.0.1:1")
    wait_until(lambda: client.link.retry.attempts >= 40)
    client.stop()
    assert 3 <= capfd.readouterr().err.count("link_down") <= 7


def test_a_disk_that_fails_while_diverged_operations_are_saved_changes_nothing(
    master: RunningNode, nodes: Callable[..., RunningNode], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(fork_offset: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    replica = nodes("replica")
    replica.follow(address(master))
    wait_until(caught_up(master, replica))
    assert replica.client is not None
    replica.client.stop()
    replica.node.promote()
    replica.database.committed()
    replica.write(600)
    replica.node.role = Role.REPLICA
    master.node.open_mastership(raise_epoch=True)
    master.node.open_mastership(raise_epoch=True)
    master.database.committed()
    monkeypatch.setattr(replica.snapshots, "save_diverged", broken)
    offset, digest = replica.node.offset, replica.digest()
    client = replica.follow(address(master))
    wait_until(lambda: client.link.reason == "disk_error")
    assert (replica.node.offset, replica.digest()) == (offset, digest)
    monkeypatch.undo()
    wait_until(caught_up(master, replica))
    assert replica.digest() == master.digest()


def test_what_the_journal_has_not_written_is_bounded(
    master: RunningNode, nodes: Callable[..., RunningNode], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replica_module, "UNWRITTEN_BYTES_MAX", 1 << 16)
    replica = nodes("replica")
    client = replica.follow(address(master))
    wait_until(caught_up(master, replica))
    journal, unwritten = replica.node.journal, []

    def look() -> None:
        while True:
            unwritten.append(journal.appended_bytes - journal.written_bytes)
            gevent.sleep(0)

    watch = gevent.spawn(look)
    for _ in range(6):
        master.write_large(1 << 16)
    wait_until(caught_up(master, replica))
    watch.kill()
    assert client.link.operations_applied >= 6
    assert 0 < max(unwritten) <= 1 << 18
    assert replica.digest() == master.digest()


def test_writes_that_no_fsync_waits_for(nodes: Callable[..., RunningNode]) -> None:
    master, replica = nodes("lazy", Role.MASTER, fsync="never"), nodes("replica", fsync="never")
    master.create()
    master.write(*range(10))
    master.listen()
    replica.follow(address(master))
    wait_until(caught_up(master, replica))
    master.write(11)
    wait_until(caught_up(master, replica))
    assert master.server is not None
    wait_until(lambda: master.server.table.acknowledged(master.node.offset, durable=False) == 1)  # type: ignore[union-attr]
    assert replica.digest() == master.digest()
