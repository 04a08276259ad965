"""What holds for every script: clean shell, a --help, a line in scripts/README.md."""

from __future__ import annotations

import os
import subprocess

import pytest

from tests.cluster.harness.node import ROOT
from tests.scripts.shell import PARTS, SCRIPTS, commands, run


@pytest.mark.needs("shellcheck")
def test_shellcheck_has_nothing_to_say() -> None:
    files = [f"scripts/{name}" for name in (*commands(), *PARTS)] + [".ci/run"]
    checked = subprocess.run(["shellcheck", "-x", *files], capture_output=True, text=True, cwd=ROOT)
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize("name", commands())
def test_help_names_the_script_and_changes_nothing(name: str) -> None:
    helped = run(name, "--help")
    assert helped.returncode == 0, helped.stderr
    assert name in helped.stdout.splitlines()[0], helped.stdout
    assert len(helped.stdout.splitlines()) > 2


@pytest.mark.parametrize("name", commands())
def test_a_script_is_posix_shell_and_can_be_executed(name: str) -> None:
    path = SCRIPTS / name
    assert os.access(path, os.X_OK)
    assert path.read_text().startswith("#!/bin/sh\n")


@pytest.mark.parametrize(
    "name",
    [
        "cluster",
        "failover",
        "follow",
        "promote",
        "status",
        "switchover",
        "install",
        "uninstall",
        "stop",
        "lint",
    ],
)
def test_an_unknown_option_is_refused_with_exit_code_2(name: str) -> None:
    refused = run(name, "--no-such-option")
    assert refused.returncode == 2
    assert "--no-such-option" in refused.stderr


def test_the_readme_has_a_line_for_each_script() -> None:
    told = (SCRIPTS / "README.md").read_text()
    missing = [name for name in (*commands(), *PARTS) if f"`{name}`" not in told]
    assert not missing


@pytest.mark.parametrize("name", ["failover", "follow", "promote", "status", "switchover", "rest"])
def test_the_failover_scripts_need_no_more_than_shell_and_curl(name: str) -> None:
    text = (SCRIPTS / name).read_text()
    for program in ("python", "jq", "bash", "ensure_environment"):
        assert program not in text, f"{name} uses {program}"
