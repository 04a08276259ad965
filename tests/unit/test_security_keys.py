"""API keys: what is kept of them, the file and its changes, and the command that writes it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import gevent
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.running import wait_until
from vectorizer.cli import main
from vectorizer.errors import ConfigurationError
from vectorizer.keys import CREATED_MS_MAX, KEYS_MAX, ROLES, Key, KeyRing, Level, new_key
from vectorizer.security import Keys, Secret, Security, is_loopback
from vectorizer.settings import Settings
from vectorizer.watched_file import BYTES_MAX, WatchedFile

GOOD = "a shared secret of some length"


def written(path: Path, *keys: Key) -> Path:
    """A keys file as the command writes it: by a rename."""
    aside = path.with_suffix(".new")
    aside.write_bytes(KeyRing(keys).encode())
    aside.replace(path)
    return path


def settings(**values: object) -> Settings:
    return Settings().replaced({name.replace("__", "."): value for name, value in values.items()})


# -- the ring ----------------------------------------------------------------------------------------------


def test_a_key_is_found_by_itself_alone_and_is_not_in_the_file() -> None:
    made = [new_key(role, role, 5) for role in ROLES]
    ring = KeyRing.decode(KeyRing(key for key, _ in made).encode())
    for key, token in made:
        assert ring.find(token) == key
        assert key.level is Level[key.role.upper()]
        assert token.encode() not in ring.encode()
        assert token[12:].encode() not in ring.encode()
        for wrong in (
            token[:-1],
            token + "A",
            token[:-1] + ("B" if token[-1] == "A" else "A"),
            token.upper(),
        ):
            assert ring.find(wrong) is None
    assert ring.find(made[0][1][:12] + made[1][1][12:]) is None, "the number of one, the rest of another"


def test_keys_are_long_and_differ() -> None:
    tokens = {new_key("read", None, 0)[1] for _ in range(50)}
    assert len(tokens) == 50
    assert all(len(token) == len("vz_12345678_") + 43 for token in tokens), "256 bits in base64"


@given(st.text(max_size=80))
def test_no_text_is_taken_for_a_key(text: str) -> None:
    assert KeyRing([new_key("admin", "a", 0)[0]]).find(text) is None


def test_as_many_keys_as_are_allowed_can_be_read(tmp_path: Path) -> None:
    key, _ = new_key("admin", None, CREATED_MS_MAX)
    rows = [replace(key, name=f"{number:064d}", number=f"{number:08x}") for number in range(KEYS_MAX)]
    assert Keys(str(written(tmp_path / "keys", *rows)), required=False).count == KEYS_MAX
    with pytest.raises(ValueError, match="3000 keys already"):
        KeyRing(rows).with_key(key)


@pytest.mark.parametrize("name", ["", " ", "a b", "a/b", "-a", "x" * 65, "ä", "a\n"])
def test_odd_names_are_refused(name: str) -> None:
    if name:
        with pytest.raises(ValueError, match="cannot be the name"):
            new_key("read", name, 0)
    else:
        assert new_key("read", name, 0)[0].name.startswith("key-")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b'{"version": 2, "keys": []}',
        b'{"version": 1}',
        b'{"version": 1, "keys": [1]}',
        b'{"version": 1, "keys": [{"name": "a"}]}',
        b"[" * 100_000,
        b"\xff\xfe",
        KeyRing([new_key("read", "a", 0)[0]]).encode().replace(b'"read"', b'"root"'),
        KeyRing([new_key("read", "a", 0)[0]]).encode().replace(b'"read"', b"7"),
        KeyRing([Key("a", "read", "12345678", "zz", "yy", 0)]).encode(),
        KeyRing([new_key("read", "a", 0)[0]]).encode().replace(b'_ms": 0', b'_ms": 253402300800000'),
        KeyRing([new_key("read", "a", 0)[0]]).encode().replace(b'_ms": 0', b'_ms": -1'),
        KeyRing([new_key("read", "a", 0)[0]]).encode().replace(b'"number": "', b'"number": "\\ud800'),
    ],
)
def test_a_damaged_file_is_a_sentence(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        KeyRing.decode(content)
    (tmp_path / "keys").write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"the keys file .* cannot be used"):
        Keys(str(tmp_path / "keys"), required=False)


# -- the file ----------------------------------------------------------------------------------------------


def test_changes_of_the_file_count_while_the_server_runs(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    keys = Keys(str(path), required=False)
    assert not keys.enforced
    key, token = new_key("write", "w", 0)
    written(path, key)
    wait_until(lambda: keys.enforced, 3)
    assert keys.find(token) == key
    written(path)
    wait_until(lambda: keys.find(token) is None, 3)
    assert keys.enforced


@pytest.mark.parametrize("how", ["damaged", "too large", "a directory", "gone"])
def test_a_lost_or_damaged_file_opens_nothing(tmp_path: Path, how: str) -> None:
    key, token = new_key("write", "w", 0)
    path = written(tmp_path / "keys", key)
    keys = Keys(str(path), required=False)
    path.unlink()
    if how == "damaged":
        path.write_bytes(b"{}")
    elif how == "too large":
        path.write_bytes(b" " * (BYTES_MAX + 1))
    elif how == "a directory":
        path.mkdir()
    gevent.sleep(0.6)
    assert keys.enforced
    assert keys.find(token) == (None if how == "gone" else key)


@pytest.mark.parametrize("how", ["damaged", "a directory"])
def test_a_file_that_comes_and_cannot_be_used_locks_everybody_out(tmp_path: Path, how: str) -> None:
    path = tmp_path / "keys"
    keys = Keys(str(path), required=False)
    assert not keys.enforced
    if how == "damaged":
        path.write_bytes(b"{}")
    else:
        path.mkdir()
    wait_until(lambda: keys.enforced, 3)


def test_a_watched_file_is_looked_at_now_and_then(tmp_path: Path) -> None:
    file = WatchedFile(str(tmp_path / "f"))
    assert file.look(10.0) and file.content is None
    (tmp_path / "f").write_bytes(b"a")
    assert not file.look(10.4)
    assert file.look(10.5) and file.content == b"a"
    assert not file.look(11.0)
    (tmp_path / "f").unlink()
    assert file.look(11.5) and file.content is None


# -- the secret --------------------------------------------------------------------------------------------


def test_the_secret_comes_from_the_settings_or_a_file_that_may_change(tmp_path: Path) -> None:
    assert Secret(Settings())() == b""
    assert Secret(settings(security__replication_secret=GOOD))() == GOOD.encode()
    path = tmp_path / "secret"
    path.write_text(f"  {GOOD}\n")
    secret = Secret(settings(security__replication_secret_file=str(path)))
    assert secret() == GOOD.encode()
    path.write_text("short")
    gevent.sleep(0.6)
    assert secret() == GOOD.encode(), "what cannot be used changes nothing"
    path.write_text(GOOD[::-1])
    wait_until(lambda: secret() == GOOD[::-1].encode(), 3)


@pytest.mark.parametrize("content", [None, b"", b"short", b"x" * 2000])
def test_a_secret_that_cannot_be_used_ends_the_start(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "secret"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"the secret in .* cannot be used"):
        Secret(settings(security__replication_secret_file=str(path)))


def test_a_secret_is_never_shown(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    chosen = settings(security__replication_secret=GOOD)
    assert GOOD not in repr(chosen.security)
    with pytest.raises(ConfigurationError) as caught:
        settings(security__replication_secret="too short")
    assert "too short" not in str(caught.value) and "16 to 1024 bytes" in str(caught.value)
    file = tmp_path / "config.yml"
    file.write_text(f"security: {{replication_secret: {GOOD}}}\n")
    assert main(["config", "show", "--config", str(file)]) == 0
    told = capsys.readouterr().out
    assert "security.replication_secret = " in told and GOOD not in told


def test_a_secret_is_said_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="said twice"):
        settings(security__replication_secret=GOOD, security__replication_secret_file="f")


# -- listening ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("[::1]", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("localhost.example", False),
    ],
)
def test_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


def test_require_auth_does_not_listen_beyond_this_machine_without_keys_and_secret(tmp_path: Path) -> None:
    chosen = {"storage__data_dir": str(tmp_path), "security__require_auth": True}
    security = Security(settings(**chosen))
    security.guard_rest("127.0.0.1")
    security.guard_replication("127.0.0.1:7001")
    with pytest.raises(ConfigurationError, match="holds no API key") as caught:
        security.guard_rest("0.0.0.0")
    assert str(caught.value).count("\n") == 0
    with pytest.raises(ConfigurationError, match="there is no replication secret"):
        security.guard_replication("0.0.0.0:7001")
    written(tmp_path / "keys")
    with pytest.raises(ConfigurationError, match="holds no API key"):
        Security(settings(**chosen)).guard_rest("0.0.0.0")
    written(tmp_path / "keys", new_key("read", "a", 0)[0])
    security = Security(settings(**chosen, security__replication_secret=GOOD))
    security.guard_rest("0.0.0.0")
    security.guard_replication("0.0.0.0:7001")


# -- the command -------------------------------------------------------------------------------------------


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "vectorizer", "keys", *words], capture_output=True, text=True, timeout=30
    )


def test_add_list_and_revoke(tmp_path: Path) -> None:
    data = str(tmp_path / "data")
    made = run("add", "--role", "admin", "--name", "mine", "--data-dir", data)
    assert made.returncode == 0, made.stderr
    [token] = made.stdout.splitlines()
    assert "shown only now" in made.stderr and token not in made.stderr
    path = Path(data) / "keys"
    assert os.stat(path).st_mode & 0o777 == 0o600
    found = KeyRing.decode(path.read_bytes()).find(token)
    assert found is not None and (found.name, found.level) == ("mine", Level.ADMIN)
    listed = run("list", "--data-dir", data)
    assert listed.stdout.startswith("mine  admin  vz_") and token not in listed.stdout
    again = run("add", "--name", "mine", "--data-dir", data)
    assert (again.returncode, again.stdout) == (2, "")
    assert "a key named 'mine' already" in again.stderr
    assert run("revoke", "nobody", "--data-dir", data).returncode == 2
    assert run("revoke", "mine", "--data-dir", data).returncode == 0
    assert json.loads(path.read_bytes()) == {"version": 1, "keys": []}
    assert os.listdir(data) == ["keys"], "nothing is left beside it"


def test_the_configuration_says_where_keys_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "config.yml"
    file.write_text(f"security: {{keys_file: {tmp_path}/etc/my.keys}}\n")
    assert main(["keys", "add", "--config", str(file)]) == 0
    assert capsys.readouterr().out.startswith("vz_")
    assert (tmp_path / "etc" / "my.keys").exists()
    (tmp_path / "etc" / "my.keys").write_bytes(b"{}")
    assert main(["keys", "add", "--config", str(file)]) == 2
    assert "is left as it is" in capsys.readouterr().err
    assert (tmp_path / "etc" / "my.keys").read_bytes() == b"{}"


def test_commands_at_the_same_time_lose_no_key(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "vectorizer", "keys", "add", "--data-dir", str(tmp_path)]
    running = [
        subprocess.Popen([*words, "--name", f"k{number}"], stdout=-3, stderr=-3) for number in range(4)
    ]
    assert [process.wait(30) for process in running] == [0] * 4
    ring = KeyRing.decode((tmp_path / "keys").read_bytes())
    assert sorted(key.name for key in ring.keys) == ["k0", "k1", "k2", "k3"]


def test_a_link_in_the_way_is_not_followed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    victim, data = tmp_path / "victim", tmp_path / "data"
    victim.write_text("of somebody else")
    data.mkdir()
    (data / f"keys.{os.getpid()}.new").symlink_to(victim)
    assert main(["keys", "add", "--data-dir", str(data)]) == 0
    assert victim.read_text() == "of somebody else"
    assert os.listdir(data) == ["keys"] and not (data / "keys").is_symlink()


def test_a_keys_file_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    made = run("add", "--data-dir", str(tmp_path / "file"))
    assert (made.returncode, made.stdout) == (2, "")
    assert made.stderr.startswith("vectorizer: the keys file") and made.stderr.count("\n") == 1
