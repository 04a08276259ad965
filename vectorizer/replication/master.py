"""The master's listener and, for each replica, a connection with two greenlets around a MasterSession.

Which greenlet does what:

- *acceptor*: takes connections, as many as `replicas_max` and some more for handshakes; the rest is closed at
  once.
- *receiver*, one a connection: reads frames, gives them to the session, wakes the sender. It owns the
  connection: when it ends, for whatever reason, it ends the sender, closes the socket, releases the snapshot
  and tells the session.
- *sender*, one a connection: asks the session what is to be done and does it, in order; the only one that
  writes.
- *capture*, during the first moments of a full sync: makes the snapshot, while the sender's heartbeats go on.

`wake` is called by the database whenever operations may be sent or have become durable. A replica's mistakes
end its connection with one line in the log. A mistake of ours in one of these greenlets ends that connection
too, loudly, and not the master: sessions only read the node.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import gevent
from gevent import socket
from gevent.event import Event

from vectorizer import logs
from vectorizer.address import Address, parse_address, peer_address
from vectorizer.errors import PeerError, VectorizerError
from vectorizer.node import Deposed, NodeFailure, Role
from vectorizer.replication import handshake, messages
from vectorizer.replication.authentication import NOTHING
from vectorizer.replication.connection import Connection, Turn
from vectorizer.replication.handshake import Above
from vectorizer.replication.intentions import (
    CaptureSnapshot,
    Close,
    CloseReplaced,
    ReadChunk,
    ReadJournal,
    ReleaseSnapshot,
    Report,
    Send,
    SendFrames,
    SessionIntention,
)
from vectorizer.replication.progress import Progress, ReplicaTable
from vectorizer.replication.session import MasterSession
from vectorizer.replication.states import STRANGER, SessionState
from vectorizer.replication.transfer import chunk_frame

if TYPE_CHECKING:
    Greenlet = gevent.Greenlet[..., None]
    from vectorizer.database import Database
    from vectorizer.security import Security
    from vectorizer.snapshots import PinnedSnapshot, Snapshots
    from vectorizer.storage.disk import Buffer

BACKLOG = 128
HANDSHAKES_MAX = 32  # connections beyond replicas_max that have not said who they are
KNOWN_BYTES_MAX = 16 << 20  # largest message of a replica after its hello: the list of files it holds
LOOK_SECS = 1.0  # settings may have changed: look at them this often
LINGER_SECS = 1.0  # for a farewell to arrive
STOP_SECS = 3.0

log = logs.get(__name__)


def bind(address: str) -> socket.socket:
    """A listening socket at ``host:port``. OSError if it cannot be had."""
    place = parse_address(address)
    family, kind, protocol, _, resolved = socket.getaddrinfo(
        place.host, place.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind(resolved)
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def clock_ms() -> int:
    """Unix milliseconds."""
    return time.time_ns() // 1_000_000


class MasterServer:
    """Everything a master has for its replicas.

    `rest_address` (host:port) is told to them, for their clients.
    """

    def __init__(
        self,
        database: Database,
        snapshots: Snapshots,
        listener: socket.socket,
        rest_address: str,
        above: Callable[[], Above] = Above,
        security: Security | None = None,
    ) -> None:
        self.security = security
        self.table = ReplicaTable()
        self.database = database
        self.snapshots = snapshots
        self.rest_address = rest_address
        self.above = above
        """The nodes that this one follows itself, if it does."""
        self.acknowledged = Event()
        """Set at each ack; whoever waits for replicas clears it and looks at the table."""
        self._listener = listener
        self.address = str(Address(*listener.getsockname()[:2]))
        """Host and port of the listener."""
        self._lines: set[ReplicaLine] = set()
        self._acceptor: Greenlet | None = None
        self.strangers = logs.Recurring(log)
        self.turned_away = 0
        """Connections closed at once because there were too many."""

    @property
    def listening(self) -> bool:
        """Whether replicas are let in."""
        return self._acceptor is not None

    @property
    def lines(self) -> frozenset[ReplicaLine]:
        """The connections of now."""
        return frozenset(self._lines)

    def start(self) -> None:
        """Let replicas in."""
        self.database.subscribe(self.wake)
        self.database.watch_history(self.renew)
        self._acceptor = gevent.spawn(self._accept)
        self._acceptor.link_exception(self._acceptor_died)

    def stop(self, reason: str = "shutdown", message: str = "the master stops or changes its role") -> None:
        """Say goodbye to all replicas and close; the table keeps their rows."""
        if self._acceptor is None:
            return
        self._acceptor.kill()
        self._acceptor = None
        self._listener.close()
        self.database.unsubscribe(self.wake)
        self.database.unwatch_history(self.renew)
        lines = self.lines
        for line in lines:
            line.close(reason, message)
        gevent.joinall([line.receiver for line in lines], timeout=STOP_SECS)
        for line in self.lines:
            line.abandon()
        gevent.joinall([line.receiver for line in lines], timeout=STOP_SECS)
        self.acknowledged.set()  # nobody else wakes those who wait for replicas here

    def drain(self, seconds: float) -> bool:
        """Wait until every streaming replica has applied everything; False if the time was too short."""
        deadline = time.monotonic() + seconds
        while any(not line.settled for line in self._lines):
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            self.acknowledged.clear()
            self.acknowledged.wait(min(left, LOOK_SECS))
        return True

    def overruled(self, hello: messages.Hello) -> messages.Refuse | None:
        """A master that hears of a newer mastership of its own history stops writing, and says so."""
        node = self.database.node
        refusal = None if node.role is not Role.MASTER else handshake.overruled(node, hello)
        if refusal is not None and node.deposed is None:
            current = hello.history.current
            assert current is not None
            node.deposed = Deposed(hello.node_id, current.replication_id, hello.history.epoch)
            log.warning("deposed", by=hello.node_id, message=refusal.message)
        return refusal

    def wake(self) -> None:
        """Operations may be sent, or something changed that sessions look at."""
        for line in self._lines:
            line.wake.set()

    def renew(self) -> None:
        """This node's history or data is another one: replicas must say hello again."""
        for line in self._lines:
            line.renew()

    def _acceptor_died(self, greenlet: Greenlet) -> None:
        self.database.fail(NodeFailure(f"the listener for replicas has ended: {greenlet.exception!r}"))

    def _accept(self) -> None:
        while True:
            try:
                sock, name = self._listener.accept()
            except OSError as error:  # out of file descriptors, or the peer was gone already
                log.warning("accept_failed", reason=str(error))
                gevent.sleep(0.1)
                continue
            peer = peer_address(name)
            if len(self._lines) >= self.database.settings.replication.replicas_max + HANDSHAKES_MAX:
                self.turned_away += 1
                self.strangers.warning(
                    "connection_turned_away",
                    host=peer.host,
                    peer=str(peer),
                    connections=len(self._lines),
                )
                sock.close()
                continue
            try:
                line = ReplicaLine(self, sock, peer)
            except OSError as error:  # gone again before its socket could be set up
                self.strangers.warning(
                    "connection_lost_at_once", host=peer.host, peer=str(peer), error=str(error)
                )
                sock.close()
                continue
            self._lines.add(line)
            line.start()

    def ended(self, line: ReplicaLine) -> None:
        """A connection is closed and its session told."""
        self._lines.discard(line)
        self.acknowledged.set()
        self.forget_gone()

    def forget_gone(self) -> None:
        """Drop the rows of replicas that have been gone for too long; whoever shows the table asks for it."""
        self.table.forget(time.monotonic(), self.database.settings.replication.replica_forget_secs)

    def close_replaced(self, progress: Progress) -> None:
        """A newer link of the same node came in."""
        for line in self._lines:
            if line.session.progress is progress:
                line.close("replaced", "a newer link of the same node came in")


