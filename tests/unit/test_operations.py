"""Operations and their frames."""

from __future__ import annotations

import numpy as np
import pytest

from vectorizer import codec, frame
from vectorizer.operations import (
    CollectionConfig,
    Create,
    Delete,
    Drop,
    Merge,
    Operation,
    OperationError,
    Rows,
    Upsert,
    decode_entry,
    encode_operation,
)

CONFIG = CollectionConfig("things", 3, "cosine", 0.95, 16, 64, 16, 200)
ROWS = Rows(
    [b"a", "ö/ü".encode(), b"c" * 256],
    np.arange(9, dtype=np.float32).reshape(3, 3),
    [b"", codec.encode_payload({"k": 1}), b""],
)


def there_and_back(operation: Operation) -> Operation:
    encoded = encode_operation(operation, 7, 2, 1_700_000_000_000)
    entry = decode_entry(codec.decode(frame.body_of(encoded)))
    assert (entry.offset, entry.epoch, entry.timestamp_ms) == (7, 2, 1_700_000_000_000)
    assert entry.operation.kind == operation.kind
    assert entry.operation.collection == operation.collection
    # the same operation has the same bytes on every node
    assert encode_operation(entry.operation, 7, 2, 1_700_000_000_000) == encoded
    return entry.operation


@pytest.mark.parametrize("operation", [Create(CONFIG), Drop("things"), Merge("things", ("s0", "m1"))])
def test_operations_without_rows_go_there_and_back(operation: Operation) -> None:
    assert there_and_back(operation) == operation


def test_rows_go_there_and_back() -> None:
    back = there_and_back(Upsert("things", ROWS))
    assert isinstance(back, Upsert)
    assert back.rows.ids == ROWS.ids
    assert back.rows.payloads == ROWS.payloads
    assert back.rows.vectors.tobytes() == ROWS.vectors.tobytes()
    assert len(back.rows) == 3


@pytest.mark.parametrize("payloads", [ROWS.payloads, [b"", b"", b""]])
def test_the_frame_of_rows_is_that_of_the_document(payloads: list[bytes]) -> None:
    every_other = np.arange(18, dtype=np.float32).reshape(3, 6)[:, ::2]
    encoded = encode_operation(Upsert("things", Rows(ROWS.ids, every_other, payloads)), 7, 2, 5)
    document = {
        "o": 7,
        "e": 2,
        "t": 5,
        "k": "upsert",
        "c": "things",
        "n": 3,
        "d": 3,
        "i": b"".join(ROWS.ids),
        "il": np.array([1, 5, 256], "<u2").tobytes(),
        "v": every_other.tobytes(),
        "p": b"".join(payloads),
        "pl": np.array(list(map(len, payloads)), "<u4").tobytes(),
    }
    assert encoded == frame.encode(codec.encode(document))


def test_deletions_go_there_and_back() -> None:
    back = there_and_back(Delete("things", [b"a", b"bc"]))
    assert isinstance(back, Delete)
    assert back.ids == [b"a", b"bc"]
    assert there_and_back(Delete("things", [])) is not None


def document_of(operation: Operation) -> dict[str, object]:
    return codec.decode(frame.body_of(encode_operation(operation, 7, 2, 1)))


@pytest.mark.parametrize(
    "change",
    [
        {"k": "truncate"},
        {"k": None},
        {"o": -1},
        {"o": 1.5},
        {"e": True},
        {"t": "now"},
        {"c": 5},
        {"n": 4},
        {"n": "x"},
        {"d": 2},
        {"v": b"123"},
        {"i": b"abc"},
        {"il": b"\1"},
        {"il": None},
        {"p": b"zzz"},
        {"pl": b""},
    ],
)
def test_anything_else_is_refused_and_never_skipped(change: dict[str, object]) -> None:
    with pytest.raises(OperationError):
        decode_entry({**document_of(Upsert("things", ROWS)), **change})


@pytest.mark.parametrize("key", ["k", "o", "e", "t", "c", "v", "i", "il", "p", "pl", "n", "d"])
def test_a_missing_field_is_refused(key: str) -> None:
    document = document_of(Upsert("things", ROWS))
    del document[key]
    with pytest.raises(OperationError):
        decode_entry(document)


def test_configurations_and_merges_are_checked() -> None:
    create = document_of(Create(CONFIG))
    fields = create["d"]
    assert isinstance(fields, dict)
    for wrong in (
        {**fields, "metric": "hamming"},
        {**fields, "name": "other"},
        {"name": "things"},
        {**fields, "x": 1},
        [],
        {**fields, "name": 3},
        {**fields, "dimension": "4"},
        {**fields, "dimension": 0},
        {**fields, "dimension": 2**40},
        {**fields, "segment_rows": [8]},
        {**fields, "segment_rows": 2**28},  # its bookkeeping alone would be gigabytes
        {**fields, "segment_rows": 10**7, "dimension": 1024},
        {**fields, "hnsw_m": True},
        {**fields, "recall": "much"},
    ):
        with pytest.raises(OperationError):
            decode_entry({**create, "d": wrong})
    merge = document_of(Merge("things", ("s0",)))
    for wrong_segments in ("s0", [1]):
        with pytest.raises(OperationError):
            decode_entry({**merge, "s": wrong_segments})
