"""A stand-in for gevent whose loop is the kernel: the server's own greenlets run in virtual time.

It has what the package uses of gevent, with gevent's meaning: what is spawned or woken runs in a
later turn, in order; nothing switches but what waits; a thread of a pool goes on when the greenlet
that waits for it is killed. ``install`` puts it in the place of gevent, in a process that never
loads the real one.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Iterable
from typing import Any

from greenlet import GreenletExit

from tests.simulation.kernel import Process, Task
from tests.simulation.virtual_waiting import (
    AsyncResult,
    Event,
    NativeLock,
    RLock,
    Semaphore,
    Timeout,
    here,
    kernel,
    use,
)

__all__ = ["Event", "Greenlet", "NativeLock", "here", "install", "kernel", "use"]

NATIVE_DELAY_SECS = 0.0004


class Greenlet:
    """``gevent.Greenlet``."""

    def __class_getitem__(cls, item: Any) -> type[Greenlet]:
        return cls

    def __init__(self, run: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        self._run = lambda: run(*args, **kwargs)
        self._event = Event()
        self.task: Task | None = None
        self.name = getattr(run, "__qualname__", "")

    def start(self, delay: float = 0.0, process: Process | None = None) -> None:
        process = process or here().process
        self.task = kernel().spawn(process, self._run, delay=delay)
        self.task.on_done.append(self._event.set)
        self.task._greenlet.gevent = self

    @classmethod
    def spawn(cls, run: Callable[..., Any], *args: Any, **kwargs: Any) -> Greenlet:
        made = cls(run, *args, **kwargs)
        made.start()
        return made

    @staticmethod
    def add_spawn_callback(callback: Callable[[Greenlet], None]) -> None:
        """Nobody counts greenlets here."""

    remove_spawn_callback = add_spawn_callback

    def link(self, callback: Callable[[Greenlet], None]) -> None:
        assert self.task is not None
        self.task.on_done.append(lambda: callback(self))

    rawlink = link

    def link_exception(self, callback: Callable[[Greenlet], None]) -> None:
        assert self.task is not None
        self.task.watched = True
        self.task.on_done.append(lambda: callback(self) if self.exception is not None else None)

    def ready(self) -> bool:
        return self.task is not None and self.task.done

    dead = property(ready)

    def __bool__(self) -> bool:
        return self.task is not None and not self.task.done

    @property
    def exception(self) -> BaseException | None:
        return None if self.task is None else self.task.exception

    @property
    def value(self) -> Any:
        return None if self.task is None else self.task.value

    def successful(self) -> bool:
        return self.ready() and self.exception is None

    def join(self, timeout: float | None = None) -> None:
        if not self.ready():
            self._event.wait(timeout)

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        self.join(timeout)
        if not self.ready():
            raise Timeout(timeout)
        if self.exception is not None:
            raise self.exception
        return self.value

    def kill(self, exception: Any = GreenletExit, block: bool = True, timeout: float | None = None) -> None:
        task = self.task
        if task is None or task.done:
            return
        error = exception() if isinstance(exception, type) else exception
        if task is kernel().current():
            raise error
        kernel().at(0.0, lambda: task.throw(error), task.process)
        if block:
            self.join(timeout)


class ThreadPool:
    """``gevent.threadpool.ThreadPool``: its threads are native tasks."""

    def __init__(self, maxsize: int) -> None:
        self._room = Semaphore(maxsize)

    def apply(self, function: Callable[..., Any], args: Any = (), kwargs: Any = None) -> Any:
        room = self._room
        room.acquire()
        loop, result = kernel(), AsyncResult()

        def work() -> Any:
            try:
                return function(*args, **(kwargs or {}))
            finally:
                room.release()

        task = loop.spawn(here().process, work, native=True, delay=loop.random.random() * NATIVE_DELAY_SECS)
        task.watched = True

        def tell() -> None:
            if task.exception is not None:
                result.set_exception(task.exception)
            else:
                result.set(task.value)

        task.on_done.append(tell)
        return result.get()

    def spawn(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Greenlet:
        return Greenlet.spawn(self.apply, function, args, kwargs)

    def kill(self) -> None:
        """Threads end with the process."""


class Pool:
    """``gevent.pool.Pool`` and ``Group``."""

    def __init__(self, size: int | None = None, *args: Any) -> None:
        self.size = size
        self.greenlets: dict[Greenlet, None] = {}

    def spawn(self, run: Callable[..., Any], *args: Any, **kwargs: Any) -> Greenlet:
        made = Greenlet.spawn(run, *args, **kwargs)
        self.add(made)
        return made

    start = property(lambda self: self.add)

    def add(self, made: Greenlet) -> None:
        self.greenlets[made] = None
        made.link(lambda dead: self.greenlets.pop(dead, None))

    def discard(self, made: Greenlet) -> None:
        self.greenlets.pop(made, None)

    def __len__(self) -> int:
        return len(self.greenlets)

    def __iter__(self) -> Any:
        return iter(list(self.greenlets))

    def full(self) -> bool:
        return self.size is not None and len(self) >= self.size

    def free_count(self) -> int:
        return 1 << 30 if self.size is None else self.size - len(self)

    def join(self, timeout: float | None = None, raise_error: bool = False) -> bool:
        joinall(list(self.greenlets), timeout)
        return not self.greenlets

    def kill(self, exception: Any = GreenletExit, block: bool = True, timeout: float | None = None) -> None:
        killall(list(self.greenlets), exception, block, timeout)


def sleep(seconds: float = 0.0, ref: bool = True) -> None:
    """``gevent.sleep``."""
    kernel().pause(seconds)


def spawn_later(seconds: float, run: Callable[..., Any], *args: Any, **kwargs: Any) -> Greenlet:
    """``gevent.spawn_later``."""
    made = Greenlet(run, *args, **kwargs)
    made.start(seconds)
    return made


def with_timeout(seconds: float, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """``gevent.with_timeout``."""
    has_value = "timeout_value" in kwargs
    value = kwargs.pop("timeout_value", None)
    timeout = Timeout.start_new(seconds)
    try:
        return function(*args, **kwargs)
    except Timeout as error:
        if error is timeout and has_value:
            return value
        raise
    finally:
        timeout.cancel()


def killall(
    greenlets: Iterable[Greenlet],
    exception: Any = GreenletExit,
    block: bool = True,
    timeout: float | None = None,
) -> None:
    """``gevent.killall``."""
    chosen = list(greenlets)
    for made in chosen:
        made.kill(exception, block=False)
    if block:
        joinall(chosen, timeout)


def joinall(greenlets: Iterable[Greenlet], timeout: float | None = None, *args: Any, **kwargs: Any) -> None:
    """``gevent.joinall``; the timeout is each one's here."""
    for made in list(greenlets):
        made.join(timeout)


