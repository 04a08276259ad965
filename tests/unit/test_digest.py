"""Digests: equal for equal rows, different for any difference."""

from __future__ import annotations

import struct

import numpy as np
import xxhash

from tests.unit.chunks import Breaths
from vectorizer import codec
from vectorizer.digest import SLICE_ROWS, digest_of
from vectorizer.operations import CollectionConfig, Rows
from vectorizer.storage.collection import Collection

CONFIG = CollectionConfig("c", 2, "dot", 0.95, 64, 1024, 16, 200)
Row = tuple[str, list[float], dict[str, int] | None]


def collection_of(*batches: list[Row]) -> Collection:
    collection = Collection(CONFIG, 1, 0)
    for offset, batch in enumerate(batches, 2):
        ids = [row[0].encode() for row in batch]
        vectors = np.array([row[1] for row in batch], np.float32)
        collection.upsert(Rows(ids, vectors, [codec.encode_payload(row[2]) for row in batch]), offset)
    return collection


def digest(collection: Collection) -> tuple[str, int]:
    return digest_of(collection.view(99), Breaths())


def test_one_row_by_hand() -> None:
    payload = codec.encode_payload({"a": 1})
    data = struct.pack("<II", 1, len(payload)) + b"x" + struct.pack("<2f", 1, 2) + payload
    expected = f"{xxhash.xxh3_128_intdigest(data):032x}"
    assert digest(collection_of([("x", [1, 2], {"a": 1})])) == (expected, 1)


def test_order_batches_and_dead_rows_do_not_matter() -> None:
    rows: list[Row] = [(f"{n}", [n, 1.0], {"n": n} if n % 3 else None) for n in range(200)]
    whole = collection_of(rows)
    old: list[Row] = [(id_, [9.0, 9.0], None) for id_, _, _ in rows[:50]]
    other = collection_of(old, rows[100:], [("gone", [1.0, 1.0], None)], rows[:100][::-1])
    other.delete([b"gone"], 50)
    assert digest(whole) == digest(other)
    assert digest(collection_of()) == ("0" * 32, 0)


def test_every_part_of_a_row_counts() -> None:
    rows: list[Row] = [
        ("x", [1, 2], {"a": 1}),
        ("y", [1, 2], {"a": 1}),
        ("x", [1, 3], {"a": 1}),
        ("x", [1, 2], {"a": 2}),
        ("x", [1, 2], {}),
        ("x", [1, 2], None),
        ("x", [0.0, 2], None),
        ("x", [-0.0, 2], None),
    ]
    assert len({digest(collection_of([row]))[0] for row in rows}) == len(rows)


def test_breaths_are_taken() -> None:
    breaths = Breaths()
    rows: list[Row] = [(f"{n}", [n, 1.0], None) for n in range(SLICE_ROWS * 3)]
    digest_of(collection_of(rows).view(99), breaths)
    assert breaths.count >= 3
