"""The server: puts the rooms of one process together, starts them in order, and ends them in order.

Start: bind the REST address, lock and open the data, apply what REST stored, listen for replicas or follow
the master, then let clients in. Whatever is wrong is found before anything is served. Stop (SIGTERM): no new
requests, running ones finish, replicas get the rest, a last checkpoint. A failure of the node (its journal, a
bug) ends the process with exit code 1.
"""

from __future__ import annotations

import errno
import os
import resource
import signal
import sys
import time
import uuid

import gevent
from gevent.event import Event

from vectorizer import __version__, logs
from vectorizer.config import Settings, Source
from vectorizer.database import Database, node_limits
from vectorizer.errors import ConfigurationError, DamageError, RequestError
from vectorizer.events import EventRing
from vectorizer.histogram import LATENCY_SECS, Histogram
from vectorizer.listening import advertised_address
from vectorizer.loop_delay import LoopDelay
from vectorizer.maintenance import Maintenance
from vectorizer.metrics.exposition import CONTENT_TYPE, NodeMetrics
from vectorizer.metrics.journal_syncs import MeasuredDisk
from vectorizer.native_threads import AT_ONCE, NativeThreads
from vectorizer.node import Node, NodeFailure, Role
from vectorizer.replication.history import History
from vectorizer.replication_status import ReplicationStatus
from vectorizer.rest.access import Access
from vectorizer.rest.app import RestApp
from vectorizer.rest.dashboard import DashboardRoutes
from vectorizer.rest.measured import Measured
from vectorizer.rest.metrics import MetricsRoutes
from vectorizer.rest.server import RestServer
from vectorizer.rest.switchover import SwitchoverRoutes
from vectorizer.roles import Roles
from vectorizer.security import Security
from vectorizer.service_notification import notify
from vectorizer.snapshots import Snapshots
from vectorizer.storage.data_directory import CURRENT, DataDirectory
from vectorizer.storage.disk import Disk, Lock
from vectorizer.storage.manifest import Manifest
from vectorizer.storage.recovery import Recovered, StorageOptions, create, open_data

FAILED = 1
_NOT_OURS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EINVAL)
"""Errors of a directory that may not be read or written, or knows no syncs: this user made nothing in it."""
THREAD_SWITCH_SECS = 0.001
"""How long a native thread in Python code may keep the event loop waiting; Python's own default is 5 ms."""

log = logs.get(__name__)


