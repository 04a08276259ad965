"""Data directories: restarts, checkpoints, snapshots, going back to a fork, damage."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from zlib import crc32

import pytest

from tests.unit.stored import OPTIONS, StoredNode, content, expected, follow, replica_of
from vectorizer import codec, frame
from vectorizer.client.diverged import documents
from vectorizer.errors import ApplyError, DamageError, PeerError, RequestError
from vectorizer.node import Node, Role
from vectorizer.operations import Drop, Merge
from vectorizer.replication.history import History
from vectorizer.storage.data_directory import DataDirectory
from vectorizer.storage.merging import plan
from vectorizer.storage.rewind import rewind, save_diverged
from vectorizer.storage.snapshot import Snapshot, SnapshotReceiver, held_files, make_current


@pytest.fixture
def node(tmp_path: Path) -> StoredNode:
    made = StoredNode(tmp_path / "data")
    made.create()
    return made


def test_everything_is_there_after_a_restart(node: StoredNode) -> None:
    node.upsert(*range(20), payload="x")
    node.delete(3)
    offset, checksum = node.node.offset, node.node.last_checksum
    recovered = node.restart()
    assert (recovered.offset, recovered.checksum) == (offset, checksum)
    assert content(node.things) == expected(([*range(3), *range(4, 20)], 0, "x"))


def test_everything_is_there_after_a_crash(node: StoredNode) -> None:
    node.upsert(*range(5))
    node.crash()
    node.start()
    assert content(node.things) == expected((range(5), 0, None))


def test_each_start_as_master_opens_a_mastership(node: StoredNode) -> None:
    node.upsert(1)
    node.restart()
    node.upsert(2)
    node.restart()
    assert [entry.start_offset for entry in node.node.history.entries] == [0, 2, 3]
    assert {entry.epoch for entry in node.node.history.entries} == {1}


def test_checkpoints_hold_segments_growing_rows_deletions_and_merges(node: StoredNode) -> None:
    node.upsert(*range(40))
    node.seal()
    node.delete(0, 33)
    names = plan(node.things, 0.2)
    assert names is not None
    node.commit(Merge("things", names))
    node.delete(9)
    manifest = node.checkpoint()
    assert manifest.offset == node.node.offset
    node.upsert(100, seed=5)
    live = [number for number in range(40) if number not in (0, 9, 33)]
    node.restart()
    assert content(node.things) == expected((live, 0, None), ([100], 5, None))
    assert node.merge() == 1  # the merge was still to be made
    assert content(node.things) == expected((live, 0, None), ([100], 5, None))
    node.checkpoint()
    node.restart()
    assert content(node.things) == expected((live, 0, None), ([100], 5, None))
    node.upsert(*range(200, 210))
    assert len(content(node.things)) == 48


def test_growing_rows_of_an_unchanged_collection_are_not_written_again(node: StoredNode) -> None:
    node.upsert(1, 2, 3)
    first = node.checkpoint()
    node.create("other")
    second = node.checkpoint()
    assert dict(first.files()).items() <= dict(second.files()).items()


def test_what_no_manifest_names_is_removed(node: StoredNode) -> None:
    node.upsert(*range(8))
    node.seal()
    node.checkpoint()
    node.commit(Drop("things"))
    for _ in range(2):
        node.create()
        node.commit(Drop("things"))
        node.checkpoint()
    segments = Path(node.directory.segments_path(node.node.generation))
    assert list(segments.iterdir()) == []
    assert len(node.directory.manifests(node.node.generation)) == 2


def test_settings_are_stored_with_the_data(node: StoredNode) -> None:
    manifest = node.checkpoint().with_stored({"replication.log_size": 7})
    name = node.directory.write_manifest(node.node.generation, manifest)
    node.directory.set_current(node.node.generation, name)
    assert node.restart().manifest.stored == {"replication.log_size": 7}


def test_a_lost_or_foreign_current_stops_the_start(node: StoredNode) -> None:
    node.stop()
    current = Path(node.directory.root) / "CURRENT"
    content_before = current.read_bytes()
    changed = content_before.replace(b"manifest-0000000001", b"manifest-9999999999")
    for damage in (
        b"",
        b"nonsense\n",
        b"0000000001/manifest-9999999999\n",
        changed,
        content_before[:-1],
        content_before + b"\0",
        content_before + b"\n",
        b"\xc2\xb2" + content_before[1:],  # a digit to str, and not to int
    ):
        current.write_bytes(damage)
        with pytest.raises(DamageError):
            node.start()
    current.unlink()
    with pytest.raises(DamageError, match="missing"):
        node.start()
    current.write_bytes(content_before)
    node.start()


def test_current_of_before_it_had_a_checksum(node: StoredNode) -> None:
    node.stop()
    current = Path(node.directory.root) / "CURRENT"
    current.write_bytes(current.read_bytes().partition(b" ")[0] + b"\n")
    node.start()


def test_a_current_that_leads_nowhere_costs_no_generation(node: StoredNode) -> None:
    node.upsert(1, 2)
    node.stop()
    current = Path(node.directory.root) / "CURRENT"
    content_before = current.read_bytes()
    for digits in (b"0000000003", b"1000000001"):
        current.write_bytes(digits + content_before[10:])
        with pytest.raises(DamageError):
            node.start()
    current.write_bytes(content_before)
    node.start()
    assert node.things.vector_count == 2


def test_another_manifest_than_current_means_stops_the_start(node: StoredNode) -> None:
    """Its data may be right, with the journal; the settings stored in it are not."""
    node.checkpoint()
    older = Path(node.directory.manifest_path(1, "manifest-0000000001"))
    newer = Path(node.directory.manifest_path(1, "manifest-0000000002"))
    node.stop()
    content_before = newer.read_bytes()
    newer.write_bytes(older.read_bytes())
    with pytest.raises(DamageError, match=r"manifest-0000000002 of generation 1 with checksum"):
        node.start()
    newer.write_bytes(content_before)
    node.start()


def test_a_flipped_byte_in_any_file_that_is_served_stops_the_start(node: StoredNode) -> None:
    node.upsert(*range(12), payload={"text": "hello"})
    node.seal()
    node.checkpoint()
    node.stop()
    generation = Path(node.directory.generation_path(node.node.generation))
    files = [*generation.glob("segments/*/*"), sorted(generation.glob("manifest-*"))[-1]]
    assert len(files) > 8
    for file in files:
        original = file.read_bytes()
        for place in {0, len(original) // 2, len(original) - 1}:
            damaged = bytearray(original)
            damaged[place] ^= 0x10
            file.write_bytes(damaged)
            with pytest.raises(DamageError):
                node.start()
        file.write_bytes(original)
    node.start()
    assert content(node.things) == expected((range(12), 0, {"text": "hello"}))


def test_a_replica_applies_the_same_frames(node: StoredNode, tmp_path: Path) -> None:
    node.upsert(*range(20))
    node.delete(4)
    replica = replica_of(node, tmp_path / "replica")
    assert content(replica.things) == content(node.things)
    assert (replica.node.offset, replica.node.last_checksum) == (node.node.offset, node.node.last_checksum)
    assert replica.things.identity == node.things.identity


def test_a_replica_takes_no_writes_and_nothing_out_of_turn(node: StoredNode, tmp_path: Path) -> None:
    node.upsert(1)
    replica = replica_of(node, tmp_path / "replica")
    with pytest.raises(RequestError) as caught:
        replica.upsert(1)
    assert (caught.value.status_code, caught.value.error_type) == (403, "read_only_replica")
    node.upsert(2)
    node.upsert(3)
    skipped, _ = node.node.journal.read(2, 1 << 20, 4) or []
    third = (node.node.journal.read(3, 1 << 20, 4) or [])[0]
    with pytest.raises(ApplyError) as gap:
        replica.node.apply_frame(third, 1.0)
    assert gap.value.code == "offset_gap"
    stale = codec.decode(frame.body_of(skipped))
    stale["e"] = 9
    with pytest.raises(ApplyError) as epoch:
        replica.node.apply_frame(frame.encode(codec.encode(stale)), 1.0)
    assert epoch.value.code == "stale_epoch"
    unknown = {**stale, "e": 1, "k": "truncate"}
    with pytest.raises(ApplyError) as kind:
        replica.node.apply_frame(frame.encode(codec.encode(unknown)), 1.0)
    assert kind.value.code == "operation_unknown"
    unfit = {**stale, "e": 1, "c": "no such collection"}
    with pytest.raises(ApplyError) as check:
        replica.node.apply_frame(frame.encode(codec.encode(unfit)), 1.0)
    assert check.value.code == "apply_failed"
    assert replica.node.offset == 2
    follow(replica, node)
    assert content(replica.things) == content(node.things)


def test_promotion_raises_the_epoch(node: StoredNode, tmp_path: Path) -> None:
    node.upsert(1)
    replica = replica_of(node, tmp_path / "replica")
    replica.node.promote()
    replica.upsert(2)
    assert replica.node.epoch == 2
    replica.restart()  # still configured as replica: it keeps its history
    assert replica.node.history.entry_at(3) is not None
    assert replica.node.epoch == 2


def transfer(master: StoredNode, replica: StoredNode, *, flip: str | None = None) -> SnapshotReceiver:
    """Ship a snapshot in pieces of 100 bytes, with a byte flipped in the file of that name."""
    snapshot = Snapshot(master.directory, master.node.generation, master.checkpoint())
    files = snapshot.files(held_files(replica.node.manifest))
    receiver = SnapshotReceiver(
        replica.directory, replica.node.generation, replica.node.manifest, snapshot.document(), files
    )
    receiver.begin()
    for file in files:
        for position in range(0, file.bytes, 100):
            data = snapshot.read(file.name, position, min(100, file.bytes - position))
            if flip is not None and file.name.endswith(flip) and position == 0:
                data = bytes([data[0] ^ 1]) + data[1:]
            receiver.write(file.name, position, data, None if position % 200 else crc32(data))
    return receiver


def install(replica: StoredNode, receiver: SnapshotReceiver, aside: str | None = None) -> None:
    recovered = receiver.finish(OPTIONS)
    old = replica.node.generation
    replica.node.journal.close()
    make_current(replica.directory, recovered.generation, receiver.manifest_name, old, aside)
    replica.directory.remove_other_generations(recovered.generation)
    replica.node.install(recovered)


def test_a_snapshot_makes_a_replica_equal(node: StoredNode, tmp_path: Path) -> None:
    node.upsert(*range(20), payload=[1, 2])
    node.seal()
    node.delete(2, 18)
    replica = StoredNode(tmp_path / "replica", Role.REPLICA, prefix="r")
    node_id = replica.node.node_id
    install(replica, transfer(node, replica))
    assert content(replica.things) == content(node.things)
    assert replica.node.node_id == node_id
    assert replica.node.history == node.node.history
    node.upsert(50, seed=2)
    follow(replica, node)
    replica.restart()
    assert content(replica.things) == content(node.things)
    assert replica.node.offset == node.node.offset


def test_files_that_are_there_already_are_not_sent_again(node: StoredNode, tmp_path: Path) -> None:
    node.upsert(*range(16))
    node.seal()
    replica = StoredNode(tmp_path / "replica", Role.REPLICA, prefix="r")
    install(replica, transfer(node, replica))
    node.upsert(*range(16, 20))
    snapshot = Snapshot(node.directory, node.node.generation, node.checkpoint())
    files = snapshot.files(held_files(replica.node.manifest))
    assert 0 < len(files) < len(list(snapshot.manifest.files()))
    install(replica, transfer(node, replica))
    assert content(replica.things) == content(node.things)
    replica.restart()
    assert content(replica.things) == content(node.things)


def test_damage_on_the_way_leaves_the_old_data(node: StoredNode, tmp_path: Path) -> None:
    node.upsert(*range(20))
    node.seal()
    replica = replica_of(node, tmp_path / "replica")
    before = content(replica.things)
    node.upsert(30)
    for name in ("vectors.npy", "rows.bson", "hashes.npy"):
        with pytest.raises(PeerError) as caught:
            transfer(node, replica, flip=name)
        assert caught.value.code == "snapshot_corrupt"
    replica.restart()  # removes what was received
    assert content(replica.things) == before
    assert len(replica.directory.generations()) == 1


def test_a_snapshot_that_is_not_what_was_announced_is_refused(node: StoredNode, tmp_path: Path) -> None:
    node.upsert(*range(20))
    replica = StoredNode(tmp_path / "replica", Role.REPLICA, prefix="r")
    snapshot = Snapshot(node.directory, node.node.generation, node.checkpoint())
    files = snapshot.files({})

    def receiver(document: object, announced: object = files) -> SnapshotReceiver:
        generation, manifest = replica.node.generation, replica.node.manifest
        return SnapshotReceiver(replica.directory, generation, manifest, document, announced)  # type: ignore[arg-type]

    document = snapshot.document()
    for wrong in (
        {},
        {**document, "version": 99},
        {**document, "offset": -1},
        None,
        {**document, "collections": [1]},
    ):
        with pytest.raises(PeerError):
            receiver(wrong)
    escaping = snapshot.document()
    escaping["collections"][0]["segments"][0]["directory"] = "../../escape"
    with pytest.raises(PeerError, match="file name"):
        receiver(escaping)
    missing = receiver(document, files[1:])
    with pytest.raises(PeerError, match="neither sent nor here"):
        missing.begin()
    missing.abort()
    incomplete = receiver(document)
    incomplete.begin()
    with pytest.raises(PeerError, match="not expected"):
        incomplete.write(files[0].name, 5, b"x")
    with pytest.raises(PeerError, match="not expected"):
        incomplete.write("no/such", 0, b"x")
    with pytest.raises(PeerError, match="not expected"):
        incomplete.write(files[0].name, 0, b"x" * (files[0].bytes + 1))
    with pytest.raises(PeerError, match="0 of"):
        incomplete.finish(OPTIONS)
    incomplete.abort()
    assert replica.directory.generations() == [replica.node.generation]


def diverged(node: StoredNode, tmp_path: Path, *, checkpoint: bool) -> tuple[StoredNode, int]:
    """An old master with operations that the promoted replica never got; and the fork."""
    node.upsert(*range(10))
    if checkpoint:
        node.checkpoint()
    node.upsert(20)
    replica = replica_of(node, tmp_path / "replica")
    fork = node.node.offset
    node.upsert(30)
    node.delete(1)
    node.upsert(31)
    replica.node.promote()
    replica.upsert(40)
    return replica, fork


@pytest.mark.parametrize("checkpoint", [True, False])
def test_an_old_master_goes_back_to_the_fork(node: StoredNode, tmp_path: Path, checkpoint: bool) -> None:
    new_master, fork = diverged(node, tmp_path, checkpoint=checkpoint)
    saved = save_diverged(
        node.directory,
        node.node.journal,
        node.node.history,
        fork,
        node.node.offset,
        bytes_max=1 << 20,
        timestamp_ms=1_700_000_000_000,
    )
    assert (saved.operations, saved.complete) == (3, True)
    rebuilt = rewind(
        node.directory,
        node.node.generation,
        node.node.journal,
        node.node.history,
        node.node.manifest,
        fork,
        OPTIONS,
    )
    assert rebuilt is not None
    recovered, name = rebuilt
    old = node.node.generation
    node.node.journal.close()
    make_current(node.directory, recovered.generation, name, old, None)
    node.directory.remove_other_generations(recovered.generation)
    node.node.install(recovered)
    node.role = node.node.role = Role.REPLICA
    assert node.node.offset == fork
    assert content(node.things) == expected(([*range(10), 20], 0, None))
    node.node.adopt_history(new_master.node.history)
    follow(node, new_master)
    node.restart()
    assert content(node.things) == content(new_master.things)


def test_saved_operations_are_bounded_and_say_so(node: StoredNode, tmp_path: Path) -> None:
    _, fork = diverged(node, tmp_path, checkpoint=False)
    arguments = (node.directory, node.node.journal, node.node.history, fork, node.node.offset)
    saved = save_diverged(*arguments, bytes_max=1, timestamp_ms=1)
    assert (saved.operations, saved.complete) == (0, False)
    header = codec.decode(frame.body_of(Path(saved.path).read_bytes()))
    assert header["complete"] is False
    for number in range(2, 40):
        save_diverged(*arguments, bytes_max=1, timestamp_ms=number)
    assert len(list(Path(saved.path).parent.iterdir())) <= 20


def test_what_the_journal_still_has_of_it_is_saved(tmp_path: Path) -> None:
    node = StoredNode(tmp_path / "node", options=replace(OPTIONS, journal_file_bytes=4096))
    node.create()
    _, fork = diverged(node, tmp_path, checkpoint=False)
    for number in range(100):
        node.upsert(100 + number)
    journal = node.node.journal
    journal.trim(fork + 50)
    assert journal.first_offset > fork + 1
    saved = save_diverged(
        node.directory, journal, node.node.history, fork, node.node.offset, bytes_max=1 << 20, timestamp_ms=1
    )
    assert (saved.operations, saved.complete) == (node.node.offset - journal.first_offset + 1, False)
    _, *operations = documents(Path(saved.path))
    assert [operation["offset"] for operation in operations] == [
        *range(journal.first_offset, node.node.offset + 1)
    ]


def test_going_back_needs_a_manifest_and_the_journal_after_it(node: StoredNode, tmp_path: Path) -> None:
    _, fork = diverged(node, tmp_path, checkpoint=False)
    for number in range(2):
        node.upsert(200 + number)
        node.checkpoint()  # only manifests beyond the fork are left
    arguments = (
        node.directory,
        node.node.generation,
        node.node.journal,
        node.node.history,
        node.node.manifest,
    )
    assert rewind(*arguments, fork, OPTIONS) is None


def test_a_forced_generation_is_kept_aside(node: StoredNode, tmp_path: Path) -> None:
    node.upsert(*range(5))
    foreign = StoredNode(tmp_path / "foreign", Role.REPLICA, prefix="f")
    foreign.role = foreign.node.role = Role.MASTER
    foreign.node.open_mastership(raise_epoch=False)
    foreign.create()
    foreign.upsert(77)
    foreign.role = foreign.node.role = Role.REPLICA
    install(foreign, transfer(node, foreign), aside="before-force")
    assert content(foreign.things) == content(node.things)
    kept = Path(foreign.directory.root) / "aside" / "before-force"
    assert (kept / "journal").is_dir()


def test_a_node_without_history_is_a_replica_that_never_synced(tmp_path: Path) -> None:
    replica = StoredNode(tmp_path / "replica", Role.REPLICA)
    assert replica.node.history == History()
    assert (replica.node.epoch, replica.node.window) == (0, (1, 0))
    assert isinstance(replica.node, Node)
    assert DataDirectory(replica.directory.disk, str(tmp_path / "none")).current() is None
