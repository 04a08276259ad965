"""Search: one question or many, by vector or by the id of a stored one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from math import ceil
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar

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
"""So many of a batch are searched in a native thread at a time, and their answers encoded there unless they
are long: without ways to and fro between the threads a batch of 100 takes an eighth less, and with fewer at a
time each costs more.
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


Breathe = Callable[[], None]
F = TypeVar("F")
Form: TypeAlias = Callable[[Request, str, Options, Sequence[Hit], Breathe], F]
"""Makes an answer of hits."""


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
        [encoded] = self._answers(request, name, [question], _encoded_answer)
        return Answer(body=encoded)

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
        if request.answers_bson:
            answers = list(self._answers(request, name, questions, _bson_answer))
            return Answer({"results": answers, "collection": name})
        encoded = b",".join(self._answers(request, name, questions, _encoded_answer))
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

    def _answers(
        self, request: Request, name: str, questions: Sequence[Question], form: Form[F]
    ) -> Iterator[F]:
        """The answer to each question in order, all on one view; questions with equal options are searched
        together.
        """
        view = self._database.view(name)
        asking = _Asking(request, name, view, form)
        if len(questions) == 1:
            yield from self._group_answers(asking, questions)
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
        if len(groups) == 1:  # the usual case
            yield from self._group_answers(asking, questions)
            return
        answers: dict[int, F] = {}
        for members in groups.values():
            found = self._group_answers(asking, [questions[index] for index in members])
            answers.update(zip(members, found, strict=True))
            request.breathe()
        for index in range(len(questions)):
            yield answers[index]

    def _group_answers(self, asking: _Asking[F], group: Sequence[Question]) -> Iterator[F]:
        """The same for questions with equal options."""
        options, breathe = group[0].options, asking.request.breathe
        limit = options.limit + (group[0].excluded is not None)
        matching = self._matching(asking, group[0])
        cost = estimated_cost_us(asking.view, len(group), limit, options.ef)

        def search_all(some: Sequence[Question]) -> list[list[Hit]]:
            vectors = [question.vector for question in some]
            return search(
                asking.view,
                np.stack(vectors) if len(vectors) > 1 else vectors[0].reshape(1, -1),
                limit,
                threshold=options.threshold,
                ef=options.ef,
                matching=matching,
            )

        def answer_all(some: Sequence[Question]) -> list[F]:
            return [asking.answer(*pair, _go_on) for pair in zip(some, search_all(some), strict=True)]

        found: Iterable[list[Hit]]
        if cost > NATIVE_COST_US:
            count = ceil(len(group) / ceil(len(group) / SLICE_QUERIES))
            parts = [group[start : start + count] for start in range(0, len(group), count)]
            if options.limit <= ENCODED_AT_ONCE:
                yield from chain.from_iterable(self._database.run_native_each(answer_all, parts))
                return
            found = chain.from_iterable(self._database.run_native_each(search_all, parts))
        elif len(group) == 1 and matching is None and self._gathering.comes_with_others():
            terms = Terms(limit, options.threshold, options.ef)
            found = [self._gathering.search(asking.view, group[0].vector, terms, cost)]
        else:
            found = search_all(group)
        for question, hits in zip(group, found, strict=True):
            yield asking.answer(question, hits, breathe)

    def _matching(self, asking: _Asking[F], question: Question) -> Matching | None:
        """The rows that the filter lets through, looked for here, where it can breathe: the search itself may
        run in a native thread.
        """
        if question.filter is None:
            return None
        parsed = parse_filter(question.filter, question.where + "filter", self._limits.filter_conditions_max)
        breathe = asking.request.breathe
        masks = {chunk.chunk.name: parsed.matching(chunk, breathe) for chunk in asking.view.chunks}
        return lambda chunk: masks[chunk.chunk.name]


class _Asking(NamedTuple, Generic[F]):
    """What all questions of one request have in common."""

    request: Request
    name: str
    view: View
    form: Form[F]

    def answer(self, question: Question, hits: Sequence[Hit], breathe: Breathe) -> F:
        """The answer to one question; with up to ENCODED_AT_ONCE results also in a native thread."""
        if question.excluded is not None:
            hits = [hit for hit in hits if hit.id != question.excluded]
        if len(hits) > question.options.limit:
            hits = hits[: question.options.limit]
        return self.form(self.request, self.name, question.options, hits, breathe)


def _go_on() -> None:
    """Whoever is not on the event loop need not let others run."""


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


def _results(
    request: Request, options: Options, hits: Sequence[Hit], breathe: Breathe
) -> list[dict[str, Any]]:
    results: list[dict[str, Any]] = [{"id": hit.id.decode(), "score": hit.score} for hit in hits]
    if options.with_payload:
        for result, payload in zip(results, _payloads(hits), strict=True):
            result["payload"] = None
            if payload:
                result["payload"] = codec.decode_payload(payload)
                breathe()
    if options.with_vector:
        for result, hit in zip(results, hits, strict=True):
            result["vector"] = request.vector(hit.chunk.vectors[hit.row])
            breathe()
    return results


def _payloads(hits: Sequence[Hit]) -> list[bytes]:
    """Those of one chunk, the usual case, are read together."""
    if not hits:
        return []
    chunk = hits[0].chunk
    if all(hit.chunk is chunk for hit in hits):
        return chunk.payloads_at([hit.row for hit in hits])
    return [hit.chunk.payload_at(hit.row) for hit in hits]


def _answer(
    request: Request, name: str, options: Options, hits: Sequence[Hit], breathe: Breathe
) -> dict[str, Any]:
    results: list[dict[str, Any]] = []
    for start in range(0, len(hits), ENCODED_AT_ONCE):
        results += _results(request, options, hits[start : start + ENCODED_AT_ONCE], breathe)
    return {"results": results, "collection": name, "limit": options.limit}


def _encoded_answer(
    request: Request, name: str, options: Options, hits: Sequence[Hit], breathe: Breathe
) -> bytes:
    """The answer as JSON; a long one result by result, because at once it would hold the event loop."""
    if len(hits) <= ENCODED_AT_ONCE:
        return encode_json(_answer(request, name, options, hits, breathe))
    results: list[bytes] = []
    for start in range(0, len(hits), ENCODED_AT_ONCE):
        for result in _results(request, options, hits[start : start + ENCODED_AT_ONCE], breathe):
            results.append(encode_json(result))
            breathe()
    tail = b'],"collection":' + encode_json(name) + b',"limit":' + encode_json(options.limit) + b"}"
    return b'{"results":[' + b",".join(results) + tail


def _bson_answer(request: Request, name: str, options: Options, hits: Sequence[Hit], breathe: Breathe) -> Any:
    """The answer as BSON already: all answers encoded at once would hold the event loop."""
    encoded = codec.encoded(_answer(request, name, options, hits, breathe))
    breathe()
    return encoded
