"""The manual: complete, true, and the files made from it up to date."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from vectorizer import config, manual
from vectorizer.sections import SECTIONS, TABLE
from vectorizer.settings import Settings

ROOT = Path(__file__).resolve().parents[2]


def test_every_key_stands_in_the_yaml_with_its_default() -> None:
    document = yaml.safe_load(manual.yaml_manual())
    assert list(document) == list(SECTIONS)
    for row in TABLE:
        if row.name == "replication.enabled":
            # Said explicitly it would keep a role from the environment without effect.
            assert "  # enabled: false\n" in manual.yaml_manual()
            assert "enabled" not in document["replication"]
        else:
            assert document[row.section][row.key] == row.default, row.name


def test_every_key_has_its_line_in_the_markdown() -> None:
    for row in TABLE:
        (line,) = [
            line
            for line in manual.markdown_manual().splitlines()
            if line.startswith(f"| `{row.key}` |") and f"`{row.environment[0]}`" in line
        ]
        assert row.accepted in line
        assert row.help in line
        assert line.count("|") == 6


def test_sizes_are_shown_in_a_unit() -> None:
    assert "journal_file_bytes: 67108864  # 64 MiB\n" in manual.yaml_manual()
    assert "`1073741824` (1 GiB)" in manual.markdown_manual()


@pytest.mark.parametrize(
    ("path", "text"),
    [("conf/config.yml", manual.yaml_manual()), ("docs/CONFIGURATION.md", manual.markdown_manual())],
    ids=["yaml", "markdown"],
)
def test_the_generated_file_is_up_to_date(path: str, text: str) -> None:
    """If not: vectorizer config document yaml > conf/config.yml, ... markdown > docs/CONFIGURATION.md."""
    assert (ROOT / path).read_text(encoding="utf-8") == text


def test_the_manual_as_configuration_changes_nothing() -> None:
    settings = config.load(str(ROOT / "conf/config.yml"), environment={})
    assert [row.value for row in settings] == [row.value for row in Settings()]
    assert settings.warnings == ()


def test_the_manual_lets_the_environment_choose_the_role() -> None:
    """The container image ships it, and the compose file of the requirements sets the role by environment."""
    environment = {"REPLICATION_ROLE": "replica", "REPLICATION_MASTER_ADDRESS": "vectorizer-master:7001"}
    settings = config.load(str(ROOT / "conf/config.yml"), environment=environment)
    assert settings.replication.role == "replica"


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("development", "standalone"),
        ("production", "standalone"),
        ("master", "master"),
        ("replica", "replica"),
    ],
)
def test_the_configurations_to_copy(name: str, role: str) -> None:
    settings = config.load(str(ROOT / f"conf/config.{name}.yml"), environment={})
    assert settings.replication.role == role
    assert settings.warnings == ()


def test_master_and_replica_to_copy_run_side_by_side() -> None:
    master, replica = (
        config.load(str(ROOT / f"conf/config.{name}.yml"), environment={}) for name in ("master", "replica")
    )
    assert replica.replication.master_address == master.replication.bind_address
    assert replica.server.port != master.server.port
    assert replica.storage.data_dir != master.storage.data_dir


@pytest.mark.parametrize(
    ("role", "address"),
    [("master", "bind_address"), ("replica", "master_address")],
    ids=["master", "replica"],
)
def test_quick_start_of_the_requirements(role: str, address: str, tmp_path: Path) -> None:
    """Requirements, Quick Start Examples, Example 1: copy the development preset and add the section."""
    preset = (ROOT / "conf/config.development.yml").read_text(encoding="utf-8")
    section = f'replication:\n  enabled: true\n  role: "{role}"\n  {address}: "127.0.0.1:7001"\n'
    assert f"#   {address}:" in preset
    copy = tmp_path / "config.yml"
    copy.write_text(preset + section, encoding="utf-8")
    settings = config.load(str(copy), environment={})
    assert settings.replication.role == role
    uncommented = [line.removeprefix("# ") for line in preset.splitlines()]
    start = max(n for n, line in enumerate(uncommented) if line == f'  role: "{role}"') - 2
    copy.write_text(preset + "\n".join(uncommented[start : start + 4]) + "\n", encoding="utf-8")
    assert config.load(str(copy), environment={}).replication == settings.replication
