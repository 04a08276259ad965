"""Exchange of whole data sets: capturing a snapshot for a replica, installing one, going back to a fork.

The steps that take time run in native threads; the node's data is swapped on the event loop in one go. All
of it holds the maintenance lock, so that no background work sees the data change under it. The swap is never
killed half-way: whoever ends the link waits until disk and memory agree again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import gevent

from vectorizer import logs
from vectorizer.database import Database
from vectorizer.maintenance import Maintenance
from vectorizer.node import NodeFailure
from vectorizer.storage.held_file import HeldFile, Piece
from vectorizer.storage.manifest import Manifest
from vectorizer.storage.recovery import Recovered, StorageOptions
from vectorizer.storage.rewind import DIVERGED_FILES_MAX, DivergedFile, rewind, save_diverged
from vectorizer.storage.snapshot import Snapshot, SnapshotFile, SnapshotReceiver, held_files, make_current

FRESH_SECS = 1.0
"""A manifest this young serves one more replica that attaches at the same moment."""
HELD_BYTES_MAX = 64 << 20
"""Growing rows that full syncs have not sent yet, of all replicas, in bytes of files; beyond it a checkpoint
is made of them, and they are read from its files.
"""

log = logs.get(__name__)


class Snapshots:
    """Snapshots of a database."""

    def __init__(self, database: Database, maintenance: Maintenance) -> None:
        self._database = database
        self._maintenance = maintenance
        self._captured_at = float("-inf")
        self._offered: Manifest | None = None
        self.diverged: list[DivergedFile] = []
        """What this process has saved aside, oldest first."""
        self.installing = False
        """True while the node's data is being swapped: no promotion then."""

    # -- the master's side ------------------------------------------------------------------------------

    def capture(self, *, fresh: bool = False) -> PinnedSnapshot:
        """A snapshot whose files and journal stay until it is released: of now, or, if that is more than may
        be held in memory, of a checkpoint. OSError: no room on disk for that one. ``fresh``: in no case one
        of a moment ago, the replica needs what came since.
        """
        return self._captured_in_memory() or self._captured_on_disk(fresh)

    def _captured_in_memory(self) -> PinnedSnapshot | None:
        """None if there is too much that no file has. The replica is told that it is complete when this
        node's journal is durable so far.
        """
        database, maintenance = self._database, self._maintenance
        with maintenance.manifest_lock:  # nothing is removed and no data swapped before it is pinned
            checkpoint = maintenance.capture()
            captured = database.run_native(
                checkpoint.hold,
                HELD_BYTES_MAX - maintenance.held_bytes,
                database.settings.replication.snapshot_chunk_bytes,
            )
            if captured is None:
                return None
            manifest, held = captured
            snapshot = Snapshot(database.directory, checkpoint.generation, manifest)
            return PinnedSnapshot(database, maintenance, snapshot, held)

    def _captured_on_disk(self, fresh: bool) -> PinnedSnapshot:
        with self._database.maintenance_lock:
            node, now = self._database.node, time.monotonic()
            young = now - self._captured_at < FRESH_SECS and node.window[0] <= node.manifest.offset + 1
            young = young and not fresh and node.history == node.manifest.history
            if not young:
                self._maintenance.checkpoint()
                self._captured_at = time.monotonic()
            snapshot = Snapshot(self._database.directory, node.generation, node.manifest)
            return PinnedSnapshot(self._database, self._maintenance, snapshot, {})

    # -- the replica's side -----------------------------------------------------------------------------

    def held_files(self) -> dict[str, int]:
        """Names and CRC32 of files that need not be sent; they stay in place until ``begin`` has them."""
        node = self._database.node
        self._offered = node.manifest
        self._maintenance.pin(self, node.offset, node.manifest.directories())
        return held_files(node.manifest)

    def begin(self, document: Any, files: Iterable[SnapshotFile]) -> SnapshotReceiver:
        """Start to receive aside; ``write`` and ``abort`` of what is returned block: run them in a native
        thread.
        """
        node = self._database.node
        old = replace(self._offered or node.manifest, stored=node.manifest.stored)
        receiver = SnapshotReceiver(self._database.directory, node.generation, old, document, files)
        try:
            self._database.run_work(receiver.begin)
        except BaseException:
            self._database.run_work(receiver.abort)
            raise
        finally:
            self.forget_offer()
        return receiver

    def forget_offer(self) -> None:
        """Nobody sends a snapshot that relies on ``held_files``."""
        self._offered = None
        self._maintenance.unpin(self)

    def install(self, receiver: SnapshotReceiver, *, keep_aside: bool) -> None:
        """Verify what was received and make it this node's data. On an error the old data stays as it is."""
        database = self._database
        self.installing = True
        try:
            with database.maintenance_lock, self._maintenance.manifest_lock:
                stored = database.node.manifest.stored  # may have changed since ``begin``
                recovered = database.run_work(receiver.finish, storage_options(database), stored)
                self._swap(recovered, receiver.manifest_name, keep_aside, receiver.keep)
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
        self.diverged = [*self.diverged, file][-DIVERGED_FILES_MAX:]
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
            with database.maintenance_lock, self._maintenance.manifest_lock:
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
                recovered, name = found
                self._swap(recovered, name, keep_aside=False)
                return True
        finally:
            self.installing = False

    def _swap(
        self,
        recovered: Recovered,
        manifest_name: str,
        keep_aside: bool,
        counts: Callable[[], None] = lambda: None,
    ) -> None:
        """Make new data this node's; ``counts`` is called once it may be what ``CURRENT`` leads to.

        The disk's part is in a greenlet that nobody kills: half of it would leave memory and disk apart.
        """
        disk = gevent.spawn(self._swap_on_disk, recovered, manifest_name, keep_aside, counts)
        try:
            disk.join()
        finally:  # also if this greenlet is killed
            disk.join()
            error = disk.get()
            if error is None:
                self._swap_in_memory(recovered)
        if error is not None:
            raise error

    def _swap_on_disk(
        self, recovered: Recovered, manifest_name: str, keep_aside: bool, counts: Callable[[], None]
    ) -> Exception | None:
        """None if it is done, else why not; raised by who waits for it."""
        database, node = self._database, self._database.node
        label = f"{time.time_ns() // 1_000_000}-{node.replication_id or 'empty'}" if keep_aside else None
        place = recovered.generation, manifest_name
        try:
            database.flush()
            database.run_work(make_current, database.directory, *place, node.generation, label)
        except (OSError, NodeFailure) as error:
            recovered.journal.close()
            if database.run_work(database.directory.current) != place:
                return error  # nothing has changed
            counts()
            failure = NodeFailure(f"new data counts already, but perhaps not durably: {error}")
            database.fail(failure)
            return failure
        counts()
        try:
            database.close_journal(node.journal)
            database.run_work(database.directory.remove_other_generations, recovered.generation)
            if label is not None:
                log.info("data_kept_aside", label=label)
        except OSError as error:
            log.warning("old_data_left", reason=str(error), removed="at the next start")
        return None

    def _swap_in_memory(self, recovered: Recovered) -> None:
        node = self._database.node
        node.install(recovered)
        node.has_complete_data = True
        self._database.data_replaced()
        log.info("data_installed", generation=recovered.generation, **node.describe())


