"""The replica's link to its master: connect, converse, come again.

Which greenlet does what:

- *link*: waits until the next attempt is due, connects, reads frames and does the work they bring on this
  node's data before it reads on. It owns the other one and the snapshot that is being received.
- *writer*, one a piece of a snapshot: has it written while the link receives the next one; there is one at a
  time, in order, and neither installing nor dropping what was received goes past it.
- *sender*, one a connection: acks, signs of life and farewells; the only one that writes. It is woken by the
  link, and by the database whenever operations have become durable.

What takes long (writing a snapshot's files, verifying, going back) runs in native threads, so this node goes
on serving reads. The link ends only by `stop`, or by a failure of the node itself, which ends the process.
"""

from __future__ import annotations

import errno
import random
import time
from typing import TYPE_CHECKING, Protocol

import gevent
from gevent.event import Event

from vectorizer import logs
from vectorizer.address import Address, parse_address
from vectorizer.errors import ApplyError, DamageError, PeerError, RequestError, VectorizerError
from vectorizer.node import NodeFailure
from vectorizer.replication import messages
from vectorizer.replication.authentication import NOTHING, Credentials
from vectorizer.replication.connection import Connection, Turn
from vectorizer.replication.handshake import Above
from vectorizer.replication.intentions import (
    AbortSnapshot,
    AdoptHistory,
    Apply,
    BeginSnapshot,
    Close,
    FollowAnother,
    Install,
    LinkWork,
    Prepare,
    Report,
    Send,
    TakeOver,
    WriteChunk,
)
from vectorizer.replication.link import NOWHERE, ReplicaLink
from vectorizer.replication.master import LINGER_SECS, LOOK_SECS, STOP_SECS, clock_ms
from vectorizer.replication.states import FINAL, LinkState
from vectorizer.replication.transfer import message_of
from vectorizer.runs import Run, decode_run, in_runs
from vectorizer.storage.snapshot import SnapshotFile

if TYPE_CHECKING:
    Greenlet = gevent.Greenlet[..., None]
    from vectorizer.database import Database
    from vectorizer.replication.history import History
    from vectorizer.security import Security
    from vectorizer.snapshots import Snapshots
    from vectorizer.storage.snapshot import SnapshotReceiver

SILENCE_CHECK_SECS = 0.01
UNWRITTEN_BYTES_MAX = 8 << 20
"""Applied operations that the journal has not written yet: beyond it the link waits for the disk."""

log = logs.get(__name__)


class Orders(Protocol):
    """Who changes this node's role when its master says so; both end the link."""

    def take_over(self, client: ReplicaClient, switchover: str, offset: int) -> None:
        """Become the master; ``settle`` tells the outcome."""

    def follow_another(self, client: ReplicaClient, master_address: str) -> None:
        """Follow the new master."""


