"""The link is cut, or a bit is flipped, everywhere in the handshake: it comes up, and by a partial sync."""

from __future__ import annotations

import pytest

from tests.cluster.harness import Cluster, wait_until
from tests.cluster.harness.proxy import Direction

CUTS = 60
FLIPS = 40
QUICK = {"reconnect_interval_secs": 0.02, "handshake_timeout_secs": 0.5, "replica_timeout_secs": 1}
SECRET = {"replication_secret": "a secret that is shared by all"}


def handshake_bytes(cluster: Cluster) -> dict[Direction, int]:
    """What one partial sync takes in each direction, until the replica streams."""
    [link], [replica] = cluster.links, cluster.replicas
    link.cut()
    before = dict(link.bytes)
    wait_until(lambda: replica.syncs().partial == 1 and cluster.master.syncs().partial == 1, "it is back")
    return {"down": link.bytes["down"] - before["down"], "up": link.bytes["up"] - before["up"]}


@pytest.mark.parametrize("direction", ["down", "up"])
@pytest.mark.parametrize("fault", ["cut", "corrupt"])
def test_a_fault_at_every_message_of_the_handshake(
    cluster: Cluster, fault: str, direction: Direction
) -> None:
    cluster.start(replicas=1, proxied=True, replication=QUICK, security=SECRET)
    [link], [replica] = cluster.links, cluster.replicas
    cluster.write(50)
    cluster.converged()
    size = handshake_bytes(cluster)[direction]
    full = replica.syncs().full
    count = CUTS if fault == "cut" else FLIPS
    points = [number * size // count for number in range(count)]
    (link.cut_after if fault == "cut" else link.corrupt)(*points, direction=direction)
    link.cut()
    with cluster.load(writers=1):
        wait_until(lambda: link.faults_met >= count, f"{count} faults were met", 45)
    cluster.converged()
    assert replica.syncs().full == full
    assert len(cluster.master.replicas()) == 1
    assert "Traceback" not in cluster.master.log() + replica.log()


@pytest.mark.parametrize("direction", ["down", "up"])
def test_a_length_damaged_on_an_idle_link_does_not_swallow_what_follows(
    cluster: Cluster, direction: Direction
) -> None:
    cluster.start(replicas=1, proxied=True, replication=QUICK)
    [link], [replica] = cluster.links, cluster.replicas
    cluster.write(50)
    cluster.converged()
    first = handshake_bytes(cluster)[direction]  # where the first heartbeat, or ack, begins
    link.corrupt(first + 1, direction=direction)  # it announces a MiB that never comes
    link.cut()
    wait_until(lambda: link.faults_met, "the fault was met")
    cluster.write(20, seed=2)
    cluster.converged()
    wait_until(lambda: (cluster.master.replica_row(replica) or {}).get("lag_operations") == 0, "M hears so")
    assert replica.syncs().full == 1
