"""The real Prometheus, with conf/monitoring: it scrapes master and replica, and lag is queried back."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.harness import Cluster, Node, wait_until
from tests.monitoring.programs import CONF, Prometheus, instance_of

VARIABLES = {"$cluster": ".*", "$instance": ".*", "$__rate_interval": "1m", "$__interval": "1m"}


@pytest.mark.needs("promtool")
@pytest.mark.parametrize(
    "arguments", [("config", "prometheus.yml"), ("rules", "vectorizer.rules.yml")], ids=["config", "rules"]
)
def test_promtool_accepts_what_is_delivered(arguments: tuple[str, str]) -> None:
    what, name = arguments
    done = subprocess.run(
        ["promtool", "check", what, str(CONF / "monitoring" / name)],
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def alert_case(alert: str, minute: str, *series: tuple[str, str], **labels: str) -> dict[str, Any]:
    """One case of `promtool test rules`: with these series this alert fires at that time."""
    rules = yaml.safe_load((CONF / "monitoring" / "vectorizer.rules.yml").read_text())["groups"][0]["rules"]
    [rule] = [rule for rule in rules if rule["alert"] == alert]
    return {
        "interval": "15s",
        "input_series": [{"series": name, "values": values} for name, values in series],
        "alert_rule_test": [
            {"eval_time": "0m", "alertname": alert, "exp_alerts": []},
            {
                "eval_time": minute,
                "alertname": alert,
                "exp_alerts": [{"exp_labels": {**rule["labels"], **labels}}] if labels else [],
            },
        ],
    }


@pytest.mark.needs("promtool")
def test_alerts_fire_when_they_must_and_only_then(tmp_path: Path) -> None:
    one, two = 'cluster="main",instance="a:1"', 'cluster="main",instance="b:1"'
    mastership = [
        (f'vectorizer_role{{role="master",{one}}}', "1x40"),
        (f'vectorizer_role{{role="master",{two}}}', "0x10 1x30"),
        (f"vectorizer_writable{{{one}}}", "1x40"),
        (f"vectorizer_writable{{{two}}}", "0x10 1x30"),
    ]
    lag = f"vectorizer_replication_lag_seconds{{{two}}}"
    connected = f"vectorizer_replication_connected{{{two}}}"
    cases = [
        alert_case("VectorizerTwoMasters", "5m", *mastership, cluster="main"),
        alert_case("VectorizerTwoMasters", "2m", *mastership),
        alert_case("VectorizerNoMaster", "5m", (f"vectorizer_writable{{{one}}}", "1x4 0x40"), cluster="main"),
        alert_case("VectorizerNoMaster", "5m", *mastership),
        alert_case("VectorizerReplicaLagging", "5m", (lag, "0x4 60x40"), cluster="main", instance="b:1"),
        alert_case("VectorizerReplicaLagging", "5m", (lag, "0x4 2x40")),
        alert_case(
            "VectorizerReplicaDisconnected", "5m", (connected, "1x4 0x40"), cluster="main", instance="b:1"
        ),
        alert_case("VectorizerReplicaDisconnected", "5m", (connected, "1x4 0x2 1x40")),
    ]
    for case in cases:
        for check in case["alert_rule_test"]:
            for expected in check["exp_alerts"]:
                expected["exp_annotations"] = annotations_of(check["alertname"], expected["exp_labels"])
    document = {"rule_files": [str(CONF / "monitoring" / "vectorizer.rules.yml")], "tests": cases}
    path = tmp_path / "alerts.test.yml"
    path.write_text(yaml.safe_dump(document))
    done = subprocess.run(
        ["promtool", "test", "rules", str(path)], capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stdout + done.stderr


def annotations_of(alert: str, labels: dict[str, str]) -> dict[str, str]:
    """What the alert says, its labels filled in; the values are those of the cases above."""
    rules = yaml.safe_load((CONF / "monitoring" / "vectorizer.rules.yml").read_text())["groups"][0]["rules"]
    [rule] = [rule for rule in rules if rule["alert"] == alert]
    values = {"humanizeDuration": "1m 0s", "": "2"}

    def filled(found: re.Match[str]) -> str:
        name, label, form = found.groups()
        return labels[label] if name == "labels" else values[form or ""]

    pattern = re.compile(r"\{\{ \$(labels|value)(?:\.(\w+))?(?: \| (\w+))? \}\}")
    return {key: pattern.sub(filled, text) for key, text in rule["annotations"].items()}


@pytest.mark.needs("prometheus")
def test_prometheus_scrapes_master_and_replica_and_knows_the_lag(cluster: Cluster, tmp_path: Path) -> None:
    cluster.start(replicas=1, proxied=True)
    [replica], [link] = cluster.replicas, cluster.links
    node_id = replica.status()["node_id"]
    cluster.write(40)
    cluster.converged()
    with Prometheus(tmp_path / "prometheus", [cluster.master, replica]) as prometheus:
        offset = f'vectorizer_replication_offset{{instance="{instance_of(replica)}"}}'
        wait_until(lambda: prometheus.value(offset) == cluster.master.offset, "the offset is scraped")
        up = 'count(up{job="vectorizer"} == 1)'
        wait_until(lambda: prometheus.value(up) == 2, "both nodes are scraped")
        of_replica = f'{{instance="{instance_of(replica)}",cluster="main"}}'
        of_row = f'{{instance="{instance_of(cluster.master)}",replica="{node_id}"}}'
        assert prometheus.value(f"vectorizer_replication_lag_seconds{of_replica}") == 0
        assert prometheus.value(f"vectorizer_replication_replica_lag_operations{of_row}") == 0

        link.refuse()
        link.cut()
        before = cluster.master.offset
        cluster.write(30, seed=2)
        behind = cluster.master.offset - before

        def lag_is_known() -> bool:
            seconds = prometheus.value(f"vectorizer_replication_lag_seconds{of_replica} > 0.5")
            operations = prometheus.value(f"vectorizer_replication_replica_lag_operations{of_row}")
            size = prometheus.value(f"vectorizer_replication_replica_lag_bytes{of_row} > 0")
            return bool(seconds and size and operations == behind)

        wait_until(lag_is_known, f"Prometheus knows of {behind} operations and half a second")
        assert prometheus.value(f"vectorizer_replication_connected{of_replica}") == 0
        link.accept()
        cluster.wait_connected()
        fresh = f"vectorizer_replication_lag_seconds{of_replica} == 0"
        back = f"{fresh} and on (instance) vectorizer_replication_connected == 1"
        wait_until(lambda: prometheus.query(back), "the lag is gone")
        assert prometheus.value(f"vectorizer_replication_reconnects_total{of_replica}")
        assert_delivered_queries_work(prometheus, cluster.master)


def assert_delivered_queries_work(prometheus: Prometheus, master: Node) -> None:
    """All panels of the dashboard and all alerts are understood, and most panels show something."""
    dashboard = json.loads((CONF / "monitoring" / "grafana-dashboard.json").read_text())
    answered = 0
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    for panel in panels:
        samples = 0
        for target in panel["targets"]:
            expression = target["expr"]
            for name, value in VARIABLES.items():
                expression = expression.replace(name, value)
            samples += len(prometheus.query(expression))
        answered += samples > 0
    assert answered >= len(panels) - 5, "empty: links lost, failures, graph builds and what has not happened"
    masters = prometheus.query('vectorizer_role{role="master"} == 1')
    assert [labels["instance"] for labels, _ in masters] == [instance_of(master)]
    rules = wait_until(
        lambda: [rule for rule in prometheus.rules() if rule["health"] != "unknown"], "rules are evaluated"
    )
    assert {rule["health"] for rule in rules} == {"ok"}
    firing = {rule["name"] for rule in rules if rule["state"] == "firing"}
    assert firing == set()
