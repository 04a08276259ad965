"""The pytest side: one fixture, and the logs of all nodes beside a failure."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

from tests.cluster.harness.cluster import Cluster

LOGS = pytest.StashKey[list[Callable[[], str]]]()


@pytest.fixture
def cluster(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """An empty cluster for one test; all its processes end with the test."""
    made = Cluster(tmp_path)
    request.node.stash[LOGS] = [lambda: "\n".join(node.log_tail() for node in made.nodes)]
    yield made
    made.close()


@pytest.fixture(scope="module")
def quiet_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A master and two replicas shared by tests of one module that change neither roles nor processes."""
    made = Cluster(tmp_path_factory.mktemp("quiet"))
    made.start(replicas=2)
    yield made
    made.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the end of every node's log beside a failed scenario."""
    report = yield
    if report.failed:
        for text in item.stash.get(LOGS, []):
            report.sections.append(("node logs", text()))
    return report
