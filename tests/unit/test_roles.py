"""Roles that change while the node runs: all nine combinations, failovers, and steps that fail."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest
from gevent import socket

from tests.unit.served import Cluster, Served, cluster_at, free_port, master_settings, wait_until
from vectorizer.address import parse_address
from vectorizer.errors import ConfigurationError
from vectorizer.replication.states import LinkState
from vectorizer.server import Server


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with cluster_at(tmp_path) as cluster:
        yield cluster


def in_role(cluster: Cluster, role: str, master: Served) -> Served:
    """A node that holds the master's data and has this role."""
    node = cluster.replica(master, "node")
    node.follows(master)
    if role != "replica":
        assert node.configure(role=role, bind_address="127.0.0.1:0")[0] == 200
    return node


@pytest.mark.parametrize("old", ["standalone", "master", "replica"])
@pytest.mark.parametrize("new", ["standalone", "master", "replica"])
def test_every_role_becomes_every_other_and_a_restart_keeps_it(cluster: Cluster, old: str, new: str) -> None:
    master = cluster.master()
    master.create()
    master.put(*range(10))
    node = in_role(cluster, old, master)
    values: dict[str, Any] = {"role": new}
    if new == "master":
        values["bind_address"] = "127.0.0.1:0"
    if new == "replica":
        values["master_address"] = master.address
    code, answer = node.configure(**values)
    assert (code, answer["role"]) == (200, new.capitalize()), answer
    for _ in range(2):
        assert node.role == new
        assert node.status()["role"] == new.capitalize()
        code, answer = node.upsert([100])
        if new == "replica":
            assert (code, answer["error_type"]) == (403, "read_only_replica")
            master.put(50)
            node.follows(master)
        else:
            assert code == 200
            assert node.digest()[1] == 11
        listens = new == "master" or (new == "replica" and old != "replica")  # its address stays its own
        assert (node.server.roles.master is not None) == listens
        assert (node.server.roles.replica is not None) == (new == "replica")
        node.restart()


def test_a_promotion_raises_the_epoch_for_good(cluster: Cluster) -> None:
    master = cluster.master()
    master.create()
    replica = cluster.replica(master)
    replica.follows(master)
    before = replica.status()
    code, _ = replica.configure(role="master", bind_address="127.0.0.1:0")
    after = replica.status()
    assert code == 200
    assert after["epoch"] == before["epoch"] + 1
    assert after["replication_id"] != before["replication_id"]
    assert after["settings"]["role"]["source"] == "rest"
    replica.restart()
    assert replica.status()["epoch"] == after["epoch"]
    code, _ = replica.configure(role="master")
    assert code == 200
    assert replica.status()["epoch"] == after["epoch"], "to be master already changes nothing"


@pytest.mark.parametrize("fsync", ["always", "everysec", "never"])
def test_an_old_master_with_extra_writes_goes_back_and_follows(cluster: Cluster, fsync: str) -> None:
    old = cluster.master("old", **{"storage.fsync": fsync})
    old.create()
    old.put(*range(20))
    new = cluster.replica(old, "new", **{"storage.fsync": fsync})
    new.follows(old)
    new.server.roles.replica.stop()  # type: ignore[union-attr]  # the link is cut, and nobody notices
    old.put(*range(5), seed=1)
    old.put(900, 901)
    assert new.configure(role="master", bind_address="127.0.0.1:0")[0] == 200
    new.put(30, 31)
    assert old.configure(role="replica", master_address=new.address)[0] == 200
    old.follows(new)
    assert old.counters.full_syncs == 0, "what both have in common is enough to go on from"
    saved = old.status()["diverged"]
    assert [(item["operations"], item["complete"]) for item in saved] == [(2, True)]
    assert Path(saved[0]["file"]).exists()
    old.restart()
    old.follows(new)
    assert old.counters.full_syncs == 0


def test_data_of_a_foreign_history_is_kept_until_forced_and_then_aside(cluster: Cluster) -> None:
    alone = cluster.start("alone")
    alone.create("own")
    alone.put(1, 2, name="own")
    master = cluster.master()
    master.create()
    master.put(*range(5))
    assert alone.configure(role="replica", master_address=master.address)[0] == 200
    wait_until(lambda: alone.link_state in (LinkState.REFUSED, LinkState.FAILED), "a refusal")
    assert alone.server.database.node.store.collections.keys() == {"own"}
    link = alone.server.roles.replica
    code, _ = alone.configure(role="replica", master_address=master.address)
    assert code == 200
    assert alone.server.roles.replica is link, "the same master again only tries again"
    wait_until(lambda: alone.link_state in (LinkState.REFUSED, LinkState.FAILED), "a second refusal")
    assert alone.configure(role="replica", master_address=master.address, force=True)[0] == 200
    alone.follows(master)
    assert len(list((alone.root / "aside").iterdir())) == 1
    assert alone.configure(role="standalone")[0] == 200
    assert alone.put(77) == master.offset + 1


