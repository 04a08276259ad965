"""Merging of sources: which value is in force, where it was said, and live changes that forget nothing."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vectorizer.errors import ConfigurationError
from vectorizer.sections import BY_NAME, TABLE
from vectorizer.settings import Override, Said, Settings, Source, find, nearest_name

ROLE = "replication.role"
ENABLED = "replication.enabled"
BIND = "replication.bind_address"
MASTER = "replication.master_address"
LOG_SIZE = "replication.log_size"


def said(**sources: dict[str, Any]) -> Settings:
    """Return the settings when each source, by its name in small letters, says these values."""
    places = {
        Source(source): {name: Said(value, f"{source} of {name}") for name, value in values.items()}
        for source, values in sources.items()
    }
    return Settings.merged(places)


def test_nothing_said_is_all_defaults() -> None:
    assert Settings() == Settings.merged({})
    for row in Settings():
        assert row.value == row.setting.default
        assert row.source is Source.DEFAULT
        assert row.where == "default"


def test_settings_cannot_be_changed_in_place() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().replication.role = "master"  # type: ignore[misc]


def test_a_stronger_source_hides_a_weaker_one() -> None:
    order = list(Source)[1:]
    assert [source.value for source in order] == ["yaml", "environment", "rest", "flag"]
    for strongest in range(len(order)):
        values = {order[rank].value: {LOG_SIZE: rank + 10} for rank in range(strongest + 1)}
        settings = said(**values)
        assert settings.replication.log_size == settings.value(LOG_SIZE) == strongest + 10
        assert settings.source(LOG_SIZE) is order[strongest]
        assert settings.where(LOG_SIZE) == f"{order[strongest].value} of {LOG_SIZE}"


def test_every_spelling_asks_for_the_same_setting() -> None:
    settings = said(yaml={"replication.heartbeat_interval_secs": 0.5})
    for spelling in ("replication.heartbeat_interval_secs", "replication.heartbeat_interval"):
        assert settings.value(spelling) == 0.5
        assert settings.source(spelling) is Source.YAML
    with pytest.raises(KeyError):
        settings.source("replication.nothing")


class TestRole:
    """DESIGN: a role other than standalone enables, unless `enabled: false` is said explicitly."""

    @pytest.mark.parametrize("source", ["yaml", "environment", "rest"])
    def test_a_role_enables(self, source: str) -> None:
        settings = said(**{source: {ROLE: "master", BIND: "0.0.0.0:7001"}})
        assert settings.replication.enabled is True
        assert settings.replication.role == "master"
        assert settings.source(ENABLED) is Source(source)

    def test_said_together(self) -> None:
        settings = said(yaml={ENABLED: True, ROLE: "replica", MASTER: "m:7001"})
        assert settings.replication.enabled is True
        assert settings.replication.role == "replica"

    def test_explicit_false_keeps_it_standalone(self) -> None:
        settings = said(yaml={ENABLED: False, ROLE: "master"})
        assert settings.replication.enabled is False
        assert settings.replication.role == "standalone"
        assert settings.where(ROLE) == f"yaml of {ENABLED}"

    def test_explicit_false_keeps_it_standalone_across_sources(self) -> None:
        assert said(yaml={ENABLED: False}, environment={ROLE: "master"}).replication.role == "standalone"
        assert said(yaml={ROLE: "master"}, environment={ENABLED: False}).replication.role == "standalone"
        both = said(yaml={ENABLED: False}, environment={ENABLED: True, ROLE: "master", BIND: "a:1"})
        assert both.replication.role == "master"

    def test_a_role_given_by_rest_overrides_an_explicit_false(self) -> None:
        settings = said(yaml={ENABLED: False}, rest={ROLE: "master", BIND: "a:1"})
        assert settings.replication.enabled is True
        assert settings.replication.role == "master"
        assert settings.source(ENABLED) is Source.REST

    def test_enabled_without_a_role_is_standalone(self) -> None:
        settings = said(yaml={ENABLED: True})
        assert settings.replication.enabled is False
        assert settings.replication.role == "standalone"

    @pytest.mark.parametrize(
        ("role", "needed", "example"), [("master", BIND, "0.0.0.0:7001"), ("replica", MASTER, "node-1:7001")]
    )
    def test_a_role_needs_its_address(self, role: str, needed: str, example: str) -> None:
        with pytest.raises(ConfigurationError) as caught:
            said(environment={ROLE: role})
        assert caught.value.key == needed
        assert caught.value.source == f"environment of {ROLE}"
        assert example in str(caught.value)

    @given(
        st.dictionaries(
            st.sampled_from(["yaml", "environment", "rest"]),
            st.fixed_dictionaries(
                {},
                optional={
                    ENABLED: st.booleans(),
                    ROLE: st.sampled_from(["standalone", "master", "replica"]),
                },
            ),
        )
    )
    def test_enabled_is_true_exactly_if_the_role_is_not_standalone(self, sources: dict[str, Any]) -> None:
        sources.setdefault("yaml", {}).update({BIND: "a:1", MASTER: "b:2"})
        settings = said(**sources)
        assert settings.replication.enabled is (settings.replication.role != "standalone")
        assert Settings.merged(settings.said) == settings


class TestReplaced:
    """Live changes by POST /replication/configure."""

    def test_what_is_not_named_stays(self) -> None:
        before = said(yaml={LOG_SIZE: 10, ROLE: "master", BIND: "0.0.0.0:7001"})
        after = before.replaced({"heartbeat_interval": 1, "bind_address": "a:2"}, section="replication")
        assert after.replication.heartbeat_interval_secs == 1
        assert after.replication.bind_address == "a:2"
        assert after.replication.log_size == 10
        assert after.replication.role == "master"
        assert after.source(BIND) is Source.REST
        assert after.source(LOG_SIZE) is Source.YAML
        assert before.replication.bind_address == "0.0.0.0:7001"
        again = after.replaced({"log_size": 20}, section="replication")
        assert again.stored() == {
            "replication.heartbeat_interval_secs": 1,
            BIND: "a:2",
            LOG_SIZE: 20,
        }

    def test_what_is_stored_can_be_applied_at_the_next_start(self) -> None:
        running = Settings().replaced(
            {"role": "replica", "master_address": "m:1", "reconnect_interval": 0.5}, section="replication"
        )
        kept = json.loads(json.dumps(running.stored()))
        assert Settings().replaced(kept) == running

    def test_a_flag_keeps_its_effect(self) -> None:
        settings = said(flag={"server.port": 15003}).replaced({"server.port": 15004})
        assert settings.server.port == 15003
        assert settings.overrides() == []
        assert settings.stored() == {"server.port": 15004}

    def test_a_later_role_overrides_an_earlier_false(self) -> None:
        master = Settings().replaced({ROLE: "master", BIND: "a:1"})
        off = master.replaced({ENABLED: False})
        assert off.replication.role == "standalone"
        assert off.replaced({LOG_SIZE: 5}).replication.role == "standalone"
        assert off.replaced({ENABLED: True}).replication.role == "master"
        assert off.replaced({ROLE: "standalone"}).replaced({ENABLED: True}).replication.role == "standalone"
        assert off.replaced({ROLE: "master"}).replication.role == "master"
        assert off.replaced({ROLE: "master", ENABLED: False}).replication.role == "standalone"

    @pytest.mark.parametrize(
        "values",
        [
            {"role": "leader"},
            {"role": "replica", "master_address": None},
            {"log_size": "5"},
            {"log_size": True},
            {"heartbeat_intreval": 5},
            {"server.port": 1},
            {"heartbeat_interval": 1, "heartbeat_interval_secs": 2},
            {"bind_address": "a"},
        ],
    )
    def test_what_cannot_be_used_is_refused(self, values: dict[str, Any]) -> None:
        settings = said(yaml={ROLE: "master", BIND: "a:1"})
        with pytest.raises(ConfigurationError) as caught:
            settings.replaced(values, section="replication")
        assert "REST" in str(caught.value)

    def test_null_is_no_address(self) -> None:
        settings = said(yaml={MASTER: "m:1"}).replaced({MASTER: None})
        assert settings.replication.master_address == ""

    def test_other_sources(self) -> None:
        settings = Settings().replaced({LOG_SIZE: 5}, source="flag")
        assert settings.source(LOG_SIZE) is Source.FLAG
        assert settings.where(LOG_SIZE) == "flag"
        assert settings.stored() == {}
        with pytest.raises(ValueError, match="nowhere"):
            settings.replaced({}, source="nowhere")

    def test_the_rest_is_carried_along(self) -> None:
        settings = Settings.merged({}, remarks=("a remark",), ignore_stored=True).replaced({LOG_SIZE: 5})
        assert settings.warnings == ("a remark",)
        assert settings.ignore_stored is True


def test_overrides_name_what_is_hidden() -> None:
    settings = said(
        yaml={LOG_SIZE: 10, "server.port": 1},
        environment={"server.port": 2},
        rest={LOG_SIZE: 20, "server.port": 3, "server.host": "a", "storage.fsync": "always"},
    )
    assert sorted(settings.overrides()) == [
        Override(LOG_SIZE, 20, 10, Source.YAML),
        Override("server.host", "a", "127.0.0.1", Source.DEFAULT),
        Override("server.port", 3, 2, Source.ENVIRONMENT),
    ]
    assert settings.overrides(Source.ENVIRONMENT) == []
    assert said(environment={LOG_SIZE: 1}).overrides(Source.ENVIRONMENT)[0].hidden == 1_000_000


def test_heartbeats_slower_than_the_timeout_are_doubtful() -> None:
    slow = {"replication.heartbeat_interval_secs": 30.0}
    assert said(yaml=slow).warnings == ()
    (warning,) = said(yaml=slow | {ROLE: "master", BIND: "a:1"}).warnings
    assert "replica_timeout_secs (30)" in warning
    assert "heartbeat_interval_secs (30)" in warning


def test_heartbeats_slower_than_the_lag_that_writes_need_are_doubtful() -> None:
    master: dict[str, Any] = {ROLE: "master", BIND: "a:1", "replication.min_replicas_max_lag_secs": 5.0}
    assert said(yaml=master).warnings == ()
    (warning,) = said(yaml=master | {"replication.min_replicas_to_write": 1}).warnings
    assert "min_replicas_max_lag_secs (5)" in warning
    assert "heartbeat_interval_secs (5)" in warning


@pytest.mark.parametrize(
    ("values", "culprit"),
    [
        ({"index.segment_rows": 300_000}, "index.segment_rows"),
        ({"index.segment_rows_max": 1000}, "index.segment_rows_max"),
        ({"storage.journal_bytes_max": 1 << 20}, "storage.journal_bytes_max"),
    ],
)
def test_sizes_must_fit_into_each_other(values: dict[str, int], culprit: str) -> None:
    with pytest.raises(ConfigurationError, match="cannot be more than") as caught:
        said(yaml=values)
    assert caught.value.key == culprit
    assert caught.value.source == f"yaml of {culprit}"


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("replication.heartbeat_intreval", "replication.heartbeat_interval_secs"),
        ("replication.logsize", "replication.log_size"),
        ("replicaton", "replication"),
        ("role", "replication.role"),
        ("heartbeat_interval", "replication.heartbeat_interval_secs"),
        ("server.data_dir", "storage.data_dir"),
        ("portt", "server.port"),
        ("bind_adress", "replication.bind_address"),
        ("zzzzzz", None),
        ("", None),
        ("x" * 100_000, None),
    ],
)
def test_nearest(name: str, nearest: str | None) -> None:
    assert nearest_name(name) == nearest
    with pytest.raises(ConfigurationError) as caught:
        find(name, "config.yml, line 7")
    error = caught.value
    assert error.nearest == nearest
    assert len(str(error)) < 500
    if nearest is None:
        assert "server" in str(error.accepted)


def test_an_unknown_key_of_a_section_names_its_keys() -> None:
    with pytest.raises(ConfigurationError, match="format, level"):
        find("logging.zzzzzzzz", "here")


def test_find_takes_every_spelling() -> None:
    for row in TABLE:
        for spelling in row.spellings:
            assert find(f"{row.section}.{spelling}", "here") is row is BY_NAME[row.name]