class Server:
    """One node: its data, its listeners, its greenlets. Two of them fit in one process."""

    def __init__(self, settings: Settings) -> None:
        self._loop_delay = LoopDelay()
        self._rest = RestServer(settings.server.host, settings.server.port)
        self._lock: Lock | None = None
        self.events = EventRing(time.time_ns() // 1_000_000)
        self._listening = logs.listen(self.events.note)
        try:
            journal_syncs = Histogram(LATENCY_SECS)
            disk = MeasuredDisk(journal_syncs)
            directory = DataDirectory(disk, os.path.abspath(settings.storage.data_dir))
            self._lock = lock_data(disk, directory.root)
            recovered, settings = open_data_with_settings(directory, settings)
            self.settings = settings
            self.security = Security(settings)
            self.security.guard_rest(settings.server.host)
            node = Node(
                recovered,
                Role(settings.replication.role),
                node_limits(settings),
                new_id,
                followed=directory.follows,
            )
            self.database = Database(settings, directory, node)
            self.maintenance = Maintenance(self.database)
            self.snapshots = Snapshots(self.database, self.maintenance)
            self.roles = Roles(
                self.database,
                self.maintenance,
                self.snapshots,
                advertised_address(settings, self._rest.port),
                self.security,
            )
            self.status = ReplicationStatus(
                self.database, self.roles, self.snapshots, self.maintenance, self._loop_delay
            )
            self.metrics = NodeMetrics(
                self.database, self.roles, self.maintenance, self.snapshots, self._loop_delay, journal_syncs
            )
            self.application = self._application()
        except BaseException:
            self._listening.close()
            self._rest.close()
            if self._lock is not None:
                self._lock.release()
            raise

    def _application(self) -> RestApp:
        access = Access(self.security.keys)
        others = [
            *MetricsRoutes(self.metrics.exposition, CONTENT_TYPE).routes(),
            *SwitchoverRoutes(self.status).routes(),
            *DashboardRoutes(self.events, access).routes(),
        ]
        return RestApp(self.database, self.status, others, access)

    @property
    def rest_address(self) -> tuple[str, int]:
        """Host and port of the REST interface."""
        return self._rest.host, self._rest.port

    def start(self) -> None:
        """Serve. ConfigurationError if the replication address is in use; nothing is left running then."""
        try:
            self._start()
        except BaseException:
            self.roles.stop(0.0)
            self.discard()
            raise

    def _start(self) -> None:
        database = self.database
        self.metrics.greenlets.start()
        database.start()
        database.own(gevent.spawn(self._loop_delay.run), "watch of the event loop")
        self.maintenance.start()
        database.flush()  # the mastership of this start is durable before anybody hears of it
        self.roles.start()
        measured = Measured(self.application, self.metrics.requests)
        self._rest.start(measured, self.settings, self.security.rest_tls)
        host, port = self.rest_address
        log.info(
            "started",
            version=__version__,
            role=database.node.role.value,
            rest=f"{self.settings.rest_scheme}://{host}:{port}",
            data_dir=database.directory.root,
            collections=len(database.node.store.collections),
            **database.node.describe(),
        )

    def discard(self) -> None:
        """Give back what a server holds that was never started."""
        self._rest.close()
        self._close()

    def stop(self) -> None:
        """End everything in order; what was acknowledged is on disk. NodeFailure if the journal failed."""
        timeout_secs = self.settings.server.shutdown_timeout_secs
        deadline = time.monotonic() + timeout_secs
        self._rest.stop(timeout_secs)
        self.roles.stop(max(0.0, deadline - time.monotonic()))
        if self.database.node.failure is None:
            try:
                self.maintenance.checkpoint()
            except (OSError, NodeFailure) as error:  # the journal has everything
                log.warning("last_checkpoint_failed", error=str(error))
        self._close()
        if self.database.node.failure is not None:
            raise self.database.node.failure
        log.info("stopped", **self.database.node.describe())

    def _close(self) -> None:
        try:
            self.database.close()
        finally:
            self.metrics.greenlets.close()
            self._listening.close()
            if self._lock is not None:
                self._lock.release()


def serve(settings: Settings) -> int:
    """Run a server until SIGTERM or SIGINT; the exit code. ConfigurationError before anything is served."""
    sys.setswitchinterval(THREAD_SWITCH_SECS)
    allow_open_files()
    try:
        server = Server(settings)
        server.start()
    except DamageError as error:
        log.error("data_damaged", reason=str(error))
        return FAILED
    except (OSError, RequestError, NodeFailure) as error:  # RequestError: no room to record the mastership
        log.error("start_failed", reason=str(error))
        return FAILED
    stopping = Event()
    handlers = [gevent.signal_handler(number, stopping.set) for number in (signal.SIGTERM, signal.SIGINT)]
    notify("READY=1")
    gevent.wait([stopping, server.database.failed], count=1)
    if server.database.failed.ready():
        notify(f"STATUS={server.database.failed.get()}")
        os._exit(FAILED)  # memory can no longer be trusted: nothing is flushed, recovery decides
    notify("STOPPING=1")
    try:
        server.stop()
    except (OSError, NodeFailure) as error:  # nothing acknowledged is lost, recovery decides about the rest
        log.error("stop_failed", reason=str(error))
        return FAILED
    finally:
        for handler in handlers:
            handler.cancel()
    return 0


def allow_open_files() -> None:
    """As many as the system lets this process have: each segment takes six, each connection one.

    What a shell allows is often 1,024, which is for programs that use ``select``.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def new_id() -> str:
    """A random id for nodes and masterships."""
    return uuid.uuid4().hex


def lock_data(disk: Disk, root: str) -> Lock:
    """Hold the data directory against other processes. ConfigurationError if it cannot be had."""
    try:
        _make_durable_directory(disk, root)
        return disk.lock(f"{root}/LOCK")
    except BlockingIOError as error:
        raise _unusable(root, "another running server holds it") from error
    except OSError as error:
        raise _unusable(root, error.strerror or str(error)) from error


def _make_durable_directory(disk: Disk, path: str) -> None:
    """Make a directory if it is missing; its name and those above it survive a loss of power.

    Also if it is there without data: who was killed while making it has not synced its name.
    """
    if not disk.exists(path):
        disk.make_directory(path)
    if disk.exists(f"{path}/{CURRENT}"):
        return
    while path != os.path.dirname(path):
        path = os.path.dirname(path)
        try:
            disk.sync_directory(path)
        except OSError as error:
            if error.errno not in _NOT_OURS:
                raise


def _unusable(root: str, why: str) -> ConfigurationError:
    return ConfigurationError(
        f"the data directory {root} cannot be used: {why}",
        key="storage.data_dir",
        accepted="a directory that this user can write and no other server uses",
    )


def open_data_with_settings(directory: DataDirectory, settings: Settings) -> tuple[Recovered, Settings]:
    """Open the data, and apply the settings that REST stored in it.

    DamageError if it cannot be trusted, except on a replica: there it is moved aside, to be fetched anew.
    """
    stored = _stored_manifest(directory)
    if stored is not None and not settings.ignore_stored:
        settings = settings.replaced(stored.stored, source=Source.REST)
        for override in settings.overrides():
            log.info(
                "stored_setting_overrides",
                name=override.name,
                value=override.value,
                hidden=override.hidden,
                hidden_source=override.hidden_source.value,
            )
    options = StorageOptions(
        journal_file_bytes=settings.storage.journal_file_bytes,
        journal_bytes_max=settings.storage.journal_bytes_max,
        log_size=settings.replication.log_size,
        log_bytes_max=settings.replication.log_bytes_max,
    )
    threads = NativeThreads(AT_ONCE)
    try:
        recovered = open_data(directory, options, new_id, threads.run_each)
    except DamageError as error:
        if settings.replication.role != Role.REPLICA:
            raise
        log.error("replica_data_damaged", reason=str(error), action="moved aside, to be synced anew")
        recovered = _start_anew(directory, options, stored)
    finally:
        threads.kill()
    report = recovered.report
    if report is not None and (report.cut_bytes or report.damages or report.restarted):
        log.warning("journal_repaired", report=str(report))
    return recovered, settings


def _stored_manifest(directory: DataDirectory) -> Manifest | None:
    """The manifest that counts, for its settings; None if there is none that can be read."""
    try:
        current = directory.current()
        return None if current is None else directory.read_manifest(*current)
    except DamageError:
        return None


def _start_anew(directory: DataDirectory, options: StorageOptions, stored: Manifest | None) -> Recovered:
    for generation in directory.generations():
        directory.keep_aside(generation, f"{time.time_ns() // 1_000_000}-damaged-{generation}")
    node_id, settings = (new_id(), {}) if stored is None else (stored.node_id, stored.stored)
    recovered = create(directory, options, Manifest(node_id, 0, None, 0, History(), settings))
    directory.remove_other_generations(recovered.generation)
    return recovered
