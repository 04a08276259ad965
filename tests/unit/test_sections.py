"""The table: the requirements' defaults, and names that mean one thing only."""

from __future__ import annotations

from vectorizer.sections import BY_ENVIRONMENT, BY_NAME, SECTIONS, TABLE, Replication


def test_no_spelling_and_no_variable_means_two_settings() -> None:
    assert len(BY_NAME) == sum(len(row.spellings) for row in TABLE)
    assert len(BY_ENVIRONMENT) == sum(len(row.environment) for row in TABLE)
    assert len({row.flag for row in TABLE if row.flag}) == sum(row.flag is not None for row in TABLE)


def test_bare_replication_keys_name_no_section() -> None:
    assert not {row.key for row in TABLE} & set(SECTIONS)


def test_defaults_of_the_requirements() -> None:
    """Requirements, Configuration Parameters."""
    replication = Replication()
    assert replication.enabled is False
    assert replication.role == "standalone"
    assert replication.bind_address == ""
    assert replication.master_address == ""
    assert replication.heartbeat_interval_secs == 5
    assert replication.replica_timeout_secs == 30
    assert replication.log_size == 1_000_000
    assert replication.reconnect_interval_secs == 5


def test_variables_of_the_requirements() -> None:
    """Requirements, Configuration via Environment Variables."""
    names = ("ROLE", "BIND_ADDRESS", "MASTER_ADDRESS", "HEARTBEAT_INTERVAL", "LOG_SIZE", "RECONNECT_INTERVAL")
    for name in names:
        assert BY_ENVIRONMENT[f"REPLICATION_{name}"].section == "replication"
    for name in ("HOST", "PORT", "DATA_DIR", "LOG_LEVEL", "LOG_FORMAT"):
        assert f"VECTORIZER_{name}" in BY_ENVIRONMENT


def test_numbers_have_a_range_that_holds_the_default() -> None:
    for row in TABLE:
        if row.kind in ("whole", "number"):
            assert row.minimum is not None and row.maximum is not None, row.name
            assert row.minimum <= float(row.default) <= row.maximum, row.name
