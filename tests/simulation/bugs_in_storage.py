"""Planted: mistakes in the journal, checkpoints, snapshots, and in who gets which sync."""

from __future__ import annotations

from typing import Any

from tests.simulation.planted import around, plant

CRASHES = ("crash master", "crash replica", "crash at a step")
GAPS = ("cut", "partition", "crash replica", "restart", "freeze")


@plant("the sync decision takes a replica in that misses one operation more than the window holds", 80, GAPS)
def window_off_by_one() -> None:
    from vectorizer.replication import handshake

    around(
        handshake,
        "decide",
        lambda decide, master, replica, first, **more: decide(master, replica, first - 1, **more),
    )


@plant("the sync decision does not look at the window")
def window_not_checked() -> None:
    from vectorizer.replication import handshake

    around(
        handshake, "decide", lambda decide, master, replica, first, **more: decide(master, replica, 1, **more)
    )


@plant("the journal calls durable what was written but not synced")
def acknowledged_before_fsync() -> None:
    from vectorizer.storage.journal import Journal

    def sync(original: Any, journal: Any) -> None:
        dirty, journal._dirty = journal._dirty, []
        original(journal)
        journal._dirty = dirty

    around(Journal, "sync", sync)


@plant("a master sends what is applied, durable or not")
def sent_before_durable() -> None:
    from vectorizer.node import Node

    Node.sendable_offset = property(lambda node: node.offset)  # type: ignore[assignment,method-assign]


@plant("a checkpoint forgets which growing rows are deleted")
def forgotten_deletion() -> None:
    from vectorizer.storage import checkpoint, recovery
    from vectorizer.storage.growing import GrowingChunk

    def restore(original: Any, chunk: Any, record: Any) -> None:
        if not isinstance(chunk, GrowingChunk):
            original(chunk, record)

    around(checkpoint, "restore_deletions", restore)
    recovery.restore_deletions = checkpoint.restore_deletions


@plant("a merged segment comes without the deletions that happened while it was made")
def merge_loses_deletions() -> None:
    from vectorizer.storage.chunk import LIVE
    from vectorizer.storage.collection import Collection

    def install(original: Any, collection: Any, merge: Any, segment: Any, kept: Any) -> Any:
        sources = original(collection, merge, segment, kept)
        if segment is not None:
            segment.deleted_at[:] = LIVE
        return sources

    around(Collection, "install_merged", install)


@plant("a snapshot leaves out the rows that are still growing")
def snapshot_without_growing_rows() -> None:
    from dataclasses import replace

    from vectorizer.storage.snapshot import Snapshot

    def make(original: Any, snapshot: Any, directory: Any, generation: int, manifest: Any) -> None:
        collections = tuple(
            replace(record, segments=tuple(item for item in record.segments if item.sealed))
            for record in manifest.collections
        )
        original(snapshot, directory, generation, replace(manifest, collections=collections))

    around(Snapshot, "__init__", make)


@plant("a change of the history is not written to the journal", 20, (*CRASHES, "promote"))
def history_not_journaled() -> None:
    from vectorizer.node import Node

    def set_history(original: Any, node: Any, history: Any) -> None:
        node.history = history

    around(Node, "_set_history", set_history)


@plant("a batch that reaches into the next journal file loses what is there")
def lost_end_of_batch() -> None:
    from vectorizer.storage.journal import Journal

    def write(original: Any, journal: Any, batch: Any, sync: bool) -> None:
        parts, first = batch.parts, batch.parts[0]
        batch.parts = [first]
        original(journal, batch, sync)
        batch.parts = parts
        with journal._lock:
            end = parts[-1].file.position + parts[-1].end, parts[-1].last_offset
            journal._written = journal._synced = end

    around(Journal, "_write", write)


@plant("recovery does not look at the checksums of the journal's records", 30, CRASHES)
def checksum_ignored() -> None:
    from vectorizer.storage import journal_scan

    class Anything:
        def __ne__(self, other: object) -> bool:
            return False

    journal_scan.crc32 = lambda data: Anything()  # type: ignore[assignment]


@plant("after a reconnect the master begins one operation too early, and the replica takes what comes")
def applied_twice() -> None:
    from dataclasses import replace

    from vectorizer import codec, frame
    from vectorizer.node import Node
    from vectorizer.operations import decode_entry
    from vectorizer.replication.link import ReplicaLink
    from vectorizer.replication.session import MasterSession

    def master_streams(original: Any, session: Any, offset: int, durable: int, now_ms: int) -> None:
        original(session, max(0, offset - 1), min(durable, max(0, offset - 1)), now_ms)

    def replica_streams(original: Any, link: Any, *about: Any) -> None:
        original(link, *about)
        link._next_offset = max(1, link._next_offset - 1)

    def apply_frame(original: Any, node: Any, encoded: bytes, now: float) -> Any:
        entry = decode_entry(codec.decode(frame.body_of(encoded)))
        if entry.offset != node.offset or not node._has_room(len(encoded)):
            return original(node, encoded, now)
        node._apply(replace(entry, offset=node.offset + 1), encoded, now)
        return node.offset

    around(MasterSession, "_stream", master_streams)
    around(ReplicaLink, "_stream", replica_streams)
    around(Node, "apply_frame", apply_frame)


@plant("an old master's epoch is as good as a newer one", 60)
def stale_epoch_accepted() -> None:
    from vectorizer.replication import handshake, sync

    around(sync, "_guarded", lambda original, reason, fork, force: original(reason, fork, True))
    handshake.check_welcome = lambda *about, **more: None


@plant("a promotion does not raise the epoch")
def epoch_not_raised() -> None:
    from vectorizer.node import Node

    around(Node, "open_mastership", lambda original, node, *, raise_epoch: original(node, raise_epoch=False))


@plant("a node that goes back to a fork keeps one operation too many", 20)
def went_back_too_little() -> None:
    from vectorizer import snapshots

    def rewind(original: Any, directory: Any, *about: Any) -> Any:
        generation, journal, history, current, fork_offset, options = about
        return original(directory, generation, journal, history, current, fork_offset + 1, options)

    around(snapshots, "rewind", rewind)


@plant("the rename that makes a new state count is not synced", 20)
def current_not_synced() -> None:
    from vectorizer.storage.data_directory import DataDirectory

    def set_current(original: Any, directory: Any, generation: int, name: str) -> None:
        disk = directory.disk
        sync_directory, disk.sync_directory = disk.sync_directory, lambda path: None
        try:
            original(directory, generation, name)
        finally:
            disk.sync_directory = sync_directory

    around(DataDirectory, "set_current", set_current)


@plant("what has diverged is given up without saving it")
def diverged_not_saved() -> None:
    from vectorizer.replication.replica import ReplicaClient

    around(ReplicaClient, "_save_diverged", lambda original, client, fork_offset: None)
