"""Exchange of whole data sets: capturing a snapshot for a replica, installing one, going back to a fork.

The steps that take time run in native threads; the node's data is swapped on the event loop in one go. All
of it holds the maintenance lock, so that no background work sees the data change under it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from vectorizer import logs
from vectorizer.database import Database
from vectorizer.maintenance import Maintenance
from vectorizer.storage.recovery import Recovered, StorageOptions
from vectorizer.storage.rewind import DivergedFile, rewind, save_diverged
from vectorizer.storage.snapshot import Snapshot, SnapshotFile, SnapshotReceiver, held_files, make_current

FRESH_SECS = 1.0
"""A manifest this young serves one more replica that attaches at the same moment."""

log = logs.get(__name__)


class Snapshots:
    """Snapshots of a database."""

    def __init__(self, database: Database, maintenance: Maintenance) -> None:
        self._database = database
        self._maintenance = maintenance
        self._captured_at = float("-inf")
        self.diverged: list[DivergedFile] = []
        """What this process has saved aside, oldest first."""
        self.installing = False
        """True while the node's data is being swapped: no promotion then."""

    # -- the master's side ------------------------------------------------------------------------------

    def capture(self) -> PinnedSnapshot:
        """A snapshot of now, durable, whose files and journal stay until it is released. OSError: no room on
        disk.
        """
        with self._database.maintenance_lock:
            node, now = self._database.node, time.monotonic()
            young = now - self._captured_at < FRESH_SECS and node.window[0] <= node.manifest.offset + 1
            if node.offset != node.manifest.offset and not young:
                self._maintenance.checkpoint()
                self._captured_at = time.monotonic()
            return PinnedSnapshot(
                Snapshot(self._database.directory, node.generation, node.manifest), self._maintenance
            )

    # -- the replica's side -----------------------------------------------------------------------------

    def held_files(self) -> dict[str, int]:
        """Names and CRC32 of files that need not be sent."""
        return held_files(self._database.node.manifest)

    def begin(self, document: Any, files: Iterable[SnapshotFile]) -> SnapshotReceiver:
        """Start to receive aside; ``write`` and ``abort`` of what is returned block: run them in a native
        thread.
        """
        node = self._database.node
        receiver = SnapshotReceiver(self._database.directory, node.generation, node.manifest, document, files)
        try:
            self._database.run_work(receiver.begin)
        except BaseException:
            self._database.run_work(receiver.abort)
            raise
        return receiver

    def install(self, receiver: SnapshotReceiver, *, keep_aside: bool) -> None:
        """Verify what was received and make it this node's data. On an error the old data stays as it is."""
        database = self._database
        self.installing = True
        try:
            with database.maintenance_lock:
                recovered = database.run_work(receiver.finish, storage_options(database))
                self._swap(recovered, receiver.manifest_name, keep_aside)
        finally:
            self.installing = False

    def save_diverged(self, fork_offset: int) -> DivergedFile:
        """Save the operations after the fork aside."""
        database, node = self._database, self._database.node
        database.flush()
        file = database.run_work(
            save_diverged,
            database.directory,
            node.journal,
            node.history,
            fork_offset,
            node.offset,
            bytes_max=database.settings.storage.diverged_bytes_max,
            timestamp_ms=time.time_ns() // 1_000_000,
        )
        self.diverged.append(file)
        log.warning(
            "diverged_operations_saved",
            file=file.path,
            operations=file.operations,
            complete=file.complete,
            fork_offset=fork_offset,
            offset=node.offset,
        )
        return file

    def go_back(self, fork_offset: int) -> bool:
        """Make this node's data as it was at the fork; False if nothing here reaches back so far."""
        database = self._database
        self.installing = True
        try:
            with database.maintenance_lock:
                node = database.node
                database.flush()
                found = database.run_work(
                    rewind,
                    database.directory,
                    node.generation,
                    node.journal,
                    node.history,
                    node.manifest,
                    fork_offset,
                    storage_options(database),
                )
                if found is None:
                    return False
                self._swap(*found, keep_aside=False)
                return True
        finally:
            self.installing = False

    def _swap(self, recovered: Recovered, manifest_name: str, keep_aside: bool) -> None:
        database, node = self._database, self._database.node
        label = f"{time.time_ns() // 1_000_000}-{node.replication_id or 'empty'}" if keep_aside else None
        old_journal, old_generation = node.journal, node.generation
        database.flush()
        database.run_work(
            make_current, database.directory, recovered.generation, manifest_name, old_generation, label
        )
        node.install(recovered)
        node.has_complete_data = True
        old_journal.close()
        database.data_replaced()
        log.info("data_installed", generation=recovered.generation, kept_aside=label, **node.describe())


class PinnedSnapshot:
    """A snapshot that keeps its files and the journal after it in place until it is released."""

    def __init__(self, snapshot: Snapshot, maintenance: Maintenance) -> None:
        self.snapshot = snapshot
        self._maintenance = maintenance
        maintenance.pin(self, snapshot.offset, snapshot.manifest.directories())

    @property
    def pinned(self) -> bool:
        """False once it was released, or the bound on what a slow replica may hold back was passed."""
        return self in self._maintenance.pins

    def release(self) -> None:
        """Files and journal may go; a second call does nothing."""
        self._maintenance.pins.pop(self, None)


def storage_options(database: Database) -> StorageOptions:
    """The sizes that recovery and journal need, from the settings in force."""
    settings = database.settings
    return StorageOptions(
        journal_file_bytes=settings.storage.journal_file_bytes,
        journal_bytes_max=settings.storage.journal_bytes_max,
        log_size=settings.replication.log_size,
        log_bytes_max=settings.replication.log_bytes_max,
    )
