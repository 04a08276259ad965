"""The replica's link: in pairs with a real session, under a clock we move, cut everywhere."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.pair import START_MS, Pair, TwinNode, head, settings_of
from vectorizer.errors import PeerError
from vectorizer.replication.authentication import NOTHING, Credentials
from vectorizer.replication.history import History, HistoryEntry
from vectorizer.replication.intentions import (
    AbortSnapshot,
    AdoptHistory,
    Apply,
    BeginSnapshot,
    Install,
    Prepare,
    Report,
    Send,
    WriteChunk,
)
from vectorizer.replication.link import ReplicaLink
from vectorizer.replication.messages import (
    KINDS,
    Accept,
    Ack,
    Challenge,
    Chunk,
    Complete,
    Declined,
    FileEntry,
    Goodbye,
    Greet,
    Heartbeat,
    Hello,
    Message,
    OperationFrame,
    Promote,
    Promoted,
    Proof,
    Received,
    Refuse,
    Repoint,
    Snapshot,
    Welcome,
)
from vectorizer.replication.states import LINK_LEGAL, LinkState

NOW = 1000.0


def master(operations: int = 10, replication_id: str = "A") -> TwinNode:
    return TwinNode("m").lead(replication_id).commit(operations)


def copy_of(node: TwinNode, through: int, node_id: str = "r") -> TwinNode:
    """A replica that has the first operations of another node."""
    twin = TwinNode(node_id)
    twin.put(node.frames[:through], node.history.truncated(through))
    return twin


def link_of(node: TwinNode, *, force: bool = False, **chosen: object) -> ReplicaLink:
    in_force = settings_of(**chosen)
    return ReplicaLink(node, lambda: in_force, NOW, lambda: 0.5, force=force, rest_address="r:15003")


def greeted(node: TwinNode, **chosen: object) -> ReplicaLink:
    link = link_of(node, **chosen)
    link.connecting(NOW)
    link.connected(NOW)
    said(link)
    return link


def said(link: ReplicaLink, now: float = NOW) -> list[Message]:
    return [item.message for item in link.ready(now, START_MS) if isinstance(item, Send)]


def welcome_of(node: TwinNode, sync: str = "partial", **fields: object) -> Welcome:
    first, last = node.window
    epoch = node.history.epoch
    welcome = Welcome(
        1,
        "m",
        ("m",),
        node.history,
        node.offset,
        epoch,
        "full",
        "continues",
        0,
        first,
        last,
        5.0,
        1 << 20,
        "m:1",
    )
    return replace(welcome, sync=sync, **fields)  # type: ignore[arg-type]


def hear(link: ReplicaLink, *messages: Message | OperationFrame, now: float = NOW) -> list[object]:
    work: list[object] = []
    for message in messages:
        link.receive(message, now, START_MS, 10)
        work += link.work()
    return work


# -- the ordinary roads ------------------------------------------------------------------------------


def test_hello_says_where_this_node_stands() -> None:
    node = copy_of(master(), 7)
    link = link_of(node)
    link.connecting(NOW)
    link.connected(NOW)
    [hello] = said(link)
    assert isinstance(hello, Hello)
    assert (hello.node_id, hello.path, hello.offset, hello.history) == ("r", ("r",), 7, node.history)
    assert hello.checksum == node.checksum_at(7)
    assert (hello.full, hello.force, hello.rest_address) == ("", False, "r:15003")


def test_an_empty_replica_takes_everything_and_streams() -> None:
    pair = Pair(master(), TwinNode("r")).connect().run()
    assert pair.streaming() and pair.equal()
    assert (pair.link.totals.full_syncs, pair.link.totals.partial_syncs) == (1, 0)
    pair.master.commit(5, pair.now)
    pair.run()
    assert pair.equal()
    assert pair.link.operations_applied == 5


def test_an_empty_master_needs_no_full_sync() -> None:
    pair = Pair(TwinNode("m").lead("A"), TwinNode("r")).connect().run()
    assert pair.streaming()
    assert pair.replica.history == pair.master.history
    assert (pair.link.totals.full_syncs, pair.link.totals.partial_syncs) == (0, 1)


def test_the_masters_history_is_adopted_before_the_first_operation() -> None:
    node = master()
    replica = copy_of(node, 7)
    node.lead("B").commit(2)
    link = greeted(replica)
    assert hear(link, welcome_of(node)) == [AdoptHistory(node.history)]
    work = hear(link, head(node.frames[7]))
    assert work == [Apply(8, node.frames[7])]


def test_after_a_restart_and_two_promotions_that_it_slept_through_the_sync_is_partial() -> None:
    node = master()
    pair = Pair(node, copy_of(node, 7))
    node.lead("B", raise_epoch=True).commit(3)
    node.lead("C", raise_epoch=True).commit(3)
    pair.connect().run()
    assert pair.streaming() and pair.equal()
    assert pair.replica.history == node.history
    assert (pair.link.totals.full_syncs, pair.link.totals.partial_syncs) == (0, 1)


def test_acks_come_at_once_are_coalesced_and_tell_both_offsets() -> None:
    node = master()
    link = greeted(copy_of(node, 7))
    hear(link, welcome_of(node))
    assert said(link) == [Ack(7, 7)]
    assert said(link) == []
    replica = link.node
    assert isinstance(replica, TwinNode)
    for line in node.frames[7:]:
        hear(link, head(line))
        replica.frames.append(line)
        link.applied(replica.offset, NOW)
    replica.durable_offset = 8
    assert said(link) == [Ack(10, 8)]
    replica.durable_offset = 10
    assert said(link) == [Ack(10, 10)]


def test_a_heartbeat_is_answered_and_the_silent_side_shows_life() -> None:
    node = master(7)
    link = greeted(copy_of(node, 7), heartbeat_interval_secs=2.0)
    hear(link, welcome_of(node))
    assert said(link) == [Ack(7, 7)]
    hear(link, Heartbeat(7, 7, 0, START_MS))
    assert said(link) == [Ack(7, 7)]
    assert link.deadline() == NOW + 2.0
    assert said(link, NOW + 1.9) == []
    assert said(link, NOW + 2.0) == [Ack(7, 7)]


def test_the_more_impatient_interval_counts() -> None:
    node = master(7)
    link = greeted(copy_of(node, 7), heartbeat_interval_secs=9.0)
    hear(link, welcome_of(node, heartbeat_interval_secs=0.5))
    said(link)
    assert link.deadline() == NOW + 0.5


# -- what must never happen --------------------------------------------------------------------------


def test_an_offset_gap_is_refused_and_nothing_is_skipped() -> None:
    node = master()
    link = greeted(copy_of(node, 7))
    hear(link, welcome_of(node))
    assert hear(link, head(node.frames[8])) == []
    assert link.state is LinkState.CLOSING
    assert link.reason == "offset_gap"
    assert "operation 9 came, 8 is next" in link.message


def test_an_operation_that_was_applied_already_is_refused() -> None:
    node = master()
    link = greeted(copy_of(node, 7))
    hear(link, welcome_of(node))
    assert hear(link, head(node.frames[6])) == []
    assert link.reason == "offset_gap"


def test_an_operation_of_another_epoch_is_refused() -> None:
    node = master(7)
    link = greeted(copy_of(node, 7))
    hear(link, welcome_of(node))
    stale = replace(head(node.commit(1).frames[7]), epoch=0)
    assert hear(link, stale) == []
    assert link.reason == "stale_epoch"


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"protocol": 2}, "protocol_mismatch"),
        ({"node_id": "r"}, "cycle"),
        ({"path": ("m", "x", "r")}, "cycle"),
        ({"history": History((HistoryEntry("Z", 5, 0),))}, "foreign_history"),
        ({"history": History((HistoryEntry("A", 0, 0),))}, "stale_master"),
        ({"history": History((HistoryEntry("A", 1, 0), HistoryEntry("B", 2, 3)))}, "bad_welcome"),
        ({"offset": 5}, "bad_welcome"),
    ],
)
def test_masters_that_are_not_followed(fields: dict[str, object], reason: str) -> None:
    node = master()
    link = greeted(copy_of(node, 7))
    assert hear(link, welcome_of(node, **fields)) == []
    assert link.reason == reason
    [refuse] = said(link)
    assert isinstance(refuse, Refuse)
    assert refuse.reason == reason
    link.disconnected("connection_lost", "", NOW)
    assert link.state is LinkState.REFUSED
    assert link.totals.refusals == {reason: 1}


def test_a_foreign_master_is_refused_by_both_until_forced_and_the_old_data_is_kept_aside() -> None:
    stranger = TwinNode("r").lead("Z").commit(5, text="z")
    pair = Pair(master(), stranger).connect().run()
    assert pair.link.state is LinkState.REFUSED
    assert pair.link.totals.refusals == pair.table.totals.refusals == {"foreign_history": 1}
    assert stranger.offset == 5
    forced = Pair(master(), stranger, force=True).connect().run()
    assert forced.streaming() and forced.equal()
    assert stranger.kept_aside
    assert not forced.link.force


@pytest.mark.parametrize("how", ["partial", "rewind", "full"])
def test_an_operators_force_ends_with_the_sync_that_it_was_for(how: str) -> None:
    node = master(7)
    replica = copy_of(node, 7)
    if how != "partial":  # two masters
        replica.manifests = [7] if how == "rewind" else []
        replica.lead("X", raise_epoch=True).commit(3, text="extra")
        node.lead("B", raise_epoch=True).commit(5)
    pair = Pair(node, replica, force=True).connect().run().pass_time(5.0)
    assert pair.streaming() and pair.equal()
    assert pair.link.totals.full_syncs == (how == "full")
    pair.cut()
    pair.master = TwinNode("m").lead("Z").commit(20, text="z")
    before = replica.offset
    pair.connect().run()
    assert pair.link.state is LinkState.REFUSED
    assert pair.link.totals.refusals == {"foreign_history": 1}
    assert replica.offset == before


def test_a_reborn_empty_master_leaves_the_replicas_data_alone() -> None:
    replica = copy_of(master(), 10)
    pair = Pair(TwinNode("m").lead("B"), replica).connect().run()
    assert pair.link.state is LinkState.REFUSED
    assert replica.offset == 10


# -- divergence --------------------------------------------------------------------------------------


def diverged_pair(manifests: list[int]) -> Pair:
    """The replica was master: it wrote three operations after offset 7 that the new master never saw."""
    node = master(7)
    old = copy_of(node, 7)
    old.manifests = manifests
    old.commit(3, text="extra")
    node.lead("B", raise_epoch=True).commit(5)
    return Pair(node, old)


def test_an_old_masters_extra_writes_are_saved_aside_and_it_goes_back_to_the_fork() -> None:
    pair = diverged_pair([0, 3, 7])
    extra = pair.replica.frames[7:]
    pair.connect().run()
    assert pair.streaming() and pair.equal()
    assert pair.replica.saved == extra
    assert (pair.link.totals.full_syncs, pair.link.totals.partial_syncs) == (0, 1)
    assert [message.offset for message in pair.said if isinstance(message, Hello)] == [10, 7]


def test_without_an_own_state_to_go_back_to_it_takes_a_full_sync() -> None:
    pair = diverged_pair([])
    extra = pair.replica.frames[7:]
    pair.connect().run()
    assert pair.streaming() and pair.equal()
    assert pair.replica.saved == extra
    assert (pair.link.totals.full_syncs, pair.link.totals.partial_syncs) == (1, 0)
    assert pair.link.totals.full_sync_reasons == {"diverged": 1}


def test_a_replica_ahead_of_a_crashed_master_joins_it() -> None:
    node = master(10)
    replica = copy_of(node, 10)
    replica.manifests = [8]
    node.put(node.frames[:8], node.history)
    node.journal_first = 1
    pair = Pair(node, replica).connect().run()
    assert pair.streaming() and pair.equal()
    assert len(replica.saved) == 2


def test_going_back_is_tried_once_a_connection() -> None:
    node = master(7)
    link = greeted(diverged_pair([]).replica)
    link_history = node.lead("B", raise_epoch=True).commit(5).history
    full = welcome_of(node, "full", reason="diverged", fork_offset=7, history=link_history)
    assert hear(link, full) == [Prepare(7, True)]
    link.prepared(True, {}, NOW)
    assert isinstance(said(link)[0], Hello)
    assert hear(link, full) == [Prepare(7, False)]
    link.prepared(False, {"f": 1}, NOW)
    assert said(link) == [Accept({"f": 1})]


# -- the full sync -----------------------------------------------------------------------------------


def receiving(node: TwinNode, replica: TwinNode, **chosen: object) -> ReplicaLink:
    link = greeted(replica, **chosen)
    assert hear(link, welcome_of(node, "full", reason="empty_replica")) == [Prepare(None, False)]
    link.prepared(False, {}, NOW)
    said(link)
    files = (FileEntry("a", 3, 1), FileEntry("empty", 0, 0), FileEntry("b", 2, 2))
    assert hear(link, Snapshot(10, {"m": 1}, files, 5)) == [BeginSnapshot(10, {"m": 1}, files, False)]
    return link


def test_chunks_are_written_in_order_and_confirmed() -> None:
    link = receiving(master(), TwinNode("r"))
    assert hear(link, Chunk("a", 0, b"ab")) == [WriteChunk("a", 0, b"ab")]
    link.written(2, NOW)
    assert said(link) == [Received(2)]
    assert hear(link, Chunk("a", 2, b"c"), Chunk("b", 0, b"de"))[1] == WriteChunk("b", 0, b"de")
    link.written(3, NOW)
    assert link.sync is not None and link.sync.percent() == 100
    assert hear(link, Complete(10)) == [Install(10)]
    assert link.state is LinkState.INSTALLING


@pytest.mark.parametrize(
    "message",
    [
        Chunk("b", 0, b"de"),
        Chunk("a", 1, b"b"),
        Chunk("a", 0, b"abcd"),
        Chunk("a", 0, b""),
        Chunk("empty", 0, b"x"),
        Complete(10),
    ],
)
def test_chunks_with_a_gap_an_overlap_or_too_many_bytes_are_refused(message: Message) -> None:
    link = receiving(master(), TwinNode("r"))
    assert hear(link, message) == [AbortSnapshot()]
    assert link.reason == "snapshot_malformed"


def test_nothing_may_follow_the_last_file_but_complete() -> None:
    link = receiving(master(), TwinNode("r"))
    hear(link, Chunk("a", 0, b"abc"), Chunk("b", 0, b"de"))
    assert hear(link, Chunk("b", 2, b"f")) == [AbortSnapshot()]
    link = receiving(master(), TwinNode("r"))
    hear(link, Chunk("a", 0, b"abc"), Chunk("b", 0, b"de"))
    assert hear(link, Complete(11)) == [AbortSnapshot()]


def test_a_snapshot_whose_sizes_do_not_add_up_is_refused() -> None:
    link = greeted(TwinNode("r"))
    hear(link, welcome_of(master(), "full"))
    link.prepared(False, {}, NOW)
    assert hear(link, Snapshot(10, {}, (FileEntry("a", 3, 1),), 4)) == []
    assert link.reason == "snapshot_malformed"


def test_the_masters_silence_does_not_count_while_this_node_verifies() -> None:
    link = receiving(master(), TwinNode("r"), replica_timeout_secs=3.0, heartbeat_interval_secs=1.0)
    hear(link, Chunk("a", 0, b"abc"), Chunk("b", 0, b"de"), Complete(10))
    assert said(link, NOW + 100) == [Received(0)]
    assert link.state is LinkState.INSTALLING
    assert link.deadline() == NOW + 101


def test_a_snapshot_that_cannot_be_installed_leaves_the_old_data_and_is_asked_for_anew() -> None:
    replica = TwinNode("r")
    pair = Pair(master(), replica)
    pair.corrupt = True
    pair.connect().run()
    assert pair.link.state is LinkState.DOWN
    assert pair.link.reason == "snapshot_corrupt"
    assert replica.offset == 0
    assert not pair.link.serves_data
    pair.corrupt = False
    pair.connect().run()
    assert pair.streaming() and pair.equal()


def test_a_full_disk_is_waited_for() -> None:
    link = receiving(master(), TwinNode("r"), reconnect_interval_secs=8.0)
    hear(link, Chunk("a", 0, b"abc"))
    link.snapshot_failed("insufficient_storage", "no room", NOW)
    assert link.work() == [AbortSnapshot()]
    link.disconnected("connection_lost", "", NOW)
    assert link.retry.at == NOW + 6.0  # three quarters of the interval: chance is one half here


def test_operations_too_large_for_a_frame_come_by_a_full_sync() -> None:
    node = master()
    replica = copy_of(node, 10)
    node.commit(1, size=100_000)
    pair = Pair(node, replica)
    small = pair.settings
    pair.settings = replace(small, limits=replace(small.limits, frame_bytes_max=65_536))
    pair.connect().run()
    assert pair.link.reason == "operation_too_large"
    pair.connect().run()
    assert pair.streaming() and pair.equal()
    assert pair.link.totals.full_sync_reasons == {"requested": 1}


# -- operations that fail here only ------------------------------------------------------------------


def test_an_operation_that_fails_here_is_answered_by_a_full_sync() -> None:
    node = master()
    pair = Pair(node, copy_of(node, 7))
    pair.replica.poison = {9}
    pair.connect().run()
    assert (pair.link.state, pair.link.reason, pair.replica.offset) == (LinkState.DOWN, "apply_failed", 8)
    pair.connect().run()
    assert pair.streaming() and pair.equal()
    assert pair.link.totals.full_sync_reasons == {"requested": 1}
    assert pair.link.failures.total == 1
    assert [report.facts["failures"] for report in pair.reports if report.event == "apply_failed"] == [1]


def test_the_third_failure_in_a_row_waits_for_an_operator() -> None:
    node = master()
    pair = Pair(node, copy_of(node, 7))
    pair.replica.poison = set(range(8, 100))
    for _ in range(3):
        pair.connect().run()
        while pair.link.state is not LinkState.FAILED and pair.streaming():
            node.commit(1)
            pair.run()
    assert pair.link.state is LinkState.FAILED
    assert pair.link.retry.at is None
    assert pair.link.failures.total == 3
    assert "waiting for an operator" in pair.link.message
    pair.replica.poison = set()
    pair.link.reset(pair.now)
    assert (pair.link.state, pair.link.retry.at) == (LinkState.DOWN, pair.now)
    pair.connect().run()
    assert pair.streaming() and pair.equal()


def test_failures_with_success_in_between_are_not_in_a_row() -> None:
    node = master()
    pair = Pair(node, copy_of(node, 7))
    for _ in range(5):
        pair.replica.poison = {node.offset + 2}
        node.commit(3)
        pair.connect().run()
        assert pair.link.state is LinkState.DOWN
        pair.connect().run()
        node.commit(1)
        pair.run()
        assert pair.streaming() and pair.equal()
        pair.cut()
    assert pair.link.failures.total == 5


def test_a_full_disk_is_no_failure_of_the_operation() -> None:
    node = master()
    link = greeted(copy_of(node, 7))
    hear(link, welcome_of(node), head(node.frames[7]))
    link.apply_failed(8, "insufficient_storage", "no room", NOW)
    assert link.failures.total == 0
    link.disconnected("connection_lost", "", NOW)
    link.connecting(NOW)
    link.connected(NOW)
    [hello] = said(link)
    assert isinstance(hello, Hello)
    assert hello.full == ""


# -- coming again ------------------------------------------------------------------------------------


def test_the_first_attempt_is_at_once_then_pauses_grow_up_to_the_interval() -> None:
    link = link_of(TwinNode("r"), reconnect_interval_secs=2.0)
    assert link.retry.at == NOW
    pauses = []
    for _ in range(9):
        link.connecting(NOW)
        assert link.state is LinkState.CONNECTING
        link.disconnected("connect_failed", "refused", NOW)
        assert link.retry.at is not None
        pauses.append(round((link.retry.at - NOW) / 0.75, 3))
    assert pauses == [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0, 2.0]
    assert link.retry.attempts_total == 9


def test_success_resets_the_pause() -> None:
    pair = Pair(master(), TwinNode("r"))
    for _ in range(5):
        pair.link.connecting(pair.now)
        pair.link.disconnected("connect_failed", "refused", pair.now)
    pair.connect().run().pass_time(6)
    assert pair.link.retry.attempts == 0
    pair.cut()
    assert pair.link.retry.at == pair.now


def test_a_link_that_breaks_right_after_the_welcome_is_no_success() -> None:
    node = master(7)
    pair = Pair(node, copy_of(node, 7))
    for _ in range(3):
        pair.connect().run()
        assert pair.streaming()
        pair.cut()
    assert pair.link.retry.attempts == 3


def test_a_listener_that_never_answers_is_given_up() -> None:
    link = greeted(TwinNode("r"), handshake_timeout_secs=4.0)
    assert link.state is LinkState.HANDSHAKE
    assert said(link, NOW + 3.9) == []
    assert isinstance(said(link, NOW + 4.0)[0], Goodbye)
    assert link.reason == "handshake_timeout"
    link.disconnected("connection_lost", "", NOW + 4)
    assert link.reason == "handshake_timeout"
    assert link.state is LinkState.DOWN


def test_a_silent_master_is_given_up() -> None:
    node = master(7)
    link = greeted(copy_of(node, 7), replica_timeout_secs=3.0, heartbeat_interval_secs=1.0)
    hear(link, welcome_of(node))
    said(link)
    assert said(link, NOW + 2.9) == [Ack(7, 7)]
    assert isinstance(said(link, NOW + 3.0)[0], Goodbye)
    assert link.reason == "master_timeout"


def test_a_refusal_comes_again_after_the_interval_and_a_corrected_master_is_followed() -> None:
    stranger = TwinNode("r").lead("Z").commit(5)
    pair = Pair(master(), stranger, settings_of(reconnect_interval_secs=4.0)).connect().run()
    assert pair.link.state is LinkState.REFUSED
    assert pair.link.retry.at == pair.now + 3.0
    stranger.put([], History())
    pair.connect().run()
    assert pair.streaming()


def test_stop_says_goodbye_and_nothing_comes_after() -> None:
    pair = Pair(master(), TwinNode("r")).connect().run()
    pair.link.stop("shutdown", "this node stops", pair.now)
    pair.run()
    assert pair.link.state is LinkState.STOPPED
    assert pair.link.retry.at is None
    row = pair.table.get("r")
    assert row is not None
    assert row.gone_reason == "shutdown"
    pair.link.disconnected("connection_lost", "", pair.now)
    pair.link.reset(pair.now)
    assert pair.link.state is LinkState.STOPPED


@pytest.mark.parametrize("state", [LinkState.DOWN, LinkState.CONNECTING])
def test_stop_without_a_connection(state: LinkState) -> None:
    link = link_of(TwinNode("r"))
    if state is LinkState.CONNECTING:
        link.connecting(NOW)
    link.stop("shutdown", "", NOW)
    link.disconnected("connect_failed", "", NOW)
    assert link.state is LinkState.STOPPED


def test_the_masters_goodbye_is_the_reason_of_the_loss() -> None:
    pair = Pair(master(), TwinNode("r")).connect().run()
    assert pair.session is not None
    pair.session.close("shutdown", "the master stops", pair.now)
    pair.run()
    assert (pair.link.state, pair.link.reason) == (LinkState.DOWN, "shutdown")
    assert pair.link.totals.disconnects == {"shutdown": 1}


# -- facts -------------------------------------------------------------------------------------------


def test_lag_is_the_masters_word_and_grows_while_the_link_is_down() -> None:
    node = master(10)
    link = greeted(copy_of(node, 7))
    assert link.lag_ms(NOW + 2) == 2000
    hear(link, welcome_of(node), now=NOW + 2)
    assert link.lag_operations() == 3
    hear(link, Heartbeat(10, 10, 250, START_MS), now=NOW + 3)
    assert link.lag_ms(NOW + 3.5) == 750
    replica = link.node
    assert isinstance(replica, TwinNode)
    replica.frames += node.frames[7:]
    assert (link.lag_ms(NOW + 4), link.lag_operations()) == (0, 0)
    link.disconnected("connection_lost", "", NOW + 5)
    assert link.lag_ms(NOW + 9) == 4000
    assert link.master.heartbeat_age_ms(NOW + 9) == 6000


def test_behind_a_link_that_says_nothing_data_is_as_old_as_the_last_heartbeat() -> None:
    node = master(7)
    link = greeted(copy_of(node, 7))
    hear(link, welcome_of(node, heartbeat_interval_secs=2.0))
    hear(link, Heartbeat(7, 7, 0, START_MS), now=NOW + 1)
    assert link.lag_ms(NOW + 4) == 0, "a second late is not overdue"
    assert link.lag_ms(NOW + 4.5) == 3500
    link.disconnected("connection_lost", "", NOW + 5)
    assert link.lag_ms(NOW + 6) == 5000, "and goes on from there"


def test_a_master_may_change_its_interval_on_a_link_that_stands() -> None:
    node = master(7)
    link = greeted(copy_of(node, 7))
    hear(link, welcome_of(node, heartbeat_interval_secs=1.0))
    hear(link, Heartbeat(7, 7, 0, START_MS), now=NOW + 10)
    assert link.lag_ms(NOW + 19) == 0, "the last two were ten seconds apart"
    assert link.lag_ms(NOW + 26) == 16000


def test_lag_lost_in_the_middle_goes_on_from_there() -> None:
    node = master(10)
    link = greeted(copy_of(node, 7))
    hear(link, welcome_of(node))
    hear(link, Heartbeat(10, 10, 300, START_MS))
    link.disconnected("connection_lost", "", NOW + 1)
    assert link.lag_ms(NOW + 1) == 1300
    assert link.lag_ms(NOW + 3) == 3300


def test_which_data_is_served() -> None:
    node = master()
    fresh = link_of(TwinNode("r"))
    assert not fresh.serves_data
    old = greeted(copy_of(node, 7))
    assert old.serves_data
    hear(old, welcome_of(node, "full", reason="outside_window", fork_offset=7))
    assert old.syncing and old.serves_data
    foreign = greeted(TwinNode("r").lead("Z").commit(3))
    foreign.force = True
    hear(foreign, welcome_of(node, "full", reason="foreign_history"))
    assert foreign.syncing and not foreign.serves_data
    incomplete = copy_of(node, 7)
    incomplete.has_complete_data = False
    link = link_of(incomplete)
    assert not link.serves_data
    link.connecting(NOW)
    link.connected(NOW)
    [hello] = said(link)
    assert isinstance(hello, Hello)
    assert hello.full == "incomplete_data"


# -- the table is the machine ------------------------------------------------------------------------


EXAMPLES: dict[type, Message] = {
    Greet: Greet(1, "x", b"n" * 32),
    Challenge: Challenge("m", b"m" * 32),
    Proof: Proof(bytes(32)),
    Hello: Hello(1, "x", ("x",), History(), 0, None, 1 << 20, "", 0),
    Welcome: welcome_of(master(0)),
    Refuse: Refuse("cycle", "no"),
    Accept: Accept(),
    Snapshot: Snapshot(0, {}, (), 0),
    Chunk: Chunk("a", 0, b"x"),
    Received: Received(0),
    Complete: Complete(0),
    Heartbeat: Heartbeat(0, 0, 0, 0),
    Ack: Ack(0, 0),
    Goodbye: Goodbye("shutdown"),
    Promote: Promote("s1", 7),
    Promoted: Promoted("s1", History()),
    Declined: Declined("s1", "behind", "no"),
    Repoint: Repoint("n:7001"),
}


def in_state(state: LinkState) -> ReplicaLink:
    """A link driven there by the ordinary road."""
    node = master(7)
    if state in (LinkState.RECEIVING, LinkState.INSTALLING):
        link = receiving(node, TwinNode("r"))
        if state is LinkState.INSTALLING:
            hear(link, Chunk("a", 0, b"abc"), Chunk("b", 0, b"de"), Complete(10))
        return link
    link = link_of(copy_of(node, 7))
    if state is LinkState.DOWN:
        return link
    if state is LinkState.STOPPED:
        link.stop("shutdown", "", NOW)
        return link
    link.connecting(NOW)
    if state is LinkState.CONNECTING:
        return link
    proves = state in (LinkState.GREETING, LinkState.PROVING)
    link.connected(NOW, Credentials(b"s" * 16, b"r" * 32) if proves else NOTHING)
    said(link)
    if state is LinkState.PROVING:
        hear(link, EXAMPLES[Challenge])
    if state in (LinkState.PREPARING, LinkState.OFFERED):
        hear(link, welcome_of(node, "full"))
    if state is LinkState.OFFERED:
        link.prepared(False, {}, NOW)
    if state in (LinkState.STREAMING, LinkState.PROMOTING):
        hear(link, welcome_of(node))
    if state is LinkState.PROMOTING:
        hear(link, Promote("s1", 7))
    if state is LinkState.CLOSING:
        link.fail(PeerError("offset_gap", ""), NOW)
    if state is LinkState.REFUSED:
        hear(link, Refuse("foreign_history", ""))
        link.disconnected("", "", NOW)
    if state is LinkState.FAILED:
        for _ in range(3):
            hear(link, welcome_of(node))
            link.apply_failed(8, "apply_failed", "no", NOW)
            link.disconnected("", "", NOW)
            if link.state is not LinkState.FAILED:
                link.connecting(NOW)
                link.connected(NOW)
    return link


@pytest.mark.parametrize("state", list(LinkState))
def test_every_state_can_be_reached(state: LinkState) -> None:
    assert in_state(state).state is state


@pytest.mark.parametrize("state", [state for state in LinkState if LINK_LEGAL[state]])
@pytest.mark.parametrize("kind", [*KINDS.values(), OperationFrame])
def test_what_is_missing_in_the_table_closes_the_link(state: LinkState, kind: type[Message]) -> None:
    link = in_state(state)
    if kind in LINK_LEGAL[state]:
        return
    message = EXAMPLES.get(kind) or head(master(1).frames[0])
    link.receive(message, NOW, START_MS)
    assert link.state is LinkState.CLOSING
    if state is not LinkState.CLOSING:
        assert link.reason == "illegal_message"


@pytest.mark.parametrize("kind", list(LINK_LEGAL[LinkState.CLOSING]))
def test_after_goodbye_everything_is_passed_over(kind: type[Message]) -> None:
    link = in_state(LinkState.CLOSING)
    assert hear(link, EXAMPLES.get(kind) or head(master(1).frames[0])) == []
    assert link.reason == "offset_gap"


def test_the_methods_of_the_table_exist() -> None:
    for legal in LINK_LEGAL.values():
        for method in legal.values():
            assert callable(getattr(ReplicaLink, method))


def test_late_outcomes_of_work_change_nothing() -> None:
    link = in_state(LinkState.PREPARING)
    link.fail(PeerError("connection_lost", ""), NOW)
    link.prepared(True, {}, NOW)
    assert link.state is LinkState.CLOSING
    link.written(5, NOW)
    link.installed(NOW, START_MS)
    assert link.state is LinkState.CLOSING


# -- cut everywhere ----------------------------------------------------------------------------------


def scenario(kind: str) -> Pair:
    node = master(12)
    if kind == "full":
        return Pair(node, TwinNode("r"))
    if kind == "partial":
        return Pair(node, copy_of(node, 5))
    return diverged_pair([7] if kind == "rewind" else [])


def bytes_of(kind: str) -> int:
    """How many bytes such a conversation has, both ways, until it is quiet."""
    pair = scenario(kind).connect().run()
    return pair.link.totals.bytes_sent + pair.link.totals.bytes_received


@pytest.mark.parametrize("kind", ["full", "partial", "rewind", "diverged"])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_cut_at_any_byte_the_next_connection_finishes(kind: str, data: st.DataObject) -> None:
    pair = scenario(kind)
    total = bytes_of(kind)
    for _ in range(data.draw(st.integers(1, 4))):
        budget = data.draw(st.integers(0, total))
        pair.connect()
        while budget > 0 and pair.session is not None:
            moved = pair.speak()
            up = min(len(pair.up), data.draw(st.integers(1, 400)), budget)
            budget -= up
            moved |= pair.deliver_up(up)
            down = min(len(pair.down), data.draw(st.integers(1, 400)), max(budget, 0))
            budget -= down
            moved |= pair.deliver_down(down)
            if not moved:
                break
        assert pair.replica.frames == pair.master.frames[: pair.replica.offset] or kind in (
            "rewind",
            "diverged",
        )
        if pair.session is not None:
            pair.cut()
        assert pair.received_files is None
        pair.now += 1
        pair.master.commit(1, pair.now)
    pair.connect().run()
    assert pair.streaming() and pair.equal()
    assert pair.link.totals.refusals == {} and pair.table.totals.refusals == {}
    if kind in ("partial", "rewind"):
        assert pair.link.totals.full_syncs == 0
    assert pair.table.totals.full_syncs <= pair.link.totals.full_syncs


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 900)), max_size=12))
def test_bursts_and_cuts_lose_nothing_and_double_nothing(steps: list[tuple[int, int]]) -> None:
    node = master(3)
    pair = Pair(node, copy_of(node, 3)).connect().run()
    for burst, through in steps:
        node.commit(burst, pair.now)
        pair.speak()
        pair.deliver_down(through)
        pair.deliver_up(through)
        if through % 3 == 0:
            pair.cut()
            pair.connect()
    pair.run()
    assert pair.streaming() and pair.equal()
    assert pair.link.totals.full_syncs == 0
    assert pair.link.operations_applied == node.offset - 3


def test_reports_have_the_numbers_of_both_sides() -> None:
    pair = Pair(master(), TwinNode("r")).connect().run()
    [joined] = [report for report in pair.reports if report.event == "replica_joined"]
    assert isinstance(joined, Report)
    assert "offset 10" in joined.facts["master_place"] and "offset 0" in joined.facts["replica_place"]
    [offered] = [report for report in pair.reports if report.event == "full_sync_offered"]
    assert (offered.facts["offset"], offered.facts["master_offset"]) == (0, 10)


def test_a_large_message_that_comes_slowly_is_no_silence() -> None:
    node = master(7)
    link = greeted(
        copy_of(node, 7), replica_timeout_secs=3.0, heartbeat_interval_secs=1.0, handshake_timeout_secs=9
    )
    link.heard(NOW + 2)
    assert link.silent_at() == NOW + 9
    hear(link, welcome_of(node), now=NOW + 2)
    link.heard(NOW + 4)
    assert link.silent_at() == NOW + 7


def test_the_ack_after_a_full_sync_is_of_the_snapshot_whatever_the_journal_says() -> None:
    pair = Pair(master(), TwinNode("r")).connect()
    put = pair.replica.put

    def put_and_lag(frames: list[bytes], history: History) -> None:
        put(frames, history)
        pair.replica.durable_offset = 0

    pair.replica.put = put_and_lag  # type: ignore[method-assign]
    pair.run()
    assert pair.streaming() and pair.equal()
    assert Ack(10, 10) in pair.said
