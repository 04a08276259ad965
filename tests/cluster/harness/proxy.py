"""A TCP proxy that makes a link suffer: delay, throttle, cut, refuse, swallow, corrupt, forge.

"down" is what flows from the target (the master) to the peer that connected (the replica), "up" the other
way. Faults at a byte position count from the beginning of the next connection made after the call; several
positions are for as many connections, one after the other.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from tests.cluster.harness.forging import Forger

Direction = Literal["down", "up"]

BLOCK_BYTES = 64 * 1024
TURN_SECS = 0.02
CONNECT_TIMEOUT_SECS = 5.0
HELD_SECS_MAX = 300.0


@dataclass(frozen=True, slots=True)
class _Faults:
    """What to do to one connection."""

    cut_at: Mapping[Direction, int]
    corrupt_at: Mapping[Direction, int]


class _Planned:
    """The positions of one kind of fault that later connections get."""

    def __init__(self) -> None:
        self._positions: dict[Direction, deque[int]] = {}

    def plan(self, positions: Sequence[int], direction: Direction) -> None:
        self._positions[direction] = deque(positions)

    def next(self) -> dict[Direction, int]:
        return {direction: left.popleft() for direction, left in self._positions.items() if left}


class Proxy:
    """Listens on 127.0.0.1 and joins each connection to `target`, through whatever was asked for."""

    def __init__(self, target: tuple[str, int]) -> None:
        self.target = target
        self.connections = 0
        self.bytes: dict[Direction, int] = {"down": 0, "up": 0}
        self.faults_met = 0
        self.delay_secs = 0.0
        self.bytes_per_sec: float | None = None
        self.forgery: tuple[bytes, bytes] | None = None
        self._cuts, self._corruptions = _Planned(), _Planned()
        self._refusing = False
        self._flowing: dict[Direction, threading.Event] = {"down": threading.Event(), "up": threading.Event()}
        for event in self._flowing.values():
            event.set()
        self._live: set[_Connection] = set()
        self._closed = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.host, self.port = self._listener.getsockname()
        threading.Thread(target=self._accept_all, daemon=True).start()

    @property
    def address(self) -> str:
        """host:port to connect to instead of the target."""
        return f"{self.host}:{self.port}"

    @property
    def in_use(self) -> bool:
        """Does a connection go through it now?"""
        return bool(self._live)

    def cut(self) -> None:
        """Reset every connection now."""
        for connection in list(self._live):
            connection.close()

    def cut_after(self, *counts: int, direction: Direction = "down") -> None:
        """Cut the next connection once exactly so many bytes have passed."""
        self._cuts.plan(counts, direction)

    def corrupt(self, *positions: int, direction: Direction = "down") -> None:
        """Change one bit of the byte at this position of the next connection."""
        self._corruptions.plan(positions, direction)

    def forge(self, old: bytes, new: bytes) -> None:
        """Put `new` for `old` in the frames that flow down in connections made from now on."""
        self.forgery = old, new

    def refuse(self) -> None:
        """Cut all connections and reset each new one at once."""
        self._refusing = True
        self.cut()

    def accept(self) -> None:
        """Take connections again, with all other faults as they are."""
        self._refusing = False

    def swallow(self, *directions: Direction) -> None:
        """Half-open: connections stay, nothing passes any more (both directions unless named)."""
        for direction in directions or ("down", "up"):
            self._flowing[direction].clear()

    def heal(self) -> None:
        """Let everything pass again, at full speed."""
        self._refusing = False
        self._cuts, self._corruptions = _Planned(), _Planned()
        self.delay_secs = 0.0
        self.bytes_per_sec = None
        self.forgery = None
        for event in self._flowing.values():
            event.set()

    def close(self) -> None:
        """Stop listening and reset every connection."""
        self._closed = True
        self._listener.close()
        self.heal()
        self.cut()

    def _accept_all(self) -> None:
        while not self._closed:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            if self._refusing:
                _reset(peer)
                continue
            faults = _Faults(self._cuts.next(), self._corruptions.next())
            self.connections += 1
            threading.Thread(target=self._join, args=(peer, faults), daemon=True).start()

    def _join(self, peer: socket.socket, faults: _Faults) -> None:
        try:
            target = _connected(self.target)
        except OSError:
            _reset(peer)
            return
        connection = _Connection(self, peer, target, faults)
        self._live.add(connection)
        if self._closed or self._refusing:
            connection.close()
            return
        threading.Thread(target=connection.pump, args=("up", peer, target), daemon=True).start()
        connection.pump("down", target, peer)


class _Connection:
    """One joined pair of sockets; two pumps share it, either may close it."""

    def __init__(self, proxy: Proxy, peer: socket.socket, target: socket.socket, faults: _Faults) -> None:
        self.proxy = proxy
        self.peer = peer
        self.target = target
        self.faults = faults
        self.passed: dict[Direction, int] = {"down": 0, "up": 0}
        self.forger = None if proxy.forgery is None else Forger()
        self.closed = False

    def pump(self, direction: Direction, source: socket.socket, sink: socket.socket) -> None:
        try:
            while not self.closed:
                data = source.recv(self._piece_bytes())
                self.proxy._flowing[direction].wait(HELD_SECS_MAX)
                if not data or not self._pass(direction, data, sink):
                    break
        except OSError:
            pass  # a reset on either side ends the pair, which is all a proxy has to do
        finally:
            self.close()

    def _piece_bytes(self) -> int:
        rate = self.proxy.bytes_per_sec
        return BLOCK_BYTES if rate is None else max(1, int(rate * TURN_SECS))

    def _pass(self, direction: Direction, data: bytes, sink: socket.socket) -> bool:
        """Send `data` on, with the faults due; False when the connection is to be cut."""
        if direction == "down" and self.forger is not None:
            data = self.forger.feed(data, *(self.proxy.forgery or (b"", b"")))
        start = self.passed[direction]
        cut_at = self.faults.cut_at.get(direction)
        corrupt_at = self.faults.corrupt_at.get(direction)
        if self.proxy.delay_secs:
            time.sleep(self.proxy.delay_secs)
        if self.proxy.bytes_per_sec is not None:
            time.sleep(len(data) / self.proxy.bytes_per_sec)
        if corrupt_at is not None and start <= corrupt_at < start + len(data):
            changed = bytearray(data)
            changed[corrupt_at - start] ^= 0x10
            data = bytes(changed)
            self.proxy.faults_met += 1
        cut = cut_at is not None and start + len(data) >= cut_at
        if cut and cut_at is not None:
            data = data[: max(0, cut_at - start)]
            self.proxy.faults_met += 1
        sink.sendall(data)
        self.passed[direction] += len(data)
        self.proxy.bytes[direction] += len(data)
        if cut:
            # An orderly end, so that the receiver really sees these bytes: a reset could overtake them.
            with contextlib.suppress(OSError):
                sink.shutdown(socket.SHUT_WR)
        return not cut

    def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        self.proxy._live.discard(self)
        for side in (self.peer, self.target):
            with contextlib.suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)
            side.close()


def _connected(target: tuple[str, int]) -> socket.socket:
    """A socket to `target` with a small receive buffer, so that a throttled reader is felt by the writer."""
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BLOCK_BYTES)
    made.settimeout(CONNECT_TIMEOUT_SECS)
    try:
        made.connect(target)
    except OSError:
        made.close()
        raise
    made.settimeout(None)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return made


def _reset(peer: socket.socket) -> None:
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()