def test_a_replica_without_data_is_not_promoted_unless_forced(cluster: Cluster) -> None:
    nobody = f"127.0.0.1:{free_port()}"
    replica = cluster.start("replica", {"replication.role": "replica", "replication.master_address": nobody})
    code, answer = replica.request("GET", "/collections")
    assert (code, answer["error_type"]) == (503, "syncing")
    code, answer = replica.configure(role="master", bind_address="127.0.0.1:0")
    assert (code, answer["error_type"]) == (409, "not_ready")
    assert (replica.role, replica.link_state is None) == ("replica", False)
    code, _ = replica.configure(role="master", bind_address="127.0.0.1:0", force=True)
    assert code == 200
    replica.create()
    replica.put(1)


def test_the_master_listens_elsewhere_and_replicas_follow_there(cluster: Cluster) -> None:
    master = cluster.master()
    master.create()
    replica = cluster.replica(master)
    replica.follows(master)
    elsewhere = f"127.0.0.1:{free_port()}"
    code, _ = master.configure(bind_address=elsewhere)
    assert (code, master.address) == (200, elsewhere)
    wait_until(lambda: not replica.streams, "the link to be lost")
    assert replica.configure(master_address=elsewhere)[0] == 200
    master.put(1)
    replica.follows(master)
    master.restart()
    assert master.address == elsewhere
    master.put(2)
    replica.follows(master)


def test_the_same_port_on_another_interface(cluster: Cluster) -> None:
    master = cluster.master()
    port = parse_address(master.address).port
    code, answer = master.configure(bind_address=f"0.0.0.0:{port}")
    assert code == 200, answer
    assert master.address == f"0.0.0.0:{port}"
    code, answer = master.configure(bind_address=f"192.0.2.1:{port}")
    assert (code, answer["error_type"]) == (400, "validation_error")
    assert master.address == f"0.0.0.0:{port}"
    with socket.create_connection(("127.0.0.1", port)):
        pass


def test_a_role_given_by_the_configuration_is_a_promotion_too(cluster: Cluster) -> None:
    """Two masters of one history never have the same epoch."""
    master = cluster.master()
    master.create()
    replica = cluster.replica(master)
    replica.follows(master)
    epoch = replica.status()["epoch"]
    replica.values = master_settings()
    replica.restart()
    assert replica.status()["epoch"] == epoch + 1
    replica.restart()
    assert replica.status()["epoch"] == epoch + 1, "a restart is none"
    master.restart()
    assert master.status()["epoch"] == epoch
    assert master.configure(role="replica", master_address=replica.address)[0] == 200
    master.follows(replica)
    assert master.counters.full_syncs == 0


def test_an_address_in_use_changes_nothing(cluster: Cluster) -> None:
    master = cluster.master()
    alone = cluster.start("alone")
    for node in (alone, master):
        role, address = node.role, node.status()["replication_address"]
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            wanted = f"127.0.0.1:{taken.getsockname()[1]}"
            code, answer = node.configure(role="master", bind_address=wanted)
        assert (code, answer["error_type"]) == (409, "address_in_use")
        assert (node.role, node.status()["replication_address"]) == (role, address)
        assert node.server.database.node.manifest.stored == {}
        node.restart()
        assert node.role == role


def test_an_address_in_use_changes_nothing_on_a_replica_either(cluster: Cluster) -> None:
    master, alone = cluster.master(), cluster.start("alone")
    replica = cluster.replica(master)
    follows = {"role": "replica", "master_address": master.address}
    for node, values in ((replica, {}), (replica, follows), (alone, follows), (master, follows)):
        role, address = node.role, node.status()["replication_address"]
        stored = node.server.database.node.manifest.stored
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            code, answer = node.configure(bind_address=f"127.0.0.1:{taken.getsockname()[1]}", **values)
        assert (code, answer["error_type"]) == (409, "address_in_use")
        assert (node.role, node.status()["replication_address"]) == (role, address)
        assert node.server.database.node.manifest.stored == stored
    wait_until(lambda: replica.streams, "the link as it was")


def test_a_replica_tells_its_master_where_it_is_reached_as_soon_as_that_is_said(cluster: Cluster) -> None:
    master = cluster.master()
    replica = cluster.replica(master)
    told = lambda: master.status()["replicas"][0]["replication_address"]  # noqa: E731
    assert replica.configure(bind_address="localhost:0")[0] == 200
    port = parse_address(replica.status()["replication_address"]).port
    wait_until(lambda: told() == f"localhost:{port}", "the name, not the number behind it")
    assert replica.configure(advertise_address="db.example:7009")[0] == 200
    wait_until(lambda: told() == "db.example:7009", "what was said now")
    partial_syncs = replica.counters.partial_syncs
    assert replica.configure(advertise_address="db.example:7009")[0] == 200
    assert replica.counters.partial_syncs == partial_syncs, "the link stands"


