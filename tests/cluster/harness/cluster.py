"""A master, its replicas and the proxies between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.cluster.harness.ledger import Ledger
from tests.cluster.harness.load import Load, create_collections
from tests.cluster.harness.node import Node, free_port, merged
from tests.cluster.harness.proxy import Proxy
from tests.cluster.harness.readers import PAUSE_SECS, Readers
from tests.cluster.harness.waiting import DEADLINE_SECS, wait_until

COLLECTIONS = ("alpha", "beta", "gamma")
DIFFERENCES_SHOWN = 5
BULK_ROWS = 4000
BULK_DIMENSION = 64
BULK_BATCH_ROWS = 1000

Settings = Mapping[str, Any]


class Cluster:
    """Everything a scenario starts, and its end: nodes, proxies and the ledger of acknowledged writes."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.nodes: list[Node] = []
        self.proxies: list[Proxy] = []
        self.ledger = Ledger()
        self.master: Node
        self.replicas: list[Node] = []
        self.links: list[Proxy] = []

    # -- who is there --------------------------------------------------------------------------------------

    def start(
        self,
        replicas: int = 2,
        *,
        proxied: bool = False,
        collections: Sequence[str] = COLLECTIONS,
        **settings: Settings,
    ) -> Cluster:
        """A master with empty collections and `replicas` linked replicas, behind proxies if `proxied`."""
        self.start_master(**settings)
        if collections:
            create_collections(self.master, self.ledger, collections)
        for _ in range(replicas):
            self.start_replica(proxied=proxied, ready=False, **settings)
        for replica in self.replicas:
            replica.wait_ready()
        self.wait_connected()
        return self

    def start_master(self, name: str = "master", **settings: Settings) -> Node:
        """Start a master; the first one is `self.master`, which writers write to."""
        node = self.master_node(name, **settings).start()
        if not hasattr(self, "master"):
            self.master = node
        return node

    def start_replica(self, *, proxied: bool = False, ready: bool = True, **settings: Settings) -> Node:
        """Start one more replica; with `proxied` its link goes through a proxy, kept in `links`."""
        address = self.proxy_to(self.master).address if proxied else replication_address(self.master)
        node = self.replica_node(address, **settings)
        self.replicas.append(node.start(ready=ready))
        return node

    def master_node(self, name: str, **settings: Settings) -> Node:
        """A master that is not started yet."""
        own = {"role": "master", "bind_address": f"127.0.0.1:{free_port()}"}
        return self.node(name, merged({"replication": own}, settings))

    def replica_node(self, master_address: str, name: str | None = None, **settings: Settings) -> Node:
        """A replica that is not started yet; it has an address for the day it is promoted."""
        own = {
            "role": "replica",
            "master_address": master_address,
            "bind_address": f"127.0.0.1:{free_port()}",
        }
        return self.node(name or f"replica{len(self.nodes)}", merged({"replication": own}, settings))

    def node(self, name: str, settings: Settings) -> Node:
        """Any node, not started yet, in a directory of its own."""
        node = Node(name, self.directory / name, settings)
        self.nodes.append(node)
        return node

    def proxy_to(self, node: Node) -> Proxy:
        """A proxy before the replication port of `node`."""
        host, port = replication_address(node).rsplit(":", 1)
        proxy = Proxy((host, int(port)))
        self.proxies.append(proxy)
        self.links.append(proxy)
        return proxy

    def close(self) -> None:
        """End everything that was started."""
        for node in self.nodes:
            node.end()
        for proxy in self.proxies:
            proxy.close()

    # -- what they do --------------------------------------------------------------------------------------

    def load(self, *, writers: int = 5, seed: int = 1, pause_secs: float = 0.002) -> Load:
        """Writers on whichever node `self.master` is at the time."""
        names = [name for name in self.ledger.collections() if not name.startswith("own-")]
        return Load(
            lambda: self.master, self.ledger, names, writers=writers, seed=seed, pause_secs=pause_secs
        )

    def readers(self, *, pause_secs: float = PAUSE_SECS) -> Readers:
        """Somebody who asks all nodes everything meanwhile."""
        names = [*self.ledger.collections(), "never-created"]
        return Readers(lambda: [self.master, *self.replicas], names, pause_secs=pause_secs)

    def write(self, operations: int = 100, *, seed: int = 1) -> None:
        """`operations` mixed operations by one writer."""
        writer = self.load(writers=1, seed=seed).writers[0]
        for _ in range(operations * 10):
            if writer.sent >= operations:
                return
            writer.step()
        raise AssertionError(f"{operations} writes wanted, {writer.sent} done")

    def bulk(self, name: str = "bulk", rows: int = BULK_ROWS) -> None:
        """A collection of about a megabyte, which is not entered in the ledger."""
        self.ledger.unrecorded.add(name)
        self.master.post("/collections", {"name": name, "dimension": BULK_DIMENSION, "metric": "dot"})
        vectors = np.random.default_rng(3).standard_normal((rows, BULK_DIMENSION)).astype("<f4")
        for start in range(0, rows, BULK_BATCH_ROWS):
            part = vectors[start : start + BULK_BATCH_ROWS]
            ids = [f"{name}-{start + number}" for number in range(len(part))]
            self.master.post_bson(f"/collections/{name}/vectors", {"ids": ids, "vectors": part.tobytes()})

    def promote(self, replica: Node) -> None:
        """Make `replica` the master that writers write to."""
        replica.configure(role="master")
        self.replicas.remove(replica)
        self.master = replica

    # -- what must hold ------------------------------------------------------------------------------------

    def wait_connected(self, *replicas: Node, deadline_secs: float = DEADLINE_SECS) -> None:
        """Until the links of these replicas (all of them by default) are up."""
        for replica in replicas or self.replicas:
            wait_until(lambda node=replica: node.connected, f"{replica.name} is connected", deadline_secs)

    def converged(self, *others: Node, deadline_secs: float = DEADLINE_SECS) -> None:
        """Master and replicas come to hold the same, and it is what the clients were told."""
        nodes = [self.master, *(others or self.replicas)]
        same_digest(*nodes, deadline_secs=deadline_secs)
        self.ledger.assert_holds(*nodes)


