"""Searches of one turn of the event loop: the same answers as one by one, and nobody is held up for long."""

from __future__ import annotations

import gevent
import numpy as np
import pytest
from gevent import Greenlet, GreenletExit

from tests.unit.rows import chunked, clustered, config_of, view_of
from vectorizer.breathing import let_others_run, times_around
from vectorizer.errors import RequestError
from vectorizer.rest.gathering import HELD_US_MAX, QUERIES_MAX, Gathering, Terms
from vectorizer.search import search
from vectorizer.storage.chunk import View
from vectorizer.targets import Hit

DIMENSION = 12
VECTORS = clustered(400, DIMENSION, 5)
QUERIES = clustered(3 * QUERIES_MAX, DIMENSION, 6)
TEN = Terms(10, None, None)


def view_over(rows: int) -> View:
    return view_of(config_of(DIMENSION, "cosine", 0.9), *chunked(VECTORS[:rows], [rows]))


def ask_all(
    gathering: Gathering, questions: list[tuple[View, np.ndarray, Terms]], cost_us: float = 1.0
) -> list[Greenlet]:
    """All in one turn."""
    asking = [gevent.spawn(gathering.search, *question, cost_us) for question in questions]
    gevent.joinall(asking)
    return asking


def ids(hits: list[Hit]) -> list[tuple[bytes, float]]:
    return [(hit.id, hit.score) for hit in hits]


def test_each_gets_the_answer_to_its_own_question() -> None:
    view = view_over(400)
    terms = [TEN, Terms(3, None, None), Terms(10, 0.9, None), Terms(10, None, 200)]
    questions = [(view, query, terms[place % 4]) for place, query in enumerate(QUERIES)]
    for (_, query, (limit, threshold, ef)), asked in zip(
        questions, ask_all(Gathering(), questions), strict=True
    ):
        [alone] = search(view, query[None, :], limit, threshold=threshold, ef=ef)
        assert ids(asked.get()) == ids(alone)


def test_an_error_reaches_all_whom_it_concerns_and_nobody_else() -> None:
    view, wrong = view_over(400), Terms(0, None, None)
    asked = ask_all(
        Gathering(), [(view, QUERIES[0], wrong), (view, QUERIES[1], TEN), (view, QUERIES[2], wrong)]
    )
    assert [isinstance(one.exception, RequestError) for one in asked] == [True, False, True]
    assert len(asked[1].get()) == 10


def test_another_collection_of_the_same_name_and_offset_is_not_mixed_in() -> None:
    views = [view_over(400), view_over(20), view_over(400)]
    asked = ask_all(Gathering(), [(view, QUERIES[0], TEN) for view in views])
    expected = [ids(search(view, QUERIES[:1], 10)[0]) for view in views]
    assert [ids(one.get()) for one in asked] == expected
    assert expected[0] != expected[1]


@pytest.mark.parametrize("cost_us", [1.0, HELD_US_MAX / 2, 2 * HELD_US_MAX])
def test_others_have_their_turn_between_batches(cost_us: float) -> None:
    view = view_over(400)
    before = times_around()
    ask_all(Gathering(), [(view, query, TEN) for query in QUERIES], cost_us)
    at_once = min(QUERIES_MAX, max(1, int(HELD_US_MAX / cost_us)))
    assert times_around() - before >= len(QUERIES) // at_once - 1


def test_who_is_alone_does_not_wait() -> None:
    gathering = Gathering()
    for came, expected in [
        (1, [False]),
        (1, [False]),
        (2, [False, False]),
        (3, [True] * 3),
        (1, [True]),
        (1, [False]),
    ]:
        let_others_run()
        assert [gathering.comes_with_others() for _ in range(came)] == expected


def test_who_has_gone_disturbs_nobody() -> None:
    view, gathering = view_over(400), Gathering()
    asking = [gevent.spawn(gathering.search, view, query, TEN, 1.0) for query in QUERIES[:3]]

    gevent.spawn(lambda: asking[1].throw(GreenletExit))  # when all wait, and before they are searched
    gevent.joinall(asking)
    assert [len(one.value) if isinstance(one.value, list) else 0 for one in asking] == [10, 0, 10]
