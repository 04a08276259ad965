"""The simulated network: hosts, listeners, and connections that are two pipes of bytes.

Inside one connection bytes arrive in order; how long they take, in what pieces, and whether they
arrive at all is up to chance and to the faults: a *cut* ends a connection anywhere, also inside a
frame; a *partition* holds what goes from one host to another (one way or both) until it is healed;
a *slow* path has a rate; a host that loses power falls silent, and only when it is back its peers
learn that their connections are gone.
"""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Callable
from typing import Any

from tests.simulation import virtual_gevent
from tests.simulation.kernel import Kernel, Process

LATENCY_SECS = (0.0001, 0.003)
CAPACITY_BYTES = (8 << 10, 256 << 10)
SILENCE_SECS = (0.2, 3.0)


class Pipe:
    """One direction of a connection. ``arrived`` is what the receiving side may read."""

    def __init__(self, network: Network, source: str, target: str) -> None:
        self.network = network
        self.source = source
        self.target = target
        self.capacity = network.kernel.random.randint(*CAPACITY_BYTES)
        self.under_way: deque[bytes] = deque()
        self.arrived = bytearray()
        self.ended = False  # nothing more will arrive: end of file, or `error`
        self.error: int = 0
        self.receiver_gone = False
        self.readable = virtual_gevent.Event()
        self.writable = virtual_gevent.Event()
        self._last_at = 0.0
        self._held: deque[Callable[[], None]] = deque()

    @property
    def room(self) -> int:
        """Bytes that may still be sent before somebody reads."""
        return self.capacity - len(self.arrived) - sum(map(len, self.under_way))

    def send(self, data: bytes) -> None:
        """Put bytes on their way, in pieces."""
        random = self.network.kernel.random
        while data:
            size = len(data) if random.random() < 0.6 else random.randint(1, len(data))
            self.under_way.append(data[:size])
            self._schedule(self._arrive, size)
            data = data[size:]

    def end(self) -> None:
        """End of file, behind what is under way."""
        self._schedule(lambda: self.finish(0), 0)

    def finish(self, error: int) -> None:
        """Nothing arrives any more."""
        if not self.ended:
            self.ended, self.error = True, error
            self.under_way.clear()
            self._held.clear()
            if error:
                self.arrived.clear()
            self.readable.set()
            self.writable.set()

    def cut(self, keep: int, error: int) -> None:
        """The connection breaks after so many of the bytes under way."""
        rest = b"".join(self.under_way)[:keep]
        if not self.ended and not error:
            self.arrived += rest
        self.finish(error)

    def release(self) -> None:
        """The path is open again."""
        held, self._held = self._held, deque()
        for step in held:
            self._schedule(step, 0)

    def _arrive(self) -> None:
        if self.ended or not self.under_way:
            return
        data = self.under_way.popleft()
        if self.receiver_gone:
            return
        self.arrived += data
        self.readable.set()

    def _schedule(self, step: Callable[[], None], size: int) -> None:
        network = self.network
        random = network.kernel.random
        slow = network.slow.get((self.source, self.target))
        base = network.kernel.now if slow is None else max(network.kernel.now, self._last_at) + size / slow
        self._last_at = max(
            self._last_at, base + random.uniform(*LATENCY_SECS) * (1.0 if slow is None else 20.0)
        )

        def happen() -> None:
            if self._held or (self.source, self.target) in network.blocked:
                self._held.append(step)
            else:
                step()

        network.kernel.at(self._last_at - network.kernel.now, happen)


