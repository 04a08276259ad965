"""Columns of payload fields: what is found at a path, and what is kept."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.chunks import Breaths, chunk_of
from vectorizer import codec
from vectorizer.columns import (
    BLOCK_ROWS,
    CACHE_KEY,
    COLUMNS_MAX,
    SAMPLE_STEP,
    SLICE_VALUES,
    ColumnBuilder,
    block_of_payload,
    blocks_of,
)
from vectorizer.filters import parse_filter
from vectorizer.storage.chunk import ChunkView


@pytest.mark.parametrize(
    ("payload", "present", "values"),
    [
        (None, False, []),
        ({}, False, []),
        ({"a": 1}, False, []),
        ({"a": {"b": 1}}, True, [1]),
        ({"a": {"b": None}}, True, []),
        ({"a": {"b": []}}, True, []),
        ({"a": []}, False, []),
        ({"a": [{"b": 1}, {"c": 2}, 3, {"b": [4, [5]]}]}, True, [1, 4, 5]),
        ({"a": {"b": {"c": 1}}}, True, []),
        ({"a.b": 1}, False, []),
    ],
)
def test_a_list_stands_for_its_items(payload: Any, present: bool, values: list[int]) -> None:
    column = block_of_payload(codec.encode_payload(payload), ["a.b"])["a.b"]
    assert (column.rows, bool(column.present[0])) == (1, present)
    assert column.integers.tolist() == values
    assert column.integer_owners.tolist() == [0] * len(values)


def test_each_type_has_its_own_array() -> None:
    payloads: list[dict[str, Any] | None] = [
        {"v": ["b", 1, 1.5, True, None]},
        {"v": "a"},
        {"v": False},
        {"v": -(2**63)},
    ]
    view = ChunkView(chunk_of(payloads), 4, 1)
    ((rows, block),) = blocks_of(view, ["v"], Breaths())
    column = block["v"]
    assert rows == column.rows == 4
    assert (column.integers.tolist(), column.integer_owners.tolist()) == ([1, -(2**63)], [0, 3])
    assert (column.floats.tolist(), column.float_owners.tolist()) == ([1.5], [0])
    assert (list(column.dictionary), column.words.tolist(), column.word_owners.tolist()) == (
        ["a", "b"],
        [1, 0],
        [0, 1],
    )
    assert column.null.tolist() == column.true.tolist() == [True, False, False, False]
    assert column.false.tolist() == [False, False, True, False]


@pytest.mark.parametrize("count", [0, 1, SAMPLE_STEP + 1, SLICE_VALUES, SLICE_VALUES + 1, 5 * SLICE_VALUES])
def test_a_large_column_is_made_with_breaths(count: int) -> None:
    builder, breathe = ColumnBuilder(("v",)), Breaths()
    words = [f"{number * 7919 % 10_007}" for number in range(count)]
    for number, word in enumerate(words):
        builder.add({"v": [word, number, number / 2]})
    column = builder.column(breathe)
    assert column.dictionary == sorted(set(words))
    assert [column.dictionary[place] for place in column.words.tolist()] == words
    assert column.word_owners.tolist() == column.integers.tolist() == list(range(count))
    assert column.floats.tolist() == [number / 2 for number in range(count)]
    assert breathe.count >= 8 * (count // SLICE_VALUES)


def test_columns_of_growing_rows_are_kept_by_blocks() -> None:
    rows = BLOCK_ROWS * 2 + 10
    chunk = chunk_of([{"n": index % 7} for index in range(rows)], capacity=rows + BLOCK_ROWS)
    parsed = parse_filter({"must": [{"key": "n", "match": {"value": 3}}]}, "filter", 1)
    mask = parsed.matching(ChunkView(chunk, rows, 1), Breaths())
    assert mask.tolist() == [index % 7 == 3 for index in range(rows)]
    kept = chunk.cache[CACHE_KEY + "n"]
    assert isinstance(kept, dict) and sorted(kept) == [0, BLOCK_ROWS]
    assert parsed.matching(ChunkView(chunk, 5, 1), Breaths()).tolist() == mask[:5].tolist()


def test_columns_are_made_once_for_a_sealed_chunk_and_few_are_kept() -> None:
    chunk = chunk_of([{"n": index, **{f"k{field}": 1 for field in range(40)}} for index in range(600)])
    chunk.sealed = True  # type: ignore[misc]
    view = ChunkView(chunk, 600, 1)
    first, second = Breaths(), Breaths()
    parsed = parse_filter({"must": [{"key": "n", "range": {"lt": 10}}]}, "filter", 1)
    assert parsed.matching(view, first).sum() == 10
    assert parsed.matching(view, second).sum() == 10
    assert first.count > second.count, "the first one decodes payloads, with breaths"
    for field in range(40):
        parse_filter({"must": [{"key": f"k{field}", "exists": True}]}, "filter", 1).matching(view, first)
        parsed.matching(view, first)
    kept = [name for name in chunk.cache if name.startswith(CACHE_KEY)]
    assert len(kept) == COLUMNS_MAX
    assert CACHE_KEY + "n" in kept, "what is used stays"


@pytest.mark.parametrize(
    ("values", "dense"),
    [([1, 2, 3], True), ([[1, 2], [], 3], False), ([1, None, 3], False), ([[1], [2], [3, 4]], False)],
)
def test_dense_is_one_value_in_each_row(values: list[Any], dense: bool) -> None:
    view = ChunkView(chunk_of([{"v": value} for value in values]), len(values), 1)
    ((_, block),) = blocks_of(view, ["v"], Breaths())
    assert block["v"].integers_dense is dense
    assert not block["v"].floats_dense
    assert not block["v"].words_dense
    document = {"must": [{"key": "v", "range": {"gte": 2}}]}
    mask = parse_filter(document, "filter", 5).matching(view, lambda: None)
    lists = [value if isinstance(value, list) else [value] for value in values]
    assert mask.tolist() == [any(item is not None and item >= 2 for item in items) for items in lists]
