"""Messages: what is said is understood, and nothing that does not fit gets in."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any
from zlib import crc32

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vectorizer import codec, frame
from vectorizer.errors import PeerError
from vectorizer.operations import Drop, encode_operation
from vectorizer.replication import messages
from vectorizer.replication.history import ENTRIES_MAX, History, HistoryEntry
from vectorizer.replication.messages import (
    KINDS,
    OFFSET_MAX,
    PATH_MAX,
    PROTOCOL,
    Accept,
    Ack,
    Challenge,
    Chunk,
    Complete,
    Declined,
    FileEntry,
    Goodbye,
    Greet,
    Heartbeat,
    Hello,
    Message,
    OperationFrame,
    Promote,
    Promoted,
    Proof,
    Received,
    Refuse,
    Repoint,
    Snapshot,
    Welcome,
    decode,
    encode,
)
from vectorizer.replication.transfer import chunk_frame, message_of

HISTORY = History((HistoryEntry("a", 1, 0), HistoryEntry("b", 2, 10)))
HELLO = Hello(PROTOCOL, "n1", ("n1", "n2"), HISTORY, 12, 7, 1 << 20, "h:1", 7001, "requested", True)
EXAMPLES: list[Message] = [
    HELLO,
    Welcome(PROTOCOL, "m", ("m",), HISTORY, 15, 2, "partial", "continues", 12, 1, 15, 0.5, 1 << 20, "h:2"),
    Refuse("foreign_history", "no", {"fork_offset": 0}),
    Accept({"0001-s/vectors.npy": 5}),
    Snapshot(9, {"m": "manifest"}, (FileEntry("a/b.npy", 3, 1), FileEntry("c", 0, None)), 3),
    Chunk("a/b.npy", 0, b"abc"),
    Received(3),
    Complete(9),
    Heartbeat(9, 8, 7, 1_700_000_000_000),
    Ack(9, 8),
    Goodbye("shutdown", "bye"),
    Promote("s-1", 12),
    Promoted("s-1", HISTORY),
    Declined("s-1", "behind", "no"),
    Repoint("n:7001"),
    Greet(PROTOCOL, "n1", b"n" * 32),
    Challenge("m", b"m" * 32),
    Proof(b"p" * 32),
]


def sent(document: dict[str, Any]) -> bytes:
    return frame.encode(codec.encode(document))


def document_of(message: Message) -> dict[str, Any]:
    return codec.decode(frame.body_of(encode(message)))


def sent_fields(message: Message) -> list[dataclasses.Field[Any]]:
    return [item for item in dataclasses.fields(message) if item.name in document_of(message)]


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: message.KIND)
def test_what_is_said_is_understood(message: Message) -> None:
    assert decode(encode(message)) == message


@pytest.mark.parametrize("size", [1, 255, 256, 70_000])
def test_the_parts_of_a_chunk_s_frame_are_its_frame(size: int) -> None:
    chunk = Chunk("a/b.npy", 5, memoryview(bytes(range(256)) * size)[:size])
    for known in (None, crc32(chunk.data)):
        parts = chunk_frame(dataclasses.replace(chunk, crc32=known))
        assert parts[1] is chunk.data
        assert b"".join(parts) == encode(dataclasses.replace(chunk, data=bytes(chunk.data)))


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: message.KIND)
def test_a_message_is_the_same_whether_its_data_is_copied_or_not(message: Message) -> None:
    assert message_of(encode(message)) == message


def test_a_large_chunk_is_not_copied() -> None:
    line = encode(Chunk("a/b.npy", 5, bytes(range(256)) * 300))
    chunk = message_of(line)
    assert chunk == decode(line)
    assert isinstance(chunk, Chunk)
    assert isinstance(chunk.data, memoryview)
    assert chunk.data.obj is line
    assert chunk.crc32 is None


def test_no_peer_says_that_a_checksum_is_known() -> None:
    chunk = decode(sent({"m": "chunk", "file": "a", "position": 0, "data": b"abc", "crc32": crc32(b"abd")}))
    assert isinstance(chunk, Chunk)
    assert chunk.crc32 is None


@pytest.mark.parametrize("size", [256 << 10, (1 << 20) + 7])
def test_the_checksum_of_a_large_chunk_comes_from_its_frame(size: int) -> None:
    data = (bytes(range(256)) * (size // 256 + 1))[:size]
    chunk = message_of(encode(Chunk("a/b.npy", 5, data)))
    assert isinstance(chunk, Chunk)
    assert (chunk.data, chunk.crc32) == (data, crc32(data))


@pytest.mark.parametrize(
    "document",
    [
        {"m": "chunk", "file": "a", "position": 1, "data": b"abc", "later": 2},
        {"m": "chunk", "data": b"abc", "file": "a", "position": 1},
        {"m": "chunk", "file": "\x05data\0", "position": 1, "data": b"abc"},
        {"m": "chunk", "file": "a", "position": -1, "data": b"abc"},
        {"m": "chunk", "file": "a", "data": b"abc"},
        {"m": "chunk", "file": "a", "position": 1, "data": "abc"},
        {"m": "chunk"},
    ],
)
def test_what_is_no_usual_chunk_is_taken_as_any_message(document: dict[str, Any]) -> None:
    line = sent(document)
    try:
        expected = decode(line)
    except PeerError:
        with pytest.raises(PeerError):
            message_of(line)
    else:
        assert message_of(line) == expected


@given(st.data())
def test_a_damaged_chunk_is_refused_or_understood(data: st.DataObject) -> None:
    body = bytearray(encode(Chunk("a/b.npy", 5, b"abc")))[frame.HEADER_BYTES :]
    body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    line = frame.encode(bytes(body))
    with contextlib.suppress(PeerError):
        assert message_of(line) == decode(line)


def test_every_kind_has_an_example() -> None:
    assert {message.KIND for message in EXAMPLES} == set(KINDS)


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: message.KIND)
def test_a_message_begins_with_its_kind(message: Message) -> None:
    assert next(iter(document_of(message).items())) == ("m", message.KIND)


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: message.KIND)
def test_each_required_field_is_missed(message: Message) -> None:
    for item in sent_fields(message):
        document = document_of(message)
        del document[item.name]
        if item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING:
            with pytest.raises(PeerError, match=f"{message.KIND}: {item.name} is missing") as caught:
                decode(sent(document))
            assert caught.value.code == "message_malformed"
        else:
            assert type(decode(sent(document))) is type(message)


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: message.KIND)
def test_no_field_takes_what_is_of_another_type(message: Message) -> None:
    for item in sent_fields(message):
        document = document_of(message)
        for wrong in (object, [object], 1.5, True, "x" * 70_000, -1, 2**62, b"x", None, {"a": 1}, [[1]], [1]):
            if wrong in (object, [object]) or type(wrong) is type(document[item.name]):
                continue
            try:
                decode(sent({**document, item.name: wrong}))
            except PeerError as error:
                assert error.code == "message_malformed"
                assert item.name in str(error)


@pytest.mark.parametrize(
    ("message", "field", "value"),
    [
        (HELLO, "offset", -1),
        (HELLO, "offset", True),
        (HELLO, "offset", "12"),
        (HELLO, "offset", 1.0),
        (HELLO, "node_id", ""),
        (HELLO, "node_id", "x" * 65),
        (HELLO, "node_id", "a b"),
        (HELLO, "path", ["n"] * (PATH_MAX + 1)),
        (HELLO, "path", "n1"),
        (HELLO, "history", [["a", 1, 0]] * 2),
        (HELLO, "history", [["a", -1, 0]]),
        (HELLO, "history", [["a", 1, 5], ["b", 2, 3]]),
        (HELLO, "history", [[f"r{i}", i, i] for i in range(ENTRIES_MAX + 1)]),
        (HELLO, "history", {"a": 1}),
        (HELLO, "checksum", 2**32),
        (HELLO, "frame_bytes_max", 10),
        (HELLO, "listen_port", 65536),
        (HELLO, "force", 1),
        (HELLO, "protocol", 0),
        (EXAMPLES[1], "sync", "sideways"),
        (EXAMPLES[1], "heartbeat_interval_secs", float("nan")),
        (EXAMPLES[1], "heartbeat_interval_secs", 0),
        (EXAMPLES[1], "heartbeat_interval_secs", "5"),
        (EXAMPLES[2], "reason", "No Code"),
        (EXAMPLES[2], "message", "x" * 1001),
        (EXAMPLES[3], "have", {"../etc/passwd": 1}),
        (EXAMPLES[3], "have", {"a": -1}),
        (EXAMPLES[3], "have", [1]),
        (EXAMPLES[4], "files", [{"name": "/etc/passwd", "bytes": 1, "crc32": 1}]),
        (EXAMPLES[4], "files", [{"name": "a/../b", "bytes": 1, "crc32": 1}]),
        (EXAMPLES[4], "files", [{"name": "a", "bytes": -1, "crc32": 1}]),
        (EXAMPLES[4], "files", [{"name": "a", "bytes": 1, "crc32": 1}] * 2),
        (EXAMPLES[4], "files", [5]),
        (EXAMPLES[5], "data", "text"),
        (EXAMPLES[5], "file", "a\nb"),
        (EXAMPLES[8], "lag_ms", -5),
    ],
)
def test_fields_that_do_not_fit_are_named(message: Message, field: str, value: Any) -> None:
    with pytest.raises(PeerError, match=f"{message.KIND}: {field} ") as caught:
        decode(sent({**document_of(message), field: value}))
    assert caught.value.code == "message_malformed"


def test_unknown_fields_are_passed_over() -> None:
    assert decode(sent({**document_of(HELLO), "compression": "zstd"})) == HELLO


@pytest.mark.parametrize("kind", ["nonsense", 5, None, ["hello"], ""])
def test_unknown_kinds_are_refused(kind: Any) -> None:
    with pytest.raises(PeerError) as caught:
        decode(sent({"m": kind, "applied": 1, "durable": 1}))
    assert caught.value.code == "message_unknown"


def test_a_document_of_neither_kind_is_refused() -> None:
    with pytest.raises(PeerError) as caught:
        decode(sent({"x": 1}))
    assert caught.value.code == "message_unknown"


@pytest.mark.parametrize("body", [b"x", b"\x05\x00\x00\x00\x01", b"\xff" * 40])
def test_a_body_that_is_no_document_is_refused(body: bytes) -> None:
    with pytest.raises(PeerError) as caught:
        decode(frame.encode(body))
    assert caught.value.code == "message_malformed"


@settings(deadline=None)
@given(st.integers(0, OFFSET_MAX), st.integers(0, OFFSET_MAX), st.integers(0, OFFSET_MAX))
def test_the_head_of_an_operation_is_read_without_the_rest(offset: int, epoch: int, time_ms: int) -> None:
    line = encode_operation(Drop("c"), offset, epoch, time_ms)
    assert decode(line) == OperationFrame(offset, epoch, time_ms, line)


@pytest.mark.parametrize(
    "document",
    [
        {"o": 1},
        {"o": 1, "e": 1},
        {"o": 1, "t": 1, "e": 1},
        {"o": "1", "e": 1, "t": 1},
        {"o": 1.0, "e": 1, "t": 1},
        {"o": -1, "e": 1, "t": 1},
        {"o": 1, "e": -(2**40), "t": 1},
    ],
)
def test_an_operation_without_its_head_is_refused(document: dict[str, Any]) -> None:
    with pytest.raises(PeerError) as caught:
        decode(sent(document))
    assert caught.value.code == "message_malformed"


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(EXAMPLES), st.data())
def test_damaged_bytes_are_refused_or_understood_but_never_anything_else(
    message: Message, data: st.DataObject
) -> None:
    body = bytearray(frame.body_of(encode(message)))
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(body) - 1))
        body[position] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(1, len(body)))
    try:
        read = decode(frame.encode(bytes(body[:cut])))
    except PeerError as error:
        assert error.code in ("message_malformed", "message_unknown")
    else:
        assert isinstance(read, (OperationFrame, *KINDS.values()))


def test_a_hello_with_the_longest_history_fits_the_first_ceiling() -> None:
    entries = tuple(HistoryEntry(f"{i:064d}", i, i) for i in range(ENTRIES_MAX))
    hello = dataclasses.replace(HELLO, history=History(entries))
    assert len(encode(hello)) < messages.HELLO_BYTES_MAX
    assert decode(encode(hello)) == hello
