"""What a peer or a disk hands to storage: operations, snapshots, journals, manifests."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

from tests.hostile.mutation import frames, sealed
from tests.simulation.disk import SimulatedDisk
from tests.unit.stored import LIMITS, config, rows
from vectorizer import codec
from vectorizer.errors import ApplyError, DamageError, PeerError, RequestError
from vectorizer.node import Node, Role
from vectorizer.operations import Create, Delete, Drop, Merge, Operation, Upsert, encode_operation
from vectorizer.replication.history import History
from vectorizer.storage import sealing
from vectorizer.storage.checkpoint import capture
from vectorizer.storage.data_directory import DataDirectory
from vectorizer.storage.journal_recovery import recover
from vectorizer.storage.manifest import Manifest
from vectorizer.storage.recovery import StorageOptions, load, open_data
from vectorizer.storage.snapshot import Snapshot, SnapshotFile, SnapshotReceiver

Take = Callable[[bytes], None]
OPTIONS = StorageOptions(16 << 10, 1 << 20, 1000, 1 << 20)
JOURNAL_BYTES_MAX = 32 << 10
RENEWED_AFTER = 200
"""Inputs that one node takes; they all add to its data."""


class StoredInMemory:
    """A small node on a disk in memory, with sealed and growing rows."""

    def __init__(self, *, role: Role = Role.MASTER, filled: bool = True) -> None:
        logging.getLogger("vectorizer").setLevel(logging.CRITICAL)
        self.disk = SimulatedDisk()
        self.directory = DataDirectory(self.disk, "/data")
        recovered = open_data(self.directory, OPTIONS, lambda: "a-node")
        self.node = Node(recovered, role, LIMITS, iter(map(str, range(100))).__next__)
        if filled:
            for operation in some_operations():
                self.node.commit(operation, 1.0, 1_700_000_000_000)
            self.write()
            self.seal()
            self.checkpoint()

    def write(self) -> None:
        while (batch := self.node.journal.take_batch()) is not None:
            batch.write(True)
            self.node.journal.complete(batch)

    def seal(self) -> None:
        while (job := sealing.next_seal(self.directory, self.node.generation, self.node.store)) is not None:
            job.run()
            job.finish(self.node.store)

    def checkpoint(self) -> None:
        from dataclasses import replace

        node = self.node
        base = replace(node.manifest, offset=node.offset, checksum=node.last_checksum, history=node.history)
        node.manifest = capture(self.directory, node.generation, base, node.store, set()).write()


def some_operations() -> list[Operation]:
    """Two segments, a growing chunk and a collection that is dropped again."""
    return [
        Create(config("things")),
        Upsert("things", rows(range(20), payload={"a": [1, "b"]})),
        Create(config("gone")),
        Drop("gone"),
        Delete("things", [b"id-1", b"nobody"]),
    ]


def operations() -> Take:
    """A replica's node takes the next operation of its master's stream, whatever it holds."""
    made: list[tuple[StoredInMemory, int]] = []

    def take(data: bytes) -> None:
        if not made or made[0][1] > RENEWED_AFTER:
            made[:] = [(StoredInMemory(), 0)]
            made[0][0].node.role = Role.REPLICA
        stored, count = made[0]
        made[0] = stored, count + 1
        node = stored.node
        for start, end in list(frames(data))[:4]:
            try:
                document = codec.decode(data[start + 8 : end])
                encoded = sealed(codec.encode({**document, "o": node.offset + 1, "e": node.epoch}))
            except codec.CodecError:
                continue
            before = node.offset
            try:
                node.apply_frame(encoded, 1.0)
            except (ApplyError, RequestError):
                assert node.offset == before, "refused, and changed"
                continue
            except BaseException:
                made.clear()
                raise
        stored.write()
        stored.seal()
        for collection in node.store.collections.values():
            for view in collection.view(node.offset).chunks:
                assert int(view.live.sum()) <= view.rows
        if set(node.store.collections) != {"things"}:
            made.clear()  # the next input may create them otherwise

    return take


def operation_seeds() -> list[bytes]:
    """One frame each, and three that belong together."""
    more: list[Operation] = [*some_operations(), Merge("things", ("s0000000000000000", "s0000000000000008"))]
    single = [encode_operation(operation, 1, 1, 1_700_000_000_000) for operation in more]
    fresh = [Create(config("fresh")), Upsert("fresh", rows(range(10))), Delete("fresh", [b"id-1"])]
    return [*single, b"".join(encode_operation(operation, 1, 1, 0) for operation in fresh)]


def snapshot() -> Take:
    """A replica receives a whole data set: begin, chunks, install. The first frame is manifest and files."""

    def take(data: bytes) -> None:
        pieces = [data[start + 8 : end] for start, end in frames(data)]
        old = StoredInMemory(filled=False)
        try:
            documents = [codec.decode(piece) for piece in pieces]
        except codec.CodecError:
            return
        if not documents:
            return
        receiver = None
        try:
            files = [
                SnapshotFile(str(name), int(size), int(crc)) for name, size, crc in documents[0]["files"]
            ]
        except (KeyError, TypeError, ValueError, OverflowError):
            return  # these are checked where messages are read, a target of its own
        if sum(file.bytes for file in files) > 1 << 22 or any(file.bytes < 0 for file in files):
            return
        try:
            receiver = SnapshotReceiver(
                old.directory, 1, old.node.manifest, documents[0].get("manifest"), files
            )
            receiver.begin()
            for chunk in documents[1:]:
                if isinstance(chunk.get("data"), bytes) and type(chunk.get("position")) is int:
                    receiver.write(str(chunk.get("file")), chunk["position"], chunk["data"])
            recovered = receiver.finish(OPTIONS, {})
        except (PeerError, DamageError, OSError):
            if receiver is not None:
                receiver.abort()
            assert open_data(old.directory, OPTIONS, lambda: "another").offset == 0, "old data is gone"
            return
        for collection in recovered.store.collections.values():
            _walk(collection.view(recovered.offset))

    return take


def _walk(view: Any) -> None:
    for part in view.chunks:
        for row in np.flatnonzero(part.live)[:50].tolist():
            part.chunk.id_at(row)
            codec.decode_payload(bytes(part.chunk.payload_at(row)))


@lru_cache
def snapshot_seeds() -> list[bytes]:
    """A snapshot as a master sends it."""
    stored = StoredInMemory()
    sent = Snapshot(stored.directory, stored.node.generation, stored.node.manifest)
    files = sent.files({})
    head = {"manifest": sent.document(), "files": [[file.name, file.bytes, file.crc32] for file in files]}
    chunks = [
        {"file": file.name, "position": 0, "data": sent.read(file.name, 0, file.bytes)} for file in files
    ]
    whole = [sealed(codec.encode(document)) for document in (head, *chunks)]
    return [b"".join(whole), b"".join(whole[:2]), whole[0]]


def journal() -> Take:

    def take(data: bytes) -> None:
        disk = SimulatedDisk()
        disk.make_directory("/journal")
        content = data[:JOURNAL_BYTES_MAX]
        disk.write_file("/journal/00000000000000000000.journal", [content])
        with_second = journal_files()
        if len(with_second) > 1 and len(data) % 2:
            disk.write_file(f"/journal/{with_second[1][0]}", [with_second[1][1]])
        for after_offset in (0, 3):
            try:
                opened, records, report = recover(
                    disk, "/journal", file_bytes=4096, bytes_max=1 << 16, after_offset=after_offset
                )
                for record in records:
                    assert isinstance(record, bytes | History)
                assert str(report)
                opened.close()
            except DamageError as error:
                assert error.file.startswith("/journal"), "another file is blamed"

    return take


@lru_cache
def journal_files() -> list[tuple[str, bytes]]:
    """Names and contents of the files of a node's journal."""
    stored = StoredInMemory()
    folder = stored.directory.journal_path(1)
    return [(name, stored.disk.read(f"{folder}/{name}")) for name in stored.disk.list(folder)]


def journal_seeds() -> list[bytes]:
    """Whole files, cut behind what is written."""
    seeds = []
    for _, content in journal_files():
        written = len(content.rstrip(b"\0")) + 1
        seeds += [content[:written], content[:JOURNAL_BYTES_MAX], content[: written // 2]]
    return seeds


def manifest() -> Take:
    """A manifest as it is found at a start, and what it leads to."""
    stored = StoredInMemory()

    def take(data: bytes) -> None:
        try:
            found = Manifest.decode(data, "/data/manifest")
        except DamageError as error:
            assert error.file == "/data/manifest"
            return
        assert Manifest.decode(found.encode(), "again") is not None
        try:
            recovered = load(stored.directory, 1, found, OPTIONS)
        except DamageError:
            return
        recovered.journal.close()
        for collection in recovered.store.collections.values():
            _walk(collection.view(recovered.offset))

    return take


def manifest_seeds() -> list[bytes]:
    """Of a new node, and of one with data."""
    empty, filled = StoredInMemory(filled=False), StoredInMemory()
    return [stored.node.manifest.encode() for stored in (empty, filled)]
