"""Recovery: every durable operation comes back, nothing that was never appended does, and a loss is never
silent.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.simulation.disk import PowerLossError, SimulatedDisk
from vectorizer import codec, frame
from vectorizer.errors import DamageError
from vectorizer.operations import Delete, encode_operation
from vectorizer.replication.history import History
from vectorizer.storage.disk import RealDisk
from vectorizer.storage.journal import Journal
from vectorizer.storage.journal_file import MARK_BYTES, Mark, encode_mark, mark_pattern, name_of
from vectorizer.storage.journal_recovery import RecoveryReport, inspect, recover

FILE_BYTES = 4096
FIRST = "/j/00000000000000000000.journal"
HISTORY = History().opened("first", 1, 0)


def operation(offset: int, epoch: int = 1, size: int = 20) -> bytes:
    ids = [b"%d" % offset, *[b"x" * min(250, size - done) for done in range(0, size, 250)]]
    return encode_operation(Delete("c", ids), offset, epoch, 0)


def new_journal(disk: SimulatedDisk) -> Journal:
    disk.make_directory("/j")
    disk.sync_directory("/")
    return Journal.create(disk, "/j", file_bytes=FILE_BYTES, bytes_max=1 << 30, base_offset=0)


def write_out(journal: Journal, sync: bool = True) -> None:
    while (batch := journal.take_batch()) is not None:
        batch.write(sync)
        journal.complete(batch)


def append(journal: Journal, count: int, epoch: int = 1, size: int = 20) -> list[bytes]:
    frames = []
    for offset in range(journal.appended_offset + 1, journal.appended_offset + 1 + count):
        encoded = operation(offset, epoch, size)
        if not journal.has_room(len(encoded)):
            assert journal.ensure_room(len(encoded))
        journal.append(encoded, offset)
        frames.append(encoded)
    return frames


def reopen(
    disk: SimulatedDisk, after_offset: int = 0
) -> tuple[Journal, list[bytes | History], RecoveryReport]:
    """Recover, after `inspect` has said the same and changed nothing."""
    steps = disk.steps
    foreseen = inspect(disk, "/j", after_offset=after_offset)
    assert disk.steps == steps
    journal, records, report = recover(
        disk, "/j", file_bytes=FILE_BYTES, bytes_max=1 << 30, after_offset=after_offset
    )
    assert report == foreseen
    assert str(report)
    return journal, list(records), report


def closed_journal(batches: int = 12, per_batch: int = 8) -> tuple[SimulatedDisk, list[bytes]]:
    """A journal of several files, durable to its end and marked so."""
    disk = SimulatedDisk()
    journal = new_journal(disk)
    frames = []
    for _ in range(batches):
        frames += append(journal, per_batch)
        write_out(journal)
    journal.close()
    return disk, frames


def find(disk: SimulatedDisk, content: bytes) -> tuple[str, int]:
    """(path, place) of some bytes in the journal."""
    for name in disk.list("/j"):
        place = disk.read(f"/j/{name}").find(content)
        if place >= 0:
            return f"/j/{name}", place
    raise AssertionError("these bytes are nowhere")


# -- sound journals ---------------------------------------------------------------------------


@pytest.mark.parametrize("after_offset", [0, 1, 50, 95, 96])
def test_what_follows_the_manifest_comes_back(after_offset: int) -> None:
    disk, frames = closed_journal()
    journal, records, report = reopen(disk, after_offset)
    assert records == frames[after_offset:]
    assert (report.first_offset, report.last_offset, report.operations) == (1, 96, 96 - after_offset)
    assert report.cut_file is None and not report.damages and not report.restarted
    assert (journal.appended_offset, journal.durable_offset, journal.first_offset) == (96, 96, 1)
    assert journal.read(0, 1 << 20, 96) == frames
    assert journal.read(77, 1 << 20, 80) == frames[77:80]
    frames += append(journal, 50, epoch=2)
    write_out(journal)
    assert journal.read(0, 1 << 20, 146) == frames
    journal.close()
    assert reopen(disk, after_offset)[1] == frames[after_offset:]


def test_an_empty_journal_comes_back_empty() -> None:
    disk = SimulatedDisk()
    new_journal(disk).close()
    journal, records, report = reopen(disk)
    assert (records, journal.appended_offset, report.last_offset) == ([], 0, 0)
    frames = append(journal, 3)
    write_out(journal)
    assert journal.read(0, 1 << 20, 3) == frames


def test_histories_come_back_in_their_place() -> None:
    disk = SimulatedDisk()
    journal = new_journal(disk)
    second = HISTORY.opened("second", 2, 5)
    third = second.opened("third", 2, 60)
    journal.append_history(HISTORY, 0)
    first_part = append(journal, 5)
    write_out(journal)
    journal.append_history(second, 5)
    second_part = append(journal, 55)
    write_out(journal)
    journal.append_history(third, 60)
    write_out(journal)
    journal.close()
    assert reopen(disk, 0)[1] == [HISTORY, *first_part, second, *second_part, third]
    assert reopen(disk, 5)[1] == [second, *second_part, third]
    assert reopen(disk, 6)[1] == [*second_part[1:], third]
    assert reopen(disk, 60)[1] == [third]


def test_after_trimming_the_rest_comes_back() -> None:
    disk = SimulatedDisk()
    journal = new_journal(disk)
    frames = append(journal, 200)
    write_out(journal)
    assert len(journal.trim(150)) > 1
    first = journal.first_offset
    journal.close()
    journal, records, report = reopen(disk, 160)
    assert records == frames[160:]
    assert journal.first_offset == report.first_offset == first
    assert journal.read(first - 1, 1 << 20, 200) == frames[first - 1 :]
    assert journal.trim(160) == []


def test_files_made_ahead_are_used_again() -> None:
    disk = SimulatedDisk()
    journal = new_journal(disk)
    append(journal, 20)
    write_out(journal)
    names = disk.list("/j")
    assert len(names) == 2
    journal.close()
    journal, _, _ = reopen(disk)
    disk.full = True
    append(journal, 20)
    write_out(journal)
    assert journal.files()[-1].path == f"/j/{names[1]}"
    journal.close()


def test_a_file_that_was_not_finished_is_removed() -> None:
    disk, frames = closed_journal()
    disk.create("/j/00000000000000999999.journal.new", 10)
    disk.write_file("/j/notes.txt", [b"not ours"])
    _, records, _ = reopen(disk)
    assert records == frames
    assert "00000000000000999999.journal.new" not in disk.list("/j")
    assert "notes.txt" in disk.list("/j")


def test_an_operation_larger_than_a_file_comes_back() -> None:
    disk = SimulatedDisk()
    journal = new_journal(disk)
    frames = append(journal, 30)
    write_out(journal)
    frames += append(journal, 1, size=20_000)
    frames += append(journal, 30)
    write_out(journal)
    journal.close()
    journal, records, _ = reopen(disk)
    assert records == frames
    journal.trim(50)
    journal.close()
    assert reopen(disk, 50)[1] == frames[50:]


# -- torn tails -------------------------------------------------------------------------------


def test_a_torn_tail_is_cut_zeroed_and_reported() -> None:
    disk = SimulatedDisk()
    journal = new_journal(disk)
    frames = append(journal, 10)
    write_out(journal)
    torn = append(journal, 5)
    write_out(journal, sync=False)
    path, place = find(disk, torn[2])
    disk.corrupt(path, place + len(torn[2]) - 1, b"\xff")
    journal, records, report = reopen(disk)
    assert records == frames + torn[:2]
    assert (report.cut_file, report.cut_position) == (path, place)
    assert 0 <= sum(map(len, torn[2:])) - report.cut_bytes < 8  # the last one ends with zeros
    assert not any(disk.read(path, place))
    assert "torn tail" in str(report)
    new = append(journal, 1, epoch=2)
    write_out(journal)
    journal.close()
    assert reopen(disk)[1] == frames + torn[:2] + new


def test_a_tail_torn_over_two_files_is_cut_in_both() -> None:
    disk = SimulatedDisk()
    journal = new_journal(disk)
    frames = append(journal, 10)
    write_out(journal)
    torn = append(journal, 60)
    write_out(journal, sync=False)
    assert len(disk.list("/j")) > 2
    path, place = find(disk, torn[0])
    disk.corrupt(path, place + 9, b"\xff")
    journal, records, report = reopen(disk)
    assert (records, report.cut_file, report.cut_position) == (frames, path, place)
    assert report.cut_bytes > sum(map(len, torn))
    assert disk.list("/j")[0] == path.rpartition("/")[2]
    new = append(journal, 100, epoch=2)
    write_out(journal)
    journal.close()
    assert reopen(disk)[1] == frames + new


def test_zeros_where_an_unsynced_batch_was_end_the_journal() -> None:
    disk = SimulatedDisk()
    journal = new_journal(disk)
    frames = append(journal, 3)
    write_out(journal)
    lost = append(journal, 3)
    write_out(journal, sync=False)
    append(journal, 3)
    write_out(journal, sync=False)
    path, place = find(disk, lost[1])
    disk.corrupt(path, place, bytes(len(lost[1])))
    assert reopen(disk)[1] == [*frames, lost[0]]


def test_a_mark_inside_user_data_fools_nobody() -> None:
    """A client that knew the format could write a frame that looks like a mark, but not the file's id."""
    disk = SimulatedDisk()
    journal = new_journal(disk)
    append(journal, 1)
    forged = encode_mark(b"forged!!", Mark(10**6, 10**6, 1, 0, 0, 0))
    journal.append(encode_operation(Delete("c", [forged]), 2, 1, 0), 2)
    write_out(journal, sync=False)
    frames = append(journal, 1)
    write_out(journal, sync=False)
    path, place = find(disk, operation(1))
    disk.corrupt(path, place + 10, b"\xff")
    _, records, report = reopen(disk)
    assert (records, report.cut_position) == ([], place)
    assert frames and not report.damages


