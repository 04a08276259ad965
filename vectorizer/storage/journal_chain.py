"""Which runs of records are the journal.

The theory. A mark is written after everything before the position it claims was synced. A crash loses or
tears only what was not synced. So where the whole records break off at a position x:

- no mark behind x claims a position beyond x: nothing behind x was promised to anybody. This is a *torn
  tail*: the journal ends at x;
- some mark does: x was durable once, so this is *damage*. The next run's mark says which operations lie
  before it. If the manifest contains all of them, and no newer history record is among what is lost, nothing
  is missing: the journal begins after the damage (the window shrinks). Otherwise the start stops.

A file's header and size, and the first mark of the oldest file, are always synced before anything relies on
them, so they are never torn. Links between runs (`Mark.before`, `Mark.previous`) tell that no file or page
between them is missing.
"""

from __future__ import annotations

from dataclasses import dataclass

from vectorizer.errors import DamageError
from vectorizer.storage.journal_file import name_of
from vectorizer.storage.journal_scan import Run, Scan

ADVICE = "restore this node from a replica or a backup, and keep a copy of what is left"


@dataclass(slots=True, eq=False)
class Chain:
    """The runs that make up the journal, in order, each with its file."""

    links: list[tuple[Scan, Run]]

    @property
    def end(self) -> int:
        scan, run = self.links[-1]
        return scan.position + run.end


def link(scans: list[Scan], after_offset: int, damages: list[str]) -> Chain:
    """Link the runs; damage that matters is raised, damage that does not is noted in the report."""
    runs = [(scan, run) for scan in scans for run in scan.runs]
    if not runs:
        raise DamageError(scans[0].path, f"{scans[0].damage or 'nothing in it can be read'}; {ADVICE}")
    claims = _claims_behind(runs)
    first_scan, first = runs[0]
    if first.mark.before > after_offset:
        raise DamageError(
            first_scan.path,
            f"it begins after operation {first.mark.before}, the manifest ends with {after_offset}: the "
            f"operations between are missing; {ADVICE}",
            position=first.start,
        )
    oldest = next(scan for scan in scans if not is_empty(scan))
    if first_scan is not oldest or first.start != header_bytes(first_scan):
        _skip((oldest.path, 0), 0, runs[0], after_offset, damages)
    chain = Chain([runs[0]])
    for number, following in enumerate(runs[1:], start=1):
        scan, run = chain.links[-1]
        broken = _damaged_between(scans, scan, following[0])
        if broken is None and _follows(scan, run, *following):
            chain.links.append(following)
        elif broken is None and claims[number] <= chain.end:
            break
        else:
            blamed = broken[:2] if broken else _place_of_damage(scans, scan, run, following)
            _skip(blamed, chain.end, following, after_offset, damages)
            chain = Chain([following])
    broken = _damaged_between(scans, chain.links[-1][0], None)
    if broken is not None:
        path, place, what = broken
        raise DamageError(path, f"{what}; {ADVICE}", position=place)
    return chain


def is_empty(scan: Scan) -> bool:
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


def header_bytes(scan: Scan) -> int:
    assert scan.file is not None, "a file with runs has a header"
    return scan.file.header_bytes


def _follows(scan: Scan, run: Run, next_scan: Scan, next_run: Run) -> bool:
    """Whether nothing is missing between: the second run begins a file and knows where the first ended."""
    return (
        scan is not next_scan
        and next_run.start == header_bytes(next_scan)
        and next_run.mark.previous == scan.position + run.end
        and next_run.mark.before == run.last_offset
    )


def _damaged_between(scans: list[Scan], first: Scan, last: Scan | None) -> tuple[str, int, str] | None:
    """(path, place, what) of damage that no crash can do, from `first` to before `last` (None = the end)."""
    stop = len(scans) if last is None else scans.index(last)
    for number in range(scans.index(first), stop):
        scan = scans[number]
        if scan.damage is not None:
            return scan.path, 0, scan.damage
        if number + 1 < len(scans) and scans[number + 1].position != scan.end:
            return f"{scan.path.rpartition('/')[0]}/{name_of(scan.end)}", 0, "this file is missing"
    return None


def _place_of_damage(scans: list[Scan], scan: Scan, run: Run, following: tuple[Scan, Run]) -> tuple[str, int]:
    """(path, place) to name for a break behind `run`."""
    behind = scans[scans.index(scan) + 1 :]
    next_scan, next_run = following
    if next_scan is not scan and scan.content_end == run.end:
        broken = behind[0]
        if broken is not next_scan or next_run.start != header_bytes(next_scan):
            return broken.path, header_bytes(broken)
    return scan.path, run.end


def _skip(
    blamed: tuple[str, int], end: int, following: tuple[Scan, Run], after_offset: int, damages: list[str]
) -> None:
    """Note damage that the manifest makes up for; raise DamageError if it does not."""
    path, place = blamed
    scan, run = following
    mark = run.mark
    resumes = f"the next whole batch is in {scan.path} at byte {run.start}, after operation {mark.before}"
    lost = None
    if mark.before > after_offset:
        lost = f"operations after {after_offset}, with which the manifest ends"
    elif end <= mark.history_position and mark.history_position and mark.history_offset >= after_offset:
        lost = "the newest history record"
    if lost is not None:
        message = f"the journal is damaged here although it was durable; {resumes}; lost: {lost}; {ADVICE}"
        raise DamageError(path, message, position=place)
    damages.append(f"{path} at byte {place}: damaged, not needed; {resumes}")
