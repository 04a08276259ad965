"""The server's own code, put under virtual time.

In a process of its own: gevent's place is taken first, then ``vectorizer.server`` and all it needs
are imported, and what they would ask the computer for (time, chance, ids, files, the REST listener)
is asked of the simulation. Nothing of what stores, replicates or recovers is replaced: database,
maintenance, snapshots, roles, the listener for replicas and the link run as they are.
"""

from __future__ import annotations

import sys
import types
from typing import Any

from tests.simulation import network, virtual_gevent


class SilentRestServer:
    """In the place of the REST server: clients of the simulation call the database."""

    def __init__(self, host: str, port: int, *more: object) -> None:
        self.host, self.port = host, port

    def start(self, *about: object) -> None:
        """Nothing listens."""

    def stop(self, *about: object) -> None:
        """Nothing stops."""

    def close(self) -> None:
        """Nothing closes."""


class _Time(types.ModuleType):
    """``time`` as a module of the package sees it."""

    @staticmethod
    def monotonic() -> float:
        return virtual_gevent.kernel().monotonic()

    perf_counter = monotonic

    @staticmethod
    def time_ns() -> int:
        return virtual_gevent.kernel().time_ns()


class _Secrets(types.ModuleType):
    @staticmethod
    def token_bytes(count: int) -> bytes:
        return virtual_gevent.kernel().random.randbytes(count)


class _Random(types.ModuleType):
    @staticmethod
    def random() -> float:
        return virtual_gevent.kernel().random.random()


class _Uuid(types.ModuleType):
    @staticmethod
    def uuid4() -> types.SimpleNamespace:
        return types.SimpleNamespace(hex=virtual_gevent.kernel().new_id())


class _Deaf:
    """In the place of what listens to the log for the status."""

    def close(self) -> None:
        """Nothing closes."""


class _QuietDelay:
    """The watch of the event loop has nothing to see here."""

    max_ms = 0.0

    def run(self) -> None:
        virtual_gevent.Event().wait()

    def document(self) -> dict[str, float]:
        return {}


def load() -> types.ModuleType:
    """``vectorizer.server`` under virtual time. Once a process; later calls give the same."""
    if "vectorizer.server" in sys.modules:
        return sys.modules["vectorizer.server"]
    virtual_gevent.install(network.socket_names())
    import vectorizer.native_lock

    vectorizer.native_lock.NativeLock = virtual_gevent.NativeLock  # type: ignore[misc,assignment]
    for name, contents in (
        ("app", {"RestApp": lambda *about: None}),
        ("server", {"RestServer": SilentRestServer}),
    ):
        module = types.ModuleType(f"vectorizer.rest.{name}")
        module.__dict__.update(contents)
        sys.modules[module.__name__] = module
    import vectorizer.guarantees
    import vectorizer.server as server

    stand_ins: dict[str, types.ModuleType] = {
        "time": _Time("time"),
        "secrets": _Secrets("secrets"),
        "random": _Random("random"),
        "uuid": _Uuid("uuid"),
    }
    for name, module in list(sys.modules.items()):
        if name.startswith("vectorizer."):
            for attribute, stand_in in stand_ins.items():
                if getattr(module, attribute, None) is sys.modules.get(attribute):
                    setattr(module, attribute, stand_in)
    _replace(server)
    return server


def _replace(server: Any) -> None:
    from tests.simulation.machine import disk_of_current_process, look_at_file
    from vectorizer import security, watched_file
    from vectorizer.replication import master
    from vectorizer.storage import disk

    server.MeasuredDisk = lambda syncs: disk_of_current_process()
    disk.RealDisk.__init__ = _no_real_disk  # type: ignore[method-assign,assignment]
    server.LoopDelay = _QuietDelay
    watched_file.WatchedFile._read = look_at_file  # type: ignore[method-assign,assignment]
    security.warn_if_readable_by_others = lambda path: None
    # Killed processes never take their listeners back, and `World` listens itself.
    server.logs.listen = lambda listener: _Deaf()
    server.new_id = lambda: virtual_gevent.kernel().new_id()
    # A set of lines is walked in the order of hashes; those of addresses differ from run to run.
    master.ReplicaLine.__hash__ = _number_of  # type: ignore[method-assign,assignment]


def _no_real_disk(*about: object) -> None:
    raise AssertionError("a simulated node reaches for the real disk")


def _number_of(thing: Any) -> int:
    number: int = thing.__dict__.setdefault("_number", virtual_gevent.kernel().next_number())
    return number
