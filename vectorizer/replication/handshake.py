"""Both sides of the handshake: hello, the master's answer, and what the replica checks in that answer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from vectorizer.address import Address
from vectorizer.errors import PeerError
from vectorizer.replication.history import History
from vectorizer.replication.messages import PROTOCOL, Hello, Refuse, Welcome
from vectorizer.replication.sync import Decision, Position, SyncKind, decide, fork_offset_of

if TYPE_CHECKING:
    from vectorizer.config import Settings
    from vectorizer.replication.log import ReplicationLog


class Downstream(Protocol):
    """What a link reads of its node; it changes nothing there."""

    @property
    def node_id(self) -> str: ...
    @property
    def position(self) -> Position: ...
    @property
    def history(self) -> History: ...
    @property
    def offset(self) -> int: ...
    @property
    def durable_offset(self) -> int: ...
    @property
    def has_complete_data(self) -> bool: ...


class Upstream(Downstream, Protocol):
    """What a session reads of its node; it changes nothing there."""

    @property
    def log(self) -> ReplicationLog: ...
    @property
    def sendable_offset(self) -> int: ...
    @property
    def window(self) -> tuple[int, int]: ...
    def checksum_at(self, offset: int) -> int | None: ...


@dataclass(frozen=True, slots=True)
class NeedsChecksum:
    """Memory has the operation at the replica's offset no more, the journal may: read it first."""

    offset: int


def hello(
    node: Downstream, settings: Settings, want_full: str, force: bool, rest_address: str, listens_at: Address
) -> Hello:
    """The first message of a replica.

    `want_full`: why it wants a full sync whatever its position, or ``""``.
    """
    position = node.position
    incomplete = "" if node.has_complete_data or position.offset == 0 else "incomplete_data"
    return Hello(
        protocol=PROTOCOL,
        node_id=node.node_id,
        path=(node.node_id,),
        history=position.history,
        offset=position.offset,
        checksum=position.checksum,
        frame_bytes_max=settings.limits.frame_bytes_max,
        rest_address=rest_address,
        listen_port=listens_at.port,
        listen_host=listens_at.host,
        full=want_full or incomplete,
        force=force,
    )


def examine(node: Upstream, greeting: Hello) -> Refuse | NeedsChecksum | None:
    """A refusal, or an operation to be read from the journal first, or None: decide now."""
    if greeting.protocol != PROTOCOL:
        text = f"the master speaks protocol {PROTOCOL}, the replica {greeting.protocol}"
        return Refuse("protocol_mismatch", text, {"master": PROTOCOL, "replica": greeting.protocol})
    if node.node_id in (greeting.node_id, *greeting.path):
        text = f"node {node.node_id} would replicate from itself"
        return Refuse("cycle", text, {"path": list(greeting.path)})
    if not node.has_complete_data:
        return Refuse("not_ready", f"node {node.node_id} has no complete data itself at the moment")
    first, last = node.window
    comparable = greeting.checksum is not None and first <= greeting.offset <= last
    if comparable and node.checksum_at(greeting.offset) is None:
        return NeedsChecksum(greeting.offset)
    return None


def overruled(node: Upstream, greeting: Hello) -> Refuse | None:
    """What a master says to a node that knows of a newer mastership of the same history: it is deposed.

    An operator's `force` says that this master is right all the same.
    """
    if greeting.force or greeting.history.epoch <= node.history.epoch:
        return None
    if not node.history.shares_entry(greeting.history):
        return None
    mine, yours = (
        place(node.node_id, node.history, node.offset),
        place(greeting.node_id, greeting.history, greeting.offset),
    )
    text = f"the master is deposed by a newer mastership of its history: master {mine}, replica {yours}"
    return Refuse("stale_master", text, _both(node, greeting))


