"""The scenarios of tests/cluster as a long run: each file is a kind of fault, each test one of them."""

from __future__ import annotations

import math
import subprocess
import sys
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

from tests.cluster.harness.node import ROOT
from tests.torture.tally import Kind, Report

WHERE = "tests/cluster"
PYTEST = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider")


def run_scenarios(directory: Path, share: float) -> Report:
    """All of them, or a part. One that fails says what broke, not how many writes were lost."""
    results = directory / "results.xml"
    done = subprocess.run([*PYTEST, f"--junitxml={results}", *_chosen(share)], cwd=ROOT, check=False)
    if not results.exists():
        return Report(failures=[f"scenarios: pytest ended with {done.returncode} and left no results"])
    return read_results(results)


def read_results(path: Path) -> Report:
    """A report out of what pytest wrote for machines."""
    counts: Counter[str] = Counter()
    broken: Counter[str] = Counter()
    report = Report()
    for case in ElementTree.parse(path).getroot().iter("testcase"):
        kind = case.get("classname", "").rpartition(".test_")[2].replace("_", " ")
        counts[kind] += case.find("skipped") is None
        for what in (*case.findall("failure"), *case.findall("error")):
            broken[kind] += 1
            said = (what.get("message") or "").partition("\n")[0]
            report.failures.append(f"scenarios: {kind}: {case.get('name')}: {said}")
    for kind, count in sorted(counts.items()):
        unknown = None if broken[kind] else 0
        report.kinds.append(Kind(f"scenarios: {kind}", count, unknown, unknown, unknown))
    return report


def _chosen(share: float) -> list[str]:
    if share >= 1:
        return [WHERE]
    listed = subprocess.run(
        [*PYTEST, "--collect-only", WHERE], cwd=ROOT, capture_output=True, text=True, check=True
    )
    names = [line for line in listed.stdout.splitlines() if "::" in line]
    return names[:: math.ceil(1 / share)]
