"""``vectorizer new-identity``: the copy of a data directory becomes a node of its own."""

from __future__ import annotations

import errno
import io
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.served import Cluster, cluster_at
from vectorizer.identity import give_new_identity
from vectorizer.storage.data_directory import DataDirectory

NEW_ID = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with cluster_at(tmp_path) as cluster:
        yield cluster


def renamed(path: Path) -> tuple[int, str]:
    out = io.StringIO()
    return give_new_identity(str(path), NEW_ID, out), out.getvalue()


def test_a_copy_of_a_master_follows_it_by_partial_sync_and_keeps_no_stored_settings(cluster: Cluster) -> None:
    master = cluster.master()
    master.create()
    master.put(1, 2)
    assert master.configure(log_size=777)[0] == 200
    node_id, root = master.server.database.node.node_id, Path(master.server.database.directory.root)
    master.stop()
    shutil.copytree(root, root.parent / "copy")
    code, told = renamed(root.parent / "copy")
    assert (code, told) == (0, f"{root.parent / 'copy'}: node {NEW_ID} now, it was {node_id}\n")
    master.start()
    master.put(3)
    copy = cluster.replica(master, "copy")
    assert copy.server.database.node.node_id == NEW_ID
    assert copy.server.database.node.manifest.stored == {}
    copy.follows(master)
    assert (copy.counters.full_syncs, copy.counters.partial_syncs) == (0, 1)


def test_a_copy_that_becomes_master_opens_a_mastership_of_a_higher_epoch(cluster: Cluster) -> None:
    master = cluster.master()
    master.create()
    root, epoch = Path(master.server.database.directory.root), master.server.database.node.epoch
    master.stop()
    assert renamed(root)[0] == 0
    master.start()
    assert master.server.database.node.epoch == epoch + 1


def test_a_disk_that_fails_half_way_is_not_called_unchanged(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = cluster.start("node")
    node.stop()
    with monkeypatch.context() as patch:
        patch.setattr(DataDirectory, "write_manifest", full)
        code, told = renamed(node.root)
    assert (code, "nothing was changed" in told) == (1, False)
    assert "No space left" in told and "`vectorizer check` tells which node it is" in told
    assert renamed(node.root)[0] == 0


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_what_is_no_copy_is_left_alone(cluster: Cluster, tmp_path: Path) -> None:
    master = cluster.master()
    root = Path(master.server.database.directory.root)
    code, told = renamed(root)
    assert (code, "a running server holds it" in told) == (1, True)
    master.stop()
    (root / "CURRENT").write_text("nonsense")
    code, told = renamed(root)
    assert (code, "damaged" in told) == (1, True)
    code, told = renamed(tmp_path / "nowhere")
    assert (code, "there is no such directory" in told) == (1, True)
    (tmp_path / "empty").mkdir()
    code, told = renamed(tmp_path / "empty")
    assert (code, "it holds no data" in told) == (1, True)
