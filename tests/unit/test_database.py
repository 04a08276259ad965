"""Durability, waiting, native threads, and what a failed disk does to a database."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest

from tests.unit.running import wait_until
from tests.unit.served import QUICK
from tests.unit.stored import config, rows
from vectorizer.config import Settings, Source
from vectorizer.database import Database, node_limits
from vectorizer.errors import RequestError, VectorizerError
from vectorizer.node import Node, NodeFailure, Role
from vectorizer.operations import Create, Upsert
from vectorizer.server import new_id
from vectorizer.snapshots import storage_options
from vectorizer.storage.data_directory import DataDirectory
from vectorizer.storage.disk import RealDisk, RealFile
from vectorizer.storage.recovery import StorageOptions, open_data


def database_at(root: Path, **values: object) -> Database:
    given = {name.replace("__", "."): value for name, value in values.items()}
    settings = Settings().replaced({**QUICK, **given}, source=Source.YAML)
    directory = DataDirectory(RealDisk(), str(root))
    options = StorageOptions(settings.storage.journal_file_bytes, 1 << 24, 1000, 1 << 20)
    node = Node(open_data(directory, options, new_id), Role.STANDALONE, node_limits(settings), new_id)
    made = Database(settings, directory, node)
    made.start()
    return made


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    made = database_at(tmp_path)
    yield made
    made.close()


def break_journal(database: Database) -> None:
    """Its file can no longer be written or synced: behind it is a device that is always full."""
    wait_until(lambda: not database.node.journal.pending)
    handle = database.node.journal._tail.handle
    assert isinstance(handle, RealFile)
    full = os.open("/dev/full", os.O_RDWR)
    os.dup2(full, handle._descriptor)
    os.close(full)


def test_a_write_returns_when_it_is_durable(database: Database) -> None:
    woken: list[int] = []
    listener = lambda: woken.append(database.node.durable_offset)  # noqa: E731
    database.subscribe(listener)
    result = database.write(Create(config()))
    assert result.offset == 1
    assert result.replication_id == database.node.replication_id
    assert database.node.durable_offset == 1
    assert woken[-1] == 1
    database.unsubscribe(listener)
    seen = len(woken)
    database.write(Upsert("things", rows([1])))
    assert len(woken) == seen
    assert database.view("things").live_count == 1


def test_writers_at_one_moment_share_a_batch(database: Database) -> None:
    database.write(Create(config()))
    writers = [gevent.spawn(database.write, Upsert("things", rows([number]))) for number in range(50)]
    gevent.joinall(writers, raise_error=True)
    assert sorted(writer.value.offset for writer in writers) == list(range(2, 52))


@pytest.mark.parametrize("fsync", ["everysec", "never"])
def test_without_sync_a_write_does_not_wait_but_a_flush_syncs(tmp_path: Path, fsync: str) -> None:
    database = database_at(tmp_path, storage__fsync=fsync)
    woken: list[int] = []
    database.subscribe(lambda: woken.append(database.node.sendable_offset))
    try:
        database.write(Create(config()))
        assert woken[-1] == 1, "it may be sent at once"
        assert database.node.durable_offset == 0
        if fsync == "everysec":
            wait_until(lambda: database.node.durable_offset == 1, 5)
        database.write(Upsert("things", rows([1])))
        database.flush()
        assert database.node.durable_offset == 2
    finally:
        database.close()


def test_without_sync_a_write_returns_when_the_system_has_it(tmp_path: Path) -> None:
    """So clients are never faster than the disk, and a killed process loses nothing it acknowledged."""
    database = database_at(tmp_path, storage__fsync="never")
    try:
        database.write(Create(config()))
        for _ in range(20):
            database.write(Upsert("things", rows([1], payload="x" * 50_000)))
            journal = database.node.journal
            assert journal.appended_bytes == journal.written_bytes
    finally:
        database.close()


@pytest.mark.parametrize("fsync", ["always", "never"])
def test_a_journal_that_cannot_be_written_stops_everything(tmp_path: Path, fsync: str) -> None:
    database = database_at(tmp_path, storage__fsync=fsync)
    database.write(Create(config()))
    break_journal(database)
    with pytest.raises(RequestError, match="before this write was durable") as caught:
        database.write(Upsert("things", rows([1])))
    assert (caught.value.status_code, caught.value.error_type) == (503, "outcome_unknown")
    assert "cannot be written" in str(database.failed.get(timeout=5))
    with pytest.raises(RequestError, match="cannot be written") as caught:
        database.write(Upsert("things", rows([2])))
    assert caught.value.error_type == "failed"
    with pytest.raises(NodeFailure):
        database.flush()
    database.close()


def test_a_journal_that_cannot_be_synced_stops_everything(tmp_path: Path) -> None:
    database = database_at(tmp_path, storage__fsync="never")
    database.write(Create(config()))
    break_journal(database)
    with pytest.raises(NodeFailure, match="cannot be synced"):
        database.flush()
    assert not database.node.writable
    database.close()


def journal_held(database: Database) -> Callable[[], None]:
    """The journal's thread writes nothing until what is given back is called."""
    read, write = os.pipe()
    database._journal_threads._pool.spawn(os.read, read, 1)
    return lambda: (os.write(write, b"."), os.close(write))[1]


