"""Somebody on the network who does not hold the secret, and tries what can be tried without it.

He takes a node's listener for a replica's door: says hello without a proof, proves with bytes that he
makes up, or with the proof that he saw a real replica give.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.simulation import virtual_gevent
from tests.simulation.kernel import Process

if TYPE_CHECKING:
    from tests.simulation.machine import Machine
    from tests.simulation.world import World
    from vectorizer.replication import messages

HOST = "10.0.0.99"
PATIENCE_SECS = 3.0
WAYS = ("hello without a proof", "a proof that is made up", "a proof that was seen")


class Stranger:
    """One process for all his attempts."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.process = Process(world.kernel, "stranger")
        self.process.on_error = lambda task, error: world.checks.violated(f"the stranger: {error!r}")
        world.network.join(self.process, HOST)

    def try_to_enter(self, machine: Machine) -> None:
        """Connect to the machine's listener; a welcome there is a violation."""
        way = self.world.random.choice(WAYS)
        self.world.kernel.spawn(self.process, lambda: self._try(machine, way))

    def _try(self, machine: Machine, way: str) -> None:
        from vectorizer.address import parse_address
        from vectorizer.errors import PeerError
        from vectorizer.replication import messages
        from vectorizer.replication.connection import Connection

        try:
            connection = Connection.connect(parse_address(machine.address), 1.0, messages.HELLO_BYTES_MAX)
        except PeerError:
            return
        timeout = virtual_gevent.Timeout(PATIENCE_SECS, False)
        timeout.start()
        try:
            self._talk(connection, machine, way)
        except (PeerError, virtual_gevent.Timeout):
            return  # turned away, or nobody answers
        finally:
            timeout.cancel()
            connection.close()

    def _talk(self, connection: Any, machine: Machine, way: str) -> None:
        from vectorizer.replication import messages

        seen = self.world.network.seen_proofs
        node_id = "5" * 32
        if way != WAYS[0]:
            greet, proof = messages.Greet(messages.PROTOCOL, node_id, b"n" * messages.NONCE_BYTES), None
            if way == WAYS[2] and machine.host in seen:
                greet, proof = seen[machine.host]
                node_id = greet.node_id
            answer = _ask(connection, greet)
            if not isinstance(answer, messages.Challenge):
                return
            answer = _ask(connection, proof or messages.Proof(b"p" * messages.PROOF_BYTES))
            if isinstance(answer, messages.Proof):
                self._violated(machine, way, "proved itself to him")
                return
        if isinstance(_ask(connection, _hello(node_id)), messages.Welcome):
            self._violated(machine, way, "let him in")

    def _violated(self, machine: Machine, way: str, what: str) -> None:
        if not machine.lets_anybody_in:
            self.world.checks.violated(f"a stranger came with {way}, and {machine.name} {what}")


def _hello(node_id: str) -> messages.Hello:
    from vectorizer.replication import messages
    from vectorizer.replication.history import History

    return messages.Hello(
        protocol=messages.PROTOCOL,
        node_id=node_id,
        path=(node_id,),
        history=History(),
        offset=0,
        checksum=None,
        frame_bytes_max=1 << 24,
        rest_address="",
        listen_port=0,
    )


def _ask(connection: Any, message: Any) -> object:
    """Send, and wait for the next message that is no heartbeat. PeerError if there is none."""
    from vectorizer.errors import PeerError
    from vectorizer.replication import messages

    connection.send([messages.encode(message)], PATIENCE_SECS)
    while connection.receive(PATIENCE_SECS):
        for line in connection.frames():
            return messages.decode(line)
    raise PeerError("handshake_timeout", "no answer")
