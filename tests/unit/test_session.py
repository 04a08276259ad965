"""The master's side of a replica: decisions, order, pacing, guards; no socket, a clock that we move."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from tests.unit.pair import START_MS, Pair, TwinNode, head, settings_of
from vectorizer.errors import PeerError
from vectorizer.replication.authentication import Credentials
from vectorizer.replication.history import History
from vectorizer.replication.intentions import (
    CaptureSnapshot,
    Close,
    CloseReplaced,
    ReadChunk,
    ReadJournal,
    ReleaseSnapshot,
    Report,
    Send,
    SendFrames,
)
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
from vectorizer.replication.progress import REASONS_MAX, Phase, ReplicaTable
from vectorizer.replication.session import BATCH_BYTES, HELLOS_MAX, JOURNAL_PATIENCE_SECS, MasterSession
from vectorizer.replication.states import SESSION_LEGAL, SessionState
from vectorizer.replication.transfer import UNACKNOWLEDGED_BYTES_MAX

NOW = 100.0


def master(operations: int = 10) -> TwinNode:
    return TwinNode("m").lead("A").commit(operations, NOW)


def session_of(node: TwinNode, table: ReplicaTable | None = None, **settings: object) -> MasterSession:
    chosen = settings_of(**settings)
    table = ReplicaTable() if table is None else table
    return MasterSession(node, table, lambda: chosen, "10.0.0.2", 4000, NOW)


def hello_of(node: TwinNode, **fields: object) -> Hello:
    hello = Hello(1, node.node_id, (node.node_id,), node.history, node.offset, None, 1 << 24, "", 0)
    return replace(hello, **fields)  # type: ignore[arg-type]


def at(history: History, offset: int, node_id: str = "r", **fields: object) -> Hello:
    return replace(hello_of(TwinNode(node_id, history)), offset=offset, **fields)  # type: ignore[arg-type]


def everything(session: MasterSession, now: float = NOW) -> list[object]:
    """What the session wants until it falls silent; nothing is answered."""
    wanted: list[object] = []
    while intentions := session.ready(now, START_MS):
        wanted += intentions
    return wanted


def said(wanted: list[object], kind: type[Message]) -> list[Message]:
    return [item.message for item in wanted if isinstance(item, Send) and isinstance(item.message, kind)]


def kinds(wanted: list[object]) -> list[str]:
    return [item.message.KIND if isinstance(item, Send) else type(item).__name__ for item in wanted]


def tell(session: MasterSession, *messages: Message | OperationFrame, now: float = NOW) -> list[object]:
    for message in messages:
        session.receive(message, now, START_MS, 10)
    return everything(session, now)


def streaming(node: TwinNode, from_offset: int = 0, **settings: object) -> MasterSession:
    session = session_of(node, **settings)
    tell(session, at(node.history, from_offset) if from_offset else hello_of(TwinNode("r")))
    return session


# -- the decision ------------------------------------------------------------------------------------


def test_a_position_inside_the_window_streams_on() -> None:
    node = master(10)
    wanted = tell(session_of(node), at(node.history, 4))
    [welcome] = said(wanted, Welcome)
    assert isinstance(welcome, Welcome)
    assert (welcome.sync, welcome.reason, welcome.fork_offset) == ("partial", "continues", 4)
    assert (welcome.window_first, welcome.window_last, welcome.offset) == (1, 10, 10)
    [sending] = [item for item in wanted if isinstance(item, SendFrames)]
    assert [head(line).offset for line in sending.frames] == [5, 6, 7, 8, 9, 10]


def test_a_refusal_names_both_sides_numbers_and_ends_the_link() -> None:
    node, stranger = master(10), TwinNode("r").lead("Z").commit(3)
    table = ReplicaTable()
    wanted = tell(session_of(node, table), hello_of(stranger))
    [refuse] = said(wanted, Refuse)
    assert isinstance(refuse, Refuse)
    assert refuse.reason == "foreign_history"
    assert refuse.details["master"] == {"replication_id": "A", "epoch": 1, "offset": 10}
    assert refuse.details["replica"] == {"replication_id": "Z", "epoch": 1, "offset": 3}
    assert kinds(wanted) == ["refuse", "Report", "Close"]
    assert table.totals.refusals == {"foreign_history": 1}
    assert len(table) == 0


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"protocol": 2}, "protocol_mismatch"),
        ({"node_id": "m"}, "cycle"),
        ({"path": ("r", "m")}, "cycle"),
    ],
)
def test_what_is_refused_before_any_decision(fields: dict[str, object], reason: str) -> None:
    node = master()
    [refuse] = said(tell(session_of(node), at(node.history, 4, **fields)), Refuse)
    assert isinstance(refuse, Refuse)
    assert refuse.reason == reason


def test_more_replicas_than_the_limit_are_refused_but_not_the_same_one_again() -> None:
    node, table = master(), ReplicaTable()
    first = session_of(node, table, replicas_max=1)
    tell(first, at(node.history, 4, "one"))
    [refuse] = said(tell(session_of(node, table, replicas_max=1), at(node.history, 4, "two")), Refuse)
    assert isinstance(refuse, Refuse)
    assert refuse.reason == "too_many_replicas"
    assert said(tell(session_of(node, table, replicas_max=1), at(node.history, 4, "one")), Welcome)


def test_the_checksum_at_the_replicas_offset_is_read_from_the_journal() -> None:
    node = master(10)
    node.forget(8)
    session = session_of(node)
    assert tell(session, at(node.history, 4, checksum=1)) == [ReadJournal(3, 1, 4)]
    assert session.state is SessionState.CHECKING
    session.journal_read(node.frames[3:4], NOW, START_MS)
    [welcome] = said(everything(session), Welcome)
    assert isinstance(welcome, Welcome)
    assert (welcome.sync, welcome.reason) == ("full", "checksum_mismatch")


def test_a_journal_that_lost_it_meanwhile_leaves_the_checksum_out() -> None:
    node = master(10)
    node.forget(8)
    session = session_of(node)
    tell(session, at(node.history, 4, checksum=1))
    session.journal_read(None, NOW, START_MS)
    [welcome] = said(everything(session), Welcome)
    assert isinstance(welcome, Welcome)
    assert welcome.sync == "partial"


def test_hello_may_come_again_after_going_back_but_not_for_ever() -> None:
    node = master(10)
    session = session_of(node)
    diverged = History(node.history.entries).opened("Z", 1, 2)
    for _ in range(HELLOS_MAX):
        assert said(tell(session, at(diverged, 0)), Welcome)
        assert session.state is SessionState.OFFERED
    assert kinds(tell(session, at(diverged, 0))) == ["goodbye", "Close"]


def test_a_second_hello_must_be_of_the_same_node() -> None:
    node = master(10)
    session = session_of(node)
    tell(session, at(node.history, 0))
    assert session.state is SessionState.OFFERED
    assert kinds(tell(session, at(node.history, 0, "other"))) == ["goodbye", "Close"]
    assert session.close_reason == "illegal_message"


# -- the stream --------------------------------------------------------------------------------------


def test_operations_go_out_in_bounded_batches_and_by_the_shared_bytes() -> None:
    node = TwinNode("m").lead("A").commit(12, size=BATCH_BYTES // 4)
    session = session_of(node)
    wanted = tell(session, at(node.history, 1))
    batches = [item.frames for item in wanted if isinstance(item, SendFrames)]
    assert all(sum(map(len, batch)) <= BATCH_BYTES for batch in batches)
    assert [line for batch in batches for line in batch] == node.frames[1:]
    assert all(
        a is b for a, b in zip([line for batch in batches for line in batch], node.frames[1:], strict=True)
    )


def test_only_what_may_be_sent_is_sent() -> None:
    node = master(10)
    node.durable_only, node.durable_offset = True, 7
    session = streaming(node, 4)
    assert session.progress is not None
    assert session.progress.sent_offset == 7
    assert everything(session) == []
    node.durable_offset = 9
    assert [len(item.frames) for item in everything(session) if isinstance(item, SendFrames)] == [2]


def test_what_memory_has_no_more_is_read_from_the_journal() -> None:
    node = master(10)
    node.forget(8)
    session = session_of(node)
    wanted = tell(session, at(node.history, 4))
    assert wanted[-1] == ReadJournal(4, BATCH_BYTES, 10)
    assert everything(session) == []
    session.journal_read(node.frames[4:6], NOW, START_MS)
    wanted = everything(session)
    assert isinstance(wanted[0], SendFrames)
    assert wanted[-1] == ReadJournal(6, BATCH_BYTES, 10)
    session.journal_read(node.frames[6:8], NOW, START_MS)
    assert session.progress is not None
    everything(session)
    assert session.progress.sent_offset == 10


def test_what_is_not_in_the_journal_yet_is_asked_for_a_little_later() -> None:
    node = master(10)
    node.forget(8)
    session = session_of(node)
    tell(session, at(node.history, 4))
    session.journal_read([], NOW, START_MS)
    assert everything(session) == []
    assert session.deadline() == NOW + JOURNAL_PATIENCE_SECS
    later = everything(session, NOW + JOURNAL_PATIENCE_SECS)
    assert later == [ReadJournal(4, BATCH_BYTES, 10)]


def test_a_trimmed_journal_ends_the_link_with_both_numbers() -> None:
    node = master(10)
    node.forget(8)
    session = session_of(node)
    tell(session, at(node.history, 4))
    node.forget(8, journal=True)
    session.journal_read(None, NOW, START_MS)
    wanted = everything(session)
    [goodbye] = said(wanted, Goodbye)
    assert isinstance(goodbye, Goodbye)
    assert goodbye.reason == "window_overrun"
    assert "needs operation 5, the window is 9..10" in goodbye.message
    assert isinstance(wanted[-1], Close)


def test_an_operation_over_the_replicas_limit_ends_the_link_and_says_so() -> None:
    node = master(10).commit(1, size=200_000)
    session = session_of(node)
    wanted = tell(session, at(node.history, 10, frame_bytes_max=100_000))
    [goodbye] = said(wanted, Goodbye)
    assert isinstance(goodbye, Goodbye)
    assert goodbye.reason == "operation_too_large"
    assert "100000" in goodbye.message


def test_acks_move_the_passport_and_never_back() -> None:
    node = master(10)
    session = streaming(node, 4)
    tell(session, Ack(9, 7), Ack(8, 6))
    assert session.progress is not None
    assert (session.progress.acked_applied, session.progress.acked_durable) == (9, 7)
    assert not session.caught_up()
    tell(session, Ack(10, 10))
    assert session.caught_up()


@pytest.mark.parametrize("ack", [Ack(11, 11), Ack(9, 10)])
def test_an_ack_of_what_was_never_sent_ends_the_link(ack: Ack) -> None:
    session = streaming(master(10), 4)
    assert kinds(tell(session, ack)) == ["goodbye", "Close"]


# -- time --------------------------------------------------------------------------------------------


def test_heartbeats_go_out_by_the_interval_of_now() -> None:
    node = master(10)
    session = streaming(node, 4, heartbeat_interval_secs=2.0)
    assert session.deadline() == NOW + 2.0
    assert everything(session, NOW + 1.9) == []
    [beat] = said(everything(session, NOW + 2.0), Heartbeat)
    assert beat == Heartbeat(10, 10, 2000, START_MS)  # not acknowledged since its commit at NOW
    session.settings = lambda: settings_of(heartbeat_interval_secs=0.5)
    assert session.deadline() == NOW + 2.5
    tell(session, Ack(10, 10), now=NOW + 2.1)
    [beat] = said(everything(session, NOW + 2.5), Heartbeat)
    assert isinstance(beat, Heartbeat)
    assert beat.lag_ms == 0


def test_a_peer_that_never_says_hello_is_refused() -> None:
    session = session_of(master(), handshake_timeout_secs=3.0)
    assert everything(session, NOW + 2.9) == []
    wanted = everything(session, NOW + 3.0)
    assert kinds(wanted) == ["refuse", "Close"]
    assert session.close_reason == "handshake_timeout"


def test_strangers_that_make_up_reasons_do_not_fill_the_memory() -> None:
    node, table = master(), ReplicaTable()
    for number in range(3 * REASONS_MAX):
        tell(session_of(node, table), Refuse(f"r{number}", ""))
    assert len(table.totals.refusals) <= REASONS_MAX + 1
    assert table.totals.refusals.total() == 3 * REASONS_MAX


def test_a_late_hello_is_late_though_bytes_come() -> None:
    session = session_of(master(), handshake_timeout_secs=3.0)
    session.heard(NOW + 2.9)
    assert session.silent_at() == NOW + 3.0


def test_a_silent_replica_is_dropped_and_its_row_stays() -> None:
    node, table = master(), ReplicaTable()
    session = session_of(node, table, replica_timeout_secs=5.0, heartbeat_interval_secs=100.0)
    tell(session, at(node.history, 4))
    tell(session, Ack(10, 10), now=NOW + 4)
    assert everything(session, NOW + 8.9) == []
    assert kinds(everything(session, NOW + 9.0)) == ["goodbye", "Close"]
    row = table.get("r")
    assert row is not None
    assert (row.phase, row.gone_reason, row.acked_applied) == (Phase.GONE, "replica_timeout", 10)


def test_the_handshake_is_not_late_once_hello_was_said() -> None:
    node = master()
    session = session_of(node, handshake_timeout_secs=1.0, replica_timeout_secs=9.0)
    tell(session, at(node.history, 4))
    assert session.silent_at() == NOW + 9.0


# -- the full sync -----------------------------------------------------------------------------------


FILES = [FileEntry("a", 3 << 20, 1), FileEntry("none", 0, 0), FileEntry("b", 9 << 20, 2)]


def sending(node: TwinNode) -> MasterSession:
    session = session_of(node)
    tell(session, at(History(), 0))
    assert tell(session, Accept({"x": 1})) == [CaptureSnapshot({"x": 1}, fresh=False)]
    session.snapshot_captured(8, {"m": "manifest"}, FILES, NOW)
    return session


def test_a_replica_that_could_not_take_an_operation_gets_a_snapshot_of_now() -> None:
    node = master(10)
    session = session_of(node)
    tell(session, at(node.history, 4, full="apply_failed"))
    assert tell(session, Accept()) == [CaptureSnapshot({}, fresh=True)]


def feed(session: MasterSession, node: TwinNode) -> list[object]:
    """Answer every ReadChunk with zeros until the session wants no more."""
    wanted: list[object] = []
    while intentions := session.ready(NOW, START_MS):
        wanted += intentions
        for item in intentions:
            if isinstance(item, ReadChunk):
                session.chunk_read(bytes(item.count), NOW)
    return wanted


def test_a_snapshot_is_paced_by_what_was_received() -> None:
    node = master(10)
    session = sending(node)
    wanted = feed(session, node)
    [snapshot] = said(wanted, Snapshot)
    assert isinstance(snapshot, Snapshot)
    assert (snapshot.offset, snapshot.bytes_total) == (8, 12 << 20)
    chunks = said(wanted, Chunk)
    assert sum(len(chunk.data) for chunk in chunks if isinstance(chunk, Chunk)) == UNACKNOWLEDGED_BYTES_MAX
    assert session.progress is not None and session.progress.sync is not None
    assert session.progress.sync.bytes_sent == UNACKNOWLEDGED_BYTES_MAX
    session.receive(Received(1 << 20), NOW, START_MS)
    assert len(said(feed(session, node), Chunk)) == 1
    assert session.state is SessionState.SENDING
    session.receive(Received(8 << 20), NOW, START_MS)
    wanted = feed(session, node)
    assert session.state is SessionState.INSTALLING
    assert said(wanted, Complete) == [Complete(8)]
    assert session.progress.sync.percent() == pytest.approx(66.67, 0.01)


def test_complete_waits_until_the_master_itself_holds_it_durably() -> None:
    node = master(10)
    node.durable_only, node.durable_offset = True, 7
    session = sending(node)
    feed(session, node)
    session.receive(Received(8 << 20), NOW, START_MS)
    assert said(feed(session, node), Complete) == []
    assert session.state is SessionState.COMPLETING
    node.durable_offset = 8
    assert said(feed(session, node), Complete) == [Complete(8)]


def installing(node: TwinNode) -> MasterSession:
    session = sending(node)
    feed(session, node)
    session.receive(Received(8 << 20), NOW, START_MS)
    feed(session, node)
    return session


def test_the_ack_of_the_snapshots_offset_begins_the_stream_there() -> None:
    node = master(10)
    session = installing(node)
    wanted = tell(session, Ack(8, 8))
    assert session.state is SessionState.STREAMING
    [frames] = [item.frames for item in wanted if isinstance(item, SendFrames)]
    assert [head(line).offset for line in frames] == [9, 10]
    assert ReleaseSnapshot() in wanted
    progress = session.progress
    assert progress is not None
    assert (progress.full_syncs, progress.acked_durable, progress.sync) == (1, 8, None)
    assert session.table.totals.full_syncs == 1


def test_the_snapshot_stays_pinned_until_memory_has_the_rest() -> None:
    node = master(20)
    node.forget(15)
    session = installing(node)
    wanted = tell(session, Ack(8, 8))
    assert ReleaseSnapshot() not in wanted
    assert wanted[-1] == ReadJournal(8, BATCH_BYTES, 20)
    session.journal_read(node.frames[8:15], NOW, START_MS)
    assert ReleaseSnapshot() in everything(session)


@pytest.mark.parametrize("ack", [Ack(10, 10), Ack(8, 7), Ack(0, 0)])
def test_another_ack_is_no_answer_to_complete(ack: Ack) -> None:
    session = installing(master(10))
    assert kinds(tell(session, ack)) == ["goodbye", "Close"]


@pytest.mark.parametrize("bytes_claimed", [13 << 20])
def test_received_more_than_was_sent_ends_the_link(bytes_claimed: int) -> None:
    session = sending(master(10))
    feed(session, master(10))
    assert kinds(tell(session, Received(bytes_claimed))) == ["goodbye", "Close"]


def test_received_never_falls() -> None:
    session = sending(master(10))
    feed(session, master(10))
    assert kinds(tell(session, Received(2 << 20), Received(1 << 20)))[-2:] == ["goodbye", "Close"]


def test_a_file_that_ends_early_fails_the_sync() -> None:
    session = sending(master(10))
    assert isinstance(everything(session)[-1], ReadChunk)
    session.chunk_read(b"", NOW)
    assert kinds(everything(session)) == ["goodbye", "Close"]
    assert session.close_reason == "snapshot_failed"


def test_answers_that_come_after_the_end_change_nothing() -> None:
    session = sending(master(10))
    everything(session)
    session.close("shutdown", "", NOW)
    session.chunk_read(b"x", NOW)
    session.journal_read(None, NOW, START_MS)
    session.snapshot_captured(1, {}, [], NOW)
    session.close("another", "", NOW)
    assert kinds(everything(session)) == ["goodbye", "Close"]
    assert session.close_reason == "shutdown"
    assert everything(session) == []


# -- links that replace each other -------------------------------------------------------------------


def test_the_newest_link_of_a_node_wins_and_flapping_is_reported() -> None:
    node, table = master(), ReplicaTable()
    sessions = [session_of(node, table) for _ in range(4)]
    tell(sessions[0], at(node.history, 4))
    for older, newer in itertools.pairwise(sessions):
        wanted = tell(newer, at(node.history, 4))
        assert [item.progress for item in wanted if isinstance(item, CloseReplaced)] == [older.progress]
        older.close("replaced", "a newer link", NOW)
        older.closed("connection_lost", NOW)
    assert "replica_flapping" in [item.event for item in wanted if isinstance(item, Report)]
    row = table.get("r")
    assert row is sessions[-1].progress
    assert row is not None
    assert (row.links, row.phase) == (4, Phase.STREAMING)
    assert len(table) == 1


def test_what_an_old_link_still_says_does_not_touch_the_new_row() -> None:
    node, table = master(), ReplicaTable()
    old, new = session_of(node, table), session_of(node, table)
    tell(old, at(node.history, 4))
    tell(new, at(node.history, 4))
    tell(old, Ack(10, 10))
    row = table.get("r")
    assert row is not None
    assert row.acked_applied == 4


# -- the table is the machine ------------------------------------------------------------------------

EXAMPLES: dict[type, Message] = {
    Greet: Greet(1, "x", b"n" * 32),
    Challenge: Challenge("m", b"m" * 32),
    Proof: Proof(bytes(32)),
    Hello: hello_of(TwinNode("r")),
    Welcome: Welcome(1, "x", ("x",), History(), 0, 0, "full", "diverged", 0, 1, 0, 1.0, 1 << 20, ""),
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


def in_state(state: SessionState) -> MasterSession:
    """A session driven there by the ordinary road."""
    node = master(10)
    if state is SessionState.CHECKING:
        node.forget(8)
        session = session_of(node)
        tell(session, at(node.history, 4, checksum=1))
        return session
    if state in (SessionState.STREAMING, SessionState.PROMOTING):
        session = streaming(node, 4)
        if state is SessionState.PROMOTING:
            session.promote("s1", 10)
        return session
    if state is SessionState.COMPLETING:
        node.durable_only, node.durable_offset = True, 7
        session = sending(node)
        feed(session, node)
        session.receive(Received(8 << 20), NOW, START_MS)
        feed(session, node)
        return session
    if state in (SessionState.SENDING, SessionState.INSTALLING):
        return sending(node) if state is SessionState.SENDING else installing(node)
    session = session_of(node)
    if state in (SessionState.GREETING, SessionState.PROVING):
        session.credentials = Credentials(b"s" * 16, b"m" * 32)
        session.__post_init__()
        if state is SessionState.PROVING:
            tell(session, EXAMPLES[Greet])
        return session
    if state is not SessionState.HELLO:
        tell(session, at(History(), 0))
    if state is SessionState.CAPTURING:
        tell(session, Accept())
    if state in (SessionState.CLOSING, SessionState.CLOSED):
        session.close("shutdown", "", NOW)
    if state is SessionState.CLOSED:
        everything(session)
    return session


@pytest.mark.parametrize("state", list(SessionState))
def test_every_state_can_be_reached(state: SessionState) -> None:
    assert in_state(state).state is state


@pytest.mark.parametrize("state", [state for state in SessionState if state is not SessionState.CLOSED])
@pytest.mark.parametrize("kind", [*KINDS.values(), OperationFrame])
def test_what_is_missing_in_the_table_closes_the_link(state: SessionState, kind: type[Message]) -> None:
    if kind in SESSION_LEGAL[state]:
        return
    session = in_state(state)
    everything(session) if state is not SessionState.CLOSING else None
    message = EXAMPLES.get(kind) or head(master(1).frames[0])
    session.receive(message, NOW, START_MS)
    everything(session)
    assert session.state is SessionState.CLOSED
    if state is not SessionState.CLOSING:
        assert session.close_reason == "illegal_message"


def test_the_methods_of_the_table_exist() -> None:
    for legal in SESSION_LEGAL.values():
        for method in legal.values():
            assert callable(getattr(MasterSession, method))


def test_goodbye_and_refuse_end_the_session_with_their_reason() -> None:
    node, table = master(), ReplicaTable()
    session = session_of(node, table)
    tell(session, at(node.history, 4))
    wanted = tell(session, Refuse("cycle", "through you"))
    assert kinds(wanted) == ["Report", "Close"]
    assert table.totals.refusals == {"cycle": 1}
    session = session_of(node, table)
    tell(session, at(node.history, 4))
    assert tell(session, Goodbye("shutdown", "bye")) == [Close("shutdown", "bye")]
    assert session.close_reason == "shutdown"


def test_bytes_are_counted_on_the_row_and_in_the_totals() -> None:
    node, table = master(), ReplicaTable()
    session = session_of(node, table)
    tell(session, at(node.history, 4), Ack(5, 5))
    session.sent(100)
    row = table.get("r")
    assert row is not None
    assert (row.bytes_received, row.bytes_sent) == (10, 100)
    assert (table.totals.bytes_received, table.totals.bytes_sent) == (20, 100)


def test_failing_before_the_hello_is_a_refusal() -> None:
    session = session_of(master())
    session.fail(PeerError("frame_too_large", "a frame announces 4 GiB"), NOW)
    assert kinds(everything(session)) == ["refuse", "Close"]
    assert session.table.totals.refusals == {"frame_too_large": 1}


def test_memory_of_many_streams_is_the_logs_own() -> None:
    """One buffer, many readers: what a session holds does not grow with what is to be sent."""
    node = master(500)
    sessions = [session_of(node) for _ in range(20)]
    for number, session in enumerate(sessions):
        session.receive(at(node.history, 1, f"r{number}"), NOW, START_MS)
        session.ready(NOW, START_MS)
        assert session._outbox == []


def test_the_whole_of_a_first_sync(master_operations: int = 10) -> None:
    pair = Pair(master(master_operations), TwinNode("r")).connect().run()
    assert pair.streaming() and pair.equal()
    assert pair.released == 1
    assert pair.table.totals.full_syncs == 1
