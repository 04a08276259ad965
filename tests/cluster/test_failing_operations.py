"""An operation that only the replica cannot apply: counted, told, healed by a full sync, not for ever."""

from __future__ import annotations

from tests.cluster.harness import Cluster, Node, payload_of, stays_true, vector_of, wait_until

COLLECTION = b"\x02c\x00\x06\x00\x00\x00alpha\x00"  # field c of an operation: the collection it is for
NOBODYS = COLLECTION.replace(b"alpha", b"alphx")


def write_to_alpha(cluster: Cluster, serial: int) -> None:
    row = {"id": f"f{serial}", "vector": vector_of(serial), "payload": payload_of(serial)}
    answer = cluster.master.post("/collections/alpha/vectors", {"vectors": [row]})
    cluster.ledger.wrote("alpha", {f"f{serial}": (serial, serial)}, answer)


def failures(replica: Node) -> int:
    count: int = replica.status()["counters"]["apply_failures"]
    return count


def test_an_operation_that_fails_on_a_replica_only_is_counted_told_and_healed_by_a_full_sync(
    cluster: Cluster,
) -> None:
    cluster.start(replicas=1, proxied=True)
    [replica], [link] = cluster.replicas, cluster.links
    cluster.write(50)
    link.forge(COLLECTION, NOBODYS)
    link.cut()
    wait_until(lambda: replica.syncs().partial == 1, "the replica is back")
    before = replica.syncs()
    write_to_alpha(cluster, 9001)
    wait_until(lambda: failures(replica) == 1, "the failure is counted")
    link.heal()
    cluster.converged()
    assert replica.syncs().since(before) == (1, 0)
    assert replica.syncs().reasons == {"empty_replica": 1, "requested": 1}
    assert "apply_failed" in replica.log() and "alphx" in replica.log()
    write_to_alpha(cluster, 9002)
    cluster.converged()
    assert (failures(replica), replica.syncs().since(before)) == (1, (1, 0))


def test_operations_that_fail_after_each_full_sync_end_in_failed_and_wait_for_an_operator(
    cluster: Cluster,
) -> None:
    cluster.start(replicas=1, proxied=True)
    [replica], [link] = cluster.replicas, cluster.links
    link.forge(COLLECTION, NOBODYS)
    link.cut()
    wait_until(lambda: replica.syncs().partial == 1, "the replica is back")
    for number in (1, 2, 3):
        write_to_alpha(cluster, 9000 + number)
        wait_until(lambda goal=number: failures(replica) == goal, f"failure number {number} is counted")
        wait_until(lambda goal=number: goal == 3 or replica.syncs().full > goal, "a full sync heals it")
    wait_until(lambda: replica.status()["link"]["state"] == "failed", "the link is given up")
    assert replica.status()["link"]["last_error"]["reason"] == "apply_failed"
    tried = link.connections
    stays_true(lambda: link.connections == tried, "nothing is tried again", 1.0)
    assert replica.request("GET", "/collections/alpha").body["vector_count"] == 2, "the last full sync's data"
    link.heal()
    replica.configure(role="replica", master_address=link.address)
    cluster.converged()
    assert replica.syncs().reasons == {"empty_replica": 1, "requested": 3}