class PinnedSnapshot:
    """A snapshot that keeps its files and the journal after it in place until it is released, and in memory
    the files that are not on disk, each until it has been read.
    """

    def __init__(
        self, database: Database, maintenance: Maintenance, snapshot: Snapshot, held: dict[str, HeldFile]
    ) -> None:
        self.snapshot = snapshot
        self._database = database
        self._maintenance = maintenance
        self._first = frozenset(held)
        maintenance.pin(self, snapshot.offset, snapshot.manifest.directories(), held)

    @property
    def pinned(self) -> bool:
        """False once it was released, or the bound on what a slow replica may hold back was passed."""
        return self in self._maintenance.pins

    def files(self, have: Mapping[str, int]) -> list[SnapshotFile]:
        """The files to send to a replica that has some already, by name and CRC32: those in memory first,
        which a slow replica should not hold for long. What is not sent is not held any longer.
        """
        files = self.snapshot.files(have)
        pin = self._maintenance.pins.get(self)
        if pin is not None:
            for name in pin.held.keys() - {file.name for file in files}:
                del pin.held[name]
        return sorted(files, key=lambda file: file.name not in self._first)

    def read(self, name: str, position: int, count: int) -> Piece:
        """From 1 to ``count`` bytes of a file, none at its end; while it is pinned. A file in memory is read
        in order, and is gone when its last byte was.
        """
        held = self._maintenance.pins[self].held
        file = held.get(name)
        if file is None:
            return Piece(self._database.run_native(self.snapshot.read, name, position, count))
        piece = file.read(position, count)
        if position + len(piece.data) == file.bytes:
            del held[name]
        return piece

    def release(self) -> None:
        """Files and journal may go; a second call does nothing."""
        self._maintenance.unpin(self)


def storage_options(database: Database) -> StorageOptions:
    """The sizes that recovery and journal need, from the settings in force."""
    settings = database.settings
    return StorageOptions(
        journal_file_bytes=settings.storage.journal_file_bytes,
        journal_bytes_max=settings.storage.journal_bytes_max,
        log_size=settings.replication.log_size,
        log_bytes_max=settings.replication.log_bytes_max,
    )
