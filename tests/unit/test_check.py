"""vectorizer.check: a data directory verified offline."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.running import wait_until
from tests.unit.serving import Serving
from vectorizer.check import DAMAGED, UNUSABLE, check_data_directory

Serve = Callable[..., Serving]


def check(path: Path) -> tuple[int, str]:
    out = io.StringIO()
    return check_data_directory(str(path), out), out.getvalue()


@pytest.fixture
def stopped(serve: Serve) -> Serving:
    """A stopped server's data: one collection with two sealed segments, one graph at least, growing rows."""
    node = serve(index__graph_rows_min=512)
    node.create(segment_rows=600, segment_rows_max=600)
    for first in range(0, 1300, 300):
        node.write(*range(first, first + 300))
    told = "/collections/things"
    wait_until(lambda: node.told("GET", told)["indexing_status"]["graphs"] >= 1, 30)
    node.stop()
    return node


def change_a_byte(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def test_sound_data_are_told_with_their_numbers(stopped: Serving) -> None:
    code, told = check(stopped.path)
    assert code == 0
    assert "collection 'things': 1500 vectors of dimension 4" in told
    assert told.rstrip().endswith("sound")


@pytest.mark.parametrize("name", ["vectors.npy", "rows.bson", "offsets.npy"])
def test_a_changed_byte_in_a_segment_is_found(stopped: Serving, name: str) -> None:
    change_a_byte(next(stopped.path.rglob(name)))
    code, told = check(stopped.path)
    assert code == DAMAGED
    assert name in told


def test_a_damaged_graph_is_only_noted(stopped: Serving) -> None:
    change_a_byte(next(stopped.path.rglob("graph.nmslib")))
    code, told = check(stopped.path)
    assert code == 0
    assert "the graph is damaged; it is built again" in told


def test_a_damaged_manifest_is_found(stopped: Serving) -> None:
    generation, name = (stopped.path / "CURRENT").read_text().split()[0].split("/")
    change_a_byte(stopped.path / generation / name)
    assert check(stopped.path)[0] == DAMAGED


def test_what_is_no_data_directory_is_said(tmp_path: Path) -> None:
    assert check(tmp_path / "nowhere") == (UNUSABLE, f"{tmp_path}/nowhere: there is no such directory\n")
    assert check(tmp_path) == (UNUSABLE, f"{tmp_path}: it holds no data\n")


def test_a_running_server_keeps_its_data(serve: Serve) -> None:
    code, told = check(serve().path)
    assert code == UNUSABLE
    assert "a running server holds it" in told
