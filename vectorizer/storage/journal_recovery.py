"""From the files of a journal back to a journal: what is whole is kept, what was torn is cut, what is lost stops us.

The theory. A mark is written after everything before the position it claims was synced. A crash loses or tears only
what was not synced. So where the whole records break off at a position x:

- no mark behind x claims a position beyond x: nothing behind x was promised to anybody. This is a *torn tail*: the
  journal ends at x, what follows is zeroed, synced, and reported;
- some mark does: x was durable once, so this is *damage*. The next run's mark says which operations lie before it. If
  the manifest contains all of them, and no newer history record is among what is lost, nothing is missing: the journal
  begins after the damage (the window shrinks) and it is reported. Otherwise the start stops: DamageError.

A file's header and size, and the first mark of the oldest file, are always synced before anything relies on them, so
they are never torn. Links between runs (`Mark.before`, `Mark.previous`) tell that no file or page between is missing.
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
from vectorizer.storage.journal_scan import Run, Scan, scan_file

Record = bytes | History
"""An operation's frame, or a history record."""

_ADVICE = (
    "restore this node from a replica or a backup; a copy of the data directory may help to save what is left"
)
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


@dataclass(slots=True, eq=False)
class _Chain:
    """The runs that make up the journal, in order, each with its file."""

    links: list[tuple[Scan, Run]]

    @property
    def end(self) -> int:
        scan, run = self.links[-1]
        return scan.position + run.end


def recover(
    disk: Disk, directory: str, *, file_bytes: int, bytes_max: int, after_offset: int
) -> tuple[Journal, Iterator[Record], RecoveryReport]:
    """Verify, repair and open the journal of a manifest at `after_offset`. Blocking.

    The records are the operations after that offset, and the history records as of it or later (the manifest may
    contain some of the latter already), oldest first; they are read while the iterator is consumed, which must be
    done before anything is appended. DamageError for any loss, with the file, the position and what to do.
    """
    scans = _scan_all(disk, directory)
    report = RecoveryReport(files=len(scans))
    chain = _chain(scans, after_offset, report)
    last_offset = chain.links[-1][1].last_offset
    if last_offset < after_offset:
        journal = _restart(disk, directory, scans, file_bytes, bytes_max, after_offset)
        report.restarted = True
        report.first_offset, report.last_offset = after_offset + 1, after_offset
        return journal, iter(()), report
    ready = _cut(disk, directory, scans, chain, report)
    journal = _open(disk, directory, scans, chain, ready, file_bytes, bytes_max)
    report.first_offset, report.last_offset = journal.first_offset, last_offset
    report.operations = last_offset - after_offset
    return journal, _records(disk, chain, after_offset), report


def _scan_all(disk: Disk, directory: str) -> list[Scan]:
    positions = []
    for name in disk.list(directory):
        position = position_of(name)
        if position is not None:
            positions.append(position)
        elif name.endswith(UNFINISHED_SUFFIX):
            disk.remove(f"{directory}/{name}")  # a crash while it was made: nothing is in it
    if not positions:
        raise DamageError(directory, f"there is not one journal file ({SUFFIX}) left; {_ADVICE}")
    return [scan_file(disk, directory, position) for position in sorted(positions)]


# -- which runs are the journal --------------------------------------------------------------


def _chain(scans: list[Scan], after_offset: int, report: RecoveryReport) -> _Chain:
    """Link the runs; damage that matters is raised, damage that does not is noted in the report."""
    runs = [(scan, run) for scan in scans for run in scan.runs]
    if not runs:
        raise DamageError(scans[0].path, f"{scans[0].damage or 'nothing in it can be read'}; {_ADVICE}")
    claims = _claims_behind(runs)
    first_scan, first = runs[0]
    if first.mark.before > after_offset:
        raise DamageError(
            first_scan.path,
            f"it begins after operation {first.mark.before}, the manifest ends with operation {after_offset}: the "
            f"operations between are missing; {_ADVICE}",
            position=first.start,
        )
    oldest = next(scan for scan in scans if not _is_empty(scan))
    if first_scan is not oldest or first.start != _header_bytes(first_scan):
        _skip((oldest.path, 0), 0, runs[0], after_offset, report)
    chain = _Chain([runs[0]])
    for number, following in enumerate(runs[1:], start=1):
        scan, run = chain.links[-1]
        damaged = _damaged_between(scans, scan, following[0])
        if damaged is None and _follows(scan, run, *following):
            chain.links.append(following)
        elif damaged is None and claims[number] <= chain.end:
            break
        else:
            blamed = (damaged.path, 0) if damaged else _place_of_damage(scans, scan, run, following)
            _skip(blamed, chain.end, following, after_offset, report)
            chain = _Chain([following])
    last, run = chain.links[-1]
    for scan in scans[scans.index(last) :]:
        if scan.damage is not None:
            raise DamageError(scan.path, f"{scan.damage}; {_ADVICE}", position=run.end if scan is last else 0)
    return chain


