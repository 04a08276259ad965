"""scripts/bench: it measures and says so, in a table and in JSON. What comes out is not looked at."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import orjson
import pytest

from benchmarks import data, exact, report
from tests.cluster.harness.node import ROOT, clean_environment


def bench(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """The command behind scripts/bench, which would first install what draws plots."""
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *words],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        cwd=ROOT,
        env=clean_environment(),
        timeout=170.0,
    )


@pytest.mark.cluster
@pytest.mark.timeout(180)
def test_a_quick_run_prints_a_table_and_stores_it(tmp_path: Path) -> None:
    stored, document = tmp_path / "bench.json", tmp_path / "document.md"
    document.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    words = ("--quick", "--rows", "ingest-[co]*", "--directory", tmp_path)
    done = bench(*words, "--json", stored, "--markdown", document)
    assert done.returncode == 0, done.stderr
    rows = orjson.loads(stored.read_bytes())["rows"]
    assert [row["name"] for row in rows] == ["ingest-columns", "ingest-objects"]
    assert all(row["value"] > 0 and row["references"] and row["met"] is not None for row in rows)
    assert "of it" in done.stdout
    assert "JSON objects of 100" in done.stdout
    text = document.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert report.markdown(report.read(stored)) in text
    assert "old" not in text
    assert sorted(tmp_path.iterdir()) == [stored, document], "nothing else is left behind"


def test_rows_that_were_not_measured_are_kept(tmp_path: Path) -> None:
    row = report.Outcome("a", "what", "ms", 1.0, (1.0,), {}, {}, "", None, None, "", "")
    other = report.Outcome("b", "what", "ms", 2.0, (2.0,), {"disk MB/s": 3.0}, {}, "x", 2.0, True, "", "")
    stored = tmp_path / "bench.json"
    report.write(stored, [row, other])
    newer = report.Outcome("a", "what", "ms", 4.0, (4.0,), {}, {}, "", None, None, "", "")
    report.write(stored, [newer])
    assert report.read(stored) == [newer, other]


@pytest.mark.parametrize(
    "words", [("--rows", "no-such-row"), ("--runs", "0"), ("--size", "7"), ("--no-such",)]
)
def test_what_makes_no_sense_is_refused_with_exit_code_2(words: tuple[str, ...]) -> None:
    refused = bench(*words)
    assert refused.returncode == 2
    assert len(refused.stderr.splitlines()) == 1


def test_list_names_each_row_and_reference() -> None:
    listed = bench("--list")
    assert listed.returncode == 0
    assert {"ingest-columns", "redis", "http8"} <= {line.split()[0] for line in listed.stdout.splitlines()}


@pytest.mark.cluster
@pytest.mark.timeout(180)
def test_a_row_with_points_has_a_table_and_a_plot(tmp_path: Path) -> None:
    stored = tmp_path / "bench.json"
    words = ("--quick", "--rows", "recall-*", "--directory", tmp_path, "--plots", tmp_path)
    done = bench(*words, "--json", stored)
    assert done.returncode == 0, done.stderr
    [recall] = report.read(stored)
    assert [point["way"] for point in recall.points][-2:] == ["automatic", "exact scan"]
    assert recall.points[-1]["recall@10"] == 1.0
    assert "| way | recall@10 | searches /s |" in report.markdown([recall])
    assert (tmp_path / "recall.svg").read_text().startswith("<?xml")


def test_exact_neighbours_are_those_of_a_plain_sort() -> None:
    rows, queries = data.clusters(45_000), data.queries(5)
    likeness = exact.unit(queries) @ exact.unit(rows).T
    sorted_ = np.argsort(-likeness, axis=1)
    found = exact.nearest(data.clusters, len(rows), queries)
    assert (found == sorted_[:, :10]).all()
    even = exact.nearest(data.clusters, len(rows), queries, lambda numbers: numbers[numbers % 2 == 0])
    assert (even == [[row for row in order if row % 2 == 0][:10] for order in sorted_.tolist()]).all()
    assert exact.recall([[*order[:9], -1] for order in found.tolist()], found) == 0.9