def test_a_real_mark_copied_into_user_data_is_no_link() -> None:
    """Even a copy of a true mark of the same file does not make operations out of bytes behind it."""
    disk = SimulatedDisk()
    journal = new_journal(disk)
    file_id = journal._tail.file_id
    append(journal, 1)
    trap = encode_mark(file_id, Mark(0, 0, 1, 0, 0, 0)) + operation(2, epoch=666)
    journal.append(encode_operation(Delete("c", [trap]), 2, 1, 0), 2)
    write_out(journal, sync=False)
    path, place = find(disk, operation(1))
    disk.corrupt(path, place + 10, b"\xff")
    assert reopen(disk)[1] == []


# -- damage -----------------------------------------------------------------------------------


@dataclass
class Damaged:
    disk: SimulatedDisk
    frames: list[bytes]
    path: str
    resumes_after: int
    """The last operation before the batch behind the damage."""
    parts: dict[str, int] = field(default_factory=dict)


def damage(kind: str) -> Damaged:
    """A closed journal with one wound in the middle."""
    disk, frames = closed_journal()
    names = disk.list("/j")
    path, place = find(disk, frames[42])
    found = Damaged(disk, frames, path, 48)
    second = f"/j/{names[1]}"
    in_second = next(n for n in range(96) if find(disk, frames[n])[0] == second)
    in_third = next((n for n in range(96) if find(disk, frames[n])[0] > second), 96)
    match kind:
        case "flipped bit":
            disk.corrupt(path, place + 15, bytes([disk.read(path, place + 15, 1)[0] ^ 4]))
        case "zeroed page":
            disk.corrupt(path, place, bytes(200))
        case "header":
            disk.corrupt(second, 30, b"\xff")
            found.path, found.resumes_after = second, in_third
        case "missing file":
            disk.remove(second)
            found.path, found.resumes_after = second, in_third
        case "truncated file":
            disk.open(second).truncate(2000)
            found.path, found.resumes_after = second, in_third
        case "zeroed file":
            disk.corrupt(second, 200, bytes(disk.size(second) - 200))
            found.path, found.resumes_after = second, in_third
        case "first mark":
            first_mark = disk.read(second).index(b"mark\0")
            disk.corrupt(second, first_mark, b"M")
            later = disk.read(second).index(b"mark\0")
            found.path = second
            found.resumes_after = next(
                n for n in range(in_second, 96) if find(disk, frames[n])[1] > later or n == in_third
            )
        case "swapped files":
            content = disk.read(f"/j/{names[0]}")
            disk.corrupt(second, 0, content)
            found.path, found.resumes_after = second, in_third
    return found


