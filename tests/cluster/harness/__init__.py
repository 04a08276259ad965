"""One small vocabulary for all scenarios.

`start` and `write` of a cluster; `cut` and `corrupt` of a link; `kill`, `freeze`, `thaw` and `corrupt` of a
node; `wait_until` something holds; at the end `same_digest` (with the ledger of acknowledged writes:
`converged`), and `syncs` says by which road.
"""

from __future__ import annotations

from tests.cluster.harness.client import Answer, Client, InDoubt, NotSent, Refused, vector_path
from tests.cluster.harness.cluster import Cluster, replication_address, same_digest
from tests.cluster.harness.counters import Syncs
from tests.cluster.harness.ledger import Ledger, payload_of, vector_of
from tests.cluster.harness.load import Load, create_collections
from tests.cluster.harness.node import Node, NotStarted, free_port, pretty
from tests.cluster.harness.proxy import Proxy
from tests.cluster.harness.waiting import stays_true, wait_until

__all__ = [
    "Answer",
    "Client",
    "Cluster",
    "InDoubt",
    "Ledger",
    "Load",
    "Node",
    "NotSent",
    "NotStarted",
    "Proxy",
    "Refused",
    "Syncs",
    "create_collections",
    "free_port",
    "payload_of",
    "pretty",
    "replication_address",
    "same_digest",
    "stays_true",
    "vector_of",
    "vector_path",
    "wait_until",
]
