"""scripts/torture, in the smallest size that breaks anything."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from tests.scripts.shell import run


@pytest.mark.timeout(240)
def test_a_tiny_part_of_it_ends_with_one_table(tmp_path: Path) -> None:
    report, kept = tmp_path / "report.json", tmp_path / "kept"
    words = ["--only", "set", "--scale", "0.0001", "--keep", kept, "--json", report]
    done = run("torture", *words, timeout_secs=220)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "longest stall" in done.stdout
    kinds = orjson.loads(report.read_bytes())["kinds"]
    assert {row["kind"].partition(":")[0] for row in kinds} == {"set, waited", "set, asynchronous"}
    assert all(row["lost"] <= row["lost_allowed"] for row in kinds)
    assert (kept / "set.log").exists()
    again = run("torture", *words, "--markdown")
    assert "| kind of fault | how many |" in again.stdout, "what is there is not run again"


@pytest.mark.parametrize("words", [["--only", "weather"], ["--scale", "0"], ["--no-such-option"]])
def test_what_it_does_not_know_is_refused_with_exit_code_2(words: list[str]) -> None:
    refused = run("torture", *words)
    assert refused.returncode == 2
    assert words[-1] in refused.stderr
