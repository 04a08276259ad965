"""Threads that do something all the time, while a scenario goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from types import TracebackType
from typing import Self

JOIN_SECS = 60.0


class Crew:
    """One thread for each task, as a context: they run inside it and have ended after it.

    A task goes on until ``stopped``. What one of them raises is told at the end, or by ``raise_failure``.
    """

    def __init__(self, each: str, tasks: Sequence[Callable[[], None]]) -> None:
        self.stopped = threading.Event()
        self.failures: list[BaseException] = []
        self._each = each
        self._threads = [threading.Thread(target=partial(self._run, task), daemon=True) for task in tasks]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        if error is None:
            self.raise_failure()
            assert not any(thread.is_alive() for thread in self._threads), f"{self._each} does not end"

    def stop(self) -> None:
        """End them, each after what it does at the moment."""
        self.stopped.set()
        for thread in self._threads:
            thread.join(JOIN_SECS)

    def raise_failure(self) -> None:
        """AssertionError if one of them met what it must not."""
        if self.failures:
            raise AssertionError(f"{self._each} met {self.failures[0]!r}") from self.failures[0]

    def _run(self, task: Callable[[], None]) -> None:
        try:
            task()
        except BaseException as error:  # noqa: BLE001 - told by raise_failure
            self.failures.append(error)
