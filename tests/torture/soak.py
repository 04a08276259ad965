"""The soak: everyday trouble for long, under a load that does not grow. Nothing of a node may grow either.

A master and a replica stay up all the time, so that what leaks slowly shows. A second replica is restarted,
by SIGTERM and by kill -9 in turn, and compared at equal ages. Links are cut all the while.
"""

from __future__ import annotations

import contextlib
import os
import random
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.cluster.harness import Cluster, Load, Node, NotStarted, wait_until
from tests.cluster.harness.cluster import COLLECTIONS
from tests.monitoring.exposition import Scrape
from tests.torture.flatness import SAMPLES_MIN, growths, thirds
from tests.torture.tally import Kind, Report

CUT_SECS = 2.0
TURN_SECS = 0.05
WARM_UP_SHARE = 0.25
WARM_UP_SECS_MAX = 300.0
SAMPLES = 240
WRITERS = 2
WRITER_PAUSE_SECS = 0.08
READER_PAUSE_SECS = 0.15
RESTART, KILL, CUT = "soak: restart by SIGTERM", "soak: restart by kill -9", "soak: link cut"
EQUAL_SECS = 60.0

SETTINGS: dict[str, dict[str, int]] = {
    "storage": {
        "journal_file_bytes": 64 << 10,
        "journal_bytes_max": 1 << 20,
        "checkpoint_bytes": 256 << 10,
        "checkpoint_interval_secs": 5,
    },
    "index": {"segment_rows": 512, "segment_rows_max": 4096},
    "replication": {"log_size": 600},
}

Told = Callable[[float], None]


@dataclass
class Series:
    """What was measured of one node, by quantity."""

    name: str
    values: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def sample(self, node: Node) -> None:
        """Measure once; OSError if the node is down."""
        node.close()  # what was kept alive since the last time may be closed at the other end
        scrape = Scrape(node)
        measured = {
            "RssAnon bytes": float(node.anonymous_bytes()),
            "open files": float(_open_files(node.pid)),
            "greenlets": scrape["vectorizer_greenlets"],
            "threads": scrape["vectorizer_threads"],
            "disk bytes": float(_disk_bytes(node.data_directory)),
        }
        for quantity, value in measured.items():
            self.values[quantity].append(value)


