"""Proof that both ends of a link hold one secret, without sending it.

The replica says who it is and draws a nonce, the master does the same, and each side sends the HMAC-SHA256 of
the whole exchange under the secret. What is bound into it, and what that is good for:

- the side (replica or master): a proof cannot be reflected to the one who made it;
- both nonces, new with each connection: a proof of another connection proves nothing;
- both node ids: an authenticated node speaks for itself only; hello and welcome must name the same ids;
- the channel: with TLS the fingerprint of the master's certificate, so that nobody can stand in between and
  hand the proofs on. Without TLS the proof holds for the handshake and nothing protects what follows.

The replica proves first: who merely connects to a master gets nothing from it to try secrets on.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from typing import Literal

from vectorizer.errors import PeerError
from vectorizer.replication.messages import PROTOCOL, Challenge, Greet, Hello, Proof, Welcome

CODE = "authentication_failed"
_CONTEXT = b"vectorizer replication 1"

Side = Literal["replica", "master"]


@dataclass(frozen=True, slots=True)
class Credentials:
    """What one side brings to one connection. No ``secret`` = nothing is asked and nothing can be proved."""

    secret: bytes = b""
    nonce: bytes = b""
    channel: bytes = b""


NOTHING = Credentials()


def proof(credentials: Credentials, side: Side, greet: Greet, challenge: Challenge) -> Proof:
    """The proof that ``side`` sends after this exchange."""
    parts = (
        _CONTEXT,
        side.encode(),
        greet.node_id.encode(),
        greet.nonce,
        challenge.node_id.encode(),
        challenge.nonce,
        credentials.channel,
    )
    # Each part behind its length, so that no other parts give the same bytes.
    transcript = b"".join(len(part).to_bytes(2, "big") + part for part in parts)
    return Proof(hmac.digest(credentials.secret, transcript, hashlib.sha256))


def mismatch(message: Hello | Greet) -> PeerError:
    """One side has a secret and the other has none, or has proved it already."""
    if isinstance(message, Hello):
        return PeerError(
            CODE, "this master wants proof of the replication secret, and the replica gives none"
        )
    return PeerError(CODE, "the replica wants proof of the replication secret, and this master gives none")


@dataclass(slots=True)
class Exchange:
    """One side's view of one exchange; without a secret it never begins, and anybody is who he says he is."""

    credentials: Credentials
    node_id: str  # own
    _greet: Greet | None = None
    _challenge: Challenge | None = None

    # -- the replica's side ------------------------------------------------------------------------------

    def greet(self) -> Greet:
        """The first word."""
        self._greet = Greet(PROTOCOL, self.node_id, self.credentials.nonce)
        return self._greet

    def challenged(self, challenge: Challenge) -> Proof:
        """The master's answer came: prove."""
        assert self._greet is not None
        self._challenge = challenge
        return proof(self.credentials, "replica", self._greet, challenge)

    def check_master(self, given: Proof) -> None:
        """PeerError if the master has not proved that it holds the secret."""
        self._check(given, "master")

    def check_welcome(self, welcome: Welcome) -> None:
        """PeerError if it is not the master that has proved itself."""
        if self._challenge is not None and self._challenge.node_id != welcome.node_id:
            raise PeerError(CODE, f"{self._challenge.node_id} has proved itself, not {welcome.node_id}")

    # -- the master's side -------------------------------------------------------------------------------

    def greeted(self, greet: Greet) -> Challenge:
        """A replica introduces itself: let it prove."""
        self._greet = greet
        self._challenge = Challenge(self.node_id, self.credentials.nonce)
        return self._challenge

    def answer(self, given: Proof) -> Proof:
        """The own proof in answer to the replica's; PeerError if that is none."""
        self._check(given, "replica")
        assert self._greet is not None and self._challenge is not None
        return proof(self.credentials, "master", self._greet, self._challenge)

    def check_hello(self, hello: Hello) -> None:
        """PeerError if it is not the replica that has proved itself."""
        if self._greet is not None and self._greet.node_id != hello.node_id:
            raise PeerError(CODE, f"{self._greet.node_id} has proved itself, not {hello.node_id}")

    def _check(self, given: Proof, side: Side) -> None:
        assert self._greet is not None and self._challenge is not None
        wanted = proof(self.credentials, side, self._greet, self._challenge)
        if not hmac.compare_digest(given.mac, wanted.mac):
            peer = self._greet if side == "replica" else self._challenge
            raise PeerError(
                CODE, f"the {side} {peer.node_id} has another replication secret than {self.node_id}"
            )
