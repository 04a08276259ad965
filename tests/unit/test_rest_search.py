"""Search over REST."""

from __future__ import annotations

from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import gevent
import numpy as np
import orjson
import pytest

from tests.unit.rest_client import BSON, RestNode
from vectorizer.rest import search as search_module


@pytest.fixture
def node(tmp_path: Path) -> Iterator[RestNode]:
    running = RestNode(tmp_path / "data")
    running.start()
    yield running
    running.stop()


def load(node: RestNode, count: int = 200, metric: str = "cosine") -> tuple[str, np.ndarray]:
    one = node.create("c", 4, metric=metric)
    vectors = np.random.default_rng(7).normal(size=(count, 4)).astype(np.float32)
    items = [
        {"id": f"{n}", "vector": vector.tolist(), "payload": {"n": n, "even": n % 2 == 0}}
        for n, vector in enumerate(vectors)
    ]
    assert node.post(one + "/vectors", {"vectors": items}).status == 200
    return one, vectors


def scores_of(metric: str, vectors: np.ndarray, query: np.ndarray) -> np.ndarray:
    left, right = vectors.astype(np.float64), query.astype(np.float64)
    if metric == "euclidean":
        return np.sqrt(((left - right) ** 2).sum(axis=1))
    dots = left @ right
    return dots if metric == "dot" else dots / np.linalg.norm(left, axis=1) / np.linalg.norm(right)


@pytest.mark.parametrize("metric", ["cosine", "euclidean", "dot"])
def test_the_best_come_first(node: RestNode, metric: str) -> None:
    one, vectors = load(node, metric=metric)
    query = np.array([0.3, -0.2, 0.9, 0.1], np.float32)
    scores = scores_of(metric, vectors, query)
    order = np.argsort(scores if metric == "euclidean" else -scores)[:7]
    answer = node.post(one + "/search", {"vector": query.tolist(), "limit": 7})
    assert sorted(answer.body) == ["collection", "limit", "results"]
    assert (answer.body["collection"], answer.body["limit"]) == ("c", 7)
    results = answer.body["results"]
    assert [result["id"] for result in results] == [f"{n}" for n in order]
    assert [result["score"] for result in results] == pytest.approx(scores[order], rel=1e-6)
    assert results[0]["payload"] == {"n": int(order[0]), "even": bool(order[0] % 2 == 0)}
    assert "vector" not in results[0]
    threshold = float(scores[order[3]])
    cut = node.post(one + "/search", {"vector": query.tolist(), "threshold": results[3]["score"]}).body[
        "results"
    ]
    assert len(cut) == 4 and threshold == pytest.approx(cut[-1]["score"])


def test_what_is_shown(node: RestNode) -> None:
    one, vectors = load(node)
    body = {"vector": [1, 0, 0, 0], "with_vector": True, "with_payload": False, "limit": 1}
    (result,) = node.post(one + "/search", body).body["results"]
    assert sorted(result) == ["id", "score", "vector"]
    assert np.array(result["vector"], np.float32).tobytes() == vectors[int(result["id"])].tobytes()
    assert len(node.post(one + "/search", {"vector": [1, 0, 0, 0]}).body["results"]) == 10


def test_neighbours_of_a_stored_vector_without_itself(node: RestNode) -> None:
    one, vectors = load(node)
    scores = scores_of("cosine", vectors, vectors[5])
    expected = [f"{n}" for n in np.argsort(-scores) if n != 5][:4]
    answer = node.post(one + "/search", {"id": "5", "limit": 4})
    assert [result["id"] for result in answer.body["results"]] == expected
    answer = node.post(one + "/search", {"id": "5", "limit": 1000})
    assert len(answer.body["results"]) == 199
    answer = node.post(one + "/search", {"id": "none"})
    assert (answer.status, answer.body["error_type"]) == (404, "vector_not_found")


