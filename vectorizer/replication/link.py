"""The replica's side of its link, without sockets or clocks: what it hears, what is done, when to come again.

House rules
-----------
1. states.LINK_LEGAL is the machine: a message not listed under the present state closes the link
   (`illegal_message`).
2. Two outlets. `work()` is work on the replica's own data: the one who drives the link does it, in order,
   before it gives the link the next message, and tells the outcome (`applied`, `apply_failed`, `prepared`,
   `written`, `installed`, `snapshot_failed`). `ready()` is what goes to the master; it may be asked for at
   any time, also while work is under way. None of the methods raises for anything a peer can do.
3. Nothing is skipped: an operation is applied only if it follows the newest one and is of the mastership that
   the master's history names for its offset.
4. Own data is given up only to a history that shares an entry with it, or by an operator's `force`, which
   holds for one sync of whatever kind: the first heartbeat of a stream ends it.

Theory
------
One link lives as long as the replica follows that master, over many connections:

    DOWN -> CONNECTING -> HANDSHAKE -welcome partial-----------------> STREAMING
      ^                    |  ^--hello again--+                           ^
      |                    +-full-> PREPARING -accept-> OFFERED           |
      |                        -snapshot-> RECEIVING -complete-> INSTALLING
      +-- CLOSING (if it is we who end it) <- every loss; to REFUSED or FAILED instead of DOWN

With a secret GREETING -challenge-> PROVING -proof-> stands before HANDSHAKE. PREPARING saves what has
diverged and tries to go back to an own state at or before the fork; if there is one,
hello is said again and the rest comes as operations. REFUSED comes again after `reconnect_interval_secs`,
DOWN at once and then with growing pauses, FAILED only after `reset`: three operations (or three times the
same) failed to apply here with nothing applied beyond them in between. After a first such failure the next
hello asks for a full sync.

Caveats
-------
`now` is monotonic seconds. The master's silence is not counted while work is under way, since nobody reads
the connection then. Between heartbeats `lag_ms` is an estimate, which grows while operations are missing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from vectorizer.address import Address
from vectorizer.errors import PeerError
from vectorizer.replication import authentication, handshake, messages
from vectorizer.replication.authentication import NOTHING, Credentials, Exchange
from vectorizer.replication.handshake import Downstream
from vectorizer.replication.intentions import (
    AbortSnapshot,
    AdoptHistory,
    Apply,
    BeginSnapshot,
    Close,
    FollowAnother,
    LinkIntention,
    LinkWork,
    Prepare,
    Report,
    Send,
    TakeOver,
)
from vectorizer.replication.progress import SyncProgress, Totals
from vectorizer.replication.retry import UNFIT, ApplyFailures, Retry
from vectorizer.replication.states import CONNECTED, FINAL, FULL_SYNC, LINK_LEGAL, UNANSWERED, LinkState
from vectorizer.replication.transfer import Receipt
from vectorizer.replication.upstream import MasterFacts

if TYPE_CHECKING:
    from vectorizer.config import Settings

NOWHERE = Address("", 0)
_REFUSALS = (
    "foreign_history",
    "cycle",
    "stale_master",
    "bad_welcome",
    "protocol_mismatch",
    authentication.CODE,
)


@dataclass(slots=True)
class ReplicaLink:
    """The link to the master at `master_host`; `rest_address` and `listens_at` are told to it."""

    node: Downstream
    settings: Callable[[], Settings]
    created_at: float
    random: Callable[[], float]  # uniform in [0, 1)
    force: bool = False
    master_host: str = ""
    rest_address: str = ""
    listens_at: Address = NOWHERE
    state: LinkState = LinkState.DOWN
    master: MasterFacts = field(default_factory=lambda: MasterFacts(0.0))
    totals: Totals = field(default_factory=Totals)
    retry: Retry = field(default_factory=Retry)
    sync: SyncProgress | None = None  # while a full sync runs
    reason: str = ""  # code of the last end of the link or of the last failure to connect
    message: str = ""  # the same, a sentence
    sync_reason: str = ""  # why the last sync was of its kind
    failures: ApplyFailures = field(default_factory=ApplyFailures)
    operations_applied: int = 0
    up_since: float | None = None
    _heard_at: float = 0.0
    _said_at: float = 0.0
    _said: tuple[int, int] = (-1, -1)  # last ack
    _speak: bool = False  # ack or received at the next `ready`
    _outbox: list[LinkIntention] = field(default_factory=list)
    _work: list[LinkWork] = field(default_factory=list)
    _working: bool = False  # Prepare or Install under way
    _rewound: bool = False  # on this connection
    _exchange: Exchange = field(init=False)  # on this connection
    _next_offset: int = 0
    _receipt: Receipt | None = None  # of the snapshot that is coming
    _end_state: LinkState = LinkState.DOWN

    def __post_init__(self) -> None:
        self.master.aging_since = self.retry.at = self.created_at

    # -- what happens to the link --------------------------------------------------------------------

    def connecting(self, now: float) -> None:
        """An attempt to connect begins."""
        self.state = LinkState.CONNECTING
        self.retry.begun()

    def connected(self, now: float, credentials: Credentials = NOTHING) -> None:
        """The connection stands: say hello; with a secret, once both sides have proved that they hold it."""
        self._heard_at = self._said_at = now
        self._outbox.clear()
        self._work.clear()
        self._working = self._rewound = self._speak = False
        self._end_state = LinkState.DOWN
        self._exchange = Exchange(credentials, self.node.node_id)
        if credentials.secret:
            self._send(self._exchange.greet())
            self.state = LinkState.GREETING
        else:
            self._say_hello()

    def disconnected(self, reason: str, message: str, now: float) -> None:
        """The connection is gone or did not come about. A reason that was already given (`Close`) stays."""
        if self.state is LinkState.STOPPED:
            return
        if self.state is not LinkState.CLOSING:
            self._end(reason, message, None, now)
        self.state = self._end_state
        self._outbox = [item for item in self._outbox if isinstance(item, Report)]
        interval = self.settings().replication.reconnect_interval_secs
        patient = self.state is LinkState.REFUSED or self.reason == "insufficient_storage"
        self.retry.after(now, interval, self.random(), patient=patient, never=self.state in FINAL)

    def receive(
        self, message: messages.Message | messages.OperationFrame, now: float, now_ms: int, size: int = 0
    ) -> None:
        """A message of `size` bytes came; then do `work()`."""
        self._heard_at = now
        self.totals.bytes_received += size
        try:
            method = LINK_LEGAL[self.state].get(type(message))
            if method is None:
                kind = getattr(message, "KIND", "operation")
                raise PeerError("illegal_message", f"{kind} is not expected while {self.state}")
            getattr(self, method)(message, now, now_ms)
        except PeerError as error:
            self.fail(error, now)

    def heard(self, now: float) -> None:
        """Much of a message came that is not whole yet: a sign of life, no late welcome."""
        if self.state not in UNANSWERED:
            self._heard_at = now

    def sent(self, size: int) -> None:
        """So many bytes went out."""
        self.totals.bytes_sent += size

    def fail(self, error: PeerError, now: float) -> None:
        """The master did what it must not, or cannot be understood: say so and close."""
        refused = error.code in _REFUSALS
        kind = messages.Refuse if refused else messages.Goodbye
        farewell = kind(error.code, str(error)[: messages.SENTENCE_MAX])
        if refused:
            self.totals.refusals.note(error.code)
            self._end_state = LinkState.REFUSED
        self._end(error.code, str(error), farewell, now)

    def stop(self, reason: str, message: str, now: float) -> None:
        """This node stops following: say goodbye. Nothing comes after."""
        if self.state in CONNECTED:
            self._end(reason, message, messages.Goodbye(reason, message[: messages.SENTENCE_MAX]), now)
        self._end_state = LinkState.STOPPED
        if self.state is not LinkState.CLOSING:
            self.state = LinkState.STOPPED
        self.retry.at = None

    def reset(self, now: float) -> None:
        """An operator has acted: forget the failures, try again at once."""
        self.failures.in_a_row = 0
        if self.state in (LinkState.FAILED, LinkState.REFUSED, LinkState.DOWN):
            self.state = LinkState.DOWN
            self.retry.reset(now)

    # -- outcomes of work ----------------------------------------------------------------------------

    def work(self) -> list[LinkWork]:
        """What is to be done to the replica's own data now, in order."""
        work, self._work = self._work, []
        return work

    def applied(self, offset: int, now: float, count: int = 1) -> None:
        """Apply succeeded: `count` operations, the last one at `offset`."""
        self.operations_applied += count
        self.failures.applied(offset)

    def apply_failed(self, offset: int, code: str, message: str, now: float) -> None:
        """Apply did not succeed; nothing has changed on this node. `code` is that of the error."""
        if code in UNFIT:
            self.failures.failed(offset, code)
            if self.failures.hopeless:
                self._end_state = LinkState.FAILED
                message = f"{message} ({self.failures.in_a_row} failures in a row: waiting for an operator)"
            self._report("apply_failed", offset=offset, failures=self.failures.in_a_row, message=message)
        self._end(code, message, messages.Goodbye(code, message[: messages.SENTENCE_MAX]), now)

    def prepared(self, rewound: bool, have: Mapping[str, int], now: float) -> None:
        """Outcome of Prepare: whether the node went back, and the files it holds (name → CRC32)."""
        self._heard_at, self._working = now, False
        if self.state is not LinkState.PREPARING:
            return
        if rewound:
            self._rewound = True
            self._say_hello()
            return
        self.state = LinkState.OFFERED
        self._send(messages.Accept(dict(have)))

    def written(self, size: int, now: float) -> None:
        """WriteChunk succeeded."""
        self._heard_at, self._speak = now, True
        if self.sync is not None:
            self.sync.bytes_received += size
            self.sync.bytes_sent = self.sync.bytes_received

    def installed(self, now: float, now_ms: int) -> None:
        """Install succeeded: the node stands at the snapshot's offset."""
        self._heard_at, self._working = now, False
        self.totals.last_sync_ms = now_ms
        started_at, size = (self.sync.started_at, self.sync.bytes_received) if self.sync else (now, 0)
        self.totals.full_sync_finished(now - started_at, size)
        self._report("full_sync_installed", offset=self.node.offset, seconds=round(now - started_at, 3))
        self.failures.want_full, self.force, self._receipt = "", False, None
        if self.state is LinkState.INSTALLING:
            self._stream(now)
            self._said = (self.node.offset, self.node.offset)  # it was synced as it was received
            self._send(messages.Ack(*self._said))

    def snapshot_failed(self, code: str, message: str, now: float) -> None:
        """BeginSnapshot, WriteChunk or Install did not succeed; the old data is untouched."""
        self._working = False
        self._end(code, message, messages.Goodbye(code, message[: messages.SENTENCE_MAX]), now)

    def settle(self, answer: messages.Promoted | messages.Declined, now: float) -> None:
        """Outcome of TakeOver, the last word on this link."""
        self._end_state = LinkState.STOPPED
        self._end(answer.KIND, f"the hand-over of the mastership was {answer.KIND}", answer, now)

    # -- what goes to the master ---------------------------------------------------------------------

    def ready(self, now: float, now_ms: int) -> list[LinkIntention]:
        """What to do now, in order; nothing = wait for news or for `deadline`."""
        if self.state in CONNECTED:
            if now >= self.silent_at():
                what = "handshake_timeout" if self.state in UNANSWERED else "master_timeout"
                text = (
                    f"nothing was heard from the master for {now - self._heard_at:.1f} s while {self.state}"
                )
                self._end(what, text, messages.Goodbye(what, text), now)
            else:
                self._sign_of_life(now)
        intentions, self._outbox = self._outbox, []
        if self.state is LinkState.CLOSING:
            intentions.append(Close(self.reason, self.message))
        return intentions

    def deadline(self) -> float:
        """When `ready` is due at the latest while connected (monotonic seconds)."""
        if self.state in UNANSWERED:  # nothing is said until the master has answered
            return self.silent_at()
        return min(self.silent_at(), self._said_at + self._interval())

    def silent_at(self) -> float:
        """When the master's silence ends the link; never while own work keeps it from being heard."""
        replication = self.settings().replication
        if self._working:
            return float("inf")
        if self.state in UNANSWERED:
            return self._heard_at + replication.handshake_timeout_secs
        return self._heard_at + replication.replica_timeout_secs

    # -- facts ---------------------------------------------------------------------------------------

    @property
    def connected_now(self) -> bool:
        """Whether a connection stands."""
        return self.state in CONNECTED

    @property
    def syncing(self) -> bool:
        """Whether a full sync is under way."""
        return self.state in FULL_SYNC

    @property
    def serves_data(self) -> bool:
        """Whether reads are answered: data is complete, and of the master's history while it syncs."""
        if not self.node.has_complete_data:
            return False
        if self.state is LinkState.STREAMING:
            return True
        if self.node.offset == 0:
            return False
        return not self.syncing or self.node.history.shares_entry(self.master.history)

    def lag_operations(self) -> int:
        """Operations of the master, as far as told, that are not applied here."""
        return max(0, self.master.offset - self.node.offset)

    def lag_ms(self, now: float) -> int:
        """How old this node's data is, in milliseconds."""
        return self.master.lag_ms(self.node.offset, now)

    # -- messages, by LINK_LEGAL ---------------------------------------------------------------------

    def _challenge(self, challenge: messages.Challenge, now: float, now_ms: int) -> None:
        self._send(self._exchange.challenged(challenge))
        self.state = LinkState.PROVING

    def _proof(self, given: messages.Proof, now: float, now_ms: int) -> None:
        self._exchange.check_master(given)
        self._say_hello()

    def _welcome(self, welcome: messages.Welcome, now: float, now_ms: int) -> None:
        self._exchange.check_welcome(welcome)
        handshake.check_welcome(self.node, welcome, self.force)
        self.sync_reason = welcome.reason
        self.master.welcomed(welcome, self.master_host, now, now_ms)
        if welcome.sync == "partial":
            if welcome.history != self.node.history:
                self._work.append(AdoptHistory(welcome.history))
            self.totals.partial_syncs += 1
            self.totals.last_sync_ms = now_ms
            self._stream(now)
            return
        self.state = LinkState.PREPARING
        self._report(
            "full_sync_offered",
            master=welcome.node_id,
            reason=welcome.reason,
            fork_offset=welcome.fork_offset,
            offset=self.node.offset,
            master_offset=welcome.offset,
            window=[welcome.window_first, welcome.window_last],
        )
        self.sync = SyncProgress(welcome.offset, welcome.reason, now)
        self.totals.full_sync_reasons.note(welcome.reason)
        diverged = 0 < self.node.offset > welcome.fork_offset and self.node.history.shares_entry(
            welcome.history
        )
        rewind = diverged and not self._rewound and not self.failures.want_full
        self._work.append(Prepare(welcome.fork_offset if diverged else None, rewind))
        self._working = True

    def _snapshot(self, snapshot: messages.Snapshot, now: float, now_ms: int) -> None:
        self._receipt = Receipt(snapshot)
        total = snapshot.bytes_total
        self.totals.snapshot_bytes = total
        self.sync = SyncProgress(snapshot.offset, self.sync_reason, now, total)
        self.state = LinkState.RECEIVING
        foreign = self.node.offset > 0 and not self.node.history.shares_entry(self.master.history)
        self._work.append(BeginSnapshot(snapshot.offset, snapshot.manifest, snapshot.files, foreign))
        self._report(
            "full_sync_receiving", offset=snapshot.offset, files=len(snapshot.files), bytes_total=total
        )

    def _chunk(self, chunk: messages.Chunk, now: float, now_ms: int) -> None:
        assert self._receipt is not None
        self._work.append(self._receipt.chunk(chunk))

    def _complete(self, complete: messages.Complete, now: float, now_ms: int) -> None:
        assert self._receipt is not None
        self._work.append(self._receipt.complete(complete))
        self.state = LinkState.INSTALLING
        self._working = True

    def _operation(self, operation: messages.OperationFrame, now: float, now_ms: int) -> None:
        if operation.offset != self._next_offset:
            text = f"operation {operation.offset} came, {self._next_offset} is next"
            raise PeerError("offset_gap", text)
        mastership = self.master.history.entry_at(operation.last_offset)
        if mastership is None or mastership.epoch != operation.epoch:
            known = "none" if mastership is None else mastership.epoch
            raise PeerError(
                "stale_epoch", f"operation {operation.offset} of epoch {operation.epoch}, not {known}"
            )
        self._next_offset = operation.last_offset + 1
        self.master.offset = max(self.master.offset, operation.last_offset)
        self.retry.succeeded()
        self._work.append(Apply(operation.offset, operation.frame, operation.run))

    def _heartbeat(self, heartbeat: messages.Heartbeat, now: float, now_ms: int) -> None:
        self.master.beats(heartbeat, now, now_ms)
        if self.state is LinkState.STREAMING:
            self._said = (-1, -1)  # answer at once: the master sees our pulse and the lag it may tell next
            self.force = False  # not in `_stream`: the master's history may still find no room here
            self.retry.succeeded()

    def _promote(self, promote: messages.Promote, now: float, now_ms: int) -> None:
        """From here on this link is at its end, whatever comes of it: it never connects again."""
        self.state, self._end_state = LinkState.PROMOTING, LinkState.STOPPED
        self._work.append(TakeOver(promote.switchover, promote.offset))

    def _repoint(self, repoint: messages.Repoint, now: float, now_ms: int) -> None:
        self._work.append(FollowAnother(repoint.master_address))

    def _goodbye(self, goodbye: messages.Goodbye, now: float, now_ms: int) -> None:
        if goodbye.reason == "operation_too_large" and self.state is LinkState.STREAMING:
            self.failures.want_full = goodbye.reason
        self._end(goodbye.reason, goodbye.message or "the master closed the link", None, now)

    def _refused(self, refuse: messages.Refuse, now: float, now_ms: int) -> None:
        self.totals.refusals.note(refuse.reason)
        self._end_state = LinkState.REFUSED
        self._end(refuse.reason, refuse.message, None, now)

    def _ignored(self, message: messages.Message, now: float, now_ms: int) -> None:
        """This side has already said goodbye."""

    # -- small steps ---------------------------------------------------------------------------------

    def _say_hello(self) -> None:
        hello = handshake.hello(
            self.node,
            self.settings(),
            self.failures.want_full,
            self.force,
            self.rest_address,
            self.listens_at,
        )
        self.state = LinkState.HANDSHAKE
        self._send(hello)

    def _stream(self, now: float) -> None:
        self.master.stream_begins(self.node.offset, now)
        self.state = LinkState.STREAMING
        self.up_since = now
        self.sync = None
        self._next_offset = self.node.offset + 1
        self._said, self._speak = (-1, -1), True

    def _sign_of_life(self, now: float) -> None:
        """An ack or `received`, if there is news or it is time."""
        due = now >= self._said_at + self._interval()  # as in `deadline`, to the last bit
        if self.state in (LinkState.STREAMING, LinkState.PROMOTING):
            ack = (self.node.offset, min(self.node.durable_offset, self.node.offset))
            if ack != self._said or due:
                self._said, self._said_at, self._speak = ack, now, False
                self._send(messages.Ack(*ack))
        elif self.state not in UNANSWERED and (self._speak or due):
            self._said_at, self._speak = now, False
            self._send(messages.Received(self.sync.bytes_received if self.sync else 0))

    def _end(self, reason: str, message: str, farewell: messages.Message | None, now: float) -> None:
        """The link ends, for this reason; what was to be said before is not said any more."""
        if self.state in (LinkState.CLOSING, LinkState.STOPPED):
            return
        self.master.stream_ends(self.node.offset, now)
        was_connected = self.state in CONNECTED
        self.state = LinkState.CLOSING
        self.reason, self.message, self.up_since = reason, message, None
        if was_connected:
            self.totals.disconnects.note(reason)
        self._outbox = [item for item in self._outbox if isinstance(item, Report)]
        self._work = []
        if self._receipt is not None:
            self._work.append(AbortSnapshot())
        self._receipt = self.sync = None
        if farewell is not None:
            self._send(farewell)

    def _interval(self) -> float:
        """How often this side shows a sign of life: as the more impatient of the two wants it."""
        return min(self.settings().replication.heartbeat_interval_secs, self.master.heartbeat_interval_secs)

    def _send(self, message: messages.Message) -> None:
        self._outbox.append(Send(message))

    def _report(self, event: str, *, warning: bool = False, **facts: Any) -> None:
        self._outbox.append(Report(event, facts, warning))
