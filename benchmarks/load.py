"""Many keep-alive clients in one loop of the kernel's, so that the clients cost as little as they can.

``drive`` runs them here; ``BackgroundLoad`` in a process of its own, beside which something else is measured.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import selectors
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection as Pipe
from types import TracebackType

from benchmarks.rest_client import RECEIVE_BYTES, RequestFailed, connect, whole_length

SILENCE_SECS = 60.0
"""A server that answers nothing for so long has failed."""
STOP_SECS = 60.0
START_SECS = 60.0


@dataclass
class Load:
    """What clients saw: seconds from the first byte to the last answer, and each answer's milliseconds."""

    seconds: float = 0.0
    latencies_ms: list[float] = field(default_factory=list)
    last_body: bytes = b""
    """Of the answer that came last."""

    @property
    def rate(self) -> float:
        """Answers per second."""
        return len(self.latencies_ms) / self.seconds if self.seconds else 0.0


class _Client:
    """One connection: at most one request is under way."""

    def __init__(self, port: int) -> None:
        self.sock: socket.socket = connect(port)
        self.sock.setblocking(False)
        self.unsent = memoryview(b"")
        self.received = bytearray()
        self.length = 0
        self.began = 0.0

    def begin(self, request: bytes) -> None:
        self.unsent = memoryview(request)
        self.began = time.perf_counter()
        self.send()

    def send(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self.unsent:
                self.unsent = self.unsent[self.sock.send(self.unsent) :]

    def receive(self) -> bytes | None:
        """The whole answer, or None: not there yet."""
        piece = self.sock.recv(RECEIVE_BYTES)
        if not piece:
            raise RequestFailed("the server closed a connection")
        self.received += piece
        self.length = self.length or whole_length(self.received)
        if not self.length or len(self.received) < self.length:
            return None
        answer = bytes(self.received)
        self.received.clear()
        self.length = 0
        if answer[9:12] not in (b"200", b"201"):
            raise RequestFailed(answer[:1000].decode(errors="replace"))
        return answer


def drive(
    port: int, requests: Iterable[bytes], clients: int, *, until: Callable[[], bool] = lambda: False
) -> Load:
    """Send all requests by so many keep-alive clients, each its next one as soon as it has an answer."""
    load, source = Load(), iter(requests)
    with contextlib.ExitStack() as stack, selectors.DefaultSelector() as selector:
        began = time.perf_counter()
        for _ in range(clients):
            request = next(source, None)
            if request is None:
                break
            client = _Client(port)
            stack.callback(client.sock.close)
            client.begin(request)
            selector.register(client.sock, _wanted(client), client)
        while selector.get_map():
            ready = selector.select(SILENCE_SECS)
            if not ready:
                raise RequestFailed(f"no answer for {SILENCE_SECS:g} s")
            for key, _ in ready:
                _turn(key.data, source, load, selector, until)
        load.seconds = time.perf_counter() - began
    return load


def _wanted(client: _Client) -> int:
    return selectors.EVENT_READ | (selectors.EVENT_WRITE if client.unsent else 0)


def _turn(
    client: _Client,
    source: Iterator[bytes],
    load: Load,
    selector: selectors.BaseSelector,
    until: Callable[[], bool],
) -> None:
    wrote = bool(client.unsent)
    if wrote:
        client.send()
    else:
        answer = client.receive()
        if answer is None:
            return
        load.latencies_ms.append((time.perf_counter() - client.began) * 1e3)
        request = None if until() else next(source, None)
        if request is None:
            load.last_body = answer[answer.index(b"\r\n\r\n") + 4 :]
            selector.unregister(client.sock)
            return
        client.begin(request)
    if wrote or client.unsent:
        selector.modify(client.sock, _wanted(client), client)


def paced(requests: Iterable[bytes], per_second: float) -> Iterator[bytes]:
    """The requests, each not before its time. For one client."""
    began = time.perf_counter()
    for number, request in enumerate(requests):
        early = began + number / per_second - time.perf_counter()
        if early > 0:
            time.sleep(early)
        yield request


class BackgroundLoad:
    """Clients in a process of their own, from entering to leaving; then ``load`` tells what they saw.

    ``requests`` is called there and gives requests without end; it must be a function of a module, with its
    arguments in ``arguments``.
    """

    def __init__(
        self, port: int, clients: int, requests: Callable[..., Iterable[bytes]], *arguments: object
    ) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_run, args=(theirs, port, clients, requests, arguments), daemon=True
        )
        self.load = Load()

    def __enter__(self) -> BackgroundLoad:
        self._process.start()
        self._expect(START_SECS)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._process.kill()
        else:
            self._pipe.send("stop")
            self.load = self._expect(STOP_SECS)
        self._process.join(STOP_SECS)

    def _expect(self, seconds: float) -> Load:
        if not self._pipe.poll(seconds):
            raise RequestFailed(f"the clients in the background said nothing for {seconds:g} s")
        told = self._pipe.recv()
        if isinstance(told, str):
            raise RequestFailed(told)
        assert isinstance(told, Load)
        return told


def _run(
    pipe: Pipe, port: int, clients: int, requests: Callable[..., Iterable[bytes]], arguments: tuple[object]
) -> None:
    try:
        source = iter(requests(*arguments))
        pipe.send(Load())
        pipe.send(drive(port, source, clients, until=pipe.poll))
    except Exception as error:  # noqa: BLE001  told to who waits for it, in the other process
        pipe.send(f"the clients in the background failed: {error!r}")
