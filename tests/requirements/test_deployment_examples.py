"""Deployment Examples: a master and two replicas as the compose file starts them."""

from __future__ import annotations

import yaml

from tests.cluster.harness import Cluster, free_port
from tests.cluster.harness.node import ROOT


def compose() -> dict[str, dict[str, object]]:
    [path] = [*(ROOT / "conf" / "docker").glob("*compose*.y*ml")]
    document = yaml.safe_load(path.read_text())
    services: dict[str, dict[str, object]] = document["services"]
    return services


def environment_of(service: dict[str, object]) -> dict[str, str]:
    lines = service["environment"]
    if isinstance(lines, dict):
        return {str(key): str(value) for key, value in lines.items()}
    assert isinstance(lines, list)
    return dict(line.split("=", 1) for line in lines)


def test_the_compose_file_has_one_master_and_two_replicas_with_the_documented_ports() -> None:
    services = compose()
    ports = {name: [str(port) for port in service["ports"]] for name, service in services.items()}
    assert ports["vectorizer-master"] == ["15002:15002", "7001:7001"]
    assert ports["vectorizer-replica-1"] == ["15003:15002"]
    assert ports["vectorizer-replica-2"] == ["15004:15002"]


def test_single_master_and_two_replicas_started_by_the_environment_of_the_compose_file(
    cluster: Cluster,
) -> None:
    port = free_port()
    for name, service in compose().items():
        node = cluster.node(name, {})
        node.settings = {}
        replication = {
            key: value for key, value in environment_of(service).items() if key.startswith("REPLICATION_")
        }
        node.environment |= {
            key: value.replace("vectorizer-master:7001", f"localhost:{port}").replace(":7001", f":{port}")
            for key, value in replication.items()
        }
    cluster.master, *cluster.replicas = [node.start() for node in cluster.nodes]
    assert len(cluster.replicas) == 2
    cluster.wait_connected()
    cluster.ledger.created("alpha", cluster.master.post("/collections", {"name": "alpha", "dimension": 8}))
    cluster.write(50)
    cluster.converged()
