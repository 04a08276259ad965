"""TLS on both ports, with real certificates and sockets: who is let in, and what happens to the others."""

from __future__ import annotations

import contextlib
import io
import json
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from http.client import HTTPSConnection
from pathlib import Path
from typing import Any

import pytest

from tests.unit.certificates import Certificate, make
from tests.unit.running import Peer, wait_until
from tests.unit.served import QUICK
from vectorizer import logs
from vectorizer.errors import ConfigurationError
from vectorizer.replication.authentication import CODE
from vectorizer.replication.states import LinkState
from vectorizer.rest.server import TLS_SECS
from vectorizer.security import Security
from vectorizer.server import Server
from vectorizer.settings import Settings

pytestmark = pytest.mark.needs("openssl")
SECRET = "a secret that is shared"
MASTER = {"replication.role": "master", "replication.bind_address": "127.0.0.1:0"}


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make(tmp_path_factory.mktemp("ca"), "ca")


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory, ca: Certificate) -> Certificate:
    return make(tmp_path_factory.mktemp("own"), "node", ca)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """``node(name, settings)``: a running server."""
    with contextlib.ExitStack() as stack:

        def start(name: str, *settings: dict[str, Any]) -> Server:
            values = {**QUICK, "storage.data_dir": str(tmp_path / name)}
            for more in settings:
                values |= more
            server = Server(Settings().replaced(values))
            server.start()
            stack.callback(server.stop)
            return server

        yield start


@pytest.fixture
def logged() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    logs.configure("info", "text", stream)
    yield stream
    logs.configure("info", "text")


def replicated(*more: dict[str, Any], ca: Certificate | None = None) -> dict[str, Any]:
    found: dict[str, Any] = {"security.replication_tls": True}
    if ca is not None:
        found["security.tls_ca"] = str(ca.certificate)
    for values in more:
        found |= values
    return found


def follower(
    node: Callable[..., Server], master: Server, *settings: dict[str, Any], host: str = "127.0.0.1"
) -> Server:
    assert master.roles.master is not None
    port = master.roles.master.address.rpartition(":")[2]
    return node(
        "replica", {"replication.role": "replica", "replication.master_address": f"{host}:{port}"}, *settings
    )


def state(server: Server) -> LinkState:
    assert server.roles.replica is not None
    return server.roles.replica.link.state


def reason(server: Server) -> str:
    assert server.roles.replica is not None
    return server.roles.replica.link.reason


