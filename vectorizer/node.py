"""The node: role, store, log and journal of one process; the hinge between clients, disk and peers.

House rules:

1. Pure: no sockets, no clocks, no greenlets. In gevent, that makes every method here atomic.
2. ``commit`` (a master's own write) and ``apply_frame`` (a replica's stream) check first, then change
   everything at once; recovery applies the same entries the same way. A failure after the check is a bug
   here: the node refuses to go on (``failure``), and whoever owns the process stops it.
3. With ``fsync: always`` only what is durable leaves this node.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from vectorizer import codec, frame
from vectorizer.errors import (
    ApplyError,
    RequestError,
    VectorizerError,
    insufficient_storage,
    not_ready,
    read_only_replica,
)
from vectorizer.operations import Entry, Operation, OperationError, decode_entry, encode_operation
from vectorizer.replication.history import History
from vectorizer.replication.log import ReplicationLog
from vectorizer.replication.sync import Position
from vectorizer.runs import Run
from vectorizer.storage.journal import Journal
from vectorizer.storage.store import Store

if TYPE_CHECKING:
    from vectorizer.storage.recovery import Recovered


HISTORY_RECORD_BYTES_MAX = 128 << 10
"""More than the record of a history of ENTRIES_MAX entries."""


class Role(StrEnum):
    """What a node does."""

    STANDALONE = "standalone"
    MASTER = "master"
    REPLICA = "replica"


class NodeFailure(VectorizerError):
    """This node's own bug or a failed disk: its memory can no longer be trusted, the process must stop."""


@dataclass(frozen=True, slots=True)
class Deposed:
    """A newer mastership that this master has heard of: from which node, its id and epoch."""

    told_by: str
    replication_id: str
    epoch: int


@dataclass(frozen=True, slots=True)
class NodeLimits:
    """Settings that the node itself obeys; changed live by ``Node.set_limits``."""

    log_size: int
    log_bytes_max: int
    frame_bytes_max: int
    collections_max: int
    durable_only: bool
    """True with ``fsync: always``."""


