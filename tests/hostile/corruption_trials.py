"""Starts on damaged directories: refused with a sentence, or repaired, never other data than the original's.

What a start may do with a damaged directory:

- a master refuses it (``DamageError``, exit code 1, the file named), or serves exactly the original data and
  settings, because the damage touched nothing that counts;
- of a node that was killed, operations at the very end of the journal may be missing if no whole mark behind
  the damage tells of them: they look like a torn tail;
- a replica may also put its data aside and begin empty, and then gets everything from its master.
"""

from __future__ import annotations

# ruff: noqa: E402
import vectorizer.native_lock  # noqa: F401  isort: skip
from gevent import monkey  # isort: skip

monkey.patch_all()

import argparse
import logging
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from zlib import crc32

from gevent import Timeout
from rich.console import Console

from tests.crash.results import Results
from tests.hostile.corruption import Damage, corrupt
from tests.hostile.directories import Original, digests_of, make, settings_at
from tests.unit.running import wait_until
from vectorizer.errors import ConfigurationError, DamageError
from vectorizer.server import Server

START_SECS = 10.0
MASTER_EVERY = 5
"""So often a replica's master is there, and the replica runs until it has everything."""


@dataclass(slots=True)
class Trial:
    """One damaged directory."""

    number: int
    original: Original
    root: Path
    damage: Damage
    replica: bool

    def check(self) -> str:
        """Start in process; the sentence of what is wrong, or nothing."""
        roles = {"replication.role": "replica", "replication.master_address": "127.0.0.1:9"}
        before = _content_of(self.root)
        try:
            with Timeout(START_SECS):
                server = Server(settings_at(self.root, **(roles if self.replica else {})))
        except DamageError as error:
            return self._refused(error, before)
        try:
            return self._opened(server)
        finally:
            server.discard()

    def _refused(self, error: DamageError, before: dict[str, int]) -> str:
        if self.replica:
            return f"a replica is refused: {error}"
        if not error.file.startswith(str(self.root)) or error.file not in str(error):
            return f"the sentence does not name a file of the directory: {error}"
        if "\n" in str(error) or len(str(error)) > 1000:
            return f"no sentence: {error}"
        gone = before.items() - _content_of(self.root).items()
        return f"lost: a refused start has changed {sorted(gone)[:3]}" if gone else ""

    def _opened(self, server: Server) -> str:
        node, original = server.database.node, self.original
        if self.replica and node.offset == 0 and not node.store.collections:
            return ""  # put aside, to be synced anew
        if node.offset != original.offset and not self._may_lose(node.offset):
            return f"lost: it stands at {node.offset}, acknowledged was {original.offset}"
        if digests_of(node) != original.digests[node.offset]:
            return f"wrong data at {node.offset}"
        if node.node_id != original.node_id:
            return f"another node: {node.node_id}"
        for name, value in original.stored.items():
            if server.settings.value(name) != value:
                return f"lost: the stored setting {name}"
        for collection in node.store.collections.values():
            for segment in collection.segments:
                if segment.graph is not None:
                    graph = Path(segment.directory, "graph.nmslib").read_bytes()
                    if crc32(graph) not in original.graphs:
                        return "a damaged graph is in use"
        return ""

    def _may_lose(self, offset: int) -> bool:
        """Whether the damage reaches the end of what a killed node wrote, where nothing tells of it."""
        if self.original.stopped or offset not in self.original.digests:
            return False
        last = max((self.original.root / "0000000001" / "journal").glob("*.journal"), key=_used)
        content = last.read_bytes()
        marks_behind = b"mark\0" in content[self.damage.end :]
        return self.damage.files[0].endswith(last.name) and not marks_behind


def _content_of(root: Path) -> dict[str, int]:
    """Name and CRC32 of each file that holds data."""
    found = {
        path
        for pattern in ("*/manifest-*", "*/segments/*/*", "*/journal/*.journal")
        for path in root.glob(pattern)
    }
    return {str(path): crc32(path.read_bytes()) for path in found if path.is_file()}


def _used(path: Path) -> tuple[bool, str]:
    return b"upsert" in path.read_bytes(), path.name


def with_master(trial: Trial, master: Server) -> str:
    """Run the replica until it has what its master has; the sentence of what is wrong, or nothing."""
    listener = master.roles.master
    assert listener is not None
    settings = {"replication.role": "replica", "replication.master_address": listener.address}
    server = Server(settings_at(trial.root, **settings))
    server.start()
    try:
        expected = digests_of(master.database.node)

        def synced() -> bool:
            return server.database.serves_data() and digests_of(server.database.node) == expected

        wait_until(synced, START_SECS)
    finally:
        server.stop()
    return ""


def corruptions(numbers: range, seed: int, folder: Path) -> Results:
    """Damage and start a directory for each number."""
    results = Results()
    originals = [make(folder / f"original-{stopped}", stopped=stopped) for stopped in (True, False)]
    replica = originals[0].replica(folder / "replica")
    master = Server(settings_at(originals[0].copy(folder / "master")))
    master.start()
    try:
        for number in numbers:
            random = Random(f"{seed} {number}")
            original = random.choice([*originals, replica])
            root = original.copy(folder / "damaged")
            damage = corrupt(root, random)
            trial = Trial(number, original, root, damage, replica=original is replica)
            _try(
                trial,
                results,
                f"python -m tests.hostile.corruption_trials --seed {seed} --first {number} --count 1",
                master,
            )
            shutil.rmtree(root)
    finally:
        master.stop()
    return results


def _try(trial: Trial, results: Results, place: str, master: Server) -> None:
    started = time.monotonic()
    try:
        wrong = trial.check()
        if not wrong and trial.replica and trial.number % MASTER_EVERY == 0:
            wrong = with_master(trial, master)
    except (Exception, Timeout) as error:  # noqa: BLE001 - whatever it is, the start has met it
        wrong = "not started: " + "".join(traceback.format_exception(error)[-4:])
        if isinstance(error, ConfigurationError | OSError) and str(trial.root) in str(error):
            wrong = ""  # a sentence, too: the process ends with exit code 1 or 2
    found = "" if not wrong else "lost" if wrong.startswith(("lost", "wrong")) else "not_started"
    role = "replica" if trial.replica else "master"
    results.add(f"corruption: {trial.damage.kind}", found, (time.monotonic() - started) * 1000)
    if wrong:
        state = "stopped" if trial.original.stopped else "killed"
        results.failed(f"{place}: {trial.damage}, {state} {role}: {wrong}")


def main(arguments: Sequence[str] | None = None) -> int:
    """0: nothing was found. 1: something was, and says how to repeat it."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.hostile.corruption_trials",
        description="Damages data directories by chance and starts nodes on them.",
    )
    parser.add_argument("--count", type=int, default=60, metavar="N", help="so many (60)")
    parser.add_argument("--first", type=int, default=0, metavar="N", help="the number of the first (0)")
    parser.add_argument("--seed", type=int, default=1, metavar="S", help="other damage (1)")
    parser.add_argument("--json", metavar="FILE", help="write the results there, too")
    options = parser.parse_args(arguments)
    logging.getLogger("vectorizer").addHandler(logging.NullHandler())
    logging.getLogger("vectorizer").propagate = False
    with tempfile.TemporaryDirectory() as folder:
        numbers = range(options.first, options.first + options.count)
        results = corruptions(numbers, options.seed, Path(folder))
    results.write(options.json)
    results.show(Console(soft_wrap=True), f"{results.count:,} corruptions")
    return 1 if results.failures else 0


if __name__ == "__main__":
    sys.exit(main())
