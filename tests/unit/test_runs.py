"""Runs: which operations are one, and that applying one is applying its operations."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.stored import StoredNode, content, replica_of, rows
from vectorizer import codec, frame, runs
from vectorizer.errors import PeerError
from vectorizer.operations import Delete, Upsert, decode_entry, encode_operation
from vectorizer.replication import messages
from vectorizer.runs import RUN_FRAME_BYTES_MAX, RUN_OPERATIONS_MAX, Run, decode_run, in_runs


@pytest.fixture
def node(tmp_path: Path) -> StoredNode:
    made = StoredNode(tmp_path / "data")
    made.create()
    return made


@pytest.fixture
def replica(tmp_path: Path, node: StoredNode) -> StoredNode:
    """Holds what the master holds."""
    return replica_of(node, tmp_path / "replica")


def frames_of(*kinds: str) -> list[bytes]:
    operation = encode_operation(Upsert("things", rows([1])), 1, 1, 1)
    large = encode_operation(Upsert("things", rows([1], payload="x" * RUN_FRAME_BYTES_MAX)), 1, 1, 1)
    message = messages.encode(messages.Goodbye("shutdown", ""))
    return [{"o": operation, "l": large, "m": message}[kind] for kind in kinds]


@pytest.mark.parametrize(
    ("kinds", "lengths"),
    [
        ("ooo", [3]),
        ("moomoo", [1, 2, 1, 2]),
        ("oloo", [1, 1, 2]),
        ("o" * (RUN_OPERATIONS_MAX + 2), [RUN_OPERATIONS_MAX, 2]),
        ("", []),
    ],
)
def test_small_operations_that_follow_each_other_are_a_run(kinds: str, lengths: list[int]) -> None:
    frames = frames_of(*kinds)
    taken = list(in_runs(iter(frames), lambda: True))
    assert [len(run) for run in taken] == lengths
    assert [line for run in taken for line in run] == frames
    assert [len(run) for run in in_runs(iter(frames), lambda: False)] == [1] * len(frames)


def test_what_came_before_a_broken_frame_is_taken_first() -> None:
    def broken() -> Iterator[bytes]:
        yield from frames_of("o", "o")
        raise PeerError("frame_corrupt", "broken")

    taken = in_runs(broken(), lambda: True)
    assert len(next(taken)) == 2
    with pytest.raises(PeerError):
        next(taken)


def single(offset: int, id_: int, seed: int = 0, epoch: int = 1, payload: object = None) -> bytes:
    return encode_operation(Upsert("things", rows([id_], seed, payload)), offset, epoch, 1000 + offset)


def test_a_run_is_applied_as_its_operations_one_by_one(
    node: StoredNode, replica: StoredNode, tmp_path: Path
) -> None:
    for number in range(20):
        node.node.commit(Upsert("things", rows([number % 9], number, number % 3 or None)), 1.0, 1)
    frames = node.node.log.read(replica.node.offset, 1 << 20, node.node.offset) or []
    assert len(frames) == 20
    position = 0
    for size in (9, 9, 2):  # each id once in a run
        run = decode_run(frames[position : position + size])
        assert run is not None
        assert (run.offset, run.last_offset) == (replica.node.offset + 1, replica.node.offset + size)
        assert replica.node.apply_run(run, 1.0)
        position += size
    inner = replica.node
    assert content(inner.store.get("things")) == content(node.node.store.get("things"))
    assert (inner.offset, inner.last_checksum) == (node.node.offset, node.node.last_checksum)
    assert inner.journal.appended_offset == inner.offset
    assert inner.log.read(0, 1 << 20, inner.offset) == node.node.log.read(0, 1 << 20, inner.offset)
    chunks = zip(*(item.store.get("things").chunks for item in (node.node, inner)), strict=True)
    for one, other in chunks:
        assert one.name == other.name
        rows_used = len(one.ids)
        assert one.deleted_at[:rows_used].tolist() == other.deleted_at[:rows_used].tolist()


def as_documents(frames: list[bytes]) -> Run | None:
    """The run as it is decoded when its operations do not look alike: each of them as a document."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "_decode_alike", lambda frames, first: None)
        return decode_run(frames)


def parts_of(run: Run | None) -> object:
    if run is None:
        return None
    vectors, ids = run.rows.vectors, run.rows.ids
    whole = (run.collection, run.offset, run.epoch, run.timestamp_ms, run.frames)
    return whole, ids, run.rows.payloads, vectors.dtype, vectors.shape, vectors.tobytes()


