"""The two state machines of a replication link, as tables: (state, message) -> method of the machine.

What is missing is illegal and closes the link with `illegal_message`. The pictures in docs/PROTOCOL.md are
printed from these tables by `as_markdown`, and a test holds the document to them.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from vectorizer.replication.messages import (
    Accept,
    Ack,
    Challenge,
    Chunk,
    Complete,
    Declined,
    Goodbye,
    Greet,
    Heartbeat,
    Hello,
    OperationFrame,
    Promote,
    Promoted,
    Proof,
    Received,
    Refuse,
    Repoint,
    Snapshot,
    Welcome,
)


class SessionState(StrEnum):
    """Master's side: where the conversation with one replica stands."""

    GREETING = "greeting"
    PROVING = "proving"
    HELLO = "hello"
    CHECKING = "checking"
    OFFERED = "offered"
    CAPTURING = "capturing"
    SENDING = "sending"
    COMPLETING = "completing"
    INSTALLING = "installing"
    STREAMING = "streaming"
    PROMOTING = "promoting"
    CLOSING = "closing"
    CLOSED = "closed"


class LinkState(StrEnum):
    """Replica's side: where the link to the master stands."""

    DOWN = "down"
    CONNECTING = "connecting"
    GREETING = "greeting"
    PROVING = "proving"
    HANDSHAKE = "handshake"
    PREPARING = "preparing"
    OFFERED = "offered"
    RECEIVING = "receiving"
    INSTALLING = "installing"
    STREAMING = "streaming"
    PROMOTING = "promoting"
    CLOSING = "closing"
    REFUSED = "refused"
    FAILED = "failed"
    STOPPED = "stopped"


STRANGER = frozenset({SessionState.GREETING, SessionState.PROVING, SessionState.HELLO})
"""States in which the replica has not said hello yet."""
UNANSWERED = frozenset({LinkState.GREETING, LinkState.PROVING, LinkState.HANDSHAKE})
"""States in which the master has not said welcome yet."""
CONNECTED = UNANSWERED | frozenset(
    {
        LinkState.PREPARING,
        LinkState.OFFERED,
        LinkState.RECEIVING,
        LinkState.INSTALLING,
        LinkState.STREAMING,
        LinkState.PROMOTING,
    }
)
FULL_SYNC = frozenset({LinkState.PREPARING, LinkState.OFFERED, LinkState.RECEIVING, LinkState.INSTALLING})
FINAL = frozenset({LinkState.FAILED, LinkState.STOPPED})

Table = Mapping[type[Any], str]
_END: Table = {Goodbye: "_goodbye", Refuse: "_refused"}
_BEAT: Table = {Heartbeat: "_heartbeat", **_END}

SESSION_LEGAL: Mapping[SessionState, Table] = {
    SessionState.GREETING: {Greet: "_greet", Hello: "_mismatch", **_END},
    SessionState.PROVING: {Proof: "_proof", **_END},
    SessionState.HELLO: {Hello: "_hello", Greet: "_mismatch", **_END},
    SessionState.CHECKING: _END,
    SessionState.OFFERED: {Hello: "_hello", Accept: "_accept", Received: "_alive", **_END},
    SessionState.CAPTURING: {Received: "_alive", **_END},
    SessionState.SENDING: {Received: "_received", **_END},
    SessionState.COMPLETING: {Received: "_received", **_END},
    SessionState.INSTALLING: {Received: "_received", Ack: "_installed", **_END},
    SessionState.STREAMING: {Ack: "_ack", **_END},
    SessionState.PROMOTING: {Ack: "_ack", Promoted: "_settled", Declined: "_settled", **_END},
    SessionState.CLOSING: dict.fromkeys(
        (Greet, Proof, Hello, Accept, Received, Ack, Promoted, Declined, Goodbye, Refuse), "_alive"
    ),
    SessionState.CLOSED: {},
}
"""Hello in OFFERED is a second one: the replica went back to an older state of its own."""

LINK_LEGAL: Mapping[LinkState, Table] = {
    LinkState.DOWN: {},
    LinkState.CONNECTING: {},
    LinkState.GREETING: {Challenge: "_challenge", **_END},
    LinkState.PROVING: {Proof: "_proof", **_END},
    LinkState.HANDSHAKE: {Welcome: "_welcome", **_BEAT},
    LinkState.PREPARING: _BEAT,
    LinkState.OFFERED: {Snapshot: "_snapshot", **_BEAT},
    LinkState.RECEIVING: {Chunk: "_chunk", Complete: "_complete", **_BEAT},
    LinkState.INSTALLING: _BEAT,
    LinkState.STREAMING: {
        OperationFrame: "_operation",
        Promote: "_promote",
        Repoint: "_repoint",
        **_BEAT,
    },
    LinkState.PROMOTING: _BEAT,
    LinkState.CLOSING: dict.fromkeys(
        (
            *(Challenge, Proof, Welcome, Snapshot, Chunk, Complete, OperationFrame, Promote, Repoint),
            *(Heartbeat, Goodbye, Refuse),
        ),
        "_ignored",
    ),
    LinkState.REFUSED: {},
    LinkState.FAILED: {},
    LinkState.STOPPED: {},
}
"""Heartbeat in HANDSHAKE: a second hello may cross one. GREETING and PROVING are only there with a secret."""


def as_markdown(table: Mapping[Any, Table]) -> str:
    """A table for people: one line a state, the messages it takes; in brackets what a message means there."""
    lines = ["| state | legal messages |", "| --- | --- |"]
    for state, legal in table.items():
        words = [_word(str(getattr(kind, "KIND", "operation")), method) for kind, method in legal.items()]
        lines.append(f"| {state} | {', '.join(words) or 'none'} |")
    return "\n".join(lines)


def _word(kind: str, method: str) -> str:
    meaning = method.lstrip("_")
    return kind if meaning in (kind, f"{kind}d") else f"{kind} ({meaning})"