KINDS = (
    "flipped bit",
    "zeroed page",
    "header",
    "missing file",
    "truncated file",
    "zeroed file",
    "first mark",
    "swapped files",
)


@pytest.mark.parametrize("kind", KINDS)
def test_damage_to_what_the_manifest_lacks_stops_the_start(kind: str) -> None:
    found = damage(kind)
    before = {name: found.disk.read(f"/j/{name}") for name in found.disk.list("/j")}
    for after_offset in (0, found.resumes_after - 1):
        with pytest.raises(DamageError) as caught:
            reopen(found.disk, after_offset)
        assert caught.value.file == found.path
        assert caught.value.position is not None
        assert "restore" in str(caught.value)
    assert before == {name: found.disk.read(f"/j/{name}") for name in found.disk.list("/j")}


@pytest.mark.parametrize("kind", KINDS)
def test_damage_to_what_the_manifest_contains_only_shrinks_the_window(kind: str) -> None:
    found = damage(kind)
    start = found.resumes_after
    journal, records, report = reopen(found.disk, start)
    assert records == found.frames[start:]
    assert len(report.damages) == 1 and found.path in report.damages[0]
    assert journal.first_offset == report.first_offset == start + 1
    assert journal.read(start - 1, 1 << 20, 96) is None
    assert journal.read(start, 1 << 20, 96) == found.frames[start:]
    new = append(journal, 60, epoch=2)
    write_out(journal)
    assert journal.trim(100)
    journal.close()
    _, records, report = reopen(found.disk, 120)
    assert records == new[24:]
    assert not report.damages


