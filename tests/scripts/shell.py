"""Runs the scripts as a person would, from the top of the repository."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests.cluster.harness.node import ROOT, clean_environment

SCRIPTS = ROOT / "scripts"
# Sourced by the others; they have no --help.
PARTS = ("environment", "rest", "processes")


def commands() -> list[str]:
    """Names of the scripts that are run."""
    files = (path for path in SCRIPTS.iterdir() if path.is_file() and path.suffix == "")
    return sorted(path.name for path in files if path.name not in PARTS)


def run(
    *words: str | Path, environment: Mapping[str, str] | None = None, timeout_secs: float = 60.0
) -> subprocess.CompletedProcess[str]:
    """Run a script, named without its directory, with nobody at its standard input."""
    script, *arguments = words
    return subprocess.run(
        [SCRIPTS / script, *arguments],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        cwd=ROOT,
        env={**clean_environment(), **(environment or {})},
        timeout=timeout_secs,
    )


def shell(program: str, environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run shell text as /bin/sh does, with ROOT set as the scripts set it."""
    return subprocess.run(
        ["sh", "-eu", "-c", program],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        cwd=ROOT,
        env={**clean_environment(), "ROOT": str(ROOT), **(environment or {})},
        timeout=60.0,
    )