class Socket:
    """What the package uses of a socket; each blocking call belongs to a task."""

    def __init__(self, *kind: object) -> None:
        process = virtual_gevent.here().process
        self.network: Network = NETWORKS[process.kernel]
        self.process = process
        self.host = self.network.host_of[process]
        self.port = 0
        self.closed = False
        self.incoming: Pipe | None = None
        self.outgoing: Pipe | None = None
        self.peer: tuple[str, int] = ("", 0)
        self.backlog: deque[Socket] = deque()
        self.acceptable = virtual_gevent.Event()

    # -- listening ---------------------------------------------------------------------------------

    def setsockopt(self, *about: object) -> None:
        """Options change nothing here."""

    def fileno(self) -> int:
        """The system knows of no such socket."""
        return -1

    def bind(self, address: tuple[str, int]) -> None:
        if address in self.network.listeners:
            raise _error(errno.EADDRINUSE)
        self.port = address[1]

    def listen(self, backlog: int) -> None:
        self.network.listeners[self.host, self.port] = self

    def accept(self) -> tuple[Socket, tuple[str, int]]:
        while not self.backlog:
            self._guard()
            self.acceptable.clear()
            self.acceptable.wait()
        made = self.backlog.popleft()
        return made, made.peer

    def getsockname(self) -> tuple[str, int]:
        return self.host, self.port

    def getpeername(self) -> tuple[str, int]:
        return self.peer

    # -- a connection ------------------------------------------------------------------------------

    def recv_into(self, buffer: memoryview) -> int:
        pipe = self.incoming
        assert pipe is not None
        while not pipe.arrived:
            self._guard()
            if pipe.ended:
                if pipe.error:
                    raise _error(pipe.error)
                return 0
            pipe.readable.clear()
            pipe.readable.wait()
        size = min(len(buffer), len(pipe.arrived))
        buffer[:size] = pipe.arrived[:size]
        self.network.heard[self.peer[0], self.host] = self.network.kernel.now
        del pipe.arrived[:size]
        pipe.writable.set()
        return size

    def send(self, data: bytes | memoryview) -> int:
        pipe = self.outgoing
        assert pipe is not None
        while True:
            self._guard()
            if pipe.ended:
                raise _error(pipe.error or errno.EPIPE)
            count = min(pipe.room, len(data))
            if count > 0:
                pipe.send(bytes(data[:count]))
                return count
            pipe.writable.clear()
            pipe.writable.wait()

    def sendall(self, data: bytes | memoryview) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[self.send(rest) :]

    def shutdown(self, how: int) -> None:
        if self.closed or self.outgoing is None:
            raise _error(errno.ENOTCONN)
        self.outgoing.end()

    def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        self.acceptable.set()
        if self.network.listeners.get((self.host, self.port)) is self:
            del self.network.listeners[self.host, self.port]
        if self.incoming is not None and self.outgoing is not None:
            if self.incoming.arrived and not self.outgoing.ended:
                # Unread bytes: the system answers with a reset, which may overtake what was sent.
                self.outgoing._schedule(lambda: self.outgoing.finish(errno.ECONNRESET), 0)
            else:
                self.outgoing.end()
            self.incoming.receiver_gone = True
            self.incoming.readable.set()
            self.outgoing.writable.set()
            pipe = self.incoming
            self.network.kernel.at(0.05, lambda: pipe.finish(errno.ECONNRESET))

    def vanish(self, silent: bool) -> None:
        """The process is gone: the system closes for it, or (no power) nobody does."""
        if self.closed:
            return
        if not silent:
            self.close()
            return
        self.closed = True
        if self.incoming is not None and self.outgoing is not None:
            self.incoming.receiver_gone = True
            self.outgoing.under_way.clear()
            self.network.silent.append((self.host, self))

    def _guard(self) -> None:
        if self.closed:
            raise _error(errno.EBADF)


