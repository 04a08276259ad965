"""One replication connection: a socket that carries frames, for one receiving and one sending greenlet.

House rules
-----------
1. Every wait has an end: connecting, reading and writing take a timeout, and a writer that makes no progress
   is cut off.
2. One greenlet sends, one receives. Either may `close`; the other then finds the connection lost.
3. A receiver that always finds data ready must still let others run: `Turn` watches the time and yields.
4. The ceiling for frames stands before any allocation, and is small until the peer has shown who it is.
5. A frame that does not become whole is no sign of life, unless much of it comes: a length that was damaged
   on its way would swallow heartbeat after heartbeat.

Whatever a peer does to a connection ends in PeerError: `connection_lost` (also a write that timed out) or the
code of a broken frame. Frames that are sent together leave in one call, up to JOIN_BYTES.
"""

from __future__ import annotations

import errno
import fcntl
import termios
import time
from collections.abc import Iterable, Iterator
from struct import Struct
from typing import TYPE_CHECKING, Any

import gevent
from gevent import socket

from vectorizer.address import Address
from vectorizer.breathing import let_others_run, times_around
from vectorizer.errors import PeerError
from vectorizer.frame import FrameDecoder

if TYPE_CHECKING:
    from ssl import SSLContext

    from vectorizer.storage.disk import Buffer

RECEIVE_BYTES = 256 << 10
JOIN_BYTES = 256 << 10
PART_BYTES = 64 << 10
TURN_SECS = 0.005
KEEPALIVE_IDLE_SECS = 30
_INT = Struct("i")


class Turn:
    """How long this greenlet has gone on without letting others run. While it waited they ran."""

    def __init__(self) -> None:
        self._since = time.monotonic()
        self._around = times_around()

    def step(self) -> None:
        """One more frame is done: yield if a few milliseconds have passed."""
        around = times_around()
        if around != self._around:
            self._since, self._around = time.monotonic(), around
        elif time.monotonic() - self._since >= TURN_SECS:
            let_others_run()
            self._since = time.monotonic()


