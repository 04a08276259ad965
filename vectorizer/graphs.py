"""Graphs: built one at a time by a niced child process, loaded in a native thread, then used by searches.

nmslib holds the GIL for long stretches while it takes rows in, and keeps freed memory; in a process of its
own it disturbs nobody, and its crash is no more than a line in the log. A builder is ended with the node
that started it. None is begun while many writes are coming in, within a bound; one that was begun just before
them is ended, once for each segment.
"""

from __future__ import annotations

import errno
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import gevent
from gevent.event import Event

from vectorizer import logs
from vectorizer.child_process import ChildProcess
from vectorizer.index.build import ExitCode, command
from vectorizer.storage.disk import is_disk_full
from vectorizer.storage.graph_files import graph_file_infos, load_graph
from vectorizer.storage.sealing import segment_directory_name

if TYPE_CHECKING:
    from vectorizer.database import Database
    from vectorizer.storage.collection import Collection
    from vectorizer.storage.segment import SealedSegment

POLL_SECS = 1.0
LOOK_SECS, LOOK_BYTES = 0.1, 100 * 1024
"""Many writes are coming in when the journal takes more than so many bytes in so long."""
PAUSE_SECS = 2.0
"""So long after them more are expected: a builder begun in a short pause runs beside what follows."""
GIVES_UP_SECS = 10.0
"""A builder at work for less is ended when many writes begin to come, and begun anew after them."""
FAILURES_MAX = 3
RETRY_SECS = 5.0
NOT_STARTED, OVERDUE = -1000, -1001
SAID_BYTES_MAX = 500
BUILD_SECS_MIN, BUILD_ROW_SECS = 600.0, 0.02
"""A builder that is at work for longer hangs; 100,000 x 128 need 0.15 ms a row on two idle cores."""

# Where a builder's Python looks for modules first: it finds this package there, not what happens to lie where
# somebody started the server.
PACKAGE_PARENT = Path(__file__).resolve().parent.parent
log = logs.get(__name__)