class ReplicaLine:
    """One replica's connection."""

    def __init__(self, server: MasterServer, sock: socket.socket, peer: Address) -> None:
        self._server = server
        self._database = server.database
        self.peer = peer
        self.wake = Event()
        self.connection = Connection(sock, messages.HELLO_BYTES_MAX)
        self.session = MasterSession(
            server.database.node,
            server.table,
            lambda: server.database.settings,
            peer.host,
            peer.port,
            time.monotonic(),
            rest_address=server.rest_address,
            above=server.above,
            credentials=NOTHING
            if server.security is None
            else server.security.credentials(server.security.own_fingerprint),
            overruled=server.overruled,
        )
        self._pin: PinnedSnapshot | None = None
        self._files: list[str] = []
        self.receiver: Greenlet = gevent.Greenlet(self._run)

    @property
    def settled(self) -> bool:
        """Whether nothing is to be waited for: it has everything, or it is not streaming."""
        return self.session.state is not SessionState.STREAMING or self.session.caught_up()

    def start(self) -> None:
        """Start the receiver."""
        self.receiver.start()

    def close(self, reason: str, message: str) -> None:
        """Say goodbye."""
        self.session.close(reason, message, time.monotonic())
        self.wake.set()

    def renew(self) -> None:
        """Say goodbye, so that the replica says hello anew; unless it has not yet."""
        if self.session.state not in STRANGER:
            self.close("history_changed", "the history or the data of this node has changed: come again")

    def abandon(self) -> None:
        """Close without another word."""
        self.connection.close()

    def promote(self, switchover: str, offset: int) -> None:
        """Hand the mastership to this replica; the session's ``answer`` tells the outcome."""
        self.session.promote(switchover, offset)
        self.wake.set()

    def repoint(self, master_address: str) -> None:
        """Tell this replica to follow another node."""
        self.session.repoint(master_address)
        self.wake.set()

    # -- receiver ---------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._secure()
        except PeerError as error:
            self._server.strangers.warning(
                "connection_refused",
                host=self.peer.host,
                reason=error.code,
                peer=str(self.peer),
                message=str(error),
            )
            self.connection.close()
            self.session.closed(error.code, time.monotonic())
            self._server.ended(self)
        else:
            self._converse()

    def _secure(self) -> None:
        security = self._server.security
        if security is not None and security.master_tls is not None:
            timeout = self._database.settings.replication.handshake_timeout_secs
            self.connection.secure(security.master_tls, timeout)

    def _converse(self) -> None:
        sender = gevent.spawn(self._send_all)
        reason = "connection_lost"
        try:
            self._receive_all()
        except PeerError as error:
            reason = error.code
            if error.code != "connection_lost":
                self.session.fail(error, time.monotonic())
                self.wake.set()
                sender.join(LINGER_SECS)
        except Exception as error:  # noqa: BLE001 - our mistake; this connection ends, the master goes on
            reason = "internal_error"
            log.error("session_failed", peer=str(self.peer), error=repr(error))
        finally:
            self._clean_up(sender, reason)

    def _clean_up(self, sender: Greenlet, reason: str) -> None:
        self.connection.close()
        sender.kill()
        self._release()
        known = self.session.progress
        self.session.closed(reason, time.monotonic())
        self._server.ended(self)
        peer, reason = str(self.peer), self.session.close_reason or reason
        if known is None:
            self._server.strangers.warning("stranger_left", host=self.peer.host, reason=reason, peer=peer)
        else:
            log.info(
                "replica_left", peer=peer, replica=known.node_id, reason=reason, offset=known.acked_applied
            )

    def _receive_all(self) -> None:
        """Until the session is closed, or PeerError."""
        session, turn = self.session, Turn()
        while session.state is not SessionState.CLOSED:
            left = session.silent_at() - time.monotonic()
            if left <= 0:
                session.expire(time.monotonic())
                self.wake.set()
                gevent.sleep(LINGER_SECS)  # the sender's goodbye; if it cannot write, it is cut off
                return
            if not self.connection.receive(min(left, LOOK_SECS)):
                continue
            for line in self.connection.frames():
                session.receive(messages.decode(line), time.monotonic(), clock_ms(), len(line))
                if session.progress is not None:
                    self.connection.raise_ceiling(KNOWN_BYTES_MAX)
                turn.step()
            if self.connection.grows():
                session.heard(time.monotonic())
            self.wake.set()
            self._server.acknowledged.set()
            turn.step()

    # -- sender -----------------------------------------------------------------------------------------

    def _send_all(self) -> None:
        """Until the session says close. A connection that cannot be written ends the receiver by closing."""
        session, turn = self.session, Turn()
        try:
            while True:
                turn.step()
                self.wake.clear()
                intentions = session.ready(time.monotonic(), clock_ms())
                if not intentions:
                    if session.state is SessionState.CLOSED:
                        return
                    self.wake.wait(max(0.0, session.deadline() - time.monotonic()))
                    continue
                for intention in intentions:
                    self._carry_out(intention)
        except PeerError as error:
            log.debug("sender_ends", peer=str(self.peer), reason=error.code, message=str(error))
            session.closed(error.code, time.monotonic())
            self.connection.close()
        except Exception as error:  # noqa: BLE001 - our mistake; this connection ends, the master goes on
            log.error("session_failed", peer=str(self.peer), error=repr(error))
            session.closed("internal_error", time.monotonic())
            self.connection.close()

    def _carry_out(self, intention: SessionIntention) -> None:
        match intention:
            case Send(messages.Chunk() as chunk):
                self._write(chunk_frame(chunk))
            case Send(message):
                self._write([messages.encode(message)])
            case SendFrames(frames):
                self._write(frames)
            case ReadJournal():
                self._read_journal(intention)
            case CaptureSnapshot():
                gevent.spawn(self._capture_snapshot, intention).link_exception(self._capture_died)
            case ReadChunk():
                self._read_chunk(intention)
            case ReleaseSnapshot():
                self._release()
            case CloseReplaced(progress):
                self._server.close_replaced(progress)
            case Report(event, facts, True) if self.session.progress is None:
                self._server.strangers.warning(event, host=self.peer.host, **facts)
            case Report(event, facts, warning):
                (log.warning if warning else log.info)(event, **facts)
            case Close(reason, message):
                log.debug("session_closes", peer=str(self.peer), reason=reason, message=message)
                self.connection.finish_sending()

    def _write(self, frames: Sequence[Buffer]) -> None:
        timeout = self._database.settings.replication.replica_timeout_secs
        self.session.sent(self.connection.send(frames, timeout))

    def _read_journal(self, wanted: ReadJournal) -> None:
        journal = self._database.node.journal
        frames = self._database.run_native(
            journal.read, wanted.after_offset, wanted.bytes_max, wanted.through_offset
        )
        self.session.journal_read(frames, time.monotonic(), clock_ms())

    def _capture_snapshot(self, wanted: CaptureSnapshot) -> None:
        """Never killed, since a checkpoint must not lose its lock: the line may be gone after it."""
        try:
            pin = self._server.snapshots.capture(fresh=wanted.fresh)
        except (OSError, VectorizerError) as error:
            self._snapshot_failed(error)
            return
        self._pin = pin
        if self.session.state is SessionState.CLOSED:
            self._release()
            return
        files = pin.files(wanted.have)
        self._files = [file.name for file in files]
        entries = [messages.FileEntry(file.name, file.bytes, file.crc32) for file in files]
        self.session.snapshot_captured(
            pin.snapshot.offset, pin.snapshot.document(), entries, time.monotonic()
        )
        self.wake.set()

    def _capture_died(self, greenlet: Greenlet) -> None:
        log.error("session_failed", peer=str(self.peer), error=repr(greenlet.exception))
        self._snapshot_failed(VectorizerError("an internal error"))

    def _snapshot_failed(self, error: Exception) -> None:
        code = error.code if isinstance(error, PeerError) else "snapshot_failed"
        text = f"the master cannot give a snapshot: {error}"
        log.warning("snapshot_failed", peer=str(self.peer), reason=str(error))
        self.session.fail(PeerError(code, text), time.monotonic())
        self.wake.set()

    def _read_chunk(self, wanted: ReadChunk) -> None:
        pin = self._pin
        try:
            if pin is None or not pin.pinned:
                raise PeerError("snapshot_expired", "the full sync took longer than snapshot_pin_secs")
            piece = pin.read(self._files[wanted.number], wanted.position, wanted.count)
            self.session.chunk_read(piece.data, time.monotonic(), piece.crc32)
        except (OSError, VectorizerError) as error:
            self._snapshot_failed(error)

    def _release(self) -> None:
        if self._pin is not None:
            self._pin.release()
            self._pin = None
