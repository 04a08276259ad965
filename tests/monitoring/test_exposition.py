"""GET /metrics of real nodes: clean, true, documented; and what conf/ asks for exists."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.harness import Cluster, Node, wait_until
from tests.monitoring.exposition import Scrape
from tests.monitoring.programs import CONF

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "MONITORING.md"
METRIC = re.compile(r"\b(?:vectorizer|process)_[a-z0-9_]+")
RUNNING_SYNC = {"vectorizer_replication_sync_progress_ratio"}
"""Shown only while a full sync runs."""


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A master with one replica that needed a full sync, and a standalone node; read by all tests here."""
    made = Cluster(tmp_path_factory.mktemp("exposition"))
    try:
        made.start(replicas=0)
        made.write(60)
        made.start_replica()
        made.node("alone", {}).start()
        made.wait_connected()
        made.converged()
        yield made
    finally:
        made.close()


def replica_of(cluster: Cluster) -> Node:
    [replica] = cluster.replicas
    return replica


@pytest.mark.needs("promtool")
def test_promtool_finds_nothing_to_complain_of(nodes: Cluster) -> None:
    for node in nodes.nodes:
        scrape = Scrape(node)
        assert scrape.kind == "text/plain; version=0.0.4; charset=utf-8"
        done = subprocess.run(
            ["promtool", "check", "metrics"], input=scrape.text, capture_output=True, text=True, timeout=20
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), node.name


def test_both_paths_give_the_same(nodes: Cluster) -> None:
    other = nodes.master.request("GET", "/prometheus/metrics")
    assert other.status == 200
    assert {line for line in other.body.splitlines() if line.startswith("# TYPE")} == {
        line for line in Scrape(nodes.master).text.splitlines() if line.startswith("# TYPE")
    }


def test_the_metrics_of_the_requirements_by_the_documented_names(nodes: Cluster) -> None:
    rows = re.findall(r"\| `(replication\.\w+)` \| `(\w+)` \| ([^|]*)\|", DOCUMENT.read_text())
    names = {key: (name, 1000.0 if "seconds" in name else 1.0) for key, name, _ in rows}
    shown: set[str] = set()
    for node in (nodes.master, replica_of(nodes)):
        found: dict[str, Any] = node.status()["metrics"]
        scrape = Scrape(node)
        for key, value in found.items():
            name, factor = names[key]
            assert scrape[name] * factor == float(value), key
        shown |= found.keys()
    assert shown == names.keys()


def test_the_numbers_are_those_of_the_status(nodes: Cluster) -> None:
    master, replica = nodes.master, replica_of(nodes)
    node_id = replica.status()["node_id"]
    scrape, status = Scrape(master), master.status()
    assert scrape.labelled("vectorizer_role", role="master") == 1
    assert scrape.labelled("vectorizer_role", role="replica") == 0
    assert scrape["vectorizer_writable"] == scrape["vectorizer_serves_data"] == 1
    assert scrape["vectorizer_replication_epoch"] == status["epoch"]
    assert scrape["vectorizer_replication_durable_offset"] == status["durable_offset"]
    assert scrape["vectorizer_collections"] == len(master.collections())
    assert scrape["vectorizer_vectors"] == sum(count for _, count in master.digests().values())
    assert scrape["vectorizer_journal_sync_duration_seconds_count"] > 10
    assert scrape["vectorizer_event_loop_delay_seconds_count"] > 10
    row = {"replica": node_id}
    assert scrape.labelled("vectorizer_replication_replica_acknowledged_offset", **row) == replica.offset
    assert scrape.labelled("vectorizer_replication_replica_lag_operations", **row) == 0
    assert scrape.labelled("vectorizer_replication_replica_lag_bytes", **row) == 0
    assert scrape.labelled("vectorizer_replication_replica_status", status="Connected", **row) == 1
    assert scrape.labelled("vectorizer_replication_replica_sent_bytes_total", **row) > 0
    for side, node in (("master", master), ("replica", replica)):
        scrape = Scrape(node)
        labels = {"side": side, "kind": "full", "reason": "empty_replica"}
        assert scrape.labelled("vectorizer_replication_syncs_total", **labels) == 1
        assert scrape.labelled("vectorizer_replication_full_syncs_finished_total", side=side) == 1
        assert scrape.labelled("vectorizer_replication_full_sync_duration_seconds_count", side=side) == 1
        assert scrape.labelled("vectorizer_replication_full_sync_duration_seconds_sum", side=side) > 0
        assert scrape.labelled("vectorizer_replication_full_sync_size_bytes_sum", side=side) > 0
    assert scrape.labelled("vectorizer_replication_link_state", state="streaming") == 1
    assert scrape["vectorizer_writable"] == 0