@pytest.mark.parametrize("start", [1, 2**31 - 3, 2**40])
@pytest.mark.parametrize("payload", [None, "text", {"n": [1, 2]}])
def test_operations_that_look_alike_are_the_same_run(start: int, payload: object) -> None:
    frames = [single(start + number, 10 + number, number, payload=payload) for number in range(5)]
    run = decode_run(frames)
    assert run is not None
    assert parts_of(run) == parts_of(as_documents(frames))
    entries = [decode_entry(codec.decode(frame.body_of(line))) for line in frames]
    upserts = [entry.operation for entry in entries if isinstance(entry.operation, Upsert)]
    assert run.rows.ids == [upsert.rows.ids[0] for upsert in upserts]
    assert run.rows.vectors.tolist() == [upsert.rows.vectors[0].tolist() for upsert in upserts]
    assert run.timestamp_ms == entries[-1].timestamp_ms


@given(st.data())
def test_a_byte_that_differs_anywhere_changes_a_run_as_it_changes_its_document(data: st.DataObject) -> None:
    frames = [single(300 + number, 10 + number, number, payload="x") for number in range(3)]
    line = data.draw(st.integers(0, 2))
    place = data.draw(st.integers(frame.HEADER_BYTES, len(frames[line]) - 1))
    value = data.draw(st.integers(0, 255) | st.sampled_from([0, 1, 4, 5, 8, 0x10, 0x12]))
    body = bytearray(frame.body_of(frames[line]))
    body[place - frame.HEADER_BYTES] = value
    frames[line] = frame.encode(bytes(body))
    assert parts_of(decode_run(frames)) == parts_of(as_documents(frames))


def test_what_is_no_run(replica: StoredNode) -> None:
    start = replica.node.offset + 1
    good = [single(start, 1), single(start + 1, 2)]
    assert decode_run(good) is not None
    two = encode_operation(Upsert("things", rows([3, 4])), start + 1, 1, 1)
    other = encode_operation(Upsert("others", rows([3])), start + 1, 1, 1)
    delete = encode_operation(Delete("things", [b"id-1"]), start + 1, 1, 1)
    for bad in (
        two,
        other,
        delete,
        single(start + 2, 2),
        single(start + 1, 1),
        single(start + 1, 2, epoch=2),
    ):
        assert decode_run([good[0], bad]) is None
    document = codec.decode(frame.body_of(good[1]))
    for change in (
        {"v": b"1234"},
        {"il": b"\1\0"},
        {"pl": b""},
        {"i": "text"},
        {"o": "2"},
        {"t": "now"},
        {"n": 2},
    ):
        assert decode_run([good[0], frame.encode(codec.encode({**document, **change}))]) is None


def test_a_run_that_does_not_fit_changes_nothing(
    replica: StoredNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = replica.node
    start, before = inner.offset + 1, (inner.offset, inner.journal.appended_bytes, len(inner.log))
    strange = Upsert("missing", rows([1]))
    bad = [
        [single(start + 1, 1), single(start + 2, 2)],
        [single(start, 1, epoch=9), single(start + 1, 2, epoch=9)],
        [encode_operation(strange, start, 1, 1)],
    ]
    for frames in bad:
        run = decode_run(frames)
        assert run is not None
        assert not inner.apply_run(run, 1.0)
    run = decode_run([single(start, 1), single(start + 1, 2)])
    assert run is not None
    with monkeypatch.context() as patch:
        patch.setattr(inner.journal, "has_room", lambda size: False)
        assert not inner.apply_run(run, 1.0)
    assert (inner.offset, inner.journal.appended_bytes, len(inner.log)) == before
    assert inner.apply_run(run, 1.0)


STRANGE = st.sampled_from([None, True, -1, 0, 1, 1.0, 2, 2**40, "", "things", b"", b"\1\0", b"id", [], {}])


@given(st.sampled_from("oetkcndvpi") | st.sampled_from(["il", "pl"]), STRANGE, st.booleans())
def test_what_is_taken_as_a_run_can_be_read_one_by_one(key: str, value: object, both: bool) -> None:
    documents = [codec.decode(frame.body_of(single(offset, offset))) for offset in (2, 3)]
    for document in documents if both else documents[1:]:
        document[key] = value
    frames = [frame.encode(codec.encode(document)) for document in documents]
    run = decode_run(frames)
    if run is None:
        return
    for row, line in enumerate(frames):
        entry = decode_entry(codec.decode(frame.body_of(line)))  # as recovery will
        assert isinstance(entry.operation, Upsert)
        assert (entry.offset, entry.epoch) == (run.offset + row, run.epoch)
        assert entry.operation.collection == run.collection
        assert entry.operation.rows.ids == [run.rows.ids[row]]
        assert entry.operation.rows.payloads == [run.rows.payloads[row]]
        assert entry.operation.rows.vectors.tolist() == [run.rows.vectors[row].tolist()]
