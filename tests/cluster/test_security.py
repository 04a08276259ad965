"""Strangers and enemies, on real processes: keys, the secret, and what hostile clients and peers send."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cluster.harness import Cluster, vector_of, wait_until
from tests.cluster.harness.cluster import replication_address
from tests.cluster.harness.node import ROOT, Node, clean_environment, free_port

RIGHT, WRONG = "a secret that is shared by all", "a secret of somebody else here"
CODE = "authentication_failed"


def make_key(node: Node, role: str) -> str:
    """A new key of that node, by the command."""
    words = [sys.executable, "-m", "vectorizer", "keys", "add", "--role", role, "--name", role]
    made = subprocess.run(
        [*words, "--data-dir", str(node.data_directory)],
        capture_output=True,
        text=True,
        env=clean_environment(),
        timeout=30,
    )
    assert made.returncode == 0, made.stderr
    return made.stdout.strip()


def connect(node: Node) -> socket.socket:
    return socket.create_connection((node.host, node.port), timeout=15)


def ended(sock: socket.socket) -> bytes:
    """Everything that comes until the server closes the connection."""
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while part := sock.recv(65536):
            data += part
    return data


# -- the secret and keys -----------------------------------------------------------------------------------


def test_a_wrong_secret_is_corrected_while_both_run(cluster: Cluster, tmp_path: Path) -> None:
    right, wrong = tmp_path / "right", tmp_path / "wrong"
    right.write_text(RIGHT), wrong.write_text(WRONG)
    cluster.start(replicas=0, security={"replication_secret_file": str(right)})
    cluster.write(200)
    replica = cluster.start_replica(security={"replication_secret_file": str(wrong)})
    wait_until(lambda: (replica.status()["link"]["last_error"] or {}).get("reason") == CODE, "it is refused")
    said = re.compile(f"replica_refused reason={CODE} peer=127.0.0.1:")
    wait_until(lambda: said.search(cluster.master.log()), "the master says so")
    assert f"reason={CODE}" in replica.log()
    assert replica.offset == 0 and cluster.master.replicas() == []
    cluster.write(100, seed=2)
    assert replica.offset == 0
    wrong.write_text(RIGHT)
    cluster.wait_connected(replica)
    cluster.converged()
    for node in (cluster.master, replica):
        assert RIGHT not in node.log() and WRONG not in node.log()
        assert RIGHT not in str(node.status())


def test_a_server_that_requires_keys_does_not_listen_without(cluster: Cluster) -> None:
    node = cluster.node("one", {"server": {"host": "0.0.0.0"}, "security": {"require_auth": True}})
    node.start(ready=False)
    assert node.wait_ended() == 2
    [sentence] = [line for line in node.log().splitlines() if line.startswith("vectorizer: ")]
    assert "keys add" in sentence
    admin, reader = make_key(node, "admin"), make_key(node, "read")
    node.start()
    assert node.request("GET", "/collections").status == 401
    assert node.request("GET", "/collections", headers={"X-API-Key": reader}).status == 200
    document = {"name": "alpha", "dimension": 4}
    assert node.request("POST", "/collections", document, headers={"X-API-Key": reader}).status == 403
    made = node.request("POST", "/collections", document, headers={"Authorization": f"Bearer {admin}"})
    assert made.status == 201
    status = [str(ROOT / "scripts" / "status"), f"http://127.0.0.1:{node.port}"]
    asked = subprocess.run(status, capture_output=True, text=True, env=clean_environment(), timeout=30)
    assert asked.returncode != 0
    environment = {**clean_environment(), "VECTORIZER_API_KEY": reader}
    asked = subprocess.run(status, capture_output=True, text=True, env=environment, timeout=30)
    assert asked.returncode == 0, asked.stdout + asked.stderr


def test_listening_to_everybody_is_warned_of(cluster: Cluster) -> None:
    node = cluster.node(
        "one",
        {
            "server": {"host": "0.0.0.0"},
            "replication": {"role": "master", "bind_address": f"0.0.0.0:{free_port()}"},
        },
    )
    node.start()
    assert node.log().count("warning listening_without_authentication") == 2


# -- the hostile: REST -------------------------------------------------------------------------------------


@pytest.fixture
def victim(cluster: Cluster) -> Node:
    """A master that loses patience after a second and takes eight connections."""
    node = cluster.start_master(server={"request_timeout_secs": 1, "connections_max": 8})
    node.post("/collections", {"name": "alpha", "dimension": 4})
    return node


def test_slow_heads_and_bodies_hold_nothing(victim: Node) -> None:
    head = (
        b"POST /collections HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n"
    )
    for sent, status in ((b"GET /health HT", b"408"), (head, b"408"), (head + b"\r\n{", b"408")):
        with connect(victim) as sock:
            began = time.monotonic()
            sock.sendall(sent)
            answer = ended(sock)
            assert answer == b"" or answer.split(b" ")[1] == status, answer
            assert time.monotonic() - began < 10
    with connect(victim) as sock:  # a byte at a time does not help
        began = time.monotonic()
        with contextlib.suppress(OSError):
            for byte in head:
                sock.sendall(bytes([byte]))
                time.sleep(0.05)  # the pace of the attack
        assert time.monotonic() - began < 10
    victim.close()
    assert victim.get("/health")["status"] == "ok"


def test_more_connections_than_allowed_wait_their_turn(victim: Node) -> None:
    victim.close()
    with contextlib.ExitStack() as stack:
        for _ in range(50):
            stack.enter_context(connect(victim))
        wait_until(lambda: victim.request("GET", "/health").status == 200, "the silent ones were let go", 20)
    assert "Traceback" not in victim.log()


@pytest.mark.parametrize(
    ("path", "raw", "status"),
    [
        ("/collections", b'{"name":"c","dimension":' + b"9" * 300 + b"}", 400),
        ("/collections", b'{"name":"c","dimension":1000000000}', 400),
        ("/collections", b'{"name":"c","dimension":-1}', 400),
        ("/collections", b'{"name":"c","dimension":1e9}', 400),
        ("/collections", b'{"name":"../../etc/passwd","dimension":4}', 400),
        ("/collections", b'{"name":"a\\u0000b","dimension":4}', 400),
        ("/collections", b'{"name":"' + b"x" * 129 + b'","dimension":4}', 400),
        ("/collections", b'{"name":"","dimension":4}', 400),
        ("/collections", b'{"name":"\\ud800","dimension":4}', 400),
        ("/collections", b"[" * 1_000_000, 400),
        ("/collections", b'{"a":' * 200 + b"1" + b"}" * 200, 400),
        ("/collections", b" " * (9 << 20), 413),
        ("/collections/alpha/vectors", b'{"vectors":[{"id":"","vector":[1,2,3,4]}]}', 400),
        ("/collections/alpha/vectors", b'{"vectors":[{"id":"%s","vector":[1,2,3,4]}]}' % (b"x" * 257), 400),
        ("/collections/alpha/vectors", b'{"vectors":[{"id":"\\ud800","vector":[1,2,3,4]}]}', 400),
        ("/collections/alpha/vectors", b'{"vectors":[{"id":7,"vector":[1,2,3,4]}]}', 400),
        ("/collections/alpha/vectors", b'{"vectors":[{"id":"a","vector":[1e999,2,3,4]}]}', 400),
        ("/collections/alpha/vectors", b'{"vectors":[{"id":"a","vector":[NaN,2,3,4]}]}', 400),
        ("/collections/alpha/search", b'{"vector":[1,2,3,4],"limit":1000000000}', 400),
    ],
    ids=lambda value: value[:40].decode("latin-1") if isinstance(value, bytes) else None,
)
def test_bodies_of_the_hostile(quiet_cluster: Cluster, path: str, raw: bytes, status: int) -> None:
    master = quiet_cluster.master
    before, memory = master.offset, master.anonymous_bytes()
    answer = master.request("POST", path, raw=raw)
    assert answer.status == status, answer.body
    assert answer.body["status_code"] == status
    assert master.offset == before
    assert master.anonymous_bytes() - memory < 200 << 20


@pytest.mark.parametrize("name", ["%2e%2e%2f%2e%2e", "a%00b", "%FF", "%zz", "a" * 8000, "%F0%9F%98%80"])
def test_odd_names_in_paths(quiet_cluster: Cluster, name: str) -> None:
    for path in (f"/collections/{name}", f"/collections/{name}/vectors/{name}"):
        assert quiet_cluster.master.request("GET", path).status in (400, 404, 414)


# -- the hostile: replication ------------------------------------------------------------------------------


def replication_socket(node: Node) -> socket.socket:
    host, port = replication_address(node).rsplit(":", 1)
    return socket.create_connection((host, int(port)), timeout=15)


@pytest.mark.parametrize(
    "sent",
    [
        struct.pack(">II", 0xFFFFFFFF, 0),
        struct.pack(">II", 512 << 20, 0) + b"x" * 1000,
        struct.pack(">II", 0, 0),
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
        os.urandom(4096),
        struct.pack(">II", 100, 0),
    ],
    ids=["4 GiB", "512 MiB", "empty", "HTTP", "TLS", "noise", "half a frame"],
)
def test_frames_of_the_hostile(cluster: Cluster, sent: bytes) -> None:
    master = cluster.start_master(replication={"handshake_timeout_secs": 0.5})
    memory = master.anonymous_bytes()
    with replication_socket(master) as sock:
        sock.sendall(sent)
        ended(sock)
    assert master.get("/health")["status"] == "ok"
    assert master.anonymous_bytes() - memory < 50 << 20
    assert "Traceback" not in master.log() and "session_failed" not in master.log()


def test_silent_peers_do_not_keep_a_replica_out(cluster: Cluster) -> None:
    cluster.start(replicas=0, replication={"handshake_timeout_secs": 0.5, "replicas_max": 2})
    with contextlib.ExitStack() as stack:
        for _ in range(60):
            stack.enter_context(replication_socket(cluster.master))
        cluster.start_replica()
        cluster.wait_connected()
    cluster.master.post("/collections/alpha/vectors", {"vectors": [{"id": "x", "vector": vector_of(1)}]})
