"""The circular log: bounds, cursors, and what has left memory."""

from __future__ import annotations

import pytest

from vectorizer.replication.log import ReplicationLog


def filled(count: int, *, entries_max: int = 10**6, bytes_max: int = 10**9, base: int = 0) -> ReplicationLog:
    log = ReplicationLog(entries_max, bytes_max, base)
    for offset in range(base + 1, base + count + 1):
        log.append(offset, b"%08d" % offset, float(offset))
    return log


def test_a_new_log_is_empty() -> None:
    log = ReplicationLog(10, 100, 7)
    assert (log.first_offset, log.last_offset, len(log)) == (8, 7, 0)
    assert log.read(7, 100, 7) == []
    assert log.read(6, 100, 7) is None
    assert log.frame_at(8) is None
    assert log.committed_at(8) is None


def test_readers_have_their_own_cursor() -> None:
    log = filled(5)
    assert log.read(0, 10**6, 5) == [b"%08d" % offset for offset in range(1, 6)]
    assert log.read(3, 10**6, 5) == [b"00000004", b"00000005"]
    assert log.read(3, 10**6, 4) == [b"00000004"]
    assert log.read(5, 10**6, 5) == []


def test_a_read_gives_at_least_one_frame_and_stops_at_its_bound() -> None:
    log = filled(5)
    assert log.read(0, 1, 5) == [b"00000001"]
    assert log.read(0, 16, 5) == [b"00000001", b"00000002"]
    assert log.read(0, 17, 5) == [b"00000001", b"00000002"]


def test_only_what_follows_is_taken() -> None:
    log = filled(2)
    with pytest.raises(ValueError, match="does not follow"):
        log.append(4, b"", 0.0)


def test_it_holds_the_newest_entries() -> None:
    log = filled(25, entries_max=10)
    assert (log.first_offset, log.last_offset, len(log), log.bytes_held) == (16, 25, 10, 80)
    assert log.read(14, 100, 25) is None
    assert log.read(15, 8, 25) == [b"00000016"]


def test_it_holds_the_newest_bytes_but_always_the_newest_entry() -> None:
    log = filled(25, bytes_max=20)
    assert (log.first_offset, log.bytes_held) == (24, 16)
    log.append(26, b"x" * 100, 0.0)
    assert (log.first_offset, log.bytes_held) == (26, 100)


def test_memory_of_dropped_entries_is_given_back() -> None:
    log = filled(50_000, entries_max=10)
    assert len(log._frames) < 10_000
    assert log.read(49_990, 10**6, 50_000) == [b"%08d" % offset for offset in range(49_991, 50_001)]
    assert log.frame_at(50_000) == b"00050000"


def test_limits_change_live() -> None:
    log = filled(20)
    log.set_limits(5, 10**6)
    assert log.first_offset == 16
    log.set_limits(100, 10**6)
    log.append(21, b"x", 0.0)
    assert len(log) == 6


def test_commit_times() -> None:
    log = filled(20, entries_max=5)
    assert log.committed_at(18) == 18.0
    assert log.committed_at(3) == 16.0  # older than memory: the oldest known
    assert log.committed_at(21) is None


def test_bytes_after_an_offset_are_those_in_memory() -> None:
    log = ReplicationLog(3, 1 << 20, 7)
    assert log.bytes_after(0) == log.bytes_after(7) == 0
    for offset, size in enumerate((10, 20, 30, 40), 8):
        log.append(offset, bytes(size), 0.0)
    assert [log.bytes_after(offset) for offset in (0, 7, 8, 9, 10, 11, 12)] == [90, 90, 90, 70, 40, 0, 0]
