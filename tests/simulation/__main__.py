"""The command behind ``scripts/simulate``: many seeds on all cores, or one with its whole story."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from tests.simulation import planted
from tests.simulation.planted import PLANTS, sow
from tests.simulation.report import Report
from tests.simulation.simulation import Outcome, run_seed

KEPT_SEEDS = Path(__file__).with_name("seeds.txt")
TRACE_LINES = 60
SEEDS_OF_A_WORKER = 40
"""Then a fresh process: what a cluster leaves behind slows the next ones down, and memory stays bounded."""
SEEDS_OF_A_LINE = 20
FOUND = 1


def main(arguments: Sequence[str] | None = None) -> int:
    """0: no violation. 1: there was one, with the seed and the end of its story."""
    options = _parser().parse_args(arguments)
    if options.seed is not None:
        seeds = [options.seed]
    elif options.kept:
        seeds = list(kept_seeds())
    else:
        seeds = list(range(options.first, options.first + options.seeds))
    if options.plants:
        return _find_planted(options)
    if options.trace:
        return _tell(seeds, options.plant)
    return _run(seeds, options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="simulate",
        description="Whole clusters in virtual time, each seed with other sizes, loads and faults. "
        "A seed gives the same story everywhere and always.",
    )
    parser.add_argument("--seeds", type=int, default=200, metavar="N", help="so many seeds (200)")
    parser.add_argument("--first", type=int, default=0, metavar="S", help="the first of them (0)")
    parser.add_argument("--seed", type=int, metavar="S", help="only this one")
    parser.add_argument("--kept", action="store_true", help="the seeds that found something once (seeds.txt)")
    parser.add_argument("--keep-going", action="store_true", help="go on after a seed that fails")
    parser.add_argument("--minutes", type=float, metavar="M", help="end after so many, with what is done")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write the summary there, too; goes on after a failure"
    )
    parser.add_argument("--trace", action="store_true", help="tell everything that happens")
    parser.add_argument(
        "--plant", choices=sorted(PLANTS), metavar="NAME", help="plant a bug: " + ", ".join(PLANTS)
    )
    parser.add_argument(
        "--plants", action="store_true", help="plant each bug in turn (or --plant NAME), and look for it"
    )
    parser.add_argument(
        "--record",
        action="store_true",
        help="with --plants: keep seeds that find what the known ones do not (planted.txt)",
    )
    parser.add_argument(
        "--jobs", type=int, default=min(8, os.cpu_count() or 1), metavar="N", help="processes"
    )
    return parser


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


def _run(seeds: list[int], options: argparse.Namespace) -> int:
    """Run on several processes; stops at the first violation, unless told to go on."""
    console = Console()
    report = Report(seeds[0] if seeds else 0, options.plant)
    goes_on = options.keep_going or options.json is not None
    started = time.monotonic()
    end = None if options.minutes is None else started + 60 * options.minutes
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    # Each worker is a process of its own that has never seen the real gevent.
    with (
        multiprocessing.get_context("spawn").Pool(
            options.jobs, sow, (options.plant,), SEEDS_OF_A_WORKER
        ) as pool,
        Progress(*columns, console=console, disable=not console.is_terminal) as progress,
    ):
        bar = progress.add_task("seeds", total=len(seeds))
        for outcome in pool.imap_unordered(run_seed, seeds):
            progress.advance(bar)
            report.add(outcome)
            if not console.is_terminal and report.seeds % SEEDS_OF_A_LINE == 0:
                print(_state(report, len(seeds), time.monotonic() - started), file=sys.stderr, flush=True)
            if outcome.violations:
                progress.update(bar, description=f"seeds, {len(report.failures)} failed")
                _show_failure(outcome, options.plant)
                if not goes_on:
                    break
            if end is not None and time.monotonic() >= end:
                break
        pool.terminate()
    seconds = time.monotonic() - started
    if options.json is not None:
        report.write(options.json, seconds)
    if goes_on or not report.failures:
        console.print(report.tables(seconds))
    return FOUND if report.failures else 0


def _state(report: Report, seeds: int, seconds: float) -> str:
    """A line for a log, where no bar can move."""
    return f"{report.seeds} of {seeds} seeds, {len(report.failures)} failed, {seconds:.0f} s"


def _find_planted(options: argparse.Namespace) -> int:
    """0 if each planted bug was found within its number of seeds."""
    names = [options.plant] if options.plant else sorted(PLANTS)
    table = Table()
    for column in ("planted", "seed", "seeds tried", "found"):
        table.add_column(column)
    findings = []
    for finding in planted.find_all(names, options.jobs):
        findings.append(finding)
        if options.record:
            planted.record(finding)
        seed = "NOT FOUND" if finding.seed is None else str(finding.seed)
        table.add_row(finding.name, seed, str(finding.tried), finding.violation[:100])
    Console(width=160).print(table)
    missing = sorted(finding.name for finding in findings if finding.seed is None)
    print(f"{len(findings) - len(missing)} of {len(findings)} planted bugs found; not found: {missing}")
    return FOUND if missing else 0


def _show_failure(outcome: Outcome, plant: str | None) -> None:
    for line in outcome.trace[-TRACE_LINES:]:
        print(line)
    for violation in outcome.violations:
        print(f"VIOLATED: {violation}")
    again = f"scripts/simulate --seed {outcome.seed} --trace" + ("" if plant is None else f" --plant {plant}")
    print(f"seed {outcome.seed} failed. Again, with all it has to tell: {again}")


if __name__ == "__main__":
    sys.exit(main())
