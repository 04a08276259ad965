"""README.md is true: its commands are run as they stand there, and answer what it says."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.harness import Client, Cluster, free_port, same_digest, wait_until
from tests.cluster.harness.node import ROOT, clean_environment

ANYTHING = "…"
BLOCK = re.compile(r"^```(sh|json)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Step:
    """A block of commands, and what the last of them answers, if the README says so."""

    commands: str
    answer: Any


def section(title: str) -> str:
    """The text below one heading of README.md."""
    text = (ROOT / "README.md").read_text()
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found is not None
    return found.group(1)


def steps() -> list[Step]:
    made: list[Step] = []
    for kind, text in BLOCK.findall(section("Quick use")):
        if kind == "sh":
            made.append(Step(text, None))
        else:
            made[-1] = Step(made[-1].commands, json.loads(text))
    return made


def matches(told: Any, shown: Any) -> bool:
    """Whether an answer is what the README shows; `…` there stands for anything."""
    if shown == ANYTHING:
        return True
    if isinstance(shown, dict) and isinstance(told, dict):
        return shown.keys() == told.keys() and all(matches(told[key], shown[key]) for key in shown)
    if isinstance(shown, list) and isinstance(told, list):
        return len(shown) == len(told) and all(map(matches, told, shown))
    if isinstance(shown, float):
        return bool(told == pytest.approx(shown, abs=1e-4))
    return bool(told == shown)


def last_document(text: str) -> Any:
    """The last of several JSON documents in a row, as curl prints the answers of several calls."""
    reader, document, position = json.JSONDecoder(), None, 0
    while position < len(text):
        document, position = reader.raw_decode(text, position)
        position += len(text[position:]) - len(text[position:].lstrip())
    return document


@pytest.mark.needs("curl")
def test_quick_use_works_as_written_and_answers_what_it_shows(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    try:
        cluster.start(replicas=2, collections=())
        nodes = [cluster.master, *cluster.replicas]
        for step in steps():
            if "scripts/start" in step.commands:
                continue
            commands = step.commands
            for number, node in enumerate(nodes):
                commands = commands.replace(f":{15002 + number}", f":{node.port}")
            ran = subprocess.run(
                ["sh", "-eu", "-c", commands],
                capture_output=True,
                text=True,
                cwd=ROOT,
                env=clean_environment(),
                timeout=30,
            )
            assert ran.returncode == 0, f"{commands}\n{ran.stderr}"
            if step.answer is not None:
                told = last_document(ran.stdout)
                shown = json.loads(re.sub(":15002", f":{nodes[0].port}", json.dumps(step.answer)))
                assert matches(told, shown), f"{commands}\nanswered {json.dumps(told, indent=2)}"
            else:
                assert '"error_type"' not in ran.stdout, f"{commands}\n{ran.stdout}"
            same_digest(*nodes)
    finally:
        cluster.close()


def test_a_node_of_its_own_starts_as_the_readme_says(tmp_path: Path) -> None:
    [command] = [step.commands for step in steps() if "scripts/start" in step.commands]
    port = free_port()
    words = command.replace("15010", str(port)).replace("./data", str(tmp_path / "data")).split()
    server = subprocess.Popen(
        words, cwd=ROOT, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=clean_environment()
    )
    try:
        wait_until(lambda: Client("127.0.0.1", port).get("/health"), "it answers")
        server.send_signal(signal.SIGTERM)
        assert server.wait(20) == 0
    finally:
        server.kill()
        server.wait()


def test_every_document_that_the_readme_names_exists() -> None:
    named = re.findall(r"\]\(([^)#:]+)\)", (ROOT / "README.md").read_text())
    assert named
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("document", sorted((ROOT / "docs").glob("*.md")), ids=lambda path: path.name)
def test_every_document_that_a_document_names_exists(document: Path) -> None:
    named = re.findall(r"\]\(([^)#:]+)\)", document.read_text())
    assert [name for name in named if not (document.parent / name).exists()] == []