def test_damage_in_the_last_file_of_which_nothing_can_be_known_stops_the_start() -> None:
    for kind in ("header", "truncated"):
        disk, _ = closed_journal()
        path = f"/j/{disk.list('/j')[-1]}"
        if kind == "header":
            disk.corrupt(path, 20, b"\xff")
        else:
            disk.open(path).truncate(disk.size(path) - 1)
        with pytest.raises(DamageError) as caught:
            reopen(disk, 96)
        assert caught.value.file == path


def test_a_lost_history_record_stops_the_start() -> None:
    disk = SimulatedDisk()
    journal = new_journal(disk)
    append(journal, 3)
    write_out(journal)
    promoted = HISTORY.opened("second", 2, 3)
    journal.append_history(promoted, 3)
    write_out(journal)
    frames = append(journal, 3)
    write_out(journal)
    path, place = find(disk, b"second")
    disk.corrupt(path, place, b"S")
    with pytest.raises(DamageError, match="history"):
        reopen(disk, 3)
    _, records, report = reopen(disk, 4)
    assert records == frames[1:]
    assert report.damages


@pytest.mark.parametrize("removed", ["all", "first"])
def test_missing_files_at_the_beginning_stop_the_start(removed: str) -> None:
    disk, frames = closed_journal()
    names = disk.list("/j")
    in_second = next(n for n in range(96) if find(disk, frames[n])[0] == f"/j/{names[1]}")
    for name in names if removed == "all" else names[:1]:
        disk.remove(f"/j/{name}")
    with pytest.raises(DamageError):
        reopen(disk, 0)
    if removed == "first":
        assert reopen(disk, in_second)[1] == frames[in_second:]


