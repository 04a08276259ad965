"""The journal in one process: layout, batches, room, reading back, trimming."""

from __future__ import annotations

import errno
from pathlib import Path
from random import Random

import pytest
from gevent.threadpool import ThreadPool

from tests.simulation.disk import SimulatedDisk
from vectorizer import codec, frame
from vectorizer.errors import DamageError
from vectorizer.operations import Delete, encode_operation
from vectorizer.replication.history import History
from vectorizer.storage import journal as journal_module
from vectorizer.storage.disk import Disk, RealDisk
from vectorizer.storage.journal import Journal, JournalFullError
from vectorizer.storage.journal_file import (
    MARK_BYTES,
    Mark,
    decode_history,
    decode_mark,
    encode_history,
    encode_mark,
    mark_pattern,
    operation_offset,
    position_of,
)

FILE_BYTES = 4096
HISTORY = History().opened("first", 1, 0)


def operation(offset: int, size: int = 20) -> bytes:
    """An operation's frame that contains `size` bytes of an id."""
    ids = [b"%d" % offset, *[b"x" * min(250, size - done) for done in range(0, size, 250)]]
    return encode_operation(Delete("c", ids), offset, 1, 0)


def new_journal(disk: Disk, base_offset: int = 0, file_bytes: int = FILE_BYTES) -> Journal:
    disk.make_directory("/j")
    return Journal.create(disk, "/j", file_bytes=file_bytes, bytes_max=1 << 30, base_offset=base_offset)


def write_out(journal: Journal, sync: bool = True) -> None:
    while (batch := journal.take_batch()) is not None:
        batch.write(sync)
        journal.complete(batch)


def append(journal: Journal, count: int, size: int = 20) -> list[bytes]:
    """Append operations, making room as a node does; their frames."""
    frames = []
    for offset in range(journal.appended_offset + 1, journal.appended_offset + 1 + count):
        encoded = operation(offset, size)
        if not journal.has_room(len(encoded)):
            assert journal.ensure_room(len(encoded))
        journal.append(encoded, offset)
        frames.append(encoded)
    return frames


@pytest.fixture
def disk() -> SimulatedDisk:
    return SimulatedDisk()


def test_records_are_what_the_page_says() -> None:
    mark = Mark(1, 2, 3, 2**63, 5, 6)
    encoded = encode_mark(b"12345678", mark)
    document = codec.decode(frame.body_of(encoded))
    assert len(encoded) == MARK_BYTES
    assert mark_pattern(b"12345678") in encoded
    assert decode_mark(document, b"12345678") == mark
    assert decode_mark(document, b"another!") is None
    assert decode_mark({**document, "n": b"short"}, b"12345678") is None
    assert decode_mark({**document, "m": "other"}, b"12345678") is None
    history = codec.decode(frame.body_of(encode_history(HISTORY, 7)))
    assert decode_history(history) == (HISTORY, 7)
    assert decode_history({**history, "offset": -1}) is None
    assert decode_history({**history, "entries": "none"}) is None
    assert decode_history(document) is None
    assert position_of("00000000000000000042.journal") == 42
    assert position_of("00000000000000000042.journal.new") is None
    assert position_of("0.journal") is None


@pytest.mark.parametrize("offset", [1, 127, 2**31 - 1, 2**31, 2**62])
def test_the_offset_of_an_operation_is_read_without_decoding(offset: int) -> None:
    encoded = operation(offset)
    assert operation_offset(b"x" + encoded, 1, 1 + len(encoded)) == offset


@pytest.mark.parametrize("document", [{"m": "mark"}, {}, {"o": "a long string, no number"}, {"oo": 2**40}])
def test_other_records_are_no_operations(document: dict[str, object]) -> None:
    encoded = frame.encode(codec.encode(document))
    assert operation_offset(encoded, 0, len(encoded)) == -1


def test_a_new_journal_is_empty(disk: SimulatedDisk) -> None:
    journal = new_journal(disk, base_offset=41)
    assert (journal.appended_offset, journal.durable_offset, journal.first_offset) == (41, 41, 42)
    assert not journal.pending
    assert journal.take_batch() is None
    assert journal.read(41, 1000, 100) == []
    assert journal.read(40, 1000, 100) is None
    assert journal.bytes_held == FILE_BYTES
    assert disk.list("/j") == ["00000000000000000000.journal"]


def test_operations_are_seen_once_completed_and_durable_once_synced(disk: SimulatedDisk) -> None:
    journal = new_journal(disk)
    frames = append(journal, 3)
    assert (journal.appended_offset, journal.durable_offset, journal.pending) == (3, 0, True)
    assert journal.read(0, 1000, 3) == []
    batch = journal.take_batch()
    assert batch is not None
    assert batch.last_offset == 3
    batch.write(True)
    assert journal.pending and journal.durable_offset == 0 and journal.read(0, 1000, 3) == []
    journal.complete(batch)
    assert not journal.pending and journal.durable_offset == 3
    assert journal.read(0, 1000, 3) == frames
    assert journal.read(1, 1000, 2) == frames[1:2]


