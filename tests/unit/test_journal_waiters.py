"""Who is woken by which batch of the journal."""

from __future__ import annotations

from collections.abc import Callable

import gevent
import pytest

from vectorizer.journal_waiters import JournalWaiters


class Waiting:
    """A greenlet that waits for an operation, and how often it was woken."""

    def __init__(self, waiters: JournalWaiters, offset: int) -> None:
        self.woken = 0
        self._waiters = waiters
        self._offset = offset
        self._greenlet = gevent.spawn(self._run)
        gevent.sleep(0)

    def _run(self) -> None:
        while True:
            self._waiters.wait(self._offset)
            self.woken += 1


def turn() -> None:
    """Whoever was woken has run."""
    for _ in range(3):
        gevent.sleep(0)


def test_a_batch_wakes_those_whose_operations_it_has() -> None:
    waiters = JournalWaiters()
    first = Waiting(waiters, 1)
    waiters.taken(1)
    second = Waiting(waiters, 2)
    joining = Waiting(waiters, 1)
    waiters.done()
    turn()
    assert (first.woken, second.woken, joining.woken) == (1, 0, 1)
    waiters.taken(2)
    turn()
    assert second.woken == 0
    waiters.done()
    turn()
    assert second.woken == 1


def test_who_is_in_a_group_behind_the_next_waits_on_after_each_until_his_own_is_done() -> None:
    waiters = JournalWaiters()
    last = Waiting(waiters, 5)
    for number, offset in enumerate((2, 4, 5)):
        waiters.taken(offset)
        turn()
        assert last.woken == number, "a batch is under way"
        waiters.done()
        turn()
        assert last.woken == number + 1


@pytest.mark.parametrize("wake", [JournalWaiters.wake_all, lambda waiters: waiters.taken(9)])
def test_nobody_is_forgotten_who_waits_for_more_than_a_batch(wake: Callable[[JournalWaiters], None]) -> None:
    """For a sync of what is written, or with an offset of data that was replaced."""
    waiters = JournalWaiters()
    waiters.taken(7)
    waiters.done()
    waiting = Waiting(waiters, 7)
    wake(waiters)
    turn()
    assert waiting.woken == 1


def test_all_are_woken_when_there_is_nothing_more_to_wait_for() -> None:
    waiters = JournalWaiters()
    waiters.taken(1)
    both = [Waiting(waiters, offset) for offset in (1, 2)]
    waiters.wake_all()
    turn()
    assert [waiting.woken for waiting in both] == [1, 1]


def test_a_wait_ends_with_its_time() -> None:
    JournalWaiters().wait(1, 0.001)