def test_requests_are_counted_by_route_method_and_status(nodes: Cluster) -> None:
    master = nodes.master
    name = "vectorizer_http_request_duration_seconds_count"
    before = Scrape(master)
    [collection, *_] = master.collections()
    for _ in range(3):
        master.request("GET", f"/collections/{collection}/vectors/no%2Fsuch")
        master.request("PATCH", f"/collections/{collection}")
        master.request("BREW", "/made/up/path")
    after = Scrape(master)

    def more(**labels: str) -> float:
        try:
            old = before.labelled(name, **labels)
        except KeyError:
            old = 0
        return after.labelled(name, **labels) - old

    assert more(route="/collections/{name}/vectors/{id}", method="GET", status="4xx") == 3
    assert more(route="/collections/{name}", method="other", status="4xx") == 3
    assert more(route="other", method="other", status="4xx") == 3


def test_every_metric_is_documented_and_every_documented_metric_exists(nodes: Cluster) -> None:
    exposed: set[str] = set()
    for node in nodes.nodes:
        for name, family in Scrape(node).families.items():
            exposed.add(f"{name}_total" if family.type == "counter" else name)
    named = {
        name.removesuffix("_bucket")
        for name in METRIC.findall(DOCUMENT.read_text())
        if name.startswith("vectorizer_")
    }
    assert {name for name in exposed if name.startswith("vectorizer_")} - named == set()
    assert named - exposed == RUNNING_SYNC


def test_dashboard_and_rules_ask_for_what_exists(nodes: Cluster) -> None:
    exposed = set().union(*(Scrape(node).sample_names for node in nodes.nodes))
    dashboard = json.loads((CONF / "monitoring" / "grafana-dashboard.json").read_text())
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    rules = yaml.safe_load((CONF / "monitoring" / "vectorizer.rules.yml").read_text())
    alerts = [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    assert len(expressions) > 30
    assert len(alerts) > 10
    for expression in expressions + alerts:
        for name in METRIC.findall(expression):
            assert name in exposed, expression


def test_the_dashboard_is_whole() -> None:
    dashboard = json.loads((CONF / "monitoring" / "grafana-dashboard.json").read_text())
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = [panel["gridPos"] for panel in panels]
    assert all(place["x"] + place["w"] <= 24 for place in places)
    cells = [
        (x, y)
        for place in places
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(cells)) == len(cells), "panels lie on each other"
    variables = {variable["name"] for variable in dashboard["templating"]["list"]}
    assert variables == {"datasource", "cluster", "instance"}


def test_a_scrape_while_a_replica_is_gone_for_good(cluster: Cluster) -> None:
    cluster.start(replicas=1)
    node_id = replica_of(cluster).status()["node_id"]
    replica_of(cluster).kill()
    wait_until(lambda: Scrape(cluster.master)["vectorizer_replication_replicas_connected"] == 0, "it is gone")
    scrape = Scrape(cluster.master)
    assert scrape["vectorizer_replication_replicas_known"] == 1
    name = "vectorizer_replication_replica_status"
    assert scrape.labelled(name, replica=node_id, status="Disconnected") == 1
