"""The builder as a process: what it leaves, also when it is killed, and how it says what was wrong."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.unit.rows import chunked, clustered, config_of, gaussian, view_of, write_segment_files
from vectorizer.errors import DamageError
from vectorizer.index.build import (
    DESCRIPTION_FILE,
    GRAPH_FILE,
    ExitCode,
    TooFewRows,
    build,
    command,
    main,
    without_disturbances,
)
from vectorizer.index.builder import AUTOGROUP
from vectorizer.index.calibration import HOLDOUT_ROWS, Calibration, Point
from vectorizer.index.hnsw import Graph
from vectorizer.search import search
from vectorizer.storage.disk import RealDisk
from vectorizer.storage.graph_files import graph_file_infos, load_graph
from vectorizer.storage.segment import open_segment, write_segment

DEADLINE_SECS = 30.0


def segment(directory: Path, rows: int = 1000, dimension: int = 16) -> Path:
    write_segment_files(chunked(clustered(rows, dimension, 1), [rows])[0], directory)
    return directory


def run(directory: Path, *more: str) -> subprocess.CompletedProcess[str]:
    line = [*command(directory, "cosine", 8, 50, 1, 5), *more]
    return subprocess.run(line, capture_output=True, text=True, timeout=DEADLINE_SECS, check=False)


def graph_files(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir() if path.name.startswith("graph.")}


def test_a_graph_with_its_description(tmp_path: Path) -> None:
    done = run(segment(tmp_path))
    assert (done.returncode, done.stdout, done.stderr) == (ExitCode.BUILT, "", "")
    assert graph_files(tmp_path) == {GRAPH_FILE, DESCRIPTION_FILE}
    document = json.loads((tmp_path / DESCRIPTION_FILE).read_text())
    assert {key: document[key] for key in ("metric", "dimension", "m", "ef_construction")} == {
        "metric": "cosine",
        "dimension": 16,
        "m": 8,
        "ef_construction": 50,
    }
    calibration = Calibration.from_document(document)
    assert calibration.graph_rows == 1000 - HOLDOUT_ROWS
    assert [point.ef for point in calibration.points] == sorted(point.ef for point in calibration.points)
    assert all(
        0 <= point.recall <= 1 and point.error > 0 and point.query_us > 0 for point in calibration.points
    )
    assert calibration.scan_us > 0 and calibration.batch_scan_us > 0
    graph = Graph.load(tmp_path / GRAPH_FILE, calibration, "cosine", 16)
    assert graph.query(gaussian(1, 16, 2)[0], 10, 50).size == 10


def test_a_real_segment_is_searched_by_its_graph(tmp_path: Path) -> None:
    """Files as the storage writes them, the graph beside, and hits with ids from the mapped rows."""
    [rows] = chunked(clustered(6000, 32, 1), [6000])
    disk, path = RealDisk(), f"{tmp_path}/segment"
    files = write_segment(disk, path, rows.ids, rows.vectors, rows.norms, [b""] * 6000, rows.hashes)
    assert run(Path(path)).returncode == ExitCode.BUILT
    infos = graph_file_infos(disk, path)
    sealed = open_segment(disk, path, rows.name, files, verify=True)
    config = config_of(32, "cosine")
    sealed.graph = load_graph(disk, path, config, infos, verify=True)
    assert sealed.graph is not None
    queries = clustered(300, 32, 1)[200:]
    found = search(view_of(config, sealed), queries, 10, ef=200)
    exact = search(view_of(config, rows), queries, 10)
    same = [len({hit[:2] for hit in a} & {hit[:2] for hit in b}) for a, b in zip(found, exact, strict=True)]
    assert sum(same) >= 0.99 * 10 * len(queries)


@pytest.mark.parametrize("ties", [False, True])
def test_recall_counts_equal_scores_as_equal(tmp_path: Path, ties: bool) -> None:
    """Many equal rows: whichever of them a graph finds, it lost nothing."""
    vectors = clustered(1000, 8, 1)
    if ties:
        vectors = np.repeat(vectors[:50], 20, axis=0)
    write_segment_files(chunked(vectors, [1000])[0], tmp_path)
    calibration = build(tmp_path, "euclidean", 16, 200, 1)
    assert calibration.points[-1].recall >= 0.95


def test_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    assert main([str(tmp_path), "--metric=dot", "--m=8", "--ef-construction=50"]) == ExitCode.UNREADABLE
    segment(tmp_path)
    (tmp_path / "vectors.npy").write_bytes(b"nothing that numpy knows")
    done = run(tmp_path)
    assert done.returncode == ExitCode.UNREADABLE
    assert done.stderr.startswith("no graph was built: ") and done.stderr.count("\n") == 1
    assert graph_files(tmp_path) == set()


def test_too_few_rows(tmp_path: Path) -> None:
    segment(tmp_path, HOLDOUT_ROWS)
    with pytest.raises(TooFewRows):
        build(tmp_path, "cosine", 8, 50, 1)
    arguments = [str(tmp_path), "--metric=cosine", "--m=8", "--ef-construction=50"]
    assert main(arguments) == ExitCode.TOO_FEW_ROWS
    segment(tmp_path, HOLDOUT_ROWS + 1)
    assert main(arguments) == ExitCode.BUILT
    calibration = Calibration.from_document(json.loads((tmp_path / DESCRIPTION_FILE).read_text()))
    assert calibration.graph_rows == 1


def test_usage_errors_have_their_own_code(tmp_path: Path) -> None:
    assert run(tmp_path, "--metric=hamming").returncode == ExitCode.USAGE


def test_a_full_disk_is_told_from_damage(tmp_path: Path) -> None:
    """A limit on file sizes stands for the disk: writes fail in the middle of the graph."""
    segment(tmp_path)

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))

    line = command(tmp_path, "cosine", 8, 50, 1, 5)
    done = subprocess.run(
        line, capture_output=True, text=True, timeout=DEADLINE_SECS, check=False, preexec_fn=limit
    )
    assert done.returncode == ExitCode.NO_ROOM
    assert "lack of room" in done.stderr
    assert graph_files(tmp_path) <= {GRAPH_FILE + ".tmp"}
    assert run(tmp_path).returncode == ExitCode.BUILT


def test_killed_at_any_point_it_leaves_nothing_that_looks_finished(tmp_path: Path) -> None:
    """And the next build is not disturbed by what it left."""
    segment(tmp_path, 6000, 32)
    for delay in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.3):
        child = subprocess.Popen(command(tmp_path, "cosine", 16, 200, 2, 0), stderr=subprocess.PIPE)
        time.sleep(delay)  # the point of the kill, not a wait for something
        child.kill()
        code = child.wait(timeout=DEADLINE_SECS)
        assert child.stderr is not None
        child.stderr.close()
        assert code in (-signal.SIGKILL, ExitCode.BUILT)
        if (tmp_path / DESCRIPTION_FILE).exists():
            document = json.loads((tmp_path / DESCRIPTION_FILE).read_text())
            Graph.load(tmp_path / GRAPH_FILE, Calibration.from_document(document), "cosine", 32)
    assert run(tmp_path).returncode == ExitCode.BUILT
    assert graph_files(tmp_path) == {GRAPH_FILE, DESCRIPTION_FILE}


def test_a_rebuild_first_removes_the_description_that_no_longer_fits(tmp_path: Path) -> None:
    segment(tmp_path)
    build(tmp_path, "cosine", 8, 50, 1)
    old = (tmp_path / DESCRIPTION_FILE).read_text()
    segment(tmp_path, 1500)
    build(tmp_path, "cosine", 8, 50, 1)
    assert (tmp_path / DESCRIPTION_FILE).read_text() != old


def test_it_is_nice(tmp_path: Path) -> None:
    segment(tmp_path, 6000, 32)
    child = subprocess.Popen(command(tmp_path, "cosine", 16, 200, 1, 7), stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + DEADLINE_SECS
        while os.getpriority(os.PRIO_PROCESS, child.pid) != os.getpriority(os.PRIO_PROCESS, 0) + 7:
            assert child.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        child.kill()
        child.wait(timeout=DEADLINE_SECS)


@pytest.mark.skipif(not AUTOGROUP.exists(), reason="a kernel that does not group by sessions")
def test_its_session_is_as_nice_as_itself() -> None:
    """Niceness counts only within a session; what the session is worth against others is set apart.

    The file is empty for a process in no session, such as what the first process of a system starts.
    """
    program = """