def test_what_cannot_be_configured_is_told(cluster: Cluster) -> None:
    node = cluster.start("node", None, **{"replication.log_size": 500})
    for values, code, kind in [
        ({}, 400, "validation_error"),
        ({"force": "yes", "role": "master"}, 400, "validation_error"),
        ({"rol": "master"}, 400, "validation_error"),
        ({"role": "master"}, 400, "validation_error"),
        ({"log_size": 7}, 409, "conflict"),
    ]:
        answer = node.configure(**values)
        assert (answer[0], answer[1]["error_type"]) == (code, kind), answer
    assert node.role == "standalone"
    assert node.configure(log_size=500)[0] == 200, "what the flag says already may be said again"


def test_settings_are_in_force_at_once_and_stored(cluster: Cluster) -> None:
    master = cluster.master()
    master.create()
    for number in range(20):
        master.put(number)
    code, _ = master.configure(log_size=5, heartbeat_interval=0.07)
    assert code == 200
    for _ in range(2):
        status = master.status()
        assert status["window"]["operations"] == 5
        assert status["settings"]["heartbeat_interval_secs"] == {
            "value": 0.07,
            "source": "rest",
            "where": "REST",
        }
        master.restart()


def fill(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """No room on this node's disk for another manifest."""
    disk = served.server.database.directory.disk
    write_file = disk.write_file

    def refuse(path: str, buffers: Any) -> int:
        if "manifest-" in path:
            raise OSError(errno.ENOSPC, "No space left on device", path)
        return write_file(path, buffers)

    monkeypatch.setattr(disk, "write_file", refuse)


@pytest.mark.parametrize("new", ["standalone", "master"])
def test_a_replica_that_cannot_store_its_promotion_follows_again(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, new: str
) -> None:
    master = cluster.master()
    master.create()
    replica = cluster.replica(master)
    replica.follows(master)
    with monkeypatch.context() as patch:
        fill(replica, patch)
        code, answer = replica.configure(role=new, bind_address="127.0.0.1:0")
    assert (code, answer["error_type"]) == (507, "insufficient_storage")
    assert replica.role == "replica"
    assert replica.server.roles.master is None
    master.put(1)
    replica.follows(master)
    assert replica.configure(role=new, bind_address="127.0.0.1:0")[0] == 200
    replica.put(2)


@pytest.mark.parametrize("new", ["standalone", "master", "replica"])
def test_a_master_that_cannot_store_a_change_stays_as_it_is(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, new: str
) -> None:
    other = cluster.master("other")
    master = cluster.master()
    master.create()
    port = parse_address(master.address).port
    with monkeypatch.context() as patch:
        fill(master, patch)
        values = {"role": new, "bind_address": f"0.0.0.0:{port}", "master_address": other.address}
        code, answer = master.configure(**values)
    assert (code, answer["error_type"]) == (507, "insufficient_storage")
    assert master.role == "master"
    assert master.address == f"127.0.0.1:{port}"
    master.put(1)
    cluster.replica(master).follows(master)


def test_writers_hear_the_truth_while_the_role_changes(cluster: Cluster) -> None:
    """Each write is answered: taken and there, or refused and not there."""
    master = cluster.master("one")
    master.create()
    other = cluster.replica(master, "two")
    other.follows(master)
    answers: dict[int, int] = {}
    stopped = False

    def write(first: int) -> None:
        number = first
        while not stopped:
            answers[number] = master.upsert([number])[0]
            number += 10

    writers = [gevent.spawn(write, number) for number in range(4)]
    wait_until(lambda: len(answers) > 40, "some writes")
    code, _ = master.configure(role="standalone")
    assert code == 200
    code, _ = master.configure(role="replica", master_address=f"127.0.0.1:{free_port()}")
    assert code == 200
    stopped = True
    gevent.joinall(writers, raise_error=True)
    assert set(answers.values()) <= {200, 403, 503}
    held = {number for number, code in answers.items() if code == 200}
    collection = master.server.database.node.store.get("things")
    assert {int(item[3:]) for item in collection.existing([f"id-{n}".encode() for n in answers])} == held


def test_a_promotion_during_the_first_full_sync_is_refused_or_whole(cluster: Cluster) -> None:
    master = cluster.master(**{"replication.snapshot_chunk_bytes": 4096})
    master.create(dimension=256)
    for part in range(4):
        master.put(*range(part * 100, part * 100 + 100), dimension=256)
    replica = cluster.replica(master)
    wait_until(lambda: replica.link_state not in (LinkState.DOWN, LinkState.CONNECTING), "a link")
    code, _ = replica.configure(role="master", bind_address="127.0.0.1:0")
    if code == 200:
        assert replica.digest() == master.digest()
    else:
        assert code == 409
        replica.follows(master)


def test_a_start_with_an_address_in_use_leaves_nothing_behind(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        served = Served(tmp_path, {"replication.role": "master", "replication.bind_address": address})
        server = Server(served.settings())
        with pytest.raises(ConfigurationError, match=r"cannot listen for replicas on 127\.0\.0\.1"):
            server.start()
    served.start()
    served.create()
    served.stop()
