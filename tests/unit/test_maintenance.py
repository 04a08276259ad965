"""Background work of a whole server: sealing, building graphs, merging, checkpoints."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.unit.running import wait_until
from tests.unit.serving import Serving, follows
from vectorizer import graphs, maintenance

Serve = Callable[..., Serving]
ROWS = 1200


def indexing(node: Serving) -> Any:
    return node.told("GET", "/collections/things")["indexing_status"]


def fill(node: Serving, rows: int = ROWS, **more: Any) -> None:
    node.create(segment_rows=512, **more)
    for first in range(0, rows, 300):
        node.write(*range(first, min(rows, first + 300)))


@pytest.fixture
def built(serve: Serve) -> Serving:
    """A server whose two full segments have their graphs."""
    node = serve(index__graph_rows_min=512, index__merge_dead_fraction=0.2)
    fill(node, segment_rows_max=512)
    wait_until(lambda: indexing(node)["graphs"] == 2, 30)
    return node


def test_full_segments_get_graphs_and_a_restart_uses_them_without_building(built: Serving) -> None:
    assert indexing(built)["indexed_vectors"] == 1024
    before = built.digest()
    built.restart()
    assert indexing(built)["graphs"] == 2
    assert built.status()["graphs"]["built"] == 0
    assert built.digest() == before


def test_a_graph_that_is_gone_is_built_again(built: Serving) -> None:
    built.stop()
    next(built.path.rglob("graph.nmslib")).unlink()
    built.start()
    wait_until(lambda: built.status()["graphs"]["built"] == 1, 30)


def test_a_replica_gets_the_graphs_with_the_files(serve: Serve, built: Serving) -> None:
    assert built.configure(role="master", bind_address="127.0.0.1:0", log_size=1)[0] == 200
    wait_until(lambda: built.server.maintenance.checkpoint().offset == built.server.database.node.offset)
    replica = serve(
        "replica",
        index__graph_rows_min=512,
        replication__role="replica",
        replication__master_address=built.address,
    )
    follows(replica, built)
    assert replica.status()["counters"]["full_syncs"] == 1
    assert indexing(replica)["graphs"] == 2
    assert replica.status()["graphs"]["built"] == 0


def test_segments_with_many_dead_rows_are_merged(built: Serving) -> None:
    built.told("POST", "/collections/things/vectors/delete", {"ids": [f"v{n}" for n in range(700)]})
    before = built.digest()
    wait_until(lambda: indexing(built)["segments"] < 2, 30)
    assert built.digest() == before
    assert built.told("GET", "/collections/things")["vector_count"] == ROWS - 700


def test_a_killed_builder_is_a_line_in_the_log_and_another_try(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graphs, "RETRY_SECS", 0.05)
    node = serve(index__graph_rows_min=512)
    fill(node)

    def builder() -> psutil.Process | None:
        return next(iter(psutil.Process().children()), None)

    wait_until(builder, 30)
    found = builder()
    assert found is not None
    os.kill(found.pid, signal.SIGKILL)
    wait_until(lambda: node.status()["graphs"]["failed"] == 1, 30)
    wait_until(lambda: indexing(node)["graphs"] >= 1, 30)


def test_a_builder_that_cannot_start_is_given_up_after_three_tries(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graphs, "RETRY_SECS", 0.01)
    monkeypatch.setattr(graphs, "command", lambda *_: ["/nonexistent/builder"])
    node = serve(index__graph_rows_min=512)
    fill(node, 600)
    wait_until(lambda: node.status()["graphs"]["failed"] == graphs.FAILURES_MAX, 30)
    assert indexing(node)["graphs"] == 0
    assert node.told("POST", "/collections/things/search", {"vector": [1, 0, 0, 0]})["results"]


def test_a_dropped_collection_takes_its_unfinished_graph_with_it(serve: Serve) -> None:
    node = serve(index__graph_rows_min=512)
    fill(node)
    wait_until(lambda: node.status()["graphs"]["building"], 30)
    node.told("DELETE", "/collections/things")
    wait_until(lambda: not node.status()["graphs"]["building"], 30)
    assert node.status()["graphs"]["built"] == 0
    assert node.told("GET", "/health")["status"] == "ok"


def test_checkpoints_are_made_by_time_and_trim_the_journal(serve: Serve) -> None:
    node = serve(
        storage__checkpoint_interval_secs=0.2,
        storage__journal_file_bytes=4096,
        storage__journal_bytes_max=8192,
    )
    node.create()
    for number in range(60):
        node.write(number, number + 1000)
    offset = node.server.database.node.offset
    wait_until(lambda: node.status()["manifest_offset"] == offset)
    wait_until(lambda: node.status()["journal"]["first_offset"] > 1)
    before = node.digest()
    node.restart()
    assert node.digest() == before


def test_background_work_waits_for_room_on_the_disk(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maintenance, "RETRY_SECS", 0.05)
    node = serve()
    refused: list[int] = []
    work = node.server.maintenance._work

    def full() -> bool:
        if len(refused) < 3:
            refused.append(1)
            raise OSError(errno.ENOSPC, "No space left on device")
        return work()

    monkeypatch.setattr(node.server.maintenance, "_work", full)
    fill(node)
    wait_until(lambda: indexing(node)["segments"] == 2)
    assert len(refused) == 3


def test_background_work_that_fails_otherwise_ends_the_process(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = serve()

    def broken() -> bool:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(node.server.maintenance, "_work", broken)
    wait_until(node.server.database.failed.ready)
    assert "background work failed" in str(node.server.database.failed.get())
    node.running = False
    with pytest.raises(Exception, match="background work failed"):
        node.server.stop()


def test_a_full_sync_that_holds_files_for_too_long_loses_them(serve: Serve, tmp_path: Path) -> None:
    node = serve(replication__role="master", replication__bind_address="127.0.0.1:0")
    node.create()
    pinned = node.server.snapshots.capture()
    assert pinned.pinned
    assert node.configure(snapshot_pin_secs=1)[0] == 200
    node.server.maintenance.pins[pinned] = (*node.server.maintenance.pins[pinned][:2], 0.0)
    node.write(1)
    node.server.maintenance.checkpoint()
    assert not pinned.pinned
    pinned.release()
