"""The simulation in CI: kept seeds, 150 fresh ones, and planted bugs that must be found.

Each run is a process of its own, since the simulation takes gevent's place and the tests have
loaded gevent.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.planted import PLANTS
from tests.simulation.swarm import FAULTS, REQUESTS, swarm_of

ROOT = Path(__file__).resolve().parents[2]
SEEDS = 150
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
        "switchovers done",
        "switchovers rolled back",
        "switchovers that waited",
        "promoted the best",
        "let in by enough replicas",
        "read what was written",
        "unread: lost_branch",
        "waited in vain",
    ):
        assert happened in done.stdout, "the seeds do not reach what they are meant to test"


@pytest.mark.simulation
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_each_planted_bug_is_found() -> None:
    """Under the seed that is known to find it; where that one tells another story now, within its number of
    seeds.
    """
    done = simulate("--plants")
    assert done.returncode == GREEN, f"{done.stdout[-6000:]}{done.stderr[-2000:]}"
    assert f"{len(PLANTS)} of {len(PLANTS)} planted bugs found" in done.stdout


def test_there_are_as_many_planted_bugs_as_the_manual_says() -> None:
    text = (ROOT / "docs" / "TESTING.md").read_text(encoding="utf-8")
    assert f"{len(PLANTS)} planted bugs" in text


@pytest.mark.parametrize("about", ["faults", "requests"])
def test_each_kind_is_there_in_some_seeds_and_not_in_others(about: str) -> None:
    swarms = [getattr(swarm_of(seed), about) for seed in range(SEEDS)]
    for kind in (FAULTS if about == "faults" else REQUESTS).keys() - {"cut", "write"}:
        there = sum(swarm[kind] > 0 for swarm in swarms)
        assert 0.3 * SEEDS < there < 0.7 * SEEDS, f"{kind}: in {there} of {SEEDS} seeds"


def test_seeds_differ_in_how_many_kinds_they_have() -> None:
    counts = [sum(weight > 0 for weight in swarm_of(seed).faults.values()) for seed in range(SEEDS)]
    assert min(counts) <= 4
    assert max(counts) >= 24


@pytest.mark.simulation
@pytest.mark.timeout(120)
def test_a_seed_tells_the_same_story_everywhere() -> None:
    stories = {simulate("--seed", "4", "--trace", hash_seed=str(number)).stdout for number in (1, 2)}
    assert len(stories) == 1
    assert "fingerprint" in stories.pop()
