"""docs/SCENARIOS.md names tests that exist, and none of the scenarios' modules is missing there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CLUSTER = ROOT / "tests/cluster"
ROWS = [
    line
    for line in (ROOT / "docs/SCENARIOS.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("| ") and not line.startswith(("| ---", "| behaviour"))
]
NAMED = [tuple(name.split("::")) for row in ROWS for name in re.findall(r"`(test_\w+\.py::\w+)`", row)]
ELSEWHERE = {"test_openapi_requests.py", "test_readme.py", "test_runbooks.py"}
"""Modules of tests/cluster that hold documents to the servers."""


def functions_in(file: str) -> set[str]:
    tree = ast.parse((CLUSTER / file).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split("|")[1].strip()[:60])
def test_each_behaviour_has_a_test(row: str) -> None:
    assert re.search(r"\| `test_\w+\.py::test_\w+`", row)


@pytest.mark.parametrize(("file", "name"), NAMED)
def test_each_named_test_exists(file: str, name: str) -> None:
    assert name in functions_in(file)


def test_each_module_of_scenarios_is_named() -> None:
    there = {path.name for path in CLUSTER.glob("test_*.py")}
    assert there - {file for file, _ in NAMED} == ELSEWHERE
