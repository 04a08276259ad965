"""The simulation in CI: kept seeds, 200 fresh ones, and planted bugs that must be found.

Each run is a process of its own, since the simulation takes gevent's place and the tests have
loaded gevent.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.planted import PLANTS

ROOT = Path(__file__).resolve().parents[2]
SEEDS = 200
GREEN, FOUND = 0, 1


def simulate(*arguments: str, hash_seed: str = "0") -> subprocess.CompletedProcess[str]:
    """Run the command; its output is text. One thread for each process's arithmetic."""
    environment = {"PYTHONHASHSEED": hash_seed, "OPENBLAS_NUM_THREADS": "1", "PATH": ""}
    return subprocess.run(
        [sys.executable, "-m", "tests.simulation", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def assert_green(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == GREEN, f"{done.stdout[-6000:]}\n{done.stderr[-2000:]}"


@pytest.mark.simulation
@pytest.mark.timeout(180)
def test_seeds_that_found_something_once() -> None:
    assert_green(simulate("--kept"))


@pytest.mark.simulation
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_no_invariant_is_violated_under_any_seed() -> None:
    done = simulate("--seeds", str(SEEDS))
    assert_green(done)
    for happened in (
        "partial sync: continues",
        "full sync: outside_window",
        "full sync: diverged",
        "applied merge",
    ):
        assert happened in done.stdout, "the seeds do not reach what they are meant to test"


@pytest.mark.simulation
@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", sorted(PLANTS))
def test_a_planted_bug_is_found(name: str) -> None:
    """The same seeds are green without it: they are the first of the 200 above."""
    done = simulate("--plant", name, "--seeds", str(PLANTS[name].seeds))
    assert done.returncode == FOUND, (
        f"{PLANTS[name].sentence}: not found\n{done.stdout[-3000:]}{done.stderr[-2000:]}"
    )
    assert "VIOLATED" in done.stdout


@pytest.mark.simulation
@pytest.mark.timeout(120)
def test_a_seed_tells_the_same_story_everywhere() -> None:
    stories = {simulate("--seed", "4", "--trace", hash_seed=str(number)).stdout for number in (1, 2)}
    assert len(stories) == 1
    assert "fingerprint" in stories.pop()