class _Hub:
    """``gevent.get_hub()``, as far as it is used to let others run."""

    loop = types.SimpleNamespace(timer=float, iteration=0)

    @staticmethod
    def wait(seconds: float) -> None:
        kernel().pause(seconds)


def getcurrent() -> Any:
    """``gevent.getcurrent``."""
    return getattr(here()._greenlet, "gevent", here())


def _module(name: str, **contents: Any) -> types.ModuleType:
    module = types.ModuleType(name)
    module.__dict__.update(contents)
    sys.modules[name] = module
    parent, _, leaf = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], leaf, module)
    return module


def install(socket_names: dict[str, Any]) -> None:
    """Take gevent's place. ``socket_names`` are what ``gevent.socket`` offers."""
    assert "gevent" not in sys.modules, "the simulation needs a process of its own, without gevent"
    _module(
        "gevent",
        spawn=Greenlet.spawn,
        spawn_later=spawn_later,
        sleep=sleep,
        with_timeout=with_timeout,
        killall=killall,
        joinall=joinall,
        getcurrent=getcurrent,
        get_hub=_Hub,
        Greenlet=Greenlet,
        GreenletExit=GreenletExit,
        Timeout=Timeout,
    )
    _module("gevent.event", Event=Event, AsyncResult=AsyncResult)
    _module("gevent.lock", RLock=RLock, Semaphore=Semaphore, BoundedSemaphore=Semaphore)
    _module("gevent.threadpool", ThreadPool=ThreadPool)
    _module("gevent.pool", Pool=Pool, Group=Pool)
    _module("gevent.timeout", Timeout=Timeout)
    _module("gevent.socket", **socket_names)
    _module("gevent.fileobject", FileObject=None)
