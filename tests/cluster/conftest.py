"""Fixtures of the scenarios; every test here is marked `cluster`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster.harness.fixtures import cluster, pytest_runtest_makereport, quiet_cluster

__all__ = ["cluster", "pytest_runtest_makereport", "quiet_cluster"]

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what lies in this directory."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.cluster)
