"""How safe a write must be, and how fresh a read: what clients may ask for beyond the defaults.

Nothing here polls. Whoever waits for replicas is woken by their acknowledgements, whoever waits for an offset
by the operations that are applied. A wait that is too long changes only the answer: the write stays
committed.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from vectorizer.errors import RequestError, not_ready
from vectorizer.node import Role
from vectorizer.replication.progress import Phase, Progress
from vectorizer.replication.states import LinkState

if TYPE_CHECKING:
    from vectorizer.database import Database


class Guarantees:
    """What a node can promise about one write or one read."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # -- writes ---------------------------------------------------------------------------------------------

    def guard_replicas(self) -> None:
        """RequestError 503 ``not_enough_replicas`` if too few replicas are well to take writes."""
        replication = self._database.settings.replication
        needed = replication.min_replicas_to_write
        if needed == 0:
            return
        well = self._well_replicas(replication.min_replicas_max_lag_secs)
        if well < needed:
            raise RequestError(
                503,
                "not_enough_replicas",
                f"{well} replicas are connected and at most {replication.min_replicas_max_lag_secs:g} s "
                f"behind, {needed} are needed to write (replication.min_replicas_to_write)",
                {"replicas": well, "min_replicas_to_write": needed},
                {"Retry-After": "1"},
            )

    def durable_replicas(
        self, offset: int, count: int, timeout_ms: int, replication_id: str | None = None
    ) -> int:
        """Wait until ``count`` replicas hold an operation durably, or the time is up; how many do.

        Those whose links are gone meanwhile count. A node that is a master no longer does not wait. With the
        id of its mastership, 0 once this node itself has given it up for another history: what replicas have
        at that offset then is another operation.
        """
        node = self._database.node
        deadline, was_replica, reached = time.monotonic() + timeout_ms / 1000, node.role is Role.REPLICA, 0
        while self._holds(offset, replication_id):
            master = None if self._database.roles is None else self._database.roles.master
            if master is None or (node.role is Role.REPLICA and not was_replica):
                return reached
            reached = max(reached, master.table.acknowledged(offset))
            left = deadline - time.monotonic()
            if reached >= count or left <= 0:
                return reached
            master.acknowledged.clear()
            master.acknowledged.wait(left)
        return 0

    def _well_replicas(self, max_lag_secs: float) -> int:
        roles = self._database.roles
        if roles is None or roles.master is None:
            return 0
        now = time.monotonic()
        return sum(self._is_well(row, max_lag_secs, now) for row in roles.master.table)

    def _holds(self, offset: int, replication_id: str | None) -> bool:
        if replication_id is None:
            return True
        node = self._database.node
        for index, entry in enumerate(node.history.entries):
            if entry.replication_id == replication_id:
                return node.history.end_of(index, node.offset) >= offset
        return False

    def _is_well(self, row: Progress, max_lag_secs: float, now: float) -> bool:
        node = self._database.node
        if row.phase is not Phase.STREAMING or now - row.last_heard_at > max_lag_secs:
            return False
        if row.acked_applied < node.offset and not self._knows_age(row.acked_applied + 1):
            return False
        return row.lag_ms(node.offset, node.log, now) <= max_lag_secs * 1000

    def _knows_age(self, offset: int) -> bool:
        """Whether it is known when an operation was committed: not if it was read from disk at the start, nor
        if memory holds it no more.
        """
        log = self._database.node.log
        return offset >= log.first_offset and log.committed_at(offset) is not None

    # -- reads ----------------------------------------------------------------------------------------------

    def await_offset(self, offset: int, replication_id: str | None, timeout_ms: int) -> None:
        """Wait until the write that was answered with this offset (and id) can be read here.

        RequestError 412: ``lost_branch`` at once if that write was overruled by a newer mastership,
        ``offset_not_reached`` when the time is up.
        """
        database = self._database
        deadline = time.monotonic() + timeout_ms / 1000
        while True:
            stands = replication_id is None or self._stands(offset, replication_id)
            if stands and database.node.offset >= offset:
                return
            left = deadline - time.monotonic()
            if left <= 0:
                raise RequestError(
                    412,
                    "offset_not_reached",
                    f"this node is at offset {database.node.offset}, {offset} was asked for and did not come "
                    f"within {timeout_ms} ms",
                    {"offset": database.node.offset, "min_offset": offset},
                )
            database.wait_applied(left)

    def guard_lag(self, max_lag_ms: int) -> None:
        """RequestError 503 ``too_stale`` if this node's data is older than that."""
        roles = self._database.roles
        if roles is None or roles.replica is None:
            return
        lag_ms = roles.replica.link.lag_ms(time.monotonic())
        if lag_ms > max_lag_ms:
            error = not_ready(
                f"this replica is {lag_ms} ms behind its master, {max_lag_ms} ms were accepted", "too_stale"
            )
            error.details.update(lag_ms=lag_ms, max_lag_ms=max_lag_ms)
            raise error

    def _stands(self, offset: int, replication_id: str) -> bool:
        """Whether the mastership of a write stands at its offset; False if this node cannot know that yet.

        RequestError 412 ``lost_branch`` if it does not.
        """
        history = self._database.node.history
        for index, entry in enumerate(history.entries):
            if entry.replication_id == replication_id:
                following = history.entries[index + 1 : index + 2]
                if following and following[0].start_offset < offset:
                    raise _lost(offset, replication_id, following[0].start_offset)
                return True
        if history.entries and offset <= history.entries[0].start_offset:
            return True  # so long ago that the history has forgotten the mastership
        if self._knows_all_masterships():
            raise _lost(offset, replication_id, None)
        return False

    def _knows_all_masterships(self) -> bool:
        """A master decides what the history is; a replica on a living link has been told all of it."""
        roles = self._database.roles
        if roles is None or roles.replica is None:
            return True
        return roles.replica.link.state is LinkState.STREAMING


def _lost(offset: int, replication_id: str, end: int | None) -> RequestError:
    where = "is not part of this node's history" if end is None else f"ended at offset {end}"
    return RequestError(
        412,
        "lost_branch",
        f"the write at offset {offset} of mastership {replication_id} is lost: that mastership {where}",
        {"offset": offset, "replication_id": replication_id},
    )
