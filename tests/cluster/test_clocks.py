"""Wall clocks that jump: nothing is decided by them."""

from __future__ import annotations

from pathlib import Path

from tests.cluster.harness import Cluster, Node, create_collections, replication_address, wait_until

CLOCK = Path(__file__).parent / "harness" / "clock"
DAY = 86_400
LAG_MS_MAX = 10_000


def with_clock(node: Node) -> Node:
    """Not started yet: its wall clock is set by `jump`."""
    clock = node.directory / "clock"
    clock.write_text("0")
    node.environment["CLOCK_FILE"] = str(clock)
    node.environment["PYTHONPATH"] = f"{CLOCK}:{node.environment['PYTHONPATH']}"
    return node


def jump(node: Node, seconds: float) -> None:
    (node.directory / "clock").write_text(str(seconds))


def test_clocks_that_jump_by_days_cut_no_link_and_leave_the_lag_a_true_time(cluster: Cluster) -> None:
    master = cluster.master = with_clock(cluster.master_node("master")).start()
    create_collections(master, cluster.ledger, ["alpha", "beta"])
    replica = with_clock(cluster.replica_node(replication_address(master))).start()
    cluster.replicas.append(replica)
    cluster.wait_connected()
    with cluster.load() as load:
        for days in (1, -1, 400, 0):
            jump(master, days * DAY)
            jump(replica, -days * DAY)
            load.wait_sent(100)
            row = wait_until(lambda: master.replica_row(replica), "the master has it in its list")
            assert 0 <= row["lag_ms"] < LAG_MS_MAX and 0 <= replica.stats()["lag_ms"] < LAG_MS_MAX
            assert 0 <= row["heartbeat_age_ms"] < LAG_MS_MAX
            assert (row["links"], replica.connected) == (1, True)
        jump(master, -400 * DAY)
        master.restart(kill=True)
        load.wait_sent(50)
    cluster.converged()
    assert (replica.syncs().full, replica.syncs().partial) == (1, 1)
