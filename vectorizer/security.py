"""Who may reach a node: its API keys, the secret it shares with its peers, its TLS contexts.

What the settings name is read at the start, and must be usable then: ConfigurationError. Later changes of the
keys file and of the secret's file are taken over within a second; one that cannot be read changes nothing and
is logged. Everything fails closed: where keys have been in force once, they stay in force until the process
ends, also if their file is lost.
"""

from __future__ import annotations

import ipaddress
import os
import secrets
import stat
import time
from typing import TYPE_CHECKING

from vectorizer import logs
from vectorizer.address import parse_address
from vectorizer.errors import ConfigurationError
from vectorizer.keys import Key, KeyRing
from vectorizer.replication.authentication import Credentials
from vectorizer.replication.messages import NONCE_BYTES
from vectorizer.setting import SECRET_BYTES_MAX, SECRET_BYTES_MIN
from vectorizer.settings import Settings
from vectorizer.tls import fingerprint, master_context, own_fingerprint, replica_context, rest_context
from vectorizer.watched_file import WatchedFile

if TYPE_CHECKING:
    from vectorizer.replication.connection import Connection

OPEN_TO_ALL = "anybody who reaches this address can read, change and delete everything; see docs/SECURITY.md"
KEPT = "the keys of before stay in force"

log = logs.get(__name__)


def keys_path(settings: Settings) -> str:
    """The file of the API keys."""
    return os.path.abspath(settings.security.keys_file or os.path.join(settings.storage.data_dir, "keys"))


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a listener at that host. Of names only localhost is believed."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


class Keys:
    """The API keys in force. ``required``: requests need one even if there is no keys file."""

    def __init__(self, path: str, required: bool) -> None:
        self.path = path
        self._file = WatchedFile(path)
        self._ring = KeyRing()
        self._enforced = required
        self._file.look(time.monotonic())
        if self._file.problem:
            raise self._unusable(self._file.problem)
        if self._file.content is not None:
            try:
                self._ring = KeyRing.decode(self._file.content)
            except ValueError as error:
                raise self._unusable(str(error)) from None
            self._enforced = True

    @property
    def enforced(self) -> bool:
        """Whether requests need a key."""
        self._look()
        return self._enforced

    @property
    def count(self) -> int:
        """How many there are."""
        self._look()
        return len(self._ring.keys)

    def find(self, token: str) -> Key | None:
        """The key that this token is, if it is one that counts now."""
        self._look()
        return self._ring.find(token)

    def _look(self) -> None:
        file = self._file
        if not file.look(time.monotonic()):
            return
        if file.problem:
            self._enforced = True
            log.error("keys_unreadable", file=self.path, reason=file.problem, action=KEPT)
        elif file.content is None:
            self._ring = KeyRing()
            log.error("keys_missing", file=self.path, action="requests are refused until it is back")
        else:
            self._enforced = True
            try:
                self._ring = KeyRing.decode(file.content)
            except ValueError as error:
                log.error("keys_damaged", file=self.path, reason=str(error), action=KEPT)
            else:
                log.info("keys_changed", file=self.path, keys=len(self._ring.keys))

    def _unusable(self, why: str) -> ConfigurationError:
        return ConfigurationError(
            f"the keys file {self.path} cannot be used: {why}",
            key="security.keys_file",
            accepted="a file that `vectorizer keys` has written",
        )


class Secret:
    """What nodes that replicate from each other share. Empty = they trust whoever connects."""

    def __init__(self, settings: Settings) -> None:
        self._value = settings.security.replication_secret.encode()
        self._file: WatchedFile | None = None
        path = settings.security.replication_secret_file
        if path:
            self._file = WatchedFile(os.path.abspath(path))
            self._file.look(time.monotonic())
            try:
                self._value = self._read(self._file)
            except ValueError as error:
                raise ConfigurationError(
                    f"the secret in {self._file.path} cannot be used: {error}",
                    key="security.replication_secret_file",
                    accepted="a file that holds what `openssl rand -hex 32` prints",
                ) from None
            warn_if_readable_by_others(self._file.path)

    def __call__(self) -> bytes:
        """The secret in force."""
        file = self._file
        if file is not None and file.look(time.monotonic()):
            try:
                self._value = self._read(file)
                log.info("replication_secret_changed", file=file.path)
            except ValueError as error:
                log.error("replication_secret_unusable", file=file.path, reason=str(error))
        return self._value

    @staticmethod
    def _read(file: WatchedFile) -> bytes:
        if file.problem or file.content is None:
            raise ValueError(file.problem or "there is no such file")
        value = file.content.strip()
        if not SECRET_BYTES_MIN <= len(value) <= SECRET_BYTES_MAX:
            raise ValueError(f"it has {len(value)} bytes, not {SECRET_BYTES_MIN} to {SECRET_BYTES_MAX}")
        return value


class Security:
    """Everything of the section ``security`` as it is in force. ConfigurationError if it cannot be."""

    def __init__(self, settings: Settings) -> None:
        self._required = settings.security.require_auth
        self.keys = Keys(keys_path(settings), self._required)
        self.secret = Secret(settings)
        self.rest_tls = rest_context(settings.security)
        self.master_tls = master_context(settings.security)
        self.replica_tls = replica_context(settings.security)
        self.own_fingerprint = b"" if self.master_tls is None else own_fingerprint(settings.security)
        """Of the certificate that replicas are shown."""
        if settings.security.tls_key:
            warn_if_readable_by_others(settings.security.tls_key)

    def credentials(self, channel: bytes) -> Credentials:
        """What this node brings to a new link. ``channel``: the fingerprint of the master's certificate."""
        return Credentials(self.secret(), secrets.token_bytes(NONCE_BYTES), channel)

    def introduce(self, connection: Connection, host: str, timeout_secs: float) -> Credentials:
        """TLS, if it is asked for, on a new connection to the master at ``host``, and what to prove there."""
        if self.replica_tls is None:
            return self.credentials(b"")
        connection.secure(self.replica_tls, timeout_secs, host)
        return self.credentials(fingerprint(connection.peer_certificate()))

    def guard_rest(self, host: str) -> None:
        """Before the REST interface listens there. ConfigurationError if it must not."""
        if is_loopback(host) or self.keys.count:
            return
        if self._required:
            raise ConfigurationError(
                f"security.require_auth is true and {self.keys.path} holds no API key, so REST is not served "
                f"on {host}; `vectorizer keys add --role admin` makes one",
                key="security.require_auth",
            )
        if not self.keys.enforced:
            log.warning("listening_without_authentication", what="REST", host=host, message=OPEN_TO_ALL)

    def guard_replication(self, address: str) -> None:
        """Before replicas are let in at host:port. ConfigurationError if they must not be."""
        host = parse_address(address).host
        if is_loopback(host) or self.secret():
            return
        if self._required:
            raise ConfigurationError(
                f"security.require_auth is true and there is no replication secret, so replicas are not let "
                f"in on {address}; set security.replication_secret_file",
                key="security.require_auth",
            )
        log.warning("listening_without_authentication", what="replication", host=host, message=OPEN_TO_ALL)


def warn_if_readable_by_others(path: str) -> None:
    """Say so if a file that should be private is not."""
    if stat.S_IMODE(os.stat(path).st_mode) & 0o007:
        log.warning("secret_file_readable_by_everybody", file=path, message="chmod o-rwx it")
