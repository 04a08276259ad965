"""Going back to a fork: what an old master wrote beyond it is saved aside, then its data is rebuilt as of
the fork.

The new generation is a manifest at or before the fork plus the journal's operations up to it; it counts by
the one rename of ``CURRENT``. Until then nothing has changed.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain

from vectorizer import codec, frame
from vectorizer.errors import DamageError
from vectorizer.replication.history import History
from vectorizer.storage.data_directory import DIVERGED, DataDirectory
from vectorizer.storage.journal import Journal
from vectorizer.storage.manifest import Manifest
from vectorizer.storage.recovery import Recovered, StorageOptions, create_journal, load

READ_BYTES = 4 << 20
DIVERGED_FILES_MAX = 20


@dataclass(frozen=True, slots=True)
class DivergedFile:
    """Operations saved aside; ``complete`` is False if the journal or the bound did not hold all of them."""

    path: str
    operations: int
    complete: bool


def save_diverged(
    directory: DataDirectory,
    journal: Journal,
    history: History,
    fork_offset: int,
    offset: int,
    *,
    bytes_max: int,
    timestamp_ms: int,
) -> DivergedFile:
    """Write the operations after the fork to a file of frames: a header, then the operations. Blocking.

    If the journal does not reach back to the fork, those that it has.
    """
    disk = directory.disk
    folder = f"{directory.root}/{DIVERGED}"
    disk.make_directory(folder)
    start = max(fork_offset, journal.first_offset - 1)
    count = size = 0
    for encoded in _operations(journal, start, offset):
        size += len(encoded)
        if size > bytes_max:
            break
        count += 1
    complete = fork_offset + count == offset
    header = {
        "m": "diverged",
        "version": 1,
        "fork_offset": fork_offset,
        "offset": offset,
        "operations": count,
        "complete": complete,
        "timestamp_ms": timestamp_ms,
        "history": history.to_document(),
    }
    path = f"{folder}/{timestamp_ms}-after-{fork_offset}.journal"
    kept = _operations(journal, start, start + count)
    disk.write_file(path, chain([frame.encode(codec.encode(header))], kept))
    disk.sync_directory(folder)
    disk.sync_directory(directory.root)
    for name in disk.list(folder)[:-DIVERGED_FILES_MAX]:
        disk.remove(f"{folder}/{name}")
    return DivergedFile(path, count, complete)


def rewind(
    directory: DataDirectory,
    generation: int,
    journal: Journal,
    history: History,
    current: Manifest,
    fork_offset: int,
    options: StorageOptions,
) -> tuple[Recovered, str] | None:
    """A new generation as of the fork and its manifest's name; None if no manifest and journal reach back.
    Blocking.

    It does not count yet: see ``snapshot.make_current``.
    """
    manifest = _manifest_before(directory, generation, fork_offset)
    if manifest is None or (fork_offset > manifest.offset and journal.first_offset > manifest.offset + 1):
        return None
    manifest = replace(
        manifest, history=history.truncated(manifest.offset), node_id=current.node_id, stored=current.stored
    )
    target = directory.prepare_generation()
    try:
        _link_files(directory, generation, target, manifest)
        reached = _copy_operations(directory, target, journal, history, manifest, fork_offset, options)
        if reached == fork_offset:
            name = directory.write_manifest(target, manifest)
            return load(directory, target, manifest, options, verify=False), name
    except BaseException:
        directory.disk.remove_tree(directory.generation_path(target))
        raise
    directory.disk.remove_tree(directory.generation_path(target))
    return None


def _link_files(directory: DataDirectory, generation: int, target: int, manifest: Manifest) -> None:
    """Give the files of a manifest their names in another generation too."""
    disk = directory.disk
    source_path, target_path = directory.segments_path(generation), directory.segments_path(target)
    for name in sorted(manifest.directories()):
        disk.make_directory(f"{target_path}/{name}")
    for name, _ in manifest.files():
        disk.link(f"{source_path}/{name}", f"{target_path}/{name}")
    for name in sorted(manifest.directories()):
        disk.sync_directory(f"{target_path}/{name}")
    disk.sync_directory(target_path)


def _copy_operations(
    directory: DataDirectory,
    target: int,
    journal: Journal,
    history: History,
    manifest: Manifest,
    fork_offset: int,
    options: StorageOptions,
) -> int:
    """A journal with the operations between manifest and fork; the last one's offset."""
    rebuilt = create_journal(directory, target, options, manifest.offset)
    try:
        rebuilt.append_history(history.truncated(fork_offset), manifest.offset)
        number = manifest.offset
        for encoded in _operations(journal, manifest.offset, fork_offset):
            number += 1
            if not rebuilt.has_room(len(encoded)) and not rebuilt.ensure_room(len(encoded)):
                raise OSError(errno.ENOSPC, "no room for the journal as of the fork")
            rebuilt.append(encoded, number)
            _write_out(rebuilt)
        _write_out(rebuilt)
    finally:
        rebuilt.close()
    return number


def _manifest_before(directory: DataDirectory, generation: int, offset: int) -> Manifest | None:
    """The newest manifest at or before an offset."""
    for name in reversed(directory.manifests(generation)):
        try:
            manifest = directory.read_manifest(generation, name)
        except DamageError:
            continue  # another one may do, and a full sync always does
        segments = directory.segments_path(generation)
        present = all(directory.disk.exists(f"{segments}/{file}") for file, _ in manifest.files())
        if manifest.offset <= offset and present:
            return manifest
    return None


def _operations(journal: Journal, after_offset: int, through_offset: int) -> Iterator[bytes]:
    """The journal's operations of a range, as far as it has them."""
    while after_offset < through_offset:
        frames = journal.read(after_offset, READ_BYTES, through_offset)
        if not frames:
            return
        yield from frames
        after_offset += len(frames)


def _write_out(journal: Journal) -> None:
    batch = journal.take_batch()
    if batch is not None:
        batch.write(True)
        journal.complete(batch)