class Network:
    """All hosts of one simulation."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.host_of: dict[Process, str] = {}
        self.listeners: dict[tuple[str, int], Socket] = {}
        self.blocked: set[tuple[str, str]] = set()
        self.slow: dict[tuple[str, str], float] = {}
        self.connections: list[tuple[Socket, Socket]] = []
        self.silent: list[tuple[str, Socket]] = []
        self.heard: dict[tuple[str, str], float] = {}  # from a host, at a host: when bytes were read last
        self.seen_proofs: dict[
            str, tuple[Any, Any]
        ] = {}  # at a host: a greeting and its proof, as on the wire
        self._port = 40_000
        NETWORKS.clear()
        NETWORKS[kernel] = self

    def join(self, process: Process, host: str) -> None:
        """A process runs on this host from now on; what it left behind is noticed by its peers some
        time.
        """
        self.host_of[process] = host
        gone = [sock for place, sock in self.silent if place == host]
        self.silent = [(place, sock) for place, sock in self.silent if place != host]
        for sock in gone:
            self._tell_late(sock)

    def _tell_late(self, sock: Socket) -> None:
        incoming, outgoing = sock.incoming, sock.outgoing
        assert incoming is not None and outgoing is not None

        def tell() -> None:
            outgoing._schedule(lambda: outgoing.finish(errno.ECONNRESET), 0)
            outgoing._schedule(lambda: incoming.finish(errno.ECONNRESET), 0)

        self.kernel.at(self.kernel.random.uniform(*SILENCE_SECS), tell)

    def leave(self, process: Process, silent: bool) -> None:
        """The process is dead."""
        for listener in [sock for sock in self.listeners.values() if sock.process is process]:
            del self.listeners[listener.host, listener.port]
            for waiting in listener.backlog:
                waiting.vanish(silent)
        for pair in self.connections:
            for sock in pair:
                if sock.process is process:
                    sock.vanish(silent)
        self._tidy()

    def connect(self, address: tuple[str, int]) -> Socket:
        """Blocking; OSError if nobody listens there."""
        sock = Socket()
        source, target = sock.host, address[0]
        kernel = self.kernel
        kernel.pause(kernel.random.uniform(*LATENCY_SECS))
        while (
            (source, target) in self.blocked or (target, source) in self.blocked or not self.host_up(target)
        ):
            kernel.pause(0.2)  # SYN after SYN; the caller's patience ends it
        listener = self.listeners.get((target, address[1]))
        if listener is None or listener.closed:
            raise _error(errno.ECONNREFUSED)
        self._port += 1
        sock.port, sock.peer = self._port, address
        other = object.__new__(Socket)
        other.__dict__.update(sock.__dict__)
        other.process, other.host, other.port = listener.process, target, address[1]
        other.peer = (source, sock.port)
        sock.outgoing = other.incoming = Pipe(self, source, target)
        sock.incoming = other.outgoing = Pipe(self, target, source)
        other.backlog, other.acceptable = deque(), virtual_gevent.Event()
        listener.backlog.append(other)
        listener.acceptable.set()
        self._tidy()
        self.connections.append((sock, other))
        kernel.pause(kernel.random.uniform(*LATENCY_SECS))
        return sock

    def host_up(self, host: str) -> bool:
        """Whether a process runs there."""
        return any(process.alive and place == host for process, place in self.host_of.items())

    # -- faults ------------------------------------------------------------------------------------

    def cut(self, host: str, other: str) -> int:
        """Break all connections between two hosts; how many."""
        random = self.kernel.random
        count = 0
        for sock, peer in self.connections:
            if {sock.host, peer.host} == {host, other} and not (sock.closed and peer.closed):
                count += 1
                for pipe in (sock.incoming, sock.outgoing):
                    assert pipe is not None
                    size = sum(map(len, pipe.under_way))
                    pipe.cut(random.randint(0, size), random.choice([0, errno.ECONNRESET]))
        return count

    def block(self, source: str, target: str) -> None:
        """Hold what goes this way."""
        self.blocked.add((source, target))

    def unblock(self, paths: list[tuple[str, str]]) -> None:
        """Open these paths again."""
        self.blocked.difference_update(paths)
        self._release()

    def heal(self) -> None:
        """All paths are open and quick again."""
        self.blocked.clear()
        self.slow.clear()
        self._release()

    def _release(self) -> None:
        for sock, _ in self.connections:
            for pipe in (sock.incoming, sock.outgoing):
                if pipe is not None:
                    pipe.release()

    def _tidy(self) -> None:
        self.connections = [pair for pair in self.connections if not (pair[0].closed and pair[1].closed)]
        self.host_of = {process: host for process, host in self.host_of.items() if process.alive}


NETWORKS: dict[Kernel, Network] = {}


def create_connection(address: tuple[str, int], *about: object) -> Socket:
    """``socket.create_connection``."""
    return NETWORKS[virtual_gevent.kernel()].connect((address[0], address[1]))


def getaddrinfo(host: str, port: int, *about: object, **more: object) -> list[tuple[object, ...]]:
    """``socket.getaddrinfo``: names are addresses."""
    return [(2, 1, 6, "", (host, port))]


def socket_names() -> dict[str, object]:
    """The contents of ``gevent.socket``."""
    numbers = (
        "AF_INET",
        "AF_INET6",
        "SOCK_STREAM",
        "SOL_SOCKET",
        "SO_REUSEADDR",
        "SO_KEEPALIVE",
        "IPPROTO_TCP",
    )
    more = ("TCP_NODELAY", "IPPROTO_IPV6", "IPV6_V6ONLY", "AI_PASSIVE", "SHUT_WR", "SHUT_RDWR", "SHUT_RD")
    names: dict[str, object] = {name: number for number, name in enumerate((*numbers, *more), start=1)}
    names.update(
        socket=Socket,
        create_connection=create_connection,
        getaddrinfo=getaddrinfo,
        error=OSError,
        timeout=TimeoutError,
    )
    return names


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))
