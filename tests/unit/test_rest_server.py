"""The HTTP server: what it accepts, refuses, bounds, and how it stops.

Raw bytes against a small application.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import gevent
import orjson
import pytest
from gevent.event import Event

from vectorizer.breathing import let_others_run
from vectorizer.errors import ConfigurationError
from vectorizer.rest import connection, head
from vectorizer.rest.head import HEAD_BYTES_MAX, HEADERS_MAX, LINE_BYTES_MAX
from vectorizer.rest.incoming import ARRIVED
from vectorizer.rest.paths import RAW_TARGET
from vectorizer.rest.server import RestServer
from vectorizer.settings import Settings


class Application:
    """Answers with what it got; ``/wait`` waits, ``/fail`` fails, ``/unread`` leaves the body alone."""

    def __init__(self) -> None:
        self.entered = Event()
        self.release = Event()
        self.handled: list[str] = []

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        path = environ[RAW_TARGET]
        self.handled.append(path)
        if path == "/wait":
            self.entered.set()
            self.release.wait()
        if path == "/fail":
            raise ValueError("a bug")
        try:
            read = b"" if path == "/unread" else environ["wsgi.input"].read(1 << 20)
        except OSError:
            start_response("400 Bad Request", [])
            return []
        headers = {key: value for key, value in environ.items() if key.startswith("HTTP_")}
        body = orjson.dumps(
            {
                "path": path,
                "read": len(read),
                "headers": headers,
                "type": environ.get("CONTENT_TYPE"),
                "arrived": ARRIVED in environ,
            }
        )
        if path.startswith("/large"):
            body = b"x" * int(path.rpartition("/")[2])
        start_response("200 OK", [("Content-Length", str(len(body)))])
        return [body]


class Serving:
    """A running server with its application."""

    def __init__(self, **server: Any) -> None:
        self.application = Application()
        self.server = RestServer("127.0.0.1", 0)
        given = {f"server.{key}": value for key, value in server.items()}
        self.server.start(self.application, Settings().replaced(given) if given else Settings())

    def connect(self) -> socket.socket:
        return socket.create_connection((self.server.host, self.server.port), timeout=10)

    def send(self, data: bytes) -> tuple[int, dict[str, str], bytes]:
        """The first answer on a new connection."""
        with self.connect() as sock:
            sock.sendall(data)
            return answer_of(sock)


@pytest.fixture
def serving() -> Iterator[Serving]:
    running = Serving()
    yield running
    running.server.stop(1.0)


def answer_of(sock: socket.socket) -> tuple[int, dict[str, str], bytes]:
    data = b""
    while b"\r\n\r\n" not in data:
        part = sock.recv(65536)
        assert part, f"closed before an answer: {data!r}"
        data += part
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
    length = int(headers.get("content-length", 0))
    while len(body) < length:
        part = sock.recv(65536)
        assert part, "closed in the middle of an answer"
        body += part
    return int(lines[0].split(" ")[1]), headers, body[:length]


def is_closed(sock: socket.socket) -> bool:
    try:
        return sock.recv(1) == b""
    except ConnectionResetError:
        return True


def get(path: str = "/", *headers: str) -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: x", *headers, "", ""]).encode("latin-1")


def post(body: bytes, *headers: str, path: str = "/") -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def test_keep_alive_and_raw_target(serving: Serving) -> None:
    with serving.connect() as sock:
        for path in ("/a%2Fb%FF?x=%20", "/\xc3\xa9"):
            sock.sendall(get(path, "X-Some-Thing:  a b "))
            status, _, body = answer_of(sock)
            document = orjson.loads(body)
            assert (status, document["path"]) == (200, path)
            assert document["headers"]["HTTP_X_SOME_THING"] == "a b"
        sock.sendall(post(b"12345", "Content-Type: a/b"))
        assert orjson.loads(answer_of(sock)[2])["read"] == 5
        sock.sendall(b"\r\n" + get("/", "Connection: close"))
        assert answer_of(sock)[1]["connection"] == "close"
        assert is_closed(sock)


def test_a_body_has_arrived_only_if_all_of_it_came_with_its_head(serving: Serving) -> None:
    request = post(b"12345")
    with serving.connect() as sock:
        for later in (0, 1, 5):
            sock.sendall(request[: len(request) - later])
            if later:
                gevent.sleep(0.05)
                sock.sendall(request[-later:])
            document = orjson.loads(answer_of(sock)[2])
            assert (document["read"], document["arrived"]) == (5, later == 0)
        sock.sendall(post(b"12345", "Expect: 100-continue"))
        answers = b""
        while b'"arrived"' not in answers:
            answers += sock.recv(65536)
        assert answers.startswith(b"HTTP/1.1 100 Continue") and b'"arrived":false' in answers


def test_pipelined_requests_are_answered_in_order(serving: Serving) -> None:
    with serving.connect() as sock:
        sock.sendall(post(b"123", path="/unread") + get("/second"))
        first = sock.recv(65536)
        while b"/second" not in first:
            first += sock.recv(65536)
        assert first.count(b"HTTP/1.1 200 OK") == 2


def test_a_client_that_does_not_wait_for_answers_leaves_others_their_turn(serving: Serving) -> None:
    count, answers, turns = 3000, b"", [0]
    handled = serving.application.handled

    def take_turns() -> None:
        while turns[-1] < count:
            let_others_run()
            turns.append(len(handled))

    with serving.connect() as sock:
        others = gevent.spawn(take_turns)
        sending = gevent.spawn(sock.sendall, get("/") * count)
        while answers.count(b"HTTP/1.1 200 OK") < count:
            answers += sock.recv(1 << 20)
        gevent.joinall([sending, others], timeout=10)
    assert turns[-1] == count
    assert max(after - before for before, after in pairwise(turns)) < count / 4


def test_nagle_is_off_on_each_connection(serving: Serving) -> None:
    with serving.connect() as sock:
        sock.sendall(get())
        answer_of(sock)
        (handler,) = serving.server._server.handlers  # type: ignore[union-attr]
        assert handler.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert serving.server.connections == 1


@pytest.mark.parametrize("cut", [1, 4, 20, 45, 60, 61, 62, 63])
def test_a_head_in_pieces_is_the_same_request(serving: Serving, cut: int) -> None:
    whole = post(b"12345", "X-Some-Thing: a", path="/in/pieces?a=b")
    with serving.connect() as sock:
        sock.sendall(whole)
        expected = orjson.loads(answer_of(sock)[2])
        sock.sendall(whole[:cut])
        gevent.sleep(0.02)
        sock.sendall(whole[cut:])
        assert orjson.loads(answer_of(sock)[2]) == {**expected, "arrived": False}


def test_lines_may_end_with_lf_alone(serving: Serving) -> None:
    with serving.connect() as sock:
        sock.sendall(post(b"123", "X-Other: 1").replace(b"\r\n", b"\n"))
        document = orjson.loads(answer_of(sock)[2])
        assert (document["read"], document["headers"]) == (3, {"HTTP_HOST": "x", "HTTP_X_OTHER": "1"})
        sock.sendall(get("/next"))
        assert orjson.loads(answer_of(sock)[2])["path"] == "/next"


def test_what_a_client_says_twice(serving: Serving) -> None:
    _, _, body = serving.send(get("/", "X-A: 1", "X-A: 2", "Cookie: a=1", "Cookie: b=2"))
    headers = orjson.loads(body)["headers"]
    assert (headers["HTTP_X_A"], headers["HTTP_COOKIE"]) == ("1, 2", "a=1; b=2")
    _, _, body = serving.send(get("/", "Content-Type: a/b", "Content-Type: c/d"))
    assert orjson.loads(body)["type"] == "a/b"


def test_remembered_lines_are_bounded_and_hold_no_secrets(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head, "REMEMBERED_MAX", 8)
    for number in range(20):
        serving.send(
            get("/", f"X-{number}: 1", "Authorization: Bearer abc", "x-api-KEY: abc", "A: " + "x" * 200)
        )
        assert len(head._REMEMBERED) <= 8
    assert not any(b"abc" in line or len(line) > 200 for line in head._REMEMBERED)


def test_answers_that_are_not_one_piece() -> None:
    """What our own application never does, but WSGI allows."""

    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        path = environ[RAW_TARGET]
        if path == "/feed":
            start_response("200 OK", [("X-A", "1\r\nX-B: 2")])
            return [b"x"]
        if path == "/nothing":
            start_response("204 No Content", [])
            return []
        write = start_response("200 OK", [("X-A", "1")])
        if path == "/written":
            write(b"ab")
            return [b"c"]
        return iter([b"ab", b"c"])

    server = RestServer("127.0.0.1", 0)
    server.start(application, Settings())
    answers = {}
    for path in ("/written", "/pieces", "/feed", "/nothing"):
        with socket.create_connection((server.host, server.port), timeout=10) as sock:
            sock.sendall(get(path, "Connection: close"))
            answers[path] = b"".join(iter(lambda sock=sock: sock.recv(65536), b""))  # type: ignore[misc]
    server.stop(1.0)
    for path in ("/written", "/pieces"):
        assert answers[path].startswith(b"HTTP/1.1 200 OK\r\nX-A: 1\r\n")
        assert answers[path].endswith(b"\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n")
    assert answers["/feed"].startswith(b"HTTP/1.1 500 ") and b"X-B" not in answers["/feed"]
    assert answers["/nothing"].startswith(b"HTTP/1.1 204 ") and b"Content-Length" not in answers["/nothing"]


def test_http_1_0(serving: Serving) -> None:
    with serving.connect() as sock:
        sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert answer_of(sock)[0] == 200
        assert is_closed(sock)
    with serving.connect() as sock:
        sock.sendall(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n" * 2)
        assert answer_of(sock)[0] == 200


def test_chunked_bodies(serving: Serving) -> None:
    head = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    with serving.connect() as sock:
        sock.sendall(head + b"3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n" + get("/next"))
        assert orjson.loads(answer_of(sock)[2])["read"] == 7


def test_expect_continue(serving: Serving) -> None:
    with serving.connect() as sock:
        sock.sendall(b"POST / HTTP/1.1\r\nContent-Length: 3\r\nExpect: 100-Continue\r\n\r\n")
        assert sock.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(b"abc")
        assert orjson.loads(answer_of(sock)[2])["read"] == 3
    with serving.connect() as sock:
        sock.sendall(b"POST /unread HTTP/1.1\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
        assert answer_of(sock)[0] == 200
        assert is_closed(sock), "the client was never told to send its body"
    old = b"POST / HTTP/1.0\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\nabc"
    assert serving.send(old)[0] == 200, "HTTP/1.0 does not know the answer 100"


BIG = "x" * (HEAD_BYTES_MAX // 8)


@pytest.mark.parametrize(
    ("data", "status", "sentence"),
    [
        (b"nonsense\r\n\r\n", 400, "not a request line"),
        (b"GET /\r\n\r\n", 400, "not a request line"),
        (b" / HTTP/1.1\r\n\r\n", 400, "not a method: ''"),
        (b"get / HTTP/1.1\r\n\r\n", 400, "not a method: 'get'"),
        (b"G\0T / HTTP/1.1\r\n\r\n", 400, "not a method"),
        (b"GET  HTTP/1.1\r\n\r\n", 400, "no target"),
        (b"GET / HTTP/2.0\r\n\r\n", 505, "HTTP version 'HTTP/2.0' is not supported"),
        (b"GET / HTTP/9\r\n\r\n", 505, "not supported"),
        (b"GET /" + b"x" * LINE_BYTES_MAX + b" HTTP/1.1\r\n\r\n", 414, f"more than {LINE_BYTES_MAX} bytes"),
        (get("/", *[f"A{number}: {BIG}" for number in range(9)]), 431, f"more than {HEAD_BYTES_MAX} bytes"),
        (
            get("/", *[f"A: {number}" for number in range(HEADERS_MAX + 1)]),
            431,
            f"more than {HEADERS_MAX} headers",
        ),
        (get("/", "no colon"), 400, "not a header: b'no colon"),
        (get("/", "A : b"), 400, "not a header"),
        (get("/", "A: b", " folded"), 400, "not a header"),
        (get("/", "A: b\0c"), 400, "not a header"),
        (get("/", "A: b\rc"), 400, "not a header"),
        (get("/", "Content-Length: -1"), 400, "Content-Length is '-1'"),
        (get("/", "Content-Length: +1"), 400, "Content-Length is '+1'"),
        (get("/", "Content-Length: 1_0"), 400, "Content-Length is '1_0'"),
        (get("/", "Content-Length: 1", "Content-Length: 1"), 400, "Content-Length is '1, 1'"),
        (get("/", "Content-Length: 1", "Transfer-Encoding: chunked"), 400, "both Content-Length and"),
        (get("/", "Transfer-Encoding: gzip"), 501, "other than chunked is not supported"),
        (b"GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 501, "other than chunked"),
    ],
)
def test_refused_heads(serving: Serving, data: bytes, status: int, sentence: str) -> None:
    given, headers, body = serving.send(data)
    document = orjson.loads(body)
    assert (given, document["status_code"], document["error_type"]) == (status, status, "bad_request")
    assert sentence in document["message"]
    assert headers["content-type"] == "application/json" and headers["connection"] == "close"


def test_a_header_full_of_spaces_is_read_as_fast_as_any(serving: Serving) -> None:
    """One regular expression for name and value took 8 s for this one, and the event loop with it."""
    value = "x" + " " * (HEAD_BYTES_MAX - 200) + "y"
    before = time.thread_time()
    _, _, body = serving.send(get("/", f"A: {value} \t"))
    assert orjson.loads(body)["headers"]["HTTP_A"] == value
    assert time.thread_time() - before < 2


def test_headers_with_an_underscore_do_not_pass_for_others(serving: Serving) -> None:
    _, _, body = serving.send(get("/", "X_Secret: forged", "X-Other: 1"))
    assert orjson.loads(body)["headers"] == {"HTTP_HOST": "x", "HTTP_X_OTHER": "1"}


def test_an_upgrade_is_passed_over(serving: Serving) -> None:
    _, _, body = serving.send(get("/", "Connection: Upgrade", "Upgrade: websocket"))
    assert orjson.loads(body)["read"] == 0


def test_an_unread_body_does_not_cost_the_client_its_answer(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving.connect() as sock:
        sock.sendall(post(b"x" * 3_000_000, path="/unread") + get("/next"))
        assert answer_of(sock)[0] == 200
    monkeypatch.setattr(connection, "DRAIN_BYTES_MAX", 100_000)
    with serving.connect() as sock:
        sock.sendall(post(b"x" * 90_000, path="/unread"))
        status, headers, _ = answer_of(sock)
        assert (status, headers.get("connection")) == (200, None)
    with serving.connect() as sock:
        sock.sendall(post(b"x" * 110_000, path="/unread"))
        status, headers, _ = answer_of(sock)
        assert (status, headers["connection"]) == (200, "close")
        assert is_closed(sock)
    with serving.connect() as sock:
        chunk = b"%x\r\n%s\r\n" % (60_000, b"x" * 60_000)
        sock.sendall(b"POST /unread HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk * 3)
        assert answer_of(sock)[0] == 200
        assert is_closed(sock)


@pytest.mark.parametrize("path", ["/unread", "/"])
@pytest.mark.parametrize(
    "broken", [b"zz\r\n", b"\r\n", b"2\r\n{}X", b"0\r\n: no name\r\n", b"0\r\nX\r\n\r\n"]
)
def test_what_follows_a_broken_chunk_is_no_request(serving: Serving, path: str, broken: bytes) -> None:
    """A proxy may have taken it for a part of the body, so it could be of anybody."""
    with serving.connect() as sock:
        start = f"POST {path} HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        sock.sendall(start + broken + b"0\r\n\r\n" + get("/forged"))
        status, headers, _ = answer_of(sock)
        assert (status, headers.get("connection")) == ((200, None) if path == "/unread" else (400, "close"))
        assert is_closed(sock)
    assert serving.application.handled == [path]


def test_what_follows_a_body_that_came_late_is_no_request() -> None:
    """The bytes that came in time are lost, so nobody knows where the rest of it ends."""
    serving = Serving(request_timeout_secs=0.3)
    with serving.connect() as sock:
        sock.sendall(post(b"x" * 100, path="/")[:-50])
        status, headers, _ = answer_of(sock)
        assert (status, headers.get("connection")) == (400, "close")
        assert is_closed(sock)
    serving.server.stop(1.0)


def test_a_body_that_does_not_come_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "DRAIN_SECS", 0.1)
    serving = Serving()
    with serving.connect() as sock:
        sock.sendall(b"POST /unread HTTP/1.1\r\nContent-Length: 10\r\n\r\n")
        assert answer_of(sock)[0] == 200
        assert is_closed(sock)
    serving.server.stop(1.0)


def test_a_bug_of_the_application_is_a_500_in_json(serving: Serving) -> None:
    status, _, body = serving.send(get("/fail"))
    assert status == 500
    assert orjson.loads(body)["error_type"] == "internal_error"


def test_silent_and_slow_clients_are_let_go() -> None:
    serving = Serving(request_timeout_secs=0.3)
    started = time.monotonic()
    with serving.connect() as silent, serving.connect() as slow, serving.connect() as later:
        slow.sendall(b"GET / HTTP/1.1\r\n")
        later.sendall(get())
        assert answer_of(later)[0] == 200
        for number in range(20):
            gevent.sleep(0.02)
            slow.sendall(b"A%d: b\r\n" % number)
            if time.monotonic() - started > 0.25:
                break
        status, _, body = answer_of(slow)
        assert (status, orjson.loads(body)["message"]) == (408, "the request did not arrive in time")
        assert is_closed(silent) and is_closed(slow) and is_closed(later)
    assert time.monotonic() - started < 5
    serving.server.stop(1.0)


def test_a_client_that_goes_on_asking_is_kept_for_longer_than_it_may_be_silent() -> None:
    serving = Serving(request_timeout_secs=1.0)
    started = time.monotonic()
    with serving.connect() as sock:
        while time.monotonic() - started < 2.2:
            sock.sendall(get())
            assert answer_of(sock)[0] == 200
            gevent.sleep(0.1)
        assert is_closed(sock)
    serving.server.stop(1.0)


def test_a_client_that_does_not_take_its_answer_is_let_go() -> None:
    serving = Serving(request_timeout_secs=0.3)
    with serving.connect() as sock:
        sock.sendall(get("/large/50000000"))
        deadline = time.monotonic() + 10
        while serving.server.connections and time.monotonic() < deadline:
            gevent.sleep(0.01)
        assert serving.server.connections == 0
    serving.server.stop(1.0)


def test_large_answers_arrive_whole(serving: Serving) -> None:
    for size in (connection.SENT_AT_ONCE, connection.SENT_AT_ONCE + 1, 3_000_000):
        assert len(serving.send(get(f"/large/{size}"))[2]) == size


def test_connections_beyond_the_limit_wait() -> None:
    serving = Serving(connections_max=1)
    with serving.connect() as first:
        first.sendall(get())
        answer_of(first)
        with serving.connect() as second:
            second.sendall(get())
            second.settimeout(0.1)
            with pytest.raises(TimeoutError):
                second.recv(1)
            first.close()
            second.settimeout(10)
            assert answer_of(second)[0] == 200
    serving.server.stop(1.0)


def test_stop_lets_running_requests_finish_and_takes_no_new_ones(serving: Serving) -> None:
    with serving.connect() as busy, serving.connect() as idle:
        idle.sendall(get())
        answer_of(idle)
        busy.sendall(get("/wait"))
        serving.application.entered.wait()
        stopping = gevent.spawn(serving.server.stop, 10.0)
        assert is_closed(idle)
        with pytest.raises(ConnectionRefusedError):
            serving.connect()
        assert not stopping.ready()
        serving.application.release.set()
        status, headers, _ = answer_of(busy)
        assert (status, headers["connection"]) == (200, "close")
        stopping.get(timeout=5)
        assert is_closed(busy)


def test_stop_ends_what_takes_too_long(serving: Serving) -> None:
    with serving.connect() as busy:
        busy.sendall(get("/wait"))
        serving.application.entered.wait()
        serving.server.stop(0.05)
        assert is_closed(busy)


def test_addresses() -> None:
    first = RestServer("127.0.0.1", 0)
    assert first.port > 0
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((first.host, first.port), timeout=1)
    first.start(Application(), Settings())
    with pytest.raises(
        ConfigurationError, match=r"cannot serve REST on 127\.0\.0\.1:\d+: Address already in use"
    ) as caught:
        RestServer("127.0.0.1", first.port)
    assert caught.value.key == "server.port"
    with pytest.raises(ConfigurationError, match=r"cannot serve REST on 192\.0\.2\.1:0") as caught:
        RestServer("192.0.2.1", 0)
    assert caught.value.key == "server.host"
    first.stop(1.0)
    never = RestServer("127.0.0.1", first.port)
    assert never.connections == 0
    never.stop(1.0)


@pytest.mark.skipif(not socket.has_ipv6, reason="this Python has no IPv6")
def test_ipv6() -> None:
    try:
        server = RestServer("[::1]", 0)
    except ConfigurationError as error:
        pytest.skip(f"no IPv6 on this machine: {error}")
    server.start(Application(), Settings())
    with socket.create_connection(("::1", server.port), timeout=5) as sock:
        sock.sendall(get())
        assert answer_of(sock)[0] == 200
    server.stop(1.0)


def test_a_head_that_comes_again_is_read_as_the_first(serving: Serving) -> None:
    """Also with another length, and when one that differs comes between."""
    with serving.connect() as sock:
        for size, key in [(3, "a"), (3, "a"), (4, "a"), (10, "a"), (4, "b"), (2, "a"), (0, "a"), (5, "a")]:
            head = f"POST /again HTTP/1.1\r\nX-Key: {key}\r\nContent-Length: {size}\r\n\r\n"
            sock.sendall(head.encode() + b"x" * size)
            status, _, body = answer_of(sock)
            document = orjson.loads(body)
            assert (status, document["read"], document["headers"]) == (200, size, {"HTTP_X_KEY": key})
