"""``vectorizer check``: verify a data directory offline and say what was found. Nothing is changed."""

from __future__ import annotations

from typing import TextIO

from vectorizer.errors import DamageError
from vectorizer.storage.data_directory import CURRENT, DataDirectory
from vectorizer.storage.disk import RealDisk, checksum_of
from vectorizer.storage.graph_files import GRAPH_FILES
from vectorizer.storage.journal_recovery import inspect
from vectorizer.storage.manifest import Manifest
from vectorizer.storage.segment import open_segment

DAMAGED = 1
UNUSABLE = 2


def check_data_directory(path: str, out: TextIO) -> int:
    """Verify CURRENT, manifest, segments, graphs and journal; 0 = sound, 1 = damaged, 2 = no data."""
    disk = RealDisk()
    directory = DataDirectory(disk, path)
    if not disk.exists(path):
        print(f"{path}: there is no such directory", file=out)
        return UNUSABLE
    try:
        if not disk.exists(f"{path}/{CURRENT}") and not directory.generations():
            print(f"{path}: it holds no data", file=out)  # and is no place for a file with a lock
            return UNUSABLE
        lock = disk.lock(f"{path}/LOCK")
    except BlockingIOError:
        print(f"{path}: a running server holds it; stop that first", file=out)
        return UNUSABLE
    except OSError as error:
        print(f"{path}: it cannot be locked: {error.strerror}", file=out)
        return UNUSABLE
    try:
        return _check(directory, out)
    except OSError as error:
        print(f"{path}: it cannot be read: {error}", file=out)
        return DAMAGED
    finally:
        lock.release()


def _check(directory: DataDirectory, out: TextIO) -> int:
    path = directory.root
    try:
        current = directory.current()
        if current is None:
            print(f"{path}: it holds no data", file=out)
            return UNUSABLE
        generation, name = current
        manifest = directory.read_manifest(generation, name)
    except DamageError as error:
        print(f"damaged: {error}", file=out)
        return DAMAGED
    print(
        f"{path}: manifest {name} of generation {generation}, offset {manifest.offset}, "
        f"node {manifest.node_id}, {len(manifest.collections)} collections",
        file=out,
    )
    damaged = _check_segments(directory, generation, manifest, out)
    damaged += _check_journal(directory, generation, manifest, out)
    print(f"{path}: {'sound' if not damaged else f'{damaged} damaged'}", file=out)
    return DAMAGED if damaged else 0


def _check_segments(directory: DataDirectory, generation: int, manifest: Manifest, out: TextIO) -> int:
    damaged = 0
    for collection in manifest.collections:
        live = 0
        for record in collection.segments:
            path = f"{directory.segments_path(generation)}/{record.directory}"
            content = {name: info for name, info in record.files.items() if name not in GRAPH_FILES}
            try:
                open_segment(directory.disk, path, record.name, content, verify=True)
            except DamageError as error:
                damaged += 1
                print(f"damaged: {error}", file=out)
            for name in sorted(set(record.files) - set(content)):
                try:
                    sound = checksum_of(directory.disk.map(f"{path}/{name}")) == record.files[name].crc32
                except OSError:
                    sound = False
                if not sound:
                    print(
                        f"note: {path}/{name}: the graph is damaged; it is built again at the next start",
                        file=out,
                    )
            live += record.rows - len(record.deleted_rows)
        print(
            f"collection {collection.config.name!r}: {live} vectors of dimension "
            f"{collection.config.dimension} in {len(collection.segments)} segments "
            f"at offset {collection.offset}",
            file=out,
        )
    return damaged


def _check_journal(directory: DataDirectory, generation: int, manifest: Manifest, out: TextIO) -> int:
    try:
        report = inspect(directory.disk, directory.journal_path(generation), after_offset=manifest.offset)
    except DamageError as error:
        print(f"damaged: {error}", file=out)
        return 1
    print(f"journal: {report}", file=out)
    return 0
