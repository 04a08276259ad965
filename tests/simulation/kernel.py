"""Virtual time: one thread, one clock, one source of chance, and processes whose tasks take turns.

A *task* is a greenlet; it runs until it waits (``pause``, ``park``), and nothing else runs
meanwhile. A *loop task* stands for a greenlet of the server: only its own waiting lets others run.
A *native task* stands for a thread of a pool: it may be interrupted at each operation of the disk.
A *process* is one run of a node: it can be frozen, and it can be killed, which ends all its tasks
wherever they wait.

House rules:

1. Everything that happens comes off one heap ordered by (time, number), so a seed decides it all.
2. Nobody asks the computer for time, chance or ids.
3. A dead process never runs again: what its tasks still do while they unwind changes nothing.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from random import Random
from typing import Any

from greenlet import GreenletExit, getcurrent, greenlet

MONOTONIC_BASE_SECS = 10_000.0
UNIX_BASE_MS = 1_700_000_000_000
EVENTS_AT_ONCE_MAX = 5_000


class ProcessKilled(GreenletExit):
    """The process of this task is no more."""


class Process:
    """One run of a node (or of the clients). ``skew_ms``: how wrong its wall clock is."""

    def __init__(self, kernel: Kernel, name: str, skew_ms: int = 0) -> None:
        self.kernel = kernel
        self.name = name
        self.skew_ms = skew_ms
        self.monotonic_base = MONOTONIC_BASE_SECS - kernel.now  # each run's clock begins anew
        self.alive = True
        self.frozen = False
        self.busy = False  # a loop task waits for the disk: so does the whole loop
        self.tasks: dict[Task, None] = {}
        self.deferred: deque[tuple[Callable[[], None], bool]] = deque()
        self.on_death: list[Callable[[], None]] = []
        self.on_error: Callable[[Task, BaseException], None] | None = None

    def freeze(self) -> None:
        """As by SIGSTOP."""
        self.frozen = True

    def thaw(self) -> None:
        """As by SIGCONT: what was due meanwhile is done now, in order."""
        self.frozen = False
        self._catch_up()

    def _catch_up(self) -> None:
        deferred, self.deferred = self.deferred, deque()
        for callback, native in deferred:
            self.kernel.at(0.0, callback, self, native=native)

    def hold_loop(self, seconds: float) -> None:
        """The present task, one of the loop, waits for something that blocks; nothing else of the
        process runs.
        """
        kernel, task = self.kernel, self.kernel.current()
        assert task is not None
        ticket = task.ticket
        self.busy = True

        def go_on() -> None:
            if self.frozen:
                kernel.at(0.01, go_on)
                return
            self.busy = False
            task.resume(ticket)
            if not self.busy:
                self._catch_up()

        kernel.at(seconds, go_on)
        kernel.park()

    def kill(self) -> None:
        """End it at once. From one of its own tasks: that task must then raise ProcessKilled."""
        if not self.alive:
            return
        self.alive = False
        self.deferred.clear()
        for task in list(self.tasks):
            if task is not getcurrent():
                task.die()
        self.tasks.clear()
        for callback in self.on_death:
            callback()


class Task:
    """A greenlet under the kernel."""

    def __init__(self, process: Process, function: Callable[[], Any], *, native: bool = False) -> None:
        self.process = process
        self.native = native
        self.value: Any = None
        self.exception: BaseException | None = None
        self.done = False
        self.watched = False  # somebody hears of its death
        self.ticket = 0  # of the present wait: a wake-up with another one is late
        self.on_done: list[Callable[[], None]] = []
        self._function = function
        self._greenlet = greenlet(self._main, process.kernel.hub)
        self._greenlet.task = self

    def _main(self, _first: object = None) -> None:
        try:
            self.value = self._function()
        except GreenletExit as error:
            self.value = error
        except BaseException as error:  # noqa: BLE001 - kept for whoever waits for the task
            self.exception = error
        self.done = True
        self.process.tasks.pop(self, None)
        if not self.process.alive:
            return
        if self.exception is not None and self.process.on_error is not None:
            self.process.on_error(self, self.exception)
        for callback in self.on_done:
            self.process.kernel.at(0.0, callback, self.process)

    def resume(self, ticket: int, value: Any = None) -> None:
        """Go on, if this is what the task waits for."""
        if not self.done and ticket == self.ticket and self.process.alive:
            self.ticket += 1
            self._greenlet.switch(value)

    def throw(self, error: BaseException) -> None:
        """Raise in the task where it waits; one that never ran is over."""
        if self.done or not self.process.alive:
            return
        self.ticket += 1
        if not self._greenlet:
            self.done = True
            self.value = error
            self.process.tasks.pop(self, None)
            for callback in self.on_done:
                self.process.kernel.at(0.0, callback, self.process)
            return
        self._greenlet.throw(error)

    def die(self) -> None:
        """Unwind, in a process that is dead."""
        self.done = True
        self.ticket += 1
        if self._greenlet:
            self._greenlet.throw(ProcessKilled())


class Kernel:
    """The clock and the heap."""

    def __init__(self, seed: int) -> None:
        self.hub = getcurrent()
        self.now = 0.0
        self.random = Random(seed)
        self.events = 0
        self.after_event: Callable[[], None] | None = None
        self.on_spin: Callable[[], None] | None = None
        self._at_once = 0  # events since time last moved
        self._heap: list[tuple[float, int, Process | None, bool, Callable[[], None]]] = []
        self._number = 0
        self._given = 0

    # -- time --------------------------------------------------------------------------------------

    def at(
        self,
        delay: float,
        callback: Callable[[], None],
        process: Process | None = None,
        *,
        native: bool = False,
    ) -> None:
        """Call back after a delay; never if the process is dead then, after the thaw if it is frozen.

        ``native``: also while the process's loop is held.
        """
        self._number += 1
        heapq.heappush(self._heap, (self.now + max(0.0, delay), self._number, process, native, callback))

    def run(self, until: float, done: Callable[[], bool] | None = None) -> bool:
        """Let things happen until that time, or until ``done``; whether it was ``done``."""
        while self._heap and self._heap[0][0] <= until:
            time, _, process, native, callback = heapq.heappop(self._heap)
            self._count(time)
            if process is not None:
                if not process.alive:
                    continue
                if process.frozen or (process.busy and not native):
                    process.deferred.append((callback, native))
                    continue
            callback()
            self.events += 1
            if self.after_event is not None:
                self.after_event()
            if done is not None and done():
                return True
        self.now = max(self.now, until)
        return False

    def _count(self, time: float) -> None:
        """Time moves; if it does not for long, something waits in a way that does not wait."""
        self._at_once = self._at_once + 1 if time == self.now else 0
        self.now = time
        if self._at_once == EVENTS_AT_ONCE_MAX and self.on_spin is not None:
            self.on_spin()

    # -- tasks -------------------------------------------------------------------------------------

    def current(self) -> Task | None:
        """The task that runs, None in the hub."""
        task: Task | None = getattr(getcurrent(), "task", None)
        return task

    def spawn(
        self, process: Process, function: Callable[[], Any], *, native: bool = False, delay: float = 0.0
    ) -> Task:
        """A new task; it starts when its turn comes."""
        task = Task(process, function, native=native)
        process.tasks[task] = None
        ticket = task.ticket
        self.at(delay, lambda: task.resume(ticket), process, native=native)
        return task

    def park(self) -> Any:
        """Wait until ``resume`` is called with the present ticket; what it was given."""
        task = self.current()
        assert task is not None, "only tasks wait"
        if not task.process.alive:
            raise ProcessKilled
        value = self.hub.switch()
        if not task.process.alive:
            raise ProcessKilled
        return value

    def pause(self, seconds: float) -> None:
        """Wait that long."""
        task = self.current()
        assert task is not None, "only tasks wait"
        ticket = task.ticket
        self.at(seconds, lambda: task.resume(ticket), task.process, native=task.native)
        self.park()

    # -- what processes see ------------------------------------------------------------------------

    def monotonic(self) -> float:
        """Seconds on the current process's monotonic clock."""
        task = self.current()
        return self.now + (MONOTONIC_BASE_SECS if task is None else task.process.monotonic_base)

    def time_ns(self) -> int:
        """Nanoseconds since 1970 on the current process's clock."""
        task = self.current()
        skew = 0 if task is None else task.process.skew_ms
        return (UNIX_BASE_MS + skew) * 1_000_000 + round(self.now * 1e9)

    def next_number(self) -> int:
        """1, 2, 3 ..."""
        self._given += 1
        return self._given

    def new_id(self) -> str:
        """32 hexadecimal digits."""
        return f"{self.random.getrandbits(128):032x}"
