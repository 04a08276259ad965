"""The master's side of one replica, without sockets or clocks: what it hears, what is to be done.

House rules
-----------
1. states.SESSION_LEGAL is the machine: a message that is not listed under the present state closes the link
   (`illegal_message`).
2. Everything leaves through `ready`, in order. Whoever drives a session tells it what happened (`receive`,
   `sent`, `journal_read`, `snapshot_captured`, `chunk_read`, `fail`, `close`, at last `closed`) and then
   calls `ready` until it returns nothing, carrying out what it returned, in order. None of these raises for
   anything a peer can do.
3. Nothing is queued here. What a replica still needs is a cursor into the shared log (`progress.sent_offset`)
   or into the snapshot's files, and it moves only when `ready` hands bytes over. A driver that waits in
   `send` waits with it.

Theory
------
    with a secret first: GREETING -greet-> PROVING -proof-> HELLO

    HELLO -hello-> (CHECKING) -+- partial: welcome ---------------------------> STREAMING
                               +- full: welcome -> OFFERED -accept-> CAPTURING      ^
                               |        -> SENDING -> COMPLETING -> INSTALLING -ack-+
                               +- refuse -> CLOSING -> CLOSED

CHECKING reads the operation at the replica's offset from the journal, where memory has it no more, so that
its checksum can be compared. A replica that went back to an older state of its own (see link.py) says hello
again while OFFERED. During a full sync `received` says that the replica lives; an ack is only legal once it
has everything, and then means "installed". COMPLETING waits until this node itself holds the snapshot's
offset durably.

Caveats
-------
`now` is monotonic seconds, `now_ms` Unix milliseconds. Settings are read at each use, since an operator may
change them on a running link. `deadline` says when `ready` is due although nothing happens; it is also due
whenever the node's `sendable_offset` moves. A replica that streams may fall behind the window: what it needs
is served as long as memory or journal have it, the window only bounds who may come in. The journal stays
pinned after a full sync until the replica has been handed what it missed meanwhile, else a full sync under
load would end in the next one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from vectorizer import frame
from vectorizer.address import Address, seen_from_elsewhere
from vectorizer.errors import PeerError
from vectorizer.replication import authentication, handshake, messages
from vectorizer.replication.authentication import NOTHING, Credentials, Exchange
from vectorizer.replication.handshake import Above, NeedsChecksum, Upstream
from vectorizer.replication.intentions import (
    CaptureSnapshot,
    Close,
    CloseReplaced,
    ReadJournal,
    ReleaseSnapshot,
    Report,
    Send,
    SendFrames,
    SessionIntention,
)
from vectorizer.replication.progress import Phase, Progress, ReplicaTable, SyncProgress
from vectorizer.replication.states import SESSION_LEGAL, STRANGER, SessionState
from vectorizer.replication.sync import Decision, SyncKind
from vectorizer.replication.transfer import Transfer

if TYPE_CHECKING:
    from vectorizer.config import Settings
    from vectorizer.storage.disk import Buffer

BATCH_BYTES = 256 << 10  # operations handed over at once
JOURNAL_PATIENCE_SECS = 0.02  # operations that left memory before they reached the journal
HELLOS_MAX = 3


def _never_overruled(hello: messages.Hello) -> messages.Refuse | None:
    """Of a node that is no master: no hello deposes it."""
    return None


@dataclass(slots=True)
class MasterSession:
    """One replica's conversation. `table`, shared by all sessions of a master, gets this replica's row."""

    node: Upstream
    table: ReplicaTable
    settings: Callable[[], Settings]
    host: str
    port: int
    opened_at: float
    rest_address: str = ""
    above: Callable[[], Above] = Above  # of this node; a master has nobody above it
    credentials: Credentials = NOTHING  # for this connection; with a secret nobody is let in without it
    state: SessionState = SessionState.HELLO
    progress: Progress | None = None  # from the welcome on; also this replica's row in the table
    hello: messages.Hello | None = None  # the last one that came
    close_reason: str = ""
    switchover: str = ""  # id of the one that was handed to this replica
    answer: messages.Promoted | messages.Declined | None = None  # to that
    overruled: Callable[[messages.Hello], messages.Refuse | None] = _never_overruled
    _exchange: Exchange = field(init=False)
    _hellos: int = 0
    _heard_at: float = 0.0
    _beat_at: float = 0.0
    _outbox: list[SessionIntention] = field(default_factory=list)
    _reading: bool = False  # ReadJournal, ReadChunk or CaptureSnapshot is under way
    _transfer: Transfer | None = None
    _pinned: bool = False  # the snapshot is not released yet
    _patience_until: float = 0.0  # the journal had nothing yet of what memory has no more: ask again then
    _close: Close | None = None

    def __post_init__(self) -> None:
        self._heard_at = self.opened_at
        self._exchange = Exchange(self.credentials, self.node.node_id)
        if self.credentials.secret:
            self.state = SessionState.GREETING

    # -- what happens to the session -----------------------------------------------------------------

    def receive(
        self, message: messages.Message | messages.OperationFrame, now: float, now_ms: int, size: int = 0
    ) -> None:
        """A message of `size` bytes came. What the replica does wrong closes this link."""
        self._heard_at = now
        self.table.totals.bytes_received += size
        if self.progress is not None:
            self.progress.last_heard_at, self.progress.last_heard_ms = now, now_ms
            self.progress.bytes_received += size
        try:
            method = SESSION_LEGAL[self.state].get(type(message))
            if method is None:
                kind = getattr(message, "KIND", "operation")
                raise PeerError("illegal_message", f"{kind} is not expected while {self.state}")
            getattr(self, method)(message, now, now_ms)
        except PeerError as error:
            self.fail(error, now)

    def heard(self, now: float) -> None:
        """Much of a message came that is not whole yet: a sign of life, no late hello."""
        self._heard_at = now

    def sent(self, size: int) -> None:
        """So many bytes went out to the socket."""
        self.table.totals.bytes_sent += size
        if self.progress is not None:
            self.progress.bytes_sent += size

    def journal_read(self, frames: Sequence[bytes] | None, now: float, now_ms: int) -> None:
        """Answer to ReadJournal; None = the journal does not hold them any more."""
        self._reading = False
        if self.state is SessionState.CHECKING:
            self._answer(frame.checksum(frames[0]) if frames else None, now, now_ms)
        elif self.state is SessionState.STREAMING:
            self._hand_over(frames, now)

    def snapshot_captured(
        self, offset: int, manifest: Mapping[str, Any], files: Sequence[messages.FileEntry], now: float
    ) -> None:
        """Answer to CaptureSnapshot: the snapshot's offset, and the files that travel, in this order."""
        self._reading = False
        if self.state is not SessionState.CAPTURING:
            return
        self._transfer = transfer = Transfer(offset, files)
        self._pinned = True
        progress, sync = self._row(), self._sync()
        sync.offset, sync.bytes_total = offset, transfer.bytes_total
        progress.snapshot_bytes = self.table.totals.snapshot_bytes = transfer.bytes_total
        self.state = SessionState.SENDING
        self._send(messages.Snapshot(offset, dict(manifest), tuple(files), transfer.bytes_total))
        self._report("full_sync_started", offset=offset, files=len(files), bytes_total=transfer.bytes_total)

    def chunk_read(self, data: Buffer, now: float, checksum: int | None = None) -> None:
        """Answer to ReadChunk; ``checksum``: CRC32 of the data, if it is known."""
        self._reading = False
        if self.state is not SessionState.SENDING or self._transfer is None:
            return
        try:
            self._send(self._transfer.chunk(data, checksum))
            self._sync().bytes_sent = self._transfer.bytes_sent
        except PeerError as error:
            self.fail(error, now)

    def fail(self, error: PeerError, now: float) -> None:
        """Something does not let this link go on: say so to the replica, then close."""
        if error.code == authentication.CODE:
            self._refuse(messages.Refuse(error.code, str(error)[: messages.SENTENCE_MAX]), now)
        else:
            self.close(error.code, str(error), now)

    def promote(self, switchover: str, offset: int) -> None:
        """Hand the mastership to this replica, which has everything; the outcome will be in `answer`."""
        assert self.state is SessionState.STREAMING, self.state
        self.switchover = switchover
        self.state = SessionState.PROMOTING
        self._send(messages.Promote(switchover, offset))

    def repoint(self, master_address: str) -> None:
        """Tell a streaming replica to follow another node; it leaves then."""
        if self.state is SessionState.STREAMING:
            self._send(messages.Repoint(master_address))

    def close(self, reason: str, message: str, now: float) -> None:
        """End this link politely. What was not handed over yet is not sent any more."""
        if self.state in STRANGER or self.state is SessionState.CHECKING:
            self.table.totals.refusals.note(reason)
            self._end(reason, message, messages.Refuse(reason, message[: messages.SENTENCE_MAX]), now)
        elif self.state not in (SessionState.CLOSING, SessionState.CLOSED):
            self._end(reason, message, messages.Goodbye(reason, message[: messages.SENTENCE_MAX]), now)

    def closed(self, reason: str, now: float) -> None:
        """The connection is gone, by our doing or not; the row of the table says so. May be called twice."""
        self.close_reason = self.close_reason or reason
        self.state = SessionState.CLOSED
        self._outbox.clear()
        if self.progress is not None:
            self.table.detach(self.progress, self.close_reason, now)

    # -- what the session wants ----------------------------------------------------------------------

    def ready(self, now: float, now_ms: int) -> list[SessionIntention]:
        """What to do now, in order; nothing = wait for news or for `deadline`."""
        self.expire(now)
        if not self._outbox:
            self._produce(now, now_ms)
        intentions, self._outbox = self._outbox, []
        if self.state is SessionState.CLOSING and self._close is not None:
            intentions.append(self._close)
            self.state = SessionState.CLOSED
        return intentions

    def expire(self, now: float) -> None:
        """Close if the replica has been silent for too long."""
        if now >= self.silent_at():
            reason = "handshake_timeout" if self.state in STRANGER else "replica_timeout"
            silence = now - self._heard_at
            self.close(reason, f"nothing was heard from the replica for {silence:.1f} s (timed out)", now)

    def deadline(self) -> float:
        """When `ready` is due at the latest (monotonic seconds)."""
        if self.progress is None:
            return self.silent_at()
        beat_at = self._beat_at + self.settings().replication.heartbeat_interval_secs
        return min(self.silent_at(), beat_at, self._patience_until or beat_at)

    def silent_at(self) -> float:
        """When the replica's silence ends the link."""
        replication = self.settings().replication
        if self.state in STRANGER:
            return self.opened_at + replication.handshake_timeout_secs
        return self._heard_at + replication.replica_timeout_secs

    def caught_up(self) -> bool:
        """Whether the replica has applied everything there is."""
        return self.state is SessionState.STREAMING and self._row().acked_applied >= self.node.offset

    # -- messages, by SESSION_LEGAL ------------------------------------------------------------------

    def _greet(self, greet: messages.Greet, now: float, now_ms: int) -> None:
        self._send(self._exchange.greeted(greet))
        self.state = SessionState.PROVING

    def _proof(self, given: messages.Proof, now: float, now_ms: int) -> None:
        self._send(self._exchange.answer(given))
        self.state = SessionState.HELLO

    def _mismatch(self, message: messages.Hello | messages.Greet, now: float, now_ms: int) -> None:
        raise authentication.mismatch(message)

    def _hello(self, hello: messages.Hello, now: float, now_ms: int) -> None:
        self._exchange.check_hello(hello)
        self._hellos += 1
        if self._hellos > HELLOS_MAX or (self.hello and self.hello.node_id != hello.node_id):
            raise PeerError("illegal_message", f"hello number {self._hellos} of {hello.node_id} on one link")
        self.hello = hello
        before = self.overruled(hello) or handshake.examine(self.node, hello)
        if isinstance(before, messages.Refuse):
            self._refuse(before, now)
        elif isinstance(before, NeedsChecksum):
            self.state = SessionState.CHECKING
            self._reading = True
            self._outbox.append(ReadJournal(before.offset - 1, 1, before.offset))
        else:
            self._answer(None, now, now_ms)

    def _accept(self, accept: messages.Accept, now: float, now_ms: int) -> None:
        self.state = SessionState.CAPTURING
        self._reading = True
        self._outbox.append(CaptureSnapshot(accept.have, fresh=bool(self.hello and self.hello.full)))

    def _alive(self, message: messages.Message, now: float, now_ms: int) -> None:
        """Nothing but a sign of life."""

    def _received(self, received: messages.Received, now: float, now_ms: int) -> None:
        assert self._transfer is not None
        self._transfer.received(received.bytes)
        self._sync().bytes_received = received.bytes

    def _installed(self, ack: messages.Ack, now: float, now_ms: int) -> None:
        assert self._transfer is not None
        offset = self._transfer.offset
        if (ack.applied, ack.durable) != (offset, offset):
            raise PeerError(
                "illegal_message", f"ack of {ack.applied}/{ack.durable} after a full sync to {offset}"
            )
        seconds = round(now - self._sync().started_at, 3)
        self._row().full_syncs += 1
        self.table.totals.full_sync_finished(seconds, self._transfer.bytes_sent)
        self._report("full_sync_finished", offset=offset, bytes=self._transfer.bytes_sent, seconds=seconds)
        self._transfer = None
        self._stream(offset, offset, now_ms)

    def _ack(self, ack: messages.Ack, now: float, now_ms: int) -> None:
        progress = self._row()
        if not ack.durable <= ack.applied <= progress.sent_offset:
            text = f"ack of {ack.applied} applied, {ack.durable} durable when {progress.sent_offset} was sent"
            raise PeerError("illegal_message", text)
        progress.acknowledge(ack.applied, ack.durable)

    def _settled(self, answer: messages.Promoted | messages.Declined, now: float, now_ms: int) -> None:
        if answer.switchover != self.switchover:
            raise PeerError("illegal_message", f"{answer.KIND} in answer to another switchover")
        self.answer = answer
        self._end(answer.KIND, f"the replica says {answer.KIND}", None, now)

    def _goodbye(self, goodbye: messages.Goodbye, now: float, now_ms: int) -> None:
        self._end(goodbye.reason, goodbye.message, None, now)

    def _refused(self, refuse: messages.Refuse, now: float, now_ms: int) -> None:
        self.table.totals.refusals.note(refuse.reason)
        self._end(refuse.reason, refuse.message, None, now)
        self._report("replica_refuses", warning=True, reason=refuse.reason, message=refuse.message)

    # -- the decision --------------------------------------------------------------------------------

    def _answer(self, journal_checksum: int | None, now: float, now_ms: int) -> None:
        assert self.hello is not None
        decision = handshake.answer(self.node, self.hello, journal_checksum)
        if isinstance(decision, messages.Refuse):
            self._refuse(decision, now)
            return
        others = sum(row.node_id != self.hello.node_id for row in self.table.linked())
        limit = self.settings().replication.replicas_max
        if others >= limit:
            text = f"{others} replicas are connected, the limit (replication.replicas_max) is {limit}"
            self._refuse(messages.Refuse("too_many_replicas", text), now)
            return
        progress = self._attach(self.hello, decision, now, now_ms)
        self._send(handshake.welcome(self.node, decision, self.settings(), self.rest_address, self.above()))
        self._beat_at = now
        if decision.kind is SyncKind.PARTIAL:
            progress.partial_syncs += 1
            self.table.totals.partial_syncs += 1
            self._stream(self.hello.offset, 0, now_ms)
        else:
            self.state = SessionState.OFFERED
            progress.sync = SyncProgress(self.node.offset, str(decision.reason), now)
            self.table.totals.full_sync_reasons.note(str(decision.reason))

    def _attach(self, hello: messages.Hello, decision: Decision, now: float, now_ms: int) -> Progress:
        """The replica's row: new with the first hello of this link, the same with a second one."""
        if self.progress is None:
            port = hello.listen_port or self.port
            rest_address = seen_from_elsewhere(hello.rest_address, self.host)
            self.progress = Progress(hello.node_id, self.host, port, rest_address, now, last_heard_at=now)
            if hello.listen_port:
                self.progress.listens_at = str(Address(hello.listen_host or self.host, port))
            replaced = self.table.attach(self.progress, now)
            if replaced is not None:
                self._outbox.append(CloseReplaced(replaced))
            if self.progress.flapping(now):
                self._report("replica_flapping", warning=True, links=self.progress.links)
        progress = self.progress
        progress.last_heard_ms = now_ms
        progress.last_reason = str(decision.reason)
        progress.phase, progress.sync = Phase.SYNCING, None
        progress.stand_at(hello.offset, durable=0)
        self._report(
            "replica_joined",
            sync=str(decision.kind),
            reason=str(decision.reason),
            fork_offset=decision.fork_offset,
            master_place=handshake.place(self.node.node_id, self.node.history, self.node.offset),
            replica_place=handshake.place(hello.node_id, hello.history, hello.offset),
            window=list(self.node.window),
        )
        return progress

    def _refuse(self, refuse: messages.Refuse, now: float) -> None:
        self.table.totals.refusals.note(refuse.reason)
        self._end(refuse.reason, refuse.message, refuse, now)
        self._report("replica_refused", warning=True, reason=refuse.reason, message=refuse.message)

    # -- producing -----------------------------------------------------------------------------------

    def _produce(self, now: float, now_ms: int) -> None:
        """Fill the outbox with the next thing there is to send, if there is."""
        if self.progress is None or self.state in (SessionState.CLOSING, SessionState.CLOSED):
            return
        if now >= self._beat_at + self.settings().replication.heartbeat_interval_secs:
            self._beat_at = now
            lag_ms = self.progress.lag_ms(self.node.offset, self.node.log, now)
            newest, durable, above = self.node.offset, self.node.durable_offset, self.above().lag_ms
            self._send(messages.Heartbeat(newest, durable, lag_ms, now_ms, above))
        if self._reading:
            return
        if self.state is SessionState.STREAMING:
            self._produce_operations(now)
        elif self.state in (SessionState.SENDING, SessionState.COMPLETING):
            self._produce_snapshot()

    def _produce_operations(self, now: float) -> None:
        after, through = self._row().sent_offset, self.node.sendable_offset
        if after < through and now >= self._patience_until:
            frames = self.node.log.read(after, BATCH_BYTES, through)
            if frames is None:
                self._reading = True
                self._outbox.append(ReadJournal(after, BATCH_BYTES, through))
            else:
                self._hand_over(frames, now)
        if self._pinned and self._row().sent_offset + 1 >= self.node.log.first_offset:
            self._pinned = False
            self._outbox.append(ReleaseSnapshot())

    def _produce_snapshot(self) -> None:
        assert self._transfer is not None and self.hello is not None
        if not self._transfer.done():
            chunk_bytes = self.settings().replication.snapshot_chunk_bytes
            read = self._transfer.next_read(chunk_bytes, self.hello.frame_bytes_max)
            if read is not None:
                self._reading = True
                self._outbox.append(read)
            return
        self.state = SessionState.COMPLETING
        if self.node.sendable_offset >= self._transfer.offset:
            self._send(messages.Complete(self._transfer.offset))
            self.state = SessionState.INSTALLING

    def _hand_over(self, frames: Sequence[bytes] | None, now: float) -> None:
        assert self.hello is not None
        progress = self._row()
        if frames is None:
            first, last = self.node.window
            text = f"the replica needs operation {progress.sent_offset + 1}, the window is {first}..{last}"
            self.fail(PeerError("window_overrun", text), now)
            return
        largest = max(map(len, frames), default=0)
        if largest > self.hello.frame_bytes_max:
            # A snapshot beyond this operation travels in small pieces.
            text = (
                f"an operation of {largest} bytes is over the replica's limit of {self.hello.frame_bytes_max}"
            )
            self.fail(PeerError("operation_too_large", text), now)
        elif frames:
            self._outbox.append(SendFrames(frames))
            progress.sent_offset += len(frames)
            self._patience_until = 0.0
        else:
            self._patience_until = now + JOURNAL_PATIENCE_SECS

    # -- small steps ---------------------------------------------------------------------------------

    def _stream(self, offset: int, durable: int, now_ms: int) -> None:
        progress = self._row()
        progress.stand_at(offset, durable=durable)
        progress.phase, progress.sync = Phase.STREAMING, None
        progress.last_sync_ms = self.table.totals.last_sync_ms = now_ms
        self.state = SessionState.STREAMING

    def _end(self, reason: str, message: str, farewell: messages.Message | None, now: float) -> None:
        """Only notes and the farewell still leave; the row says at once that the link is gone."""
        self._outbox = [
            item for item in self._outbox if isinstance(item, (Report, ReleaseSnapshot, CloseReplaced))
        ]
        if farewell is not None:
            self._send(farewell)
        self.close_reason = reason
        self._close = Close(reason, message)
        self.state = SessionState.CLOSING
        if self.progress is not None:
            self.table.detach(self.progress, reason, now)

    def _row(self) -> Progress:
        assert self.progress is not None, self.state
        return self.progress

    def _sync(self) -> SyncProgress:
        sync = self._row().sync
        return SyncProgress(0, "", 0.0) if sync is None else sync  # None: a newer link took the row over

    def _send(self, message: messages.Message) -> None:
        self._outbox.append(Send(message))

    def _report(self, event: str, *, warning: bool = False, **facts: Any) -> None:
        who = {"replica": self.hello.node_id} if self.hello else {}
        self._outbox.append(Report(event, {**who, "peer": f"{self.host}:{self.port}", **facts}, warning))
