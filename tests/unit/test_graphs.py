"""Graphs built by real child processes: used, stored, rebuilt, given up, and ended with the node."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest

from tests.unit.served import Cluster, Served, cluster_at, wait_until
from vectorizer import graphs
from vectorizer.graphs import GraphBuilder
from vectorizer.index.build import GRAPH_FILE
from vectorizer.operations import Merge

ROWS = 600
VALUES = {"index.graph_rows_min": 512, "index.builder_niceness": 0}


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with cluster_at(tmp_path) as cluster:
        yield cluster


def builder(served: Served) -> GraphBuilder:
    return served.server.maintenance._graphs


def segments(served: Served) -> Any:
    return served.server.database.node.store.get("things").segments


def filled(served: Served) -> Served:
    served.create(dimension=8, segment_rows=ROWS, segment_rows_max=ROWS)
    served.put(*range(ROWS), dimension=8)
    return served


def has_graph(served: Served) -> bool:
    held = segments(served)
    return len(held) == 1 and held[0].graph is not None


def manifest_names_graph(served: Served) -> bool:
    manifest = served.server.database.node.manifest
    return any(GRAPH_FILE in record.files for item in manifest.collections for record in item.segments)


def test_a_segment_gets_its_graph_and_keeps_it_over_a_restart(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vectorizer.maintenance.SETTLE_SECS", 0.1)
    master = filled(cluster.master(**VALUES))
    wait_until(lambda: has_graph(master), "the graph")
    wait_until(lambda: manifest_names_graph(master), "a manifest that names it")
    assert master.status()["graphs"]["built"] == 1
    replica = cluster.replica(master, **VALUES)
    replica.follows(master)
    assert has_graph(replica), "graphs travel with a full sync"
    master.restart()
    assert has_graph(master)
    assert builder(master).built == 0


def test_a_damaged_graph_is_built_again_and_full_syncs_go_on(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vectorizer.maintenance.SETTLE_SECS", 0.1)
    master = filled(cluster.master(**VALUES))
    wait_until(lambda: has_graph(master), "the graph")
    master.stop()
    (path,) = master.root.glob("*/segments/*/graph.nmslib")
    path.write_bytes(path.read_bytes()[:-100])
    monkeypatch.setattr(graphs, "FAILURES_MAX", 0)  # nothing is built, yet nothing wrong is sent
    master.start()
    assert not has_graph(master)
    replica = cluster.replica(master, **VALUES)
    replica.follows(master)
    monkeypatch.undo()
    wait_until(lambda: has_graph(master), "the graph")
    assert builder(master).built == 1


def test_a_builder_takes_no_modules_from_where_the_server_was_started(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "numpy.py").write_text("raise SystemExit('this is not numpy')")
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    monkeypatch.chdir(tmp_path)
    node = filled(cluster.start("node", VALUES))
    wait_until(lambda: has_graph(node), "the graph")
    assert builder(node).failed == 0


def test_a_builder_that_fails_is_tried_again_but_not_for_ever(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graphs, "RETRY_SECS", 0.01)
    monkeypatch.setattr(graphs, "POLL_SECS", 0.02)
    monkeypatch.setenv("PYTHONPATH", "/nowhere")
    monkeypatch.setattr("sys.executable", "/bin/false")
    node = filled(cluster.start("node", VALUES))
    wait_until(lambda: builder(node).failed == graphs.FAILURES_MAX, "the attempts")
    assert node.status()["graphs"]["failed"] == graphs.FAILURES_MAX
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    segments(node)[0].cache.clear()
    wait_until(lambda: builder(node).failed == 2 * graphs.FAILURES_MAX, "more attempts")
    assert node.request("POST", "/collections/things/search", {"id": "id-1", "limit": 3})[0] == 200


def test_a_segment_that_is_gone_when_its_graph_is_done(cluster: Cluster) -> None:
    node = filled(cluster.start("node", VALUES))
    wait_until(lambda: builder(node).building, "a builder")
    assert node.request("DELETE", "/collections/things")[0] == 200
    node.server.maintenance.checkpoint()
    wait_until(lambda: not builder(node).building, "the builder's end")
    assert (builder(node).built, builder(node).failed) == (0, 0)
    assert node.request("GET", "/health")[1]["status"] == "ok"


def test_a_graph_whose_files_vanish_is_counted(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "RETRY_SECS", 0.01)
    monkeypatch.setattr("sys.executable", "/bin/true")  # it says it has built what is not there
    node = filled(cluster.start("node", VALUES))
    wait_until(lambda: builder(node).failed > 0, "a failure")
    monkeypatch.undo()
    segments(node)[0].cache.clear()
    builder(node).wake()
    wait_until(lambda: has_graph(node), "the graph")


def test_a_builder_that_hangs_is_ended(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "BUILD_SECS_MIN", 0.3)
    monkeypatch.setattr(graphs, "BUILD_ROW_SECS", 0.0)
    monkeypatch.setattr(graphs, "command", lambda *_: ["sh", "-c", "echo so far >&2; exec sleep 1000"])
    node = filled(cluster.start("node", VALUES))
    wait_until(lambda: builder(node).building, "a builder")
    process = builder(node)._child
    assert process is not None
    wait_until(lambda: builder(node).failed > 0, "it is given up")
    with gevent.Timeout(5, AssertionError("it still runs")):
        process.wait()


def test_a_builder_ends_with_its_node(cluster: Cluster) -> None:
    node = filled(cluster.start("node", VALUES))
    wait_until(lambda: builder(node).building, "a builder")
    process = builder(node)._child
    assert process is not None
    assert os.getsid(process.pid) == process.pid, "niceness counts only within a session"
    node.stop()
    with gevent.Timeout(5, AssertionError("it still runs")):
        process.wait()
    assert builder(node)._child is None
    assert not os.path.exists(f"/proc/{process.pid}")
    node.start()
    wait_until(lambda: has_graph(node), "the graph")


@pytest.fixture
def any_write_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small writer is enough for a graph to wait."""
    monkeypatch.setattr(graphs, "LOOK_BYTES", 0)


