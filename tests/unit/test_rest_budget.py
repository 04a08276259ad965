"""Room for large bodies."""

from __future__ import annotations

import gevent
import pytest

from vectorizer.errors import RequestError
from vectorizer.rest.budget import SMALL_BYTES, Budget


def test_small_bodies_are_not_counted() -> None:
    budget = Budget(0)
    assert budget.reserve(SMALL_BYTES, 1) == 0


def test_large_bodies_wait_for_room() -> None:
    budget = Budget(1_000_000)
    order = []

    def work(name: str, size: int) -> None:
        reserved = budget.reserve(size, 10)
        order.append(f"{name} in")
        gevent.sleep(0.01)
        order.append(f"{name} out")
        budget.release(reserved)

    greenlets = [gevent.spawn(work, name, 600_000) for name in ("a", "b")]
    gevent.joinall(greenlets, raise_error=True)
    assert order == ["a in", "a out", "b in", "b out"]
    assert budget.reserve(1_000_000, 1) == 1_000_000


def test_who_waits_too_long_is_told() -> None:
    budget = Budget(100_000)
    with pytest.raises(RequestError) as caught:
        budget.reserve(100_001, 0.01)
    assert (caught.value.status_code, caught.value.error_type) == (503, "busy")
    assert budget.reserve(100_000, 0.01) == 100_000
