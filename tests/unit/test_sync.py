"""The one decision: partial, full or refused, and why."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vectorizer.replication.history import History, HistoryEntry
from vectorizer.replication.sync import Decision, Position, Reason, SyncKind, decide, fork_offset_of

PARTIAL, FULL, REFUSE = SyncKind.PARTIAL, SyncKind.FULL, SyncKind.REFUSE


def at(offset: int, *entries: tuple[str, int, int], checksum: int | None = None) -> Position:
    return Position(History(tuple(HistoryEntry(*entry) for entry in entries)), offset, checksum)


A = ("a", 1, 0)


def test_a_position_on_the_masters_history_continues() -> None:
    assert decide(at(20, A), at(10, A), 1) == Decision(PARTIAL, Reason.CONTINUES, 10)
    assert decide(at(20, A), at(20, A), 1) == Decision(PARTIAL, Reason.CONTINUES, 20)


def test_the_window_is_exact_to_one_operation() -> None:
    assert decide(at(20, A), at(10, A), 11) == Decision(PARTIAL, Reason.CONTINUES, 10)
    assert decide(at(20, A), at(10, A), 12) == Decision(FULL, Reason.OUTSIDE_WINDOW, 10)


def test_a_restart_of_the_master_keeps_partial() -> None:
    assert decide(at(25, A, ("b", 1, 20)), at(20, A), 1).kind is PARTIAL
    assert decide(at(25, A, ("b", 1, 20)), at(15, A), 1).kind is PARTIAL


def test_two_promotions_that_a_sibling_slept_through_keep_partial() -> None:
    master = at(40, A, ("b", 2, 20), ("c", 3, 30))
    assert decide(master, at(20, A), 1) == Decision(PARTIAL, Reason.CONTINUES, 20)


def test_an_old_master_with_more_writes_than_the_promoted_replica_had_has_diverged() -> None:
    master = at(40, A, ("b", 2, 20))
    assert decide(master, at(25, A), 1) == Decision(FULL, Reason.DIVERGED, 20)
    assert decide(master, at(25, A, ("restarted", 1, 22)), 1) == Decision(FULL, Reason.DIVERGED, 20)


def test_a_branch_overwritten_with_as_many_operations_is_never_a_silent_partial() -> None:
    master = at(25, A, ("b", 2, 20))
    assert decide(master, at(25, A), 1) == Decision(FULL, Reason.DIVERGED, 20)


def test_a_replica_ahead_of_a_crashed_master() -> None:
    assert decide(at(90, A), at(100, A), 1) == Decision(FULL, Reason.AHEAD, 90)
    # the same after the master has started again, under a new mastership
    assert decide(at(95, A, ("b", 1, 90)), at(100, A), 1) == Decision(FULL, Reason.DIVERGED, 90)


def test_entries_without_operations_equal_their_parent() -> None:
    master = at(20, A, ("b", 1, 20))
    assert decide(master, at(20, A, ("promoted in vain", 2, 20)), 1).kind is PARTIAL


def test_entries_adopted_but_not_reached_do_not_count() -> None:
    master = at(40, A, ("b", 2, 20))
    assert decide(master, at(15, A, ("b", 2, 20)), 1) == Decision(PARTIAL, Reason.CONTINUES, 15)


def test_a_replica_that_took_writes_as_a_newer_master_is_not_overwritten() -> None:
    replica = at(25, A, ("b", 2, 20))
    assert decide(at(22, A), replica, 1) == Decision(REFUSE, Reason.STALE_MASTER, 20)
    assert decide(at(22, A), replica, 1, force=True) == Decision(FULL, Reason.STALE_MASTER, 20)


def test_two_masters_of_one_epoch_are_refused() -> None:
    assert decide(at(25, A, ("b", 2, 20)), at(25, A, ("c", 2, 20)), 1) == Decision(
        REFUSE, Reason.TWO_MASTERS, 20
    )


def test_a_foreign_history_is_refused_until_forced() -> None:
    assert decide(at(25, A), at(3, ("x", 1, 0)), 1) == Decision(REFUSE, Reason.FOREIGN_HISTORY, 0)
    assert decide(at(0, A), at(3, ("x", 1, 0)), 1) == Decision(REFUSE, Reason.FOREIGN_HISTORY, 0)
    assert decide(at(25, A), at(3, ("x", 1, 0)), 1, force=True) == Decision(FULL, Reason.FOREIGN_HISTORY, 0)


def test_an_empty_replica_is_filled() -> None:
    assert decide(at(25, A), at(0), 1) == Decision(FULL, Reason.EMPTY_REPLICA, 0)
    assert decide(at(0, A), at(0), 1) == Decision(PARTIAL, Reason.CONTINUES, 0)
    assert decide(at(0, A), at(0), 1, full_requested=True) == Decision(FULL, Reason.REQUESTED, 0)


def test_other_bytes_at_the_same_offset_are_not_continued() -> None:
    replica = at(10, A, checksum=1)
    assert decide(at(20, A), replica, 1, master_checksum=2) == Decision(FULL, Reason.CHECKSUM_MISMATCH, 10)
    assert decide(at(20, A), replica, 1, master_checksum=1).kind is PARTIAL
    assert decide(at(20, A), replica, 1, master_checksum=None).kind is PARTIAL


def test_a_replica_may_ask_for_a_full_sync() -> None:
    assert decide(at(20, A), at(10, A), 1, full_requested=True) == Decision(FULL, Reason.REQUESTED, 10)


def test_a_master_without_history_refuses() -> None:
    assert decide(at(0), at(0), 1) == Decision(REFUSE, Reason.NO_HISTORY, 0)


@st.composite
def branches(draw: st.DrawFn) -> tuple[Position, Position, int]:
    """Two nodes whose histories are equal up to a fork, and then each its own; and the fork's offset."""
    offset, common = 0, []
    for number in range(draw(st.integers(1, 3))):
        common.append((f"common-{number}", number + 1, offset))
        offset += draw(st.integers(0, 3))
    sides = []
    for side in ("left", "right"):
        entries, end = list(common), offset
        for number in range(draw(st.integers(0, 2))):
            entries.append((f"{side}-{number}", len(common) + number + 1, end))
            end += draw(st.integers(0, 3))
        sides.append(at(end, *entries))
    return sides[0], sides[1], offset


@settings(max_examples=300)
@given(branches())
def test_the_fork_is_where_the_histories_part(case: tuple[Position, Position, int]) -> None:
    master, replica, fork = case
    assert fork_offset_of(master, replica) == fork
    decision = decide(master, replica, 1)
    if decision.kind is PARTIAL:
        assert replica.offset == fork or replica.offset == 0


@pytest.mark.parametrize("offset", range(1, 6))
def test_every_offset_of_a_shared_history_continues(offset: int) -> None:
    master = at(5, A, ("b", 1, 2), ("c", 2, 2), ("d", 2, 4))
    assert decide(master, Position(master.history, offset), 1) == Decision(PARTIAL, Reason.CONTINUES, offset)
