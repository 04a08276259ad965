"""Configuration: by YAML, by environment, by REST; parameters and defaults; the quick start examples."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.cluster.harness import Cluster, Node, NotStarted, free_port, wait_until
from tests.cluster.harness.node import COMMAND, ROOT, clean_environment

DEFAULTS = {
    "enabled": False,
    "role": "standalone",
    "bind_address": "",
    "master_address": "",
    "heartbeat_interval_secs": 5,
    "replica_timeout_secs": 30,
    "log_size": 1_000_000,
    "reconnect_interval_secs": 5,
}


def settings_of(node: Node) -> dict[str, object]:
    found: dict[str, object] = {name: row["value"] for name, row in node.status()["settings"].items()}
    return found


def test_configuration_via_yaml_of_master_and_replica(cluster: Cluster) -> None:
    port = free_port()
    master = cluster.node("master", {})
    master.settings = yaml.safe_load(f"""
        replication:
          enabled: true
          role: "master"
          bind_address: "0.0.0.0:{port}"
          heartbeat_interval_secs: 5
          replica_timeout_secs: 30
          log_size: 1000000
    """)
    replica = cluster.node("replica", {})
    replica.settings = yaml.safe_load(f"""
        replication:
          enabled: true
          role: "replica"
          master_address: "127.0.0.1:{port}"
          reconnect_interval_secs: 5
    """)
    master.start()
    replica.start()
    wait_until(lambda: replica.connected, "the replica is connected")
    assert (master.role, replica.role) == ("master", "replica")


def test_configuration_via_environment_variables(cluster: Cluster) -> None:
    port = free_port()
    master, replica = cluster.node("master", {}), cluster.node("replica", {})
    master.settings = replica.settings = {}
    master.environment |= {
        "REPLICATION_ROLE": "master",
        "REPLICATION_BIND_ADDRESS": f"0.0.0.0:{port}",
        "REPLICATION_HEARTBEAT_INTERVAL": "4",
        "REPLICATION_LOG_SIZE": "900000",
    }
    replica.environment |= {
        "REPLICATION_ROLE": "replica",
        "REPLICATION_MASTER_ADDRESS": f"localhost:{port}",
        "REPLICATION_RECONNECT_INTERVAL": "2",
    }
    master.start()
    replica.start()
    wait_until(lambda: replica.connected, "the replica is connected")
    found = settings_of(master)
    assert (found["heartbeat_interval_secs"], found["log_size"]) == (4, 900_000)
    assert settings_of(replica)["reconnect_interval_secs"] == 2
    assert master.status()["settings"]["log_size"]["source"] == "environment"


def test_configuration_via_rest_api(cluster: Cluster) -> None:
    port = free_port()
    master, replica = (cluster.node(name, {}).start() for name in ("master", "replica"))
    master.configure(role="master", bind_address=f"127.0.0.1:{port}")
    replica.configure(role="replica", master_address=f"127.0.0.1:{port}")
    wait_until(lambda: replica.connected, "the replica is connected")


def test_configuration_parameters_have_the_documented_defaults(cluster: Cluster) -> None:
    node = cluster.node("node", {})
    node.settings = {}
    found = settings_of(node.start())
    assert {name: found[name] for name in DEFAULTS} == DEFAULTS


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"role": "boss"}, "role"),
        ({"role": "master"}, "bind_address"),
        ({"role": "replica"}, "master_address"),
        ({"log_size": "many"}, "log_size"),
        ({"heartbeat_interval_secs": -5}, "heartbeat_interval_secs"),
        ({"heartbeat_intervall_secs": 5}, "heartbeat_interval_secs"),
    ],
    ids=str,
)
def test_configuration_parameters_that_make_no_sense_exit_2_with_one_sentence(
    cluster: Cluster, settings: dict[str, object], said: str
) -> None:
    node = cluster.node("node", {})
    node.settings = {"replication": settings}
    with pytest.raises(NotStarted):
        node.start()
    assert node.exit_code() == 2
    assert said in node.log()
    assert "Traceback" not in node.log()
    assert len(node.log().strip().splitlines()) == 1


def test_quick_start_example_1_development_environment(cluster: Cluster) -> None:
    """The sample as it is shipped, with the replication section edited as the example says."""
    sample = yaml.safe_load((ROOT / "conf" / "config.development.yml").read_text())
    bind_address = f"127.0.0.1:{free_port()}"
    master = cluster.node("master", {})
    replica = cluster.node("replica", {})
    for node, replication in [
        (master, {"enabled": True, "role": "master", "bind_address": bind_address}),
        (replica, {"enabled": True, "role": "replica", "master_address": bind_address}),
    ]:
        server = {**sample.get("server", {}), "port": node.port}
        storage = {**sample.get("storage", {}), "data_dir": str(node.data_directory)}
        node.settings = {**sample, "server": server, "storage": storage, "replication": replication}
    master.start()
    replica.start()
    wait_until(lambda: replica.connected, "the replica is connected")


def test_the_file_config_yml_in_the_working_directory_is_read_without_being_named(tmp_path: Path) -> None:
    (tmp_path / "config.yml").write_text("replication: {role: master}\n")
    done = subprocess.run(
        COMMAND,
        cwd=tmp_path,
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )
    assert done.returncode == 2
    assert "bind_address" in done.stderr


@pytest.mark.parametrize("name", ["config.yml", "config.development.yml", "config.production.yml"])
def test_quick_start_example_2_the_shipped_settings_are_valid(tmp_path: Path, name: str) -> None:
    shutil.copy(ROOT / "conf" / name, tmp_path)
    done = subprocess.run(
        [*COMMAND, "config", "check", str(tmp_path / name)],
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )
    assert done.returncode == 0, done.stderr
