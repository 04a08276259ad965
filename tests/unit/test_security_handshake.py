"""The proof of the replication secret: the two machines with each other, with forgers, and on sockets."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.pair import Pair, TwinNode
from tests.unit.running import Peer, wait_until
from tests.unit.served import Served
from vectorizer import logs
from vectorizer.errors import ConfigurationError
from vectorizer.replication.authentication import CODE, Credentials, proof
from vectorizer.replication.link import ReplicaLink
from vectorizer.replication.messages import (
    PROTOCOL,
    Challenge,
    Goodbye,
    Greet,
    Hello,
    Message,
    Proof,
    Refuse,
    Welcome,
)
from vectorizer.replication.session import MasterSession
from vectorizer.replication.states import LinkState, SessionState

Serve = Callable[..., Served]
SECRET, OTHER = b"a secret that is shared", b"a secret of somebody else"
R_NONCE, M_NONCE = b"r" * 32, b"m" * 32


REPLICA, MASTER = Credentials(SECRET, R_NONCE), Credentials(SECRET, M_NONCE)


def pair(replica: Credentials = REPLICA, master: Credentials = MASTER) -> tuple[ReplicaLink, MasterSession]:
    """Both ends of a new connection."""
    twins = Pair(TwinNode("m").lead("A").commit(3), TwinNode("r")).connect()
    assert twins.session is not None
    link, session = twins.link, twins.session
    session.credentials = master
    session.__post_init__()
    link.connected(twins.now, replica)
    return link, session


def said(side: ReplicaLink | MasterSession) -> list[Message]:
    return [
        item.message
        for item in side.ready(1000.0, 0)
        if hasattr(item, "message") and hasattr(item.message, "KIND")
    ]


def talk(
    link: ReplicaLink, session: MasterSession, change: Callable[[Message], Message] = lambda m: m
) -> list[str]:
    """Carry what both say until both are silent; ``change`` is somebody in between."""
    kinds = []
    for _ in range(20):
        moved = False
        for source, target in ((link, session), (session, link)):
            for message in said(source):
                moved = True
                kinds.append(message.KIND)
                target.receive(change(message), 1000.0, 0)
                link.work()
        if not moved:
            return kinds
    raise AssertionError("they never fall silent")


def test_both_prove_and_then_the_handshake_goes_on() -> None:
    link, session = pair()
    assert talk(link, session)[:6] == ["greet", "challenge", "proof", "proof", "hello", "welcome"]
    assert link.connected_now and session.progress is not None


def test_without_a_secret_nothing_changes() -> None:
    link, session = pair(Credentials(), Credentials())
    assert talk(link, session)[:2] == ["hello", "welcome"]


@pytest.mark.parametrize(
    ("replica", "master", "kinds"),
    [
        (
            Credentials(OTHER, R_NONCE),
            Credentials(SECRET, M_NONCE),
            ["greet", "challenge", "proof", "refuse"],
        ),
        (Credentials(), Credentials(SECRET, M_NONCE), ["hello", "refuse"]),
        (Credentials(SECRET, R_NONCE), Credentials(), ["greet", "refuse"]),
        (
            Credentials(SECRET, R_NONCE, b"one certificate"),
            Credentials(SECRET, M_NONCE, b"another"),
            ["greet", "challenge", "proof", "refuse"],
        ),
    ],
    ids=["another secret", "replica has none", "master has none", "another channel"],
)
def test_both_sides_say_why_there_is_no_link(
    replica: Credentials, master: Credentials, kinds: list[str]
) -> None:
    link, session = pair(replica, master)
    assert talk(link, session) == kinds
    assert session.state is SessionState.CLOSED and session.close_reason == CODE
    assert session.table.totals.refusals == {CODE: 1}
    link.disconnected("connection_lost", "", 1000.0)
    assert (link.state, link.reason) == (LinkState.REFUSED, CODE)
    assert link.totals.refusals == {CODE: 1}
    assert link.retry.at is not None, "it comes again"
    assert session.hello is None and session.progress is None


def test_a_master_without_the_secret_hears_no_hello() -> None:
    link, _ = pair()
    [greet] = said(link)
    assert isinstance(greet, Greet) and greet.nonce == R_NONCE
    link.receive(Challenge("m", M_NONCE), 1000.0, 0)
    [mine] = said(link)
    assert isinstance(mine, Proof)
    link.receive(mine, 1000.0, 0)  # the proof reflected
    [refusal] = said(link)
    assert isinstance(refusal, Refuse) and refusal.reason == CODE
    link.disconnected("connection_lost", "", 1000.0)
    assert link.state is LinkState.REFUSED


def test_a_welcome_before_the_proof_is_illegal() -> None:
    for state in (LinkState.GREETING, LinkState.PROVING):
        link, session = pair()
        said(link)
        if state is LinkState.PROVING:
            link.receive(Challenge("m", M_NONCE), 1000.0, 0)
        assert link.state is state
        welcome = Welcome(
            PROTOCOL, "m", ("m",), session.node.history, 3, 1, "full", "x", 0, 1, 3, 1, 1 << 20, ""
        )
        link.receive(welcome, 1000.0, 0)
        assert link.reason == "illegal_message"


def test_a_stranger_cannot_make_the_replica_want_a_full_sync() -> None:
    link, _ = pair()
    link.receive(Goodbye("operation_too_large", ""), 1000.0, 0)
    assert link.failures.want_full == ""


@pytest.mark.parametrize("field", ["node_id", "nonce", "mac"])
@pytest.mark.parametrize("kind", [Greet, Challenge, Proof, Hello, Welcome])
def test_whoever_changes_a_word_in_between_is_found_out(kind: type[Message], field: str) -> None:
    if field not in {item.name for item in dataclasses.fields(kind)}:
        return

    def change(message: Message) -> Message:
        if not isinstance(message, kind):
            return message
        value = getattr(message, field)
        forged = "x" if field == "node_id" else bytes([value[0] ^ 1]) + value[1:]
        return dataclasses.replace(message, **{field: forged})

    link, session = pair()
    talk(link, session, change)
    assert session.close_reason == CODE or link.reason == CODE
    assert link.state is not LinkState.STREAMING


def test_a_proof_is_good_for_one_exchange_and_one_side() -> None:
    greet, challenge = Greet(PROTOCOL, "r", R_NONCE), Challenge("m", M_NONCE)
    mine = Credentials(SECRET, R_NONCE)
    proofs = {
        proof(mine, "replica", greet, challenge).mac,
        proof(mine, "master", greet, challenge).mac,
        proof(Credentials(OTHER), "replica", greet, challenge).mac,
        proof(mine, "replica", Greet(PROTOCOL, "r", M_NONCE), challenge).mac,
        proof(mine, "replica", greet, Challenge("m", R_NONCE)).mac,
        proof(mine, "replica", Greet(PROTOCOL, "rm", R_NONCE), challenge).mac,
        proof(mine, "replica", greet, Challenge("mm", M_NONCE)).mac,
        proof(Credentials(SECRET, R_NONCE, b"c"), "replica", greet, challenge).mac,
    }
    assert len(proofs) == 8
    assert all(len(mac) == 32 and SECRET not in mac for mac in proofs)


def test_the_document_describes_the_bytes() -> None:
    """As docs/PROTOCOL.md draws them."""
    import hmac

    transcript = b"\x00\x18vectorizer replication 1\x00\x07replica\x00\x01r\x00\x20" + R_NONCE
    transcript += b"\x00\x01m\x00\x20" + M_NONCE + b"\x00\x00"
    expected = hmac.digest(SECRET, transcript, "sha256")
    given = proof(Credentials(SECRET), "replica", Greet(PROTOCOL, "r", R_NONCE), Challenge("m", M_NONCE))
    assert given.mac == expected


# -- on sockets --------------------------------------------------------------------------------------------


def test_a_wrong_secret_keeps_the_link_down_and_a_corrected_file_brings_it_up(
    serve: Serve, tmp_path: Path
) -> None:
    right, wrong = tmp_path / "right", tmp_path / "wrong"
    right.write_bytes(SECRET), wrong.write_bytes(OTHER)
    where = {"replication__role": "master", "replication__bind_address": "127.0.0.1:0"}
    master = serve("one", **where, security__replication_secret_file=str(right))
    master.create()
    master.put(1, 2, 3)
    stream = io.StringIO()
    logs.configure("info", "text", stream)
    try:
        replica = serve(
            "two",
            replication__role="replica",
            replication__master_address=master.address,
            security__replication_secret_file=str(wrong),
        )
        wait_until(lambda: (replica.status()["link"]["last_error"] or {}).get("reason") == CODE)
        wait_until(lambda: "replica_refused" in stream.getvalue() and "link_down" in stream.getvalue())
    finally:
        logs.configure("info", "text")
    assert f"reason={CODE}" in stream.getvalue()
    assert SECRET.decode() not in stream.getvalue() and OTHER.decode() not in stream.getvalue()
    assert replica.status()["link"]["state"] == "refused"
    assert replica.server.database.node.offset == 0
    assert master.told("GET", "/replication/replicas")["count"] == 0
    wrong.write_bytes(SECRET + b"\n")
    replica.follows(master)


def test_a_plain_peer_gets_nothing_from_a_master_with_a_secret(serve: Serve) -> None:
    where = {"replication__role": "master", "replication__bind_address": "127.0.0.1:0"}
    master = serve("one", **where, security__replication_secret=SECRET.decode())
    peer = Peer(master.address)
    peer.say(Hello(PROTOCOL, "x", ("x",), master.server.database.node.history, 0, None, 1 << 20, "", 0))
    answer = peer.hear()
    assert isinstance(answer, Refuse) and answer.reason == CODE
    assert master.server.database.node.node_id not in answer.message
    assert peer.ended()
    peer.close()


def test_a_stranger_who_comes_again_and_again_does_not_fill_the_log(serve: Serve) -> None:
    where = {"replication__role": "master", "replication__bind_address": "127.0.0.1:0"}
    master = serve("one", **where, security__replication_secret=SECRET.decode())
    stream = io.StringIO()
    logs.configure("info", "text", stream)
    try:
        for _ in range(9):
            peer = Peer(master.address)
            peer.say(Greet(PROTOCOL, "x", R_NONCE))
            peer.say(Proof(bytes(32)))
            assert peer.hear_a(Refuse).reason == CODE
            assert peer.ended()
            peer.close()
    finally:
        logs.configure("info", "text")
    assert stream.getvalue().count("replica_refused") == 4


def test_require_auth_does_not_let_replicas_in_from_elsewhere_without_a_secret(serve: Serve) -> None:
    far = {"replication__role": "master", "replication__bind_address": "0.0.0.0:0"}
    with pytest.raises(ConfigurationError, match="no replication secret"):
        serve("one", **far, security__require_auth=True)
    node = serve("two")
    node.server.security._required = True
    status, body = node.configure(role="master", bind_address="0.0.0.0:0")
    assert (status, body["details"]["key"]) == (400, "security.require_auth")
    assert node.status()["role"] == "Standalone"
    assert node.configure(role="master", bind_address="127.0.0.1:0")[0] == 200
