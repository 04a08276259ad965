"""Planned switchover: the master hands its mastership to a replica that has everything.

The steps, on the master; each may be cut:

1. *draining*: hold writes, make what was written durable, wait for the target to have it durably.
2. Store the role of a replica of the target. From here on a crash of this node finds a replica.
3. *promoting*: send the promotion over the target's link, wait for its last word.
4. *waiting*, if the link is lost before that: stay read-only and ask, until the target comes back as a
   replica (it was not promoted, and will not be), or is found to be the master.
5. *following*: tell the other replicas, become a replica of the target, let the held writes hear of it.

Until step 3 and on a refusal everything is put back. At no time do two nodes take writes: this one takes none
from step 1 on, and the target none before it is promoted.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import gevent
from gevent.event import AsyncResult

from vectorizer import logs
from vectorizer.errors import PeerError, RequestError, conflict, not_ready
from vectorizer.node import NodeFailure, Role
from vectorizer.replication import messages
from vectorizer.replication.progress import Progress
from vectorizer.replication.states import SessionState

if TYPE_CHECKING:
    from vectorizer.config import Settings
    from vectorizer.database import Database
    from vectorizer.replication.history import History
    from vectorizer.replication.master import MasterServer, ReplicaLine
    from vectorizer.roles import Roles

Greenlet = Any
LOOK_SECS = 0.25
"""How often the target is asked while its answer is missing."""
REPOINT_SECS = 3.0
"""So long the other replicas may take to leave; one that does not goes on following this node."""
ANSWER_SECS = 5.0
"""So long the request waits for the outcome once the promotion is sent; it goes on without it."""
RETRY_SECS = 1.0
STOP_SECS = 5.0

log = logs.get(__name__)


class Step(StrEnum):
    """How far a switchover is."""

    DRAINING = "draining"
    PROMOTING = "promoting"
    WAITING = "waiting"
    FOLLOWING = "following"


@dataclass(slots=True)
class Handover:
    """One switchover."""

    line: ReplicaLine
    row: Progress
    before: Settings
    after: Settings
    started_at: float
    deadline: float
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    step: Step = Step.DRAINING
    offset: int = 0
    stored: bool = False
    aborted: bool = False
    repointed: int = 0
    message: str = ""
    outcome: AsyncResult[RequestError | None] = field(default_factory=AsyncResult)
    greenlet: Greenlet = None

    def target_url(self, scheme: str) -> str | None:
        """Where clients reach the target."""
        return f"{scheme}://{self.row.rest_address}" if self.row.rest_address else None


class Switchover:
    """Of one node: at most one at a time."""

    def __init__(self, database: Database, roles: Roles) -> None:
        self._database = database
        self._roles = roles
        self._current: Handover | None = None
        self._last: dict[str, Any] | None = None

    # -- what operators ask ----------------------------------------------------------------------------------

    def run(self, target: str | None, timeout_ms: int) -> dict[str, Any]:
        """Hand the mastership over; how it went. RequestError says why not, and what holds now."""
        now = time.monotonic()
        with self._roles.lock:
            self._guard_start()
            line = self._choose(target)
            row = line.session.progress
            assert row is not None
            after = self._roles.settings_following(row.listens_at)
            handover = Handover(line, row, self._roles.settings, after, now, now + timeout_ms / 1000)
            self._current = handover
            self._database.hold_writes("a switchover is under way")
        log.info("switchover_started", switchover=handover.id, **self._target(handover))
        self._spawn(handover, self._run)
        handover.outcome.wait(max(0.0, handover.deadline - now) + ANSWER_SECS)
        if not handover.outcome.ready():
            raise not_ready(
                f"the promotion was sent to {row.node_id}, its answer is missing: this node stays read-only "
                "and asks until it knows",
                "switchover_waiting",
            )
        error = handover.outcome.get()
        if error is not None:
            raise error
        node = self._database.node
        return {
            "success": True,
            "switchover": handover.id,
            "offset": handover.offset,
            "held_ms": round((time.monotonic() - handover.started_at) * 1000),
            "master": self._target(handover),
            "repointed": handover.repointed,
            "message": f"{row.node_id} is the master; this node follows it from offset {node.offset}",
        }

    def abort(self) -> dict[str, Any]:
        """End a switchover whose promotion was not sent yet. 409 if there is none, or it is too late."""
        handover = self._current
        if handover is None:
            raise conflict("no switchover is under way", "no_switchover")
        if handover.step is not Step.DRAINING:
            raise conflict(
                f"the promotion was sent to {handover.row.node_id}: only the answer, or finding out, ends it",
                "too_late",
                step=str(handover.step),
            )
        handover.aborted = True
        self._wake()
        handover.outcome.wait(STOP_SECS)
        if not handover.outcome.ready():
            raise not_ready(
                f"the abort is noted, but not done yet: {handover.message}", "switchover_aborting"
            )
        return {"success": True, "switchover": handover.id, "message": "aborted; this node is the master"}

    def document(self) -> dict[str, Any]:
        """As status shows it: the one under way, and the last one."""
        handover = self._current
        current = None
        if handover is not None:
            current = {
                "id": handover.id,
                "step": str(handover.step),
                "target": self._target(handover),
                "offset": handover.offset,
                "target_durable_offset": handover.row.acked_durable,
                "held_ms": round((time.monotonic() - handover.started_at) * 1000),
                "message": handover.message,
            }
        return {"current": current, "last": self._last}

    # -- what roles ask --------------------------------------------------------------------------------------

    @contextmanager
    def role_changes(self, takes_back: bool) -> Iterator[None]:
        """While an operator changes role or settings: RequestError 409 if a switchover is under way. By force
        the waiting may be ended; it goes on if that change fails.
        """
        handover = self._current
        if handover is None:
            yield
            return
        if not takes_back or handover.step is not Step.WAITING:
            raise conflict("a switchover is under way", "switchover_under_way", step=str(handover.step))
        handover.greenlet.kill()
        try:
            yield
        except BaseException:
            self._spawn(handover, self._find_out)
            raise
        self._end(handover, conflict("an operator took the mastership back", "taken_back"))

    def stop(self) -> None:
        """This process ends: what was not sent is taken back, what was sent is found out after a restart."""
        handover = self._current
        if handover is None:
            return
        handover.aborted = True
        self._wake()
        handover.greenlet.join(STOP_SECS if handover.step is Step.DRAINING else 0.0)
        handover.greenlet.kill()

    # -- the procedure ---------------------------------------------------------------------------------------

    def _spawn(self, handover: Handover, procedure: Callable[[Handover], None]) -> None:
        handover.greenlet = gevent.spawn(procedure, handover)
        handover.greenlet.link_exception(self._died)

    def _run(self, handover: Handover) -> None:
        try:
            self._drain(handover)
            self._send(handover)
        except RequestError as error:
            self._roll_back(handover, error)
        else:
            self._find_out(handover)

    def _find_out(self, handover: Handover) -> None:
        """The promotion is sent: follow the target, or go on as the master, once it is known."""
        try:
            self._learn(handover)
        except RequestError as error:
            self._roll_back(handover, error)
        else:
            self._follow(handover)

    def _drain(self, handover: Handover) -> None:
        """Return when the target has everything durably; RequestError if it will not in time."""
        node = self._database.node
        self._database.flush()
        handover.offset = node.offset
        while True:
            _guard_going_on(handover)
            row, reached = handover.row, handover.row.acked_durable
            if reached >= handover.offset:
                return
            left = handover.deadline - time.monotonic()
            if left <= 0:
                raise RequestError(
                    503,
                    "switchover_timeout",
                    f"{row.node_id} holds offset {reached} durably, not {handover.offset}, when the time was "
                    "up; this node is the master",
                    {"offset": handover.offset, "target_durable_offset": reached},
                    {"Retry-After": "1"},
                )
            self._wait(min(left, LOOK_SECS))

    def _send(self, handover: Handover) -> None:
        """Store that this node follows, then send the promotion. RequestError: nothing was sent."""
        handover.stored = True
        self._roles.store_role(handover.after, follows=True)
        _guard_going_on(handover)
        handover.step = Step.PROMOTING
        handover.line.promote(handover.id, handover.offset)
        log.info("promotion_sent", switchover=handover.id, offset=handover.offset)

    def _learn(self, handover: Handover) -> None:
        """Return when the target is the master; RequestError if it is not, and will not be by this."""
        while True:
            answer = handover.line.session.answer
            if isinstance(answer, messages.Promoted) and self._is_newer(answer.history):
                return
            if isinstance(answer, messages.Declined):
                text = f"{handover.row.node_id} declined: {answer.message}; this node is the master"
                raise conflict(text, "switchover_declined", reason=answer.reason)
            if answer is not None or handover.line not in self._master.lines:
                self._await_news(handover)
                if self._came_back(handover):
                    text = f"{handover.row.node_id} came back as a replica, it was not promoted"
                    raise not_ready(f"{text}; this node is the master", "target_lost")
                if self._is_promoted(handover):
                    return
            self._wait(LOOK_SECS)

    def _await_news(self, handover: Handover) -> None:
        if handover.step is Step.WAITING:
            return
        handover.step = Step.WAITING
        handover.message = "the target's answer is missing; this node stays read-only until it knows"
        log.warning("switchover_waiting", switchover=handover.id, **self._target(handover))

    def _roll_back(self, handover: Handover, error: RequestError) -> None:
        while handover.stored:
            try:
                self._roles.store_role(handover.before, follows=False)
                handover.stored = False
            except RequestError as trouble:
                handover.message = f"the role of a master cannot be stored: {trouble}"
                log.warning("switchover_not_rolled_back", reason=str(trouble), retry_secs=RETRY_SECS)
                gevent.sleep(RETRY_SECS)
        self._database.release_writes()
        log.warning("switchover_rolled_back", switchover=handover.id, reason=str(error))
        self._end(handover, error)

    def _follow(self, handover: Handover) -> None:
        handover.step = Step.FOLLOWING
        self._repoint(handover)
        while self._database.node.role is not Role.REPLICA:
            try:
                self._roles.follow_successor(
                    handover.after, handover.target_url(self._roles.settings.rest_scheme)
                )
            except RequestError as trouble:
                handover.message = f"the role of a replica cannot be stored: {trouble}"
                log.warning("switchover_not_finished", reason=str(trouble), retry_secs=RETRY_SECS)
                gevent.sleep(RETRY_SECS)
        self._database.release_writes()
        log.info("switchover_finished", switchover=handover.id, repointed=handover.repointed)
        self._end(handover, None)

    def _repoint(self, handover: Handover) -> None:
        """Tell the other replicas, and wait until they have left. They find this node's successor anyway."""
        master = self._master
        others = [line for line in master.lines if line.session.state is SessionState.STREAMING]
        for line in others:
            line.repoint(handover.row.listens_at)
        deadline = time.monotonic() + REPOINT_SECS
        while (left := deadline - time.monotonic()) > 0 and not master.lines.isdisjoint(others):
            self._wait(min(left, LOOK_SECS))
        handover.repointed = len(others) - len(master.lines.intersection(others))

    def _end(self, handover: Handover, error: RequestError | None) -> None:
        self._current = None
        self._last = {
            "id": handover.id,
            "target": self._target(handover),
            "offset": handover.offset,
            "held_ms": round((time.monotonic() - handover.started_at) * 1000),
            "success": error is None,
            "message": "" if error is None else str(error),
        }
        handover.outcome.set(error)

    # -- small questions -------------------------------------------------------------------------------------

    @property
    def _master(self) -> MasterServer:
        master = self._roles.master
        assert master is not None, "nobody changes roles during a switchover"
        return master

    def _guard_start(self) -> None:
        node = self._database.node
        if node.role is not Role.MASTER or self._roles.master is None:
            raise conflict(f"only a master hands over; this node is a {node.role.value}", "not_a_master")
        if self._current is not None:
            raise conflict("a switchover is under way already", "switchover_under_way")
        node.guard_writable()

    def _choose(self, target: str | None) -> ReplicaLine:
        """The replica to be promoted; RequestError 409 if there is none that could be."""
        known: list[tuple[Progress, ReplicaLine]] = []
        refused: dict[str, str] = {}
        for line in self._master.lines:
            row = line.session.progress
            if row is None or (target is not None and not _is_named(row, target)):
                continue
            if line.session.state is not SessionState.STREAMING:
                refused[row.node_id] = f"its link is {line.session.state}, not streaming"
            elif not row.listens_at:
                refused[row.node_id] = (
                    "it takes no replicas: its replication.bind_address is not set, or in use"
                )
            else:
                known.append((row, line))
        if known:
            return max(known, key=lambda item: (item[0].acked_durable, item[0].node_id))[1]
        which = "no replica" if target is None else f"replica {target}"
        why = "; ".join(f"{node_id}: {reason}" for node_id, reason in refused.items())
        raise conflict(
            f"{which} can become the master ({why or 'none is connected'})", "no_target", refused=refused
        )

    def _is_newer(self, history: History) -> bool:
        """Whether this is a mastership that came after ours."""
        mine = self._database.node.history
        return history.shares_entry(mine) and history.epoch > mine.epoch

    def _came_back(self, handover: Handover) -> bool:
        """Whether the target said hello again without a newer mastership: its old link is at its end."""
        old = handover.line.session
        for session in (line.session for line in self._master.lines):
            hello = session.hello
            later = session.opened_at > old.opened_at
            if hello is not None and later and hello.node_id == handover.row.node_id:
                return hello.history.epoch <= self._database.node.epoch
        return False

    def _is_promoted(self, handover: Handover) -> bool:
        """Ask the target, as a replica would."""
        try:
            history = self._roles.history_at(handover.row.listens_at)
        except PeerError as error:
            handover.message = f"{handover.row.listens_at} gives no answer: {error}"
            return False
        return history is not None and self._is_newer(history)

    def _target(self, handover: Handover) -> dict[str, Any]:
        row = handover.row
        return {
            "node_id": row.node_id,
            "rest_address": row.rest_address,
            "replication_address": row.listens_at,
        }

    def _wait(self, seconds: float) -> None:
        """Until a replica has said something or left, or the time is up."""
        heard = self._master.acknowledged
        heard.clear()
        heard.wait(seconds)

    def _wake(self) -> None:
        if self._roles.master is not None:
            self._roles.master.acknowledged.set()

    def _died(self, greenlet: Greenlet) -> None:
        self._database.fail(NodeFailure(f"the switchover has ended: {greenlet.exception!r}"))


def _guard_going_on(handover: Handover) -> None:
    if handover.aborted:
        raise conflict("the switchover was aborted; this node is the master", "switchover_aborted")
    if handover.line.session.state is not SessionState.STREAMING:
        who = handover.row.node_id
        raise not_ready(f"the link of {who} was lost; this node is the master", "target_lost")


def _is_named(row: Progress, target: str) -> bool:
    bare = target.removeprefix("http://").removeprefix("https://").rstrip("/")
    return bare in (row.node_id, row.rest_address, row.listens_at)