def answer(node: Upstream, greeting: Hello, journal_checksum: int | None) -> Decision | Refuse:
    """The decision. `journal_checksum`: of the frame at the replica's offset, if the journal was asked."""
    held = node.checksum_at(greeting.offset)
    decision = decide(
        node.position,
        Position(greeting.history, greeting.offset, greeting.checksum),
        node.window[0],
        master_checksum=journal_checksum if held is None else held,
        full_requested=bool(greeting.full),
        force=greeting.force,
    )
    if decision.kind is not SyncKind.REFUSE:
        return decision
    mine, yours = (
        place(node.node_id, node.history, node.offset),
        place(greeting.node_id, greeting.history, greeting.offset),
    )
    text = f"{_SENTENCES.get(decision.reason, decision.reason)}: master {mine}, replica {yours}"
    details = {"fork_offset": decision.fork_offset, **_both(node, greeting)}
    return Refuse(str(decision.reason), text, details)


def _both(node: Upstream, greeting: Hello) -> dict[str, Any]:
    return {
        "master": {
            "replication_id": node.history.replication_id,
            "epoch": node.history.epoch,
            "offset": node.offset,
        },
        "replica": {
            "replication_id": greeting.history.replication_id,
            "epoch": greeting.history.epoch,
            "offset": greeting.offset,
        },
    }


@dataclass(frozen=True, slots=True)
class Above:
    """The nodes above a node: their ids, nearest first, and the REST address where writes belong.

    ``lag_ms`` is how old this node's data is against them, which makes it no other place.
    """

    path: tuple[str, ...] = ()
    writes_address: str = ""
    lag_ms: int = field(default=0, compare=False)


def welcome(
    node: Upstream, decision: Decision, settings: Settings, rest_address: str, above: Above
) -> Welcome:
    """The message that lets the replica in."""
    first, last = node.window
    return Welcome(
        protocol=PROTOCOL,
        node_id=node.node_id,
        path=(node.node_id, *above.path),
        history=node.history,
        offset=node.offset,
        epoch=node.history.epoch,
        sync="partial" if decision.kind is SyncKind.PARTIAL else "full",
        reason=str(decision.reason),
        fork_offset=decision.fork_offset,
        window_first=first,
        window_last=last,
        heartbeat_interval_secs=settings.replication.heartbeat_interval_secs,
        frame_bytes_max=settings.limits.frame_bytes_max,
        rest_address=rest_address,
        writes_address=above.writes_address,
    )


def check_welcome(node: Downstream, welcome: Welcome, force: bool) -> None:
    """Raise PeerError for a master that this replica must not follow, whatever that master decided."""
    held = node.offset > 0
    if welcome.protocol != PROTOCOL:
        text = f"the master speaks protocol {welcome.protocol}, the replica {PROTOCOL}"
        raise PeerError("protocol_mismatch", text)
    if node.node_id in (welcome.node_id, *welcome.path):
        raise PeerError(
            "cycle", f"node {node.node_id} would replicate from itself, through {welcome.node_id}"
        )
    mine = place(node.node_id, node.history, node.offset)
    both = f"master {place(welcome.node_id, welcome.history, welcome.offset)}, replica {mine}"
    if held and not force:
        if not node.history.shares_entry(welcome.history):
            raise PeerError("foreign_history", f"{_SENTENCES['foreign_history']}: {both}")
        newest = node.history.entry_at(node.offset)
        if newest is not None and newest.epoch > welcome.history.epoch:
            raise PeerError("stale_master", f"{_SENTENCES['stale_master']}: {both}")
    if welcome.sync == "partial" and held:
        fork = fork_offset_of(Position(welcome.history, welcome.offset), node.position)
        if fork != node.offset:
            raise PeerError(
                "bad_welcome", f"a partial sync from {node.offset}, but the histories part at {fork}: {both}"
            )


def place(node_id: str, history: History, offset: int) -> str:
    """Where a node stands, for people."""
    return f"{node_id} ({history.replication_id or 'no history'}, epoch {history.epoch}, offset {offset})"


_SENTENCES = {
    "foreign_history": "the two nodes' data have no common origin; only `follow` with `force` replaces it",
    "two_masters": "both nodes took writes as masters of one epoch; an operator must choose with `force`",
    "stale_master": "the replica has operations of a newer mastership than this master's",
    "no_history": "this node holds no complete data itself",
}
