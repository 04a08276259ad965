"""What tasks wait for: ``gevent``'s timeouts, events, results and locks, and the system's own lock."""

from __future__ import annotations

from collections import deque
from typing import Any

from tests.simulation.kernel import Kernel, Task

_kernels: list[Kernel] = []
LOCK_SECS = 0.0001


def use(kernel: Kernel) -> None:
    """From here on this kernel is the loop."""
    _kernels[:] = [kernel]


def kernel() -> Kernel:
    """The loop."""
    return _kernels[0]


def here() -> Task:
    """The task that runs."""
    task = kernel().current()
    assert task is not None, "this belongs into a task"
    return task


class Timeout(BaseException):
    """``gevent.Timeout``: raised in the task that started it."""

    def __init__(self, seconds: float | None = None, exception: Any = None) -> None:
        super().__init__(seconds)
        self.seconds = seconds
        self.exception = exception
        self._armed = 0

    def start(self) -> None:
        """Begin to count."""
        if self.seconds is None:
            return
        task, self._armed = here(), self._armed + 1
        armed = self._armed
        error = self.exception if isinstance(self.exception, BaseException) else self

        def expire() -> None:
            if self._armed == armed:
                task.throw(error)

        kernel().at(self.seconds, expire, task.process)

    @classmethod
    def start_new(cls, seconds: float | None = None, exception: Any = None) -> Timeout:
        """A started one."""
        timeout = cls(seconds, exception)
        timeout.start()
        return timeout

    def cancel(self) -> None:
        """Never mind."""
        self._armed += 1

    close = cancel

    def __enter__(self) -> Timeout:
        self.start()
        return self

    def __exit__(self, kind: Any, value: Any, trace: Any) -> bool:
        self.cancel()
        return value is self and self.exception is False

    def __str__(self) -> str:
        return f"{self.seconds} seconds"


class _Waiting:
    """Tasks that wait for one thing, in order."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[Task, int]] = deque()

    def wait(self, timeout: float | None = None) -> bool:
        """Until woken; False if the time was over first."""
        task = here()
        ticket = task.ticket
        entry = (task, ticket)
        self._waiting.append(entry)
        if timeout is not None:
            kernel().at(timeout, lambda: task.resume(ticket, False), task.process)
        try:
            return bool(kernel().park())
        finally:
            if entry in self._waiting:
                self._waiting.remove(entry)

    def wake(self, count: int | None = None) -> None:
        """Let them go on, in a later turn."""
        while self._waiting and count != 0:
            task, ticket = self._waiting.popleft()
            if task.done or task.ticket != ticket:
                continue
            kernel().at(0.0, lambda task=task, ticket=ticket: task.resume(ticket, True), task.process)
            count = None if count is None else count - 1


class Event:
    """``gevent.event.Event``."""

    def __init__(self) -> None:
        self._set = False
        self._waiting = _Waiting()

    def is_set(self) -> bool:
        return self._set

    ready = is_set

    def set(self) -> None:
        self._set = True
        self._waiting.wake()

    def clear(self) -> None:
        self._set = False

    def wait(self, timeout: float | None = None) -> bool:
        if not self._set:
            self._waiting.wait(timeout)
        return self._set


class AsyncResult:
    """``gevent.event.AsyncResult``."""

    def __class_getitem__(cls, item: Any) -> type[AsyncResult]:
        return cls

    def __init__(self) -> None:
        self.value: Any = None
        self.exception: BaseException | None = None
        self._event = Event()

    def ready(self) -> bool:
        return self._event.is_set()

    def set(self, value: Any = None) -> None:
        self.value = value
        self._event.set()

    def set_exception(self, exception: BaseException) -> None:
        self.exception = exception
        self._event.set()

    def wait(self, timeout: float | None = None) -> Any:
        self._event.wait(timeout)
        return self.value

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        if not self._event.wait(timeout):
            raise Timeout(timeout)
        if self.exception is not None:
            raise self.exception
        return self.value


class RLock:
    """``gevent.lock.RLock``."""

    def __init__(self) -> None:
        self._owner: Task | None = None
        self._count = 0
        self._waiting = _Waiting()

    def acquire(self, blocking: bool = True, timeout: float | None = None) -> bool:
        me = here()
        while self._owner is not None and self._owner is not me:
            if not blocking or not self._waiting.wait(timeout):
                return False
        self._owner = me
        self._count += 1
        return True

    def release(self) -> None:
        self._count -= 1
        if self._count == 0:
            self._owner = None
            self._waiting.wake(1)

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *about: object) -> None:
        self.release()


class Semaphore:
    """``gevent.lock.Semaphore``."""

    def __init__(self, value: int = 1) -> None:
        self.counter = value
        self._waiting = _Waiting()

    def locked(self) -> bool:
        return self.counter <= 0

    def acquire(self, blocking: bool = True, timeout: float | None = None) -> bool:
        while self.counter <= 0:
            if not blocking or not self._waiting.wait(timeout):
                return False
        self.counter -= 1
        return True

    def release(self) -> None:
        self.counter += 1
        self._waiting.wake(1)

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *about: object) -> None:
        self.release()


class NativeLock:
    """``_thread.allocate_lock``: who waits for it in the loop holds the whole loop."""

    def __init__(self) -> None:
        self._held = False

    def acquire(self, blocking: bool = True) -> bool:
        while self._held:
            if not blocking:
                return False
            task = here()
            if task.native:
                kernel().pause(LOCK_SECS)
            else:
                task.process.hold_loop(LOCK_SECS)
        self._held = True
        return True

    def release(self) -> None:
        assert self._held, "only what is held is released"
        self._held = False

    def locked(self) -> bool:
        return self._held

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *about: object) -> None:
        self.release()
