"""One target under atheris: inputs that reach new code are kept and changed further.

Each input is bounded: so much time of the processor, so much memory beyond what the process had, and only
the errors that the target foresees. What breaks a bound is noted once for each place in the code, and the run
goes on; a crash or a hang of the interpreter itself ends the process, which the caller notes.
"""
# ruff: noqa: E402

from __future__ import annotations

import vectorizer.native_lock  # noqa: F401  isort: skip
from gevent import monkey  # isort: skip

monkey.patch_all()

import argparse
import base64
import logging
import os
import resource
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["vectorizer"], enable_loader_override=False):
    from tests.hostile.targets import NAMES, TARGETS, Target, requests

from tests.crash.results import Results

INPUT_BYTES_MAX = 1 << 16
INPUT_SECS_MAX = 1.0
INPUT_MEMORY_BYTES_MAX = 256 << 20
HANG_SECS, RSS_MB_MAX = 30, 1500
"""Where libFuzzer ends the process."""
SHOWN_BYTES_MAX = 3000


class Run:
    """Inputs of one target. ``count`` = 0: only as many as are given by hand."""

    def __init__(self, name: str, count: int, json: str | None) -> None:
        self.target: Target = TARGETS[name] if name in TARGETS else _requests()[name]
        self.seeds = self.target.seeds()
        self.take = self.target.make()
        self.results = Results()
        self._name, self._count, self._json = name, count, json
        self._places: set[str] = set()
        self._done = 0
        self._memory_bytes = 0

    def one(self, data: bytes) -> None:
        """Take one input; ends the process after the last."""
        if self._done == len(self.seeds):
            self._memory_bytes = _memory_bytes()
        started, wrong = time.thread_time(), ""
        try:
            self.take(data)
        except Exception as error:  # noqa: BLE001 - whatever was not foreseen is what is looked for
            wrong = "".join(traceback.format_exception(error)[-4:])
            self._note(_place_of(error), wrong, data)
        seconds = time.thread_time() - started
        if seconds > INPUT_SECS_MAX:
            wrong = f"an input took {seconds:.1f} s"
            self._note("time", wrong, data)
        if self._memory_bytes and _memory_bytes() > self._memory_bytes + INPUT_MEMORY_BYTES_MAX:
            wrong = f"memory has grown from {self._memory_bytes >> 20} to {_memory_bytes() >> 20} MiB"
            self._note(f"memory {_memory_bytes()}", wrong, data)
            self._memory_bytes = _memory_bytes()
        self.results.add(f"hostile input: {self._name}", "not_started" if wrong else "", seconds * 1000)
        self._done += 1
        if self._done == self._count:
            self.end()

    def end(self) -> None:
        """Tell, and end the process: libFuzzer never returns."""
        self.results.write(self._json)
        for sentence in self.results.failures:
            print(f"FAILED: {sentence}")
        sys.stdout.flush()
        os._exit(1 if self.results.failures else 0)

    def _note(self, place: str, sentence: str, data: bytes) -> None:
        if place in self._places:
            return
        self._places.add(place)
        shown = base64.b64encode(data[:SHOWN_BYTES_MAX]).decode()
        again = f'python -m tests.hostile.fuzz "{self._name}" --input {shown}'
        self.results.failed(f"{again}: {sentence}")


def _requests() -> dict[str, Target]:
    with atheris.instrument_imports(include=["vectorizer"], enable_loader_override=False):
        return requests()


def _memory_bytes() -> int:
    """The most that this process ever had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def _place_of(error: BaseException) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} {frame.filename}:{frame.lineno}"


def main(arguments: Sequence[str] | None = None) -> int:
    """0: all inputs were taken as they should be. 1: some were not."""
    parser = argparse.ArgumentParser(prog="python -m tests.hostile.fuzz", description="Fuzzes one target.")
    parser.add_argument("target", choices=NAMES)
    parser.add_argument("--inputs", type=int, default=1000, metavar="N", help="so many (1000)")
    parser.add_argument("--input", metavar="BASE64", help="only this one, as a failure shows it")
    parser.add_argument("--seed", type=int, default=1, metavar="S", help="of chance (1)")
    parser.add_argument("--json", metavar="FILE", help="write the results there, too")
    options = parser.parse_args(arguments)
    logging.getLogger("vectorizer").setLevel(logging.CRITICAL)
    run = Run(options.target, options.inputs, options.json)
    if options.input is not None:
        run.take(base64.b64decode(options.input))
        return 0
    mutate = run.target.mutate
    with tempfile.TemporaryDirectory() as folder:
        for number, seed in enumerate(run.seeds):
            Path(folder, f"{number:04d}").write_bytes(seed)
        flags = {
            "runs": options.inputs + 1000,
            "seed": options.seed,
            "timeout": HANG_SECS,
            "rss_limit_mb": RSS_MB_MAX,
            "max_len": INPUT_BYTES_MAX,
            "verbosity": 0,
        }
        command = ["fuzz", *(f"-{name}={value}" for name, value in flags.items()), folder]
        atheris.Setup(
            command,
            run.one,
            custom_mutator=lambda data, size, seed: mutate(bytes(data), size, seed, atheris.Mutate),
        )
        atheris.Fuzz()
    return 1  # it ends itself


if __name__ == "__main__":
    sys.exit(main())
