"""The command line against servers in this process: what it printed and its exit code."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.unit.served import Served
from vectorizer.cli import main


@dataclass(frozen=True)
class Ran:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def sentence(self) -> str:
        """The one sentence of a command that failed."""
        assert self.out == ""
        (sentence,) = self.err.splitlines()
        assert sentence.startswith("vectorizer: ")
        return sentence.removeprefix("vectorizer: ")


def url(served: Served) -> str:
    host, port = served.server.rest_address
    return f"http://{host}:{port}"


def run(capsys: pytest.CaptureFixture[str], *words: object) -> Ran:
    capsys.readouterr()
    code = main([str(word) for word in words])
    printed = capsys.readouterr()
    own = [line for line in printed.err.splitlines() if line.startswith("vectorizer: ")]
    return Ran(code, printed.out, "\n".join(own))  # the rest is the log of the servers in this process


def row(number: int, dimension: int = 4, **more: Any) -> dict[str, Any]:
    """A row whose numbers are written as a node writes them: with the shortest digits of a float32."""
    values = np.random.default_rng(number).standard_normal(dimension).astype(np.float32)
    numbers = [float(str(value)) for value in values]
    return {"id": f"id-{number}", "vector": numbers, "payload": {"n": number}, **more}


def write_lines(path: Path, documents: Iterable[Mapping[str, Any]]) -> Path:
    with path.open("w", encoding="utf-8") as file:
        for document in documents:
            file.write(json.dumps(document) + "\n")
    return path
