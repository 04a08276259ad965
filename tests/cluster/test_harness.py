"""The words of the harness mean what they say: a proxy that did not cut would prove nothing."""

from __future__ import annotations

import socket
import struct
import threading
import zlib
from collections.abc import Iterator

import pytest

from tests.cluster.harness import Cluster, Node, Proxy, same_digest, wait_until
from tests.cluster.harness.forging import Forger

SENT = b"a" * 200_000
WORDS = {
    Cluster: ("start", "write", "converged"),
    Node: ("start", "kill", "freeze", "thaw", "corrupt", "syncs"),
    Proxy: ("cut", "corrupt"),
}


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    """A proxy before a server that sends SENT to everyone who connects."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                peer, _ = listener.accept()
            except OSError:
                return
            peer.sendall(SENT)
            peer.close()

    threading.Thread(target=serve, daemon=True).start()
    made = Proxy(listener.getsockname())
    yield made
    made.close()
    listener.close()


def received(proxy: Proxy) -> bytes:
    data = b""
    with socket.create_connection((proxy.host, proxy.port), timeout=10) as peer:
        try:
            while piece := peer.recv(65536):
                data += piece
        except ConnectionError:
            return data
    return data


def test_the_vocabulary_is_there() -> None:
    for owner, words in WORDS.items():
        assert [word for word in words if not callable(getattr(owner, word, None))] == []
    assert callable(wait_until) and callable(same_digest)


def test_a_mismatch_is_told_by_what_differs(cluster: Cluster) -> None:
    one, other = (cluster.start_master(name) for name in ("one", "other"))
    for node, value in ((one, 1.0), (other, 2.0)):
        node.post("/collections", {"name": "alpha", "dimension": 2})
        node.post("/collections/alpha/vectors", {"vectors": [{"id": "x", "vector": [value, 0.5]}]})
    with pytest.raises(AssertionError) as told:
        same_digest(one, other, deadline_secs=0.2)
    assert "alpha/x: one ((1.0, 0.5), None), other ((2.0, 0.5), None)" in str(told.value)


def test_everything_passes_until_a_fault_is_asked_for(proxy: Proxy) -> None:
    assert received(proxy) == SENT
    assert proxy.bytes["down"] == len(SENT)


def test_cut_after_lets_exactly_so_many_bytes_pass_once(proxy: Proxy) -> None:
    proxy.cut_after(777)
    assert len(received(proxy)) == 777
    assert received(proxy) == SENT
    assert proxy.faults_met == 1


def test_corrupt_changes_exactly_one_byte(proxy: Proxy) -> None:
    proxy.corrupt(150_000)
    data = received(proxy)
    assert [position for position, byte in enumerate(data) if byte != SENT[0]] == [150_000]


def test_refuse_ends_connections_at_once_until_healed(proxy: Proxy) -> None:
    proxy.refuse()
    assert received(proxy) == b""
    proxy.heal()
    assert received(proxy) == SENT


def test_swallow_keeps_the_connection_and_lets_nothing_pass(proxy: Proxy) -> None:
    proxy.swallow()
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(received(proxy)), daemon=True)
    reader.start()
    reader.join(0.3)
    assert not got
    proxy.heal()
    wait_until(lambda: got == [SENT], "what was held back arrives")


def test_throttle_spreads_the_bytes_over_time(proxy: Proxy) -> None:
    proxy.bytes_per_sec = 100_000
    reader = threading.Thread(target=received, args=(proxy,), daemon=True)
    reader.start()
    reader.join(0.3)
    assert 0 < proxy.bytes["down"] < len(SENT) / 2


def test_forge_changes_frames_and_their_checksums_whatever_the_pieces() -> None:
    body = b"0123456789" * 50
    line = struct.pack(">II", len(body) + 4, zlib.crc32(body)) + body
    forger = Forger()
    whole = b"".join(
        forger.feed((line * 3)[start : start + 7], b"345", b"xyz") for start in range(0, 3 * len(line), 7)
    )
    changed = body.replace(b"345", b"xyz")
    assert whole == (struct.pack(">II", len(changed) + 4, zlib.crc32(changed)) + changed) * 3
