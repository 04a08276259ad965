"""A connection: frames over a real socket, with an end to every wait."""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator

import gevent
import pytest
from gevent import socket

from vectorizer import frame
from vectorizer.address import Address
from vectorizer.errors import PeerError
from vectorizer.replication.connection import PART_BYTES, TURN_SECS, Connection, Turn

CEILING = 1 << 20


@pytest.fixture
def ends() -> Iterator[tuple[Connection, Connection]]:
    listener = socket.create_server(("127.0.0.1", 0))
    left = socket.create_connection(listener.getsockname())
    right, _ = listener.accept()
    listener.close()
    pair = Connection(left, CEILING), Connection(right, CEILING)
    yield pair
    for end in pair:
        end.close()


def received(connection: Connection, count: int) -> list[bytes]:
    found: list[bytes] = []
    while len(found) < count:
        assert connection.receive(5.0)
        found += connection.frames()
    return found


def test_what_is_sent_arrives_in_order(ends: tuple[Connection, Connection]) -> None:
    left, right = ends
    lines = [frame.encode(bytes([number]) * (1 + number * 3000)) for number in range(200)]
    sender = gevent.spawn(left.send, lines, 5.0)
    assert received(right, 200) == lines
    assert sender.get() == sum(map(len, lines))


def test_a_large_frame_arrives(ends: tuple[Connection, Connection]) -> None:
    left, right = ends
    right.raise_ceiling(1 << 25)
    line = frame.encode(b"x" * (1 << 24))
    gevent.spawn(left.send, [line], 5.0)
    assert received(right, 1) == [line]


def test_a_frame_that_never_becomes_whole_shows_life_only_by_much(
    ends: tuple[Connection, Connection],
) -> None:
    left, right = ends
    right.raise_ceiling(1 << 25)
    swallowing = bytearray(frame.encode(b"beat"))
    swallowing[1] ^= 0x10  # a MiB more than there is

    def shows_life(data: bytes) -> bool:
        gevent.spawn(left.send, [data], 5.0).join()
        wanted, alive = len(data), False
        while wanted > 0:
            before = right._part
            assert right.receive(5.0)
            wanted -= right._part - before
            assert list(right.frames()) == []
            alive |= right.grows()
        return alive

    assert not shows_life(bytes(swallowing))
    assert not any(shows_life(frame.encode(b"beat")) for _ in range(100))
    assert shows_life(bytes(PART_BYTES))
    assert not shows_life(frame.encode(b"beat"))


