"""The command of hostile input: all targets under the fuzzer, and damaged data directories, on all cores."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tests.crash.results import Kind, Results

TARGETS = (
    "frames",
    "messages",
    "master's side of the link",
    "replica's side of the link",
    "master's authentication",
    "replica's authentication",
    "operations",
    "snapshot",
    "journal",
    "manifest",
    "REST, JSON",
    "REST, BSON",
)
INPUTS_OF_A_PIECE = 10_000
"""Then another process, with other chance, that has not grown yet."""
CORRUPTIONS_OF_A_PIECE = 100
PIECE_SECS_MAX = 3600


@dataclass(frozen=True, slots=True)
class Piece:
    """One process: what it is called in messages, and its command."""

    name: str
    command: tuple[str, ...]


def main(arguments: Sequence[str] | None = None) -> int:
    """0: nothing was found. 1: something was; the last lines say what and how to repeat it."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.hostile",
        description="Hostile bytes for everything that reads bytes, and damage to data directories.",
    )
    parser.add_argument("--inputs", type=int, default=20_000, metavar="N", help="for all targets (20,000)")
    parser.add_argument("--corruptions", type=int, default=60, metavar="N", help="of directories (60)")
    parser.add_argument("--seed", type=int, default=1, metavar="S", help="of chance (1)")
    parser.add_argument("--json", metavar="FILE", help="write the results there, too")
    parser.add_argument(
        "--jobs", type=int, default=min(8, os.cpu_count() or 1), metavar="N", help="processes"
    )
    options = parser.parse_args(arguments)
    started, console = time.monotonic(), Console(soft_wrap=True)
    pieces = [*_fuzzing(options.inputs, options.seed), *_corrupting(options.corruptions, options.seed)]
    results = Results()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with (
        tempfile.TemporaryDirectory() as folder,
        ThreadPoolExecutor(options.jobs) as pool,
        Progress(*columns, console=console, disable=not console.is_terminal) as progress,
    ):
        bar = progress.add_task("hostile input", total=len(pieces))
        places = [Path(folder, str(number)) for number in range(len(pieces))]
        for part in pool.map(run, pieces, places):
            results.merge(part)
            results.write(options.json)  # as far as it is, should it be interrupted
            progress.advance(bar)
    results.show(console, f"{results.count:,} inputs and corruptions, {time.monotonic() - started:.0f} s")
    return 1 if results.failures else 0


def _fuzzing(inputs: int, seed: int) -> list[Piece]:
    each = inputs // len(TARGETS)
    pieces = []
    for target in TARGETS:
        for number, start in enumerate(range(0, each, INPUTS_OF_A_PIECE)):
            count = min(INPUTS_OF_A_PIECE, each - start)
            flags = (target, "--inputs", str(count), "--seed", str(seed + number))
            pieces.append(Piece(f"hostile input: {target}", ("tests.hostile.fuzz", *flags)))
    return pieces


def _corrupting(corruptions: int, seed: int) -> list[Piece]:
    pieces = []
    for first in range(0, corruptions, CORRUPTIONS_OF_A_PIECE):
        count = min(CORRUPTIONS_OF_A_PIECE, corruptions - first)
        flags = ("--first", str(first), "--count", str(count), "--seed", str(seed))
        pieces.append(Piece("corruption", ("tests.hostile.corruption_trials", *flags)))
    return pieces


def run(piece: Piece, place: Path) -> Results:
    """Run one process; what it found. One that dies is a finding, too."""
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
    command = [sys.executable, "-m", *piece.command, "--json", str(place)]
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=PIECE_SECS_MAX
        )
        code, said = done.returncode, done.stdout + done.stderr
    except subprocess.TimeoutExpired:
        code, said = -1, f"it did not end within {PIECE_SECS_MAX} s"
    results = Results()
    if place.exists():
        found = json.loads(place.read_text(encoding="utf-8"))
        results.kinds = {kind["kind"]: Kind(**kind) for kind in found["kinds"]}
        results.failures = list(found["failures"])
    if code and not results.failures:
        results.add(piece.name, "not_started")
        results.failed(f"{' '.join(command)} ended with {code}: {said[-2000:]}")
    return results


if __name__ == "__main__":
    sys.exit(main())
