"""The commands that ask a running node: their words on the command line, and what they print."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
from tqdm import tqdm  # type: ignore[import-untyped]

from vectorizer.client.failures import CommandError, Interrupted, MisuseError
from vectorizer.client.node import KEY_VARIABLE, URL, Node
from vectorizer.operations import METRICS

Run = Callable[[argparse.Namespace], int]
BATCH_ROWS_MAX = 10_000
NAMES = ("status", "promote", "follow", "switchover", "diverged", "import", "export")


def add_parsers(commands: Any) -> None:
    """Add the commands to those of the parser."""
    status = _command(commands, "status", "show how a node is", _status)
    status.add_argument("url", metavar="URL", nargs="?", default=URL, help=f"its REST address ({URL})")
    status.add_argument("--watch", action="store_true", help="show it anew all the time, until Ctrl-C")
    status.add_argument("--interval", metavar="SECONDS", type=_seconds, default=1.0, help="how often (1)")

    promote = _command(commands, "promote", "make a node the master", _promote)
    promote.add_argument("url", metavar="URL")
    promote.add_argument("--bind", metavar="ADDRESS", help="where replicas connect, host:port")
    promote.add_argument("--force", action="store_true", help="also where data is missing")
    follow = _command(commands, "follow", "make a node a replica", _follow)
    follow.add_argument("url", metavar="URL")
    follow.add_argument("master", metavar="MASTER", help="where that master takes replicas, host:port")
    follow.add_argument("--force", action="store_true", help="also if its history is foreign to the data")
    switchover = _command(commands, "switchover", "hand a mastership over, without losing a write", _switch)
    switchover.add_argument("url", metavar="URL", help="the master")
    switchover.add_argument("--to", metavar="TARGET", help="node id or address; the one that has most")
    switchover.add_argument("--timeout", metavar="SECONDS", type=_seconds, help="how long writes may be held")
    switchover.add_argument("--abort", action="store_true", help="end one that is under way")
    _add_data(commands)
    diverged = commands.add_parser("diverged", help="print operations that a former master kept aside")
    diverged.add_argument("file", metavar="FILE", help="a file of the directory diverged/")
    diverged.set_defaults(run=_guarded(_diverged))


def _add_data(commands: Any) -> None:
    taking = _command(commands, "import", "put a file of rows into a collection", _import)
    taking.add_argument("file", metavar="FILE", help=".jsonl, .parquet, or .npy with rows.jsonl beside it")
    taking.add_argument("--collection", metavar="NAME", help="the name of the file, unless told")
    taking.add_argument("--create", action="store_true", help="make the collection if it does not exist")
    taking.add_argument("--dimension", metavar="N", type=_count, help="with --create; that of the first row")
    taking.add_argument("--metric", choices=METRICS, help="with --create")
    taking.add_argument("--batch-rows", metavar="N", type=_count, default=1000, help="rows a request (1000)")
    taking.add_argument("--wait", metavar="N", type=_count, help="so many replicas shall hold each batch")
    giving = _command(commands, "export", "write a collection into a file", _export)
    giving.add_argument("collection", metavar="COLLECTION")
    giving.add_argument("target", metavar="DIRECTORY|FILE.jsonl")
    for command in (taking, giving):
        command.add_argument("--url", default=URL, help=f"a node ({URL})")
        command.add_argument(
            "--retry", metavar="SECONDS", type=_seconds, default=60.0, help="how long without a node (60)"
        )


def _command(commands: Any, name: str, text: str, run: Run) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text.capitalize())
    parser.add_argument("--api-key", metavar="KEY", help=f"better given as {KEY_VARIABLE}: ps shows this")
    parser.set_defaults(run=_guarded(run))
    return parser


def _guarded(run: Run) -> Run:
    """Whatever goes wrong is one sentence and an exit code."""

    def guarded(arguments: argparse.Namespace) -> int:
        try:
            with _quiet_interrupts():
                return run(arguments)
        except CommandError as error:
            print(f"vectorizer: {error}", file=sys.stderr)
            return error.exit_code
        except KeyboardInterrupt:
            print("vectorizer: interrupted", file=sys.stderr)
            return Interrupted.exit_code

    return guarded


@contextlib.contextmanager
def _quiet_interrupts() -> Iterator[None]:
    """While greenlets wait, gevent's hub takes Ctrl-C first, and would print it before it hands it on."""
    hub = gevent.get_hub()
    before = hub.NOT_ERROR
    hub.NOT_ERROR = (*before, KeyboardInterrupt)
    try:
        yield
    finally:
        hub.NOT_ERROR = before