def test_without_sync_nothing_is_durable_until_sync(disk: SimulatedDisk) -> None:
    journal = new_journal(disk)
    frames = append(journal, 3)
    write_out(journal, sync=False)
    assert (journal.durable_offset, journal.read(0, 1000, 3)) == (0, frames)
    append(journal, 1)
    journal.sync()
    assert journal.durable_offset == 3
    write_out(journal, sync=False)
    assert journal.durable_offset == 3
    journal.sync()
    journal.sync()
    assert journal.durable_offset == 4


def test_one_batch_is_under_way_at_a_time(disk: SimulatedDisk) -> None:
    journal = new_journal(disk)
    append(journal, 1)
    first = journal.take_batch()
    append(journal, 1)
    assert first is not None and journal.take_batch() is None
    first.write(True)
    journal.complete(first)
    second = journal.take_batch()
    assert second is not None and second.last_offset == 2
    with pytest.raises(AssertionError):
        journal.complete(first)


def test_offsets_follow_one_another(disk: SimulatedDisk) -> None:
    journal = new_journal(disk, base_offset=5)
    with pytest.raises(ValueError, match="operation 5 cannot follow"):
        journal.append(operation(5), 5)
    with pytest.raises(ValueError, match="operation 7 cannot follow"):
        journal.append(operation(7), 7)
    with pytest.raises(ValueError, match="as of 4"):
        journal.append_history(HISTORY, 4)


