"""Three nodes of which any may be the master, and a proxy for each way from one to another."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.cluster.harness import Cluster, Node, Proxy, free_port
from tests.cluster.harness.node import merged

NAMES = ("one", "two", "three")
Settings = Mapping[str, Mapping[str, Any]]


class Trio:
    """Started: "one" is the master, the others follow it through their proxies."""

    def __init__(self, directory: Path, settings: Settings) -> None:
        self._cluster = Cluster(directory)
        self.nodes: list[Node] = []
        self._ways: dict[tuple[Node, Node], Proxy] = {}
        self.locks: dict[Node, threading.RLock] = {}
        """Who holds a node's lock may kill, freeze and start it."""
        for name in NAMES:
            own = {"role": "replica", "bind_address": f"127.0.0.1:{free_port()}"}
            node = self._cluster.node(name, merged({"replication": own}, settings))
            self.nodes.append(node)
            self.locks[node] = threading.RLock()
        for follower in self.nodes:
            for master in self.nodes:
                if follower is not master:
                    self._ways[follower, master] = self._cluster.proxy_to(master)
        first, *others = self.nodes
        first.settings["replication"]["role"] = "master"
        for node in others:
            node.settings["replication"]["master_address"] = self.address(node, first)

    def start(self) -> Trio:
        """All three, side by side, until the replicas have their links."""
        for node in self.nodes:
            node.start(ready=False)
        for node in self.nodes:
            node.wait_ready()
        self._cluster.wait_connected(*self.nodes[1:])
        return self

    def close(self) -> None:
        """End processes and proxies."""
        self._cluster.close()

    def address(self, follower: Node, master: Node) -> str:
        """Where ``follower`` is to find ``master``: through their proxy."""
        return self._ways[follower, master].address

    def way(self, follower: Node, master: Node) -> Proxy:
        """The proxy before ``master``, as ``follower`` sees it."""
        return self._ways[follower, master]

    def ways(self) -> list[Proxy]:
        """All proxies."""
        return list(self._ways.values())

    def ways_to(self, master: Node) -> list[Proxy]:
        """The proxies before one node."""
        return [proxy for (_, target), proxy in self._ways.items() if target is master]

    def heal(self) -> None:
        """All links let everything pass, at full speed."""
        for proxy in self._ways.values():
            proxy.heal()

    def log_tails(self) -> str:
        """The ends of all logs."""
        return "\n".join(node.log_tail() for node in self.nodes)
