"""Search: one question or many, by vector or by the id of a stored one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import ceil
from typing import Any, NamedTuple

import numpy as np

from vectorizer import codec
from vectorizer.database import Database
from vectorizer.errors import not_found, validation
from vectorizer.filters import parse_filter
from vectorizer.operations import Vectors
from vectorizer.rest.bodies import encode_json
from vectorizer.rest.exchange import Answer, Request, Route
from vectorizer.rest.filter_shape import FILTER
from vectorizer.rest.gathering import Gathering, Terms
from vectorizer.rest.rows import MATRIX, VECTOR, read_id, read_matrix, read_vector
from vectorizer.rest.schema import Boolean, Field, Integer, Items, Number, Table, Text
from vectorizer.rest.shapes import COUNT, NUMBER, PAYLOAD, STRING, Named, list_of, record
from vectorizer.rest.shapes import VECTOR as VECTOR_SHAPE
from vectorizer.search import estimated_cost_us, search
from vectorizer.storage.chunk import View
from vectorizer.storage.collection import Collection
from vectorizer.targets import Hit, Matching

NATIVE_COST_US = 1000.0
"""A search that costs more than this runs in a native thread: below it, the way there costs more."""
HITS_MAX = 100_000
"""Results of all searches of one request."""
ANSWER_VECTOR_BYTES_MAX = 32 * 1024 * 1024
EF_MAX = 1_000_000
SLICE_QUERIES = 25
"""So many of a batch are searched in a native thread at a time, while the answers before are encoded: a batch
of 100 takes a quarter less.
"""
ENCODED_AT_ONCE = 32
"""Results up to which an answer is encoded in one call."""

RESULT = record(
    {"id": STRING, "score": NUMBER, "payload": PAYLOAD, "vector": VECTOR_SHAPE}, ["payload", "vector"]
)
RESULTS = Named("SearchResults", record({"results": list_of(RESULT), "collection": STRING, "limit": COUNT}))
BATCH_RESULTS = record({"results": list_of(RESULTS), "collection": STRING})


class Options(NamedTuple):
    """How to search: equal options share one pass over the data."""

    limit: int
    threshold: float | None
    ef: int | None
    filter_text: str | None
    """The filter as text, by which equal ones are recognised."""
    with_vector: bool
    with_payload: bool


class Question(NamedTuple):
    """One search. ``excluded``: the id whose own row is not an answer."""

    vector: Vectors
    options: Options
    filter: Any
    where: str
    excluded: bytes | None = None


class SearchRoutes:
    """``/collections/{name}/search`` and ``/search/batch``."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._gathering = Gathering()
        self._limits = limits = database.settings.limits
        options = {
            "limit": Field(Integer(1, limits.search_limit_max), "results at most", default=10),
            "threshold": Field(
                Number(), "drop what is worse: a lower score, for euclidean a larger distance"
            ),
            "ef": Field(
                Integer(1, EF_MAX), "effort in the graphs, instead of the one that reaches the recall"
            ),
            "filter": Field(FILTER, "only vectors whose payload satisfies it"),
            "with_vector": Field(Boolean(), "give the vectors too", default=False),
            "with_payload": Field(Boolean(), "give the payloads too", default=True),
        }
        self._table = Table(
            "Search",
            {
                "vector": Field(VECTOR, "what to look for"),
                "id": Field(
                    Text(limits.id_bytes_max), "look for neighbours of this stored vector, itself excluded"
                ),
                **options,
            },
        )
        self._batch_table = Table(
            "SearchBatch",
            {
                "searches": Field(
                    Items(limits.searches_max, of=self._table.named), "the searches", required=True
                )
            },
        )
        self._columns_table = Table(
            "SearchColumns",
            {
                "vectors": Field(MATRIX, "n x d packed little-endian float32", required=True),
                **options,
            },
            packed=True,
        )

    def routes(self) -> list[Route]:
        """The rows for the table of routes."""
        path = "/collections/<name>/search"
        forms = [self._batch_table, self._columns_table]
        return [
            Route(
                "POST",
                path,
                self.search,
                "The nearest vectors.",
                bodies=[self._table],
                reads=True,
                answers={200: RESULTS},
            ),
            Route(
                "POST",
                path + "/batch",
                self.batch,
                "Many searches at once.",
                bodies=forms,
                list_key="searches",
                reads=True,
                bson=True,
                answers={200: BATCH_RESULTS},
            ),
        ]

    def search(self, request: Request, name: str) -> Answer:
        """The best first."""
        collection = self._database.collection(name)
        question = self._question(request, request.document(), collection, "")
        self._check_size([question], collection)
        [hits] = self._hits(request, name, [question])
        return Answer(body=_encoded_answer(request, name, question.options, hits))

    def batch(self, request: Request, name: str) -> Answer:
        """One answer a search, in order, all from the same moment."""
        collection = self._database.collection(name)
        document = request.document()
        questions: list[Question] = []
        if isinstance(document, Mapping) and isinstance(document.get("vectors"), bytes):
            questions = self._column_questions(request, document, collection)
        else:
            for index, item in enumerate(self._batch_table.read(document)["searches"]):
                questions.append(self._question(request, item, collection, f"searches[{index}]"))
                request.breathe()
        self._check_size(questions, collection)
        found = zip(questions, self._hits(request, name, questions), strict=True)
        if request.answers_bson:
            answers = []
            for question, hits in found:  # one by one: all at once would hold the event loop
                answers.append(codec.encoded(_answer(request, name, question.options, hits)))
                request.breathe()
            return Answer({"results": answers, "collection": name})
        encoded = b",".join(
            _encoded_answer(request, name, question.options, hits) for question, hits in found
        )
        return Answer(body=b'{"results":[' + encoded + b'],"collection":' + encode_json(name) + b"}")

    # -- questions -------------------------------------------------------------------------------------------

    def _question(self, request: Request, document: Any, collection: Collection, where: str) -> Question:
        values = self._table.read(document, where)
        prefix = f"{where}." if where else ""
        if (values["vector"] is None) == (values["id"] is None):
            raise validation(f"{where or 'the body'} must have either vector or id", field=where)
        options = _options(values)
        if values["id"] is None:
            config = collection.config
            vector = read_vector(
                values["vector"],
                prefix + "vector",
                config.dimension,
                config.metric,
                booleans=request.has_booleans,
            )
            return Question(vector, options, values["filter"], prefix)
        id_ = read_id(values["id"], prefix + "id", self._limits.id_bytes_max)
        found = collection.locate(id_)
        if found is None:
            raise not_found("vector", values["id"])
        return Question(np.array(found[0].vectors[found[1]]), options, values["filter"], prefix, id_)

    def _column_questions(self, request: Request, document: Any, collection: Collection) -> list[Question]:
        values = self._columns_table.read(document)
        config = collection.config
        vectors = read_matrix(values["vectors"], "vectors", config.dimension, config.metric, request.breathe)
        if not 1 <= len(vectors) <= self._limits.searches_max:
            limit = self._limits.searches_max
            raise validation(f"vectors must be 1 to {limit} rows, they are {len(vectors)}", limit=limit)
        options = _options(values)
        return [Question(vector, options, values["filter"], "") for vector in vectors]

    def _check_size(self, questions: Sequence[Question], collection: Collection) -> None:
        hits = sum(question.options.limit for question in questions)
        if hits > HITS_MAX:
            raise validation(
                f"the limits add up to {hits} results, at most {HITS_MAX} in one request", limit=HITS_MAX
            )
        vectors = sum(question.options.limit for question in questions if question.options.with_vector)
        size = min(vectors, len(questions) * collection.vector_count) * collection.config.dimension * 4
        if size > ANSWER_VECTOR_BYTES_MAX:
            raise validation(
                f"the answer could have {size} bytes of vectors, the limit is {ANSWER_VECTOR_BYTES_MAX}; "
                "ask for fewer, or without with_vector",
                limit=ANSWER_VECTOR_BYTES_MAX,
            )

    # -- answers ---------------------------------------------------------------------------------------------

    def _hits(self, request: Request, name: str, questions: Sequence[Question]) -> Iterator[list[Hit]]:
        """Hits of each question in order, all on one view; questions with equal options are searched
        together.
        """
        view = self._database.view(name)
        if len(questions) == 1:
            yield from self._group_hits(request, view, questions)
            return
        groups: dict[tuple[Options, bool], list[int]] = {}
        key: tuple[Options, bool] | None = None
        members: list[int] = []
        for index, question in enumerate(questions):
            options, excludes = question.options, question.excluded is not None
            if key is None or key[0] is not options or key[1] is not excludes:  # columns share their options
                key = options, excludes
                members = groups.setdefault(key, [])
            members.append(index)
        if len(groups) == 1:  # the usual case: an answer is encoded while the next ones are searched
            yield from self._group_hits(request, view, questions)
            return
        hits: list[list[Hit]] = [[] for _ in questions]
        for members in groups.values():
            found = self._group_hits(request, view, [questions[index] for index in members])
            for index, answer in zip(members, found, strict=True):
                hits[index] = answer
            request.breathe()
        yield from hits

    def _group_hits(self, request: Request, view: View, group: Sequence[Question]) -> Iterator[list[Hit]]:
        options = group[0].options
        limit = options.limit + (group[0].excluded is not None)
        found = self._search(request, view, group, options, limit)
        for question, answer in zip(group, found, strict=True):
            if question.excluded is not None:
                answer = [hit for hit in answer if hit.id != question.excluded]
            yield answer if len(answer) <= options.limit else answer[: options.limit]

    def _search(
        self, request: Request, view: View, group: Sequence[Question], options: Options, limit: int
    ) -> Iterator[list[Hit]]:
        matching: Matching | None = None
        if group[0].filter is not None:
            where = group[0].where + "filter"
            parsed = parse_filter(group[0].filter, where, self._limits.filter_conditions_max)
            # Made here, where it can breathe; the search itself may run in a native thread.
            masks = {chunk.chunk.name: parsed.matching(chunk, request.breathe) for chunk in view.chunks}
            matching = lambda chunk: masks[chunk.chunk.name]  # noqa: E731
        vectors = [question.vector for question in group]
        queries = np.stack(vectors) if len(vectors) > 1 else vectors[0].reshape(1, -1)
        cost = estimated_cost_us(view, len(queries), limit, options.ef)

        def run(some: Vectors) -> list[list[Hit]]:
            return search(view, some, limit, threshold=options.threshold, ef=options.ef, matching=matching)

        if cost <= NATIVE_COST_US:
            if len(queries) == 1 and matching is None and self._gathering.comes_with_others():
                terms = Terms(limit, options.threshold, options.ef)
                yield self._gathering.search(view, vectors[0], terms, cost)
                return
            yield from run(queries)
            return
        slices = np.array_split(queries, ceil(len(queries) / SLICE_QUERIES))
        for hits in self._database.run_native_each(run, slices):
            yield from hits