class Connection:
    """A connected socket. `frame_bytes_max` is the ceiling until `raise_ceiling`."""

    def __init__(self, sock: socket.socket, frame_bytes_max: int) -> None:
        self._sock: Any = sock
        self._secured = False
        self._decoder = FrameDecoder(frame_bytes_max)
        # The same for each piece: fresh memory is touched for the first time, which takes longer than the
        # copy out of this, and pieces made for RECEIVE_BYTES and cut off leave a heap full of holes.
        self._buffer = memoryview(bytearray(RECEIVE_BYTES))
        self._closed = False
        self._part = 0  # bytes since the last whole frame, or since they were taken for a sign of life
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if hasattr(socket, "TCP_KEEPIDLE"):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_SECS)

    @classmethod
    def connect(cls, address: Address, timeout_secs: float, frame_bytes_max: int) -> Connection:
        """A new connection. The host's name is resolved now.

        PeerError `connect_failed` or `connect_timeout`.
        """
        try:
            sock = gevent.with_timeout(timeout_secs, socket.create_connection, address, timeout_value=None)
        except OSError as error:
            text = f"{address} cannot be connected to: {error.strerror or error}"
            raise PeerError("connect_failed", text) from error
        if sock is None:
            text = f"{address} did not accept a connection within {timeout_secs:g} s (timed out)"
            raise PeerError("connect_timeout", text)
        try:
            return cls(sock, frame_bytes_max)
        except OSError as error:  # gone again already
            sock.close()
            text = f"{address} closed the connection at once: {error.strerror or error}"
            raise PeerError("connect_failed", text) from error

    def secure(self, context: SSLContext, timeout_secs: float, host: str | None = None) -> None:
        """Speak TLS from here on: to the server called ``host``, or as the server. PeerError `tls_failed`."""
        try:
            self._sock = context.wrap_socket(
                self._sock, server_side=host is None, server_hostname=host, do_handshake_on_connect=False
            )
            self._secured = True
            late = gevent.with_timeout(timeout_secs, self._sock.do_handshake, timeout_value=True)
        except (OSError, ValueError) as error:  # ValueError: a host that cannot be in a certificate
            raise PeerError("tls_failed", f"no TLS with the peer: {error}") from error
        if late:
            raise PeerError("tls_failed", f"no TLS with the peer within {timeout_secs:g} s (timed out)")

    def peer_certificate(self) -> bytes:
        """The certificate that the other side has shown, as DER; b"" without TLS."""
        return (self._sock.getpeercert(True) or b"") if self._secured else b""

    def raise_ceiling(self, frame_bytes_max: int) -> None:
        """The peer is known: its next frames may be this large."""
        self._decoder.raise_ceiling(frame_bytes_max)

    def receive(self, timeout_secs: float) -> bool:
        """Wait for bytes; False if none came in time.

        PeerError if the connection is lost or ends within a frame.
        """
        try:
            size = gevent.with_timeout(
                max(0.0, timeout_secs), self._sock.recv_into, self._buffer, timeout_value=None
            )
        except OSError as error:
            raise self._lost(error) from error
        if size == 0:
            self._decoder.finish()
            raise PeerError("connection_lost", "the peer closed the connection")
        if size is None:
            return False
        self._decoder.feed(self._buffer[:size])
        self._part += size
        return True

    def frames(self) -> Iterator[bytes]:
        """The whole frames received so far. PeerError for bytes that are none."""
        while (line := self._decoder.next()) is not None:
            self._part = 0
            yield line

    def grows(self) -> bool:
        """Whether PART_BYTES have come of a frame that is not whole yet, since this was last said."""
        if self._part < PART_BYTES:
            return False
        self._part = 0
        return True

    def send(self, frames: Iterable[Buffer], timeout_secs: float) -> int:
        """Send frames or parts of them, joined, large ones as they are; how many bytes. PeerError if the
        peer takes nothing for so long.
        """
        size = 0
        pieces: list[Buffer] = []
        pending = 0
        for line in frames:
            size += len(line)
            if len(line) < JOIN_BYTES:
                pieces.append(line)
                pending += len(line)
                if pending < JOIN_BYTES:
                    continue
            if pieces:
                self._send_all(b"".join(pieces), timeout_secs)
                pieces, pending = [], 0
            if len(line) >= JOIN_BYTES:
                self._send_all(line, timeout_secs)
        if pieces:
            self._send_all(b"".join(pieces), timeout_secs)
        return size

    def finish_sending(self) -> None:
        """Nothing more is sent; the peer still reads what it was told before."""
        try:
            if self._secured:  # of the socket below: that of TLS would end reading, too
                socket.socket.shutdown(self._sock, socket.SHUT_WR)
            else:
                self._sock.shutdown(socket.SHUT_WR)
        except OSError as error:
            if error.errno not in (errno.ENOTCONN, errno.EBADF):
                raise self._lost(error) from error

    def close(self) -> None:
        """Close; a greenlet that waits on the connection finds it lost. A second call does nothing."""
        if not self._closed:
            self._closed = True
            self._sock.close()

    def _send_all(self, data: Buffer, timeout_secs: float) -> None:
        """All of it. The timeout bounds a standstill: a slow peer that takes some is fine, also where the
        system asks for more only when a third of its buffer is free, which may be megabytes.
        """
        view = memoryview(data)
        while view:
            queued = self._queued_bytes()
            try:
                taken = gevent.with_timeout(timeout_secs, self._sock.send, view, timeout_value=0)
            except OSError as error:
                raise self._lost(error) from error
            if not taken and self._queued_bytes() >= queued:
                raise PeerError("write_timeout", f"the peer took nothing for {timeout_secs:g} s (timed out)")
            view = view[taken:]

    def _queued_bytes(self) -> int:
        """What the peer's system has not taken yet (ioctl SIOCOUTQ, the same number as TIOCOUTQ); 0 on a
        closed socket.
        """
        try:
            answer = fcntl.ioctl(self._sock.fileno(), termios.TIOCOUTQ, bytes(_INT.size))
        except (OSError, ValueError):
            return 0
        return int(_INT.unpack(answer)[0])

    def _lost(self, error: OSError) -> PeerError:
        return PeerError("connection_lost", f"the connection is lost: {error.strerror or error}")