def two_writers(database: Database) -> list[gevent.Greenlet[..., Any]]:
    """The write of one is in the batch under way, that of the other in the next."""
    writers = []
    for number in (1, 2):
        writers.append(gevent.spawn(database.write, Upsert("things", rows([number]))))
        wait_until(lambda: database.node.journal.pending)
        gevent.sleep(0.01)
    return writers


def test_each_writer_is_answered_by_his_own_batch(database: Database) -> None:
    database.write(Create(config()))
    release = journal_held(database)
    writers = two_writers(database)
    assert not any(writer.ready() for writer in writers)
    durable: list[int] = []
    database.subscribe(lambda: durable.append(database.node.durable_offset))
    release()
    gevent.joinall(writers, raise_error=True)
    assert durable == [2, 3], "one batch for each"


def test_replicas_hear_of_a_batch_before_its_writers_are_answered(database: Database) -> None:
    database.write(Create(config()))
    order: list[str] = []
    database.subscribe(lambda: order.append("replicas"))
    release = journal_held(database)
    writers = two_writers(database)
    for writer in writers:
        writer.link(lambda _: order.append("writer"))
    release()
    gevent.joinall(writers, raise_error=True)
    assert order == ["replicas", "writer", "replicas", "writer"]


def test_writers_of_all_batches_hear_of_a_journal_that_fails(database: Database) -> None:
    database.write(Create(config()))
    break_journal(database)
    release = journal_held(database)
    writers = two_writers(database)
    release()
    for writer in writers:
        with pytest.raises(RequestError, match="before this write was durable"):
            writer.get(timeout=5)


def test_writers_of_all_batches_are_answered_while_the_database_closes(database: Database) -> None:
    database.write(Create(config()))
    release = journal_held(database)
    writers = two_writers(database)
    closing = gevent.spawn(database.close)
    gevent.sleep(0.01)
    release()
    assert [writer.get(timeout=5).offset for writer in writers] == [2, 3]
    closing.get(timeout=5)


def test_writers_of_all_batches_are_answered_by_a_master_that_became_a_replica(database: Database) -> None:
    database.write(Create(config()))
    release = journal_held(database)
    writers = two_writers(database)
    database.hold_writes("the role changes")
    flushing = gevent.spawn(database.flush)
    gevent.sleep(0.01)
    database.node.role = Role.REPLICA
    release()
    assert [writer.get(timeout=5).offset for writer in writers] == [2, 3]
    flushing.get(timeout=5)


def test_our_own_bug_after_the_check_stops_everything(database: Database) -> None:
    database.write(Create(config()))
    database.node.store.get("things")._kill = None  # type: ignore[assignment]
    with pytest.raises(RequestError, match="failed after its check") as caught:
        database.write(Upsert("things", rows([1])))
    assert caught.value.error_type == "failed"
    assert database.failed.ready()
    failure = database.node.failure
    assert isinstance(failure, NodeFailure)
    database.fail(VectorizerError("later, and no news"))
    assert database.node.failure is failure


