"""From the files of a journal back to a journal: what is whole is kept, a torn tail is cut, a loss stops us.

`journal_scan` reads the files, `journal_chain` decides which runs are the journal, here it is repaired and
opened.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field

from vectorizer import codec, frame
from vectorizer.errors import DamageError
from vectorizer.replication.history import History
from vectorizer.storage.disk import Disk
from vectorizer.storage.journal import Journal
from vectorizer.storage.journal_chain import ADVICE, Chain, header_bytes, is_empty, link
from vectorizer.storage.journal_file import (
    SUFFIX,
    UNFINISHED_SUFFIX,
    JournalFile,
    Mark,
    create_file,
    decode_history,
    operation_offset,
    position_of,
)
from vectorizer.storage.journal_scan import Scan, scan_file

Record = bytes | History
"""An operation's frame, or a history record."""

_ZEROS = bytes(1 << 20)


@dataclass(slots=True)
class RecoveryReport:
    """What recovery found and did."""

    files: int = 0
    first_offset: int = 0
    """First operation held, last_offset + 1 if none."""
    last_offset: int = 0
    operations: int = 0
    """Operations after the manifest's offset."""
    cut_file: str | None = None
    """The file with the torn tail, None if there was none."""
    cut_position: int = 0
    """Place in that file where it ends now."""
    cut_bytes: int = 0
    """Bytes that were dropped, of this file and of later ones."""
    restarted: bool = False
    """The journal ended before the manifest's offset, so it was begun anew there."""
    damages: list[str] = field(default_factory=list)
    """Damage to operations that the manifest contains; the window begins after it."""

    def __str__(self) -> str:
        """One sentence for a person."""
        parts = [f"{self.files} files, operations {self.first_offset} to {self.last_offset}"]
        if self.operations:
            parts.append(f"{self.operations} of them newer than the manifest")
        if self.restarted:
            parts.append("begun anew at the manifest's offset, which the old files did not reach")
        if self.cut_file is not None:
            parts.append(
                f"torn tail of {self.cut_bytes} bytes behind byte {self.cut_position} of {self.cut_file}"
            )
        return "; ".join([*parts, *self.damages])


def recover(
    disk: Disk, directory: str, *, file_bytes: int, bytes_max: int, after_offset: int
) -> tuple[Journal, Iterator[Record], RecoveryReport]:
    """Verify, repair and open the journal of a manifest at `after_offset`. Blocking.

    The records are the operations after that offset, and the history records as of it or later (the manifest
    may contain some of the latter already), oldest first; they are read while the iterator is consumed, which
    must be done before anything is trimmed. DamageError for any loss: file, position and what to do.
    """
    for name in disk.list(directory):
        if name.endswith(UNFINISHED_SUFFIX):
            disk.remove(f"{directory}/{name}")  # a crash while it was made: nothing is in it
    disk.sync_directory(directory)  # a killed process may have left a name that is seen but not yet durable
    scans, chain, report = _examine(disk, directory, after_offset)
    if report.restarted:
        journal = _restart(disk, directory, scans, file_bytes, bytes_max, after_offset)
        return journal, iter(()), report
    ready = _cut(disk, directory, scans, chain)
    journal = _open(disk, directory, scans, chain, ready, file_bytes, bytes_max)
    return journal, _records(disk, chain, after_offset), report


def inspect(disk: Disk, directory: str, *, after_offset: int) -> RecoveryReport:
    """Report what `recover` would find, and change nothing; DamageError as there."""
    return _examine(disk, directory, after_offset)[2]


def _examine(disk: Disk, directory: str, after_offset: int) -> tuple[list[Scan], Chain, RecoveryReport]:
    scans = _scan_all(disk, directory)
    report = RecoveryReport(files=len(scans))
    chain = link(scans, after_offset, report.damages)
    last, run = chain.links[-1]
    if run.last_offset < after_offset:
        report.restarted = True
        report.first_offset, report.last_offset = after_offset + 1, after_offset
        return scans, chain, report
    report.last_offset = run.last_offset
    report.operations = run.last_offset - after_offset
    held = (run.mark.before + 1 for _, run in chain.links if run.last_offset > run.mark.before)
    report.first_offset = next(held, run.last_offset + 1)
    dropped = sum(scan.content_end - header_bytes(scan) for scan in scans[scans.index(last) + 1 :])
    dropped += last.content_end - run.end
    if dropped:
        report.cut_file, report.cut_position, report.cut_bytes = last.path, run.end, dropped
    return scans, chain, report


