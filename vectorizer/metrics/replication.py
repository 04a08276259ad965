"""What replication shows to Prometheus: the node's place in history, a master's replicas, a replica's link.

``side`` tells, where both ends count the same thing, whose count it is: ``master`` or ``replica``. A node
between two others is both. Counters begin anew when a node changes its role.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from prometheus_client.metrics_core import Metric

from vectorizer.metrics.families import bounded, counter, counters, gauge, gauges, histograms, state
from vectorizer.node import Node, Role
from vectorizer.replication.link import ReplicaLink
from vectorizer.replication.progress import Phase, Progress, ReplicaTable, Totals
from vectorizer.replication.states import LinkState
from vectorizer.replication.status import status_of
from vectorizer.replication.sync import Reason

REPLICAS_SHOWN_MAX = 128
"""Rows of a master's table that are shown: all that are linked come first, then those lost last."""
STATUSES = ("Connected", "Lagging", "Syncing", "Disconnected")
_R = "replication_"


def node_families(node: Node) -> Iterator[Metric]:
    """Any role: where the node stands."""
    first, last = node.window
    yield state(
        "role", "1 for the role of this node.", "role", node.role.value, [role.value for role in Role]
    )
    yield gauges(
        "node_info",
        "Always 1; who this node is and whose history it holds.",
        ["node_id", "replication_id"],
        [((node.node_id, node.replication_id), 1)],
    )
    yield gauge("writable", "1 if this node takes writes.", node.writable)
    yield gauge(_R + "epoch", "Epoch of the newest mastership that this node knows.", node.epoch)
    yield gauge(_R + "offset", "Newest operation that this node holds.", node.offset)
    yield gauge(
        _R + "durable_offset",
        "Newest operation that survives a loss of power of this node.",
        node.durable_offset,
    )
    yield gauge(
        _R + "window_first_offset",
        "Oldest operation from which a partial sync can be given.",
        first,
    )
    yield gauge(_R + "log_operations", "Operations in the window for partial syncs.", last - first + 1)
    yield gauge(
        _R + "log_limit_operations", "Operations that the window may have (log_size).", node.limits.log_size
    )
    yield gauge(_R + "log_memory_operations", "Operations of the window that are in memory.", len(node.log))
    yield gauge(_R + "log_memory_bytes", "Bytes of the operations in memory.", node.log.bytes_held)


def totals_families(totals: Mapping[str, Totals]) -> Iterator[Metric]:
    """What is counted at both ends of a link; ``totals`` by side."""
    side = ["side"]

    def each(value: Callable[[Totals], float]) -> list[tuple[tuple[str, ...], float]]:
        return [((name,), value(total)) for name, total in totals.items()]

    def by_code(counts: Callable[[Totals], Mapping[str, int]]) -> list[tuple[tuple[str, ...], float]]:
        return [
            ((name, code), count) for name, total in totals.items() for code, count in bounded(counts(total))
        ]

    yield counters(
        _R + "syncs",
        "Syncs begun, by kind and by the reason for the kind.",
        ["side", "kind", "reason"],
        [
            *(
                ((name, "full", code), n)
                for (name, code), n in by_code(lambda total: total.full_sync_reasons)
            ),
            *(
                ((name, "partial", Reason.CONTINUES.value), n)
                for (name,), n in each(lambda t: t.partial_syncs)
            ),
        ],
    )
    yield counters(
        _R + "full_syncs_finished", "Full syncs that were installed.", side, each(lambda t: t.full_syncs)
    )
    yield histograms(
        _R + "full_sync_duration_seconds",
        "Duration of the full syncs that were installed.",
        side,
        [((name,), total.full_sync_secs) for name, total in totals.items()],
    )
    yield histograms(
        _R + "full_sync_size_bytes",
        "Bytes of files that travelled in full syncs that were installed.",
        side,
        [((name,), total.full_sync_bytes) for name, total in totals.items()],
    )
    yield counters(
        _R + "refusals",
        "Links refused by this node or by its peer, by reason.",
        ["side", "reason"],
        by_code(lambda total: total.refusals),
    )
    yield counters(
        _R + "disconnects",
        "Links that ended, by reason.",
        ["side", "reason"],
        by_code(lambda total: total.disconnects),
    )
    yield counters(_R + "sent_bytes", "Bytes sent to peers.", side, each(lambda t: t.bytes_sent))
    yield counters(
        _R + "received_bytes", "Bytes received from peers.", side, each(lambda t: t.bytes_received)
    )
    yield gauges(
        _R + "last_sync_timestamp_seconds",
        "Unix time of the last sync, 0 if there was none.",
        side,
        each(lambda t: t.last_sync_ms / 1000),
    )


