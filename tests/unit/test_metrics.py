"""Metrics: bounded labels, one scrape of a whole server, syncs of the journal, requests by route."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest
from gevent.event import Event
from prometheus_client.parser import text_string_to_metric_families

from tests.unit.served import Cluster, Served, cluster_at, wait_until
from vectorizer.histogram import LATENCY_SECS, Histogram
from vectorizer.metrics.families import bounded
from vectorizer.metrics.greenlets import Greenlets
from vectorizer.metrics.journal_syncs import MeasuredDisk
from vectorizer.metrics.replication import REPLICAS_SHOWN_MAX, shown_rows
from vectorizer.metrics.requests import RequestDurations
from vectorizer.metrics.storage import count_store
from vectorizer.replication.progress import Progress, ReplicaTable
from vectorizer.rest.measured import Measured, template_of

NOW = 1000.0


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with cluster_at(tmp_path) as cluster:
        yield cluster


def samples_of(served: Served) -> dict[tuple[str, tuple[str, ...]], float]:
    """A scrape: (name, values of the labels) → value; no family comes twice."""
    families = list(text_string_to_metric_families(served.server.metrics.exposition().decode()))
    names = [family.name for family in families]
    assert len(set(names)) == len(names)
    return {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in families
        for sample in family.samples
    }


def test_reasons_that_came_later_are_summed_up_and_no_counter_goes_down() -> None:
    counts = {"a": 1, "b": 2}
    assert bounded(counts, 2) == [("a", 1), ("b", 2)]
    assert bounded({**counts, "c": 3, "d": 4}, 2) == [("a", 1), ("b", 2), ("other", 7)]


def test_linked_replicas_are_shown_first_then_those_lost_last() -> None:
    table = ReplicaTable()
    rows = [Progress(f"n{number}", "h", 1, "", NOW) for number in range(REPLICAS_SHOWN_MAX + 20)]
    for row in rows:
        table.attach(row, NOW)
    for number, row in enumerate(rows[:60]):
        table.detach(row, "gone", NOW + number)
    shown = shown_rows(table)
    assert len(shown) == REPLICAS_SHOWN_MAX
    assert set(map(id, rows[60:])) <= set(map(id, shown))
    assert shown[-1] is rows[60 - (REPLICAS_SHOWN_MAX - (len(rows) - 60))]


def test_syncs_of_journals_are_measured_and_of_other_files_not(tmp_path: Path) -> None:
    syncs = Histogram(LATENCY_SECS)
    disk = MeasuredDisk(syncs)
    for name in ("0.journal.new", "graph.nmslib"):
        file = disk.create(str(tmp_path / name), 4096)
        file.write_at(10, [b"ab", b"cd"])
        file.sync()
        assert file.size == 4096
        file.truncate(14)
        file.close()
        assert (tmp_path / name).read_bytes() == bytes(10) + b"abcd"
    assert syncs.count == 1
    (tmp_path / "0.journal.new").rename(tmp_path / "0.journal")
    file = disk.open(str(tmp_path / "0.journal"))
    file.sync()
    file.close()
    assert syncs.count == 2


def test_each_group_commit_is_one_sync(cluster: Cluster) -> None:
    node = cluster.start("node")
    node.create()
    before = samples_of(node)["vectorizer_journal_sync_duration_seconds_count", ()]
    for number in range(10):
        node.put(number)
    assert samples_of(node)["vectorizer_journal_sync_duration_seconds_count", ()] >= before + 10


def test_a_master_a_replica_in_between_and_its_replica(cluster: Cluster) -> None:
    master = cluster.master()
    middle = cluster.replica(master, "middle", **{"replication.bind_address": "127.0.0.1:0"})
    master.create()
    master.put(1, 2, 3)
    last = cluster.replica(middle, "last")
    last.follows(master)
    found = samples_of(middle)
    assert found["vectorizer_replication_replica_offset", ()] == master.offset
    assert found["vectorizer_replication_replicas_connected", ()] == 1
    assert ("vectorizer_replication_master_offset", ()) not in found
    assert found["vectorizer_vectors", ()] == 3
    assert found["vectorizer_growing_rows", ()] == 3
    node_id = last.server.database.node.node_id
    row = ("vectorizer_replication_replica_acknowledged_offset", (node_id,))
    wait_until(lambda: samples_of(middle)[row] == master.offset)
    sides = {labels[0] for name, labels in found if name == "vectorizer_replication_sent_bytes_total"}
    assert sides == {"master", "replica"}


def test_two_servers_of_one_process_know_nothing_of_each_other(cluster: Cluster) -> None:
    one, two = cluster.start("one"), cluster.start("two")
    one.create("things")
    assert one.request("GET", "/collections/things")[0] == 200
    assert samples_of(one)["vectorizer_collections", ()] == 1
    assert samples_of(two)["vectorizer_collections", ()] == 0
    labels = ("GET", "/collections/{name}", "2xx")  # by their names
    name = "vectorizer_http_request_duration_seconds_count"
    assert samples_of(one)[name, labels] == 1
    assert (name, labels) not in samples_of(two)


def test_a_scrape_lets_others_run_between_collections(cluster: Cluster) -> None:
    node = cluster.start("node")
    for number in range(3):
        node.create(f"c{number}")
    node.put(1, 2, name="c1")
    collections = list(node.server.database.node.store.collections.values())
    breaths: list[int] = []
    numbers = count_store(collections, lambda: breaths.append(1))
    assert len(breaths) == 3
    assert (numbers.collections, numbers.vectors) == (3, 2)


def test_greenlets_are_counted_while_they_live() -> None:
    counted = Greenlets()
    counted.start()
    ended = Event()
    made = [gevent.spawn(ended.wait) for _ in range(3)]
    assert counted.count() == 3
    ended.set()
    gevent.joinall(made)
    assert counted.count() == 0
    counted.close()
    made.append(gevent.spawn(ended.wait))
    assert counted.count() == 0


def test_greenlets_and_threads_of_a_server(cluster: Cluster) -> None:
    found = samples_of(cluster.master())
    assert found["vectorizer_greenlets", ()] >= 6
    assert found["vectorizer_threads", ()] >= 2


# -- requests -----------------------------------------------------------------------------------------------


class Route:
    rule = "/collections/<name>/vectors/<id:path>"


def answered(measured: Measured, method: str, **environ: Any) -> None:
    measured({"REQUEST_METHOD": method, **environ}, lambda *_: None)


def test_requests_are_entered_by_template_method_and_class() -> None:
    durations = RequestDurations()

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        assert durations.in_progress == 1
        start_response(environ.get("wanted", "200 OK"), [])
        return []

    measured = Measured(application, durations)
    answered(measured, "GET", **{"bottle.route": Route})
    answered(measured, "GET", **{"bottle.route": Route})
    answered(measured, "GET", **{"bottle.route": Route, "wanted": "404 Not Found"})
    answered(measured, "BREW", wanted="404 Not Found")
    counts = {key: histogram.count for key, histogram in durations}
    template = "/collections/{name}/vectors/{id}"
    assert counts == {
        (template, "GET", "2xx"): 2,
        (template, "GET", "4xx"): 1,
        ("other", "other", "4xx"): 1,
    }
    assert durations.in_progress == 0


def test_a_request_that_fails_is_entered_as_our_fault() -> None:
    durations = RequestDurations()

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError):
        answered(Measured(application, durations), "GET")
    assert [key for key, _ in durations] == [("other", "GET", "5xx")]
    assert durations.in_progress == 0


def test_templates() -> None:
    assert template_of("/health") == "/health"
    assert template_of("/a/<name>/b/<id:path>") == "/a/{name}/b/{id}"
    assert template_of("/a/<name:re:[a-z]+>") == "/a/{name}"