class GraphBuilder:
    """Owner of the builder greenlet; ``changed`` is called when a segment has got its graph."""

    def __init__(self, database: Database, changed: Callable[[], None]) -> None:
        self._database = database
        self._changed = changed
        self._wake = Event()
        self._child: ChildProcess | None = None
        self._may_give_up_until = -math.inf
        """When the running builder has done too much to begin anew."""
        self._gave_up = False
        self._load_began, self._load_seen = -math.inf, -math.inf
        """When the many writes began that came last, and when they were seen last."""
        self.built = 0
        self.failed = 0
        self.build_secs = 0.0

    def start(self) -> None:
        """Start building."""
        self._database.own(gevent.spawn(self._run), "graph builder")
        self._database.own(gevent.spawn(self._watch), "watch of bulk loads")

    def wake(self) -> None:
        """There may be a new segment."""
        self._wake.set()

    def stop(self) -> None:
        """End a running builder."""
        if self._child is not None:
            self._child.kill()

    @property
    def building(self) -> bool:
        """Whether a child process is at work."""
        return self._child is not None

    def _run(self) -> None:
        try:
            while True:
                self._wake.wait(POLL_SECS)
                self._wake.clear()
                while (found := self._next()) is not None:
                    if self._must_wait():
                        gevent.sleep(LOOK_SECS)
                    else:
                        self._build(*found)
        finally:
            self.stop()

    def _next(self) -> tuple[Collection, SealedSegment] | None:
        """The segment that needs a graph most: the largest that is not about to be merged, or is made by a
        merge.
        """
        rows_min = self._database.settings.index.graph_rows_min
        best: tuple[Collection, SealedSegment] | None = None
        for collection in self._database.node.store.collections.values():
            taken = {name for merge in collection.merges for name in merge.segments}
            for segment in (*collection.segments, *_made(collection)):
                if segment.graph is not None or segment.rows < rows_min or segment.name in taken:
                    continue
                if _failures(segment) >= FAILURES_MAX:
                    continue
                if best is None or segment.rows > best[1].rows:
                    best = collection, segment
        return best

    def _watch(self) -> None:
        before = self._database.node.journal.appended_bytes
        while True:
            gevent.sleep(LOOK_SECS)
            came, before = before, self._database.node.journal.appended_bytes
            if before - came > LOOK_BYTES:
                now = time.monotonic()
                if now - self._load_seen > PAUSE_SECS:
                    self._load_began = now
                elif self._must_wait():  # more than one large write
                    self._give_up()
                self._load_seen = now

    def _must_wait(self) -> bool:
        """Whether to leave the processor to writes: many came just now, and not for too long already.

        A builder takes a core that the writes, and the nodes that follow, want: beside columns at half the
        maximal rate on two cores, lag p99 61 ms with builders and 25 without, and half as many rows again
        came in. At such rates builders fall behind anyway, and much of what they make is merged away.
        """
        now, secs_max = time.monotonic(), self._database.settings.index.build_wait_secs_max
        return now - self._load_seen <= PAUSE_SECS and now - self._load_began < secs_max

    def _give_up(self) -> None:
        """End a builder that was begun just before the writes: it is begun anew after them, once for each
        segment.

        Side by side on two cores, with builders on both nodes when columns begin to come at 90,000/s: lag p99
        42 ms where they went on, 15 this way, and all of the 90,000 came in instead of 72,000. A builder that
        is stopped by a signal would lose no work, but a stopped process hears of nothing.
        """
        if self._child is not None and time.monotonic() < self._may_give_up_until:
            self._gave_up = True
            self._child.kill()

    def _build(self, collection: Collection, segment: SealedSegment) -> None:
        database = self._database
        name = segment_directory_name(collection, segment.name)
        path = f"{database.directory.segments_path(database.node.generation)}/{name}"
        started = time.monotonic()
        self._gave_up, gave_up_before = False, "graph_given_up" in segment.cache
        self._may_give_up_until = -math.inf if gave_up_before else started + GIVES_UP_SECS
        code, said = self._run_child(path, collection, BUILD_SECS_MIN + segment.rows * BUILD_ROW_SECS)
        if self._gave_up and code != 0:
            segment.cache["graph_given_up"] = True
            return
        if not self._is_wanted(collection, segment):
            return
        if code != 0:
            reason = f"the builder ended with exit code {code}: {said}"
            self._failed(collection, segment, reason, passing=code == ExitCode.NO_ROOM)
            return
        try:
            files = database.run_work(graph_file_infos, database.directory.disk, path)
        except OSError as error:  # the segment was dropped or merged away meanwhile, or the disk is full
            if error.errno != errno.ENOENT and not is_disk_full(error):
                raise
            if self._is_wanted(collection, segment):
                self._failed(collection, segment, str(error), passing=is_disk_full(error))
            return
        graph = database.run_work(
            load_graph, database.directory.disk, path, collection.config, files, verify=False
        )
        if not self._is_wanted(collection, segment):
            return
        if graph is None:
            self._failed(collection, segment, "the graph that was built cannot be loaded")
        else:
            segment.graph = graph
            segment.files = {**segment.files, **files}
            self.built += 1
            self.build_secs += time.monotonic() - started
            self._changed()
            log.info(
                "graph_built",
                collection=collection.config.name,
                segment=segment.name,
                rows=segment.rows,
                secs=round(time.monotonic() - started, 3),
            )

    def _is_wanted(self, collection: Collection, segment: SealedSegment) -> bool:
        """Whether the segment is still there: not dropped, not merged away, not replaced by other data."""
        held = self._database.node.store.collections.get(collection.config.name)
        return held is collection and segment in (*collection.segments, *_made(collection))

    def _failed(
        self, collection: Collection, segment: SealedSegment, reason: str, *, passing: bool = False
    ) -> None:
        """Say so, and wait. What passes, a full disk, is tried again for ever; anything else a few times."""
        self.failed += 1
        if collection.made is not None and collection.made.segment is segment:
            collection.made.graph_failed = True
        if not passing:
            segment.cache["graph_failures"] = _failures(segment) + 1
        log.warning(
            "graph_build_failed", collection=collection.config.name, segment=segment.name, reason=reason
        )
        gevent.sleep(RETRY_SECS)

    def _run_child(self, path: str, collection: Collection, secs_max: float) -> tuple[int, str]:
        """Run the builder on a segment's directory; its exit code and the end of what it said.

        One that takes longer than ``secs_max`` is ended.
        """
        index, config = self._database.settings.index, collection.config
        m, threads, niceness = config.hnsw_m, index.builder_threads, index.builder_niceness
        line = command(path, config.metric, m, config.ef_construction, threads, niceness)
        paths = [str(PACKAGE_PARENT), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**os.environ, "PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join(paths)}
        try:
            self._child = ChildProcess(line, environment)
        except OSError as error:  # no memory, no processes, no file descriptors: later perhaps
            return NOT_STARTED, str(error)
        child, said = self._child, b""
        try:
            with gevent.Timeout(secs_max, TimeoutError()):
                while part := child.errors.read(SAID_BYTES_MAX):
                    said = (said + part)[-SAID_BYTES_MAX:]
                code = child.wait()
            return code, said.decode("utf-8", "replace").strip()
        except TimeoutError:
            return OVERDUE, f"it had not finished after {secs_max:g} s"
        finally:
            child.errors.close()
            self.stop()
            self._child = None


def _made(collection: Collection) -> tuple[SealedSegment, ...]:
    """The merged segment that is not in place yet, if there is one."""
    return () if collection.made is None else (collection.made.segment,)


def _failures(segment: SealedSegment) -> int:
    count = segment.cache.get("graph_failures", 0)
    assert isinstance(count, int)
    return count