def test_a_whole_frame_begins_the_count_of_a_part_anew(ends: tuple[Connection, Connection]) -> None:
    left, right = ends
    line = frame.encode(b"x" * 3000)
    for _ in range(PART_BYTES // 1000):
        left.send([line], 5.0)
        assert received(right, 1) == [line]
        assert not right.grows()


def test_nothing_in_time_is_no_error(ends: tuple[Connection, Connection]) -> None:
    started = time.monotonic()
    assert not ends[0].receive(0.05)
    assert time.monotonic() - started < 10
    assert not ends[0].receive(-1.0)


def test_the_end_of_the_connection(ends: tuple[Connection, Connection]) -> None:
    left, right = ends
    left.close()
    left.close()
    with pytest.raises(PeerError) as caught:
        right.receive(5.0)
    assert caught.value.code == "connection_lost"


def test_the_end_inside_a_frame_is_told_apart(ends: tuple[Connection, Connection]) -> None:
    left, right = ends
    left._sock.sendall(frame.encode(b"abc")[:5])
    left.finish_sending()
    assert right.receive(5.0)
    assert list(right.frames()) == []
    with pytest.raises(PeerError) as caught:
        right.receive(5.0)
    assert caught.value.code == "frame_truncated"


def test_what_was_said_before_the_end_is_still_read(ends: tuple[Connection, Connection]) -> None:
    left, right = ends
    left.send([frame.encode(b"bye")], 5.0)
    left.finish_sending()
    assert received(right, 1) == [frame.encode(b"bye")]


def test_the_ceiling_stands_until_it_is_raised(ends: tuple[Connection, Connection]) -> None:
    left, right = ends
    left._sock.sendall(struct.pack(">II", 0xFFFFFFFF, 0))
    assert right.receive(5.0)
    with pytest.raises(PeerError) as caught:
        list(right.frames())
    assert caught.value.code == "frame_too_large"


def test_raising_the_ceiling_counts_for_the_very_next_frame(ends: tuple[Connection, Connection]) -> None:
    left, right = ends
    small, large = frame.encode(b"hello"), frame.encode(b"x" * (CEILING + 10))
    sender = gevent.spawn(left.send, [small, large], 5.0)
    found = []
    while len(found) < 2:
        assert right.receive(5.0)
        for line in right.frames():
            found.append(line)
            right.raise_ceiling(1 << 22)
    assert found == [small, large]
    sender.get()


def test_parts_of_frames_are_sent_in_order(ends: tuple[Connection, Connection]) -> None:
    left, right = ends
    right.raise_ceiling(1 << 21)
    lines = [
        frame.encode(bytes([65 + number]) * size) for number, size in enumerate([9, 1 << 20, 70, 300_000])
    ]
    whole = b"".join(lines)
    parts = [memoryview(whole)[:3], whole[3:11], memoryview(whole)[11:600_000], whole[600_000:]]
    sender = gevent.spawn(left.send, parts, 5.0)
    found: list[bytes] = []
    while len(found) < len(lines):
        assert right.receive(5.0)
        found.extend(right.frames())
    assert found == lines
    assert sender.get() == len(whole)


def test_a_peer_that_takes_nothing_is_cut_off(ends: tuple[Connection, Connection]) -> None:
    with pytest.raises(PeerError) as caught:
        ends[0].send([frame.encode(b"x" * (1 << 20))] * 64, 0.1)
    assert caught.value.code == "write_timeout"


def test_a_peer_that_takes_little_at_a_time_is_no_standstill() -> None:
    """Far less than the system's buffer must have free before it asks for more."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 << 10)
        left = Connection(socket.create_connection(listener.getsockname()), CEILING)
        right, _ = listener.accept()
    line = frame.encode(bytes(4 << 20))

    def take_little() -> int:
        taken = 0
        while taken < len(line):
            gevent.sleep(0.02)
            taken += len(right.recv(64 << 10))
        return taken

    taking = gevent.spawn(take_little)
    assert left.send([line], 0.3) == len(line)
    assert taking.get(timeout=30) == len(line)
    left.close()
    right.close()


def test_closing_wakes_the_greenlet_that_waits(ends: tuple[Connection, Connection]) -> None:
    waiting = gevent.spawn(ends[0].receive, 30.0)
    gevent.sleep(0.01)
    ends[0].close()
    with pytest.raises(PeerError):
        waiting.get(timeout=5.0)


def test_writing_to_what_is_gone(ends: tuple[Connection, Connection]) -> None:
    left, right = ends
    right.close()
    with pytest.raises(PeerError) as caught:
        for _ in range(100):
            left.send([frame.encode(b"x" * 1000)], 1.0)
            gevent.sleep(0.001)
    assert caught.value.code == "connection_lost"
    left.close()
    left.finish_sending()


def test_connecting_where_nobody_listens() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    listener.close()
    with pytest.raises(PeerError) as caught:
        Connection.connect(Address("127.0.0.1", port), 2.0, CEILING)
    assert caught.value.code == "connect_failed"
    assert f"127.0.0.1:{port}" in str(caught.value)


def test_connecting_to_a_name_that_does_not_exist() -> None:
    with pytest.raises(PeerError) as caught:
        Connection.connect(Address("does-not-exist.invalid", 1), 5.0, CEILING)
    assert caught.value.code in ("connect_failed", "connect_timeout")


def test_connecting_to_a_listener_that_is_full() -> None:
    """On Linux a full backlog leaves further connections without an answer."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(0)
    fillers = [socket.socket() for _ in range(4)]
    for filler in fillers:
        filler.setblocking(False)
        filler.connect_ex(listener.getsockname())
    with pytest.raises(PeerError) as caught:
        Connection.connect(Address(*listener.getsockname()), 0.2, CEILING)
    assert caught.value.code == "connect_timeout"
    assert "timed out" in str(caught.value)
    for end in (listener, *fillers):
        end.close()


def test_host_names_are_resolved_when_connecting() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    connection = Connection.connect(Address("localhost", listener.getsockname()[1]), 5.0, CEILING)
    connection.close()
    listener.close()


def test_a_turn_lets_others_run_after_a_few_milliseconds() -> None:
    ran: list[int] = []
    gevent.spawn(ran.append, 1)
    turn = Turn()
    turn.step()
    assert ran == []
    deadline = time.monotonic() + 2 * TURN_SECS
    while time.monotonic() < deadline:
        pass
    turn.step()
    assert ran == [1]


def test_a_peer_that_reads_slowly_is_not_cut_off(ends: tuple[Connection, Connection]) -> None:
    left, right = ends
    right.raise_ceiling(1 << 25)
    line = frame.encode(b"x" * (1 << 24))

    def sip() -> int:
        count = 0
        while count < len(line):
            gevent.sleep(0.02)
            count += len(right._sock.recv(1 << 20))
        return count

    reader = gevent.spawn(sip)
    assert left.send([line], 0.3) == len(line)
    assert reader.get(timeout=10) == len(line)


def test_who_has_waited_does_not_yield_for_the_time_that_he_waited() -> None:
    turn, turns = Turn(), []
    gevent.sleep(1.2 * TURN_SECS)
    gevent.spawn(turns.append, 1)
    turn.step()
    assert not turns
    until = time.monotonic() + 1.2 * TURN_SECS
    while time.monotonic() < until:
        pass
    turn.step()
    assert turns