class Node:
    """One node's data and role. ``new_id`` makes replication ids.

    ``followed``: it was a replica before this start, so to start as master is a promotion.
    """

    def __init__(
        self,
        recovered: Recovered,
        role: Role,
        limits: NodeLimits,
        new_id: Callable[[], str],
        *,
        followed: bool = False,
    ) -> None:
        self.role = role
        self.limits = limits
        self.node_id = recovered.manifest.node_id
        self.master_url: str | None = None
        self.failure: NodeFailure | None = None
        self.fenced: str | None = None
        self.deposed: Deposed | None = None
        self.has_complete_data = True
        """False while a replica without data of its own receives its first full sync."""
        self._new_id = new_id
        self.install(recovered)
        if role is not Role.REPLICA:
            self.open_mastership(raise_epoch=followed)

    def install(self, recovered: Recovered) -> None:
        """Take over data that was read from disk: at start, after a full sync, after going back to a fork."""
        self.generation = recovered.generation
        self.manifest = recovered.manifest
        self.store: Store = recovered.store
        self.journal: Journal = recovered.journal
        self.history: History = recovered.history
        self.offset: int = recovered.offset
        self.last_checksum: int | None = recovered.checksum
        self.last_timestamp_ms: int = recovered.timestamp_ms
        self.log: ReplicationLog = recovered.log
        self.log.set_limits(self.limits.log_size, self.limits.log_bytes_max)

    # -- facts ------------------------------------------------------------------------------------------

    @property
    def epoch(self) -> int:
        """Epoch of the newest mastership."""
        current = self.history.current
        return 0 if current is None else current.epoch

    @property
    def replication_id(self) -> str:
        """Id of the newest mastership."""
        return self.history.replication_id

    @property
    def durable_offset(self) -> int:
        """The newest operation that survives a loss of power."""
        return self.journal.durable_offset

    @property
    def sendable_offset(self) -> int:
        """The newest operation that replicas may have.

        A replica passes on only what it holds durably: after its own crash it must not be behind those who
        follow it.
        """
        if self.role is Role.REPLICA:
            return min(self.durable_offset, self.offset)
        return self.durable_offset if self.limits.durable_only else self.offset

    @property
    def window(self) -> tuple[int, int]:
        """First and last operation from which a partial sync can be given; first = last + 1 if none."""
        first = min(self.journal.first_offset, self.log.first_offset)
        return max(first, self.offset - self.limits.log_size + 1), self.offset

    @property
    def position(self) -> Position:
        """Where this node stands, as the handshake tells it."""
        return Position(self.history, self.offset, self.last_checksum)

    @property
    def writable(self) -> bool:
        """Whether writes of clients are taken here."""
        held = self.fenced is not None or self.deposed is not None
        return self.role is not Role.REPLICA and self.failure is None and not held

    # -- writes -----------------------------------------------------------------------------------------

    def commit(self, operation: Operation, now: float, now_ms: int) -> int:
        """Take a client's write; its offset. RequestError if it is refused, and then nothing has changed."""
        self.guard_writable()
        self.store.check(operation)
        if operation.kind == "create" and len(self.store.collections) >= self.limits.collections_max:
            limit = self.limits.collections_max
            raise RequestError(
                409, "too_many_collections", f"there are {limit} collections, which is the limit"
            )
        offset = self.offset + 1
        encoded = encode_operation(operation, offset, self.epoch, now_ms)
        if len(encoded) > self.limits.frame_bytes_max:
            raise RequestError(
                413,
                "too_large",
                f"the operation has {len(encoded)} bytes, the limit (limits.frame_bytes_max) is "
                f"{self.limits.frame_bytes_max}; send smaller batches",
            )
        if not self._has_room(len(encoded)):
            raise insufficient_storage(
                "no room on disk for this write; nothing was changed", bytes=len(encoded)
            )
        self._apply(Entry(offset, self.epoch, now_ms, operation), encoded, now)
        return offset

    def guard_writable(self) -> None:
        """RequestError unless this node takes writes."""
        if self.failure is not None:
            raise RequestError(503, "failed", str(self.failure))
        if self.role is Role.REPLICA:
            raise read_only_replica(self.master_url)
        if self.fenced is not None:
            raise not_ready(f"writes are held: {self.fenced}", "writes_held")
        if self.deposed is not None:
            raise RequestError(
                503,
                "deposed",
                f"this master takes no writes: node {self.deposed.told_by} told it of a newer mastership of "
                f"its history ({self.deposed.replication_id}, epoch {self.deposed.epoch})",
            )

    def fence(self, reason: str | None) -> None:
        """Hold writes while the role changes; None lets them in again."""
        self.fenced = reason

    def apply_frame(self, encoded: bytes, now: float) -> int:
        """Take an operation of the master's stream, a verified frame exactly as it came; its offset.

        Raises ApplyError if it does not fit this node's data, RequestError 507 if there is no room on disk;
        nothing has changed then.
        """
        try:
            # The decoder of the link has verified the checksum. Again, that would be 86 µs for 1,000 vectors.
            entry = decode_entry(codec.decode(memoryview(encoded)[frame.HEADER_BYTES :]))
        except (codec.CodecError, OperationError) as error:
            raise ApplyError("operation_unknown", str(error)) from error
        if entry.offset != self.offset + 1:
            raise ApplyError("offset_gap", f"operation {entry.offset} does not follow offset {self.offset}")
        mastership = self.history.entry_at(entry.offset)
        if mastership is None or mastership.epoch != entry.epoch:
            expected = None if mastership is None else mastership.epoch
            raise ApplyError(
                "stale_epoch", f"operation {entry.offset} is of epoch {entry.epoch}, expected {expected}"
            )
        try:
            self.store.check(entry.operation)
        except RequestError as error:
            raise ApplyError(
                "apply_failed", f"operation {entry.offset} cannot be applied: {error}"
            ) from error
        if not self._has_room(len(encoded)):
            raise insufficient_storage("no room on disk for the master's next operation", bytes=len(encoded))
        self._apply(entry, encoded, now)
        return entry.offset

    def apply_run(self, run: Run, now: float) -> bool:
        """Take operations of the master's stream at once; False: nothing has changed, ``apply_frame`` takes
        them one by one, or says what is wrong.
        """
        masterships = [self.history.entry_at(offset) for offset in (run.offset, run.last_offset)]
        fits = run.offset == self.offset + 1 and all(
            mastership is not None and mastership.epoch == run.epoch for mastership in masterships
        )
        if not (fits and self.store.takes(run) and self.journal.has_room(sum(map(len, run.frames)))):
            return False
        try:
            self.store.apply_run(run)
            self.journal.append_run(run.frames, run.offset)
            self.log.extend(run.offset, run.frames, now)
        except Exception as error:
            self.failure = NodeFailure(
                f"operations {run.offset} to {run.last_offset} failed after their check: {error!r}"
            )
            raise self.failure from error
        self.offset = run.last_offset
        self.last_checksum = frame.checksum(run.frames[-1])
        self.last_timestamp_ms = run.timestamp_ms
        return True

    def _has_room(self, frame_bytes: int) -> bool:
        return self.journal.has_room(frame_bytes) or self.journal.ensure_room(frame_bytes)

    def _apply(self, entry: Entry, encoded: bytes, now: float) -> None:
        try:
            self.store.apply(entry)
            self.journal.append(encoded, entry.offset)
            self.log.append(entry.offset, encoded, now)
        except Exception as error:
            self.failure = NodeFailure(
                f"operation {entry.offset} ({entry.operation.kind}) failed after its check: {error!r}"
            )
            raise self.failure from error
        self.offset = entry.offset
        self.last_checksum = frame.checksum(encoded)
        self.last_timestamp_ms = entry.timestamp_ms

    # -- history and role -------------------------------------------------------------------------------

    def open_mastership(self, *, raise_epoch: bool) -> None:
        """A new entry of the history at this offset: a start as master, or a promotion."""
        self._guard_history_room()
        known = self.history.epoch if self.deposed is None else max(self.history.epoch, self.deposed.epoch)
        epoch = known + 1 if raise_epoch else max(self.epoch, 1)
        self.deposed = None
        self._set_history(self.history.opened(self._new_id(), epoch, self.offset))

    def adopt_history(self, history: History) -> None:
        """Take over the master's history before following it from here."""
        if history != self.history:
            self._guard_history_room()
            self._set_history(history)

    def promote(self, role: Role = Role.MASTER) -> None:
        """Stop following and take writes, with a higher epoch.

        RequestError as of ``guard_promotion``.
        """
        self.guard_promotion()
        self.role = role
        self.master_url = None
        self.open_mastership(raise_epoch=True)

    def guard_promotion(self) -> None:
        """RequestError 409 if there is no complete data to be master of, 507 if a mastership cannot be
        recorded.
        """
        if not self.has_complete_data:
            raise RequestError(
                409, "not_ready", "this node has no complete data yet and cannot become master"
            )
        self._guard_history_room()

    def give_up_mastership(self) -> None:
        """Forget masterships of the newest epoch under which nothing was written.

        A node that was master and wrote nothing as such deposes nobody when it follows another one.
        """
        kept = list(self.history.entries)
        while kept and kept[-1].epoch == self.epoch and kept[-1].start_offset == self.offset:
            kept.pop()
        self.adopt_history(History(tuple(kept)))

    def set_limits(self, limits: NodeLimits) -> None:
        """Settings changed."""
        self.limits = limits
        self.log.set_limits(limits.log_size, limits.log_bytes_max)

    def checksum_at(self, offset: int) -> int | None:
        """Checksum of the operation at an offset, from memory; None where it is not held."""
        if offset == self.offset:
            return self.last_checksum
        held = self.log.frame_at(offset)
        return None if held is None else frame.checksum(held)

    def _guard_history_room(self) -> None:
        if not self._has_room(HISTORY_RECORD_BYTES_MAX):
            raise insufficient_storage(
                "no room on disk to record a change of the history; nothing was changed"
            )

    def _set_history(self, history: History) -> None:
        self.history = history
        self.journal.append_history(history, self.offset)

    def describe(self) -> dict[str, Any]:
        """Numbers for logs: offset, epoch, replication id."""
        return {"offset": self.offset, "epoch": self.epoch, "replication_id": self.replication_id}