def writing_without_end(node: Served) -> gevent.Greenlet[[], None]:
    def write() -> None:
        while True:
            node.put(1, dimension=8)
            gevent.sleep(0.01)

    return gevent.spawn(write)


@pytest.mark.usefixtures("any_write_counts")
def test_a_graph_waits_until_no_more_writes_are_coming_in(cluster: Cluster) -> None:
    node = cluster.start("node", {**VALUES, "index.build_wait_secs_max": 3600})
    writer = writing_without_end(filled(node))
    looks_until = time.monotonic() + graphs.PAUSE_SECS + 5 * graphs.LOOK_SECS
    wait_until(lambda: time.monotonic() > looks_until, "more looks than a pause has")
    assert not writer.dead
    assert not builder(node).building
    assert not has_graph(node)
    writer.kill()
    wait_until(lambda: has_graph(node), "the graph, after the writes")


@pytest.mark.usefixtures("any_write_counts")
def test_a_builder_just_begun_is_ended_by_writes_once(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graphs, "PAUSE_SECS", 0.3)
    monkeypatch.setattr(graphs, "RETRY_SECS", 0.01)
    node = cluster.start("node", {**VALUES, "index.build_wait_secs_max": 3600})
    with monkeypatch.context() as patch:
        hung(patch)
        filled(node)
        wait_until(lambda: builder(node).building, "a builder")
        writer = writing_without_end(node)
        wait_until(lambda: not builder(node).building, "its end")
        writer.kill()
        wait_until(lambda: builder(node).building, "another one")
        second = builder(node)._child
        writer = writing_without_end(node)
        looks_until = time.monotonic() + 5 * graphs.LOOK_SECS
        wait_until(lambda: time.monotonic() > looks_until, "more looks")
        assert not writer.dead
        assert builder(node)._child is second
        writer.kill()
        assert builder(node).failed == 0
    builder(node).stop()
    wait_until(lambda: has_graph(node), "the graph")


