"""The command of the long runs: one of them, or all (scripts/torture)."""
# ruff: noqa: E402

from __future__ import annotations

import vectorizer.native_lock  # noqa: F401  isort: skip
from gevent import monkey  # isort: skip

monkey.patch_all()  # as in tests: a proxy with many connections needs no threads

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from tests.torture.runs import RUNS, SET_SECS, SOAK_SECS, Part, Run
from tests.torture.scenarios import run_scenarios
from tests.torture.set_checker import Mode, check_set
from tests.torture.soak import soak
from tests.torture.tally import Report, markdown, table

FOUND = 1
ENDED = 128 + signal.SIGTERM
RESTART_SECS = 60.0
POLL_SECS = 0.2
WIDTH = 110


def main(arguments: Sequence[str] | None = None) -> int:
    """0: all held. 1: something was lost, doubled, did not start, or grew."""
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(ENDED))  # so that nodes end with their run
    console = Console(soft_wrap=True) if sys.stdout.isatty() else Console(soft_wrap=True, width=WIDTH)
    with tempfile.TemporaryDirectory(prefix=f"torture-{options.command}-") as name:
        directory = Path(name)
        match options.command:
            case "set":
                halves = (
                    check_set(mode, directory / mode.name, secs=options.secs / len(Mode), seed=options.seed)
                    for mode in Mode
                )
                report = Report.together(halves)
            case "soak":
                restart_secs = min(RESTART_SECS, options.secs / 6)
                report = soak(directory, secs=options.secs, restart_secs=restart_secs, seed=options.seed)
            case "scenarios":
                report = run_scenarios(directory, options.share)
            case _:
                runs = [run for run in RUNS if options.only is None or run.name in options.only]
                if options.keep is not None:
                    directory = options.keep
                    directory.mkdir(parents=True, exist_ok=True)
                report = _all(console, runs, options.scale, directory)
    if options.json is not None:
        report.write(options.json)
    _show(console, report, vars(options).get("markdown", False))
    return FOUND if report.wrong else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="torture", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, secs in (("set", SET_SECS), ("soak", SOAK_SECS)):
        command = commands.add_parser(name)
        command.add_argument("--secs", type=_positive, default=secs, metavar="N", help=f"how long ({secs:g})")
        command.add_argument("--seed", type=int, default=1, metavar="S", help="of all chance (1)")
    command = commands.add_parser("scenarios")
    command.add_argument("--share", type=_positive, default=1.0, metavar="X", help="a part of them (1)")
    command = commands.add_parser("all")
    names = [run.name for run in RUNS]
    command.add_argument("--only", nargs="+", choices=names, metavar="KIND", help=", ".join(names))
    command.add_argument("--scale", type=_positive, default=1.0, metavar="X", help="a part of the work (1)")
    command.add_argument(
        "--keep", type=Path, metavar="DIR", help="reports and logs; what is there is not run again"
    )
    command.add_argument("--markdown", action="store_true", help="the table as docs show it")
    for command in commands.choices.values():
        command.add_argument("--json", type=Path, metavar="FILE", help="write the report there, too")
    return parser


def _positive(text: str) -> float:
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"a number above 0 is wanted, not {text}")
    return number


def _all(console: Console, runs: Sequence[Run], scale: float, directory: Path) -> Report:
    """One after the other: side by side they would stall each other. What is finished already is read."""
    reports: list[Report] = []
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[state]}"),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bars = [
            progress.add_task(run.text, total=60 * run.minutes * scale, start=False, state="") for run in runs
        ]
        for run, bar in zip(runs, bars, strict=True):
            progress.start_task(bar)
            began_at = time.monotonic()

            def turn(bar: TaskID = bar, began_at: float = began_at) -> None:
                progress.update(bar, completed=time.monotonic() - began_at)

            parts = (_one(part, directory, turn) for part in run.parts(scale))
            report = Report.together(parts).by_kind()
            state = "FAILED" if report.wrong else f"{sum(kind.count for kind in report.kinds):,}"
            progress.update(bar, total=1, completed=1, state=state)
            progress.stop_task(bar)
            if not console.is_terminal:
                console.print(f"{run.name}: {state}, {time.monotonic() - began_at:.0f} s", highlight=False)
            reports.append(report)
    return Report.together(reports)


def _one(part: Part, directory: Path, turn: Callable[[], None]) -> Report:
    if (finished := part.finished(directory)) is not None:
        return finished
    process = part.start(directory)
    try:
        while process.poll() is None:
            time.sleep(POLL_SECS)
            turn()
    finally:
        if process.poll() is None:  # Ctrl-C: the run ends what it has started
            process.terminate()
            process.wait()
    return part.ended(process.returncode, directory)


def _show(console: Console, report: Report, as_markdown: bool) -> None:
    if as_markdown:
        print(markdown(report.kinds))
    else:
        console.print(table(report.kinds))
    for line in (*report.notes, *(f"FAILED: {failure}" for failure in report.failures)):
        console.print(line, markup=False, highlight=False)


if __name__ == "__main__":
    sys.exit(main())