def test_filters(node: RestNode) -> None:
    one, vectors = load(node)
    scores = scores_of("cosine", vectors, np.array([1, 0, 0, 0], np.float32))
    wanted = {
        "must": [{"key": "even", "match": {"value": True}}],
        "must_not": [{"key": "n", "range": {"lt": 100}}],
    }
    expected = [f"{n}" for n in np.argsort(-scores) if n % 2 == 0 and n >= 100][:5]
    body = {"vector": [1, 0, 0, 0], "filter": wanted, "limit": 5}
    assert [result["id"] for result in node.post(one + "/search", body).body["results"]] == expected
    answer = node.post(one + "/search", {**body, "filter": {"must": [{"key": "even"}]}})
    assert answer.status == 400 and "filter.must[0]" in answer.body["message"]


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({}, "the body must have either vector or id"),
        ({"vector": [1, 0, 0, 0], "id": "1"}, "either vector or id"),
        ({"vector": [1, 2]}, "vector has 2 dimensions, the collection has 4"),
        ({"vector": [0, 0, 0, 0]}, "vector is all zeros"),
        ({"vector": [1, 0, 0, "x"]}, "vector[3] must be a number, not a string"),
        ({"vector": [1, 0, 0, 1e39]}, "vector[3] is 1e+39"),
        ({"vector": "x"}, "vector must be a list of numbers"),
        ({"vector": [1, 0, 0, 0], "limit": 0}, "limit must be a whole number from 1 to 10000"),
        ({"vector": [1, 0, 0, 0], "limit": 10001}, "not 10001"),
        ({"vector": [1, 0, 0, 0], "limit": True}, "not a boolean"),
        ({"vector": [1, 0, 0, 0], "ef": 0}, "ef must be"),
        ({"vector": [1, 0, 0, 0], "threshold": "x"}, "threshold must be a finite number"),
        ({"vector": [1, 0, 0, 0], "top_k": 3}, "unknown field 'top_k'"),
        ({"id": 5}, "id must be a string"),
        ({"id": ""}, "id must be a string of 1 to 256 bytes"),
    ],
)
def test_refused_searches(node: RestNode, body: Any, sentence: str) -> None:
    one, _ = load(node, 3)
    answer = node.post(one + "/search", body)
    assert answer.status == 400
    assert sentence in answer.body["message"]
    answer = node.post(one + "/search/batch", {"searches": [{"vector": [1, 0, 0, 0]}, body]})
    assert answer.status == 400
    assert "searches[1]" in answer.body["message"]


def test_batches_answer_in_order(node: RestNode) -> None:
    one, vectors = load(node)
    searches: list[dict[str, Any]] = [
        {"vector": [1, 0, 0, 0], "limit": 3},
        {"vector": [0, 1, 0, 0], "limit": 3},
        {"id": "3", "limit": 2, "with_vector": True},
        {"vector": [1, 0, 0, 0], "limit": 3, "filter": {"must": [{"key": "n", "range": {"lt": 50}}]}},
        {"vector": [0, 1, 0, 0], "limit": 3, "filter": {"must": [{"key": "n", "range": {"lt": 50}}]}},
    ]
    single = [node.post(one + "/search", search).body for search in searches]
    answer = node.post(one + "/search/batch", {"searches": searches})
    assert answer.body == {"results": single, "collection": "c"}
    as_bson = node.post(one + "/search/batch", {"searches": searches}, accept=BSON)
    assert as_bson.headers["content-type"] == BSON
    assert [[hit["id"] for hit in part["results"]] for part in as_bson.body["results"]] == [
        [hit["id"] for hit in part["results"]] for part in single
    ]
    found = as_bson.body["results"][2]["results"][0]
    assert found["vector"] == vectors[int(found["id"])].astype("<f4").tobytes()
    columns = {"vectors": np.eye(2, 4, dtype="<f4").tobytes(), "limit": 3}
    in_columns = node.post(one + "/search/batch", columns, kind=BSON)
    assert in_columns.body["results"] == single[:2]