def replication_address(node: Node) -> str:
    """host:port where `node` listens for replicas once it is a master."""
    address: str = node.settings["replication"]["bind_address"]
    return address


def same_digest(*nodes: Node, deadline_secs: float = DEADLINE_SECS) -> None:
    """Wait until all nodes hold the same, by digests, at one offset; print the difference if they do not."""

    def all_equal() -> bool:
        return len({node.offset for node in nodes}) == 1 and _all_equal([node.digests() for node in nodes])

    try:
        wait_until(_not_refused(all_equal), f"{[node.name for node in nodes]} hold the same", deadline_secs)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{differences(nodes)}") from None


def differences(nodes: Sequence[Node]) -> str:
    """What the other nodes hold differently from the first one, in words."""
    lines = [f"{node.name}: offset {node.offset}, {node.digests()}" for node in nodes]
    first, *others = nodes
    for other in others:
        for name in sorted(set(first.collections()) & set(other.collections())):
            here, there = first.vectors(name), other.vectors(name)
            unequal = [key for key in sorted(here.keys() | there.keys()) if here.get(key) != there.get(key)]
            for key in unequal[:DIFFERENCES_SHOWN]:
                lines.append(f"{name}/{key}: {first.name} {here.get(key)}, {other.name} {there.get(key)}")
            if len(unequal) > DIFFERENCES_SHOWN:
                lines.append(f"{name}: {len(unequal)} ids differ in all")
    return "\n".join(lines)


def _all_equal(values: Sequence[object]) -> bool:
    return all(value == values[0] for value in values)


def _not_refused(condition: Callable[[], bool]) -> Callable[[], bool]:
    """A node that answers 404 or 503 for a moment (syncing, just dropped) is not equal yet."""

    def checked() -> bool:
        try:
            return condition()
        except AssertionError:
            return False

    return checked