def _is_empty(scan: Scan) -> bool:
    """Whether the file was made ahead and never used."""
    file = scan.file
    return (
        file is not None and not scan.runs and scan.damage is None and scan.content_end == file.header_bytes
    )


def _claims_behind(runs: list[tuple[Scan, Run]]) -> list[int]:
    """For each run, the highest position that it or a later one claims to be durable."""
    claims, highest = [], 0
    for _, run in reversed(runs):
        highest = max(highest, run.durable)
        claims.append(highest)
    return claims[::-1]


def _header_bytes(scan: Scan) -> int:
    assert scan.file is not None, "a file with runs has a header"
    return scan.file.header_bytes


def _follows(scan: Scan, run: Run, next_scan: Scan, next_run: Run) -> bool:
    """Whether nothing is missing between two runs: the second begins the next file and knows where the first ended."""
    return (
        scan is not next_scan
        and next_run.start == _header_bytes(next_scan)
        and next_run.mark.previous == scan.position + run.end
        and next_run.mark.before == run.last_offset
    )


def _damaged_between(scans: list[Scan], first: Scan, last: Scan) -> Scan | None:
    """A file from `first` to before `last` that is damaged itself, which no crash can do."""
    between = scans[scans.index(first) : scans.index(last)]
    return next((scan for scan in between if scan.damage is not None), None)


def _place_of_damage(scans: list[Scan], scan: Scan, run: Run, following: tuple[Scan, Run]) -> tuple[str, int]:
    """(path, place) to name for a break behind `run`."""
    behind = scans[scans.index(scan) + 1 :]
    next_scan, next_run = following
    if next_scan is not scan and scan.content_end == run.end:
        broken = behind[0]
        if broken is not next_scan or next_run.start != _header_bytes(next_scan):
            return broken.path, _header_bytes(broken)
    return scan.path, run.end


def _skip(
    blamed: tuple[str, int], end: int, following: tuple[Scan, Run], after_offset: int, report: RecoveryReport
) -> None:
    """Note damage that the manifest makes up for; raise DamageError if it does not."""
    path, place = blamed
    scan, run = following
    mark = run.mark
    resumes = f"the next whole batch is in {scan.path} at byte {run.start}, after operation {mark.before}"
    if mark.before > after_offset:
        raise DamageError(
            path,
            f"the journal is damaged here although it was durable; {resumes}, the manifest ends with operation "
            f"{after_offset}: what lies between is lost; {_ADVICE}",
            position=place,
        )
    if end <= mark.history_position and mark.history_position and mark.history_offset >= after_offset:
        raise DamageError(
            path,
            f"the journal is damaged here although it was durable; {resumes}, and the newest history record is lost; "
            f"{_ADVICE}",
            position=place,
        )
    report.damages.append(f"{path} at byte {place}: damaged, not needed; {resumes}")


# -- repair --------------------------------------------------------------


def _restart(
    disk: Disk, directory: str, scans: list[Scan], file_bytes: int, bytes_max: int, after_offset: int
) -> Journal:
    """A journal that continues the manifest instead of the files, which end before it. They go last."""
    position = scans[-1].position + max(file_bytes, disk.size(scans[-1].path))
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


def _cut(
    disk: Disk, directory: str, scans: list[Scan], chain: _Chain, report: RecoveryReport
) -> list[JournalFile]:
    """Drop everything behind the chain, durably, before anything new is written; the empty files that remain."""
    last, run = chain.links[-1]
    dropped = last.content_end - run.end
    ready, removed = [], []
    for scan in scans[scans.index(last) + 1 :]:
        assert scan.file is not None, "a damaged header behind the chain was raised"
        if _is_empty(scan):
            scan.file.handle = disk.open(scan.path)
            ready.append(scan.file)
        else:
            dropped += scan.content_end - scan.file.header_bytes
            removed.append(scan.path)
    for path in reversed(removed):
        disk.remove(path)
    if removed:
        disk.sync_directory(directory)
    if dropped:
        report.cut_file, report.cut_position, report.cut_bytes = last.path, run.end, dropped
    assert last.file is not None
    last.file.handle = disk.open(last.path)
    for place in range(run.end, last.content_end, len(_ZEROS)):
        last.file.handle.write_at(place, [_ZEROS[: last.content_end - place]])
    return ready


def _open(
    disk: Disk,
    directory: str,
    scans: list[Scan],
    chain: _Chain,
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
    files = [scan.file or _unreadable(disk, scan) for scan in scans[: scans.index(last) + 1]]
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


def _unreadable(disk: Disk, scan: Scan) -> JournalFile:
    """A damaged file that is not needed stays until the journal is trimmed."""
    return JournalFile(scan.path, scan.position, disk.size(scan.path), b"", 0)


def _records(disk: Disk, chain: _Chain, after_offset: int) -> Iterator[Record]:
    for scan, run in chain.links:
        assert scan.file is not None
        starts = [place for place, offset in run.histories if offset >= after_offset][:1]
        if run.last_offset > after_offset:
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