@pytest.mark.parametrize(
    ("body", "kind", "sentence"),
    [
        ({"searches": []}, "application/json", "searches must be a list of 1 to 1000 items"),
        ({"searches": [{"vector": [1, 0, 0, 0]}] * 1001}, "application/json", "it has 1001"),
        ({"searches": [3]}, "application/json", "searches[0] must be an object"),
        ({"vectors": [[1, 0, 0, 0]]}, "application/json", "unknown field 'vectors'"),
        ({"vectors": b""}, BSON, "vectors must be 1 to 1000 rows, they are 0"),
        ({"vectors": b"123"}, BSON, "vectors has 3 bytes, not a multiple of the 16 bytes"),
        (
            {"searches": [{"vector": [1, 0, 0, 0], "limit": 10_000}] * 11},
            "application/json",
            "the limits add up to 110000 results, at most 100000 in one request",
        ),
    ],
)
def test_refused_batches(node: RestNode, body: Any, kind: str, sentence: str) -> None:
    one, _ = load(node, 3)
    answer = node.post(one + "/search/batch", body, kind=kind)
    assert answer.status == 400
    assert sentence in answer.body["message"]


def test_answers_are_bounded(node: RestNode, monkeypatch: pytest.MonkeyPatch) -> None:
    one, _ = load(node)
    monkeypatch.setattr(search_module, "ANSWER_VECTOR_BYTES_MAX", 1000)
    body = {"vector": [1, 0, 0, 0], "limit": 100, "with_vector": True}
    answer = node.post(one + "/search", body)
    assert answer.status == 400
    assert "could have 1600 bytes of vectors, the limit is 1000" in answer.body["message"]
    assert node.post(one + "/search", {**body, "limit": 50}).status == 200


def test_dear_searches_run_in_native_threads(node: RestNode, monkeypatch: pytest.MonkeyPatch) -> None:
    one, _ = load(node)
    body = {"vector": [1, 0, 0, 0], "limit": 150, "with_vector": True}
    cheap = node.post(one + "/search", body).body
    monkeypatch.setattr(search_module, "NATIVE_COST_US", 0.0)
    assert node.post(one + "/search", body).body == cheap
    assert len(cheap["results"]) == 150


@pytest.mark.parametrize("limit", [3, 40])
@pytest.mark.parametrize("key", ["id", "vector"])
def test_a_long_batch_in_native_threads_answers_as_one_by_one(node: RestNode, key: str, limit: int) -> None:
    """Short answers are made there too, long ones here."""
    one, vectors = load(node)
    searches: list[dict[str, Any]] = [
        {key: str(number) if key == "id" else vector.tolist(), "limit": limit, "with_vector": True}
        for number, vector in enumerate(vectors[:110])
    ]
    single = [node.post(one + "/search", search).body for search in searches]
    answer = node.post(one + "/search/batch", {"searches": searches})
    assert answer.body == {"results": single, "collection": "c"}
    assert {len(part["results"]) for part in single} == {limit}
    as_bson = node.post(one + "/search/batch", {"searches": searches}, accept=BSON).body["results"]
    for part in as_bson:
        for result in part["results"]:
            result["vector"] = np.frombuffer(result["vector"], "<f4").tolist()
    for part in single:
        for result in part["results"]:
            result["vector"] = np.array(result["vector"], "<f4").tolist()
    assert as_bson == single


def test_many_clients_at_once_get_the_answers_that_each_gets_alone(node: RestNode) -> None:
    one, vectors = load(node)
    bodies = [
        {"vector": vector.tolist(), "limit": 1 + place % 3, **({"threshold": 0.5} if place % 2 else {})}
        for place, vector in enumerate(vectors[:48])
    ]
    alone = [node.post(one + "/search", body).body for body in bodies]

    def ask(first: int) -> list[tuple[int, Any]]:
        """Every eighth search, several times over, on a connection of its own."""
        connection = HTTPConnection(node.server.host, node.server.port, timeout=30)
        answers = []
        for place in [*range(first, len(bodies), 8)] * 5:
            connection.request("POST", one + "/search", orjson.dumps(bodies[place]))
            answers.append((place, orjson.loads(connection.getresponse().read())))
        connection.close()
        return answers

    clients = [gevent.spawn(ask, first) for first in range(8)]
    gevent.joinall(clients, raise_error=True)
    assert all(answer == alone[place] for client in clients for place, answer in client.value)
