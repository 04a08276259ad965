"""``vectorizer check``: what it says of sound, damaged and busy directories, and that it changes nothing."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.served import Cluster, Served, cluster_at, wait_until
from vectorizer.check import check_data_directory


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stopped node's data: two segments, growing rows, a graph, and a journal behind the manifest."""
    root = tmp_path_factory.mktemp("check")
    node = Served(root / "data", {"index.graph_rows_min": 512, "index.builder_niceness": 0}).start()
    node.create(segment_rows=600, dimension=8, segment_rows_max=600)
    node.put(*range(700), dimension=8)
    collection = node.server.database.node.store.get("things")
    wait_until(lambda: collection.segments and collection.segments[0].graph is not None, "the graph")
    node.stop()
    return root / "data"


@pytest.fixture
def data(original: Path, tmp_path: Path) -> Path:
    shutil.copytree(original, tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with cluster_at(tmp_path) as cluster:
        yield cluster


def check(path: Path) -> tuple[int, str]:
    out = io.StringIO()
    return check_data_directory(str(path), out), out.getvalue()


def flip(root: Path, pattern: str) -> Path:
    path = max(root.glob(pattern), key=lambda item: item.stat().st_size)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    return path


def state(root: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_sound_data(data: Path) -> None:
    before = state(data)
    code, said = check(data)
    assert code == 0, said
    assert "collection 'things': 700 vectors of dimension 8 in 2 segments" in said
    assert said.strip().endswith("sound")
    assert state(data) == before


@pytest.mark.parametrize(
    "pattern", ["*/segments/*/vectors.npy", "*/segments/*/offsets.npy", "*/manifest-*", "CURRENT"]
)
def test_damage_is_named(data: Path, pattern: str) -> None:
    path = flip(data, pattern)
    code, said = check(data)
    assert code == 1
    assert str(path) in said


def test_a_damaged_graph_is_only_a_note(data: Path) -> None:
    path = flip(data, "*/segments/*/graph.nmslib")
    code, said = check(data)
    assert (code, f"note: {path}" in said) == (0, True)
    path.unlink()
    code, said = check(data)
    assert (code, f"note: {path}" in said) == (0, True)


def test_a_damaged_journal(data: Path) -> None:
    for path in data.glob("*/journal/*"):
        path.unlink()
    code, said = check(data)
    assert code == 1
    assert "not one journal file" in said


def test_a_missing_journal_directory(data: Path) -> None:
    shutil.rmtree(next(data.glob("*/journal")))
    code, said = check(data)
    assert (code, "cannot be read" in said) == (1, True)


def test_what_holds_no_data(tmp_path: Path) -> None:
    assert check(tmp_path / "nothing") == (2, f"{tmp_path}/nothing: there is no such directory\n")
    (tmp_path / "empty").mkdir()
    assert check(tmp_path / "empty") == (2, f"{tmp_path}/empty: it holds no data\n")
    assert os.listdir(tmp_path / "empty") == []
    (tmp_path / "file").write_text("")
    code, said = check(tmp_path / "file")
    assert (code, said.endswith("it cannot be locked: Not a directory\n")) == (2, True)


def test_a_running_node(cluster: Cluster) -> None:
    node = cluster.start("node")
    code, said = check(node.root)
    assert (code, said) == (2, f"{node.root}: a running server holds it; stop that first\n")
    assert os.path.exists(node.root / "LOCK")
