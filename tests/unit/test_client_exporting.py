"""``vectorizer export``: what it writes can be imported again, and an interruption is no loss."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import gevent
import numpy as np
import pytest

from tests.unit.served import Cluster, Served, cluster_at, free_port
from tests.unit.served_client import row, run, url, write_lines
from vectorizer.client.exporting import PAGE_ROWS, Export
from vectorizer.client.failures import CommandError, Interrupted
from vectorizer.client.node import Node

pytestmark = pytest.mark.usefixtures("logging_as_before")
Capsys = pytest.CaptureFixture[str]
COUNT = 2 * PAGE_ROWS + 500


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with cluster_at(tmp_path / "nodes") as cluster:
        yield cluster


@pytest.fixture
def node(cluster: Cluster, tmp_path: Path, capsys: Capsys) -> Served:
    """A node whose collection ``rows`` has rows for two pages and a half."""
    served = cluster.start("one", {"server.port": free_port()})
    fill(served, tmp_path / "rows.jsonl", capsys)
    return served


def fill(served: Served, file: Path, capsys: Capsys) -> None:
    write_lines(file, [row(number) for number in range(COUNT)])
    ran = run(capsys, "import", file, "--create", "--url", url(served))
    assert ran.code == 0, ran.err


def lines(path: Path) -> list[object]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def exported_until(served: Served, target: Path, rows: int) -> CommandError:
    """An export that gets a Ctrl-C when so many rows are written; how it ended."""

    def advanced(done: int) -> None:
        if done >= rows:
            raise KeyboardInterrupt

    collection = served.request("GET", "/collections/rows")[1]
    with pytest.raises(CommandError) as caught:
        Export(Node(url(served)), "rows", target, advanced).run(collection)
    return caught.value


def test_lines(node: Served, tmp_path: Path, capsys: Capsys) -> None:
    target = tmp_path / "out" / "rows.jsonl"
    ran = run(capsys, "export", "rows", target, "--url", url(node))
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith(f"rows: {COUNT} rows exported in ")
    found = lines(target)
    assert sorted(found, key=str) == sorted((row(number) for number in range(COUNT)), key=str)
    assert [path.name for path in target.parent.iterdir()] == ["rows.jsonl"]


@pytest.mark.parametrize("target", ["out", "out.jsonl"])
def test_what_is_exported_can_be_imported(node: Served, tmp_path: Path, capsys: Capsys, target: str) -> None:
    assert run(capsys, "export", "rows", tmp_path / target, "--url", url(node)).code == 0
    words = ("import", tmp_path / target, "--collection", "copy", "--create", "--url", url(node))
    ran = run(capsys, *words)
    assert ran.code == 0, ran.err
    assert node.digest("copy") == node.digest("rows")


def test_an_array_that_numpy_reads(node: Served, tmp_path: Path, capsys: Capsys) -> None:
    assert run(capsys, "export", "rows", tmp_path / "out", "--url", url(node)).code == 0
    vectors = np.load(tmp_path / "out/vectors.npy")
    assert (vectors.shape, vectors.dtype) == ((COUNT, 4), np.float32)
    assert len(lines(tmp_path / "out/rows.jsonl")) == COUNT


def test_an_empty_collection(node: Served, tmp_path: Path, capsys: Capsys) -> None:
    node.create("empty", 7)
    assert run(capsys, "export", "empty", tmp_path / "out", "--url", url(node)).code == 0
    assert np.load(tmp_path / "out/vectors.npy").shape == (0, 7)


@pytest.mark.parametrize("target", ["out", "out.jsonl"])
def test_an_interrupted_export_goes_on(node: Served, tmp_path: Path, capsys: Capsys, target: str) -> None:
    ended = exported_until(node, tmp_path / target, PAGE_ROWS)
    assert isinstance(ended, Interrupted)
    assert str(ended) == f"interrupted after {PAGE_ROWS} rows; the same command goes on from there"
    partial = next(path for path in tmp_path.rglob("*.partial"))
    with partial.open("ab") as file:
        file.write(b"half a li")  # as a page that was cut in the middle
    assert run(capsys, "export", "rows", tmp_path / target, "--url", url(node)).code == 0
    assert run(
        capsys, "import", tmp_path / target, "--collection", "copy", "--create", "--url", url(node)
    ).out.startswith(f"copy: {COUNT} rows imported")
    assert node.digest("copy") == node.digest("rows")
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".partial", ".export")]


@pytest.mark.parametrize("lost", ["partial", "collection"])
def test_what_does_not_fit_together_begins_anew(
    node: Served, tmp_path: Path, capsys: Capsys, lost: str
) -> None:
    exported_until(node, tmp_path / "out.jsonl", PAGE_ROWS)
    if lost == "partial":
        (tmp_path / "out.jsonl.partial").write_bytes(b"short")
    else:
        assert node.request("DELETE", "/collections/rows")[0] == 200
        fill(node, tmp_path / "rows.jsonl", capsys)
    assert run(capsys, "export", "rows", tmp_path / "out.jsonl", "--url", url(node)).code == 0
    assert len({str(line) for line in lines(tmp_path / "out.jsonl")}) == COUNT
    assert len(lines(tmp_path / "out.jsonl")) == COUNT


def test_a_server_that_is_away_for_a_moment(node: Served, tmp_path: Path) -> None:
    restarted: list[int] = []

    def advanced(done: int) -> None:
        if done == PAGE_ROWS and not restarted:
            restarted.append(done)
            node.stop()
            gevent.spawn_later(0.3, node.start)

    collection = node.request("GET", "/collections/rows")[1]
    job = Export(Node(url(node)), "rows", tmp_path / "out.jsonl", advanced)
    assert job.run(collection) == COUNT
    assert restarted == [PAGE_ROWS]
    assert len({str(line) for line in lines(tmp_path / "out.jsonl")}) == COUNT


def test_mistakes(node: Served, tmp_path: Path, capsys: Capsys) -> None:
    here = ("--url", url(node))
    (tmp_path / "there.jsonl").write_text("mine")
    ran = run(capsys, "export", "rows", tmp_path / "there.jsonl", *here)
    assert (ran.code, "exists already; remove it" in ran.sentence) == (2, True)
    assert (tmp_path / "there.jsonl").read_text() == "mine"
    ran = run(capsys, "export", "rows", tmp_path / "x.csv", *here)
    assert (ran.code, "the target is a directory" in ran.sentence) == (2, True)
    ran = run(capsys, "export", "nothing", tmp_path / "x", *here)
    assert (ran.code, "'nothing' does not exist" in ran.sentence) == (1, True)
    ran = run(capsys, "export", "rows", tmp_path / "there.jsonl" / "x", *here)
    assert (ran.code, "cannot be written: Not a directory" in ran.sentence) == (1, True)
