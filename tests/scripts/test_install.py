"""scripts/install and scripts/uninstall below a prefix: nothing outside it is touched."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.harness import Client, free_port, wait_until
from tests.cluster.harness.node import clean_environment
from tests.scripts.shell import run

pytestmark = pytest.mark.timeout(300)

UNITS = ("vectorizer.service", "vectorizer@.service")


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An installation that the tests of this module share, in the order in which they stand."""
    directory = tmp_path_factory.mktemp("installed")
    installed = run("install", "--prefix", directory, timeout_secs=240)
    assert installed.returncode == 0, installed.stderr
    assert f"edit {directory}/etc/vectorizer/config.yml" in installed.stdout
    yield directory


def verified(unit: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, timeout=60)


def test_a_dry_run_touches_nothing(tmp_path: Path) -> None:
    planned = run("install", "--dry-run", "--prefix", tmp_path / "nowhere")
    assert planned.returncode == 0, planned.stderr
    assert "would: write_unit vectorizer.service" in planned.stdout
    assert not (tmp_path / "nowhere").exists()


def test_the_installed_program_runs_by_itself(prefix: Path) -> None:
    program = prefix / "opt" / "vectorizer"
    told = subprocess.run(
        [program / "venv" / "bin" / "vectorizer", "config", "check", prefix / "etc/vectorizer/config.yml"],
        capture_output=True,
        text=True,
        cwd=prefix,
        timeout=60,
    )
    assert told.returncode == 0, told.stderr
    helped = subprocess.run([program / "scripts" / "failover", "--help"], capture_output=True, text=True)
    assert helped.returncode == 0


def test_the_command_of_the_unit_starts_the_installed_server_with_its_own_data(prefix: Path) -> None:
    unit = (prefix / "etc" / "systemd" / "system" / "vectorizer.service").read_text()
    [command] = [
        line.removeprefix("ExecStart=") for line in unit.splitlines() if line.startswith("ExecStart=")
    ]
    port = free_port()
    server = subprocess.Popen(
        [*command.split(), "--host", "127.0.0.1", "--port", str(port)],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        env={key: value for key, value in clean_environment().items() if key != "PYTHONPATH"},
    )
    try:
        client = Client("127.0.0.1", port)
        wait_until(lambda: client.request("GET", "/health").status == 200, "it answers", 30)
        server.send_signal(signal.SIGTERM)
        assert server.wait(20) == 0
        assert (prefix / "var" / "lib" / "vectorizer" / "LOCK").exists()
    finally:
        server.kill()
        server.wait()


@pytest.mark.needs("systemd-analyze")
@pytest.mark.parametrize("name", ["vectorizer.service", "vectorizer@one.service"])
def test_systemd_finds_nothing_wrong_with_the_units(prefix: Path, name: str, tmp_path: Path) -> None:
    units = prefix / "etc" / "systemd" / "system"
    source = "vectorizer@.service" if "@" in name else name
    (tmp_path / name).write_text((units / source).read_text())
    checked = verified(tmp_path / name)
    assert (checked.returncode, checked.stderr) == (0, ""), checked.stderr


@pytest.mark.needs("systemd-analyze")
def test_the_service_is_hardened(prefix: Path) -> None:
    unit = prefix / "etc" / "systemd" / "system" / "vectorizer.service"
    told = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", "--threshold=20", unit],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert told.returncode == 0, told.stdout[-300:]


def test_the_units_name_the_prefix_and_notify_systemd(prefix: Path) -> None:
    for name in UNITS:
        text = (prefix / "etc" / "systemd" / "system" / name).read_text()
        assert f"ExecStart={prefix}/opt/vectorizer/scripts/start --config {prefix}/etc/vectorizer/" in text
        assert "Type=notify" in text
    assert "Alias=vectorizer-master.service" in (prefix / "etc/systemd/system/vectorizer.service").read_text()


def test_the_configuration_is_not_for_everybody_to_read(prefix: Path) -> None:
    assert os.stat(prefix / "etc" / "vectorizer").st_mode & 0o007 == 0
    assert os.stat(prefix / "var" / "lib" / "vectorizer").st_mode & 0o007 == 0


def test_a_second_installation_keeps_configuration_and_data(prefix: Path) -> None:
    settings = prefix / "etc" / "vectorizer" / "config.yml"
    settings.write_text("logging:\n  level: debug\n")
    data = prefix / "var" / "lib" / "vectorizer" / "precious"
    data.write_text("data")
    again = run("install", "--prefix", prefix, timeout_secs=240)
    assert again.returncode == 0, again.stderr
    assert settings.read_text() == "logging:\n  level: debug\n"
    assert data.read_text() == "data"


def test_uninstalling_keeps_configuration_and_data_unless_purged(prefix: Path) -> None:
    planned = run("uninstall", "--dry-run", "--purge", "--prefix", prefix)
    assert (prefix / "opt" / "vectorizer").exists(), planned.stdout
    # By the installed copy, which removes itself.
    removed = subprocess.run(
        [prefix / "opt" / "vectorizer" / "scripts" / "uninstall", "--prefix", prefix],
        capture_output=True,
        text=True,
    )
    assert removed.returncode == 0, removed.stderr
    assert not (prefix / "opt" / "vectorizer").exists()
    assert not list((prefix / "etc" / "systemd" / "system").iterdir())
    assert (prefix / "var" / "lib" / "vectorizer" / "precious").read_text() == "data"
    assert (prefix / "etc" / "vectorizer" / "config.yml").exists()
    purged = run("uninstall", "--purge", "--prefix", prefix)
    assert purged.returncode == 0, purged.stderr
    assert not (prefix / "var" / "lib" / "vectorizer").exists()
    assert not (prefix / "etc" / "vectorizer").exists()


def test_what_the_installer_did_not_make_is_not_removed(tmp_path: Path) -> None:
    foreign = tmp_path / "opt" / "vectorizer"
    foreign.mkdir(parents=True)
    told = run("uninstall", "--prefix", tmp_path)
    assert foreign.exists()
    assert "left alone" in told.stderr
