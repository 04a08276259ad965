"""The messages of a switchover, between a real session and a real link; what deposes a master."""

from __future__ import annotations

import pytest

from tests.unit.pair import START_MS, Pair, TwinNode
from vectorizer.replication import handshake
from vectorizer.replication.history import History, HistoryEntry
from vectorizer.replication.intentions import FollowAnother, TakeOver
from vectorizer.replication.messages import Declined, Hello, Promoted
from vectorizer.replication.states import LinkState, SessionState


class Keeping(Pair):
    """What the replica is ordered to do is kept for the test."""

    def _replica_works(self, item: object) -> None:
        if isinstance(item, TakeOver | FollowAnother):
            self.orders.append(item)
        else:
            super()._replica_works(item)

    @property
    def orders(self) -> list[object]:
        return self.__dict__.setdefault("_orders", [])


def streaming(operations: int = 5) -> Keeping:
    master = TwinNode("m").lead("A").commit(operations)
    pair = Keeping(master, TwinNode("r"))
    pair.connect().run()
    assert pair.streaming()
    return pair


def promoted(pair: Keeping, switchover: str = "s1") -> Promoted:
    pair.replica.lead("B", raise_epoch=True)
    return Promoted(switchover, pair.replica.history)


def handed_over() -> Keeping:
    pair = streaming()
    assert pair.session is not None
    pair.session.promote("s1", 5)
    pair.run()
    assert pair.orders == [TakeOver("s1", 5)]
    assert pair.session.state is SessionState.PROMOTING
    assert pair.link.state is LinkState.PROMOTING
    return pair


@pytest.mark.parametrize("declines", [False, True])
def test_the_answer_is_the_last_word_and_the_link_never_connects_again(declines: bool) -> None:
    pair = handed_over()
    session = pair.session
    assert session is not None
    answer = Declined("s1", "behind", "no") if declines else promoted(pair)
    pair.link.settle(answer, pair.now)
    pair.run()
    assert session.answer == answer
    assert session.close_reason == answer.KIND
    assert pair.link.state is LinkState.STOPPED
    assert pair.link.retry.at is None
    assert "illegal_message" not in [reason for _, reason in pair.closed]


def test_signs_of_life_go_on_while_the_promotion_takes_its_time() -> None:
    pair = handed_over()
    pair.pass_time(60.0)
    assert pair.session is not None
    assert pair.session.state is SessionState.PROMOTING
    assert pair.link.state is LinkState.PROMOTING
    assert pair.session.answer is None


def test_nothing_more_is_sent_to_a_replica_that_is_being_promoted() -> None:
    pair = handed_over()
    pair.master.commit(1, pair.now)
    pair.pass_time(5.0)
    assert pair.replica.offset == 5
    assert pair.link.state is LinkState.PROMOTING


def test_a_link_that_is_cut_before_the_answer_is_at_its_end() -> None:
    pair = handed_over()
    session = pair.session
    assert session is not None
    pair.cut()
    assert pair.link.state is LinkState.STOPPED
    assert pair.link.retry.at is None
    pair.link.settle(promoted(pair), pair.now)
    assert pair.link.ready(pair.now, START_MS) == []
    assert session.answer is None


def test_a_link_that_is_cut_before_the_promotion_arrives_comes_again() -> None:
    pair = streaming()
    assert pair.session is not None
    pair.session.promote("s1", 5)
    pair.cut()
    assert pair.orders == []
    assert pair.link.state is LinkState.DOWN
    pair.connect().run()
    assert pair.streaming()


def test_an_answer_to_another_switchover_is_illegal() -> None:
    pair = handed_over()
    session = pair.session
    assert session is not None
    pair.link.settle(promoted(pair, "s2"), pair.now)
    pair.run()
    assert session.answer is None
    assert session.close_reason == "illegal_message"


def test_an_answer_that_nobody_asked_for_is_illegal() -> None:
    pair = streaming()
    session = pair.session
    assert session is not None
    session.receive(promoted(pair), pair.now, pair.now_ms)
    assert session.close_reason == "illegal_message"


def test_a_replica_hears_where_to_go_only_while_it_streams() -> None:
    pair = streaming()
    session = pair.session
    assert session is not None
    session.repoint("n:7001")
    pair.run()
    assert pair.orders == [FollowAnother("n:7001")]
    assert pair.streaming(), "until it leaves by itself"
    session.close("shutdown", "", pair.now)
    session.repoint("n:7001")
    pair.run()
    assert pair.orders == [FollowAnother("n:7001")]


# -- what deposes a master ---------------------------------------------------------------------------------


def greeting(*entries: tuple[str, int, int], force: bool = False) -> Hello:
    history = History(tuple(HistoryEntry(*entry) for entry in entries))
    return Hello(1, "r", ("r",), history, 5, None, 1 << 20, "", 0, "", force)


@pytest.mark.parametrize(
    ("hello", "deposes"),
    [
        (greeting(("A", 1, 0)), False),
        (greeting(("A", 1, 0), ("B", 1, 5)), False),
        (greeting(("A", 1, 0), ("B", 2, 5)), True),
        (greeting(("A", 1, 0), ("B", 2, 3)), True),
        (greeting(("A", 1, 0), ("B", 2, 5), force=True), False),
        (greeting(("X", 1, 0), ("Y", 9, 5)), False),
        (greeting(), False),
    ],
)
def test_only_a_newer_mastership_of_the_same_history_deposes(hello: Hello, deposes: bool) -> None:
    master = TwinNode("m").lead("A").commit(5)
    refusal = handshake.overruled(master, hello)
    assert (refusal is not None) == deposes
    if refusal is not None:
        assert refusal.reason == "stale_master"
        assert refusal.details["master"] == {"replication_id": "A", "epoch": 1, "offset": 5}
        assert refusal.details["replica"]["epoch"] == 2
