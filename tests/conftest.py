"""What holds for every test: gevent patches first, no test runs for ever, and CI lets none be skipped.

A test marked ``@pytest.mark.needs("shellcheck")`` is skipped, with the reason, where that program is missing.
With VECTORIZER_NO_SKIP=1, which ``.ci/run`` sets, each skip is a failure instead.
"""
# ruff: noqa: E402

from __future__ import annotations

# The order matters: native_lock keeps the unpatched lock, so it is imported before gevent patches anything.
import vectorizer.native_lock  # noqa: F401  isort: skip
from gevent import monkey  # isort: skip

monkey.patch_all()

import contextlib
import os
import shutil
from collections.abc import Generator, Iterator

import gevent
import pytest

from vectorizer import logs

TIMEOUT_SECS = 60.0


class TestTookTooLong(BaseException):
    """Raised inside the test: as a BaseException, so that no ``except Exception`` on the way swallows it."""

    __test__ = False


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "needs(program, ...): skipped where one of these programs is missing")
    logs.configure("info", "text")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(TIMEOUT_SECS))


@contextlib.contextmanager
def limited(item: pytest.Item) -> Iterator[None]:
    """Ends a test that waits in gevent, a little before pytest-timeout would.

    While greenlets wait, the signal of pytest-timeout reaches the hub, which prints its exception and goes on
    waiting. The signal remains the guard of tests that compute and never turn the loop.
    """
    marker = item.get_closest_marker("timeout")
    assert marker is not None, "pytest_collection_modifyitems gives each test one"
    seconds = float(marker.args[0] if marker.args else marker.kwargs["timeout"])
    with gevent.Timeout(0.95 * seconds, TestTookTooLong(f"{item.nodeid} took longer than {seconds:g} s")):
        yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    for marker in item.iter_markers("needs"):
        for program in marker.args:
            if shutil.which(program) is None:
                pytest.skip(f"needs the program {program}, which is not installed")
    with limited(item):
        yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    with limited(item):
        yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Iterator[None]:
    with limited(item):
        yield


def skips_are_failures() -> bool:
    return os.environ.get("VECTORIZER_NO_SKIP", "") not in ("", "0")


def reason_of(report: pytest.TestReport | pytest.CollectReport) -> str:
    return report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and skips_are_failures():
        report.outcome = "failed"
        report.longrepr = f"no skip is allowed here, and {item.nodeid} was skipped: {reason_of(report)}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    if report.skipped and skips_are_failures():
        report.outcome = "failed"
        report.longrepr = f"no skip is allowed here, and {collector.nodeid} was skipped: {reason_of(report)}"
    return report