def ask(server: Server, ca: Certificate, method: str, path: str, document: Any = None) -> tuple[int, Any]:
    context = ssl.create_default_context(cafile=str(ca.certificate))
    connection = HTTPSConnection(*server.rest_address, timeout=10, context=context)
    try:
        body = None if document is None else json.dumps(document)
        connection.request(method, path, body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


# -- REST --------------------------------------------------------------------------------------------------


def test_rest_speaks_https(node: Callable[..., Server], ca: Certificate, own: Certificate) -> None:
    server = node("one", own.settings)
    assert ask(server, ca, "POST", "/collections", {"name": "c", "dimension": 2})[0] == 201
    vectors = [{"id": f"v{number}", "vector": [1.0, 2.0]} for number in range(5000)]
    assert ask(server, ca, "POST", "/collections/c/vectors", {"vectors": vectors})[0] == 200
    assert len(ask(server, ca, "GET", "/collections/c/vectors?limit=5000")[1]["vectors"]) == 5000
    with pytest.raises(ssl.SSLCertVerificationError):
        ask(
            server,
            Certificate(Path(ssl.get_default_verify_paths().openssl_cafile), own.key),
            "GET",
            "/health",
        )


def test_plain_http_on_a_port_with_tls_is_dropped_with_one_line(
    node: Callable[..., Server], ca: Certificate, own: Certificate, logged: io.StringIO
) -> None:
    server = node("one", own.settings)
    with socket.create_connection(server.rest_address, timeout=10) as sock:
        sock.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        with contextlib.suppress(ConnectionResetError):
            while sock.recv(1000):
                pass
    wait_until(lambda: "tls_failed" in logged.getvalue())
    assert [line for line in logged.getvalue().splitlines() if "127.0.0.1" in line and "tls_failed" in line][
        1:
    ] == []
    assert "Traceback" not in logged.getvalue()
    assert ask(server, ca, "GET", "/health")[0] == 200


def test_a_client_that_never_begins_with_tls_is_let_go(
    node: Callable[..., Server], own: Certificate, logged: io.StringIO
) -> None:
    server = node("one", own.settings, {"server.request_timeout_secs": 0.3})
    began = time.monotonic()
    with socket.create_connection(server.rest_address, timeout=10) as sock:
        assert sock.recv(1) == b""
    assert time.monotonic() - began < TLS_SECS
    assert "the handshake took too long" in logged.getvalue()


def test_old_versions_are_refused(node: Callable[..., Server], own: Certificate) -> None:
    server = node("one", own.settings)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(OSError), socket.create_connection(server.rest_address, timeout=10) as sock:
        context.wrap_socket(sock)


def test_stopping_ends_idle_connections(
    node: Callable[..., Server], own: Certificate, logged: io.StringIO
) -> None:
    server = node("one", own.settings)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with context.wrap_socket(socket.create_connection(server.rest_address, timeout=10)) as sock:
        sock.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert sock.recv(100)
        began = time.monotonic()
        server._rest.stop(30.0)
        assert time.monotonic() - began < 15
    assert "connection_failed" not in logged.getvalue()


# -- replication -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("with_ca", [True, False])
@pytest.mark.parametrize("with_secret", [True, False])
def test_a_replica_follows_by_tls(
    node: Callable[..., Server], ca: Certificate, own: Certificate, with_ca: bool, with_secret: bool
) -> None:
    more = {"security.replication_secret": SECRET} if with_secret else {}
    settings = replicated(own.settings, more, ca=ca if with_ca else None)
    master = node("master", MASTER, settings)
    assert ask(master, ca, "POST", "/collections", {"name": "c", "dimension": 64})[0] == 201
    rows = [{"id": f"v{number}", "vector": [float(number + 1)] * 64} for number in range(2000)]
    assert ask(master, ca, "POST", "/collections/c/vectors", {"vectors": rows})[0] == 200
    replica = follower(node, master, settings)
    wait_until(lambda: state(replica) is LinkState.STREAMING)
    for number in range(20):
        assert (
            ask(master, ca, "POST", "/collections/c/vectors", {"vectors": rows[number : number + 50]})[0]
            == 200
        )
    wait_until(lambda: replica.database.node.offset == master.database.node.offset)
    assert ask(replica, ca, "GET", "/collections/c/digest") == ask(master, ca, "GET", "/collections/c/digest")
    assert replica.database.node.master_url == f"https://{master.roles.rest_address}"


def test_plain_replicas_and_noise_are_dropped_with_one_line(
    node: Callable[..., Server], own: Certificate, logged: io.StringIO
) -> None:
    master = node("master", MASTER, replicated(own.settings))
    assert master.roles.master is not None
    peer = Peer(master.roles.master.address)
    peer.sock.sendall(b"\0\0\0\x08 not TLS at all")
    with contextlib.suppress(ConnectionResetError):
        assert peer.sock.recv(100)[:1] in (b"", b"\x15"), "nothing, or an alert of TLS"
    wait_until(lambda: "connection_refused" in logged.getvalue())
    assert logged.getvalue().count(f"127.0.0.1:{peer.sock.getsockname()[1]}") == 1
    peer.close()
    replica = follower(node, master)
    wait_until(lambda: reason(replica) == "connection_lost" or reason(replica).startswith("frame_"))
    assert state(replica) is not LinkState.STREAMING
    assert not master.roles.master.table.linked()


def test_a_replica_with_tls_does_not_speak_to_a_plain_master(node: Callable[..., Server]) -> None:
    master = node("master", MASTER)
    replica = follower(node, master, replicated())
    wait_until(lambda: reason(replica) == "tls_failed")


@pytest.mark.parametrize("wrong", ["of another CA", "none"])
def test_with_a_ca_a_replica_must_show_its_certificate(
    node: Callable[..., Server], ca: Certificate, own: Certificate, wrong: str, tmp_path: Path
) -> None:
    master = node("master", MASTER, replicated(own.settings, ca=ca))
    stranger = {} if wrong == "none" else make(tmp_path, "stranger").settings
    replica = follower(node, master, replicated(stranger, ca=ca))
    wait_until(lambda: reason(replica) in ("tls_failed", "connection_lost"))
    assert not master.roles.master.table.linked()  # type: ignore[union-attr]
    assert state(replica) is not LinkState.STREAMING


@pytest.mark.parametrize("wrong", ["of another CA", "of another host"])
def test_with_a_ca_a_master_must_be_who_it_says(
    node: Callable[..., Server], ca: Certificate, own: Certificate, wrong: str, tmp_path: Path
) -> None:
    shown = (
        make(tmp_path, "stranger")
        if wrong == "of another CA"
        else make(tmp_path, "other", ca, "subjectAltName=DNS:other.example")
    )
    master = node("master", MASTER, replicated(shown.settings))
    replica = follower(node, master, replicated(own.settings, ca=ca))
    wait_until(lambda: reason(replica) == "tls_failed")


def test_somebody_in_between_is_found_out_by_the_secret(
    node: Callable[..., Server], own: Certificate, tmp_path: Path
) -> None:
    """He has a certificate of his own and hands everything on, with no CA to stop him."""
    settings = replicated(own.settings, {"security.replication_secret": SECRET})
    master = node("master", MASTER, settings)
    between = node("between", MASTER, replicated(make(tmp_path, "between").settings))
    # The replica believes to talk to `master`: same secret, but the certificate that it sees is another.
    security = between.security
    security.secret = master.security.secret
    security.own_fingerprint = master.security.own_fingerprint  # what he would have to prove with
    replica = follower(node, between, settings)
    wait_until(lambda: (state(replica), reason(replica)) == (LinkState.REFUSED, CODE))


def test_a_peer_that_never_begins_with_tls_is_let_go(
    node: Callable[..., Server], own: Certificate, logged: io.StringIO
) -> None:
    master = node("master", MASTER, replicated(own.settings), {"replication.handshake_timeout_secs": 0.3})
    peer = Peer(master.roles.master.address)  # type: ignore[union-attr]
    assert peer.sock.recv(1) == b""
    wait_until(lambda: "no TLS with the peer within 0.3 s" in logged.getvalue())
    assert not master.roles.master.lines  # type: ignore[union-attr]
    peer.close()


# -- files -------------------------------------------------------------------------------------------------


def test_files_that_cannot_be_used_end_the_start(own: Certificate, ca: Certificate, tmp_path: Path) -> None:
    (tmp_path / "nonsense").write_text("nonsense")
    # OpenSSL takes it, the standard library's reader does not.
    old = own.certificate.read_text().replace("N CERTIFICATE", "N X509 CERTIFICATE")
    (tmp_path / "old").write_text(old.replace("D CERTIFICATE", "D X509 CERTIFICATE"))
    wrong: list[dict[str, Any]] = [
        {"security.tls_certificate": str(own.certificate)},
        {"security.tls_key": str(own.key)},
        {**own.settings, "security.tls_key": str(ca.key)},
        {**own.settings, "security.tls_certificate": str(tmp_path / "none")},
        {**own.settings, "security.tls_certificate": str(tmp_path / "nonsense")},
        replicated(MASTER, own.settings, {"security.tls_certificate": str(tmp_path / "old")}),
        replicated(own.settings, {"security.tls_ca": str(tmp_path / "nonsense")}),
        replicated(MASTER),
    ]
    for values in wrong:
        with pytest.raises(ConfigurationError) as caught:
            Security(Settings().replaced({"storage.data_dir": str(tmp_path), **values}))
        assert "\n" not in str(caught.value)


def test_a_key_with_a_password_is_not_asked_for(own: Certificate, tmp_path: Path) -> None:
    import subprocess

    words = [
        "openssl",
        "pkey",
        "-in",
        str(own.key),
        "-aes256",
        "-passout",
        "pass:abcd",
        "-out",
        str(tmp_path / "k"),
    ]
    subprocess.run(words, check=True, capture_output=True)
    values = {**own.settings, "security.tls_key": str(tmp_path / "k"), "storage.data_dir": str(tmp_path)}
    with pytest.raises(ConfigurationError, match="the key has a password"):
        Security(Settings().replaced(values))
