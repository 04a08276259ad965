"""Histograms: what is counted where, also by several threads at once."""

from __future__ import annotations

from itertools import accumulate

from gevent import get_hub
from hypothesis import given
from hypothesis import strategies as st

from vectorizer.histogram import LATENCY_SECS, TRANSFER_BYTES, TRANSFER_SECS, Histogram


def test_a_value_belongs_to_the_first_bound_that_is_not_smaller() -> None:
    histogram = Histogram([1, 2, 5])
    for value in (0, 1, 1.5, 2, 5, 6):
        histogram.observe(value)
    assert histogram.read() == ([2, 4, 5, 6], 15.5)
    assert histogram.count == 6


@given(st.lists(st.floats(0, 20)))
def test_reading_counts_as_prometheus_does(values: list[float]) -> None:
    histogram = Histogram(LATENCY_SECS)
    for value in values:
        histogram.observe(value)
    counts, total = histogram.read()
    assert counts == [sum(value <= bound for value in values) for bound in (*LATENCY_SECS, float("inf"))]
    assert total == list(accumulate(values, initial=0.0))[-1]


def test_bounds_rise() -> None:
    for bounds in (LATENCY_SECS, TRANSFER_SECS, TRANSFER_BYTES):
        assert list(bounds) == sorted(set(bounds))


def test_no_observation_of_a_native_thread_is_lost() -> None:
    histogram = Histogram([0.5])

    def observe() -> None:
        for _ in range(5000):
            histogram.observe(1)

    threads = [get_hub().threadpool.spawn(observe) for _ in range(4)]
    for thread in threads:
        thread.get()
    assert histogram.read() == ([0, 20000], 20000.0)