def test_a_journal_of_which_only_an_empty_file_is_left_stops_the_start() -> None:
    disk = SimulatedDisk()
    journal = new_journal(disk)
    append(journal, 20)
    write_out(journal)
    journal.close()
    disk.remove(FIRST)
    assert len(disk.list("/j")) == 1
    with pytest.raises(DamageError, match="nothing"):
        reopen(disk, 20)


def test_another_version_of_the_format_stops_the_start() -> None:
    disk, _ = closed_journal()
    header = frame.encode(codec.encode({"m": "journal", "version": 99, "position": 0}))
    disk.corrupt(FIRST, 0, header)
    with pytest.raises(DamageError, match="version 99"):
        reopen(disk, 96)


@pytest.mark.parametrize(
    "document",
    [
        {"m": "journal", "version": 1, "position": 0},
        {"m": "journal", "version": 1, "position": 1, "file_id": b"12345678", "bytes": 4096},
        {"m": "journal", "version": 1, "position": 0, "file_id": 2**40, "bytes": 4096},
        {"m": "journal", "version": 1, "position": 0, "file_id": b"", "bytes": 4096},
        {"m": "journal", "version": 1, "position": 0, "file_id": b"12345678", "bytes": float("inf")},
        {"m": "journal", "version": 1, "position": 0, "file_id": b"12345678", "bytes": 0},
        {"m": "journal", "version": 1, "position": 0, "file_id": b"12345678", "bytes": -4096},
        {"m": "journal", "version": 1, "position": 0, "file_id": b"12345678", "bytes": 2**63 - 1},
        {"m": "other"},
    ],
)
def test_a_header_that_is_none_is_damage(document: dict[str, object]) -> None:
    disk, _ = closed_journal()
    disk.corrupt(FIRST, 0, frame.encode(codec.encode(document)))
    with pytest.raises(DamageError):
        reopen(disk, 0)


@pytest.mark.parametrize("size", [-(2**62), -1, 0, 2**60, 2**63 - 1])
def test_a_size_that_no_file_has_is_damage_also_before_the_manifest(size: int) -> None:
    """A journal that begins anew stands behind the last file, so that its position came from this size."""
    disk, _ = closed_journal(batches=1, per_batch=1)
    header = {"m": "journal", "version": 1, "position": 0, "file_id": b"12345678", "bytes": size}
    disk.corrupt(FIRST, 0, frame.encode(codec.encode(header)))
    with pytest.raises(DamageError, match="its header is damaged"):
        reopen(disk, 10_000)


@pytest.mark.parametrize(
    "encoded",
    [
        operation(7),
        operation(4, size=1),
        frame.encode(codec.encode({"m": "unknown"})),
        frame.encode(b"no BSON at all, but a whole frame"),
    ],
)
def test_a_whole_record_that_does_not_belong_there_is_no_operation(encoded: bytes) -> None:
    """An offset that is too high, too low, and records of no known kind, in a tail that nobody relies on."""
    disk = SimulatedDisk()
    journal = new_journal(disk)
    frames = append(journal, 5)
    write_out(journal)
    place = journal._tail_used
    disk.corrupt(FIRST, place, encoded)
    _, records, report = reopen(disk)
    assert records == frames
    assert report.cut_position == place
    assert 0 <= len(encoded) - report.cut_bytes < 8


# -- the manifest is ahead ---------------------------------------------------------------------


def test_a_journal_that_ends_before_the_manifest_begins_anew_there() -> None:
    disk, _ = closed_journal()
    journal, records, report = reopen(disk, 200)
    assert report.restarted and "anew" in str(report)
    assert records == []
    assert (journal.appended_offset, journal.durable_offset, journal.first_offset) == (200, 200, 201)
    assert len(disk.list("/j")) == 1
    frames = append(journal, 60)
    write_out(journal)
    assert journal.read(199, 1 << 20, 260) is None
    assert journal.read(200, 1 << 20, 260) == frames
    journal.close()
    assert reopen(disk, 230)[1] == frames[30:]