@pytest.mark.usefixtures("any_write_counts")
@pytest.mark.parametrize("secs_max", [0, 1])
def test_a_graph_does_not_wait_for_ever(cluster: Cluster, secs_max: float) -> None:
    node = cluster.start("node", {**VALUES, "index.build_wait_secs_max": secs_max})
    writer = writing_without_end(filled(node))
    wait_until(lambda: has_graph(node), "the graph, beside the writes")
    assert not writer.dead
    writer.kill()


def two_graphs(served: Served) -> Served:
    """Two segments of ROWS rows, each with its graph."""
    served.create(dimension=8, segment_rows=ROWS, segment_rows_max=4 * ROWS)
    served.put(*range(2 * ROWS), dimension=8)
    wait_until(lambda: [item.graph is None for item in segments(served)] == [False, False], "two graphs")
    return served


def merge(served: Served) -> None:
    names = tuple(segment.name for segment in segments(served))
    served.server.database.write(Merge("things", names))


def hung(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "command", lambda *_: ["sleep", "1000"])


def scanned_rows(served: Served) -> int:
    """Rows that a search of now finds by no graph."""
    view = served.server.database.view("things")
    return sum(part.rows for part in view.chunks if part.chunk.graph is None)


def test_no_search_during_a_merge_is_a_scan(cluster: Cluster) -> None:
    master = two_graphs(cluster.master(**VALUES))
    things = master.server.database.node.store.get("things")
    merge(master)

    def is_merged() -> bool:
        assert scanned_rows(master) == 0
        return len(things.segments) == 1

    wait_until(lambda: is_merged() or things.made is not None, "the merged segment")
    master.request("POST", "/collections/things/vectors/delete", {"ids": ["id-1", f"id-{ROWS}"]})
    before = master.digest()
    assert before[1] == 2 * ROWS - 2
    wait_until(is_merged, "its graph")
    assert things.merges == [] and things.made is None
    assert master.digest() == before
    master.server.maintenance.checkpoint()
    master.restart()
    assert master.digest() == before
    assert has_graph(master)


def test_a_restart_while_a_merge_waits_for_its_graph(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    master = two_graphs(cluster.master(**VALUES))
    with monkeypatch.context() as patch:
        hung(patch)
        merge(master)
        wait_until(lambda: builder(master).building, "a builder")
        master.put(3, 4, seed=1, dimension=8)
        before = master.digest()
        for _ in range(3):  # as many as remove what no manifest names
            master.server.maintenance.checkpoint()
        made = master.server.database.node.store.get("things").made
        assert made is not None and os.path.exists(f"{made.segment.directory}/vectors.npy")
        replica = cluster.replica(master, **VALUES)
        replica.follows(master)
        assert replica.digest() == before
        master.stop()
    master.start()
    assert [segment.graph is None for segment in segments(master)] == [False, False]
    wait_until(lambda: len(segments(master)) == 1, "the merge, made again")
    assert has_graph(master)
    assert master.digest() == before


def test_a_merge_does_not_wait_for_a_graph_that_fails(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graphs, "RETRY_SECS", 0.01)
    node = two_graphs(cluster.start("node", VALUES))
    monkeypatch.setattr("sys.executable", "/bin/false")
    merge(node)
    wait_until(lambda: len(segments(node)) == 1, "the merge")
    assert not has_graph(node)
    assert builder(node).failed > 0


def test_a_merge_does_not_wait_while_segments_pile_up(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = two_graphs(cluster.start("node", VALUES))
    hung(monkeypatch)
    merge(node)
    wait_until(lambda: builder(node).building, "a builder")
    node.put(*range(2 * ROWS, 4 * ROWS), dimension=8)
    wait_until(lambda: len(segments(node)) == 4, "two more segments")
    assert node.server.database.node.store.get("things").made is not None
    node.put(*range(4 * ROWS, 6 * ROWS), dimension=8)
    wait_until(lambda: [item.name[0] for item in segments(node)] == ["m", "m"], "both merges")
    assert node.digest()[1] == 6 * ROWS
