"""The command of the crash sweep: all steps on all cores, or one crash again with its story."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from collections.abc import Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tests.crash.planted import PLANTS, sow
from tests.crash.results import Results
from tests.crash.stories import STORIES
from tests.crash.sweep import IN_CI, Depth, crash_at, shares, sweep

FOUND = 1


def main(arguments: Sequence[str] | None = None) -> int:
    """0: every crash was survived. 1: one was not; the last lines say which and how to repeat it."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.crash",
        description="Crashes a node at every step on its disk, with what was not synced kept, lost or torn, "
        "starts it again and compares.",
    )
    parser.add_argument(
        "--all", action="store_true", help="every fate of every step, more of the second crashes"
    )
    parser.add_argument("--story", action="append", choices=sorted(STORIES), help="only this one")
    parser.add_argument("--at", metavar="PLACE", help="one crash again, as a failure names it")
    parser.add_argument("--json", metavar="FILE", help="write the results there, too")
    parser.add_argument(
        "--plant", choices=sorted(PLANTS), metavar="NAME", help="plant a bug: " + ", ".join(PLANTS)
    )
    parser.add_argument(
        "--jobs", type=int, default=min(8, os.cpu_count() or 1), metavar="N", help="processes"
    )
    options = parser.parse_args(arguments)
    if options.at is not None:
        sow(options.plant)
        verdict = crash_at(options.at)
        print(verdict.found or "survived", verdict.sentence.replace("; ", "\n"))
        return FOUND if verdict.found else 0
    started, console = time.monotonic(), Console(soft_wrap=True)
    stories = tuple(options.story or STORIES)
    depth = Depth() if options.all else IN_CI
    results = _run(console, stories, depth, options.plant, options.jobs, options.json)
    results.show(console, f"{results.count:,} crashes, {time.monotonic() - started:.0f} s")
    return FOUND if results.failures else 0


def _run(
    console: Console, stories: tuple[str, ...], depth: Depth, plant: str | None, jobs: int, json: str | None
) -> Results:
    results, work = Results(), shares(depth, stories)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    # Each worker is a process of its own that has never seen the real gevent.
    with (
        multiprocessing.get_context("spawn").Pool(jobs, sow, (plant,)) as pool,
        Progress(*columns, console=console, disable=not console.is_terminal) as progress,
    ):
        bar = progress.add_task("crash sweep", total=len(work))
        for part in pool.imap_unordered(sweep, work):
            progress.advance(bar)
            results.merge(part)
            results.write(json)  # as far as it is, should it be interrupted
            if plant is not None and results.failures:
                break  # it is found
    return results


if __name__ == "__main__":
    sys.exit(main())
