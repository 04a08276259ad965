"""The command behind ``scripts/simulate``: many seeds on all cores, or one with its whole story."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from tests.simulation.planted import PLANTS, sow
from tests.simulation.simulation import Outcome, run_seed

KEPT_SEEDS = Path(__file__).with_name("seeds.txt")
TRACE_LINES = 60
SEEDS_OF_A_WORKER = 10
"""Then a fresh process: what a cluster leaves behind slows the next ones down."""
FOUND = 1


def main(arguments: Sequence[str] | None = None) -> int:
    """0: no violation. 1: there was one, with the seed and the end of its story."""
    parser = argparse.ArgumentParser(
        prog="simulate",
        description="Whole clusters in virtual time, each seed with other sizes, loads and faults. "
        "A seed gives the same story everywhere and always.",
    )
    parser.add_argument("--seeds", type=int, default=200, metavar="N", help="so many seeds (200)")
    parser.add_argument("--first", type=int, default=0, metavar="S", help="the first of them (0)")
    parser.add_argument("--seed", type=int, metavar="S", help="only this one")
    parser.add_argument("--kept", action="store_true", help="the seeds that found something once (seeds.txt)")
    parser.add_argument("--trace", action="store_true", help="tell everything that happens")
    parser.add_argument(
        "--plant", choices=sorted(PLANTS), metavar="NAME", help="plant a bug: " + ", ".join(PLANTS)
    )
    parser.add_argument(
        "--jobs", type=int, default=min(8, os.cpu_count() or 1), metavar="N", help="processes"
    )
    options = parser.parse_args(arguments)
    if options.seed is not None:
        seeds = [options.seed]
    elif options.kept:
        seeds = list(kept_seeds())
    else:
        seeds = list(range(options.first, options.first + options.seeds))
    if options.trace:
        return _tell(seeds, options.plant)
    return _run(seeds, options.plant, options.jobs)


def kept_seeds() -> Iterator[int]:
    """The numbers at the beginnings of the lines of seeds.txt; # begins a comment."""
    for line in KEPT_SEEDS.read_text(encoding="utf-8").splitlines():
        number = line.partition("#")[0].strip()
        if number:
            yield int(number)


def _tell(seeds: list[int], plant: str | None) -> int:
    """Run in this process, printing each line as it happens."""
    sow(plant)
    for seed in seeds:
        outcome = run_seed(seed, print)
        print(_summary(outcome))
        if outcome.violations:
            return FOUND
    return 0


def _summary(outcome: Outcome) -> str:
    state = "VIOLATED: " + outcome.violations[0] if outcome.violations else "no violation"
    return (
        f"seed {outcome.seed}: {outcome.events} events, {outcome.virtual_secs:.1f} virtual seconds, "
        f"fingerprint {outcome.fingerprint:08x}, {state}"
    )


def _run(seeds: list[int], plant: str | None, jobs: int) -> int:
    """Run on several processes; stops at the first violation."""
    console = Console()
    totals: Counter[str] = Counter()
    started = time.monotonic()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    # Each worker is a process of its own that has never seen the real gevent.
    with (
        multiprocessing.get_context("spawn").Pool(jobs, sow, (plant,), SEEDS_OF_A_WORKER) as pool,
        Progress(*columns, console=console, disable=not console.is_terminal) as progress,
    ):
        bar = progress.add_task("seeds", total=len(seeds))
        done = 0
        for outcome in pool.imap_unordered(run_seed, seeds):
            progress.advance(bar)
            done += 1
            totals += outcome.counts
            if outcome.violations:
                pool.terminate()
                progress.stop()
                _show_failure(outcome, plant)
                return FOUND
    console.print(_table(totals, done, time.monotonic() - started))
    return 0


def _show_failure(outcome: Outcome, plant: str | None) -> None:
    for line in outcome.trace[-TRACE_LINES:]:
        print(line)
    for violation in outcome.violations:
        print(f"VIOLATED: {violation}")
    again = f"scripts/simulate --seed {outcome.seed} --trace" + ("" if plant is None else f" --plant {plant}")
    print(f"seed {outcome.seed} failed. Again, with all it has to tell: {again}")


def _table(totals: Counter[str], seeds: int, seconds: float) -> Table:
    table = Table(title=f"{seeds} seeds, no violation, {seconds:.0f} s", title_justify="left")
    table.add_column("what happened")
    table.add_column("times", justify="right")
    for name, count in sorted(totals.items()):
        table.add_row(name, f"{count:,}")
    return table


if __name__ == "__main__":
    sys.exit(main())