def master_families(node: Node, table: ReplicaTable, turned_away: int, now: float) -> Iterator[Metric]:
    """A node that others follow."""
    newest = node.offset
    if node.role is Role.MASTER:  # not on a replica that has replicas of its own
        yield gauge(_R + "master_offset", "Newest operation of the master, on the master itself.", newest)
    yield gauge(_R + "replicas_connected", "Replicas whose link is alive.", len(table.linked()))
    yield gauge(_R + "replicas_known", "Replicas whose link is alive or was lost not long ago.", len(table))
    yield counter(
        _R + "connections_turned_away",
        "Connections of replicas closed at once because there were too many.",
        turned_away,
    )
    yield from row_families(node, shown_rows(table), now)


def row_families(node: Node, rows: Sequence[Progress], now: float) -> Iterator[Metric]:
    """Each of its replicas, by node id."""
    newest = node.offset
    yield gauges(
        _R + "replica_info",
        "Always 1; where a replica is.",
        ["replica", "host", "rest_address"],
        [((row.node_id, row.host, row.rest_address), 1) for row in rows],
    )
    yield gauges(
        _R + "replica_status",
        "1 for the status of each replica.",
        ["replica", "status"],
        [
            ((row.node_id, status), float(status == status_of(row, row.lag_ms(newest, node.log, now), now)))
            for row in rows
            for status in STATUSES
        ],
    )
    numbers: list[tuple[str, str, Callable[[Progress], float]]] = [
        (
            "acknowledged_offset",
            "Newest operation that the replica has acknowledged.",
            lambda row: row.acked_applied,
        ),
        ("durable_offset", "Newest operation durable on the replica.", lambda row: row.acked_durable),
        (
            "lag_operations",
            "Operations that the replica has not acknowledged.",
            lambda row: row.lag_operations(newest),
        ),
        (
            "lag_bytes",
            "Bytes of those of them that are in the memory of the master.",
            lambda row: node.log.bytes_after(row.acked_applied),
        ),
        (
            "lag_seconds",
            "Age of the oldest operation that the replica has not acknowledged, 0 if there is none.",
            lambda row: row.lag_ms(newest, node.log, now) / 1000,
        ),
        (
            "heartbeat_age_seconds",
            "Time since anything was heard from the replica.",
            lambda row: max(0.0, now - row.last_heard_at),
        ),
    ]
    for name, text, value in numbers:
        yield gauges(f"{_R}replica_{name}", text, ["replica"], [((row.node_id,), value(row)) for row in rows])
    totals: list[tuple[str, str, Callable[[Progress], float]]] = [
        ("links", "Links of the replica; each beyond the first is a reconnect.", lambda row: row.links),
        ("sent_bytes", "Bytes sent to the replica.", lambda row: row.bytes_sent),
        ("received_bytes", "Bytes received from the replica.", lambda row: row.bytes_received),
    ]
    for name, text, value in totals:
        yield counters(
            f"{_R}replica_{name}", text, ["replica"], [((row.node_id,), value(row)) for row in rows]
        )
    yield gauges(
        _R + "replica_sync_progress_ratio",
        "Progress of a running full sync, 0 to 1.",
        ["replica"],
        [((row.node_id,), row.sync.percent() / 100) for row in rows if row.sync is not None],
    )


def replica_families(node: Node, link: ReplicaLink, now: float) -> Iterator[Metric]:
    """A node that follows another one."""
    yield gauge(_R + "replica_offset", "Newest operation that this replica holds.", node.offset)
    yield gauge(_R + "lag_operations", "Operations behind the master, as far as told.", link.lag_operations())
    yield gauge(
        _R + "lag_seconds",
        "Age of this replica's data; grows while the link is down.",
        link.lag_ms(now) / 1000,
    )
    yield gauge(
        _R + "connected", "1 while the link to the master is up and streams.", link.up_since is not None
    )
    yield state(
        _R + "link_state", "1 for the state of the link to the master.", "state", link.state, LinkState
    )
    age = link.master.heartbeat_age_ms(now)
    if age is not None:
        yield gauge(_R + "heartbeat_age_seconds", "Time since the master's last heartbeat.", age / 1000)
    yield gauge(
        _R + "known_master_offset",
        "Newest operation of the master, as told to this replica.",
        link.master.offset,
    )
    yield counter(
        _R + "reconnects", "Attempts to connect beyond the first.", max(0, link.retry.attempts_total - 1)
    )
    yield counter(_R + "apply_failures", "Operations that could not be applied here.", link.failures.total)
    yield counter(_R + "operations_applied", "Operations applied from the stream.", link.operations_applied)
    if link.sync is not None:
        yield gauge(
            _R + "sync_progress_ratio", "Progress of a running full sync, 0 to 1.", link.sync.percent() / 100
        )


def shown_rows(table: ReplicaTable) -> list[Progress]:
    """Linked replicas first, then those lost last."""
    rows = sorted(table, key=lambda row: (row.phase is Phase.GONE, -(row.gone_at or 0.0)))
    return rows[:REPLICAS_SHOWN_MAX]
