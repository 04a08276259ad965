"""Reading the file, the environment and the flags; every mistake ends in one sentence."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from vectorizer import config
from vectorizer.errors import ConfigurationError
from vectorizer.sections import BY_ENVIRONMENT, TABLE
from vectorizer.settings import Settings, Source

ROOT = Path(__file__).resolve().parents[2]
MASTER_EXAMPLE = """\
replication:
  enabled: true
  role: "master"
  bind_address: "0.0.0.0:7001"
  heartbeat_interval_secs: 5
  replica_timeout_secs: 30
  log_size: 1000000
"""
REPLICA_EXAMPLE = """\
replication:
  enabled: true
  role: "replica"
  master_address: "192.168.1.10:7001"
  reconnect_interval_secs: 5
"""


@pytest.fixture(autouse=True)
def in_an_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def load(text: str | bytes, **environment: str) -> Settings:
    Path("c.yml").write_bytes(text.encode() if isinstance(text, str) else text)
    return config.load("c.yml", environment=environment)


class TestFile:
    def test_master_of_the_requirements(self) -> None:
        """Requirements, Configuration via YAML: Master Node."""
        replication = load(MASTER_EXAMPLE).replication
        assert replication.enabled is True
        assert replication.role == "master"
        assert replication.bind_address == "0.0.0.0:7001"
        assert replication.log_size == 1_000_000

    def test_replica_of_the_requirements(self) -> None:
        """Requirements, Configuration via YAML: Replica Node."""
        replication = load(REPLICA_EXAMPLE).replication
        assert replication.role == "replica"
        assert replication.master_address == "192.168.1.10:7001"
        assert replication.reconnect_interval_secs == 5

    def test_the_place_of_each_value_is_known(self) -> None:
        settings = load(MASTER_EXAMPLE)
        assert settings.source("replication.log_size") is Source.YAML
        assert settings.where("replication.log_size") == "c.yml, line 7"
        assert settings.source("server.port") is Source.DEFAULT

    @pytest.mark.parametrize(
        "text", ["", "\n", "# nothing\n", "---\n", "null\n", "replication:\n", "{}\n", "\ufeff"]
    )
    def test_a_file_may_say_nothing(self, text: str) -> None:
        assert load(text) == Settings()

    def test_all_spellings(self) -> None:
        assert load("replication: {heartbeat_interval: 0.5}").replication.heartbeat_interval_secs == 0.5
        assert load("replication: {heartbeat_interval_secs: 1}").replication.heartbeat_interval_secs == 1

    def test_a_text_that_looks_like_a_date_but_is_none(self) -> None:
        assert load("storage: {data_dir: 2024-99-99}").storage.data_dir == "2024-99-99"

    def test_an_alias_stands_for_its_value(self) -> None:
        settings = load("server: {port: &port 7000}\nreplication: {log_size: *port}")
        assert settings.server.port == settings.replication.log_size == 7000

    @pytest.mark.parametrize(
        ("text", "sentence"),
        [
            ("replicaton: {}", "unknown key 'replicaton' (from c.yml, line 1); did you mean 'replication'?"),
            ("\nrole: master", "unknown key 'role' (from c.yml, line 2); did you mean 'replication.role'?"),
            (
                "replication:\n  log_sise: 5",
                "'replication.log_sise' (from c.yml, line 2); did you mean 'replication.log_size'?",
            ),
            (
                "replication:\n  log_size: '5'",
                "replication.log_size cannot be the text '5' (from c.yml, line 2); "
                "accepted: a whole number from 1 to 1000000000",
            ),
            ("replication:\n  log_size: yes", "cannot be true (from c.yml, line 2)"),
            ("replication:\n  log_size:", "cannot be empty (from c.yml, line 2)"),
            ("replication:\n  log_size: [1]", "cannot be a list (from c.yml, line 2)"),
            ("replication:\n  log_size: {a: 1}", "cannot be a mapping (from c.yml, line 2)"),
            ("replication:\n  log_size: 2024-01-01", "cannot be a date (from c.yml, line 2)"),
            ("replication:\n  log_size: " + "9" * 5000, "cannot be the text '999"),
            (
                "replication:\n  role: master",
                "role master needs replication.bind_address (from c.yml, line 2)",
            ),
            ("replication:\n  role: slave", "accepted: standalone, master or replica"),
            (
                "server:\n  port: 1\n  port: 2",
                "server.port is said twice, first in c.yml, line 2 (from c.yml, line 3)",
            ),
            (
                "replication:\n  heartbeat_interval: 1\n  heartbeat_interval_secs: 1",
                "replication.heartbeat_interval_secs is said twice",
            ),
            (
                "server:\n  port: 1\nserver:\n  host: a",
                "section 'server' stands here twice (from c.yml, line 3)",
            ),
            ("replication: 5", "there is a single value where keys of section 'replication' are expected"),
            (
                "- replication",
                "there is a list where sections such as replication: are expected (from c.yml)",
            ),
            (
                "server: [1]",
                "there is a list where keys of section 'server' are expected (from c.yml, line 1)",
            ),
            ("[a]: 1", "a key cannot be a list (from c.yml, line 1)"),
            ("{a: b}: 1", "a key cannot be a mapping (from c.yml, line 1)"),
            ("server: {port: !!python/object:os.system 1}", "is not allowed (from c.yml, line 1)"),
            ("server: {port: !custom 1}", "the tag '!custom' is not allowed"),
            ("a: [", "the file is not YAML"),
            ("a: 1\n---\nb: 1", "the file is not YAML: expected a single document"),
            ("a: *b", "the file is not YAML: found undefined alias"),
            ("a: \0", "the file is not YAML: unacceptable character"),
            (
                "replication:\n  bind_address: [::1]:7001",
                "an address with brackets needs quotes (from c.yml, line 2)",
            ),
            ("[" * 100_000, "nested too deeply (from c.yml)"),
            ("#" + "x" * (1 << 20), "larger than 1048576 bytes (from c.yml)"),
            (b"a: \xff", "the file is not UTF-8 at byte 3 (from c.yml)"),
        ],
    )
    def test_each_mistake_has_its_sentence(self, text: str | bytes, sentence: str) -> None:
        with pytest.raises(ConfigurationError) as caught:
            load(text)
        assert sentence in str(caught.value)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 500

    @pytest.mark.parametrize(
        ("path", "why"),
        [("missing.yml", "No such file"), (".", "Is a directory"), ("a\0b", "null byte")],
    )
    def test_a_file_that_cannot_be_read(self, path: str, why: str) -> None:
        with pytest.raises(ConfigurationError, match=f"cannot read the configuration: .*{why}"):
            config.load(path, environment={})

    def test_the_default_file_is_read_if_it_exists(self) -> None:
        assert config.load(environment={}) == Settings()
        Path("config.yml").write_text("server: {port: 7}")
        assert config.load(environment={}).server.port == 7
        Path("other.yml").write_text("server: {host: localhost}")
        assert config.load("other.yml", environment={}).server.port == 15002

    def test_a_default_file_that_leads_nowhere_is_not_passed_over(self) -> None:
        Path("config.yml").symlink_to("missing.yml")
        with pytest.raises(ConfigurationError, match="cannot read"):
            config.load(environment={})

    @given(st.text(st.characters(codec="utf-8"), max_size=60))
    def test_any_text_loads_or_has_its_sentence(self, text: str) -> None:
        try:
            load(text)
        except ConfigurationError as error:
            assert "\n" not in str(error)

    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(["replication", "server", "role", "log_size", "port", "x"]),
                    inner,
                    max_size=4,
                )
            ),
            max_leaves=8,
        )
    )
    def test_any_document_loads_or_has_its_sentence(self, document: object) -> None:
        try:
            load(yaml.safe_dump(document))
        except ConfigurationError as error:
            assert "c.yml" in str(error)


class TestEnvironment:
    def test_master_of_the_requirements(self) -> None:
        """Requirements, Configuration via Environment Variables: Master Node."""
        replication = load(
            "",
            REPLICATION_ROLE="master",
            REPLICATION_BIND_ADDRESS="0.0.0.0:7001",
            REPLICATION_HEARTBEAT_INTERVAL="5",
            REPLICATION_LOG_SIZE="1000000",
        ).replication
        assert (replication.enabled, replication.role) == (True, "master")
        assert replication.bind_address == "0.0.0.0:7001"
        assert replication.heartbeat_interval_secs == 5
        assert replication.log_size == 1_000_000

    def test_replica_of_the_requirements(self) -> None:
        """Requirements, Configuration via Environment Variables: Replica Node."""
        replication = load(
            "",
            REPLICATION_ROLE="replica",
            REPLICATION_MASTER_ADDRESS="192.168.1.10:7001",
            REPLICATION_RECONNECT_INTERVAL="5",
        ).replication
        assert (replication.enabled, replication.role) == (True, "replica")
        assert replication.master_address == "192.168.1.10:7001"

    @pytest.mark.parametrize("variable", sorted(BY_ENVIRONMENT))
    def test_every_variable_has_its_effect(self, variable: str) -> None:
        row = BY_ENVIRONMENT[variable]
        text = {
            "replication.role": "standalone",
            "replication.bind_address": "a:1",
            "replication.master_address": "a:1",
            "server.advertise_address": "a:1",
            "replication.advertise_address": "a:1",
        }.get(row.name, str(row.default) or "a text of some length")
        pair = {"VECTORIZER_SECURITY_TLS_CERTIFICATE": "f", "VECTORIZER_SECURITY_TLS_KEY": "f"}
        settings = load("", **{**(pair if variable in pair else {}), variable: text})
        assert settings.source(row.name) is Source.ENVIRONMENT
        assert settings.where(row.name) == f"environment variable {variable}"
        assert settings.warnings == ()

    def test_the_environment_hides_the_file_and_flags_hide_both(self) -> None:
        Path("c.yml").write_text("server: {port: 1, host: a}\nstorage: {data_dir: x}")
        settings = config.load(
            "c.yml",
            environment={"VECTORIZER_PORT": "2", "VECTORIZER_HOST": "b"},
            flags={"server.port": "3"},
        )
        assert settings.server.port == 3
        assert settings.where("server.port") == "flag --port"
        assert settings.server.host == "b"
        assert settings.storage.data_dir == "x"

    def test_the_process_environment_is_the_default(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("VECTORIZER_PORT", "7")
        assert config.load().server.port == 7

    def test_empty_counts_as_not_set(self) -> None:
        settings = load("replication: {log_size: 7}", REPLICATION_LOG_SIZE="", REPLICATION_MASTER_ADDRESS=" ")
        assert settings.replication.log_size == 7
        assert settings.source("replication.master_address") is Source.DEFAULT

    def test_unknown_names_warn_and_have_no_effect(self) -> None:
        settings = load(
            "", REPLICATION_HEARTBEAT_INTERVALL="1", VECTORIZER_QQQ="", PATH="/bin", VECTORIZER_NO_SKIP="1"
        )
        assert settings.warnings == (
            "environment variable REPLICATION_HEARTBEAT_INTERVALL is not known and has no effect; "
            "did you mean REPLICATION_HEARTBEAT_INTERVAL?",
            "environment variable VECTORIZER_QQQ is not known and has no effect",
        )

    def test_no_warning_about_what_our_scripts_use(self) -> None:
        files = [
            path for folder in ("scripts", ".ci") for path in (ROOT / folder).iterdir() if path.is_file()
        ]
        text = "".join(path.read_text(encoding="utf-8") for path in files)
        used = set(re.findall(r"\bVECTORIZER_[A-Z_]+", text))
        assert used <= config.SCRIPT_VARIABLES | set(BY_ENVIRONMENT)
        assert load("", **dict.fromkeys(config.SCRIPT_VARIABLES, "1")).warnings == ()

    def test_two_spellings_must_agree(self) -> None:
        names = BY_ENVIRONMENT["REPLICATION_HEARTBEAT_INTERVAL"].environment
        assert load("", **dict.fromkeys(names, "2")).replication.heartbeat_interval_secs == 2
        with pytest.raises(
            ConfigurationError, match="said twice, first in environment variable REPLICATION_"
        ):
            load("", **{names[0]: "1", names[-1]: "2"})

    @pytest.mark.parametrize(
        ("variable", "text"),
        [
            ("REPLICATION_ROLE", "slave"),
            ("REPLICATION_LOG_SIZE", "many"),
            ("REPLICATION_LOG_SIZE", "0"),
            ("REPLICATION_ENABLED", "maybe"),
            ("VECTORIZER_PORT", "tcp://10.0.0.1:15002"),
            ("REPLICATION_MASTER_ADDRESS", "10.0.0.1"),
        ],
    )
    def test_a_text_that_cannot_be_used_names_its_variable(self, variable: str, text: str) -> None:
        with pytest.raises(ConfigurationError, match=f"environment variable {variable}"):
            load("", **{variable: text})


class TestFlags:
    def test_every_flag(self) -> None:
        flags = {row.name: str(row.default) for row in TABLE if row.flag}
        assert sorted(flags) == ["logging.level", "server.host", "server.port", "storage.data_dir"]
        settings = config.load(flags=flags, environment={})
        assert {row.setting.name for row in settings if row.source is Source.FLAG} == set(flags)

    def test_a_flag_that_cannot_be_used(self) -> None:
        with pytest.raises(ConfigurationError, match=re.escape("(from flag --port)")):
            config.load(flags={"server.port": "99999"}, environment={})


def test_ignore_stored_is_handed_on() -> None:
    assert config.load(environment={}, ignore_stored=True).ignore_stored is True
    assert config.load(environment={}).ignore_stored is False
