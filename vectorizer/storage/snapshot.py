"""Snapshots: a full sync ships the files of a manifest, and the replica installs them by one rename.

The master's side reads the files of a checkpoint that is pinned meanwhile. The replica's side receives into
a new generation, which counts for nothing until everything is verified and ``CURRENT`` leads to it. Files
that the replica has already, same name and checksum, are linked instead of sent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any
from zlib import crc32

from vectorizer import crc
from vectorizer.errors import DamageError, PeerError
from vectorizer.storage.data_directory import DataDirectory
from vectorizer.storage.disk import Buffer, File, checksum_of
from vectorizer.storage.manifest import Manifest
from vectorizer.storage.recovery import Recovered, StorageOptions, create_journal, load
from vectorizer.storage.segment import FileInfo


@dataclass(frozen=True, slots=True)
class SnapshotFile:
    """A file of a snapshot; ``name`` is its path below ``segments/``."""

    name: str
    bytes: int
    crc32: int


class Snapshot:
    """The master's side: a manifest whose files stay in place until the pin is released."""

    def __init__(self, directory: DataDirectory, generation: int, manifest: Manifest) -> None:
        self.manifest = manifest
        self.offset = manifest.offset
        self._directory = directory
        self._generation = generation

    def document(self) -> dict[str, Any]:
        """The manifest as it is sent: without this node's own settings."""
        return self.manifest.with_stored({}).to_document()

    def files(self, have: Mapping[str, int]) -> list[SnapshotFile]:
        """The files to send to a replica that has some already, by name and CRC32."""
        return [
            SnapshotFile(name, info.bytes, info.crc32)
            for name, info in self.manifest.files()
            if have.get(name) != info.crc32
        ]

    def read(self, name: str, position: int, count: int) -> bytes:
        """A piece of a file. Blocking."""
        path = f"{self._directory.segments_path(self._generation)}/{name}"
        return self._directory.disk.read(path, position, count)


def held_files(manifest: Manifest) -> dict[str, int]:
    """Names and CRC32 of the files of a node's own newest manifest, as ``accept`` tells the master."""
    return {name: info.crc32 for name, info in manifest.files()}


class SnapshotReceiver:
    """The replica's side: a new generation in the making. All methods block; errors leave the old data
    untouched.
    """

    def __init__(
        self,
        directory: DataDirectory,
        old_generation: int,
        old: Manifest,
        document: Any,
        files: Iterable[SnapshotFile],
    ) -> None:
        self.directory = directory
        self.generation: int | None = None
        try:
            self.manifest = replace(Manifest.from_document(document), node_id=old.node_id, stored=old.stored)
        except ValueError as error:
            raise PeerError("snapshot_malformed", f"the snapshot's manifest is refused: {error}") from error
        self._old_generation = old_generation
        self._old_files = dict(old.files())
        self._expected: dict[str, FileInfo] = dict(self.manifest.files())
        self._sent = {file.name: file for file in files}
        self._open: dict[str, File] = {}
        self._received: dict[str, tuple[int, int]] = {}
        for file in self._sent.values():
            info = self._expected.get(file.name)
            if info is None or (info.bytes, info.crc32) != (file.bytes, file.crc32):
                raise PeerError(
                    "snapshot_malformed", f"file {file.name!r} is announced but not in the manifest"
                )

    def begin(self) -> None:
        """Make the new generation and link what is there already. OSError if there is no room."""
        directory, disk = self.directory, self.directory.disk
        self.generation = directory.prepare_generation()
        target = directory.segments_path(self.generation)
        source = directory.segments_path(self._old_generation)
        for name in sorted(self.manifest.directories()):
            disk.make_directory(f"{target}/{name}")
        for name, info in self._expected.items():
            if name in self._sent:
                continue
            if self._old_files.get(name) != info:
                raise PeerError("snapshot_malformed", f"file {name!r} is neither sent nor here already")
            if checksum_of(disk.map(f"{source}/{name}")) != info.crc32:
                raise DamageError(
                    f"{source}/{name}", "its checksum is wrong; it is fetched from the master anew"
                )
            disk.link(f"{source}/{name}", f"{target}/{name}")

    def write(self, name: str, position: int, data: Buffer, known: int | None = None) -> None:
        """The next piece of a file, in order; ``known``: its CRC32. PeerError if it is not what was
        announced.
        """
        assert self.generation is not None
        file = self._sent.get(name)
        done, checksum = self._received.get(name, (0, 0))
        if file is None or position != done or done + len(data) > file.bytes:
            raise PeerError(
                "snapshot_malformed", f"{len(data)} bytes of {name!r} at {position} were not expected"
            )
        handle = self._open.get(name)
        if handle is None:
            path = f"{self.directory.segments_path(self.generation)}/{name}"
            handle = self._open[name] = self.directory.disk.create(path, file.bytes)
        handle.write_at(position, [data])
        handle.write_behind(len(data))
        checksum = crc32(data, checksum) if known is None else crc.joined(checksum, known, len(data))
        done += len(data)
        self._received[name] = done, checksum
        if done == file.bytes:
            if checksum != file.crc32:
                raise PeerError(
                    "snapshot_corrupt",
                    f"{name!r} arrived with CRC32 {checksum}, the master announced {file.crc32}",
                )
            handle.sync()
            handle.close()
            del self._open[name]

    def finish(self, options: StorageOptions, stored: Mapping[str, Any] | None = None) -> Recovered:
        """Verify that all is here and durable, and open it; ``make_current`` makes it count.

        ``stored``: the settings made by REST, if they are newer than the old manifest.
        """
        assert self.generation is not None
        if stored is not None:
            self.manifest = self.manifest.with_stored(stored)
        directory, disk = self.directory, self.directory.disk
        segments = directory.segments_path(self.generation)
        for name, file in self._sent.items():
            done = self._received.get(name, (0, 0))[0]
            if done != file.bytes:
                raise PeerError("snapshot_incomplete", f"{name!r} has {done} of {file.bytes} bytes")
            if file.bytes == 0:
                disk.write_file(f"{segments}/{name}", [])
        for name in sorted(self.manifest.directories()):
            disk.sync_directory(f"{segments}/{name}")
        disk.sync_directory(segments)
        journal = create_journal(directory, self.generation, options, self.manifest.offset)
        try:
            self.manifest_name = directory.write_manifest(self.generation, self.manifest)
            return load(directory, self.generation, self.manifest, options, verify=False, journal=journal)
        except BaseException:
            journal.close()
            raise

    def keep(self) -> None:
        """What was received counts now, or may count: ``abort`` leaves it alone."""
        self.generation = None

    def abort(self) -> None:
        """Drop everything received."""
        for handle in self._open.values():
            handle.close()
        self._open.clear()
        if self.generation is not None:
            self.directory.disk.remove_tree(self.directory.generation_path(self.generation))
            self.generation = None


def make_current(
    directory: DataDirectory, new_generation: int, name: str, old_generation: int, aside: str | None
) -> None:
    """From here on the new generation counts. ``remove_other_generations`` then removes the old one, or keeps
    it under ``aside`` if a label is given.
    """
    if aside is not None:
        directory.keep_aside(old_generation, aside)
    directory.set_current(new_generation, name)