def test_beginning_anew_may_be_interrupted_at_each_step() -> None:
    steps = 0
    for stop_after in range(100):
        disk, _ = closed_journal()
        disk.stop_after = stop_after
        try:
            recover(disk, "/j", file_bytes=FILE_BYTES, bytes_max=1 << 30, after_offset=200)
        except PowerLossError:
            steps += 1
            disk.crash(Random(stop_after))
            journal, records, _ = reopen(disk, 200)
            assert (records, journal.appended_offset, journal.first_offset) == ([], 200, 201)
            frames = append(journal, 3)
            write_out(journal)
            journal.close()
            assert reopen(disk, 200)[1] == frames
            continue
        break
    assert steps > 5


# -- crashes ----------------------------------------------------------------------------------


class Life:
    """A journal that is used, crashes, and comes back, beside the truth about it."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.mode = self.random.choice(("always", "everysec", "never"))
        self.disk = SimulatedDisk()
        self.journal = new_journal(self.disk)
        self.frames: list[bytes] = []  # appended, the number of the list is the offset - 1
        self.history = HISTORY
        self.histories: list[tuple[int, History]] = []  # (offset, history) appended
        self.durable = 0
        self.manifest = 0
        self.epoch = 1

    def run(self, steps: int) -> None:
        for _ in range(steps):
            self.step()

    def step(self) -> None:
        random, journal = self.random, self.journal
        match random.randrange(10):
            case 0 | 1 | 2 | 3:
                size = random.choice((1, 20, 300, 3000)) if random.randrange(20) else 9000
                for _ in range(random.randint(1, 12)):
                    encoded = operation(len(self.frames) + 1, self.epoch, size)
                    if journal.has_room(len(encoded)) or journal.ensure_room(len(encoded)):
                        self.frames.append(encoded)
                        journal.append(encoded, len(self.frames))
            case 4:
                if journal.has_room(1000):
                    name = f"id{self.epoch}-{len(self.frames)}-{random.random()}"
                    self.history = self.history.opened(name, self.epoch, len(self.frames))
                    self.histories.append((len(self.frames), self.history))
                    journal.append_history(self.history, len(self.frames))
            case 5 | 6 | 7:
                batch = journal.take_batch()
                if batch is not None:
                    batch.write(self.mode == "always")
                    journal.complete(batch)
            case 8:
                if self.mode == "everysec" or not random.randrange(5):
                    journal.sync()
            case _:
                self.disk.full = not self.disk.full and not random.randrange(3)
                if not journal.pending:
                    journal.sync()
                    self.manifest = random.randint(self.manifest, journal.durable_offset)
                    journal.trim(random.randint(0, self.manifest))
        self.durable = max(self.durable, journal.durable_offset)

    def crash(self, recovery_steps: int | None) -> None:
        """Crash, and recover; the power may go off again after some steps of that."""
        self.disk.full = False
        if self.random.randrange(3):
            self.disk.crash(self.random)
        else:  # only the process dies: what was written is there, synced or not
            self.disk.stop_process()
        self.disk.stop_after = recovery_steps
        self.check()
        self.disk.stop_after = None

    def check(self) -> None:
        """Recover, and compare with the truth."""
        self.journal, records, report = reopen(self.disk, self.manifest)
        assert not report.restarted and not report.damages
        last = report.last_offset
        assert self.durable <= last <= len(self.frames)
        operations = [record for record in records if isinstance(record, bytes)]
        assert operations == self.frames[self.manifest : last]
        histories = [record for record in records if isinstance(record, History)]
        written = [history for offset, history in self.histories if self.manifest <= offset <= last]
        assert histories == [history for history in written if history in histories]
        needed = [history for offset, history in self.histories if self.manifest < offset < last]
        assert all(history in histories for history in needed)
        first = self.journal.first_offset
        if first <= last:
            assert self.journal.read(first - 1, 1 << 30, last) == self.frames[first - 1 : last]
        del self.frames[last:]
        self.histories = [
            (offset, history)
            for offset, history in self.histories
            if offset < self.manifest or history in histories
        ]
        self.history = self.histories[-1][1] if self.histories else HISTORY
        self.durable = last
        self.epoch += 1


@pytest.mark.parametrize("seed", range(60))
def test_crashes_at_any_step_lose_nothing_that_was_durable(seed: int) -> None:
    life = Life(seed)
    for _ in range(6):
        life.disk.stop_after = life.random.randint(0, 150)
        with contextlib.suppress(PowerLossError):
            life.run(60)
        try:
            life.crash(life.random.choice((None, life.random.randint(0, 12))))
        except PowerLossError:
            life.crash(None)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_corruption_anywhere_gives_the_truth_or_an_error(data: st.DataObject) -> None:
    """A few bytes changed anywhere in a journal that was closed: no wrong operation, no silent loss."""
    batches, per_batch = data.draw(st.integers(6, 14)), data.draw(st.integers(5, 12))
    disk, frames = closed_journal(batches, per_batch)
    path = f"/j/{data.draw(st.sampled_from(disk.list('/j')))}"
    content = disk.read(path)
    used = len(content.rstrip(b"\0"))
    place = data.draw(st.integers(0, min(used + 40, len(content) - 1)))
    size = data.draw(st.integers(1, min(4, len(content) - place)))
    disk.corrupt(path, place, data.draw(st.binary(min_size=size, max_size=size)))
    after_offset = data.draw(st.integers(0, len(frames)))
    try:
        journal, records, report = reopen(disk, after_offset)
    except DamageError as error:
        assert error.file.startswith("/j/")
        return
    assert records == frames[after_offset:]
    assert report.last_offset == len(frames)
    first = journal.first_offset
    assert first <= after_offset + 1
    assert journal.read(first - 1, 1 << 20, len(frames)) == frames[first - 1 :]


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_truncation_or_removal_of_a_file_is_noticed(data: st.DataObject) -> None:
    disk, frames = closed_journal(batches=data.draw(st.integers(6, 14)))
    path = f"/j/{data.draw(st.sampled_from(disk.list('/j')))}"
    size = data.draw(st.one_of(st.just(-1), st.integers(0, disk.size(path) - 1)))
    if size < 0:
        disk.remove(path)
    else:
        disk.open(path).truncate(size)
    after_offset = data.draw(st.integers(0, len(frames)))
    last = path >= f"/j/{disk.list('/j')[-1]}"
    try:
        _, records, report = reopen(disk, after_offset)
    except DamageError:
        return
    if last and size < 0:  # that there was a last file is known only to itself
        assert records == frames[after_offset : report.last_offset] or report.restarted
        return
    assert records == frames[after_offset:]


def test_it_recovers_on_the_real_disk(tmp_path: Path) -> None:
    disk = RealDisk()
    journal = Journal.create(disk, str(tmp_path), file_bytes=FILE_BYTES, bytes_max=1 << 30, base_offset=0)
    frames = append(journal, 100)
    write_out(journal)
    journal.close()
    path = f"{tmp_path}/{name_of(journal._tail.position)}"
    file = disk.open(path)
    file.write_at(journal._tail_used + MARK_BYTES, [b"garbage"])
    file.close()
    journal, records, report = recover(
        disk, str(tmp_path), file_bytes=FILE_BYTES, bytes_max=1 << 30, after_offset=10
    )
    assert list(records) == frames[10:]
    assert (report.cut_file, report.cut_bytes) == (path, 7)
    journal.close()
    assert mark_pattern(journal._tail.file_id) in disk.read(path)
