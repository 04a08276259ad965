"""Background work of a node, one piece at a time: seal, merge, plan merges, write checkpoints, trim the
journal.

Each piece is made on the event loop, runs in a native thread, and is finished on the loop. A disk without
room is waited for: the rows stay where they are, in memory and in the journal. Graphs are built beside it
(``graphs``).
"""

from __future__ import annotations

import errno
import time
from dataclasses import replace
from typing import NamedTuple

import gevent
from gevent.event import Event
from gevent.lock import RLock

from vectorizer import logs
from vectorizer.breathing import let_others_run
from vectorizer.database import Database
from vectorizer.errors import RequestError
from vectorizer.graphs import GraphBuilder
from vectorizer.node import Node, NodeFailure
from vectorizer.operations import Merge as MergeOperation
from vectorizer.storage import merging, sealing
from vectorizer.storage.checkpoint import Checkpoint, capture
from vectorizer.storage.graph_files import GRAPH_FILES
from vectorizer.storage.held_file import HeldFile
from vectorizer.storage.manifest import Manifest

RETRY_SECS = 5.0
POLL_SECS = 0.5
SETTLE_SECS = 2.0
"""So long new segments wait for more before a checkpoint names them: recovery only reads more journal until
then.
"""

log = logs.get(__name__)


class Pin(NamedTuple):
    """What a running full sync needs: the journal after ``offset``, directories of segments, and files that
    are in memory only, by their path below ``segments/``; ``since`` when.
    """

    offset: int
    directories: set[str]
    since: float
    held: dict[str, HeldFile]


