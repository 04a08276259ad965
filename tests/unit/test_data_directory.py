"""The data directory: what a cut between any two steps leaves, and what the next start makes of it."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.unit.stored import OPTIONS, StoredNode, content
from vectorizer.errors import DamageError
from vectorizer.node import Node, Role
from vectorizer.replication.history import History
from vectorizer.storage.data_directory import DataDirectory
from vectorizer.storage.disk import RealDisk
from vectorizer.storage.manifest import Manifest
from vectorizer.storage.recovery import create_journal, open_data


class CutError(Exception):
    """The power is gone."""


class CuttingDisk(RealDisk):
    """Ends, at the n-th step that changes the disk, whatever is under way."""

    def __init__(self) -> None:
        self.steps_left: int | None = None

    def _step(self) -> None:
        if self.steps_left is not None:
            if self.steps_left == 0:
                raise CutError
            self.steps_left -= 1

    def write_file(self, path: str, buffers: Any) -> int:
        self._step()
        return super().write_file(path, buffers)

    def create(self, path: str, size: int) -> Any:
        self._step()
        return super().create(path, size)

    def replace(self, source: str, target: str) -> None:
        self._step()
        super().replace(source, target)

    def link(self, source: str, target: str) -> None:
        self._step()
        super().link(source, target)

    def remove(self, path: str) -> None:
        self._step()
        super().remove(path)

    def remove_tree(self, path: str) -> None:
        self._step()
        super().remove_tree(path)

    def make_directory(self, path: str) -> None:
        self._step()
        super().make_directory(path)


def directory_at(root: Path) -> DataDirectory:
    return DataDirectory(RealDisk(), str(root))


def test_the_first_start_may_be_cut_anywhere(tmp_path: Path) -> None:
    for steps in range(100):
        disk = CuttingDisk()
        disk.steps_left = steps
        root = tmp_path / str(steps)
        root.mkdir()
        try:
            open_data(DataDirectory(disk, str(root)), OPTIONS, lambda: "one").journal.close()
        except CutError:
            recovered = open_data(directory_at(root), OPTIONS, lambda: "two")
            assert recovered.offset == 0
            recovered.journal.close()
            continue
        assert steps > 4
        return
    pytest.fail("it never got through")


def test_data_without_current_is_damage(tmp_path: Path) -> None:
    node = StoredNode(tmp_path)
    node.create()
    node.stop()
    (tmp_path / "CURRENT").unlink()
    with pytest.raises(DamageError, match="the file is missing"):
        directory_at(tmp_path).current()
    (journal,) = (tmp_path / "0000000001" / "journal").iterdir()
    journal.write_bytes(b"\xff" * 1000)
    with pytest.raises(DamageError, match="the file is missing"):
        directory_at(tmp_path).current()


def test_data_with_checkpoints_without_current_is_damage(tmp_path: Path) -> None:
    node = StoredNode(tmp_path)
    node.create()
    node.checkpoint()
    node.stop()
    (tmp_path / "CURRENT").unlink()
    with pytest.raises(DamageError, match="the file is missing"):
        directory_at(tmp_path).current()


@pytest.mark.parametrize("manifest", [b"", b"\0" * 177])
@pytest.mark.parametrize("journal", ["", "empty", "whole"])
def test_a_first_start_whose_manifest_is_torn_is_begun_again(
    tmp_path: Path, manifest: bytes, journal: str
) -> None:
    """The manifest of the very first start, whose name may arrive on disk before its bytes, and before the
    directories beside it.
    """
    StoredNode(tmp_path).stop()
    (tmp_path / "CURRENT").unlink()
    generation = tmp_path / "0000000001"
    (generation / "manifest-0000000001").write_bytes(manifest)
    if journal != "whole":
        (generation / "segments").rmdir()
        shutil.rmtree(generation / "journal")
    if journal == "empty":
        (generation / "journal").mkdir()
    node = StoredNode(tmp_path)
    assert node.node.offset == 0
    node.create()
    node.stop()


def test_a_checkpoint_after_a_restart_may_be_cut_anywhere(tmp_path: Path) -> None:
    """The files of the manifest that counts are never touched, also those of growing rows."""
    for steps in range(100):
        root = tmp_path / str(steps)
        node = StoredNode(root)
        node.create()
        node.create("other")
        node.upsert(*range(12))
        node.seal()
        node.checkpoint()
        node.restart()
        node.upsert(1, name="other")
        expected = content(node.things)
        disk = CuttingDisk()
        node.directory.disk = disk
        disk.steps_left = steps
        try:
            node.checkpoint()
        except CutError:
            node.crash()
            node.start()
            assert content(node.things) == expected
            assert content(node.node.store.get("other")).keys() == {"id-1"}
            continue
        finally:
            node.stop()
        assert steps > 8
        return
    pytest.fail("it never got through")


def test_growing_rows_of_the_last_manifest_are_written_once(tmp_path: Path) -> None:
    node = StoredNode(tmp_path)
    node.create()
    node.upsert(1, 2, 3)
    node.checkpoint()
    (path,) = (tmp_path / "0000000001" / "segments").iterdir()
    before = (path / "vectors.npy").stat().st_ino
    node.restart()
    node.create("other")
    node.checkpoint()
    assert (path / "vectors.npy").stat().st_ino == before


def test_the_old_generation_is_kept_aside_over_a_cut(tmp_path: Path) -> None:
    """Between the new CURRENT and the move of the old data lies a crash."""
    node = StoredNode(tmp_path)
    node.create()
    node.upsert(1)
    node.stop()
    directory = directory_at(tmp_path)
    generation = directory.prepare_generation()
    create_journal(directory, generation, OPTIONS, 0).close()
    name = directory.write_manifest(generation, Manifest("n", 0, None, 0, History()))
    directory.keep_aside(1, "before-force")
    directory.set_current(generation, name)
    assert open_data(directory_at(tmp_path), OPTIONS, lambda: "x").generation == generation
    assert (tmp_path / "aside" / "before-force" / "journal").is_dir()
    assert not (tmp_path / "0000000001").exists()


def test_data_that_was_to_be_kept_aside_and_still_counts(tmp_path: Path) -> None:
    node = StoredNode(tmp_path)
    node.create()
    node.node.store.get("things")
    node.stop()
    directory = directory_at(tmp_path)
    directory.keep_aside(1, "before-force")
    directory.prepare_generation()
    node.start()
    assert directory.generations() == [1]
    assert not (tmp_path / "0000000001" / "KEEP").exists()
    assert not (tmp_path / "aside").exists()


def test_manifests_of_one_offset_count_as_one(tmp_path: Path) -> None:
    """Settings that are stored often take no manifest away that one could go back to."""
    node = StoredNode(tmp_path)
    node.create()
    node.checkpoint()
    node.upsert(1)
    for _ in range(3):
        node.checkpoint()
    assert [node.directory.read_manifest(1, name).offset for name in node.directory.manifests(1)] == [1, 2]


def test_an_old_manifest_that_is_damaged_is_dropped(tmp_path: Path) -> None:
    node = StoredNode(tmp_path)
    node.create()
    node.checkpoint()
    old = node.directory.manifests(1)[-1]
    path = Path(node.directory.manifest_path(1, old))
    path.write_bytes(path.read_bytes()[:-1])
    node.upsert(1)
    node.checkpoint()
    assert old not in node.directory.manifests(1)
    node.restart()
    assert node.node.offset == 2


def test_following_is_remembered(tmp_path: Path) -> None:
    directory = directory_at(tmp_path)
    for follows in (False, True, True, False):
        directory.set_follows(follows)
        assert directory_at(tmp_path).follows is follows


@pytest.mark.parametrize(("followed", "epoch"), [(False, 1), (True, 2)])
def test_a_start_as_master_after_following_raises_the_epoch(
    tmp_path: Path, followed: bool, epoch: int
) -> None:
    node = StoredNode(tmp_path)
    node.stop()
    recovered = open_data(node.directory, OPTIONS, node.new_id)
    assert Node(recovered, Role.MASTER, node.limits, node.new_id, followed=followed).epoch == epoch


def test_a_checkpoint_without_room_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    node = StoredNode(tmp_path)
    node.create()
    node.upsert(*range(3))
    before = node.checkpoint()
    node.upsert(4)
    write_file = node.directory.disk.write_file

    def refuse(path: str, buffers: Any) -> int:
        if path.endswith("CURRENT.new"):
            raise OSError(errno.ENOSPC, "No space left on device", path)
        return write_file(path, buffers)

    monkeypatch.setattr(node.directory.disk, "write_file", refuse)
    with pytest.raises(OSError, match="No space left"):
        node.checkpoint()
    monkeypatch.undo()
    assert node.directory.current() == (1, "manifest-0000000002")
    assert node.directory.read_manifest(1, "manifest-0000000002").offset == before.offset
    node.restart()
    assert node.node.offset == 3
    node.checkpoint()
