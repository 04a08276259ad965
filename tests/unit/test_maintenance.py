"""Background work: sealing, merging, checkpoints, the journal's bound, pins, and a full disk."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest

from tests.unit.served import Cluster, Served, cluster_at, wait_until
from vectorizer.maintenance import Maintenance, Pin
from vectorizer.node import NodeFailure


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with cluster_at(tmp_path) as cluster:
        yield cluster


def things(served: Served) -> Any:
    return served.server.database.node.store.get("things")


def names(served: Served) -> list[str]:
    return [segment.name for segment in things(served).segments]


def maintenance(served: Served) -> Maintenance:
    return served.server.maintenance


def full_disk(served: Served, patch: pytest.MonkeyPatch, number: int = errno.ENOSPC) -> list[str]:
    """No file can be written any more; the paths that were tried."""
    tried: list[str] = []

    def refuse(path: str, buffers: Any) -> int:
        tried.append(path)
        raise OSError(number, "refused", path)

    patch.setattr(served.server.database.directory.disk, "write_file", refuse)
    return tried


def test_full_chunks_are_sealed_and_merged_on_master_and_replica(cluster: Cluster) -> None:
    master = cluster.master()
    master.create(segment_rows=16, segment_rows_max=256)
    replica = cluster.replica(master)
    for part in range(9):
        master.put(*range(part * 10, part * 10 + 10))
    wait_until(lambda: len(names(master)) == 2 and names(master)[0].startswith("m"), "a merge")
    replica.follows(master)
    wait_until(lambda: names(replica) == names(master), "the same segments on the replica")
    master.request("POST", "/collections/things/vectors/delete", {"ids": [f"id-{n}" for n in range(30)]})
    wait_until(lambda: things(master).segments[0].dead_rows == 0, "the dead rows to go")
    replica.follows(master)
    assert replica.digest()[1] == 60


def test_a_collection_at_rest_is_merged(cluster: Cluster) -> None:
    master = cluster.start("master", {"index.merge_idle_secs": 0.3})
    master.create(segment_rows=16, segment_rows_max=256)
    master.put(*range(40))
    wait_until(lambda: [name[0] for name in names(master)] == ["m"], "one segment instead of two")
    assert master.digest()[1] == 40
    offset = master.server.database.node.offset
    assert offset == 3, "it was created, filled, merged, and then left alone"


def test_a_merge_that_leaves_nothing(cluster: Cluster) -> None:
    node = cluster.start("node")
    node.create(segment_rows=16)
    node.put(*range(16))
    wait_until(lambda: len(names(node)) == 1, "a segment")
    node.request("POST", "/collections/things/vectors/delete", {"ids": [f"id-{n}" for n in range(16)]})
    wait_until(lambda: names(node) == [] and not things(node).merges, "the empty segment to go")
    node.put(3)
    node.restart()
    assert node.digest()[1] == 1


def test_a_collection_that_is_dropped_meanwhile(cluster: Cluster) -> None:
    node = cluster.start("node")
    for number in range(10):
        node.create(segment_rows=16)
        node.put(*range(70), seed=number)
        node.request("DELETE", "/collections/things")
    node.create(segment_rows=16)
    node.put(*range(5))
    node.server.maintenance.checkpoint()
    node.restart()
    assert node.digest()[1] == 5


def test_a_checkpoint_after_enough_journal_bounds_it(cluster: Cluster) -> None:
    node = cluster.start(
        "node",
        {
            "storage.journal_file_bytes": 1 << 18,
            "storage.journal_bytes_max": 1 << 19,
            "replication.log_bytes_max": 8192,
        },
    )
    node.create(dimension=1000)
    journal = node.server.database.node.journal
    for number in range(60):
        node.put(*range(number, number + 10), dimension=1000)
    assert journal.appended_bytes > 1 << 21
    wait_until(lambda: journal.bytes_held <= 1 << 20, "the journal to be trimmed")
    assert journal.first_offset > 1
    node.restart()
    assert node.digest()[1] == 69


def test_a_checkpoint_after_some_time(cluster: Cluster) -> None:
    node = cluster.start("node", {"storage.checkpoint_interval_secs": 0.05})
    node.create()
    wait_until(lambda: node.server.database.node.manifest.offset == 1, "a checkpoint")
    before = node.server.database.directory.current()
    gevent.sleep(1.0)  # two polls
    assert node.server.database.directory.current() == before, "nothing has changed"


def test_a_full_disk_is_waited_for(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vectorizer.maintenance.RETRY_SECS", 0.05)
    node = cluster.start("node")
    node.create(segment_rows=16)
    with monkeypatch.context() as patch:
        tried = full_disk(node, patch)
        node.put(*range(20))
        wait_until(lambda: len(tried) > 2, "some attempts")
        assert names(node) == []
        assert node.upsert([50])[0] == 200
    wait_until(lambda: len(names(node)) == 1, "the segment")
    assert node.digest()[1] == 21


def test_any_other_error_stops_the_node(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    node = cluster.start("node")
    node.create(segment_rows=16)
    with monkeypatch.context() as patch:
        full_disk(node, patch, errno.EIO)
        node.put(*range(20))
        assert "background work failed" in str(node.server.database.failed.get(timeout=10))
    assert node.request("GET", "/health")[1]["status"] == "failed"
    with pytest.raises(NodeFailure, match="background work failed"):
        node.server.stop()


def test_a_checkpoint_that_found_no_room_comes_again(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vectorizer.maintenance.RETRY_SECS", 0.05)
    monkeypatch.setattr("vectorizer.maintenance.SETTLE_SECS", 0.0)
    node = cluster.start("node")
    node.create()
    node.put(1)
    with monkeypatch.context() as patch:
        full_disk(node, patch)
        maintenance(node).segments_changed()
        with pytest.raises(OSError, match="refused"):
            maintenance(node).checkpoint()
    wait_until(lambda: node.server.database.node.manifest.offset == 2, "another checkpoint")


def test_work_that_never_ends_lets_checkpoints_through(cluster: Cluster) -> None:
    node = cluster.start("node", {"storage.checkpoint_interval_secs": 0.05})
    node.create(segment_rows=1024)
    stopped = False

    def write() -> None:
        number = 0
        while not stopped:
            node.put(*range(number, number + 512))
            number += 512

    writer = gevent.spawn(write)
    wait_until(lambda: node.server.database.node.manifest.offset > 1, "checkpoints under load")
    stopped = True
    writer.get(timeout=10)


def test_a_setting_is_stored_while_a_merge_runs(cluster: Cluster) -> None:
    node = cluster.start("node")
    node.create()
    with node.server.database.maintenance_lock:  # as a merge of large segments holds it
        assert node.configure(log_size=55)[0] == 200
    node.put(1)
    maintenance(node).checkpoint()
    node.restart()
    assert node.status()["settings"]["log_size"]["value"] == 55


def test_pins_hold_journal_and_files_until_the_bound(cluster: Cluster) -> None:
    node = cluster.start("node", {"replication.log_size": 1, "storage.journal_file_bytes": 8192})
    node.create()
    snapshot = node.server.snapshots.capture()
    held = snapshot.snapshot.manifest.directories()
    for number in range(30):
        node.put(*range(number, number + 40))
    maintenance(node).checkpoint()
    assert node.server.database.node.journal.first_offset == 1 or node.server.database.node.window[0] <= 2
    assert snapshot.pinned
    snapshot.release()
    snapshot.release()
    assert not snapshot.pinned
    maintenance(node).checkpoint()
    assert node.server.database.node.journal.first_offset > 2
    assert held == set()


def test_pins_are_read_on_the_event_loop_alone(cluster: Cluster) -> None:
    class Watched(dict[object, Pin]):
        def values(self) -> Any:
            threads.add(threading.get_ident())
            return super().values()

    threads: set[int] = set()
    node = cluster.start("node")
    node.create()
    maintenance(node).pins = Watched()
    maintenance(node).checkpoint()
    assert threads == {threading.get_ident()}


def test_a_pin_that_is_too_old_is_dropped(cluster: Cluster) -> None:
    node = cluster.start("node")
    node.create()
    snapshot = node.server.snapshots.capture()
    pin = maintenance(node).pins[snapshot]
    maintenance(node).pins[snapshot] = pin._replace(since=time.monotonic() - 3601)
    node.put(1)
    maintenance(node).checkpoint()
    assert not snapshot.pinned


def test_a_merge_that_is_refused_is_planned_again(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    node = cluster.start("node")
    node.create(segment_rows=16)
    node.put(*range(16))
    wait_until(lambda: len(names(node)) == 1, "a segment")
    node.server.database.node.fence("a promotion is under way")
    code, answer = node.upsert([1])
    assert (code, answer["error_type"]) == (503, "writes_held")
    node.server.database.node.fence(None)
    limits = node.server.database.node.limits
    with monkeypatch.context() as patch:
        patch.setattr(node.server.database.node.journal, "has_room", lambda size: False)
        patch.setattr(node.server.database.node.journal, "ensure_room", lambda size: False)
        for segment in things(node).segments:
            segment.dead_rows = 16
        assert maintenance(node)._plan_merge() is False
        for segment in things(node).segments:
            segment.dead_rows = 0
    assert node.server.database.node.limits is limits
    assert node.status()["graphs"] == {"building": False, "built": 0, "failed": 0, "build_secs": 0.0}
