"""Waiting on a condition with a deadline: the only way tests here let time pass."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

POLL_SECS = 0.02
DEADLINE_SECS = 20.0


def wait_until(condition: Callable[[], T], what: str, deadline_secs: float = DEADLINE_SECS) -> T:
    """Poll `condition` until it is truthy and return its value.

    A node that is down or restarting answers with an OSError, which counts as "not yet". AssertionError
    after `deadline_secs`, with the last value or error seen.
    """
    ends = time.monotonic() + deadline_secs
    while True:
        try:
            value = condition()
            last: object = value
        except OSError as error:
            last = error
        else:
            if value:
                return value
        if time.monotonic() > ends:
            raise AssertionError(f"after {deadline_secs} s still not: {what} (last seen: {last!r})")
        time.sleep(POLL_SECS)


def stays_true(condition: Callable[[], bool], what: str, secs: float) -> None:
    """Check `condition` again and again for `secs`; AssertionError the first time it does not hold."""
    ends = time.monotonic() + secs
    while time.monotonic() < ends:
        assert condition(), f"no longer: {what}"
        time.sleep(POLL_SECS)
