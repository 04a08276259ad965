"""The filter of ids: it never denies what is there, and mostly denies what is not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vectorizer.storage.id_filter import IdFilter


@given(st.lists(st.integers(0, 2**64 - 1), max_size=200), st.integers(0, 300))
def test_what_was_added_is_a_candidate(values: list[int], capacity: int) -> None:
    hashes = np.array(values, np.uint64)
    filter_ = IdFilter(capacity)
    assert len(filter_.candidates(hashes)) == 0
    filter_.add(hashes)
    assert filter_.candidates(hashes).tolist() == list(range(len(values)))


@pytest.mark.parametrize("capacity", [1, 64, 16384, 100_000])
def test_few_others_are(capacity: int) -> None:
    hashes = np.random.default_rng(1).integers(0, 2**64, capacity + 100_000, np.uint64)
    filter_ = IdFilter(capacity)
    filter_.add(hashes[:capacity])
    assert len(filter_.candidates(hashes[capacity:])) < 100_000 / 14
