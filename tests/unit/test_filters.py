"""Filters against a naive evaluator, and the sentences they refuse with."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.chunks import Breaths, chunk_of
from vectorizer import codec
from vectorizer.errors import RequestError
from vectorizer.filters import DEPTH_MAX, VALUES_MAX, parse_filter
from vectorizer.storage.chunk import ChunkView


def matching(
    filter_: dict[str, Any], payloads: list[dict[str, Any] | None], *, sealed: bool = False
) -> list[bool]:
    chunk = chunk_of(payloads)
    chunk.sealed = sealed  # type: ignore[misc]
    parsed = parse_filter(filter_, "filter", 256)
    mask = parsed.matching(ChunkView(chunk, len(payloads), 1), Breaths())
    assert mask.dtype == np.bool_ and mask.shape == (len(payloads),)
    again = parsed.matching(ChunkView(chunk, len(payloads), 1), Breaths())
    single = [parsed.matches(codec.encode_payload(payload)) for payload in payloads]
    assert mask.tolist() == again.tolist() == single
    return [bool(item) for item in mask]


# -- a naive evaluator: no arrays, no exactness tricks but Python's own --------------------------------------


def values_at(value: Any, path: list[str]) -> tuple[bool, list[Any]]:
    if isinstance(value, list):
        parts = [values_at(item, path) for item in value]
        return not path or any(there for there, _ in parts), [leaf for _, leaves in parts for leaf in leaves]
    if not path:
        return True, [value]
    if isinstance(value, dict) and path[0] in value:
        return values_at(value[path[0]], path[1:])
    return False, []


def kind_of(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    return "number" if isinstance(value, int | float) else type(value).__name__


def naive_condition(condition: dict[str, Any], document: Any) -> bool:
    there, values = values_at(document or {}, condition["key"].split("."))
    if "exists" in condition:
        return there is condition["exists"]
    if "match" in condition:
        match = condition["match"]
        wanted = [match["value"]] if "value" in match else match["any"]
        return any(kind_of(value) == kind_of(item) and value == item for value in values for item in wanted)
    tests = {
        "gt": lambda value, bound: value > bound,
        "gte": lambda value, bound: value >= bound,
        "lt": lambda value, bound: value < bound,
        "lte": lambda value, bound: value <= bound,
    }
    bounds = condition["range"].items()
    kinds = {kind_of(bound) for _, bound in bounds}
    return any(
        {kind_of(value)} == kinds and all(tests[name](value, bound) for name, bound in bounds)
        for value in values
    )


def naive(clause: dict[str, Any], document: Any) -> bool:
    if "key" in clause:
        return naive_condition(clause, document)
    return (
        all(naive(part, document) for part in clause.get("must", []))
        and ("should" not in clause or any(naive(part, document) for part in clause["should"]))
        and not any(naive(part, document) for part in clause.get("must_not", []))
    )


KEYS = st.sampled_from(["a", "b", "c"])
INTEGERS = st.one_of(
    st.integers(-3, 3),
    st.sampled_from([2**53, 2**53 + 1, -(2**53) - 1, 2**63 - 1, 2**63 - 512, -(2**63)]),
    st.integers(-(2**63), 2**63 - 1),
)
FLOATS = st.one_of(
    st.integers(-6, 6).map(lambda number: number / 2),
    st.sampled_from([2.0**53, 2.0**53 + 2, 2.0**63, -(2.0**63), 1e300, -1e300, -0.0, 5e-324]),
    st.floats(allow_nan=False, allow_infinity=False),
)
WORDS = st.one_of(st.sampled_from(["", "a", "b", "ab", "é", "𝄞", "\uffff", "1"]), st.text(max_size=3))
SCALARS = st.one_of(st.none(), st.booleans(), INTEGERS, FLOATS, WORDS)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=3)),
    max_leaves=6,
)
PAYLOADS = st.one_of(st.none(), st.dictionaries(KEYS, VALUES, max_size=3))
PATHS = st.lists(KEYS, min_size=1, max_size=3).map(".".join)
BOUND_NAMES = st.sampled_from(["gt", "gte", "lt", "lte"])
TESTS = st.one_of(
    st.fixed_dictionaries({"exists": st.booleans()}),
    st.fixed_dictionaries({"match": st.fixed_dictionaries({"value": SCALARS})}),
    st.fixed_dictionaries(
        {"match": st.fixed_dictionaries({"any": st.lists(SCALARS, min_size=1, max_size=4)})}
    ),
    st.fixed_dictionaries({"range": st.dictionaries(BOUND_NAMES, st.one_of(INTEGERS, FLOATS), min_size=1)}),
    st.fixed_dictionaries({"range": st.dictionaries(BOUND_NAMES, WORDS, min_size=1)}),
)
CONDITIONS = st.tuples(PATHS, TESTS).map(lambda pair: {"key": pair[0], **pair[1]})
CLAUSE_NAMES = st.sampled_from(["must", "should", "must_not"])
FILTERS = st.dictionaries(
    CLAUSE_NAMES,
    st.lists(
        st.recursive(
            CONDITIONS,
            lambda inner: st.dictionaries(
                CLAUSE_NAMES, st.lists(inner, min_size=1, max_size=3), min_size=1, max_size=3
            ),
            max_leaves=4,
        ),
        min_size=1,
        max_size=3,
    ),
    min_size=1,
)


@settings(max_examples=150, deadline=None)
@given(FILTERS, st.lists(PAYLOADS, max_size=6), st.booleans())
def test_a_filter_decides_as_the_naive_evaluator(
    filter_: dict[str, Any], payloads: list[dict[str, Any] | None], sealed: bool
) -> None:
    assert matching(filter_, payloads, sealed=sealed) == [naive(filter_, payload) for payload in payloads]


@pytest.mark.parametrize(
    ("condition", "payload", "expected"),
    [
        ({"match": {"value": 1}}, {"a": 1.0}, True),
        ({"match": {"value": 1}}, {"a": True}, False),
        ({"match": {"value": True}}, {"a": 1}, False),
        ({"match": {"value": "1"}}, {"a": 1}, False),
        ({"match": {"value": None}}, {"a": None}, True),
        ({"match": {"value": None}}, {}, False),
        ({"match": {"value": "x"}}, {"a": ["w", "x"]}, True),
        ({"match": {"any": ["x", 2]}}, {"a": 2}, True),
        ({"match": {"value": 2**53}}, {"a": 2**53 + 1}, False),
        ({"match": {"value": 2.0**53}}, {"a": 2**53 + 1}, False),
        ({"range": {"gt": 2.0**53}}, {"a": 2**53 + 1}, True),
        ({"range": {"gt": 1, "lt": 3}}, {"a": [0, 4]}, False),
        ({"range": {"gt": 1, "lt": 3}}, {"a": [0, 2]}, True),
        ({"range": {"gte": "2024-01-01"}}, {"a": "2024-06-30"}, True),
        ({"range": {"gte": 0}}, {"a": "5"}, False),
        ({"exists": True}, {"a": None}, True),
        ({"exists": True}, {"a": []}, True),
        ({"exists": False}, {"b": 1}, True),
        ({"exists": False}, None, True),
        ({"match": {"value": 10**30}}, {"a": 1}, False),
        ({"range": {"lt": 10**30}}, {"a": 1}, True),
        ({"range": {"gt": -math.inf}}, {"a": 1}, True),
        ({"range": {"gt": math.inf}}, {"a": 1}, False),
        ({"range": {"lte": math.inf}}, {"a": 1.5}, True),
    ],
)
def test_meaning(condition: dict[str, Any], payload: dict[str, Any] | None, expected: bool) -> None:
    assert matching({"must": [{"key": "a", **condition}]}, [payload]) == [expected]


@pytest.mark.parametrize(
    ("document", "sentence"),
    [
        ([], "filter must be an object"),
        ({}, "filter is empty"),
        ({"must": []}, "filter.must must be a list of at least one"),
        ({"must": {"key": "a", "exists": True}}, "filter.must must be a list"),
        ({"moist": [{"key": "a", "exists": True}]}, "unknown field 'moist' in filter; known: must, should"),
        ({"must": [1]}, "filter.must[0] must be a condition or a filter"),
        ({"must": [{}]}, "filter.must[0].key must be a string"),
        ({"must": [{"key": "", "exists": True}]}, "filter.must[0].key must be a string of 1 to"),
        ({"must": [{"key": "a"}]}, "exactly one of match, range, exists"),
        ({"must": [{"key": "a", "exists": True, "match": {"value": 1}}]}, "exactly one of"),
        ({"must": [{"key": "a", "exist": True}]}, "unknown field 'exist' in filter.must[0]"),
        ({"must": [{"key": "a", "exists": 1}]}, "filter.must[0].exists must be true or false"),
        (
            {"must": [{"key": "a", "match": 1}]},
            "filter.must[0].match must be an object with either value or any",
        ),
        ({"must": [{"key": "a", "match": {"value": 1, "any": [1]}}]}, "either value or any"),
        ({"must": [{"key": "a", "match": {"any": []}}]}, "filter.must[0].match.any must be a list"),
        (
            {"must": [{"key": "a", "match": {"any": [[1]]}}]},
            "compares with strings, numbers, booleans and null",
        ),
        ({"must": [{"key": "a", "range": {}}]}, "filter.must[0].range must be an object"),
        ({"must": [{"key": "a", "range": {"ge": 1}}]}, "unknown field 'ge' in filter.must[0].range"),
        ({"must": [{"key": "a", "range": {"gt": 1, "lt": "b"}}]}, "all numbers or all strings"),
        ({"must": [{"key": "a", "range": {"gt": True}}]}, "all numbers or all strings"),
        ({"must": [{"key": "a", "range": {"gt": math.nan}}]}, "all numbers or all strings"),
        ({"must": [{"should": [{"key": "a", "exists": 0}]}]}, "filter.must[0].should[0].exists"),
    ],
)
def test_refusals_name_the_place(document: Any, sentence: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse_filter(document, "filter", 256)
    assert caught.value.status_code == 400
    assert sentence in caught.value.message


def test_the_values_of_a_filter_are_bounded_together() -> None:
    half = {"key": "a", "match": {"any": ["x"] * (VALUES_MAX // 2)}}
    parse_filter({"must": [half, half]}, "filter", 5)
    with pytest.raises(RequestError, match=f"{VALUES_MAX + 1} values in `any`, the limit is {VALUES_MAX}"):
        parse_filter({"must": [half, half, {"key": "a", "match": {"any": [1]}}]}, "filter", 5)


def test_number_of_conditions_and_depth_are_bounded() -> None:
    condition = {"key": "a", "exists": True}
    parse_filter({"must": [condition] * 5}, "filter", 5)
    with pytest.raises(RequestError, match="more than 5 conditions"):
        parse_filter({"must": [condition] * 6}, "filter", 5)
    nested: dict[str, Any] = {"must": [condition]}
    for _ in range(DEPTH_MAX - 1):
        nested = {"must": [nested]}
    parse_filter(nested, "filter", 5)
    with pytest.raises(RequestError, match=f"nested {DEPTH_MAX + 1} levels deep, the limit is {DEPTH_MAX}"):
        parse_filter({"must": [nested]}, "filter", 5)
