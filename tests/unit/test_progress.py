"""The passport of a replica, and the table of all of them."""

from __future__ import annotations

import pytest

from vectorizer.replication.log import ReplicationLog
from vectorizer.replication.progress import (
    FLAP_WINDOW_SECS,
    OTHER_REASONS,
    REASONS_MAX,
    ROWS_MAX,
    Phase,
    Progress,
    Reasons,
    ReplicaTable,
    SyncProgress,
)

NOW = 100.0


def row(node_id: str = "r", phase: Phase = Phase.STREAMING) -> Progress:
    return Progress(node_id, "10.0.0.2", 7001, "", NOW, phase=phase, last_heard_at=NOW)


def log_of(*committed_at: float, base: int = 0) -> ReplicationLog:
    log = ReplicationLog(1000, 1 << 20, base)
    for number, moment in enumerate(committed_at, base + 1):
        log.append(number, b"x", moment)
    return log


def test_acks_bring_news_or_not_and_never_go_back() -> None:
    progress = row()
    assert progress.acknowledge(5, 3)
    assert not progress.acknowledge(5, 3)
    assert not progress.acknowledge(4, 2)
    assert progress.acknowledge(5, 4)
    assert (progress.acked_applied, progress.acked_durable) == (5, 4)


def test_lag_is_the_age_of_the_oldest_operation_not_acknowledged() -> None:
    progress = row()
    log = log_of(NOW - 5, NOW - 3, NOW - 1)
    progress.stand_at(1)
    assert progress.lag_ms(3, log, NOW) == 3000
    assert progress.lag_operations(3) == 2
    progress.acknowledge(2, 2)
    assert progress.lag_ms(3, log, NOW) == 1000
    progress.acknowledge(3, 3)
    assert (progress.lag_ms(3, log, NOW), progress.lag_operations(3)) == (0, 0)


def test_lag_without_known_times_counts_from_the_connection() -> None:
    progress = row()
    progress.stand_at(4)
    assert progress.lag_ms(9, ReplicationLog(10, 1 << 20, 9), NOW + 2) == 2000


def test_lag_older_than_memory_is_at_least_that_of_the_oldest_held() -> None:
    progress = row()
    progress.stand_at(2)
    assert progress.lag_ms(6, log_of(NOW - 4, NOW - 2, base=4), NOW) == 4000


def test_a_replica_ahead_has_no_lag() -> None:
    progress = row()
    progress.stand_at(9)
    assert (progress.lag_ms(5, log_of(), NOW), progress.lag_operations(5)) == (0, 0)


def test_progress_of_a_full_sync() -> None:
    sync = SyncProgress(9, "empty_replica", NOW)
    assert (sync.percent(), sync.eta_secs(NOW + 1)) == (0.0, None)
    sync.bytes_total, sync.bytes_received = 400, 100
    assert (sync.percent(), sync.eta_secs(NOW + 2)) == (25.0, 6.0)


def test_a_row_stays_after_its_link_until_it_is_forgotten() -> None:
    table = ReplicaTable()
    progress = row()
    assert table.attach(progress, NOW) is None
    progress.sync = SyncProgress(9, "", NOW)
    table.detach(progress, "shutdown", NOW + 1)
    table.detach(progress, "connection_lost", NOW + 2)
    assert (progress.phase, progress.gone_at, progress.gone_reason) == (Phase.GONE, NOW + 1, "shutdown")
    assert progress.sync is None
    assert table.totals.disconnects == {"shutdown": 1}
    assert table.linked() == [] and len(table) == 1
    assert table.forget(NOW + 10, 10.0) == []
    assert table.forget(NOW + 11, 10.0) == ["r"]
    assert table.get("r") is None


def test_a_replica_that_comes_back_keeps_its_totals() -> None:
    table = ReplicaTable()
    first, second = row(), row()
    table.attach(first, NOW)
    first.bytes_sent, first.full_syncs, first.partial_syncs = 100, 1, 2
    table.detach(first, "connection_lost", NOW)
    assert table.attach(second, NOW + 1) is None
    assert (second.bytes_sent, second.full_syncs, second.partial_syncs, second.links) == (100, 1, 2, 2)
    assert table.attach(second, NOW + 2) is None
    assert second.links == 2
    assert not second.flapping(NOW + 1)


def test_the_newest_link_wins_and_flapping_is_seen_for_a_minute() -> None:
    table = ReplicaTable()
    rows = [row() for _ in range(4)]
    for number, progress in enumerate(rows):
        replaced = table.attach(progress, NOW + number)
        assert replaced is (rows[number - 1] if number else None)
    assert rows[0].gone_reason == "replaced"
    assert rows[3].flapping(NOW + 3)
    assert not rows[3].flapping(NOW + 2 + FLAP_WINDOW_SECS)
    assert table.totals.disconnects == {"replaced": 3}


def test_invented_node_ids_do_not_fill_the_memory() -> None:
    table = ReplicaTable()
    for number in range(ROWS_MAX + 50):
        progress = row(f"r{number}")
        table.attach(progress, NOW)
        if number != 3:
            table.detach(progress, "connection_lost", NOW + number)
    assert len(table) == ROWS_MAX
    assert table.get("r3") is not None
    assert table.get("r0") is None


def test_invented_reasons_do_not_fill_the_memory() -> None:
    reasons = Reasons()
    for number in range(REASONS_MAX + 50):
        reasons.note(f"r{number}")
    reasons.note("r0")
    assert len(reasons) == REASONS_MAX + 1
    assert (reasons["r0"], reasons[OTHER_REASONS]) == (2, 50)


def test_living_rows_are_never_dropped() -> None:
    table = ReplicaTable()
    for number in range(ROWS_MAX + 1):
        table.attach(row(f"r{number}"), NOW)
    assert len(table) == ROWS_MAX + 1


@pytest.mark.parametrize(("durable", "count"), [(True, 1), (False, 2)])
def test_who_has_an_operation(durable: bool, count: int) -> None:
    table = ReplicaTable()
    for node_id, applied, saved, phase in (
        ("a", 9, 9, Phase.STREAMING),
        ("b", 9, 4, Phase.STREAMING),
        ("c", 3, 3, Phase.STREAMING),
        ("d", 9, 9, Phase.SYNCING),
    ):
        progress = row(node_id, phase)
        progress.acknowledge(applied, saved)
        table.attach(progress, NOW)
    assert table.acknowledged(9, durable=durable) == count
