"""The database: a node with greenlets around it, for durability, waiting and background work.

Which greenlet does what:

- *committer*: takes what the node has buffered for the journal, writes and syncs it in a native thread,
  then wakes all who wait for durability and the senders of the stream. One batch at a time: what arrives
  meanwhile is the next.
- *syncer* (``fsync: everysec``, and ``never`` on a replica that feeds others): syncs what is written, once a
  second.
- *maintenance* (see ``maintenance``): seals, merges, builds graphs, writes checkpoints.
- *watch* (see ``loop_delay``): measures how long the event loop is held.

Each is linked to ``fail``: its unexpected end stops the process.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ParamSpec, TypeAlias, TypeVar

import gevent
from gevent.event import AsyncResult, Event
from gevent.lock import RLock

from vectorizer import logs
from vectorizer.config import Settings
from vectorizer.errors import RequestError, VectorizerError, syncing
from vectorizer.journal_waiters import JournalWaiters
from vectorizer.native_threads import AT_ONCE, NativeThreads
from vectorizer.node import Node, NodeFailure, NodeLimits, Role
from vectorizer.operations import Operation
from vectorizer.runs import Run
from vectorizer.storage.chunk import View
from vectorizer.storage.collection import Collection
from vectorizer.storage.data_directory import DataDirectory
from vectorizer.storage.journal import Journal

if TYPE_CHECKING:
    from vectorizer.roles import Roles

Greenlet: TypeAlias = "gevent.Greenlet[..., None]"
P = ParamSpec("P")
Q = TypeVar("Q")
R = TypeVar("R")

JOURNAL_THREADS = 1
READ_THREADS = 4
WORK_THREADS = 2
HELD_SECS = 1.0
"""So long a write waits for the end of a change of role; then it is refused with 503."""

log = logs.get(__name__)


@dataclass(frozen=True, slots=True)
class WriteResult:
    """Where a write stands in the history."""

    offset: int
    replication_id: str


def node_limits(settings: Settings) -> NodeLimits:
    """The settings that the node itself obeys."""
    return NodeLimits(
        log_size=settings.replication.log_size,
        log_bytes_max=settings.replication.log_bytes_max,
        frame_bytes_max=settings.limits.frame_bytes_max,
        collections_max=settings.limits.collections_max,
        durable_only=settings.storage.fsync == "always",
    )


class Database:
    """A node that can be waited on. All methods belong to the event loop."""

    def __init__(self, settings: Settings, directory: DataDirectory, node: Node) -> None:
        self.settings = settings
        self.directory = directory
        self.node = node
        self.failed: AsyncResult[VectorizerError] = AsyncResult()
        self.maintenance_lock = RLock()
        self.serves_data: Callable[[], bool] = lambda: node.has_complete_data
        """Whether what this node holds may be read; the link of a replica knows better than the node."""
        self.roles: Roles | None = None
        """Who has the links to other nodes, once there is one."""
        self._pending = Event()
        self._waiters = JournalWaiters()
        self._applied = Event()
        self._released = Event()
        self._listeners: list[Callable[[], None]] = []
        self._history_watchers: list[Callable[[], None]] = []
        self._journal_threads = NativeThreads(JOURNAL_THREADS)
        self._read_threads = NativeThreads(READ_THREADS)
        self._slice_threads = NativeThreads(AT_ONCE)
        """Of their own, so that what else is read does not queue behind the parts of long reads."""
        self._work_threads = NativeThreads(WORK_THREADS)
        self._greenlets: list[Greenlet] = []
        self._closing = False

    # -- life -------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start committing."""
        self.own(gevent.spawn(self._commit), "committer")
        self.own(gevent.spawn(self._sync_each_second), "syncer")
        self._pending.set()  # the history's newest entry is buffered already

    def own(self, greenlet: Greenlet, name: str) -> None:
        """This greenlet runs as long as the database; its unexpected end stops the process."""

        def ended(dead: Greenlet) -> None:
            if not self._closing:
                self.fail(NodeFailure(f"the {name} has ended: {dead.exception!r}"))

        greenlet.link(ended)
        self._greenlets.append(greenlet)

    def fail(self, error: VectorizerError) -> None:
        """This process cannot go on: nothing is acknowledged any more, who waits for ``failed`` ends it."""
        if self.node.failure is None:
            self.node.failure = error if isinstance(error, NodeFailure) else NodeFailure(str(error))
        if not self.failed.ready():
            log.error("failed", reason=str(error))
            self.failed.set(error)
        self._wake_all()

    def close(self) -> None:
        """Write and sync what is buffered, then stop. Nothing is written if the node has failed or was never
        started.
        """
        if self._greenlets and self.node.failure is None:
            with contextlib.suppress(NodeFailure):  # ``failed`` tells
                self.flush()
        self._closing = True
        gevent.killall(self._greenlets)
        for threads in (self._journal_threads, self._read_threads, self._slice_threads, self._work_threads):
            threads.kill()
        self.node.journal.close()

    # -- writing ----------------------------------------------------------------------------------------

    def write(self, operation: Operation) -> WriteResult:
        """Commit a client's operation and wait until it is as durable as the settings promise.

        Unless writes are held, the commit itself happens before anything else runs. RequestError if it is
        refused; 503 ``outcome_unknown`` if the node failed or changed its data between commit and durability.
        """
        self.wait_writable()
        node = self.node
        try:
            offset = node.commit(operation, time.monotonic(), time.time_ns() // 1_000_000)
        except NodeFailure as error:
            self.fail(error)
            raise RequestError(503, "failed", str(error)) from error
        result = WriteResult(offset, node.replication_id)
        self.committed()
        if self.settings.storage.fsync == "always":
            self.wait_durable(offset)
        else:
            self._wait_written(offset, node.journal.appended_bytes)
        return result

    def wait_writable(self) -> None:
        """Return when writes are no longer held for a change of role, at the latest after HELD_SECS."""
        node = self.node
        if node.fenced is not None and node.role is not Role.REPLICA and node.failure is None:
            self._released.wait(HELD_SECS)

    def guard_writable(self) -> None:
        """Return when writes are let in; RequestError if they are not.

        What is looked up after it, without a switch of greenlets, still holds when ``write`` commits.
        """
        self.wait_writable()
        self.node.guard_writable()

    def hold_writes(self, reason: str) -> None:
        """Let writes wait while the role changes."""
        self._released.clear()
        self.node.fence(reason)

    def release_writes(self) -> None:
        """Let them in, or let them hear that this node is a replica."""
        self.node.fence(None)
        self._released.set()

    @contextlib.contextmanager
    def writes_held(self, reason: str) -> Iterator[None]:
        """Hold writes meanwhile; if they were held already, they still are afterwards."""
        before = self.node.fenced
        self.hold_writes(before or reason)
        try:
            yield
        finally:
            if before is None:
                self.release_writes()

    def apply_frame(self, encoded: bytes) -> int:
        """Take an operation of the master's stream; its offset. See ``Node.apply_frame`` for errors."""
        try:
            offset = self.node.apply_frame(encoded, time.monotonic())
        except NodeFailure as error:
            self.fail(error)
            raise
        self.committed()
        return offset

    def apply_run(self, run: Run) -> bool:
        """Take operations of the master's stream at once, if ``Node.apply_run`` does."""
        try:
            applied = self.node.apply_run(run, time.monotonic())
        except NodeFailure as error:
            self.fail(error)
            raise
        if applied:
            self.committed()
        return applied

    def committed(self) -> None:
        """Something is buffered for the journal."""
        self._applied.set()  # first: who waits to read is answered before the journal's thread wants a core
        self._pending.set()
        if not self.node.limits.durable_only:
            self._tell_listeners()

    def wait_durable(self, offset: int) -> None:
        """Return when the operation at this offset is durable."""
        journal = self.node.journal
        while journal.durable_offset < offset:
            self._wait_for(journal, offset)

    def wait_applied(self, timeout_secs: float) -> None:
        """Return when an operation has been applied, or the data replaced, or the time is up."""
        self._applied.clear()
        self._applied.wait(timeout_secs)

    def _wait_written(self, offset: int, position: int) -> None:
        """Return when the system has the operation at this offset, which ends at this position: then a crash
        of this process alone loses no acknowledged write.
        """
        journal = self.node.journal
        while journal.written_bytes < position:
            self._wait_for(journal, offset)

    def _wait_for(self, journal: Journal, offset: int) -> None:
        """Return when the journal may have got as far."""
        if self.node.failure is not None or self.node.journal is not journal:
            raise RequestError(
                503,
                "outcome_unknown",
                "the node stopped or changed its data before this write was durable",
            )
        self._waiters.wait(offset)

    def flush(self) -> None:
        """Write and sync all that is buffered now, whatever ``fsync`` says and whoever goes on writing.

        NodeFailure if that failed.
        """
        node, journal = self.node, self.node.journal
        offset, position = node.offset, journal.appended_bytes
        while journal.written_bytes < position and node.failure is None:
            self._pending.set()
            self._waiters.wait(offset, 0.05)
        if node.failure is None:
            self._sync(journal)  # also when no operation waits: a history record may
        while journal.durable_offset < offset and node.failure is None:
            self._waiters.wait(offset, 0.05)
        if node.failure is not None:
            raise node.failure

    def close_journal(self, journal: Journal) -> None:
        """Close one that is no longer the node's, after all that its thread still does. OSError."""
        self._journal_threads.run(journal.close)

    def data_replaced(self) -> None:
        """The node's data was swapped: wake all who waited for the old one."""
        self._pending.set()
        self._applied.set()
        self._wake_all()
        self.history_changed()

    # -- waiting for others -----------------------------------------------------------------------------

    def subscribe(self, listener: Callable[[], None]) -> None:
        """Call ``listener`` whenever operations may be sent or have become durable; it must not switch
        greenlets.
        """
        self._listeners.append(listener)

    def unsubscribe(self, listener: Callable[[], None]) -> None:
        """The opposite of ``subscribe``."""
        self._listeners.remove(listener)

    def watch_history(self, watcher: Callable[[], None]) -> None:
        """Call ``watcher`` whenever this node's history or data, or the nodes above it, are other ones; it
        must not switch greenlets.
        """
        self._history_watchers.append(watcher)

    def unwatch_history(self, watcher: Callable[[], None]) -> None:
        """The opposite of ``watch_history``."""
        self._history_watchers.remove(watcher)

    def history_changed(self) -> None:
        """What this node told those who follow it holds no longer."""
        for watcher in self._history_watchers:
            watcher()

    def _tell_listeners(self) -> None:
        for listener in self._listeners:
            listener()

    def _wake_all(self) -> None:
        self._tell_listeners()
        self._waiters.wake_all()

    # -- reading ----------------------------------------------------------------------------------------

    def collection(self, name: str) -> Collection:
        """A collection; RequestError 404, or 503 while there is no complete data."""
        self.guard_readable()
        return self.node.store.get(name)

    def view(self, name: str) -> View:
        """A collection as it is now."""
        return self.collection(name).view(self.node.offset)

    def guard_readable(self) -> None:
        """RequestError 503 while there is no complete data to serve."""
        if not self.serves_data():
            raise syncing()

    def run_native(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run in a native thread for reads, while the event loop goes on; errors are raised here."""
        return self._read_threads.run(function, *args, **kwargs)

    def run_native_each(self, function: Callable[[Q], R], arguments: Sequence[Q]) -> Iterator[R]:
        """What the function makes of each argument, in order, in AT_ONCE native threads, while the caller
        deals with what this gives; a single one in a thread for reads.
        """
        if len(arguments) == 1:
            return iter([self.run_native(function, arguments[0])])
        return self._slice_threads.run_each(function, arguments)

    def run_work(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """The same in the threads for background work on files."""
        return self._work_threads.run(function, *args, **kwargs)

    # -- the journal's greenlets ------------------------------------------------------------------------

    def _commit(self) -> None:
        while True:
            self._pending.wait()
            self._pending.clear()
            journal = self.node.journal
            synced = self.settings.storage.fsync == "always"
            while (batch := journal.take_batch()) is not None:
                self._waiters.taken(batch.last_offset)
                try:
                    self._journal_threads.run(batch.write, synced)
                except OSError as error:
                    self.fail(
                        NodeFailure(f"the journal cannot be written ({error}); nothing more is acknowledged")
                    )
                    return
                journal.complete(batch)
                # Replicas first: they work on it while clients get their answers.
                self._tell_listeners()
                self._waiters.done()

    def _sync_each_second(self) -> None:
        while True:
            gevent.sleep(1.0)
            if self._syncs_each_second() and self.node.journal.durable_offset < self.node.offset:
                self._sync(self.node.journal)

    def _syncs_each_second(self) -> bool:
        """A replica that feeds others must become durable at some time, also with ``fsync: never``."""
        fsync, replication = self.settings.storage.fsync, self.settings.replication
        feeds = self.node.role is Role.REPLICA and bool(replication.bind_address)
        return fsync == "everysec" or (fsync == "never" and feeds)

    def _sync(self, journal: Journal) -> None:
        try:
            self._journal_threads.run(journal.sync)
        except OSError as error:
            self.fail(NodeFailure(f"the journal cannot be synced ({error}); nothing more is acknowledged"))
            return
        self._wake_all()

    @property
    def role(self) -> Role:
        """The node's role."""
        return self.node.role
