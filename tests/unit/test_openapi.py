"""The document about the API is held to the table of routes, the standard, and real answers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from http.client import HTTPConnection
from typing import Any

import bson
import numpy as np
import orjson
import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from tests.unit.rest_client import BSON, JSON
from tests.unit.running import wait_until
from tests.unit.served import Served
from vectorizer.cli import main
from vectorizer.rest.exchange import Route
from vectorizer.rest.openapi import document
from vectorizer.rest.schema import Boolean, Choice, Field, Integer, Items, Number, Table, Text
from vectorizer.rest.shapes import STRING, Named
from vectorizer.sections import Limits

Serve = Callable[..., Served]
ONE = "/collections/things"
FILTER = {
    "must": [{"key": "n", "match": {"any": [1, "x", None]}}, {"should": [{"key": "n", "exists": True}]}],
    "must_not": [{"key": "n", "range": {"gt": 2, "lte": 3.5}}],
}


class Described:
    """A server, and the document by which everything it answers is checked."""

    def __init__(self, serving: Served) -> None:
        self.serving = serving
        self.document = serving.told("GET", "/openapi.json")
        self.seen: set[tuple[str, str]] = set()

    def validator(self, schema: Any) -> Draft202012Validator:
        return Draft202012Validator({**schema, "components": self.document["components"]})

    def template_of(self, path: str) -> str:
        """The path of the document that is meant; the one with the most words if several fit."""
        fitting = [
            template
            for template in self.document["paths"]
            if re.fullmatch(re.sub(r"\\{\w+\\}", "[^/]+", re.escape(template)), path.partition("?")[0])
        ]
        return max(fitting, key=lambda template: len(re.sub(r"{\w+}", "", template)))

    def ask(self, method: str, path: str, body: Any = None, *, kind: str = JSON, status: int = 200) -> Any:
        """The decoded answer, after both sides of the exchange were held to the document."""
        template = self.template_of(path)
        operation = self.document["paths"][template][method.lower()]
        if body is not None and kind == JSON:
            self.validator(operation["requestBody"]["content"][JSON]["schema"]).validate(body)
        connection = HTTPConnection(*self.serving.server.rest_address, timeout=20)
        try:
            encoded = None if body is None else bson.encode(body) if kind == BSON else orjson.dumps(body)
            connection.request(method, path, encoded, {"Content-Type": kind, "Accept": kind})
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        assert answer.status == status, content
        told = operation["responses"][str(status)]
        for name in told.get("headers", {}) if status < 300 else ():
            assert answer.headers[name] is not None
        if status < 300:
            self.seen.add((method, template))
        if method == "HEAD":
            return None
        given = answer.headers["Content-Type"]
        schema = told["content"][given]["schema"]
        if given == BSON:
            decoded = unpacked(bson.decode(content))
            self.validator(schema["contentSchema"]).validate(decoded)
        else:
            decoded = orjson.loads(content) if given == JSON else content.decode()
            self.validator(schema).validate(decoded)
        return decoded


def unpacked(value: Any) -> Any:
    """A BSON answer with its packed vectors as lists."""
    if isinstance(value, bytes):
        return np.frombuffer(value, "<f4").tolist()
    if isinstance(value, list):
        return [unpacked(item) for item in value]
    return {key: unpacked(item) for key, item in value.items()} if isinstance(value, dict) else value


@pytest.fixture
def described(serve: Serve) -> Described:
    return Described(serve("one", replication__role="master", replication__bind_address="127.0.0.1:0"))


def rows_of(serving: Served) -> Iterator[tuple[str, str]]:
    """Method and path of each route, as the document writes them."""
    server = serving.server
    for route in server.application.routes:
        path = re.sub(r"<(\w+)[^>]*>", r"{\1}", route.path)
        yield route.method, path
        if route.head:
            yield "HEAD", path


def test_the_document_is_openapi(described: Described) -> None:
    OpenAPIV31SpecValidator(described.document).validate()
    for schema in described.document["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)
    ids = [
        operation["operationId"]
        for path in described.document["paths"].values()
        for operation in path.values()
    ]
    assert len(set(ids)) == len(ids)


def test_each_route_is_in_the_document_and_nothing_else(described: Described) -> None:
    told = {
        (method.upper(), path) for path, methods in described.document["paths"].items() for method in methods
    }
    assert told == set(rows_of(described.serving))


def test_every_route_says_what_it_answers(described: Described) -> None:
    silent = [route.path for route in described.serving.server.application.routes if not route.answers]
    assert silent == []


def write_and_read(node: Described) -> None:
    """Everything that can be asked about one collection."""
    node.ask(
        "POST", "/collections", {"name": "things", "dimension": 2, "similarity_metric": "dot"}, status=201
    )
    vectors = [{"id": f"v{n}", "vector": [n, 1.5], "payload": {"n": n}} for n in range(4)]
    node.ask("POST", f"{ONE}/vectors?wait=1&timeout_ms=0", {"vectors": [*vectors, {"vector": [1, 1]}]})
    columns = {"ids": ["a", "b"], "vectors": np.ones((2, 2), "<f4").tobytes(), "payloads": [None, {"n": 1}]}
    node.ask("POST", f"{ONE}/vectors", columns, kind=BSON)
    node.ask("GET", f"{ONE}/vectors?limit=3")
    node.ask("GET", f"{ONE}/vectors", kind=BSON)
    node.ask("GET", f"{ONE}/vectors/v1?min_offset=2")
    node.ask("PUT", f"{ONE}/vectors/v1", {"payload": None})
    search = {"vector": [1, 2], "filter": FILTER, "with_vector": True, "limit": 3}
    node.ask("POST", f"{ONE}/search", search)
    node.ask("POST", f"{ONE}/search/batch", {"searches": [search, {"id": "v2", "with_payload": False}]})
    node.ask("POST", f"{ONE}/search/batch", {"searches": [search]}, kind=BSON)
    node.ask("GET", "/collections")
    node.ask("GET", ONE)
    node.ask("GET", f"{ONE}/digest")
    node.ask("DELETE", f"{ONE}/vectors/v0")
    node.ask("POST", f"{ONE}/vectors/delete", {"ids": ["v2", "missing"]})
    node.ask("POST", f"{ONE}/vectors/delete", {"filter": FILTER})
    node.ask("DELETE", ONE)


def be_refused(node: Described) -> None:
    """Errors have one form."""
    node.ask("GET", f"{ONE}", status=404)
    node.ask("POST", "/collections", {"name": "one", "dimension": 2}, status=201)
    node.ask("POST", "/collections", {"name": "one", "dimension": 2}, status=409)
    node.ask("GET", "/collections/one?limt=1", status=400)
    node.ask("GET", "/collections/one?min_offset=1000&timeout_ms=0", status=412)
    node.ask("POST", "/replication/switchover", {"target": "nobody"}, status=409)
    node.ask("POST", "/replication/switchover/abort", status=409)


def look_around(node: Described) -> None:
    """All that is read without naming a collection; ``/replica`` has another node to answer for it."""
    for path, methods in node.document["paths"].items():
        if "get" not in methods or "{" in path or path == "/replica":
            continue
        needed = [row["name"] for row in methods["get"]["parameters"] if row["required"]]
        node.ask("GET", path + "".join(f"?{name}=0" for name in needed))
        if "head" in methods:
            node.ask("HEAD", path)


def test_real_answers_are_as_they_are_described(described: Described, serve: Serve) -> None:
    write_and_read(described)
    be_refused(described)
    look_around(described)
    serving = described.serving
    replica = Described(serve("two"))
    replica.ask("POST", "/replication/follow", {"master_address": serving.address})
    follows_up(replica, serving)
    described.ask("GET", "/replication/status")
    described.ask("GET", "/replication/replicas")
    replica.ask("GET", "/replication/status")
    replica.ask("GET", "/replication/stats")
    replica.ask("GET", "/replica")
    replica.ask("HEAD", "/replica")
    replica.ask("POST", "/collections", {"name": "two", "dimension": 2}, status=403)
    replica.ask("POST", "/replication/configure", {"bind_address": "127.0.0.1:0", "log_size": 500})
    follows_up(replica, serving)
    described.ask("POST", "/replication/switchover", {})
    replica.ask("POST", "/replication/promote", {"force": True})
    asked = described.seen | replica.seen
    # A switchover can only be ended while it runs: that is held to its words, not to this document.
    assert set(rows_of(serving)) - asked == {("POST", "/replication/switchover/abort")}


def follows_up(replica: Described, master: Served) -> None:
    wait_until(lambda: replica.serving.streams)
    wait_until(lambda: replica.serving.server.database.node.offset == master.server.database.node.offset)


class Page(HTMLParser):
    """Collects what a page refers to, and notes what is not closed."""

    VOID = frozenset({"meta", "br"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: set[str] = set()
        self.references: list[str] = []
        self.tags: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name == "id":
                assert value not in self.ids
                self.ids.add(str(value))
            elif name in ("href", "src"):
                self.references.append(str(value))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_shows_every_operation_and_needs_nothing_from_outside(described: Described) -> None:
    text = described.ask("GET", "/docs")
    page = Page(text)
    assert page.open == []
    assert page.tags & {"script", "link", "img", "iframe", "object"} == set()
    assert {reference for reference in page.references if not reference.startswith("#")} == {"openapi.json"}
    assert {reference[1:] for reference in page.references if reference.startswith("#")} <= page.ids
    for methods in described.document["paths"].values():
        for method, operation in methods.items():
            assert method == "head" or operation["operationId"] in page.ids
    assert {f"schema-{name}" for name in described.document["components"]["schemas"]} <= page.ids
    assert "prefers-color-scheme: dark" in text
    assert 'name="viewport"' in text
    assert "url(" not in text and "@import" not in text


def test_tables_become_schemas() -> None:
    table = Table(
        "Example",
        {
            "name": Field(Text(8, pattern="[a-z]+"), "a name", required=True),
            "limit": Field(Integer(1, 10), "how many", default=-1),
            "weight": Field(Number(above=0, maximum=1), "how much", default=0.5),
            "deep": Field(Boolean(), "or not"),
            "kind": Field(Choice(("a", "b")), "which", default="a"),
            "items": Field(Items(2, of=STRING), "some"),
        },
        {"sort": "kind"},
    )
    shape = table.named.shape
    assert (shape["required"], shape["additionalProperties"]) == (["name"], False)
    properties = shape["properties"]
    text = {"type": "string", "minLength": 1, "maxLength": 8, "pattern": "^(?:[a-z]+)$"}
    assert properties["name"] == {**text, "description": "a name"}
    whole = {"type": ["integer", "null"], "minimum": 1, "maximum": 10}
    assert properties["limit"] == {**whole, "description": "how many"}, "-1 stands for not said"
    assert properties["weight"]["exclusiveMinimum"] == 0 and properties["weight"]["default"] == 0.5
    assert properties["sort"]["description"] == "Another name of kind."
    assert properties["items"]["items"] == STRING
    validator = Draft202012Validator(dict(shape))
    for good in ({"name": "x"}, {"name": "x", "limit": None, "kind": None, "items": ["y"]}):
        assert validator.is_valid(good) and table.read(good)
    for bad in ({}, {"name": "X"}, {"name": "x", "limit": 0}, {"name": "x", "sort": "c"}, {"nam": "x"}):
        assert not validator.is_valid(bad)


def test_two_shapes_cannot_have_one_name() -> None:
    one, other = Named("Same", {"type": "string"}), Named("Same", {"type": "number"})
    routes = [
        Route("GET", path, print, "x", answers={200: shape})  # type: ignore[arg-type]
        for path, shape in (("/a", one), ("/b", other))
    ]
    with pytest.raises(ValueError, match="Same"):
        document(routes, Limits())


def test_the_command_prints_the_same(described: Described, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["openapi"]) == 0
    assert orjson.loads(capsys.readouterr().out) == described.document
