"""Whole data sets that are swapped: killed half-way, without room, with settings that change meanwhile."""

from __future__ import annotations

import errno
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest

from tests.unit.served import Cluster, Served, cluster_at, vector, wait_until
from vectorizer import snapshots
from vectorizer.errors import RequestError, VectorizerError
from vectorizer.node import NodeFailure
from vectorizer.operations import Drop
from vectorizer.snapshots import PinnedSnapshot
from vectorizer.storage.rewind import DIVERGED_FILES_MAX
from vectorizer.storage.snapshot import SnapshotFile, SnapshotReceiver


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with cluster_at(tmp_path) as cluster:
        yield cluster


@pytest.fixture
def pair(cluster: Cluster) -> tuple[Served, Served]:
    """A master with data, and a node with the same data that follows nobody at the moment."""
    master = cluster.master()
    master.create(segment_rows=16)
    master.put(*range(40))
    replica = cluster.replica(master)
    replica.follows(master)
    assert replica.server.roles.replica is not None
    replica.server.roles.replica.stop()
    master.put(100)
    return master, replica


def content_of(pin: PinnedSnapshot, file: SnapshotFile) -> bytes:
    """All of a file, as a sender reads it."""
    content = b""
    while len(content) < file.bytes:
        content += pin.read(file.name, len(content), file.bytes - len(content)).data
    return content


def received(master: Served, replica: Served) -> SnapshotReceiver:
    """All files of a snapshot, written aside."""
    pin = master.server.snapshots.capture(fresh=True)
    have = replica.server.snapshots.held_files()
    files = pin.files(have)
    receiver = replica.server.snapshots.begin(pin.snapshot.document(), files)
    for file in files:
        receiver.write(file.name, 0, content_of(pin, file))
    pin.release()
    return receiver


OLD, NEW = 2, 3
"""Generations of the replica: what its first full sync brought, and the next one."""


def generations(served: Served) -> list[int]:
    return served.server.database.directory.generations()


def test_an_install_is_the_new_data_at_once(pair: tuple[Served, Served]) -> None:
    master, replica = pair
    replica.server.snapshots.install(received(master, replica), keep_aside=False)
    assert (replica.offset, replica.digest()) == (master.offset, master.digest())
    assert generations(replica) == [NEW]
    assert not replica.server.snapshots.installing
    replica.restart()
    replica.follows(master)
    assert replica.counters.full_syncs == 0


@pytest.mark.parametrize("moment", range(12))
def test_an_install_that_is_killed_is_done_or_not_done(pair: tuple[Served, Served], moment: int) -> None:
    """Memory and disk agree afterwards, whenever the link is ended."""
    master, replica = pair
    receiver = received(master, replica)
    installing = gevent.spawn(replica.server.snapshots.install, receiver, keep_aside=bool(moment % 2))
    for _ in range(moment):
        gevent.sleep(0.001)
    installing.kill()
    replica.server.database.run_work(receiver.abort)
    current = replica.server.database.directory.current()
    assert current is not None
    assert current[0] == replica.server.database.node.generation
    if current[0] == NEW:
        assert replica.digest() == master.digest()
    replica.server.maintenance.checkpoint()
    replica.restart()
    replica.follows(master)


def refuse(patch: pytest.MonkeyPatch, served: Served, method: str, word: str, number: int) -> None:
    disk = served.server.database.directory.disk
    real = getattr(disk, method)

    def refused(*arguments: Any) -> Any:
        if word in arguments[0]:
            raise OSError(number, "refused", arguments[0])
        return real(*arguments)

    patch.setattr(disk, method, refused)


