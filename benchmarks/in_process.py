"""Measurements inside one process: ``python -m benchmarks.in_process snapshot|log COUNT DIRECTORY``.

Prints figures by name as JSON. The server's own code runs as it does in a node, under gevent.
"""
# ruff: noqa: E402

from __future__ import annotations

# The order matters: native_lock keeps the unpatched lock, so it is imported before gevent patches anything.
import vectorizer.native_lock  # noqa: F401  isort: skip
from gevent import monkey  # isort: skip

monkey.patch_all()

import statistics
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from zlib import crc32

import orjson
from gevent import socket

from benchmarks import data
from benchmarks.references import bare
from benchmarks.rest_client import HOST
from vectorizer import logs
from vectorizer.config import Settings, Source
from vectorizer.operations import CollectionConfig, Create, Rows, Upsert
from vectorizer.replication import messages
from vectorizer.replication.connection import Connection
from vectorizer.replication.history import History
from vectorizer.replication.log import ReplicationLog
from vectorizer.replication.transfer import chunk_frame
from vectorizer.server import Server
from vectorizer.storage.data_directory import DataDirectory
from vectorizer.storage.disk import Buffer, File, RealDisk, slices
from vectorizer.storage.manifest import Manifest
from vectorizer.storage.recovery import StorageOptions, create
from vectorizer.storage.snapshot import SnapshotFile, SnapshotReceiver

SEND_SECS = 30.0
FRAME_BYTES = 656
READ_ENTRIES = 1000
READS = 200


def log(count: int, directory: str) -> Mapping[str, float]:
    """The replication log, with its default limits."""
    frame = bytes(FRAME_BYTES)
    held = ReplicationLog(1_000_000, 64 << 20)
    began = time.perf_counter()
    for offset in range(1, count + 1):
        held.append(offset, frame, 1.0)
    rate = count / (time.perf_counter() - began)
    micros: list[float] = []
    middle = (held.first_offset + held.last_offset) // 2
    for _ in range(READS):
        began = time.perf_counter()
        frames = held.read(middle, READ_ENTRIES * FRAME_BYTES, count)
        micros.append((time.perf_counter() - began) * 1e6)
        assert frames is not None
        assert len(frames) == READ_ENTRIES, len(frames)
    return {"append /s": rate, "read µs": statistics.median(micros)}


def snapshot(count: int, directory: str) -> Mapping[str, float]:
    """A master's snapshot out to a socket; the same applied to another directory."""
    values = {
        "server.port": 0,
        "storage.data_dir": f"{directory}/master",
        "replication.role": "master",
        "replication.bind_address": f"{HOST}:0",
    }
    server = Server(Settings().replaced(values, source=Source.FLAG))
    server.start()
    index = server.settings.index
    config = CollectionConfig(
        "bench",
        data.DIMENSION,
        "cosine",
        index.recall,
        index.segment_rows,
        index.segment_rows_max,
        index.hnsw_m,
        index.ef_construction,
    )
    server.database.write(Create(config))
    ids = [data.identity(row).encode() for row in range(count)]
    server.database.write(Upsert("bench", Rows(ids, data.clusters(count), [b""] * count)))
    with bare("pipe") as port:
        figures, manifest, pieces = _sent(server, port)
    server.stop()
    return {**figures, "apply ms": _applied(f"{directory}/replica", manifest, pieces)}


def _sent(server: Server, port: int) -> tuple[dict[str, float], object, list[messages.Chunk]]:
    """Capture and send as a sender does, to a process that receives and adds up."""
    connection = Connection(socket.create_connection((HOST, port)), 1 << 20)
    chunk_bytes = server.settings.replication.snapshot_chunk_bytes
    pieces: list[messages.Chunk] = []
    began = time.perf_counter()
    pin = server.snapshots.capture(fresh=True)
    captured = time.perf_counter()
    files = pin.files({})
    entries = tuple(messages.FileEntry(file.name, file.bytes, file.crc32) for file in files)
    total = sum(file.bytes for file in files)
    told = messages.Snapshot(pin.snapshot.offset, pin.snapshot.document(), entries, total)
    connection.send([messages.encode(told)], SEND_SECS)
    for file in files:
        position = 0
        while position < file.bytes:
            piece = pin.read(file.name, position, min(chunk_bytes, file.bytes - position))
            pieces.append(messages.Chunk(file.name, position, *piece))
            connection.send(chunk_frame(pieces[-1]), SEND_SECS)
            position += len(piece.data)
    sent = time.perf_counter()
    manifest = pin.snapshot.document()
    pin.release()
    connection.close()
    times = {"capture ms": (captured - began) * 1e3, "sent ms": (sent - began) * 1e3, "MB": total / 1e6}
    return times, manifest, pieces


def _applied(root: str, manifest: object, pieces: Sequence[messages.Chunk]) -> float:
    """Milliseconds from the first chunk to an open store, in a directory on a disk that syncs nothing."""
    directory = DataDirectory(UnsyncedDisk(), root)
    options = StorageOptions(
        journal_file_bytes=64 << 20, journal_bytes_max=1 << 30, log_size=1_000_000, log_bytes_max=64 << 20
    )
    old = Manifest("replica", 0, None, 0, History(), {})
    recovered = create(directory, options, old)
    document = Manifest.from_document(manifest)
    files = [SnapshotFile(name, info.bytes, info.crc32) for name, info in document.files()]
    began = time.perf_counter()
    receiver = SnapshotReceiver(directory, recovered.generation, old, manifest, files)
    receiver.begin()
    for piece in pieces:
        receiver.write(piece.file, piece.position, piece.data, piece.crc32)
    store = receiver.finish(options).store
    millis = (time.perf_counter() - began) * 1e3
    assert store.get("bench").vector_count > 0
    return millis


class UnsyncedDisk(RealDisk):
    """The disk of the system, without waiting for it."""

    def create(self, path: str, size: int) -> File:
        return UnsyncedFile(super().create(path, size))

    def write_file(self, path: str, buffers: Iterable[Buffer]) -> int:
        checksum = 0
        with open(path, "wb") as file:
            for part in slices(buffers):
                checksum = crc32(part, checksum)
                file.write(part)
        return checksum

    def sync_directory(self, path: str) -> None:
        """Nothing."""


class UnsyncedFile:
    """A file of ``UnsyncedDisk``."""

    def __init__(self, file: File) -> None:
        self._file = file
        self.write_at = file.write_at
        self.truncate = file.truncate
        self.close = file.close

    @property
    def size(self) -> int:
        """Bytes."""
        return self._file.size

    def write_behind(self, count: int) -> None:
        """Nothing."""

    def sync(self) -> None:
        """Nothing."""


def main() -> None:
    """Measure and print."""
    logs.configure("warning", "text")
    what, count, directory = sys.argv[1:]
    figures = {"snapshot": snapshot, "log": log}[what](int(count), directory)
    print(orjson.dumps(figures).decode(), flush=True)


if __name__ == "__main__":
    main()
