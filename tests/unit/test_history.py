"""Histories: which mastership holds an offset, and what a new one cuts off."""

from __future__ import annotations

import pytest

from vectorizer.replication.history import ENTRIES_MAX, History, HistoryEntry


def history(*entries: tuple[str, int, int]) -> History:
    return History(tuple(HistoryEntry(*entry) for entry in entries))


def test_an_empty_history_has_no_current_entry() -> None:
    assert (History().current, History().epoch, History().replication_id) == (None, 0, "")
    assert History().entry_at(0) is None


def test_an_operation_belongs_to_the_entry_that_began_before_it() -> None:
    own = history(("a", 1, 0), ("b", 2, 10))
    assert own.entry_at(0) is None
    assert own.entry_at(1) == own.entries[0]
    assert own.entry_at(10) == own.entries[0]
    assert own.entry_at(11) == own.entries[1]


def test_an_entry_without_operations_holds_nothing() -> None:
    own = history(("a", 1, 0), ("empty", 1, 10), ("b", 2, 10))
    assert own.entry_at(10) == own.entries[0]
    assert own.entry_at(11) == own.entries[2]


def test_opening_a_mastership_cuts_off_entries_that_begin_later() -> None:
    own = history(("a", 1, 0), ("b", 2, 10)).opened("c", 3, 5)
    assert own == history(("a", 1, 0), ("c", 3, 5))


def test_the_end_of_an_entry_is_the_next_ones_start_or_the_nodes_offset() -> None:
    own = history(("a", 1, 0), ("b", 2, 10))
    assert own.end_of(0, 20) == 10
    assert own.end_of(0, 7) == 7
    assert own.end_of(1, 20) == 20


def test_it_is_bounded_and_drops_entries_without_operations_first() -> None:
    own = History()
    for number in range(ENTRIES_MAX):
        own = own.opened(f"id-{number}", 1, number // 2)
    own = own.opened("new", 2, ENTRIES_MAX)
    assert len(own.entries) == ENTRIES_MAX
    # id-0 and id-1 begin at 0; the first of them holds nothing and goes first.
    assert own.entries[0].replication_id == "id-1"
    for number in range(ENTRIES_MAX):
        own = own.opened(f"later-{number}", 3, 2 * ENTRIES_MAX + number)
    assert len(own.entries) == ENTRIES_MAX
    assert own.replication_id == f"later-{ENTRIES_MAX - 1}"


def test_truncation_keeps_what_begins_at_the_offset() -> None:
    own = history(("a", 1, 0), ("b", 2, 10), ("c", 3, 11))
    assert own.truncated(10) == history(("a", 1, 0), ("b", 2, 10))


def test_documents_go_there_and_back() -> None:
    own = history(("a", 1, 0), ("b", 2, 10))
    assert History.from_document(own.to_document()) == own
    assert own.shares_entry(history(("b", 2, 10)))
    assert not own.shares_entry(history(("x", 2, 10)))


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ("text", "list"),
        ([["a", 1, 0]] * (ENTRIES_MAX + 1), "at most"),
        ([["a", 1]], "entry is"),
        ([["", 1, 0]], "replication id"),
        ([["x" * 65, 1, 0]], "replication id"),
        ([["a", -1, 0]], "whole numbers"),
        ([["a", True, 0]], "whole numbers"),
        ([["a", 1, 1.5]], "whole numbers"),
        ([["a", 1, 10], ["b", 1, 5]], "fall"),
        ([["a", 1, 0], ["a", 1, 5]], "twice"),
    ],
)
def test_what_is_no_history_is_refused_with_a_sentence(document: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        History.from_document(document)
