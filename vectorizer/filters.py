"""Filters: conditions on payload fields, parsed from requests and evaluated on columns.

    filter    = {"must"?: [clause…], "should"?: [clause…], "must_not"?: [clause…]}, at least one of them
    clause    = filter | condition
    condition = {"key": "a.b", "match": {"value": scalar} | {"any": [scalar…]}}
              | {"key": "a.b", "range": {"gt"?, "gte"?, "lt"?, "lte"?: number | string}}
              | {"key": "a.b", "exists": true | false}

All of ``must``, at least one of ``should``, none of ``must_not``. A list stands for its items: a condition
holds for a row if it holds for any value at its path, a range with all its bounds for the same value. Values
of different types are never equal and never in order, but numbers are numbers: 1 equals 1.0, and true is not
1. A missing field satisfies nothing but ``exists: false``. Comparisons of integers with floats are exact.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from vectorizer.columns import Block, Breathe, Column, Mask, Owners, block_of_payload, blocks_of, go_on
from vectorizer.errors import validation
from vectorizer.storage.chunk import ChunkView

DEPTH_MAX = 16
KEY_BYTES_MAX = 1024
VALUES_MAX = 50_000
"""Values in all ``any`` of a filter: parsing them, and looking them up in a block, holds the event loop."""
CLAUSES = ("must", "should", "must_not")
TESTS = ("match", "range", "exists")
BOUNDS = ("gt", "gte", "lt", "lte")
INT64_MIN = -(2**63)
INT64_MAX = 2**63 - 1

Scalar = bool | int | float | str | None


class Node(Protocol):
    """A part of a filter."""

    def mask(self, block: Block, breathe: Breathe) -> Mask:
        """Which rows of the block satisfy it."""


@dataclass(frozen=True, slots=True)
class Clauses:
    """must, should and must_not together."""

    must: tuple[Node, ...]
    should: tuple[Node, ...]
    must_not: tuple[Node, ...]

    def mask(self, block: Block, breathe: Breathe) -> Mask:
        parts = [node.mask(block, breathe) for node in self.must]
        if self.should:
            parts.append(np.logical_or.reduce([node.mask(block, breathe) for node in self.should]))
        parts.extend(~node.mask(block, breathe) for node in self.must_not)
        breathe()
        result: Mask = np.logical_and.reduce(parts)
        return result


@dataclass(frozen=True, slots=True)
class Exists:
    """The path leads to something, or does not."""

    path: str
    wanted: bool

    def mask(self, block: Block, breathe: Breathe) -> Mask:
        present = block[self.path].present
        return present if self.wanted else ~present


@dataclass(frozen=True, slots=True)
class Match:
    """A value equal to one of a few scalars."""

    path: str
    values: tuple[Scalar, ...]
    integers: tuple[int, ...]
    """The numbers among the values that an int64 can equal."""
    floats: tuple[float, ...]
    """Those that a float can equal."""

    def mask(self, block: Block, breathe: Breathe) -> Mask:
        breathe()
        column = block[self.path]
        mask = np.zeros(column.rows, np.bool_)
        for value in self.values:
            if value is None:
                mask |= column.null
            elif value is True:
                mask |= column.true
            elif value is False:
                mask |= column.false
        if self.integers and len(column.integers):
            found = np.isin(column.integers, np.array(self.integers, np.int64))
            _mark(mask, found, column.integer_owners, column.integers_dense)
        if self.floats and len(column.floats):
            found = np.isin(column.floats, np.array(self.floats, np.float64))
            _mark(mask, found, column.float_owners, column.floats_dense)
        places = [_place(column, value) for value in self.values if isinstance(value, str)]
        known = [place for place in places if place is not None]
        if known:
            found = np.isin(column.words, np.array(known, np.int32))
            _mark(mask, found, column.word_owners, column.words_dense)
        return mask


@dataclass(frozen=True, slots=True)
class NumberRange:
    """A number between bounds."""

    path: str
    low: int
    high: int
    """Bounds for integers, inclusive."""
    floats: tuple[tuple[np.ufunc, float], ...]
    """Comparisons for floats."""

    def mask(self, block: Block, breathe: Breathe) -> Mask:
        breathe()
        column = block[self.path]
        mask = np.zeros(column.rows, np.bool_)
        if self.low <= self.high and len(column.integers):
            inside = (column.integers >= self.low) & (column.integers <= self.high)
            _mark(mask, inside, column.integer_owners, column.integers_dense)
        if len(column.floats):
            inside = np.logical_and.reduce([compare(column.floats, bound) for compare, bound in self.floats])
            _mark(mask, inside, column.float_owners, column.floats_dense)
        return mask


@dataclass(frozen=True, slots=True)
class WordRange:
    """A string between bounds, in the order of code points."""

    path: str
    bounds: tuple[tuple[str, str], ...]

    def mask(self, block: Block, breathe: Breathe) -> Mask:
        breathe()
        column = block[self.path]
        low, high = 0, len(column.dictionary)
        for name, bound in self.bounds:
            # Places before the first string that is greater (right) or not less (left) than the bound.
            find = bisect.bisect_right if name in ("gt", "lte") else bisect.bisect_left
            place = find(column.dictionary, bound)
            low, high = (max(low, place), high) if name in ("gt", "gte") else (low, min(high, place))
        mask = np.zeros(column.rows, np.bool_)
        inside = (column.words >= low) & (column.words < high)
        _mark(mask, inside, column.word_owners, column.words_dense)
        return mask


@dataclass(frozen=True, slots=True)
class Filter:
    """A parsed filter."""

    root: Node
    paths: tuple[str, ...]

    def matching(self, view: ChunkView, breathe: Breathe) -> Mask:
        """(rows,) bool: which rows of the view satisfy it, dead ones included."""
        masks = [
            self.root.mask(block, breathe)[:rows] for rows, block in blocks_of(view, self.paths, breathe)
        ]
        return np.concatenate(masks) if masks else np.zeros(0, np.bool_)

    def matches(self, payload: bytes) -> bool:
        """Whether a single payload (canonical BSON or ``b""``) satisfies it."""
        return bool(self.root.mask(block_of_payload(payload, self.paths), go_on)[0])


def parse_filter(document: Any, where: str, conditions_max: int) -> Filter:
    """The filter in a request. RequestError 400 names the part that is wrong."""
    parser = _Parser(conditions_max)
    root = parser.clauses(document, where, 1)
    return Filter(root, tuple(parser.paths))


def _mark(mask: Mask, found: Mask, owners: Owners, dense: bool) -> None:
    """Set the rows that own a found value; where each owns one, five times as fast."""
    if dense:
        np.logical_or(mask, found, out=mask)
    else:
        mask[owners[found]] = True


def _place(column: Column, word: str) -> int | None:
    place = bisect.bisect_left(column.dictionary, word)
    return place if place < len(column.dictionary) and column.dictionary[place] == word else None


@dataclass(slots=True)
class _Parser:
    conditions_max: int
    conditions: int = 0
    values: int = 0
    paths: dict[str, None] = field(default_factory=dict)

    def clauses(self, document: Any, where: str, depth: int) -> Clauses:
        if not isinstance(document, Mapping):
            raise validation(f"{where} must be an object with some of {', '.join(CLAUSES)}", field=where)
        if depth > DEPTH_MAX:
            raise validation(f"{where} is nested {depth} levels deep, the limit is {DEPTH_MAX}", field=where)
        _only(document, CLAUSES, where)
        if not document:
            raise validation(f"{where} is empty; it needs at least one of {', '.join(CLAUSES)}", field=where)
        parts = {name: self._clause_list(document[name], f"{where}.{name}", depth) for name in document}
        return Clauses(parts.get("must", ()), parts.get("should", ()), parts.get("must_not", ()))

    def _clause_list(self, items: Any, where: str, depth: int) -> tuple[Node, ...]:
        if not isinstance(items, list) or not items:
            raise validation(f"{where} must be a list of at least one condition or filter", field=where)
        return tuple(self._clause(item, f"{where}[{index}]", depth) for index, item in enumerate(items))

    def _clause(self, item: Any, where: str, depth: int) -> Node:
        if isinstance(item, Mapping) and "key" not in item and any(name in item for name in CLAUSES):
            return self.clauses(item, where, depth + 1)
        return self._condition(item, where)

    def _condition(self, item: Any, where: str) -> Node:
        if not isinstance(item, Mapping):
            raise validation(f"{where} must be a condition or a filter", field=where)
        self.conditions += 1
        if self.conditions > self.conditions_max:
            raise validation(
                f"the filter has more than {self.conditions_max} conditions", limit=self.conditions_max
            )
        _only(item, ("key", *TESTS), where)
        key = item.get("key")
        if not isinstance(key, str) or not 1 <= len(key.encode()) <= KEY_BYTES_MAX:
            raise validation(
                f"{where}.key must be a string of 1 to {KEY_BYTES_MAX} bytes", field=f"{where}.key"
            )
        tests = [name for name in TESTS if name in item]
        if len(tests) != 1:
            raise validation(f"{where} must have exactly one of {', '.join(TESTS)}", field=where)
        self.paths[key] = None
        test = tests[0]
        self._count_values(item[test])
        read = {"match": _match, "range": _range, "exists": _exists}[test]
        return read(key, item[test], f"{where}.{test}")

    def _count_values(self, document: Any) -> None:
        values = document.get("any") if isinstance(document, Mapping) else None
        self.values += len(values) if isinstance(values, list) else 0
        if self.values > VALUES_MAX:
            raise validation(
                f"the filter compares with {self.values} values in `any`, the limit is {VALUES_MAX}",
                limit=VALUES_MAX,
            )


def _only(document: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    for name in document:
        if name not in known:
            raise validation(
                f"unknown field {name[:64]!r} in {where}; known: {', '.join(known)}", field=where
            )


def _exists(path: str, wanted: Any, where: str) -> Exists:
    if not isinstance(wanted, bool):
        raise validation(f"{where} must be true or false", field=where)
    return Exists(path, wanted)


def _match(path: str, document: Any, where: str) -> Match:
    if (
        not isinstance(document, Mapping)
        or len(document) != 1
        or next(iter(document)) not in ("value", "any")
    ):
        raise validation(f"{where} must be an object with either value or any", field=where)
    if "value" in document:
        values = [document["value"]]
    else:
        values = document["any"]
        if not isinstance(values, list) or not values:
            raise validation(f"{where}.any must be a list of at least one value", field=where)
    for value in values:
        if value is not None and not isinstance(value, bool | int | float | str):
            raise validation(f"{where} compares with strings, numbers, booleans and null only", field=where)
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    whole = [int(number) for number in numbers if math.isfinite(number) and number == int(number)]
    return Match(
        path,
        tuple(values),
        tuple(number for number in whole if INT64_MIN <= number <= INT64_MAX),
        tuple(float(number) for number in numbers if _is_float(number)),
    )


def _is_float(number: float) -> bool:
    """Whether a float can equal this number exactly."""
    return isinstance(number, float) or int(float(number)) == number


def _range(path: str, document: Any, where: str) -> Node:
    if not isinstance(document, Mapping) or not document:
        raise validation(f"{where} must be an object with some of {', '.join(BOUNDS)}", field=where)
    _only(document, BOUNDS, where)
    values = list(document.values())
    if all(isinstance(value, str) for value in values):
        return WordRange(path, tuple(document.items()))
    if any(
        not isinstance(value, int | float) or isinstance(value, bool) or value != value for value in values
    ):
        raise validation(f"{where} must have bounds that are all numbers or all strings", field=where)
    low, high = INT64_MIN, INT64_MAX
    for name, bound in document.items():
        bottom, top = _integer_bounds(name, bound)
        low, high = max(low, bottom), min(high, top)
    return NumberRange(path, low, high, tuple(_float_bound(name, bound) for name, bound in document.items()))


def _integer_bounds(name: str, bound: float) -> tuple[int, int]:
    """The lowest and the highest int64 that satisfy a bound; lowest above highest if none does."""
    if math.isinf(bound):
        everything = (bound < 0) == (name in ("gt", "gte"))
        return (INT64_MIN, INT64_MAX) if everything else (1, 0)
    match name:
        case "gt":
            return math.floor(bound) + 1, INT64_MAX
        case "gte":
            return math.ceil(bound), INT64_MAX
        case "lt":
            return INT64_MIN, math.ceil(bound) - 1
        case _:
            return INT64_MIN, math.floor(bound)


def _float_bound(name: str, bound: float) -> tuple[np.ufunc, float]:
    """A comparison of floats that decides as the exact one would.

    An integer bound may lie between two floats; the nearest one then stands for it, and whether it is itself
    on the right side decides between strict and not.
    """
    nearest = float(bound)
    exact = int(nearest) if math.isfinite(nearest) and isinstance(bound, int) else bound
    match name:
        case "gt":
            return (np.greater_equal if exact > bound else np.greater), nearest
        case "gte":
            return (np.greater_equal if exact >= bound else np.greater), nearest
        case "lt":
            return (np.less_equal if exact < bound else np.less), nearest
        case _:
            return (np.less_equal if exact <= bound else np.less), nearest