class Maintenance:
    """Owner of the maintenance greenlet of a database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.manifest_lock = RLock()
        """Held while a manifest is made or the data swapped, taken after the maintenance lock; so a change of
        role does not wait for a long merge.
        """
        self._wake = Event()
        self._graphs = GraphBuilder(database, self._graph_built)
        self._segments_changed_at: float | None = None
        self._checkpoint_at = time.monotonic()
        self._checkpoint_position = 0
        self._rest_since: dict[int, tuple[int, float]] = {}
        """By identity of a collection: its newest operation, and since when it is that."""
        self.pins: dict[object, Pin] = {}
        """Of running full syncs, by who needs them."""

    def start(self) -> None:
        """Start working."""
        if _lacks_graphs(self._database.node):
            self.segments_changed()  # a manifest that names them fails full syncs
        self._database.own(gevent.spawn(self._run), "maintenance")
        self._graphs.start()

    def pin(
        self, owner: object, offset: int, directories: set[str], held: dict[str, HeldFile] | None = None
    ) -> None:
        """Keep files and journal for a running full sync, and in memory what no file has."""
        self.pins[owner] = Pin(offset, directories, time.monotonic(), held or {})

    def unpin(self, owner: object) -> None:
        """Files and journal may go; a second call does nothing."""
        self.pins.pop(owner, None)

    @property
    def held_bytes(self) -> int:
        """Bytes that running full syncs keep in memory."""
        return sum(file.bytes for pin in self.pins.values() for file in pin.held.values())

    def segments_changed(self) -> None:
        """Files were made that no manifest names yet."""
        if self._segments_changed_at is None:
            self._segments_changed_at = time.monotonic()

    def _graph_built(self) -> None:
        self.segments_changed()
        self._wake.set()  # a merge may wait for it

    def graphs_document(self) -> dict[str, object]:
        """How far building graphs is, as status shows it."""
        graphs = self._graphs
        return {
            "building": graphs.building,
            "built": graphs.built,
            "failed": graphs.failed,
            "build_secs": round(graphs.build_secs, 3),
        }

    def _run(self) -> None:
        while True:
            self._wake.wait(POLL_SECS)
            self._wake.clear()
            try:
                while worked := self._work():
                    let_others_run()  # a full sync that waits for the lock gets it between two pieces of work
                    if self._checkpoint_due():
                        break  # work may never end, the journal must
                if self._checkpoint_due():
                    self.checkpoint()
                if worked:
                    self._wake.set()
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    self._database.fail(NodeFailure(f"background work failed: {error}"))
                    return
                log.warning("disk_full", retry_secs=RETRY_SECS, error=str(error))
                gevent.sleep(RETRY_SECS)

    def _work(self) -> bool:
        """Do one piece of work; whether there was any."""
        database = self._database
        rows_min = database.settings.index.graph_rows_min
        with database.maintenance_lock:
            node = database.node
            if merging.install_made(node.store, rows_min):
                self.segments_changed()
            job = sealing.next_seal(database.directory, node.generation, node.store) or merging.next_merge(
                database.directory, node.generation, node.store
            )
            if job is None:
                return self._plan_merge()
            database.run_work(job.run)
            job.finish(node.store)
            merging.install_made(node.store, rows_min)
        self.segments_changed()
        self._graphs.wake()
        log.debug(f"{job.kind}_done", collection=job.collection.config.name)
        return True

    def _plan_merge(self) -> bool:
        database = self._database
        if not database.node.writable:
            return False
        at_rest = self._at_rest()
        for collection in list(database.node.store.collections.values()):
            segments = merging.plan(collection, database.settings.index.merge_dead_fraction)
            if segments is None and collection.identity in at_rest:
                segments = merging.plan_idle(collection)
            if segments is not None:
                try:
                    database.write(MergeOperation(collection.config.name, segments))
                except RequestError as error:  # no room on disk, or the role changed: later
                    log.warning("merge_postponed", collection=collection.config.name, reason=str(error))
                    return False
                return True
        return False

    def _at_rest(self) -> set[int]:
        """Identities of the collections that no operation has changed for ``index.merge_idle_secs``."""
        now, before = time.monotonic(), self._rest_since
        self._rest_since = {}
        for collection in self._database.node.store.collections.values():
            offset, since = before.get(collection.identity, (-1, now))
            self._rest_since[collection.identity] = (
                collection.offset,
                since if offset == collection.offset else now,
            )
        idle_secs = self._database.settings.index.merge_idle_secs
        return {identity for identity, (_, since) in self._rest_since.items() if now - since > idle_secs}

    # -- checkpoints ------------------------------------------------------------------------------------

    def _checkpoint_due(self) -> bool:
        database, now = self._database, time.monotonic()
        storage = database.settings.storage
        if self._segments_changed_at is not None and now - self._segments_changed_at > SETTLE_SECS:
            return True
        if database.node.offset == database.node.manifest.offset:
            return False
        written = database.node.journal.appended_bytes - self._checkpoint_position
        bytes_max = min(storage.checkpoint_bytes, storage.journal_bytes_max // 2)
        return written > bytes_max or now - self._checkpoint_at > storage.checkpoint_interval_secs

    def capture(self) -> Checkpoint:
        """What a manifest of now would say; under the manifest lock."""
        database, node = self._database, self._database.node
        base = replace(
            node.manifest,
            node_id=node.node_id,
            offset=node.offset,
            checksum=node.last_checksum,
            timestamp_ms=node.last_timestamp_ms,
            history=node.history,
        )
        pinned: set[str] = set().union(*(pin.directories for pin in self.pins.values()))
        return capture(database.directory, node.generation, base, node.store, pinned)

    def checkpoint(self) -> Manifest:
        """Write a checkpoint of now and trim the journal; the manifest. OSError if there is no room."""
        database = self._database
        with database.maintenance_lock, self.manifest_lock:
            node = database.node
            changed_at, self._segments_changed_at = self._segments_changed_at, None
            position = node.journal.appended_bytes
            self._drop_old_pins()
            checkpoint = self.capture()
            try:
                database.flush()
                node.manifest = database.run_work(checkpoint.write)
            except BaseException:
                self._segments_changed_at = changed_at or self._segments_changed_at
                raise
            self._checkpoint_at = time.monotonic()
            self._checkpoint_position = position
            # The pins change on the event loop: they are read here, not in the native thread.
            covered = min([node.manifest.offset, *(pin.offset for pin in self.pins.values())])
            database.run_work(self._trim_journal, covered)
            log.debug("checkpoint_done", offset=node.manifest.offset)
            return node.manifest

    def store_settings(self, stored: dict[str, object]) -> None:
        """Write settings made by REST durably: the same data, another manifest."""
        database = self._database
        with self.manifest_lock:
            manifest = database.node.manifest.with_stored(stored)
            database.run_work(self._write_manifest, manifest)
            database.node.manifest = manifest

    def _write_manifest(self, manifest: Manifest) -> None:
        directory, generation = self._database.directory, self._database.node.generation
        directory.set_current(generation, directory.write_manifest(generation, manifest))
        directory.drop_old_manifests(generation)

    def _drop_old_pins(self) -> None:
        """A full sync that takes too long, or holds back too much journal, loses its pin and fails."""
        settings, journal = self._database.settings, self._database.node.journal
        oldest_allowed = time.monotonic() - settings.replication.snapshot_pin_secs
        overfull = journal.bytes_held > 2 * settings.storage.journal_bytes_max
        for owner, pin in list(self.pins.items()):
            if pin.since < oldest_allowed or overfull:
                del self.pins[owner]
                log.warning("full_sync_pin_dropped", offset=pin.offset, journal_bytes=journal.bytes_held)

    def _trim_journal(self, covered: int) -> None:
        """Journal files go when manifest and pins cover them, up to ``covered``, and the window does not need
        them, or has no more room.
        """
        node, storage = self._database.node, self._database.settings.storage
        node.journal.trim(min(covered, node.offset - node.limits.log_size))
        for file in node.journal.files():
            if node.journal.bytes_held <= storage.journal_bytes_max:
                break
            if file.last_offset > covered:
                break
            node.journal.trim(file.last_offset)


def _lacks_graphs(node: Node) -> bool:
    """Whether the manifest names a graph that could not be loaded."""
    graphs = {
        (record.config.name, segment.name)
        for record in node.manifest.collections
        for segment in record.segments
        if not segment.files.keys().isdisjoint(GRAPH_FILES)
    }
    loaded = {
        (name, segment.name)
        for name, collection in node.store.collections.items()
        for segment in collection.segments
        if segment.graph is not None
    }
    return not graphs <= loaded
