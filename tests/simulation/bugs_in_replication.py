"""Planted: mistakes in switchovers, guarantees, chains, proofs of the secret, and in who is deposed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.simulation.planted import around, plant

SWITCHOVERS = ("switchover", "switchover and crash", "switchover and cut")
CUT_SWITCHOVERS = ("switchover and crash", "switchover and cut")
CHAINS = ("chain", "switchover", "promote")
SECRETS = ("wrong secret", "new secret", "secret")

# -- switchovers ---------------------------------------------------------------------------------------------


@plant(
    "a switchover does not wait until the target has everything, and the target does not look",
    10,
    SWITCHOVERS,
)
def switchover_without_drain() -> None:
    from vectorizer.roles import Roles
    from vectorizer.switchover import Switchover

    def drain(original: Any, switchover: Any, handover: Any) -> None:
        handover.offset = switchover._database.node.offset

    around(Switchover, "_drain", drain)
    around(Roles, "_guard_take_over", lambda original, roles, offset: None)


@plant("a switchover lets writes go on", 10, SWITCHOVERS)
def switchover_holds_nothing() -> None:
    from vectorizer.database import Database

    around(Database, "hold_writes", lambda original, database, reason: database.node.fence(None))


@plant("a switchover waits for what the target has applied, durable or not", 20, SWITCHOVERS)
def switchover_drains_to_memory() -> None:
    from vectorizer.switchover import Switchover

    def drain(original: Any, switchover: Any, handover: Any) -> None:
        row = handover.row
        with _pretending(handover, "row", acked_durable=lambda: row.acked_applied):
            original(switchover, handover)

    around(Switchover, "_drain", drain)


class _Pretends:
    """A row with one number read otherwise."""

    def __init__(self, row: Any, **other: Any) -> None:
        self._row, self._other = row, other

    def __getattr__(self, name: str) -> Any:
        return self._other[name]() if name in self._other else getattr(self._row, name)


@contextmanager
def _pretending(owner: Any, name: str, **other: Any) -> Iterator[None]:
    """Meanwhile what the owner has under a name is one that pretends."""
    real = getattr(owner, name)
    setattr(owner, name, _Pretends(real, **other))
    try:
        yield
    finally:
        setattr(owner, name, real)


@plant("the promotion is sent before the old master has stored that it follows", 30, CUT_SWITCHOVERS)
def promotion_before_role() -> None:
    from vectorizer.switchover import Switchover

    def send(original: Any, switchover: Any, handover: Any) -> None:
        with _pretending(switchover, "_roles", store_role=lambda: lambda *about, **more: None):
            original(switchover, handover)

    around(Switchover, "_send", send)


@plant("an old master whose link to the target is lost takes writes again at once", 30, CUT_SWITCHOVERS)
def answer_not_awaited() -> None:
    from vectorizer.errors import not_ready
    from vectorizer.switchover import Switchover

    def await_news(original: Any, switchover: Any, handover: Any) -> None:
        raise not_ready("no answer", "target_lost")

    around(Switchover, "_await_news", await_news)


@plant("an old master that waits does not ask the target", 60, CUT_SWITCHOVERS)
def target_not_asked() -> None:
    from vectorizer.switchover import Switchover

    around(Switchover, "_is_promoted", lambda original, switchover, handover: False)


@plant("a node that takes over keeps the epoch", 10, SWITCHOVERS)
def handed_over_without_epoch() -> None:
    from vectorizer.node import Node

    def promote(original: Any, node: Any, *about: Any) -> None:
        raise_epoch = node.open_mastership
        node.open_mastership = lambda **more: raise_epoch(raise_epoch=False)
        try:
            original(node, *about)
        finally:
            del node.open_mastership

    around(Node, "promote", promote)


@plant("a switchover that is rolled back goes on holding writes", 10, SWITCHOVERS)
def writes_held_after_rollback() -> None:
    from vectorizer.switchover import Switchover

    def roll_back(original: Any, switchover: Any, handover: Any, error: Any) -> None:
        with _pretending(switchover, "_database", release_writes=lambda: lambda: None):
            original(switchover, handover, error)

    around(Switchover, "_roll_back", roll_back)


@plant("a switchover that is rolled back leaves the role of a replica stored", 30, CUT_SWITCHOVERS)
def role_not_taken_back() -> None:
    from vectorizer.switchover import Switchover

    def roll_back(original: Any, switchover: Any, handover: Any, error: Any) -> None:
        handover.stored = False
        original(switchover, handover, error)

    around(Switchover, "_roll_back", roll_back)


# -- guarantees ----------------------------------------------------------------------------------------------


@plant("a wait counts replicas that have the write in memory only")
def wait_counts_applied() -> None:
    from vectorizer.replication.progress import ReplicaTable

    around(
        ReplicaTable, "acknowledged", lambda original, table, offset: original(table, offset, durable=False)
    )


@plant("a wait counts replicas that were sent the write")
def wait_counts_sent() -> None:
    from vectorizer.replication.progress import Phase, ReplicaTable

    around(
        ReplicaTable,
        "acknowledged",
        lambda original, table, offset: sum(
            row.sent_offset >= offset for row in table if row.phase is Phase.STREAMING
        ),
    )


@plant("a wait counts a replica that is one operation behind")
def wait_off_by_one() -> None:
    from vectorizer.replication.progress import ReplicaTable

    around(ReplicaTable, "acknowledged", lambda original, table, offset: original(table, offset - 1))


@plant("a wait whose time is up counts as many replicas as were asked for")
def wait_gives_up_well() -> None:
    from vectorizer.guarantees import Guarantees

    around(
        Guarantees,
        "durable_replicas",
        lambda original, guarantees, offset, count, *more: max(
            count, original(guarantees, offset, count, *more)
        ),
    )


@plant("a replica acknowledges as durable what it has applied", 20)
def replica_acks_too_much() -> None:
    from vectorizer.replication.link import ReplicaLink

    def sign(original: Any, link: Any, now: float) -> None:
        node = link.node
        with _pretending(link, "node", durable_offset=lambda: node.offset):
            original(link, now)

    around(ReplicaLink, "_sign_of_life", sign)


@plant("a replica is taken to hold durably where it stands when it says hello")
def hello_counts_as_durable() -> None:
    from vectorizer.replication.session import MasterSession

    around(
        MasterSession,
        "_stream",
        lambda original, session, offset, durable, now_ms: original(session, offset, offset, now_ms),
    )


@plant("one replica less than min_replicas_to_write is enough")
def one_replica_less() -> None:
    from vectorizer.guarantees import Guarantees

    around(
        Guarantees,
        "_well_replicas",
        lambda original, guarantees, max_lag_secs: original(guarantees, max_lag_secs) + 1,
    )


@plant("a read with min_offset does not wait")
def min_offset_not_awaited() -> None:
    from vectorizer.guarantees import Guarantees

    around(Guarantees, "await_offset", lambda original, guarantees, *about: None)


@plant("a read with min_offset looks at the offset and not at the mastership")
def lost_branch_is_read() -> None:
    from vectorizer.guarantees import Guarantees

    around(Guarantees, "_stands", lambda original, guarantees, *about: True)


# -- chains --------------------------------------------------------------------------------------------------


@plant("a replica passes on what it could still lose", 30, CHAINS)
def chain_passes_on_too_soon() -> None:
    from vectorizer.node import Node

    Node.sendable_offset = property(  # type: ignore[assignment,method-assign]
        lambda node: node.offset if node.role == "replica" else node.durable_offset
    )


@plant("replicas of a replica do not hear that its data or history is another one", 30, CHAINS)
def chain_not_renewed() -> None:
    from vectorizer.replication.master import MasterServer

    around(MasterServer, "renew", lambda original, server: None)


@plant("nobody looks for himself among the nodes above", 20, ("chain",))
def circles_not_seen() -> None:
    from dataclasses import replace

    from vectorizer.replication import handshake

    around(
        handshake,
        "check_welcome",
        lambda original, node, welcome, force: original(node, replace(welcome, path=(), node_id=""), force),
    )


# -- the secret ----------------------------------------------------------------------------------------------


@plant("nobody looks at proofs", 20, SECRETS)
def proof_not_checked() -> None:
    from vectorizer.replication.authentication import Exchange

    around(Exchange, "_check", lambda original, exchange, given, side: None)


@plant("a hello is taken without a proof before it", 10, ("stranger", "secret"))
def hello_taken_without_proof() -> None:
    from vectorizer.replication.messages import Hello
    from vectorizer.replication.states import SESSION_LEGAL, SessionState

    SESSION_LEGAL[SessionState.GREETING][Hello] = "_hello"  # type: ignore[index]


@plant("each connection begins with the same nonce", 10, ("stranger", "secret"))
def nonce_used_twice() -> None:
    from dataclasses import replace

    from vectorizer.security import Security

    around(
        Security,
        "credentials",
        lambda original, security, channel: replace(original(security, channel), nonce=b"n" * 32),
    )


@plant("a changed secret is seen at the next start only", 20, SECRETS)
def secret_read_once() -> None:
    from vectorizer.security import Secret

    around(Secret, "__call__", lambda original, secret: secret._value)


@plant("a replica that was refused for its secret does not come again", 20, SECRETS)
def refused_for_good() -> None:
    from vectorizer.replication.link import LinkState, ReplicaLink

    def disconnected(original: Any, link: Any, reason: str, message: str, now: float) -> None:
        original(link, reason, message, now)
        if link.state is LinkState.REFUSED and link.reason == "authentication_failed":
            link.retry.at = None

    around(ReplicaLink, "disconnected", disconnected)


# -- masterships ---------------------------------------------------------------------------------------------


@plant(
    "a master that follows another one forgets its mastership, with what was written under it",
    40,
    ("promote", "promote twice"),
)
def mastership_forgotten() -> None:
    from vectorizer.node import Node
    from vectorizer.replication.history import History

    around(
        Node,
        "give_up_mastership",
        lambda original, node: node.adopt_history(History(node.history.entries[:-1])),
    )


@plant("a master that heard of a newer mastership writes on", 20, ("promote", "promote twice", "follow"))
def deposed_master_writes() -> None:
    from vectorizer.node import Node

    Node.deposed = property(lambda node: None, lambda node, deposed: None)  # type: ignore[assignment]
