"""Fixtures of the unit tests."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.served import Served


@pytest.fixture
def logging_as_before() -> Iterator[None]:
    """Undo what a test configures: the outputs of a process are shared by all tests."""
    loggers = logging.getLogger(), logging.getLogger("vectorizer")
    before = [(logger, logger.level, list(logger.handlers)) for logger in loggers]
    yield
    for logger, level, handlers in before:
        logger.setLevel(level)
        logger.handlers[:] = handlers


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Served]]:
    """`serve(name, ...)`: a running server with that data directory, ended with the test."""
    with contextlib.ExitStack() as stack:

        def make(name: str = "one", **settings: Any) -> Served:
            values = {key.replace("__", "."): value for key, value in settings.items()}
            made = Served(tmp_path / name, values).start()
            stack.callback(made.stop)
            return made

        yield make
