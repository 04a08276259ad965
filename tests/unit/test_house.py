"""The rules of the house: which room may import what, and how long a function or module may be."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "vectorizer"
MODULES = {str(path.relative_to(PACKAGE).with_suffix("")): path for path in sorted(PACKAGE.rglob("*.py"))}
FUNCTION_LINES_MAX = 70
MODULE_LINES_MAX = 500

# A package that one room hides from the others can be replaced there.
HIDDEN = {
    "bson": ["codec"],
    "nmslib": ["index/hnsw", "index/build"],
    "yaml": ["config"],
    "bottle": ["rest/*"],
    "xxhash": ["storage/chunk", "digest"],
    "prometheus_client": ["metrics/*"],
}
# Everything else is pure: it cannot be interrupted by another greenlet, and is handed the time.
WITH_THE_WORLD = ["gevent", "greenlet", "socket", "time", "threading", "asyncio", "subprocess"]
ROOMS_WITH_THE_WORLD = [
    "__main__",
    "server",
    "breathing",
    "database",
    "journal_waiters",
    "native_threads",
    "guarantees",
    "maintenance",
    "graphs",
    "snapshots",
    "roles",
    "switchover",
    "security",
    "keys_command",
    "replication_status",
    "loop_delay",
    "service_notification",
    "client/*",
    "rest/*",
    "metrics/exposition",
    "metrics/greenlets",
    "metrics/journal_syncs",
    "replication/connection",
    "replication/enquiry",
    "replication/master",
    "replication/replica",
    "index/build",
    "index/builder",
    "child_process",
]


def imports(module: str) -> set[str]:
    """Return the top names of everything that a module imports, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {name.name.partition(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            found.add(node.module.partition(".")[0])
    return found


def is_in(module: str, rooms: list[str]) -> bool:
    return any(fnmatch(module, room) for room in rooms)


def functions(module: str) -> Iterator[tuple[str, int]]:
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno is not None
            yield node.name, node.end_lineno - node.lineno + 1


@pytest.mark.parametrize("package", sorted(HIDDEN))
def test_a_package_stays_in_its_room(package: str) -> None:
    users = {module for module in MODULES if package in imports(module)}
    assert {module for module in users if not is_in(module, HIDDEN[package])} == set()


def test_only_the_rooms_that_deal_with_the_world_wait_or_ask_for_the_time() -> None:
    strangers = {
        f"{module} imports {name}"
        for module in MODULES
        if not is_in(module, ROOMS_WITH_THE_WORLD)
        for name in imports(module) & set(WITH_THE_WORLD)
    }
    assert strangers == set()


def test_the_process_patches_before_it_imports() -> None:
    text = MODULES["__main__"].read_text(encoding="utf-8")
    assert text.index("native_lock") < text.index("patch_all()") < text.index("from vectorizer.cli")


def test_functions_are_short() -> None:
    long = {
        f"{module}.{name}: {lines} lines"
        for module in MODULES
        for name, lines in functions(module)
        if lines >= FUNCTION_LINES_MAX
    }
    assert long == set()


def test_modules_are_short() -> None:
    lengths = {module: len(path.read_text(encoding="utf-8").splitlines()) for module, path in MODULES.items()}
    assert {module: lines for module, lines in lengths.items() if lines > MODULE_LINES_MAX} == {}
