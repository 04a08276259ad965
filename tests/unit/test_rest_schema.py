"""Tables of fields: what they read, and how they refuse."""

from __future__ import annotations

import math
from typing import Any

import pytest

from vectorizer.errors import RequestError
from vectorizer.rest.schema import Boolean, Choice, Field, Integer, Items, Number, Raw, Table, Text, name_of

TABLE = Table(
    "Example",
    {
        "name": Field(Text(8, pattern="[a-z]+"), "a name", required=True),
        "limit": Field(Integer(1, 10), "how many", default=5),
        "weight": Field(Number(above=0, maximum=1), "how much"),
        "deep": Field(Boolean(), "or not", default=False),
        "kind": Field(Choice(("a", "b")), "which", default="a"),
        "items": Field(Items(2), "some"),
        "payload": Field(Raw("anything"), "nullable", nullable=True),
    },
    {"label": "name"},
)


def refusal(document: Any, where: str = "") -> str:
    with pytest.raises(RequestError) as caught:
        TABLE.read(document, where)
    assert (caught.value.status_code, caught.value.error_type) == (400, "validation_error")
    return caught.value.message


def test_defaults_and_given_values() -> None:
    assert TABLE.read({"name": "x"}) == {
        "name": "x",
        "limit": 5,
        "weight": None,
        "deep": False,
        "kind": "a",
        "items": None,
    }
    given = {"name": "x", "limit": 10, "weight": 1, "deep": True, "kind": "b", "items": [1], "payload": None}
    assert TABLE.read(given) == {**given, "weight": 1.0}
    assert TABLE.read({"label": "x"})["name"] == "x"
    assert TABLE.read({"name": "x", "limit": None})["limit"] == 5, "null is the same as absent"


@pytest.mark.parametrize(
    ("document", "sentence"),
    [
        ([], "the body must be an object, not a list"),
        ({}, "name is missing"),
        ({"name": None}, "name must be a string of 1 to 8 bytes of UTF-8 that matches [a-z]+, not null"),
        ({"name": 3}, "not 3"),
        ({"name": ""}, "it has 0 bytes"),
        ({"name": "ü" * 5}, "it has 10 bytes"),
        ({"name": "A"}, "not 'A'"),
        ({"name": "x", "label": "y"}, "name is given twice: once as label"),
        ({"name": "x", "limits": 1}, "unknown field 'limits'; did you mean limit?"),
        ({"name": "x", "zzz": 1}, "unknown field 'zzz'; known: name, limit"),
        ({"name": "x", "limit": 0}, "limit must be a whole number from 1 to 10, not 0"),
        ({"name": "x", "limit": 11}, "not 11"),
        ({"name": "x", "limit": 1.0}, "not 1.0"),
        ({"name": "x", "limit": True}, "not a boolean"),
        ({"name": "x", "limit": "1"}, "not a string"),
        ({"name": "x", "weight": 0}, "weight must be a finite number above 0 and at most 1, not 0"),
        ({"name": "x", "weight": 1.5}, "not 1.5"),
        ({"name": "x", "weight": math.nan}, "not nan"),
        ({"name": "x", "weight": 10**400}, "weight must be a finite number"),
        ({"name": "x", "weight": [1]}, "not a list"),
        ({"name": "x", "deep": 1}, "deep must be true or false, not 1"),
        ({"name": "x", "kind": "c"}, "kind must be one of a, b, not 'c'"),
        ({"name": "x", "kind": {}}, "not an object"),
        ({"name": "x", "items": []}, "items must be a list of 1 to 2 items, it has 0"),
        ({"name": "x", "items": [1, 2, 3]}, "it has 3"),
        ({"name": "x", "items": b"12"}, "not binary"),
    ],
)
def test_refusals_name_the_field(document: Any, sentence: str) -> None:
    assert sentence in refusal(document)


def test_the_place_is_named() -> None:
    assert refusal({"name": 1}, "searches[3]").startswith("searches[3].name must be")
    assert refusal(1, "searches[3]") == "searches[3] must be an object, not 1"
    assert "in searches[3]" in refusal({"nam": 1}, "searches[3]")


QUERY = Table(
    "Query",
    {
        "limit": Field(Integer(1, 10), "how many", default=5),
        "cursor": Field(Text(8), "where"),
        "deep": Field(Boolean(), "or not"),
        "lag": Field(Number(), "how late"),
        "kind": Field(Choice(("a", "b")), "which"),
        "list": Field(Items(1), "not in a query"),
        "raw": Field(Raw("anything"), "not in a query"),
    },
)


def test_query_strings() -> None:
    assert QUERY.read_query([])["limit"] == 5
    pairs = [("limit", "7"), ("cursor", "x"), ("deep", "true"), ("lag", "1.5"), ("kind", "b")]
    values = QUERY.read_query(pairs)
    assert (values["limit"], values["cursor"], values["deep"], values["lag"]) == (7, "x", True, 1.5)
    assert QUERY.read_query([("deep", "false")])["deep"] is False


@pytest.mark.parametrize(
    ("pairs", "sentence"),
    [
        ([("limit", "x")], "query parameter limit must be a whole number from 1 to 10, not 'x'"),
        ([("limit", "99")], "not 99"),
        ([("limit", "1"), ("limit", "2")], "query parameter limit is given twice"),
        ([("limt", "1")], "unknown query parameter 'limt'; did you mean limit?"),
        ([("deep", "yes")], "true or false, not 'yes'"),
        ([("lag", "slow")], "a finite number, not 'slow'"),
        ([("lag", "inf")], "a finite number"),
        ([("cursor", "")], "it has 0 bytes"),
        ([("list", "1")], "cannot be given in a query string"),
        ([("raw", "1")], "cannot be given in a query string"),
    ],
)
def test_refused_query_strings(pairs: list[tuple[str, str]], sentence: str) -> None:
    with pytest.raises(RequestError) as caught:
        QUERY.read_query(pairs)
    assert sentence in caught.value.message


def test_a_route_without_parameters_says_so() -> None:
    with pytest.raises(RequestError, match="this route takes none"):
        Table("None", {}).read_query([("a", "1")])
    with pytest.raises(RequestError, match="query parameter a is missing"):
        Table("One", {"a": Field(Boolean(), "", required=True)}).read_query([])


@pytest.mark.parametrize(
    ("value", "name"),
    [(None, "null"), (True, "a boolean"), (1.5, "a number"), ("", "a string"), ({1, 2}, "a set")],
)
def test_names_of_kinds(value: Any, name: str) -> None:
    assert name_of(value) == name
