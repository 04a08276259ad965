"""Native threads for a greenlet: what takes long runs there while the event loop goes on.

An error is raised where the result is waited for and only there: gevent would print it to stderr too. A
greenlet that is killed meanwhile ends when the thread is done, not before: the thread must not go on with
what others clean up then.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, ParamSpec, TypeVar, cast

import gevent
from gevent.threadpool import ThreadPool

P = ParamSpec("P")
Q = TypeVar("Q")
R = TypeVar("R")

AT_ONCE = 2
"""Threads for parts that are computed at the same time: while one holds the interpreter's lock, the other is
in nmslib, in zlib or in a system call.
"""
KILLED_POLL_SECS = 0.002


class NativeThreads:
    """At most ``count`` native threads, started when they are needed first."""

    def __init__(self, count: int) -> None:
        self._pool = ThreadPool(count)
        self._count = count

    def run(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """What the function returns; the calling greenlet waits for it."""
        return cast(R, _finished(self._pool.spawn(_outcome, function, args, kwargs)))

    def run_each(self, function: Callable[[Q], R], arguments: Sequence[Q]) -> Iterator[R]:
        """What the function makes of each argument, in order: as many as there are threads are under way
        while the caller deals with what this gives.

        One more is handed over: a thread that is done goes on with it without a turn of the event loop.
        """
        waiting = iter(arguments)
        running: deque[Any] = deque()

        def start(count: int) -> None:
            for argument in islice(waiting, count):
                running.append(self._pool.spawn(_outcome, function, (argument,), {}))

        try:
            start(self._count + 1)
            while running:
                result = _finished(running.popleft())
                start(1)
                yield result
        finally:
            for left in running:
                _wait_ready(left)

    def kill(self) -> None:
        """End the threads, each when it has done what it is at."""
        self._pool.kill()


def _finished(running: Any) -> Any:
    try:
        result, error = running.get()
    except BaseException:
        _wait_ready(running)
        raise
    if error is not None:
        raise error
    return result


def _wait_ready(running: Any) -> None:
    while running is not None and not running.ready():
        gevent.sleep(KILLED_POLL_SECS)


def _outcome(
    function: Callable[..., R], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[R | None, Exception | None]:
    try:
        return function(*args, **kwargs), None
    except Exception as error:  # noqa: BLE001  raised again where it is waited for
        return None, error
