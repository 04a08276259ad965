"""``vectorizer import``: every kind of file, every way to be wrong, cut at every place and gone on with."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gevent
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from tests.unit.certificates import make
from tests.unit.served import (
    Cluster,
    Served,
    cluster_at,
    free_port,
    master_settings,
    replica_settings,
    wait_until,
)
from tests.unit.served_client import row, run, url, write_lines
from vectorizer.client.failures import CommandError, Interrupted
from vectorizer.client.importing import Import, Plan
from vectorizer.client.node import Node
from vectorizer.client.sources import LINE_BYTES_MAX, open_source

pytestmark = pytest.mark.usefixtures("logging_as_before")
Capsys = pytest.CaptureFixture[str]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with cluster_at(tmp_path / "nodes") as cluster:
        yield cluster


@pytest.fixture
def node(cluster: Cluster) -> Served:
    return cluster.start("one")


def stored(served: Served, name: str = "rows") -> dict[str, Any]:
    code, answer = served.request("GET", f"/collections/{name}/vectors?limit=10000")
    assert code == 200, answer
    return {item["id"]: item for item in answer["vectors"]}


def leftovers(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir() if ".import" in path.name)


# -- kinds of files --------------------------------------------------------------------------------


def test_lines(node: Served, tmp_path: Path, capsys: Capsys) -> None:
    file = write_lines(tmp_path / "rows.jsonl", [row(number) for number in range(2500)])
    ran = run(capsys, "import", file, "--create", "--metric", "dot", "--url", url(node))
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith("rows: 2500 rows imported in ")
    found = stored(node)
    assert len(found) == 2500
    assert found["id-7"] == row(7)
    assert node.request("GET", "/collections/rows")[1]["metric"] == "dot"
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("dtype", ["<f4", "<f8", ">f4", "<f2"])
def test_an_array_with_lines_beside_it(node: Served, tmp_path: Path, capsys: Capsys, dtype: str) -> None:
    vectors = np.arange(60, dtype=dtype).reshape(20, 3) + 1
    np.save(tmp_path / "vectors.npy", vectors)
    write_lines(tmp_path / "rows.jsonl", [{"id": f"r{number}", "payload": None} for number in range(20)])
    target = tmp_path / "vectors.npy" if dtype == "<f4" else tmp_path
    ran = run(capsys, "import", target, "--collection", "c", "--create", "--url", url(node))
    assert ran.code == 0, ran.err
    found = stored(node, "c")
    assert {id_: item["vector"] for id_, item in found.items()} == {
        f"r{number}": vectors[number].tolist() for number in range(20)
    }


@pytest.mark.parametrize("here", [".", "../here", "x/.."])
def test_the_directory_where_one_is(
    node: Served, tmp_path: Path, capsys: Capsys, monkeypatch: pytest.MonkeyPatch, here: str
) -> None:
    directory = tmp_path / "here"
    (directory / "x").mkdir(parents=True)
    np.save(directory / "vectors.npy", np.eye(2, dtype="<f4"))
    (directory / "rows.jsonl").write_text('{"id": "a"}\n{"id": "b"}\n')
    monkeypatch.chdir(directory)
    assert run(capsys, "import", here, "--create", "--url", url(node)).code == 0
    assert node.request("GET", "/collections/here")[1]["vector_count"] == 2
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("payload", ["struct", "json", "columns", "none"])
def test_parquet(node: Served, tmp_path: Path, capsys: Capsys, payload: str) -> None:
    rows = [row(number) for number in range(1200)]
    columns: dict[str, Any] = {"id": [r["id"] for r in rows]}
    columns["vector"] = pyarrow.array([r["vector"] for r in rows], pyarrow.list_(pyarrow.float32()))
    if payload == "struct":
        columns["payload"] = [r["payload"] for r in rows]
    elif payload == "json":
        columns["payload"] = [json.dumps(r["payload"]) for r in rows]
    elif payload == "columns":
        columns["n"] = [r["payload"]["n"] for r in rows]
    file = tmp_path / "rows.parquet"
    pyarrow.parquet.write_table(pyarrow.table(columns), file, row_group_size=700)
    ran = run(capsys, "import", file, "--create", "--url", url(node))
    assert ran.code == 0, ran.err
    expected = rows if payload != "none" else [{**r, "payload": None} for r in rows]
    assert stored(node) == {r["id"]: r for r in expected}
    assert [r.id for r in open_source(file).rows(1199)] == ["id-1199"]


def test_parquet_without_pyarrow(tmp_path: Path, capsys: Capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    (tmp_path / "rows.parquet").write_bytes(b"PAR1")
    ran = run(capsys, "import", tmp_path / "rows.parquet")
    assert (ran.code, "pip install pyarrow" in ran.sentence) == (2, True)


def test_an_id_that_comes_again_replaces(node: Served, tmp_path: Path, capsys: Capsys) -> None:
    rows = [row(1), row(2), row(1, payload={"n": "last"}), row(3)]
    file = write_lines(tmp_path / "rows.jsonl", rows)
    assert run(capsys, "import", file, "--create", "--url", url(node)).code == 0
    assert stored(node)["id-1"]["payload"] == {"n": "last"}


def test_a_batch_that_is_too_large_is_halved(cluster: Cluster, tmp_path: Path, capsys: Capsys) -> None:
    small = cluster.start("small", {"limits.bson_body_bytes_max": 65536})
    file = write_lines(tmp_path / "rows.jsonl", [row(number, 64) for number in range(1000)])
    ran = run(capsys, "import", file, "--create", "--url", url(small))
    assert ran.code == 0, ran.err
    assert len(stored(small)) == 1000


# -- malformed files -------------------------------------------------------------------------------

GOOD = json.dumps(row(0))
BAD_LINES = [
    ("{", "line 3 is not JSON: "),
    ("[1, 2]", "line 3 is not an object"),
    ('{"id": "x"}', "line 3 has no vector"),
    ('{"vector": [1, 2, 3, 4]}', "line 3 has no id"),
    ('{"id": "x", "vector": [1, 2, 3, 4], "color": 1}', "line 3 has the unknown field 'color'"),
    ('{"id": 7, "vector": [1, 2, 3, 4]}', "line 3: id must be a string that is not empty, it is 7"),
    ('{"id": "", "vector": [1, 2, 3, 4]}', "line 3: id must be a string that is not empty"),
    ('{"id": "x", "vector": [1, 2, 3]}', "line 3: vector has 3 dimensions, the collection has 4"),
    ('{"id": "x", "vector": []}', "line 3: vector is empty"),
    ('{"id": "x", "vector": null}', "line 3: vector must be a list of numbers, it is null"),
    ('{"id": "x", "vector": [1, true, 2, 3]}', "line 3: vector must hold numbers only, it holds True"),
    ('{"id": "x", "vector": [1, 1e39, 2, 3]}', "line 3: vector[1] is 1e+39, not a finite float32"),
    ('{"id": "x", "vector": [1, NaN, 2, 3]}', "line 3 is not JSON"),
    ('{"id": "x", "vector": [1, 2, 3, 4], "payload": 3}', "line 3: payload must be an object or null"),
    ('{"id": "x", "vector": [1, 2, 3, 4], "payload": {"a\\u0000": 1}}', "line 3: payload key"),
    (f'{{"id": "{"x" * 300}", "vector": [1, 2, 3, 4]}}', "line 3: id must be a string of 1 to 256 bytes"),
    ('{"id": "x", "vector": [0, 0, 0, 0]}', "line 3: vector is all zeros"),
    ("\udcff", "line 3 is not JSON"),
]


@pytest.mark.parametrize(("line", "part"), BAD_LINES)
def test_a_malformed_line_is_named(
    node: Served, tmp_path: Path, capsys: Capsys, line: str, part: str
) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(f"{GOOD}\n\n{line}\n{GOOD}\n".encode(errors="surrogateescape"))
    node.create("rows")
    ran = run(capsys, "import", file, "--url", url(node))
    assert ran.code == 1
    assert part in ran.sentence
    assert ran.sentence.startswith("rows.jsonl line 3")
    assert ran.sentence.endswith("nothing was imported")


def test_a_line_without_end(tmp_path: Path, capsys: Capsys) -> None:
    file = tmp_path / "rows.jsonl"
    with file.open("wb") as stream:
        stream.truncate(LINE_BYTES_MAX + 2)
    ran = run(capsys, "import", file)
    assert (ran.code, "line 1 is longer than" in ran.sentence) == (1, True)


def array(path: Path, content: Any, lines: int = 3) -> Path:
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.save(path, content, allow_pickle=True)
    return write_lines(path.with_name("rows.jsonl"), [{"id": f"r{number}"} for number in range(lines)])


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"", "vectors.npy is not a .npy file"),
        (b"\x93NUMPY\x01\x00\xff\xff{", "vectors.npy is not a .npy file, or its header is damaged"),
        (b"\x93NUMPY\x09\x00\x05\x00hello", "vectors.npy is not a .npy file"),
        (np.zeros((3, 2), np.int64), "holds int64; accepted: float16"),
        (np.array([["a"]], dtype=object), "holds object"),
        (np.zeros(3, np.float32), "has the shape (3,)"),
        (np.zeros((3, 0), np.float32), "has the shape (3, 0)"),
        (np.asfortranarray(np.ones((3, 2), np.float32)), "is in Fortran order"),
        (np.ones((4, 2), np.float32), "rows.jsonl has 3 rows, vectors.npy has 4"),
    ],
)
def test_a_malformed_array(tmp_path: Path, capsys: Capsys, content: Any, part: str) -> None:
    array(tmp_path / "vectors.npy", content)
    ran = run(capsys, "import", tmp_path)
    assert ran.code == 1
    assert part in ran.sentence


def test_an_array_that_was_cut(tmp_path: Path, capsys: Capsys) -> None:
    array(tmp_path / "vectors.npy", np.ones((3, 2), np.float32))
    whole = (tmp_path / "vectors.npy").read_bytes()
    (tmp_path / "vectors.npy").write_bytes(whole[:-5])
    assert "speaks of 24 bytes of vectors, it has 19" in run(capsys, "import", tmp_path).sentence


def test_a_vector_of_an_array_that_is_not_finite(node: Served, tmp_path: Path, capsys: Capsys) -> None:
    vectors = np.ones((3, 4), np.float32)
    vectors[1, 2] = np.nan
    array(tmp_path / "vectors.npy", vectors)
    node.create("c")
    ran = run(capsys, "import", tmp_path, "--collection", "c", "--url", url(node))
    assert ran.sentence.startswith("rows.jsonl line 2: vector[2] is nan")


@pytest.mark.parametrize(
    ("columns", "part"),
    [
        ({"id": ["a"]}, "has no column vector; it has id"),
        ({"vector": [[1.0]]}, "has no column id"),
        ({"id": ["a"], "vector": [[1.0]], "payload": ["{}"], "n": [1]}, "payload and others beside it: n"),
        ({"id": ["a", None], "vector": [[1.0] * 4] * 2}, "row 2: id must be a string"),
        ({"id": ["a"], "vector": ["b"]}, "row 1: vector must be a list of numbers"),
        ({"id": ["a"], "vector": [[1.0, None, 1.0, 1.0]]}, "row 1: vector must hold numbers only"),
        ({"id": ["a"], "vector": [[1.0] * 4], "payload": ["{"]}, "row 1: payload is not JSON"),
        ({"id": ["a"], "vector": [[1.0] * 4], "n": [b"x"]}, "row 1: payload field 'n' is a bytes"),
    ],
)
def test_a_malformed_parquet_file(
    node: Served, tmp_path: Path, capsys: Capsys, columns: dict[str, Any], part: str
) -> None:
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "rows.parquet")
    node.create("rows")
    ran = run(capsys, "import", tmp_path / "rows.parquet", "--url", url(node))
    assert ran.code == 1
    assert part in ran.sentence


def test_a_file_that_is_no_parquet(tmp_path: Path, capsys: Capsys) -> None:
    (tmp_path / "rows.parquet").write_bytes(b"PAR1 but not really")
    ran = run(capsys, "import", tmp_path / "rows.parquet")
    assert "rows.parquet is not a parquet file" in ran.sentence


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["missing.jsonl"], "missing.jsonl cannot be read: No such file or directory"),
        (["."], "vectors.npy cannot be read: No such file"),
        (["rows.csv"], "what is in it? Known are .jsonl"),
        (["r ws.jsonl"], "'r ws' cannot be the name of a collection; give one with --collection"),
        (["rows.jsonl", "--dimension", "3"], "they go with --create"),
        (["rows.jsonl", "--batch-rows", "100000"], "--batch-rows can be 10000 at most"),
        (["rows.jsonl", "--batch-rows", "0"], "0 is not a number from 1 up"),
        (["rows.jsonl", "--retry", "x"], "invalid number of seconds"),
        (["rows.jsonl", "--url", "ftp://x"], "is not the URL of a node"),
        (["rows.jsonl", "--url", "http://x/y"], "has more than scheme, host and port"),
        (["rows.jsonl", "--api-key", "a b"], "characters that no API key has"),
    ],
)
def test_misuse(
    tmp_path: Path, capsys: Capsys, monkeypatch: pytest.MonkeyPatch, words: list[str], part: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("rows.jsonl", "rows.csv", "r ws.jsonl"):
        (tmp_path / name).write_text(GOOD)
    ran = run(capsys, "import", *words)
    assert ran.code == 2
    assert part in ran.sentence


def test_what_the_collection_says(node: Served, tmp_path: Path, capsys: Capsys) -> None:
    file = write_lines(tmp_path / "rows.jsonl", [row(1)])
    here = ("--url", url(node))
    missing = run(capsys, "import", file, *here)
    assert (missing.code, missing.sentence.endswith("--create makes it")) == (1, True)
    node.create("rows")
    other = run(capsys, "import", file, "--create", "--dimension", 3, *here)
    assert other.sentence == "rows exists already, with dimension 4, not 3"
    empty = write_lines(tmp_path / "empty.jsonl", [])
    assert (
        "has no rows to take the dimension from" in run(capsys, "import", empty, "--create", *here).sentence
    )
    assert run(capsys, "import", empty, "--create", "--dimension", 3, *here).code == 0


# -- cut and gone on with --------------------------------------------------------------------------


def interrupted_after(served: Served, file: Path, rows: int, **more: Any) -> tuple[Import, CommandError]:
    """An import that gets a Ctrl-C when so many rows are done; the import and how it ended."""

    def advanced(done: int) -> None:
        if done >= rows:
            raise KeyboardInterrupt

    job = Import(Node(url(served), **more), Plan(file, "rows", {}, 100), advanced)
    with pytest.raises(CommandError) as caught:
        job.run()
    return job, caught.value


def test_an_interrupted_import_goes_on(node: Served, tmp_path: Path, capsys: Capsys) -> None:
    file = write_lines(tmp_path / "rows.jsonl", [row(number) for number in range(1000)])
    _, ended = interrupted_after(node, file, 300)
    assert isinstance(ended, Interrupted)
    assert str(ended) == "interrupted after 300 of 1000 rows; the same command goes on from there"
    assert len(stored(node)) == 300
    assert leftovers(tmp_path) == ["rows.jsonl.rows.import"]
    ran = run(capsys, "import", file, "--url", url(node))
    assert ran.out.startswith("rows: 700 rows imported in ")
    assert ran.out.endswith("(300 were there from before)\n")
    assert len(stored(node)) == 1000
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("change", ["file", "collection", "mark"])
def test_what_changed_meanwhile_is_imported_from_the_start(
    node: Served, tmp_path: Path, capsys: Capsys, change: str
) -> None:
    file = write_lines(tmp_path / "rows.jsonl", [row(number) for number in range(1000)])
    interrupted_after(node, file, 300)
    if change == "file":
        write_lines(file, [row(number) for number in range(5, 1006)])
    elif change == "collection":
        assert node.request("DELETE", "/collections/rows")[0] == 200
        node.create("rows")
    else:
        (tmp_path / "rows.jsonl.rows.import").write_text('{"version": 0}')
    ran = run(capsys, "import", file, "--url", url(node))
    assert ran.out.startswith("rows: 1001 rows" if change == "file" else "rows: 1000 rows")


def test_a_damaged_mark_is_said(node: Served, tmp_path: Path, capsys: Capsys) -> None:
    file = write_lines(tmp_path / "rows.jsonl", [row(1)])
    (tmp_path / "rows.jsonl.rows.import").write_text("{")
    ran = run(capsys, "import", file, "--create", "--url", url(node))
    assert "remove it to begin anew" in ran.sentence


def test_a_bad_line_late_in_the_file_keeps_what_is_before(
    node: Served, tmp_path: Path, capsys: Capsys
) -> None:
    file = write_lines(tmp_path / "rows.jsonl", [*(row(number) for number in range(250)), {"id": "x"}])
    ran = run(capsys, "import", file, "--create", "--batch-rows", 100, "--url", url(node))
    assert ran.sentence == "rows.jsonl line 251 has no vector; 200 rows before it are imported"


def test_a_server_that_is_away_for_a_moment(cluster: Cluster, tmp_path: Path) -> None:
    served = cluster.start("moving", {"server.port": free_port()})
    file = write_lines(tmp_path / "rows.jsonl", [row(number) for number in range(1000)])
    restarted: list[int] = []

    def advanced(done: int) -> None:
        if done == 500 and not restarted:
            restarted.append(done)
            served.stop()
            gevent.spawn_later(0.3, served.start)

    job = Import(Node(url(served)), Plan(file, "rows", {}, 100), advanced)
    assert job.run() == 1000
    assert restarted == [500]
    assert len(stored(served)) == 1000


def test_a_server_that_stays_away(cluster: Cluster, tmp_path: Path, capsys: Capsys) -> None:
    served = cluster.start("leaving", {"server.port": free_port()})
    file = write_lines(tmp_path / "rows.jsonl", [row(number) for number in range(1000)])

    def advanced(done: int) -> None:
        if done == 500:
            served.stop()

    job = Import(Node(url(served), patience_secs=0.5), Plan(file, "rows", {}, 100), advanced)
    with pytest.raises(CommandError, match=r"does not answer: .*500 of 1000 rows are imported; the same"):
        job.run()
    served.start()
    assert run(capsys, "import", file, "--url", url(served)).out.startswith("rows: 500 rows imported")


def test_nobody_there(tmp_path: Path, capsys: Capsys) -> None:
    file = write_lines(tmp_path / "rows.jsonl", [row(1)])
    place = f"http://127.0.0.1:{free_port()}"
    ran = run(capsys, "import", file, "--retry", "0.2", "--url", place)
    assert (ran.code, ran.sentence) == (1, f"{place} does not answer: Connection refused")


@pytest.mark.parametrize("answer", ["refuse", "redirect"])
def test_a_replica_sends_on_to_its_master(
    cluster: Cluster, tmp_path: Path, capsys: Capsys, answer: str
) -> None:
    master = cluster.master()
    replica = cluster.replica(master, **{"replication.replica_writes": answer})
    replica.follows(master)
    file = write_lines(tmp_path / "rows.jsonl", [row(number) for number in range(1000)])
    ran = run(capsys, "import", file, "--create", "--url", url(replica))
    assert ran.code == 0, ran.err
    assert len(stored(master)) == 1000
    replica.follows(master)


@pytest.mark.needs("openssl")
def test_over_tls(cluster: Cluster, tmp_path: Path, capsys: Capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    ca = make(tmp_path, "ca")
    own = make(tmp_path, "node", ca)
    master = cluster.start("master", master_settings(**own.settings))
    replica = cluster.start("replica", replica_settings(master.address, **own.settings))
    wait_until(lambda: replica.streams)
    file = write_lines(tmp_path / "rows.jsonl", [row(number) for number in range(1000)])
    place = url(replica).replace("http:", "https:")
    ran = run(capsys, "import", file, "--create", "--url", place)
    assert (ran.code, "a certificate that is not trusted: " in ran.sentence) == (1, True)
    monkeypatch.setenv("SSL_CERT_FILE", str(ca.certificate))
    ran = run(capsys, "import", file, "--create", "--url", place, "--api-key", "not-needed-here")
    assert ran.code == 0, ran.err
    assert master.server.database.node.store.get("rows").vector_count == 1000


def test_writes_that_a_failover_lost_are_sent_again(cluster: Cluster, tmp_path: Path) -> None:
    """The old master alone had the last batches; the import counted them as done, and must not believe it."""
    port = free_port()
    old = cluster.master("old", **{"server.port": port})
    new = cluster.replica(old, "new", **{"replication.bind_address": "127.0.0.1:0"})
    new.follows(old)
    old.create("rows")
    new.follows(old)
    file = write_lines(tmp_path / "rows.jsonl", [row(number) for number in range(1000)])

    def advanced(done: int) -> None:
        if done == 300:
            wait_until(lambda: new.offset == old.offset)
            assert new.configure(role="master")[0] == 200  # from here on the two differ
        if done == 600:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        Import(Node(url(old)), Plan(file, "rows", None, 100), advanced).run()
    old.stop()
    assert len(stored(new)) == 300
    done: list[int] = []
    job = Import(Node(url(new)), Plan(file, "rows", None, 100), done.append)
    assert job.run() == 1000
    assert done[:2] == [600, 0]
    assert len(stored(new)) == 1000


def test_a_real_ctrl_c(cluster: Cluster, tmp_path: Path, capsys: Capsys) -> None:
    served = cluster.start("one", master_settings())
    file = write_lines(tmp_path / "rows.jsonl", [row(number) for number in range(20_000)])
    words = [sys.executable, "-m", "vectorizer", "import", file, "--create", "--batch-rows", "20"]
    process = subprocess.Popen([*words, "--url", url(served)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    wait_until(lambda: served.offset > 5, "some batches")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (130, b"")
    (sentence,) = err.decode().splitlines()
    assert sentence.startswith("vectorizer: interrupted after ")
    assert sentence.endswith("of 20000 rows; the same command goes on from there")
    ran = run(capsys, "import", file, "--url", url(served))
    assert ran.code == 0
    assert "were there from before" in ran.out
    assert served.digest("rows")[1] == 20_000


# -- large files -----------------------------------------------------------------------------------

READING = """
import resource, sys
from pathlib import Path
from vectorizer.client.rows import batches
from vectorizer.client.sources import open_source
source = open_source(Path(sys.argv[1]))
first = next(batches(source.rows(0), 1000, 256)).document()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
rows = sum(len(batch.document()["ids"]) for batch in batches(source.rows(0), 1000, 256))
print(rows, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize("kind", ["lines", "pair"])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, kind: str) -> None:
    """200 MB of vectors, or lines of them, pass in a few megabytes. ru_maxrss is in KiB."""
    count = 200_000 if kind == "pair" else 40_000
    if kind == "pair":
        np.save(tmp_path / "vectors.npy", np.ones((count, 256), np.float32))
        write_lines(tmp_path / "rows.jsonl", ({"id": f"r{number}"} for number in range(count)))
        path = tmp_path
    else:
        vector = json.dumps([0.123456] * 256)
        path = tmp_path / "rows.jsonl"
        with path.open("w") as file:
            file.writelines(f'{{"id": "r{number}", "vector": {vector}}}\n' for number in range(count))
    ran = subprocess.run(
        [sys.executable, "-c", READING, str(path)], capture_output=True, text=True, timeout=50, check=True
    )
    rows, grown_kib = map(int, ran.stdout.split())
    assert rows == count
    assert grown_kib < 32 * 1024
