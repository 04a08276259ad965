"""What scripts/torture runs: commands of other rooms, each a process of its own that leaves a report."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from tests.cluster.harness.node import ROOT
from tests.torture.tally import Kind, Report

LOG_TAIL_LINES = 20
SEEDS, SEEDS_OF_A_PART = 10_000, 250
INPUTS, INPUTS_OF_A_PART = 1_000_000, 100_000
CORRUPTIONS = 1_000
SET_SECS, SET_SECS_MIN = 600.0, 8.0
SOAK_SECS, SOAK_SECS_MIN = 3600.0, 20.0

Words = list[str]


@dataclass(frozen=True, slots=True)
class Part:
    """One process: it leaves ``NAME.json`` and ``NAME.log`` in the directory that it is given."""

    name: str
    words: Words
    read: Callable[[dict[str, Any]], Report] = Report.from_document

    def start(self, directory: Path) -> subprocess.Popen[bytes]:
        """The process; its report and its log will be in ``directory``."""
        report = self._report(directory).absolute()
        words = [sys.executable, "-m", *self.words, "--json", str(report)]
        with self._log(directory).open("wb") as log:
            return subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=ROOT)

    def finished(self, directory: Path) -> Report | None:
        """What it found; None if there is no report yet."""
        if not self._report(directory).exists():
            return None
        return self.read(orjson.loads(self._report(directory).read_bytes()))

    def ended(self, returncode: int, directory: Path) -> Report:
        """The same after its end. A process that says less than its exit code is a failure."""
        report = self.finished(directory)
        if report is None:
            tail = self._log(directory).read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:]
            why = f"{self.name}: ended with exit code {returncode} and left no report"
            return Report(failures=["\n".join([why, *tail])])
        if returncode != 0 and not report.wrong:
            report.failures.append(f"{self.name}: ended with exit code {returncode}")
        return report

    def _report(self, directory: Path) -> Path:
        return directory / f"{self.name}.json"

    def _log(self, directory: Path) -> Path:
        return directory / f"{self.name}.log"


@dataclass(frozen=True, slots=True)
class Run:
    """One line of the progress display. ``words``: by scale, what follows ``python -m`` in each process."""

    name: str
    text: str
    minutes: float
    """About so long at scale 1 on two cores; only for the display."""
    words: Callable[[float], list[Words]]
    read: Callable[[dict[str, Any]], Report] = Report.from_document

    def parts(self, scale: float) -> list[Part]:
        """Its processes, one after the other; a run that is cut goes on with what has no report yet."""
        several = self.words(scale)
        if len(several) == 1:
            return [Part(self.name, several[0], self.read)]
        return [Part(f"{self.name}-{number}", words, self.read) for number, words in enumerate(several, 1)]


def simulation_report(document: dict[str, Any]) -> Report:
    """The simulation's own form: its faults happen together, so what they broke is one row."""
    found = {name: int(document[name]) for name in ("lost", "doubled", "not_started")}
    clean = 0 if not document["failures"] else None
    kinds = [
        Kind(f"simulation: {kind}", count, clean, clean, clean) for kind, count in document["faults"].items()
    ]
    stall_ms = document["longest_stall_virtual_ms"]
    kinds.append(Kind("simulation: seeds", document["seeds"], **found, longest_stall_ms=stall_ms))
    failures = [f"simulation: seed {item['seed']}: {item['sentence']}" for item in document["failures"]]
    return Report(kinds, failures)


def _scaled(whole: float, scale: float, least: float) -> str:
    return f"{max(least, whole * scale):.0f}"


def _seeds(scale: float) -> list[Words]:
    """In parts of which none takes long: a run of hours that is cut goes on."""
    seeds = max(3, round(SEEDS * scale))
    return [
        ["tests.simulation", "--first", str(first), "--seeds", str(min(SEEDS_OF_A_PART, seeds - first))]
        for first in range(0, seeds, SEEDS_OF_A_PART)
    ]


def _inputs(scale: float) -> list[Words]:
    """In parts, too; each has chance of its own."""
    inputs = max(1000, round(INPUTS * scale))
    return [
        [
            "tests.hostile",
            "--seed",
            str(seed),
            "--inputs",
            str(min(INPUTS_OF_A_PART, left)),
            "--corruptions",
            "0",
        ]
        for seed, left in enumerate(range(inputs, 0, -INPUTS_OF_A_PART), 1)
    ]


RUNS = (
    Run(
        "scenarios",
        "real processes, sockets and files, one story each",
        14,
        lambda scale: [["tests.torture", "scenarios", "--share", f"{scale:g}"]],
    ),
    Run(
        "simulation",
        "whole clusters in virtual time, by seed",
        240,
        _seeds,
        simulation_report,
    ),
    Run(
        "crashes",
        "a crash at every step on the disk",
        30,
        lambda scale: [["tests.crash", *(["--all"] if scale >= 1 else [])]],
    ),
    Run(
        "hostile",
        "hostile bytes for every reader",
        60,
        _inputs,
    ),
    Run(
        "corruptions",
        "damage in a data directory",
        20,
        lambda scale: [["tests.hostile", "--inputs", "0", "--corruptions", _scaled(CORRUPTIONS, scale, 10)]],
    ),
    Run(
        "set",
        "unique ids while nodes break and take turns as master",
        11,
        lambda scale: [["tests.torture", "set", "--secs", _scaled(SET_SECS, scale, SET_SECS_MIN)]],
    ),
    Run(
        "soak",
        "a mixed load for long: nothing may grow",
        61,
        lambda scale: [["tests.torture", "soak", "--secs", _scaled(SOAK_SECS, scale, SOAK_SECS_MIN)]],
    ),
)