def _scan_all(disk: Disk, directory: str) -> list[Scan]:
    found = (position_of(name) for name in disk.list(directory))
    positions = [position for position in found if position is not None]
    if not positions:
        raise DamageError(directory, f"there is not one journal file ({SUFFIX}) left; {ADVICE}")
    return [scan_file(disk, directory, position) for position in sorted(positions)]


# -- repair --------------------------------------------------------------


def _restart(
    disk: Disk, directory: str, scans: list[Scan], file_bytes: int, bytes_max: int, after_offset: int
) -> Journal:
    """A journal that continues the manifest instead of the files, which end before it. They go last."""
    position = scans[-1].end
    mark = Mark(position, after_offset, after_offset, position, 0, 0)
    file = create_file(disk, directory, position, file_bytes, mark)
    for scan in scans:
        disk.remove(scan.path)
    disk.sync_directory(directory)
    return Journal(
        disk,
        directory,
        [file],
        [],
        file_bytes=file_bytes,
        bytes_max=bytes_max,
        last_offset=after_offset,
        history=(0, 0),
        unmarked=False,
    )


def _cut(disk: Disk, directory: str, scans: list[Scan], chain: Chain) -> list[JournalFile]:
    """Drop everything behind the chain, before anything new is written; the empty files that remain."""
    last, run = chain.links[-1]
    ready: list[JournalFile] = []
    removed: list[str] = []
    for scan in scans[scans.index(last) + 1 :]:
        assert scan.file is not None, "a damaged header behind the chain was raised"
        if is_empty(scan) and not removed:  # a file behind a removed one would tell of a gap
            scan.file.handle = disk.open(scan.path)
            ready.append(scan.file)
        else:
            removed.append(scan.path)
    for path in reversed(removed):
        disk.remove(path)
        disk.sync_directory(directory)  # each on its own: never a gap
    assert last.file is not None
    last.file.handle = disk.open(last.path)
    for place in range(run.end, last.content_end, len(_ZEROS)):
        last.file.handle.write_at(place, [_ZEROS[: last.content_end - place]])
    return ready


def _open(
    disk: Disk,
    directory: str,
    scans: list[Scan],
    chain: Chain,
    ready: list[JournalFile],
    file_bytes: int,
    bytes_max: int,
) -> Journal:
    """Sync what no mark claims yet, and put the journal together."""
    last, last_run = chain.links[-1]
    claimed = max(run.durable for _, run in chain.links)
    for scan, run in chain.links:
        file = scan.file
        assert file is not None
        file.previous, file.used = run.mark.previous, run.end
        if run.last_offset > run.mark.before:
            file.first_offset, file.last_offset = run.mark.before + 1, run.last_offset
            file.index_offsets, file.index_places = run.index_offsets, run.index_places
        if file.end > claimed:
            handle = file.handle or disk.open(scan.path)
            handle.sync()
            if handle is not file.handle:
                handle.close()
    files = [scan.file or _unreadable(scan) for scan in scans[: scans.index(last) + 1]]
    place, offset = last_run.histories[-1] if last_run.histories else (0, 0)
    mark = last_run.mark
    history = (last.position + place, offset) if place else (mark.history_position, mark.history_offset)
    return Journal(
        disk,
        directory,
        files,
        ready,
        file_bytes=file_bytes,
        bytes_max=bytes_max,
        last_offset=last_run.last_offset,
        history=history,
        unmarked=last_run.unmarked,
    )


def _unreadable(scan: Scan) -> JournalFile:
    """A damaged file that is not needed stays until the journal is trimmed."""
    return JournalFile(scan.path, scan.position, scan.size, b"", 0)


def _records(disk: Disk, chain: Chain, after_offset: int) -> Iterator[Record]:
    for scan, run in chain.links:
        assert scan.file is not None
        starts = [place for place, offset in run.histories if offset >= after_offset][:1]
        if run.last_offset > max(after_offset, run.mark.before):
            number = max(0, bisect_right(run.index_offsets, after_offset + 1) - 1)
            starts.append(run.index_places[number])
        if not starts:
            continue
        view = disk.map(scan.path)
        place = min(starts)
        while place < run.end:
            end = place + frame.LENGTH_BYTES + int.from_bytes(view[place : place + frame.LENGTH_BYTES], "big")
            offset = operation_offset(view, place, end)
            if offset > after_offset:
                yield bytes(view[place:end])
            elif offset < 0:
                history = decode_history(codec.decode(frame.body_of(view[place:end])))
                if history is not None and history[1] >= after_offset:
                    yield history[0]
            place = end