class ReplicaClient:
    """Follows the master at ``master_address`` (host:port). ``force``: its history may be foreign, once."""

    def __init__(
        self,
        database: Database,
        snapshots: Snapshots,
        master_address: str,
        rest_address: str,
        *,
        force: bool = False,
        listens_at: Address = NOWHERE,
        security: Security | None = None,
        orders: Orders | None = None,
    ) -> None:
        self.master_address = master_address
        self._database = database
        self._snapshots = snapshots
        self._security = security
        self._orders = orders
        self.link = ReplicaLink(
            database.node,
            lambda: database.settings,
            time.monotonic(),
            random.random,
            force=force,
            master_host=parse_address(master_address).host,
            rest_address=rest_address,
            listens_at=listens_at,
        )
        self._wake = Event()
        self._due = Event()
        self._connection: Connection | None = None
        self._receiver: SnapshotReceiver | None = None
        self._writing: Greenlet | None = None
        self._keep_aside = False
        self._greenlet: Greenlet | None = None
        self._told: tuple[LinkState, str] | None = None  # the last end of a connection that was logged
        self._saved: tuple[str, int, int] | None = None  # what of ours was saved aside already
        self._distrusts_files = False  # a file here turned out damaged: let the master send all

    @property
    def stopped_for_good(self) -> bool:
        """Whether it tries no more until an operator acts."""
        return self.link.state in FINAL

    @property
    def handing_over(self) -> bool:
        """Whether the master has handed its mastership to this node and waits for the answer."""
        return self.link.state is LinkState.PROMOTING

    @property
    def above(self) -> Above:
        """The nodes above this one, as the master told last."""
        link = self.link
        return Above(link.master.path, link.master.writes_address, link.lag_ms(time.monotonic()))

    def start(self) -> None:
        """Begin to follow."""
        node = self._database.node
        node.has_complete_data = node.offset > 0
        self._database.subscribe(self._wake.set)
        self._greenlet = gevent.spawn(self._run)
        self._greenlet.link_exception(self._died)

    def stop(self, reason: str = "shutdown", message: str = "the replica stops or changes its role") -> None:
        """Say goodbye and end; what was received of a snapshot is dropped."""
        greenlet, self._greenlet = self._greenlet, None
        if greenlet is None:
            return
        self.link.stop(reason, message, time.monotonic())
        self._wake.set()
        self._due.set()
        greenlet.join(LINGER_SECS)
        if self._connection is not None:
            self._connection.close()
        greenlet.join(STOP_SECS)
        greenlet.kill()
        self._database.unsubscribe(self._wake.set)
        self._do_work()

    def settle(self, answer: messages.Promoted | messages.Declined) -> None:
        """Tell the master what became of the mastership that it handed over; the link ends."""
        self.link.settle(answer, time.monotonic())
        self._wake.set()

    def reset(self) -> None:
        """An operator has acted: try again at once."""
        self.link.reset(time.monotonic())
        self._due.set()

    def _died(self, greenlet: Greenlet) -> None:
        self._database.fail(NodeFailure(f"the link to the master has ended: {greenlet.exception!r}"))

    # -- attempts ---------------------------------------------------------------------------------------

    def _run(self) -> None:
        link = self.link
        while link.state is not LinkState.STOPPED:
            self._due.clear()
            now = time.monotonic()
            if link.retry.at is None or now < link.retry.at:
                self._due.wait(LOOK_SECS if link.retry.at is None else link.retry.at - now)
                continue
            self._attempt()

    def _attempt(self) -> None:
        link, settings = self.link, self._database.settings
        link.connecting(time.monotonic())
        reason, message = "connection_lost", "the connection is lost"
        try:
            address = parse_address(self.master_address)
            timeout = settings.replication.connect_timeout_secs
            self._connection = Connection.connect(address, timeout, messages.HELLO_BYTES_MAX)
            credentials = self._introduce(self._connection, address.host)
            if link.state is LinkState.CONNECTING:
                self._converse(self._connection, credentials)
        except PeerError as error:
            reason, message = error.code, str(error)
        finally:
            if self._connection is not None:
                self._connection.close()
                self._connection = None
            link.disconnected(reason, message, time.monotonic())
            self._snapshots.forget_offer()
            self._do_work()
            self._tell_outcome()

    def _introduce(self, connection: Connection, host: str) -> Credentials:
        if self._security is None:
            return NOTHING
        timeout = self._database.settings.replication.handshake_timeout_secs
        return self._security.introduce(connection, host, timeout)

    def _tell_outcome(self) -> None:
        link = self.link
        if link.state is LinkState.STOPPED:
            return
        wait = None if link.retry.at is None else round(max(0.0, link.retry.at - time.monotonic()), 3)
        attempts, reason = link.retry.attempts, (link.state, link.reason)
        # The same reason again and again is told the 1st, 2nd, 4th, 8th ... time.
        quiet = reason == self._told and attempts & (attempts - 1)
        self._told = reason
        (log.debug if quiet else log.warning)(
            "link_down",
            master=self.master_address,
            state=str(link.state),
            reason=link.reason,
            message=link.message,
            attempts=attempts,
            next_attempt_secs=wait,
            offset=self._database.node.offset,
        )

    # -- one connection ---------------------------------------------------------------------------------

    def _converse(self, connection: Connection, credentials: Credentials) -> None:
        """Until the connection ends: PeerError, or the link has closed."""
        self.link.connected(time.monotonic(), credentials)
        self._wake.set()
        sender = gevent.spawn(self._send_all, connection)
        sender.link_exception(self._died)
        try:
            self._receive_all(connection)
        except PeerError as error:
            if error.code == "connection_lost":
                sender.kill()  # nobody hears a farewell, and what comes next need not wait for one
            else:
                self.link.fail(error, time.monotonic())
            raise
        finally:
            self._wake.set()
            sender.join(LINGER_SECS)
            sender.kill()

    def _receive_all(self, connection: Connection) -> None:
        link, turn = self.link, Turn()
        while link.connected_now:
            left = link.silent_at() - time.monotonic()
            if left <= -LINGER_SECS:
                raise PeerError("master_timeout", "the master is silent and takes nothing either (timed out)")
            if left <= 0:
                self._wake.set()  # the sender says goodbye, if it is not stuck itself
                gevent.sleep(SILENCE_CHECK_SECS)
            elif connection.receive(min(left, LOOK_SECS)):
                self._take_all(connection, turn)
                if connection.grows():
                    link.heard(time.monotonic())
                self._wake.set()

    def _take_all(self, connection: Connection, turn: Turn) -> None:
        """The frames received so far; small operations that came together are taken together."""
        for lines in in_runs(connection.frames(), lambda: self.link.state is LinkState.STREAMING):
            run = decode_run(lines) if len(lines) > 1 else None
            if run is None:
                for line in lines:
                    self._take(connection, message_of(line), len(line))
                    turn.step()
            else:
                message = messages.OperationFrame(run.offset, run.epoch, run.timestamp_ms, lines[0], run)
                self._take(connection, message, sum(map(len, lines)))
                turn.step()

    def _take(
        self, connection: Connection, message: messages.Message | messages.OperationFrame, size: int
    ) -> None:
        link, was, above = self.link, self.link.state, self.above
        link.receive(message, time.monotonic(), clock_ms(), size)
        if link.state is not was and was is LinkState.HANDSHAKE and link.connected_now:
            connection.raise_ceiling(self._database.settings.limits.frame_bytes_max)
            rest = link.master.writes_address
            self._database.node.master_url = (
                f"{self._database.settings.rest_scheme}://{rest}" if rest else None
            )
            if self.above != above:
                self._database.history_changed()  # who follows this node must see a cycle through it
        self._do_work()
        if link.state is not was and link.state is LinkState.STREAMING:
            self._database.node.has_complete_data = True
            log.info(
                "link_up",
                master=self.master_address,
                sync="full" if was is not LinkState.HANDSHAKE else "partial",
                reason=link.sync_reason,
                offset=self._database.node.offset,
                master_offset=link.master.offset,
            )

    def _send_all(self, connection: Connection) -> None:
        """Until the link has closed.

        A connection that cannot be written is closed, which ends the receiver.
        """
        link = self.link
        try:
            while True:
                self._wake.clear()
                intentions = link.ready(time.monotonic(), clock_ms())
                if not intentions and not link.connected_now:
                    return
                if not intentions:
                    self._wake.wait(max(0.0, link.deadline() - time.monotonic()))
                for intention in intentions:
                    match intention:
                        case Send(message):
                            timeout = self._database.settings.replication.replica_timeout_secs
                            link.sent(connection.send([messages.encode(message)], timeout))
                        case Report(event, facts, warning):
                            (log.warning if warning else log.info)(event, **facts)
                        case Close():
                            connection.finish_sending()
                            return
        except PeerError as error:
            log.debug("sender_ends", reason=error.code, message=str(error))
            connection.close()

    # -- work on this node's data -----------------------------------------------------------------------

    def _do_work(self) -> None:
        while work := self.link.work():
            for item in work:
                self._do(item)

    def _do(self, item: LinkWork) -> None:
        match item:
            case Apply(offset, line, None):
                self._apply(offset, line)
            case Apply(run=run) if run is not None:
                self._apply_run(run)
            case AdoptHistory(history):
                self._adopt_history(history)
            case Prepare(fork_offset, rewind):
                self._prepare(fork_offset, rewind)
            case BeginSnapshot():
                self._begin_snapshot(item)
            case WriteChunk():
                self._write_chunk(item)
            case Install():
                self._install()
            case AbortSnapshot():
                self._abort()
            case TakeOver() | FollowAnother():
                gevent.spawn(self._obey, item).link_exception(self._died)

    def _obey(self, order: TakeOver | FollowAnother) -> None:
        """Not in the link's own greenlet, which ends meanwhile."""
        if self._orders is None:  # nobody here changes roles: the master gets no answer
            log.warning("order_ignored", order=type(order).__name__)
        elif isinstance(order, TakeOver):
            self._orders.take_over(self, order.switchover, order.offset)
        else:
            self._orders.follow_another(self, order.master_address)

    def _adopt_history(self, history: History) -> None:
        node = self._database.node
        try:
            node.adopt_history(history)
        except RequestError as error:  # no room on disk: nothing was changed
            self.link.apply_failed(node.offset, error.error_type, str(error), time.monotonic())
        else:
            self._database.committed()
            self._database.history_changed()

    def _apply(self, offset: int, line: bytes) -> None:
        now = time.monotonic()
        try:
            self._database.apply_frame(line)
        except ApplyError as error:
            self.link.apply_failed(offset, error.code, str(error), now)
        except RequestError as error:
            self.link.apply_failed(offset, error.error_type, str(error), now)
        else:
            self.link.applied(offset, now)
            self._wait_for_disk()

    def _apply_run(self, run: Run) -> None:
        """All at once, or one by one until one of them fails."""
        if self._database.apply_run(run):
            self.link.applied(run.last_offset, time.monotonic(), len(run.frames))
            self._wait_for_disk()
            return
        for offset, line in enumerate(run.frames, start=run.offset):
            if self.link.state is LinkState.STREAMING:
                self._apply(offset, line)

    def _wait_for_disk(self) -> None:
        """While too much is applied and not written; the master's bytes wait in the socket."""
        node = self._database.node
        journal = node.journal
        while journal.appended_bytes - journal.written_bytes > UNWRITTEN_BYTES_MAX:
            if node.failure is not None or node.journal is not journal:
                return
            gevent.sleep(0.002)

    def _prepare(self, fork_offset: int | None, rewind: bool) -> None:
        rewound = False
        try:
            if fork_offset is not None:
                self._save_diverged(fork_offset)
                rewound = rewind and self._snapshots.go_back(fork_offset)
        except (OSError, VectorizerError) as error:
            self._snapshot_failed(error)
            return
        have = {} if self._distrusts_files else self._snapshots.held_files()
        self.link.prepared(rewound, have, time.monotonic())

    def _save_diverged(self, fork_offset: int) -> None:
        """Once for the same operations, also if the full sync after it takes several attempts."""
        node = self._database.node
        what = (node.replication_id, fork_offset, node.offset)
        if self._saved != what:
            self._snapshots.save_diverged(fork_offset)
            self._saved = what

    def _begin_snapshot(self, begin: BeginSnapshot) -> None:
        files = [SnapshotFile(file.name, file.bytes, file.crc32 or 0) for file in begin.files]
        self._keep_aside = begin.keep_aside
        if begin.keep_aside:  # data of a history that is given up is not served as the new one's
            self._database.node.has_complete_data = False
        try:
            self._receiver = self._snapshots.begin(dict(begin.manifest), files)
        except (OSError, VectorizerError) as error:
            self._snapshot_failed(error)

    def _write_chunk(self, piece: WriteChunk) -> None:
        """Begin to write, once the piece before is written: the next one is received meanwhile."""
        self._wait_written()
        if self.link.state is LinkState.RECEIVING:
            assert self._receiver is not None
            self._writing = gevent.spawn(self._write, self._receiver, piece)
            self._writing.link_exception(self._died)

    def _write(self, receiver: SnapshotReceiver, piece: WriteChunk) -> None:
        try:
            self._database.run_work(receiver.write, piece.name, piece.position, piece.data, piece.crc32)
        except (OSError, VectorizerError) as error:
            if self._receiver is receiver:  # else nobody waits for it any more
                self._snapshot_failed(error)
        else:
            self.link.written(len(piece.data), time.monotonic())
            self._wake.set()

    def _wait_written(self) -> None:
        if self._writing is not None:
            self._writing.join()

    def _install(self) -> None:
        self._wait_written()
        if self.link.state is not LinkState.INSTALLING:
            return  # the last piece could not be written
        assert self._receiver is not None
        try:
            self._snapshots.install(self._receiver, keep_aside=self._keep_aside)
        except (OSError, VectorizerError) as error:
            self._snapshot_failed(error)
            return
        self._receiver = None
        self._distrusts_files = False
        self.link.installed(time.monotonic(), clock_ms())

    def _snapshot_failed(self, error: Exception) -> None:
        code = "snapshot_failed"
        if isinstance(error, OSError):
            code = "insufficient_storage" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "disk_error"
        elif isinstance(error, DamageError):
            code, self._distrusts_files = "damaged_file", True
        elif isinstance(error, PeerError):
            code = error.code
        self.link.snapshot_failed(code, str(error), time.monotonic())
        self._wake.set()

    def _abort(self) -> None:
        receiver, self._receiver = self._receiver, None
        if receiver is not None:
            self._wait_written()
            self._database.run_work(receiver.abort)
        self._database.node.has_complete_data = self._database.node.offset > 0
