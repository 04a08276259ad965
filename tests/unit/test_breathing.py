"""Breaths: sockets and timers get their turn, not only callbacks."""

from __future__ import annotations

import time

import gevent

from vectorizer.breathing import HELD_SECS, Breather, let_others_run


def compute(seconds: float) -> None:
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        pass


def test_a_timer_fires_between_two_breaths() -> None:
    turns = []

    def other() -> None:
        while True:
            gevent.sleep(0.001)
            turns.append(1)

    greenlet = gevent.spawn(other)
    gevent.sleep(0.01)
    before = len(turns)
    for _ in range(30):
        compute(0.003)
        let_others_run()
    greenlet.kill()
    assert len(turns) - before >= 10, "with gevent.sleep(0) it would be at most one"


def test_a_breather_breathes_when_its_time_is_up() -> None:
    turns = []
    gevent.spawn(turns.append, 1)
    breathe = Breather()
    breathe()
    assert turns == []
    compute(HELD_SECS * 1.1)
    breathe()
    assert turns == [1]
