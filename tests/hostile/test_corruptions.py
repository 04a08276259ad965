"""Damaged data directories: sixty in this process, a handful by real processes with their exit codes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from tests.hostile.corruption import corrupt
from tests.hostile.corruption_trials import corruptions
from tests.hostile.directories import make
from tests.unit.running import wait_until

COUNT, SEED = 60, 1
STARTS = 6


def test_a_damaged_directory_is_refused_or_repaired(tmp_path: Path) -> None:
    results = corruptions(range(COUNT), SEED, tmp_path)
    assert results.failures == []
    assert results.count == COUNT


@pytest.mark.cluster
def test_a_process_on_a_damaged_directory_ends_with_a_sentence_or_serves(tmp_path: Path) -> None:
    original = make(tmp_path / "original", stopped=True)
    refused = 0
    for number in range(STARTS):
        root = original.copy(tmp_path / str(number))
        damage = corrupt(root, Random(f"process {number}"))
        code, said = start(root, tmp_path / f"{number}.log")
        assert "Traceback" not in said, f"{damage}: {said}"
        assert code in (None, 1), f"{damage}: exit code {code}: {said}"
        if code is not None:
            refused += 1
            assert "data_damaged" in said or "start_failed" in said, f"{damage}: {said}"
            assert str(root) in said, f"{damage}: no file is named: {said}"
    assert refused > 1, "nothing of this damage counts"


def start(root: Path, log: Path) -> tuple[int | None, str]:
    """The exit code of a server in this directory, None if it serves, and what it said; it is ended then."""
    flags = ["--data-dir", str(root), "--host", "127.0.0.1", "--port", "0"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "vectorizer", "serve", *flags],
            stdout=output,
            stderr=output,
            env={**os.environ, "VECTORIZER_LOG_LEVEL": "info"},
        )
        try:
            wait_until(lambda: process.poll() is not None or b"started" in log.read_bytes(), 20.0)
            code = process.poll()
        finally:
            process.kill()
            process.wait()
    return code, log.read_text("utf-8", "replace")
