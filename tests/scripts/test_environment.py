"""scripts/environment: which Python, which directory, and when it installs."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.scripts.shell import shell

ENSURE = '. "$ROOT/scripts/environment"; '


def test_a_python_that_is_too_old_or_missing_is_named(tmp_path: Path) -> None:
    old = tmp_path / "python-old"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    told = shell(ENSURE + "find_python", {"VECTORIZER_PYTHON": str(old)})
    assert told.returncode != 0
    assert "3.11" in told.stderr
    assert str(old) in told.stderr


def test_the_first_python_that_is_new_enough_is_taken() -> None:
    told = shell(ENSURE + "find_python", {"VECTORIZER_PYTHON": f"no-such-python {sys.executable}"})
    assert told.stdout.strip() == sys.executable


def test_a_directory_that_is_no_environment_is_left_alone(tmp_path: Path) -> None:
    precious = tmp_path / "home" / "thesis"
    precious.parent.mkdir()
    precious.write_text("ten years of work")
    told = shell(ENSURE + "ensure_environment", {"VECTORIZER_VENV": str(precious.parent)})
    assert told.returncode != 0
    assert "left alone" in told.stderr
    assert precious.read_text() == "ten years of work"


def test_a_current_environment_is_taken_as_it_is(tmp_path: Path) -> None:
    home = tmp_path / "venv"
    (home / "bin").mkdir(parents=True)
    (home / "bin" / "python").symlink_to(sys.executable)
    stamp = (
        "env_directory=$VECTORIZER_VENV; PYTHON=$env_directory/bin/python; "
        'for extra in base test; do environment_state >"$env_directory/installed-$extra"; done; '
    )
    told = shell(ENSURE + stamp + 'ensure_environment test; echo "$PYTHON"', {"VECTORIZER_VENV": str(home)})
    assert (told.stdout.strip(), told.stderr) == (str(home / "bin" / "python"), "")


def test_what_was_installed_from_another_requirements_file_is_not_current(tmp_path: Path) -> None:
    home = tmp_path / "venv"
    (home / "bin").mkdir(parents=True)
    (home / "bin" / "python").symlink_to(sys.executable)
    (home / "installed-base").write_text("something older")
    told = shell(
        ENSURE + "env_directory=$VECTORIZER_VENV; PYTHON=$env_directory/bin/python; environment_is_current",
        {"VECTORIZER_VENV": str(home)},
    )
    assert told.returncode != 0
