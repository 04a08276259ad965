"""What /replication/status, /stats and /replicas show: derived on each read from the passports and the link.

Nothing here is remembered. Old fields of the requirements and new ones stand side by side, all of them true:

- A replica is `Disconnected` at once when its link is gone, and in any case after 60 s without a word;
  `Syncing` while a full sync runs; `Lagging` when its lag is over 1,000 ms; else `Connected`.
- `lag_ms`, `lag_operations` and `operations_pending` of a master are those of its slowest connected replica.
- `operations_synced` (and `total_replicated`) count the operations of the history that a replica has
  confirmed, whether they came one by one or in a snapshot.
- `bytes_sent` and `bytes_received` count replication traffic since this node took its role.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vectorizer.address import Address
from vectorizer.errors import RequestError
from vectorizer.replication.progress import Phase, Progress, ReplicaTable, SyncProgress, Totals

if TYPE_CHECKING:
    from vectorizer.node import Node
    from vectorizer.replication.link import ReplicaLink

LAGGING_MS = 1000
SILENT_SECS = 60.0


@dataclass(frozen=True, slots=True)
class StatusView:
    """A node at one moment; `table` if it is a master, `link` if it is a replica, neither if alone."""

    node: Node
    table: ReplicaTable | None
    link: ReplicaLink | None
    master_address: str
    now: float

    # -- the documents ----------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """/replication/status, in every role."""
        node = self.node
        first, last = node.window
        return {
            "role": node.role.value.capitalize(),
            "enabled": node.role.value != "standalone",
            "stats": self._stats(),
            "replicas": [] if self.table is None else self._rows(self.table),
            "node_id": node.node_id,
            "replication_id": node.replication_id,
            "epoch": node.epoch,
            "offset": node.offset,
            "durable_offset": node.durable_offset,
            "history": [
                {
                    "replication_id": entry.replication_id,
                    "epoch": entry.epoch,
                    "start_offset": entry.start_offset,
                }
                for entry in node.history.entries
            ],
            "window": {"first_offset": first, "last_offset": last, "operations": last - first + 1},
            "serves_data": self._serves_data(),
            "counters": self._counters(),
            "sync": None if self.link is None else sync_document(self.link.sync, self.now),
            "link": None if self.link is None else self._link(self.link),
            "metrics": self._metrics(),
        }

    def stats(self) -> dict[str, Any]:
        """/replication/stats. RequestError 400 on a standalone node."""
        if self.table is None and self.link is None:
            raise RequestError(
                400, "replication_disabled", "this node is standalone: it has no replication statistics"
            )
        return self._stats()

    def replicas(self) -> dict[str, Any]:
        """/replication/replicas. RequestError 400 where there is no list of replicas."""
        if self.table is None:
            role = self.node.role.value
            raise RequestError(
                400,
                "not_a_master",
                f"only a node that takes replicas has a list of them; this one is a {role} that does not",
            )
        rows = self._rows(self.table)
        linked = len(self.table.linked())
        return {
            "replicas": rows,
            "count": len(rows),
            "connected_replicas": linked,
            "message": f"{linked} of {len(rows)} known replicas connected",
        }

    # -- parts ------------------------------------------------------------------------------------------

    def _rows(self, table: ReplicaTable) -> list[dict[str, Any]]:
        return [self._row(row) for row in table]

    def _row(self, row: Progress) -> dict[str, Any]:
        newest = self.node.offset
        return {
            "id": row.node_id,
            "host": row.host,
            "port": row.port,
            "status": status_of(row, self.lag_ms(row), self.now),
            "lag_ms": self.lag_ms(row),
            "last_heartbeat": row.last_heard_ms // 1000,
            "operations_synced": row.acked_applied,
            "address": str(Address(row.host, row.port)),
            "offset": row.acked_applied,
            "lag_operations": row.lag_operations(newest),
            "durable_offset": row.acked_durable,
            "sent_offset": row.sent_offset,
            "heartbeat_age_ms": max(0, round((self.now - row.last_heard_at) * 1000)),
            "phase": str(row.phase),
            "rest_address": row.rest_address,
            "replication_address": row.listens_at or None,
            "connected_secs": None if row.gone_at is not None else round(self.now - row.connected_at, 3),
            "disconnected_reason": row.gone_reason or None,
            "bytes_sent": row.bytes_sent,
            "bytes_received": row.bytes_received,
            "full_syncs": row.full_syncs,
            "partial_syncs": row.partial_syncs,
            "last_sync_reason": row.last_reason,
            "links": row.links,
            "flapping": row.flapping(self.now),
            "sync": sync_document(row.sync, self.now),
        }

    def lag_ms(self, row: Progress) -> int:
        """Of one replica, on this master's clock."""
        return row.lag_ms(self.node.offset, self.node.log, self.now)

    def _totals(self) -> Totals:
        if self.link is not None:  # a replica may have a table too, of replicas of its own
            return self.link.totals
        return Totals() if self.table is None else self.table.totals

    def _stats(self) -> dict[str, Any]:
        totals = self._totals()
        rows = [] if self.table is None else list(self.table)
        linked = [row for row in rows if row.phase is not Phase.GONE]
        common = {
            "role": self.node.role.value,
            "bytes_sent": totals.bytes_sent,
            "bytes_received": totals.bytes_received,
            "last_sync": totals.last_sync_ms // 1000,
            "snapshot_size": totals.snapshot_bytes,
            "connected_replicas": len(linked),
        }
        if self.link is not None:
            lag = self.link.lag_operations()
            return {
                **common,
                "lag_ms": self.link.lag_ms(self.now),
                "operations_pending": lag,
                "master_offset": self.link.master.offset,
                "replica_offset": self.node.offset,
                "lag_operations": lag,
                "total_replicated": self.node.offset,
                "heartbeat_age_ms": self.link.master.heartbeat_age_ms(self.now),
            }
        newest = self.node.offset
        lag = max((row.lag_operations(newest) for row in linked), default=0)
        return {
            **common,
            "lag_ms": max(map(self.lag_ms, linked), default=0),
            "operations_pending": lag,
            "master_offset": newest,
            "replica_offset": 0,
            "lag_operations": lag,
            "total_replicated": min(newest, max((row.acked_applied for row in rows), default=0)),
        }

    def _counters(self) -> dict[str, Any]:
        totals, link = self._totals(), self.link
        counters: dict[str, Any] = {
            "full_syncs": totals.full_syncs,
            "partial_syncs": totals.partial_syncs,
            "refusals": dict(totals.refusals),
            "full_sync_reasons": dict(totals.full_sync_reasons),
            "disconnects": dict(totals.disconnects),
        }
        if link is not None:
            counters["reconnects"] = max(0, link.retry.attempts_total - 1)
            counters["apply_failures"] = link.failures.total
            counters["operations_applied"] = link.operations_applied
        return counters

    def _link(self, link: ReplicaLink) -> dict[str, Any]:
        next_attempt = link.retry.at
        master = link.master
        return {
            "state": str(link.state),
            "master_address": self.master_address,
            "master_node_id": master.node_id or None,
            "master_rest_address": master.rest_address or None,
            "master_replication_id": master.history.replication_id or None,
            "master_offset": master.offset,
            "master_durable_offset": master.durable,
            "connected": link.connected_now,
            "up_secs": None if link.up_since is None else round(self.now - link.up_since, 3),
            "heartbeat_age_ms": master.heartbeat_age_ms(self.now),
            "last_heartbeat": master.heartbeat_ms // 1000,
            "last_sync_reason": link.sync_reason or None,
            "last_error": None if not link.reason else {"reason": link.reason, "message": link.message},
            "attempts": link.retry.attempts,
            "next_attempt_secs": None
            if next_attempt is None
            else round(max(0.0, next_attempt - self.now), 3),
            "apply_failures": link.failures.in_a_row,
        }

    def _serves_data(self) -> bool:
        return self.node.has_complete_data if self.link is None else self.link.serves_data

    def _metrics(self) -> dict[str, Any]:
        """The key metrics by the requirements' names."""
        if self.link is not None:
            return {
                "replication.replica_offset": self.node.offset,
                "replication.lag_operations": self.link.lag_operations(),
                "replication.lag_ms": self.link.lag_ms(self.now),
                "replication.connected": self.link.up_since is not None,
            }
        first, last = self.node.window
        return {
            "replication.master_offset": self.node.offset,
            "replication.replicas_connected": 0 if self.table is None else len(self.table.linked()),
            "replication.log_size": last - first + 1,
        }


def status_of(row: Progress, lag_ms: int, now: float) -> str:
    """The requirements' word for a replica."""
    if row.phase is Phase.GONE or now - row.last_heard_at >= SILENT_SECS:
        return "Disconnected"
    if row.phase is not Phase.STREAMING:
        return "Syncing"
    return "Lagging" if lag_ms > LAGGING_MS else "Connected"


def sync_document(sync: SyncProgress | None, now: float) -> Mapping[str, Any] | None:
    """A running full sync, None if there is none."""
    if sync is None:
        return None
    eta = sync.eta_secs(now)
    return {
        "kind": "full",
        "reason": sync.reason,
        "offset": sync.offset,
        "bytes_total": sync.bytes_total,
        "bytes_sent": sync.bytes_sent,
        "bytes_received": sync.bytes_received,
        "percent": round(sync.percent(), 1),
        "seconds": round(now - sync.started_at, 3),
        "eta_secs": None if eta is None else round(eta, 1),
    }