class Soak:
    """One run, in peace with its pieces: what is cut and restarted when, and what was measured."""

    def __init__(self, cluster: Cluster, *, secs: float, restart_secs: float, seed: int) -> None:
        self._cluster = cluster
        self._secs = secs
        self._restart_secs = restart_secs
        self._chance = random.Random(seed)
        self._seed = seed
        self._restarts: list[threading.Thread] = []
        self._born_at = 0.0
        self.cuts = 0
        self.restarts = {RESTART: 0, KILL: 0}
        self.failures: list[str] = []
        self.not_started = {RESTART: 0, KILL: 0}
        self.stall_ms = 0.0
        self.series: list[Series] = []
        self.full_syncs = 0
        """Beyond the first of each replica."""

    def run(self, told: Told) -> None:
        """All of it; failures are kept, not raised, except those of the harness itself."""
        cluster = self._cluster
        cluster.start(2, proxied=True, collections=COLLECTIONS, **SETTINGS)
        steady, restarted = cluster.replicas
        self.series = [Series("the master"), Series("the replica"), Series("the restarted replica")]
        load = cluster.load(writers=WRITERS, seed=self._seed, pause_secs=WRITER_PAUSE_SECS)
        with cluster.readers(pause_secs=READER_PAUSE_SECS), load:
            self._break(load, [cluster.master, steady], restarted, told)
        for thread in self._restarts:
            thread.join()
        cluster.wait_connected()
        cluster.converged(deadline_secs=EQUAL_SECS)
        self.full_syncs = cluster.master.syncs().full - len(cluster.replicas)
        for series in self.series:
            self.failures += growths(series.name, series.values)

    def _break(self, load: Load, steady: list[Node], restarted: Node, told: Told) -> None:
        began_at = self._born_at = time.monotonic()
        warm_at = began_at + min(self._secs * WARM_UP_SHARE, WARM_UP_SECS_MAX)
        cut_at, restart_at, sample_at = began_at + CUT_SECS, began_at + self._restart_secs, warm_at
        sent, answered_at = 0, began_at
        while (now := time.monotonic()) < began_at + self._secs and not self.failures:
            told((now - began_at) / self._secs)
            if load.sent != sent:
                sent, answered_at = load.sent, now
            self.stall_ms = max(self.stall_ms, (now - answered_at) * 1000)
            load.raise_failure()
            if now >= cut_at:
                cut_at += CUT_SECS
                self._cut()
            if now >= restart_at:
                restart_at += self._restart_secs
                self._restart(restarted)
            if now >= sample_at:
                sample_at += max(1.0, self._secs / SAMPLES)
                self._sample(steady, restarted)
            time.sleep(TURN_SECS)
        told(1.0)

    def _cut(self) -> None:
        link = self._chance.choice(self._cluster.links)
        if self._chance.random() < 0.5:
            link.cut_after(self._chance.randrange(500, 20_000))
        link.cut()
        self.cuts += 1

    def _sample(self, steady: list[Node], restarted: Node) -> None:
        for node, series in zip(steady, self.series, strict=False):
            series.sample(node)
        # In the second half of each of its lives: young processes have less of everything.
        age = time.monotonic() - self._born_at
        if age > self._restart_secs / 2 and restarted.running:
            try:
                self.series[-1].sample(restarted)
            except OSError:
                return  # it is being stopped at this moment

    def _restart(self, node: Node) -> None:
        if any(thread.is_alive() for thread in self._restarts):
            return  # it is not up again from the last time
        kind = [RESTART, KILL][sum(self.restarts.values()) % 2]
        self.restarts[kind] += 1
        self._born_at = time.monotonic()
        self._restarts = [threading.Thread(target=self._started_again, args=(node, kind), daemon=True)]
        self._restarts[-1].start()

    def _started_again(self, node: Node, kind: str) -> None:
        try:
            node.restart(kill=kind == KILL)
            wait_until(lambda: node.connected, f"{node.name} is connected again")
        except NotStarted as error:
            self.not_started[kind] += 1
            self.failures.append(f"{kind}: {error}")
        except AssertionError as error:
            self.failures.append(f"{kind}: {error}")

    @property
    def compared(self) -> int:
        """So many quantities of nodes were measured often enough to compare their beginning and end."""
        return sum(len(values) >= SAMPLES_MIN for series in self.series for values in series.values.values())

    def report(self) -> Report:
        """As rows of the table."""
        counts = {CUT: self.cuts, **self.restarts}
        kinds = [Kind(kind, count, 0, 0, self.not_started.get(kind, 0)) for kind, count in counts.items()]
        kinds[0].longest_stall_ms = self.stall_ms
        notes = []
        for series in self.series:
            shown = [
                "{} {:,.0f} then {:,.0f}".format(quantity, *thirds(values))
                for quantity, values in series.values.items()
                if len(values) >= SAMPLES_MIN
            ]
            notes.append(f"soak: {series.name}, medians of first and last third: {', '.join(shown)}")
        acknowledged = self._cluster.ledger.acknowledged
        notes.append(
            f"soak: {acknowledged:,} writes acknowledged, {self.full_syncs} more full syncs, "
            f"{self.compared} series compared"
        )
        return Report(kinds, [f"soak: {failure}" for failure in self.failures], notes)


def soak(
    directory: Path, *, secs: float, restart_secs: float, seed: int, told: Told = lambda share: None
) -> Report:
    """Run for ``secs``; what was done, and what grew, was lost, or did not start."""
    cluster = Cluster(directory)
    run = Soak(cluster, secs=secs, restart_secs=restart_secs, seed=seed)
    try:
        run.run(told)
    except AssertionError as error:
        run.failures.append(f"{error}\n" + "\n".join(node.log_tail() for node in cluster.nodes))
    finally:
        cluster.close()
    return run.report()


def _open_files(pid: int) -> int:
    """Without the files of living segments: how many of those there are follows the load, up and down."""
    found = 0
    for descriptor in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            target = os.readlink(f"/proc/{pid}/fd/{descriptor}")
            found += "/segments/" not in target or target.endswith(" (deleted)")
    return found


def _disk_bytes(directory: Path) -> int:
    """What all files take; those that go away meanwhile count for nothing."""
    total = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            try:
                total += os.stat(os.path.join(folder, name)).st_blocks * 512
            except FileNotFoundError:
                continue
    return total
