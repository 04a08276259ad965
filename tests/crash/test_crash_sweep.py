"""The crash sweep in CI: each step of each story, in two ways each, and planted bugs that must be found.

Each run is a process of its own, since it takes gevent's place and the tests have loaded gevent.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.crash.planted import PLANTS

ROOT = Path(__file__).resolve().parents[2]
SURVIVED, FOUND = 0, 1
CRASHES_MIN = 6_000


def sweep(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command; its output is text. One thread for each process's arithmetic."""
    environment = {"PYTHONHASHSEED": "0", "OPENBLAS_NUM_THREADS": "1", "PATH": "", "COLUMNS": "200"}
    return subprocess.run(
        [sys.executable, "-m", "tests.crash", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.simulation
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_crash_at_any_step_loses_nothing(tmp_path: Path) -> None:
    done = sweep("--json", str(tmp_path / "results.json"))
    assert done.returncode == SURVIVED, f"{done.stdout[-6000:]}\n{done.stderr[-2000:]}"
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["failures"] == []
    assert sum(kind["count"] for kind in results["kinds"]) > CRASHES_MIN, "the stories have become shorter"


@pytest.mark.simulation
@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", sorted(PLANTS))
def test_a_planted_bug_is_found(name: str) -> None:
    story, _ = PLANTS[name]
    done = sweep("--story", story, "--plant", name)
    assert done.returncode == FOUND, f"not found\n{done.stdout[-3000:]}{done.stderr[-2000:]}"
    assert "FAILED: " in done.stdout, done.stderr[-2000:]
