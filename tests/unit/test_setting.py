"""One setting: typed values are checked strictly, texts are parsed first, refusals name what is accepted."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vectorizer.errors import ConfigurationError
from vectorizer.sections import BY_NAME, TABLE
from vectorizer.setting import Setting, setting, settings_of, shown

ENABLED = BY_NAME["replication.enabled"]
LOG_SIZE = BY_NAME["replication.log_size"]
HEARTBEAT = BY_NAME["replication.heartbeat_interval_secs"]
ROLE = BY_NAME["replication.role"]
BIND = BY_NAME["replication.bind_address"]
MASTER = BY_NAME["replication.master_address"]
HOST = BY_NAME["server.host"]
DATA_DIR = BY_NAME["storage.data_dir"]
KEYS_FILE = BY_NAME["security.keys_file"]
SECRET = BY_NAME["security.replication_secret"]


@pytest.mark.parametrize(
    ("row", "value", "expected"),
    [
        (ENABLED, True, True),
        (LOG_SIZE, 1, 1),
        (LOG_SIZE, 1_000_000_000, 1_000_000_000),
        (HEARTBEAT, 5, 5.0),
        (HEARTBEAT, 0.1, 0.1),
        (ROLE, "master", "master"),
        (ROLE, "Master", "master"),
        (BIND, "0.0.0.0:0", "0.0.0.0:0"),
        (BIND, "", ""),
        (BIND, None, ""),
        (MASTER, "m:7001", "m:7001"),
        (MASTER, None, ""),
        (HOST, "[::1]", "::1"),
        (DATA_DIR, "./data", "./data"),
    ],
)
def test_typed_values_accepted(row: Setting, value: Any, expected: object) -> None:
    checked = row.checked(value, "here")
    assert checked == expected
    assert type(checked) is type(expected)


@pytest.mark.parametrize(
    ("row", "value"),
    [
        (ENABLED, 1),
        (ENABLED, "true"),
        (ENABLED, None),
        (LOG_SIZE, True),
        (LOG_SIZE, "5"),
        (LOG_SIZE, 5.0),
        (LOG_SIZE, 0),
        (LOG_SIZE, -1),
        (LOG_SIZE, 10**4000),
        (LOG_SIZE, None),
        (LOG_SIZE, []),
        (LOG_SIZE, {}),
        (HEARTBEAT, True),
        (HEARTBEAT, "5"),
        (HEARTBEAT, 0),
        (HEARTBEAT, math.nan),
        (HEARTBEAT, math.inf),
        (HEARTBEAT, 10**4000),
        (ROLE, "slave"),
        (ROLE, 1),
        (ROLE, None),
        (BIND, "7001"),
        (BIND, 7001),
        (MASTER, "m:0"),
        (MASTER, "m"),
        (HOST, None),
        (HOST, ""),
        (HOST, "127.0.0.1:80"),
        (DATA_DIR, ""),
        (DATA_DIR, "a\0b"),
        (DATA_DIR, "\ud800"),
        (KEYS_FILE, "\ud800"),
        (SECRET, "\ud800" + 16 * "x"),
        (DATA_DIR, None),
    ],
)
def test_typed_values_refused(row: Setting, value: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        row.checked(value, "config.yml, line 3")
    error = caught.value
    assert error.key == row.name
    assert error.source == "config.yml, line 3"
    assert error.accepted == row.accepted
    assert row.name in str(error)
    assert row.accepted in str(error)
    assert len(str(error)) < 400
    assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("row", "text", "expected"),
    [
        (ENABLED, "true", True),
        (ENABLED, " ON ", True),
        (ENABLED, "1", True),
        (ENABLED, "No", False),
        (ENABLED, "0", False),
        (LOG_SIZE, "10", 10),
        (LOG_SIZE, " +10\n", 10),
        (HEARTBEAT, "5", 5.0),
        (HEARTBEAT, "0.1", 0.1),
        (HEARTBEAT, ".5", 0.5),
        (HEARTBEAT, "1e-1", 0.1),
        (ROLE, "MASTER", "master"),
        (MASTER, "vectorizer-master:7001", "vectorizer-master:7001"),
        (DATA_DIR, "/app/data", "/app/data"),
    ],
)
def test_texts_accepted(row: Setting, text: str, expected: object) -> None:
    parsed = row.parsed(text, "there")
    assert parsed == expected
    assert type(parsed) is type(expected)


@pytest.mark.parametrize(
    ("row", "text"),
    [
        (ENABLED, "maybe"),
        (LOG_SIZE, "1_0"),
        (LOG_SIZE, "1.0"),
        (LOG_SIZE, "0x10"),
        (LOG_SIZE, "٣"),
        (LOG_SIZE, "9" * 5000),
        (HEARTBEAT, "nan"),
        (HEARTBEAT, "inf"),
        (HEARTBEAT, "1e999"),
        (HEARTBEAT, "5s"),
        (ROLE, "leader"),
        (MASTER, "::1:7001"),
    ],
)
def test_texts_refused(row: Setting, text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        row.parsed(text, "environment variable X")
    assert "environment variable X" in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
def test_every_default_is_accepted_in_every_form(row: Setting) -> None:
    assert row.checked(row.default, "here") == row.default
    if row.default != "":
        assert row.parsed(str(row.default), "here") == row.default
    assert row.help.endswith(".")
    assert row.accepted


@given(value=st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary()))
@pytest.mark.parametrize("row", [ENABLED, LOG_SIZE, HEARTBEAT, ROLE, BIND, MASTER, HOST, DATA_DIR])
def test_any_value_is_accepted_or_refused_in_a_sentence(row: Setting, value: Any) -> None:
    try:
        checked = row.checked(value, "here")
    except ConfigurationError as error:
        assert "\n" not in str(error)
    else:
        assert row.checked(checked, "here") == checked


def test_names_in_each_source() -> None:
    assert HEARTBEAT.spellings == ("heartbeat_interval_secs", "heartbeat_interval")
    assert HEARTBEAT.environment == (
        "REPLICATION_HEARTBEAT_INTERVAL",
        "REPLICATION_HEARTBEAT_INTERVAL_SECS",
        "VECTORIZER_REPLICATION_HEARTBEAT_INTERVAL",
        "VECTORIZER_REPLICATION_HEARTBEAT_INTERVAL_SECS",
    )
    assert DATA_DIR.environment == ("VECTORIZER_DATA_DIR", "VECTORIZER_STORAGE_DATA_DIR")
    assert BY_NAME["logging.level"].environment == ("VECTORIZER_LOG_LEVEL", "VECTORIZER_LOGGING_LEVEL")
    assert BY_NAME["index.recall"].environment == ("VECTORIZER_INDEX_RECALL",)


def test_accepted_is_readable() -> None:
    assert ENABLED.accepted == "true or false"
    assert LOG_SIZE.accepted == "a whole number from 1 to 1000000000"
    assert HEARTBEAT.accepted == "a number from 0.01 to 3600"
    assert ROLE.accepted == "standalone, master or replica"
    assert "0.0.0.0:7001" in BIND.accepted
    assert "port 0" not in MASTER.accepted
    assert HOST.accepted == "a host name or IP address"
    assert DATA_DIR.accepted == "the path of a directory"


def test_the_refusal_of_an_address_says_why() -> None:
    with pytest.raises(ConfigurationError, match="no port"):
        BIND.checked("localhost", "here")
    with pytest.raises(ConfigurationError, match="port 0 cannot be connected to"):
        MASTER.checked("localhost:0", "here")


def test_shown() -> None:
    assert shown(None) == "empty"
    assert shown(True) == "true"
    assert shown(False) == "false"
    assert shown("x" * 100) == "the text '" + "x" * 60 + "...'"
    assert shown(12) == "12"
    assert shown(10**5000) == "a number of more than 30 digits"
    assert shown(1.0) == "1.0"
    assert shown({}) == "a mapping"
    assert shown([]) == shown(()) == "a list"
    assert shown(b"") == "a bytes"


def test_a_text_setting_must_say_its_kind() -> None:
    with pytest.raises(TypeError, match="kind"):
        setting("text", "Does something.")


def test_rows_come_from_the_dataclass() -> None:
    from vectorizer.sections import Logging

    level, form = settings_of("logging", Logging)
    assert (level.name, level.default, level.flag) == ("logging.level", "info", "--log-level")
    assert (form.kind, form.choices) == ("choice", ("text", "json"))
