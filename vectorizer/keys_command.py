"""``vectorizer keys``: add, list and revoke API keys.

The server need not run, and need not be told: it looks at the file again within half a second. Two commands
at one time wait for each other, and the file is replaced by a rename.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

from vectorizer import config
from vectorizer.errors import ConfigurationError
from vectorizer.keys import ROLES, KeyRing, new_key
from vectorizer.security import keys_path
from vectorizer.settings import Settings

PRIVATE = 0o600


def add_parser(commands: Any) -> None:
    """Add ``keys`` to the commands of the parser."""
    keys = commands.add_parser("keys", help="add, list and revoke API keys")
    actions = keys.add_subparsers(metavar="add|list|revoke", required=True)
    add = actions.add_parser("add", help="make a key and print it: the only time that it is shown")
    add.add_argument("--role", choices=ROLES, default="read", help="read (default), write or admin")
    add.add_argument("--name", help="what it is for; no two keys have one name")
    add.set_defaults(run=_add)
    show = actions.add_parser(
        "list", help="print name, role and age of all keys; they themselves are not kept"
    )
    show.set_defaults(run=_list)
    revoke = actions.add_parser("revoke", help="make a key worthless, within a second")
    revoke.add_argument("name", metavar="NAME")
    revoke.set_defaults(run=_revoke)
    for action in (add, show, revoke):
        action.add_argument("--config", metavar="FILE", help="configuration file of the server")
        action.add_argument("--data-dir", metavar="DATA_DIR", help="data directory of the server")


def _add(arguments: argparse.Namespace) -> int:
    path = _path(arguments)
    with _explained(path):
        key, token = new_key(arguments.role, arguments.name, time.time_ns() // 1_000_000)
        _change(path, lambda ring: ring.with_key(key))
    print(token)
    print(f"{path}: added {key.name!r} ({key.role}). The key is shown only now.", file=sys.stderr)
    return 0


def _list(arguments: argparse.Namespace) -> int:
    path = _path(arguments)
    with _explained(path):
        ring = _read(path)
    width = max((len(key.name) for key in ring.keys), default=0)
    for key in ring.keys:
        created = datetime.fromtimestamp(key.created_ms / 1000, UTC)
        print(f"{key.name:<{width}}  {key.role:<5}  vz_{key.number}_...  {created:%Y-%m-%d %H:%M} UTC")
    return 0


def _revoke(arguments: argparse.Namespace) -> int:
    path = _path(arguments)
    with _explained(path):
        _change(path, lambda ring: ring.without(arguments.name))
    print(f"{path}: revoked {arguments.name!r}", file=sys.stderr)
    return 0


def _path(arguments: argparse.Namespace) -> str:
    flags = {} if arguments.data_dir is None else {"storage.data_dir": arguments.data_dir}
    settings: Settings = config.load(arguments.config, flags=flags)
    return keys_path(settings)


@contextlib.contextmanager
def _explained(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigurationError(f"the keys file {path} cannot be used: {error.strerror or error}") from None
    except ValueError as error:
        raise ConfigurationError(f"the keys file {path} is left as it is: {error}") from None


def _read(path: str) -> KeyRing:
    try:
        with open(path, "rb") as file:
            return KeyRing.decode(file.read())
    except FileNotFoundError:
        return KeyRing()


def _change(path: str, change: Callable[[KeyRing], KeyRing]) -> None:
    """Replace the file by a changed one, for its owner's eyes only."""
    folder = os.path.dirname(path)
    os.makedirs(folder, exist_ok=True)
    directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        content = change(_read(path)).encode()
        aside = f"{path}.{os.getpid()}.new"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(aside)  # of a command that was killed
        # O_EXCL: root must not follow a link that the server's user has put there, and give its target away.
        handle = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE)
        try:
            with open(handle, "wb") as file:
                _give_to_the_server(handle, path if os.path.exists(path) else folder)
                file.write(content)
                file.flush()
                os.fsync(handle)
            os.replace(aside, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(aside)
            raise
        os.fsync(directory)
    finally:
        fcntl.flock(directory, fcntl.LOCK_UN)  # under gevent the descriptor is closed a moment later
        os.close(directory)


def _give_to_the_server(handle: int, pattern: str) -> None:
    """Root makes keys for a server that runs as another user: that user must be able to read them."""
    if os.geteuid() == 0:
        status = os.stat(pattern)
        os.fchown(handle, status.st_uid, status.st_gid)
