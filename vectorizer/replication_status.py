"""What ``/replication/...`` answers: the node's own numbers, and what the process around it knows."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from vectorizer.database import Database
from vectorizer.loop_delay import LoopDelay
from vectorizer.maintenance import Maintenance
from vectorizer.replication.status import StatusView
from vectorizer.roles import Roles
from vectorizer.snapshots import Snapshots


class ReplicationStatus:
    """The control behind the REST routes: documents are made on each read, nothing is remembered."""

    def __init__(
        self,
        database: Database,
        roles: Roles,
        snapshots: Snapshots,
        maintenance: Maintenance,
        loop_delay: LoopDelay,
    ) -> None:
        self._database = database
        self._roles = roles
        self._snapshots = snapshots
        self._maintenance = maintenance
        self._loop_delay = loop_delay

    def status(self) -> Mapping[str, Any]:
        """``GET /replication/status``, in every role."""
        database = self._database
        node = database.node
        return {
            **self._view().status(),
            "fsync": database.settings.storage.fsync,
            "manifest_offset": node.manifest.offset,
            "replication_address": None if self._roles.master is None else self._roles.master.address,
            "rest_address": self._roles.rest_address,
            "writes": {
                "taken": node.writable,
                "held": node.fenced,
                "deposed_by": None
                if node.deposed is None
                else {
                    "node_id": node.deposed.told_by,
                    "replication_id": node.deposed.replication_id,
                    "epoch": node.deposed.epoch,
                },
            },
            "switchover": self._roles.switchover.document(),
            "diverged": [
                {"file": file.path, "operations": file.operations, "complete": file.complete}
                for file in self._snapshots.diverged
            ],
            "settings": self._settings(),
            "event_loop": self._loop_delay.document(),
            "graphs": self._maintenance.graphs_document(),
            "journal": {
                "first_offset": node.journal.first_offset,
                "bytes": node.journal.bytes_held,
            },
            "log": {"operations": len(node.log), "bytes": node.log.bytes_held},
        }

    def stats(self) -> Mapping[str, Any]:
        """``GET /replication/stats``; RequestError 400 on a standalone node."""
        return self._view().stats()

    def replicas(self) -> Mapping[str, Any]:
        """``GET /replication/replicas``; RequestError 400 where there is no such list."""
        return self._view().replicas()

    def configure(self, document: Mapping[str, Any]) -> Mapping[str, Any]:
        """``POST /replication/configure``."""
        return self._roles.configure(document)

    def switchover(self, target: str | None, timeout_ms: int) -> Mapping[str, Any]:
        """``POST /replication/switchover``."""
        return self._roles.switchover.run(target, timeout_ms)

    def abort_switchover(self) -> Mapping[str, Any]:
        """``POST /replication/switchover/abort``."""
        return self._roles.switchover.abort()

    def _view(self) -> StatusView:
        master, replica = self._roles.master, self._roles.replica
        if master is not None:
            master.forget_gone()
        return StatusView(
            node=self._database.node,
            table=None if master is None else master.table,
            link=None if replica is None else replica.link,
            master_address="" if replica is None else replica.master_address,
            now=time.monotonic(),
        )

    def _settings(self) -> dict[str, Any]:
        """Each replication setting in force, with the place where it was said."""
        return {
            row.setting.key: {"value": row.value, "source": row.source.value, "where": row.where}
            for row in self._database.settings
            if row.setting.section == "replication"
        }
