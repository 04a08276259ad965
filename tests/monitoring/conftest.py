"""Fixtures of the monitoring tests; every test here is marked `cluster`, since it starts real processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster.harness.fixtures import cluster, pytest_runtest_makereport

__all__ = ["cluster", "pytest_runtest_makereport"]

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what lies in this directory."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.cluster)