def test_an_install_without_room_leaves_the_old_data(
    pair: tuple[Served, Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    master, replica = pair
    receiver = received(master, replica)
    before = replica.digest()
    with monkeypatch.context() as patch:
        refuse(patch, replica, "write_file", "CURRENT.new", errno.ENOSPC)
        with pytest.raises(OSError, match="refused"):
            replica.server.snapshots.install(receiver, keep_aside=False)
    receiver.abort()
    assert generations(replica) == [OLD]
    assert replica.digest() == before
    replica.restart()
    replica.follows(master)


def test_a_current_that_may_not_be_durable_stops_the_node(
    pair: tuple[Served, Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    master, replica = pair
    receiver = received(master, replica)
    disk = replica.server.database.directory.disk
    real, seen = disk.sync_directory, []

    def fails_after_the_rename(path: str) -> None:
        if path == str(replica.root):
            seen.append(path)
            if len(seen) == 2:
                raise OSError(errno.EIO, "refused")
        real(path)

    with monkeypatch.context() as patch:
        patch.setattr(disk, "sync_directory", fails_after_the_rename)
        with pytest.raises(NodeFailure, match="perhaps not durably"):
            replica.server.snapshots.install(receiver, keep_aside=False)
    receiver.abort()
    assert replica.server.database.failed.ready()
    with pytest.raises(NodeFailure):
        replica.server.stop()
    replica.start()
    replica.follows(master)


def test_old_data_that_cannot_be_removed_goes_at_the_next_start(
    pair: tuple[Served, Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    master, replica = pair
    receiver = received(master, replica)
    with monkeypatch.context() as patch:
        refuse(patch, replica, "remove_tree", f"{OLD:010d}", errno.EIO)
        replica.server.snapshots.install(receiver, keep_aside=False)
    assert replica.digest() == master.digest()
    assert generations(replica) == [OLD, NEW]
    replica.restart()
    assert generations(replica) == [NEW]


def test_settings_stored_during_a_full_sync_stay(pair: tuple[Served, Served]) -> None:
    master, replica = pair
    receiver = received(master, replica)
    assert replica.configure(log_size=77)[0] == 200
    replica.server.snapshots.install(receiver, keep_aside=False)
    replica.restart()
    assert replica.server.settings.replication.log_size == 77


def test_files_that_were_offered_stay_until_they_are_linked(pair: tuple[Served, Served]) -> None:
    """The replica's own checkpoints go on between its offer and the snapshot."""
    master, replica = pair
    snapshots = replica.server.snapshots
    replica.server.maintenance.checkpoint()
    have = snapshots.held_files()
    replica.server.database.node.store.collections.clear()  # what a later checkpoint no longer needs
    for _ in range(3):
        replica.server.maintenance.checkpoint()
    pin = master.server.snapshots.capture()
    files = pin.files(have)
    assert len(files) < len(pin.files({}))
    receiver = snapshots.begin(pin.snapshot.document(), files)
    receiver.abort()
    assert not replica.server.maintenance.pins


def test_a_snapshot_that_cannot_begin_leaves_nothing(pair: tuple[Served, Served]) -> None:
    master, replica = pair
    pin = master.server.snapshots.capture(fresh=True)
    replica.server.snapshots.held_files()
    with pytest.raises(VectorizerError, match="neither sent nor here"):
        replica.server.snapshots.begin(pin.snapshot.document(), [])
    assert generations(replica) == [OLD]
    with pytest.raises(VectorizerError, match="announced but not in the manifest"):
        replica.server.snapshots.begin(pin.snapshot.document(), [SnapshotFile("x", 1, 2)])


def test_a_snapshot_has_the_newest_history(cluster: Cluster) -> None:
    """Of a master that has only restarted since its last checkpoint."""
    master = cluster.master()
    master.create()
    master.restart()
    pin = master.server.snapshots.capture()
    assert pin.snapshot.manifest.history == master.server.database.node.history
    replica = cluster.replica(master)
    replica.follows(master)
    master.put(1)
    replica.follows(master)
    replica.restart()
    replica.follows(master)
    assert replica.counters.full_syncs == 0


def installed(pin: PinnedSnapshot, replica: Served) -> tuple[str, int]:
    """The digest of a replica that has been given this snapshot."""
    files = pin.files(replica.server.snapshots.held_files())
    receiver = replica.server.snapshots.begin(pin.snapshot.document(), files)
    for file in files:
        receiver.write(file.name, 0, content_of(pin, file))
    pin.release()
    replica.server.snapshots.install(receiver, keep_aside=False)
    return replica.digest()


def files_below(served: Served) -> dict[str, bytes]:
    """All that is on its disk, but for the journal."""
    paths = sorted(path for path in served.root.rglob("*") if path.is_file())
    return {str(path): path.read_bytes() for path in paths if path.parent.name != "journal"}


def test_a_snapshot_is_of_its_moment_and_writes_nothing(pair: tuple[Served, Served]) -> None:
    """Segments in files, growing rows in memory, some of both deleted."""
    master, replica = pair
    wait_until(lambda: len(master.server.database.node.store.get("things").segments) == 2, "two segments")
    master.server.maintenance.checkpoint()
    master.put(3, 33, 200, seed=1)  # new rows of 3 and 33: the old ones die in a segment and in memory
    before, digest = files_below(master), master.digest()
    pin = master.server.snapshots.capture()
    assert files_below(master) == before
    assert pin.snapshot.offset == master.offset
    assert master.server.maintenance.held_bytes > 0
    master.put(1, 34, *range(300, 340), seed=2)  # what was growing is sealed
    master.told("DELETE", "/collections/things/vectors/id-200")
    wait_until(lambda: len(master.server.database.node.store.get("things").segments) > 2, "more segments")
    for _ in range(3):
        master.server.maintenance.checkpoint()
    assert installed(pin, replica) == digest != master.digest()
    master.stop()  # or the restarted replica follows it to its newer data
    replica.restart()
    assert replica.digest() == digest


def test_what_a_checkpoint_would_write_is_what_is_held(cluster: Cluster) -> None:
    master = cluster.master()
    master.create(segment_rows=1000)
    master.put(*range(600))
    pin = master.server.snapshots.capture()
    held = {file.name: content_of(pin, file) for file in pin.files({})}
    files = dict(pin.snapshot.manifest.files())
    assert files == dict(master.server.maintenance.checkpoint().files())
    assert held == {name: pin.snapshot.read(name, 0, info.bytes) for name, info in files.items()}


def test_a_file_in_memory_is_gone_when_it_was_read(cluster: Cluster) -> None:
    master = cluster.master()
    master.create(segment_rows=64)
    master.put(*range(64))
    wait_until(lambda: master.server.database.node.store.get("things").segments, "a segment")
    master.put(*range(100, 130))
    maintenance = master.server.maintenance
    pin, other = master.server.snapshots.capture(), master.server.snapshots.capture()
    files = pin.files({})
    assert maintenance.held_bytes == 2 * sum(file.bytes for file in files[:6])  # and they come first
    for file in files[:6]:
        assert len(content_of(pin, file)) == file.bytes
    assert maintenance.held_bytes == sum(file.bytes for file in files[:6])
    assert len(content_of(pin, files[6])) == files[6].bytes
    assert not {file.name for file in files[:2]} & {
        file.name for file in other.files({file.name: file.crc32 for file in files[:2]})
    }
    assert maintenance.held_bytes == sum(file.bytes for file in files[2:6])
    other.release()
    assert maintenance.held_bytes == 0


def test_what_a_checkpoint_has_written_is_not_held(cluster: Cluster) -> None:
    master = cluster.master()
    master.create()
    master.put(*range(30))
    master.server.maintenance.checkpoint()
    pin = master.server.snapshots.capture()
    assert master.server.maintenance.held_bytes == 0
    assert [len(content_of(pin, file)) for file in pin.files({})] == [file.bytes for file in pin.files({})]


def test_what_may_not_be_held_is_not_copied_first(cluster: Cluster) -> None:
    """Payloads may be more than there is memory."""
    master = cluster.master()
    master.create()
    rows = [
        {"id": f"id-{item}", "vector": vector(item), "payload": {"text": "x" * 500_000}} for item in range(12)
    ]
    master.told("POST", "/collections/things/vectors", {"vectors": rows})
    checkpoint = master.server.maintenance.capture()
    tracemalloc.start()
    try:
        assert checkpoint.hold(1 << 20, 1 << 20) is None
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    assert checkpoint.hold(8 << 20, 1 << 20) is not None


def test_one_checkpoint_serves_replicas_that_come_together(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there is more than may be held in memory."""
    monkeypatch.setattr(snapshots, "HELD_BYTES_MAX", 500)
    master = cluster.master()
    master.create()
    master.put(0)
    first = master.server.snapshots.capture()
    assert (first.snapshot.offset, master.server.maintenance.held_bytes) == (master.offset, 0)
    master.put(1)
    assert master.server.snapshots.capture().snapshot.offset == first.snapshot.offset
    assert master.server.snapshots.capture(fresh=True).snapshot.offset == master.offset


def test_going_back_saves_what_was_beyond(pair: tuple[Served, Served]) -> None:
    master, _ = pair
    snapshots = master.server.snapshots
    fork = master.offset - 1
    assert snapshots.go_back(10**6) is False
    saved = snapshots.save_diverged(fork)
    assert (saved.operations, saved.complete) == (1, True)
    for _ in range(DIVERGED_FILES_MAX + 3):
        snapshots.save_diverged(fork)
    assert len(snapshots.diverged) == DIVERGED_FILES_MAX
    assert snapshots.go_back(fork)
    assert master.offset == fork
    with pytest.raises(RequestError):
        master.server.database.write(Drop("nothing of this name"))
    master.restart()
    assert master.offset == fork


def test_going_back_without_room_changes_nothing(
    pair: tuple[Served, Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    master, _ = pair
    master.server.maintenance.checkpoint()
    offset = master.put(200)
    for method, word in [
        ("create", "0000000002"),
        ("link", "segments"),
        ("write_file", "0000000002/manifest"),
    ]:
        with monkeypatch.context() as patch:
            refuse(patch, master, method, word, errno.ENOSPC)
            try:
                assert master.server.snapshots.go_back(offset - 1) is False or method == "link"
            except OSError as error:
                assert error.errno == errno.ENOSPC
            else:
                continue
        assert generations(master) == [1], "what was begun is removed"
        assert master.offset == offset
    wait_until(lambda: not master.server.snapshots.installing, "the end")
