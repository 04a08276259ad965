"""API keys: what one looks like, what is kept of it, and who is behind a given one.

A key is 256 random bits behind a short public number that finds its row: ``vz_<number>_<random>``. What is
kept is SHA-256 of a salt and the key. A slow hash (scrypt) protects passwords, because people choose them
from a space that can be searched; 256 random bits cannot be searched at any speed, so a fast hash gives away
as little, and can be afforded at each request. The comparison takes the same time wherever the two differ,
and also if there is no such row.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from enum import IntEnum
from typing import Any

VERSION = 1
KEYS_MAX = 3000
"""So many fit into what is read of the file, and are read within 25 ms on the event loop."""
CREATED_MS_MAX = 253_402_300_799_999
"""The end of the year 9999."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_NUMBER = re.compile("[0-9a-f]{8}")
_TOKEN = re.compile(r"vz_([0-9a-f]{8})_[A-Za-z0-9_-]{43}")


class Level(IntEnum):
    """What a key allows; each level includes those before it."""

    READ = 1
    WRITE = 2
    ADMIN = 3

    @property
    def word(self) -> str:
        """The role as people write it."""
        return self.name.lower()


ROLES = tuple(level.word for level in Level)


@dataclass(frozen=True, slots=True)
class Key:
    """A row of the keys file. ``salt`` and ``sha256`` are hexadecimal, ``number`` is the public part."""

    name: str
    role: str
    number: str
    salt: str
    sha256: str
    created_ms: int

    def __post_init__(self) -> None:
        texts = (self.name, self.role, self.number, self.salt, self.sha256)
        if not all(isinstance(text, str) for text in texts) or not isinstance(self.created_ms, int):
            raise ValueError("a field of a key is of the wrong type")
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"{self.name[:80]!r} cannot be the name of a key: 1 to 64 of A-Z a-z 0-9 _ . -")
        if self.role not in ROLES:
            raise ValueError(f"{self.role[:80]!r} is no role; roles are {', '.join(ROLES)}")
        if not 0 <= self.created_ms <= CREATED_MS_MAX:
            raise ValueError(f"created_ms of the key {self.name!r} is no time from 1970 to 9999")

    @property
    def level(self) -> Level:
        """The role, to be compared."""
        return Level[self.role.upper()]


_NOBODY = Key("nobody", "read", "", "00" * 16, "00" * 32, 0)


class KeyRing:
    """The keys of a node, immutable. ValueError if two have one name or number."""

    def __init__(self, keys: Iterable[Key] = ()) -> None:
        self.keys = tuple(keys)
        self._by_number = {key.number: key for key in self.keys}
        if len(self._by_number) < len(self.keys) or len({key.name for key in self.keys}) < len(self.keys):
            raise ValueError("two keys have the same name or number")

    @classmethod
    def decode(cls, content: bytes) -> KeyRing:
        """The keys of a keys file; ValueError says what is wrong with it."""
        try:
            document = json.loads(content)
        except RecursionError:
            raise ValueError("it is nested too deeply") from None
        if not isinstance(document, dict) or document.get("version") != VERSION:
            raise ValueError(f"it is no keys file of version {VERSION}")
        rows = document.get("keys")
        if not isinstance(rows, list) or len(rows) > KEYS_MAX:
            raise ValueError(f"its keys are no list of at most {KEYS_MAX}")
        return cls(_read(row) for row in rows)

    def encode(self) -> bytes:
        """The content of a keys file."""
        document = {"version": VERSION, "keys": [asdict(key) for key in self.keys]}
        return json.dumps(document, indent=1).encode() + b"\n"

    def find(self, token: str) -> Key | None:
        """The key that this token is, if it is one."""
        found = _TOKEN.fullmatch(token)
        key = self._by_number.get(found[1], _NOBODY) if found else _NOBODY
        same = hmac.compare_digest(_hash(key.salt, token), key.sha256)
        return key if same and key is not _NOBODY else None

    def with_key(self, key: Key) -> KeyRing:
        """One more; ValueError if its name is taken."""
        if len(self.keys) >= KEYS_MAX:
            raise ValueError(f"there are {KEYS_MAX} keys already")
        if any(key.name == other.name for other in self.keys):
            raise ValueError(f"there is a key named {key.name!r} already")
        return KeyRing((*self.keys, key))

    def without(self, name: str) -> KeyRing:
        """One less; ValueError if there is none of that name."""
        rest = [key for key in self.keys if key.name != name]
        if len(rest) == len(self.keys):
            raise ValueError(f"there is no key named {name[:80]!r}")
        return KeyRing(rest)


def new_key(role: str, name: str | None, now_ms: int) -> tuple[Key, str]:
    """A new key and its token, which is kept nowhere. ValueError if name or role cannot be used."""
    number, salt = secrets.token_hex(4), secrets.token_hex(16)
    token = f"vz_{number}_{secrets.token_urlsafe(32)}"
    return Key(name or f"key-{number}", role, number, salt, _hash(salt, token), now_ms), token


def _hash(salt: str, token: str) -> str:
    return hashlib.sha256(bytes.fromhex(salt) + token.encode("utf-8", "surrogateescape")).hexdigest()


def _read(row: Any) -> Key:
    names = {item.name for item in fields(Key)}
    if not isinstance(row, dict) or row.keys() != names:
        raise ValueError(f"a key has other fields than {', '.join(sorted(names))}")
    key = Key(**row)
    if not _NUMBER.fullmatch(key.number):
        raise ValueError(f"the number of the key {key.name!r} is not 8 hexadecimal digits")
    if not re.fullmatch("[0-9a-f]{32}", key.salt) or not re.fullmatch("[0-9a-f]{64}", key.sha256):
        raise ValueError(f"salt or hash of the key {key.name!r} is not hexadecimal")
    return key