def test_what_was_told_yes_can_always_be_written(disk: SimulatedDisk) -> None:
    """`has_room` counts marks and headers: filled to the last byte with frames of any size, nothing
    overflows.
    """
    random = Random(1)
    for _ in range(30):
        disk = SimulatedDisk()
        journal = new_journal(disk)
        assert journal.ensure_room(FILE_BYTES // 2)
        disk.full = True
        offset = 0
        while True:
            encoded = operation(offset + 1, random.choice((1, 10, 100, 700)))
            if not journal.has_room(len(encoded)):
                break
            offset += 1
            journal.append(encoded, offset)
            if random.randrange(3) == 0:
                write_out(journal)
        with pytest.raises(JournalFullError):
            journal.append(encoded, offset + 1)
        write_out(journal)
        assert journal.durable_offset == offset
        assert len(journal.read(0, 1 << 20, offset) or []) == offset
        journal.close()
        assert {disk.size(f"/j/{name}") for name in disk.list("/j")} == {FILE_BYTES}


def test_the_next_file_is_made_ahead_of_need(disk: SimulatedDisk) -> None:
    journal = new_journal(disk)
    append(journal, 10)
    write_out(journal)
    assert len(disk.list("/j")) == 1
    append(journal, 10)
    write_out(journal)
    assert disk.list("/j") == ["00000000000000000000.journal", f"{FILE_BYTES:020d}.journal"]
    assert journal.bytes_held == 2 * FILE_BYTES
    assert [file.path for file in journal.files()] == ["/j/00000000000000000000.journal"]


def test_a_full_disk_ends_the_room_and_nothing_else(disk: SimulatedDisk) -> None:
    journal = new_journal(disk)
    disk.full = True
    size = len(operation(1, 500))
    frames = []
    while journal.has_room(size):
        frames += append(journal, 1, 500)
        write_out(journal)
    assert not journal.ensure_room(size)
    assert journal.durable_offset == len(frames)
    assert journal.read(0, 1 << 20, len(frames)) == frames
    disk.full = False
    assert journal.ensure_room(size)
    assert journal.ensure_room(size)
    frames += append(journal, 1, 500)
    write_out(journal)
    assert journal.read(0, 1 << 20, len(frames)) == frames
    assert len(disk.list("/j")) == 2


@pytest.mark.parametrize("sync", [True, False])
def test_a_batch_may_span_files(disk: SimulatedDisk, sync: bool) -> None:
    journal = new_journal(disk)
    frames = append(journal, 150)
    batch = journal.take_batch()
    assert batch is not None
    assert len(batch.parts) > 2
    batch.write(sync)
    journal.complete(batch)
    assert journal.read(0, 1 << 20, 150) == frames
    journal.sync()
    assert journal.durable_offset == 150
    spans = journal.files()
    assert [span.first_offset for span in spans[1:]] == [span.last_offset + 1 for span in spans[:-1]]
    assert (spans[0].first_offset, spans[-1].last_offset) == (1, 150)


def test_large_backlogs_become_several_batches(disk: SimulatedDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "BATCH_BYTES", 1000)
    journal = new_journal(disk, file_bytes=1 << 16)
    frames = append(journal, 100)
    batches = 0
    while (batch := journal.take_batch()) is not None:
        batch.write(True)
        journal.complete(batch)
        batches += 1
        assert journal.durable_offset == batch.last_offset
    assert batches > 5
    assert journal.read(0, 1 << 20, 100) == frames


def test_an_operation_larger_than_a_file_gets_its_own(disk: SimulatedDisk) -> None:
    journal = new_journal(disk)
    frames = append(journal, 30)
    write_out(journal)  # a next file of the usual size is ready now
    frames += append(journal, 1, 20_000)
    frames += append(journal, 40)
    write_out(journal)
    frames += append(journal, 3)
    write_out(journal)
    assert journal.read(0, 1 << 20, len(frames)) == frames
    assert journal.read(30, 1, len(frames)) == frames[30:31]
    sizes = [span.bytes for span in journal.files()]
    assert len(frames[30]) < max(sizes) < 1.15 * len(frames[30]) + 1000
    assert [span.first_offset for span in journal.files()].count(0) == 1  # the small one stays empty
    spans = journal.files()
    assert journal.trim(spans[2].last_offset) == [span.path for span in spans[:3]]
    assert journal.first_offset == spans[3].first_offset


def test_a_history_is_a_record_between_operations(disk: SimulatedDisk) -> None:
    journal = new_journal(disk)
    journal.append_history(HISTORY, 0)
    frames = append(journal, 2)
    write_out(journal)
    journal.append_history(HISTORY.opened("second", 2, 2), 2)
    assert journal.pending
    write_out(journal)
    assert journal.durable_offset == 2
    frames += append(journal, 100)
    write_out(journal)
    assert journal.read(0, 1 << 20, 102) == frames


def test_a_history_has_room_when_operations_have_none_left(disk: SimulatedDisk) -> None:
    journal = new_journal(disk)
    disk.full = True
    while journal.has_room(len(operation(1, 1))):
        append(journal, 1, 1)
    journal.append_history(HISTORY, journal.appended_offset)
    write_out(journal)
    with pytest.raises(JournalFullError):
        for number in range(100):
            journal.append_history(HISTORY.opened(f"{number}", 1, 1), journal.appended_offset)
    write_out(journal)
    journal.close()
    assert disk.size("/j/00000000000000000000.journal") == FILE_BYTES


def test_reading_gives_about_so_many_bytes_but_at_least_one(disk: SimulatedDisk) -> None:
    journal = new_journal(disk, file_bytes=1 << 20)
    frames = append(journal, 3000)
    write_out(journal)
    size = len(frames[500])
    assert journal.read(0, 0, 3000) == frames[:1]
    assert journal.read(500, 1, 3000) == frames[500:501]
    assert journal.read(500, 10 * size, 3000) == frames[500:510]
    assert journal.read(500, 1 << 20, 1500) == frames[500:1500]
    assert journal.read(2999, 1 << 20, 1 << 60) == frames[2999:]
    position = 0
    while position < 3000:
        part = journal.read(position, 5000, 3000)
        assert part == frames[position : position + len(part or [])] and part
        position += len(part)


def test_large_frames_are_read_whole(disk: SimulatedDisk) -> None:
    journal = new_journal(disk, file_bytes=1 << 20)
    frames = append(journal, 2, 200_000) + append(journal, 3, 10) + append(journal, 1, 150_000)
    write_out(journal)
    for after in range(6):
        assert journal.read(after, 1, 6) == frames[after : after + 1]
    assert journal.read(0, 1 << 20, 6) == frames


@pytest.mark.parametrize("damage", ["body", "length", "zero", "huge", "offset", "truncated"])
def test_a_frame_that_went_bad_is_never_given_out(disk: SimulatedDisk, damage: str) -> None:
    journal = new_journal(disk)
    frames = append(journal, 20)
    write_out(journal)
    path = "/j/00000000000000000000.journal"
    place = disk.read(path).index(frames[9])
    if damage == "body":
        disk.corrupt(path, place + len(frames[9]) - 3, b"\xff")
    elif damage == "length":  # the frame swallows the next one
        disk.corrupt(path, place, (len(frames[9]) + len(frames[10]) - 4).to_bytes(4, "big"))
    elif damage == "zero":
        disk.corrupt(path, place, bytes(4))
    elif damage == "huge":
        disk.corrupt(path, place, b"\xff\xff\xff\xff")
    elif damage == "offset":
        disk.corrupt(path, place, frames[10])
    else:
        disk.open(path).truncate(place + 10)
    with pytest.raises(DamageError) as caught:
        journal.read(5, 1 << 20, 20)
    assert caught.value.file == path
    if damage != "truncated":
        assert journal.read(2, 7 * len(frames[3]), 9) == frames[2:9]


def test_trimming_removes_whole_old_files_only(disk: SimulatedDisk) -> None:
    journal = new_journal(disk)
    frames = append(journal, 200)
    write_out(journal)
    spans = journal.files()
    assert journal.trim(spans[0].last_offset - 1) == []
    assert journal.trim(spans[1].last_offset) == [spans[0].path, spans[1].path]
    assert journal.first_offset == spans[2].first_offset
    assert journal.read(0, 1 << 20, 200) is None
    assert journal.read(spans[2].first_offset - 1, 1 << 20, 200) == frames[spans[2].first_offset - 1 :]
    assert len(journal.trim(200)) == len(spans) - 3
    assert [span.path for span in journal.files()] == [spans[-1].path]
    assert spans[0].path.rpartition("/")[2] not in disk.list("/j")
    append(journal, 5)
    write_out(journal)
    assert journal.trim(1000) == []


def test_a_file_is_not_trimmed_before_its_follower_is_synced(disk: SimulatedDisk) -> None:
    journal = new_journal(disk)
    append(journal, 60)
    write_out(journal, sync=False)
    assert journal.trim(60) == []
    journal.sync()
    assert len(journal.trim(60)) > 0


def test_a_reader_that_meets_a_trimmed_file_is_told(disk: SimulatedDisk) -> None:
    journal = new_journal(disk)
    frames = append(journal, 100)
    write_out(journal)
    spans = journal.files()
    assert len(spans) > 2
    disk.remove(spans[0].path)
    assert journal.read(0, 1 << 20, 100) is None
    disk.remove(spans[-1].path)
    held = journal.read(spans[0].last_offset, 1 << 20, 100)
    assert held == frames[spans[0].last_offset : spans[-1].first_offset - 1]


def test_an_error_of_a_write_or_sync_goes_up_and_is_final(disk: SimulatedDisk) -> None:
    journal = new_journal(disk)
    append(journal, 1)
    batch = journal.take_batch()
    assert batch is not None
    disk.fail_syncs = 1
    with pytest.raises(OSError) as caught:
        batch.write(True)
    assert caught.value.errno == errno.EIO
    assert journal.durable_offset == 0
    steps = disk.steps
    journal.close()
    assert disk.steps == steps  # neither written nor synced again


def test_an_error_other_than_a_full_disk_is_not_hidden_by_making_room(
    disk: SimulatedDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = new_journal(disk)
    disk.fail_syncs = 1
    with pytest.raises(OSError) as caught:
        journal.ensure_room(FILE_BYTES)
    assert caught.value.errno == errno.EIO


def test_two_threads_may_make_room_at_once(tmp_path: Path) -> None:
    journal = Journal.create(
        RealDisk(), str(tmp_path), file_bytes=FILE_BYTES, bytes_max=1 << 30, base_offset=0
    )
    large = 3 * FILE_BYTES
    threads = ThreadPool(4)
    waiting = [threads.spawn(journal.ensure_room, large) for _ in range(4)]
    assert [result.get(timeout=10) for result in waiting] == [True] * 4
    threads.kill()
    ends: list[int] = []
    for name in RealDisk().list(str(tmp_path)):
        position = position_of(name)
        assert position is not None
        assert not ends or position == ends[-1]
        ends.append(position + RealDisk().size(f"{tmp_path}/{name}"))
    assert ends[-1] == journal.bytes_held > large
    frames = append(journal, 1, large) + append(journal, 200)
    write_out(journal)
    assert journal.read(0, 1 << 30, 201) == frames
    journal.close()


def test_closing_drops_what_is_buffered_and_says_that_the_rest_is_durable(disk: SimulatedDisk) -> None:
    journal = new_journal(disk)
    append(journal, 2)
    write_out(journal, sync=False)
    journal.close()
    journal.close()
    disk.crash(Random(0))
    content = disk.read("/j/00000000000000000000.journal")
    assert operation(2) in content
    assert content.count(b"mark\0") == 3
    other = SimulatedDisk()
    journal = new_journal(other)
    append(journal, 2)
    write_out(journal)
    append(journal, 1)
    journal.close()
    assert operation(3) not in other.read("/j/00000000000000000000.journal")


def test_it_runs_on_the_real_disk(tmp_path: Path) -> None:
    real = RealDisk()
    journal = Journal.create(real, str(tmp_path), file_bytes=FILE_BYTES, bytes_max=1 << 20, base_offset=0)
    frames = append(journal, 300)
    write_out(journal)
    assert journal.read(0, 1 << 20, 300) == frames
    removed = journal.trim(150)
    assert removed and not any(real.exists(path) for path in removed)
    journal.close()