def _options(values: Mapping[str, Any]) -> Options:
    document = values["filter"]
    return Options(
        values["limit"],
        values["threshold"],
        values["ef"],
        None if document is None else repr(document),
        values["with_vector"],
        values["with_payload"],
    )


def _results(request: Request, options: Options, hits: Sequence[Hit]) -> list[dict[str, Any]]:
    results: list[dict[str, Any]] = [{"id": hit.id.decode(), "score": hit.score} for hit in hits]
    if options.with_payload:
        for result, payload in zip(results, _payloads(hits), strict=True):
            result["payload"] = None
            if payload:
                result["payload"] = codec.decode_payload(payload)
                request.breathe()
    if options.with_vector:
        for result, hit in zip(results, hits, strict=True):
            result["vector"] = request.vector(hit.chunk.vectors[hit.row])
            request.breathe()
    return results


def _payloads(hits: Sequence[Hit]) -> list[bytes]:
    """Those of one chunk, the usual case, are read together."""
    if not hits:
        return []
    chunk = hits[0].chunk
    if all(hit.chunk is chunk for hit in hits):
        return chunk.payloads_at([hit.row for hit in hits])
    return [hit.chunk.payload_at(hit.row) for hit in hits]


def _answer(request: Request, name: str, options: Options, hits: Sequence[Hit]) -> dict[str, Any]:
    results: list[dict[str, Any]] = []
    for start in range(0, len(hits), ENCODED_AT_ONCE):
        results += _results(request, options, hits[start : start + ENCODED_AT_ONCE])
    return {"results": results, "collection": name, "limit": options.limit}


def _encoded_answer(request: Request, name: str, options: Options, hits: Sequence[Hit]) -> bytes:
    """The answer as JSON; a long one result by result, because at once it would hold the event loop."""
    if len(hits) <= ENCODED_AT_ONCE:
        return encode_json(_answer(request, name, options, hits))
    results: list[bytes] = []
    for start in range(0, len(hits), ENCODED_AT_ONCE):
        for result in _results(request, options, hits[start : start + ENCODED_AT_ONCE]):
            results.append(encode_json(result))
            request.breathe()
    tail = b'],"collection":' + encode_json(name) + b',"limit":' + encode_json(options.limit) + b"}"
    return b'{"results":[' + b",".join(results) + tail