import os
from vectorizer.index.builder import AUTOGROUP, give_way
give_way(7)
print(os.nice(0), AUTOGROUP.read_text())
"""
    own, ours = (
        subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            timeout=DEADLINE_SECS,
            check=True,
            start_new_session=own_session,
        ).stdout.split()
        for own_session in (True, False)
    )
    niceness = str(os.nice(0) + 7)  # these tests may have been started with nice
    assert [own[0], *own[2:]] == [niceness, "nice", "7"]
    assert ours == [niceness, *AUTOGROUP.read_text().split()], "ours stays as it was"


def test_it_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    """A server that was killed leaves no builder behind."""
    segment(tmp_path, 60_000, 32)
    program = f"""
import subprocess
from vectorizer.index.build import command
print(subprocess.Popen(command({str(tmp_path)!r}, "cosine", 32, 400, 1, 0)).pid, flush=True)
input()
"""
    parent = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert parent.stdout is not None and parent.stdin is not None
    child = int(parent.stdout.readline())
    deadline = time.monotonic() + DEADLINE_SECS
    while b"vectorizer.index.builder" not in _command_line(child):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    parent.kill()
    parent.wait(timeout=DEADLINE_SECS)
    parent.stdin.close()
    parent.stdout.close()
    while _command_line(child):
        assert time.monotonic() < deadline, "the builder outlives its parent"
        time.sleep(0.05)
    assert DESCRIPTION_FILE not in graph_files(tmp_path)


def _command_line(pid: int) -> bytes:
    """Empty when the process is gone (or waits to be reaped)."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def test_a_graph_that_nmslib_does_not_take_back_is_reported(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The file is loaded before it is installed; here another process truncates it in between."""
    segment(tmp_path)
    aside = tmp_path / (GRAPH_FILE + ".tmp")
    aside.mkdir()
    arguments = [str(tmp_path), "--metric=cosine", "--m=8", "--ef-construction=50"]
    assert main(arguments) in (ExitCode.NO_ROOM, ExitCode.UNREADABLE)
    assert "no graph was built" in capfd.readouterr().err
    with pytest.raises((OSError, DamageError)):
        build(tmp_path, "cosine", 8, 50, 1)


def test_no_ef_costs_more_than_a_larger_one() -> None:
    measured = [
        Point(ef, 0.9, 0.01, cost) for ef, cost in ((16, 54.0), (24, 190.0), (48, 114.0), (64, 151.0))
    ]
    calm = without_disturbances(measured)
    assert [point.query_us for point in calm] == [54.0, 114.0, 114.0, 151.0]
    assert [point.ef for point in calm] == [16, 24, 48, 64]
    assert without_disturbances([]) == []
