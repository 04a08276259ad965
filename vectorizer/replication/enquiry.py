"""One question to another node, asked as a replica would: which history does it have?

A link machine is driven to the welcome and no further: nothing that it brings is done to this node's data.
Proofs of the secret are exchanged as on any link.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from vectorizer.address import parse_address
from vectorizer.errors import PeerError
from vectorizer.replication import messages
from vectorizer.replication.authentication import NOTHING
from vectorizer.replication.connection import Connection
from vectorizer.replication.intentions import Send
from vectorizer.replication.link import ReplicaLink
from vectorizer.replication.master import clock_ms

if TYPE_CHECKING:
    from vectorizer.database import Database
    from vectorizer.replication.history import History
    from vectorizer.security import Security


def history_at(
    database: Database, address: str, rest_address: str, security: Security | None = None
) -> History | None:
    """The history of the node that takes replicas there; None if it would not take this one. PeerError."""
    replication = database.settings.replication
    link = ReplicaLink(
        database.node, lambda: database.settings, time.monotonic(), lambda: 0.0, rest_address=rest_address
    )
    link.connecting(time.monotonic())
    timeout = replication.connect_timeout_secs
    place = parse_address(address)
    connection = Connection.connect(place, timeout, messages.HELLO_BYTES_MAX)
    try:
        credentials = NOTHING if security is None else security.introduce(connection, place.host, timeout)
        link.connected(time.monotonic(), credentials)
        deadline = time.monotonic() + replication.handshake_timeout_secs
        while link.connected_now and not link.master.node_id:
            intentions = link.ready(time.monotonic(), clock_ms())
            wanted = [messages.encode(item.message) for item in intentions if isinstance(item, Send)]
            connection.send(wanted, timeout)
            left = deadline - time.monotonic()
            if left <= 0 or not connection.receive(left):
                raise PeerError("handshake_timeout", f"{address} did not answer in time")
            for frame in connection.frames():
                link.receive(messages.decode(frame), time.monotonic(), clock_ms(), len(frame))
        return link.master.history if link.master.node_id else None
    finally:
        connection.close()