def test_the_end_of_a_greenlet_is_a_failure(database: Database) -> None:
    def broken() -> None:
        raise ValueError("a mistake")

    database.own(gevent.spawn(broken), "experiment")
    assert "the experiment has ended: ValueError('a mistake')" in str(database.failed.get(timeout=5))


def test_a_write_whose_data_is_replaced_has_an_unknown_outcome(database: Database) -> None:
    database.write(Create(config()))
    old = database.node.journal
    offset = database.node.commit(Upsert("things", rows([1])), 0.0, 0)
    waiting = gevent.spawn(database.wait_durable, offset)
    gevent.sleep(0)
    database.node.journal = type(old).create(
        RealDisk(),
        database.run_native(_made, f"{database.directory.root}/elsewhere"),
        file_bytes=1 << 16,
        bytes_max=1 << 20,
        base_offset=offset,
    )
    database.data_replaced()
    with pytest.raises(RequestError, match="changed its data"):
        waiting.get(timeout=5)
    database.close_journal(old)


def _made(path: str) -> str:
    RealDisk().make_directory(path)
    return path


def test_errors_of_native_threads_are_raised_where_they_are_waited_for(
    database: Database, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ZeroDivisionError):
        database.run_work(lambda: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        database.run_native(lambda: 1 // 0)
    assert "ZeroDivisionError" not in capfd.readouterr().err
    assert database.run_work(max, 1, 2) == 2


def test_more_arguments_are_dealt_with_while_the_result_before_is_looked_at(database: Database) -> None:
    began: list[int] = []

    def work(number: int) -> int:
        began.append(number)
        return 10 // (3 - number)

    results = database.run_native_each(work, [1, 2, 3, 4, 5, 6])
    assert next(results) == 5
    wait_until(lambda: sorted(began) == [1, 2, 3, 4])  # though nobody has asked for the second yet
    assert next(results) == 10
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert sorted(began) == [1, 2, 3, 4, 5], "after an error nothing more is begun"
    assert list(database.run_native_each(work, [])) == []
    assert list(database.run_native_each(work, [2])) == [10]


def test_who_looks_at_no_more_results_leaves_no_thread_at_work(database: Database) -> None:
    done: list[int] = []

    def work(number: int) -> int:
        deadline = time.monotonic() + 0.05
        while time.monotonic() < deadline:
            pass
        done.append(number)
        return number

    results = database.run_native_each(work, [1, 2, 3, 4, 5])
    assert next(results) == 1
    assert isinstance(results, Generator)
    results.close()
    assert sorted(done) == [1, 2, 3, 4]


def test_who_is_killed_leaves_no_thread_at_work(database: Database) -> None:
    """Others clean up after the killed greenlet at once: the files must be left alone by then."""
    done: list[float] = []

    def work() -> None:
        RealDisk().make_directory(f"{database.directory.root}/x")
        deadline = time.monotonic() + 0.1
        while time.monotonic() < deadline:
            pass
        done.append(time.monotonic())

    running = gevent.spawn(database.run_work, work)
    gevent.sleep(0.01)
    running.kill()
    assert len(done) == 1


def test_there_is_no_data_to_read_while_there_is_none_complete(database: Database) -> None:
    database.node.has_complete_data = False
    with pytest.raises(RequestError) as caught:
        database.view("things")
    assert (caught.value.status_code, caught.value.error_type) == (503, "syncing")
    database.node.has_complete_data = True
    with pytest.raises(RequestError) as caught:
        database.view("things")
    assert caught.value.status_code == 404
    assert database.role is Role.STANDALONE


def test_a_failed_apply_of_the_stream_is_told(database: Database) -> None:
    database.write(Create(config()))
    database.flush()
    frames = database.node.log.read(0, 1 << 20, database.node.sendable_offset)
    assert frames is not None
    with pytest.raises(Exception, match="does not follow"):
        database.apply_frame(frames[0])
    assert storage_options(database).log_size == 1_000_000
