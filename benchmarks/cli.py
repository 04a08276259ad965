"""The command behind ``scripts/bench``."""

from __future__ import annotations

import argparse
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import NoReturn

from benchmarks import plots, report
from benchmarks.measurement import Bench, Outcome, Row, measure_row
from benchmarks.nodes import ROOT
from benchmarks.references import REFERENCES
from benchmarks.rows import ROWS

SIZES = (20_000, 100_000, 1_000_000)
USAGE_ERROR = 2
ORDER = [row.name for row in ROWS]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(USAGE_ERROR, f"bench: {message}; see scripts/bench --help\n")


def _parser() -> _Parser:
    parser = _Parser(
        prog="bench",
        allow_abbrev=False,
        description="Measures whole nodes, as real processes on this machine, beside references in the same "
        "run. Every figure is a median over the runs.",
    )
    parser.add_argument("--rows", metavar="NAMES", help="only these, separated by commas; * stands for any")
    parser.add_argument("--list", action="store_true", help="name all rows and references, measure nothing")
    parser.add_argument(
        "--size", type=int, choices=SIZES, default=100_000, help="vectors of the rows that take any (100000)"
    )
    parser.add_argument("--runs", type=int, default=3, metavar="N", help="runs of each row (3)")
    parser.add_argument("--quick", action="store_true", help="little data, one run: whether it works at all")
    parser.add_argument("--directory", type=Path, metavar="DIR", help="where the nodes have their data")
    parser.add_argument("--json", type=Path, metavar="FILE", help="store there; other rows in it are kept")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="put the table into this document")
    parser.add_argument("--plots", type=Path, metavar="DIR", help="draw what grows there, as SVG")
    parser.add_argument("--from", type=Path, metavar="FILE", dest="source", help="measure nothing: show it")
    return parser


def main(words: Sequence[str] | None = None) -> int:
    """0: measured, whatever came out; 2: not understood."""
    parser = _parser()
    arguments = parser.parse_args(words)
    if arguments.runs < 1:
        parser.error(f"--runs is {arguments.runs}, at least 1 is needed")
    if arguments.list:
        _list()
        return 0
    if arguments.source is not None:
        if not arguments.source.exists():
            parser.error(f"there is no file {arguments.source}")
        outcomes = report.read(arguments.source)
    else:
        outcomes = _measured(_chosen(parser, arguments.rows), arguments)
    report.show(outcomes)
    if arguments.json is not None:
        report.write(arguments.json, outcomes, ORDER)
    if arguments.plots is not None:
        plots.draw(outcomes, arguments.plots)
    if arguments.markdown is not None:
        text = arguments.markdown.read_text(encoding="utf-8")
        table = report.markdown(outcomes if arguments.json is None else report.read(arguments.json))
        arguments.markdown.write_text(report.put_into(text, table), encoding="utf-8")
    return 0


def _list() -> None:
    for row in ROWS:
        print(f"{row.name:24} {row.what}")
    for name, reference in REFERENCES.items():
        print(f"{name:24} reference: {' '.join((reference.__doc__ or '').split())}")


def _chosen(parser: _Parser, names: str | None) -> list[Row]:
    if names is None:
        return list(ROWS)
    chosen: set[str] = set()
    for pattern in names.split(","):
        found = {row.name for row in ROWS if Path(row.name).match(pattern)}
        if not found:
            parser.error(f"there is no row {pattern!r}; rows: {', '.join(row.name for row in ROWS)}")
        chosen |= found
    return [row for row in ROWS if row.name in chosen]


def _measured(rows: Sequence[Row], arguments: argparse.Namespace) -> list[Outcome]:
    # As after Ctrl-C: whoever is ended by a time limit leaves no nodes and no data behind.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    directory = Path(tempfile.mkdtemp(prefix="vectorizer-bench-", dir=arguments.directory))
    bench = Bench(directory, 1 if arguments.quick else arguments.runs, arguments.size, arguments.quick)
    try:
        outcomes = []
        for outcome in _outcomes(rows, bench):
            outcomes.append(outcome)
            if arguments.json is not None:  # at once: a later row that fails takes no figure along
                report.write(arguments.json, [outcome], ORDER)
        return outcomes
    finally:
        shutil.rmtree(directory)


def _outcomes(rows: Sequence[Row], bench: Bench) -> Iterator[Outcome]:
    revision = _revision()
    for scene, group in groupby(rows, key=lambda row: row.scene):
        with scene(bench) as entered:
            for row in group:
                print(f"{row.name} ...", file=sys.stderr, flush=True)
                now = datetime.now(UTC).isoformat(timespec="seconds")
                yield measure_row(row, entered, bench, REFERENCES, revision, now)


def _revision() -> str:
    told = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return told.stdout.strip() or "unknown"