def _node(arguments: argparse.Namespace, patience_secs: float = 60.0) -> Node:
    key = os.environ.get(KEY_VARIABLE) if arguments.api_key is None else arguments.api_key
    return Node(arguments.url, key or None, patience_secs=patience_secs)


# -- looking --------------------------------------------------------------------------------------------


def _status(arguments: argparse.Namespace) -> int:
    from vectorizer.client import status

    node = _node(arguments)
    console = status.terminal(sys.stdout) if sys.stdout.isatty() else None

    def show() -> None:
        found = status.gather(node)
        if console is None:
            print(status.plain(found), end="", flush=True)
            return
        if arguments.watch:
            console.clear()
        console.print(status.drawn(found))

    show()
    while arguments.watch:
        try:
            time.sleep(arguments.interval)
            show()
        except CommandError as error:
            print(f"vectorizer: {error}", file=sys.stderr)  # it may come back: that is what is watched
        except KeyboardInterrupt:
            return 0
    return 0


def _diverged(arguments: argparse.Namespace) -> int:
    import orjson

    from vectorizer.client.diverged import documents

    for document in documents(Path(arguments.file)):
        print(orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY).decode())
    return 0


# -- masterships ----------------------------------------------------------------------------------------


def _promote(arguments: argparse.Namespace) -> int:
    from vectorizer.client import masters

    print(masters.promote(_node(arguments), arguments.bind, arguments.force))
    return 0


def _follow(arguments: argparse.Namespace) -> int:
    from vectorizer.client import masters

    print(masters.follow(_node(arguments), arguments.master, arguments.force))
    return 0


def _switch(arguments: argparse.Namespace) -> int:
    from vectorizer.client import masters

    if arguments.abort:
        if arguments.to is not None or arguments.timeout is not None:
            raise MisuseError("--abort goes with neither --to nor --timeout")
        print(masters.abort_switchover(_node(arguments)))
        return 0
    timeout_ms = None if arguments.timeout is None else int(arguments.timeout * 1000)
    print(masters.switchover(_node(arguments), arguments.to, timeout_ms))
    return 0


# -- data -----------------------------------------------------------------------------------------------


def _import(arguments: argparse.Namespace) -> int:
    from vectorizer.client.importing import Import, Plan

    asked = {"dimension": arguments.dimension, "metric": arguments.metric}
    create = {name: value for name, value in asked.items() if value is not None}
    if create and not arguments.create:
        raise MisuseError("--dimension and --metric are for a new collection: they go with --create")
    if arguments.batch_rows > BATCH_ROWS_MAX:
        raise MisuseError(f"--batch-rows can be {BATCH_ROWS_MAX} at most")
    plan = Plan(
        Path(arguments.file),
        arguments.collection,
        create if arguments.create else None,
        arguments.batch_rows,
        arguments.wait,
    )
    with tqdm(unit=" rows", disable=None, dynamic_ncols=True) as bar:
        job = Import(_node(arguments, arguments.retry), plan, _progress(bar))
        bar.total = job.count
        started = time.monotonic()
        sent = job.run()
    before = f" ({job.resumed} were there from before)" if job.resumed else ""
    print(f"{job.name}: {_speed(sent, 'imported', time.monotonic() - started)}{before}")
    return 0


def _export(arguments: argparse.Namespace) -> int:
    from vectorizer.client.exporting import Export
    from vectorizer.client.node import collection_path

    node, name = _node(arguments, arguments.retry), arguments.collection
    with tqdm(unit=" rows", disable=None, dynamic_ncols=True) as bar:
        job = Export(node, name, Path(arguments.target), _progress(bar))
        collection = node.ask("GET", collection_path(name))
        bar.total = collection["vector_count"]
        started = time.monotonic()
        written = job.run(collection)
    print(f"{name}: {_speed(written, 'exported', time.monotonic() - started)} to {arguments.target}")
    return 0


def _progress(bar: Any) -> Callable[[int], None]:
    def advanced(rows: int) -> None:
        bar.update(rows - bar.n)

    return advanced


def _speed(rows: int, verb: str, seconds: float) -> str:
    return f"{rows} rows {verb} in {seconds:.1f} s ({rows / max(seconds, 1e-3):.0f} a second)"


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value <= 86_400:
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 1 up")
    return value


_seconds.__name__ = "number of seconds"
_count.__name__ = "whole number"
