"""The three nodes as processes: started all or none, stopped in order, found again if the script was killed.

What runs is written to a record in .cluster/, with the start time of each process beside its id: a process id
that the system has given to somebody else since is never signalled.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from scripts.demo.client import answers

START_SECS = 30.0
STOP_SECS = 20.0
LOG_LINES = 15
# Allocated ahead, three times over: a temporary directory may be small.
JOURNAL_FILE_BYTES = 16 << 20


class ClusterError(Exception):
    """What keeps the cluster from running; str() is for the person at the terminal."""


@dataclass(frozen=True)
class Process:
    """A process that cannot be mistaken for a later one with the same id."""

    name: str
    pid: int
    started: float

    @classmethod
    def of(cls, name: str, pid: int) -> Process:
        return cls(name, pid, psutil.Process(pid).create_time())

    def find(self) -> psutil.Process | None:
        """The process if it still runs; None if it has ended, or if its id has passed to another one."""
        try:
            found = psutil.Process(self.pid)
            same = abs(found.create_time() - self.started) < 0.05
            return found if same and found.status() != psutil.STATUS_ZOMBIE else None
        except psutil.NoSuchProcess:
            return None

    def stop(self) -> bool:
        """End it with SIGTERM, after STOP_SECS with SIGKILL; False if it had to be killed."""
        found = self.find()
        if found is None:
            return True
        found.terminate()
        if ended(found, STOP_SECS):
            return True
        found.kill()
        ended(found, STOP_SECS)
        return False


def ended(process: psutil.Process, timeout_secs: float) -> bool:
    try:
        process.wait(timeout_secs)
    except psutil.TimeoutExpired:
        return False
    return True


class Interruption:
    """Ctrl-C and its like: raised as KeyboardInterrupt, but never while something is half done."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self._held = False

    def __call__(self, _number: int, _frame: object) -> None:
        """As a handler of signals. Only the first one counts: stopping is not interrupted."""
        first = not self.asked.is_set()
        self.asked.set()
        if first and not self._held:
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """A process that was started is written down before anything else happens."""
        self._held = True
        try:
            yield
        finally:
            self._held = False
            if self.asked.is_set():
                raise KeyboardInterrupt


@dataclass(frozen=True)
class Plan:
    """Where the nodes will be: the first is the master."""

    root: Path
    base_port: int
    replication_port: int
    keep: bool

    names = ("master", "replica-1", "replica-2")

    @property
    def urls(self) -> dict[str, str]:
        return {name: f"http://127.0.0.1:{self.base_port + i}" for i, name in enumerate(self.names)}

    @property
    def record_file(self) -> Path:
        return self.root / ".cluster" / f"cluster-{self.base_port}.json"

    def settings(self, name: str) -> dict[str, str]:
        """The environment that makes a node what it is."""
        address = f"127.0.0.1:{self.replication_port}"
        if name == "master":
            role = {"REPLICATION_ROLE": "master", "REPLICATION_BIND_ADDRESS": address}
        else:
            role = {"REPLICATION_ROLE": "replica", "REPLICATION_MASTER_ADDRESS": address}
        return {**role, "VECTORIZER_JOURNAL_FILE_BYTES": str(JOURNAL_FILE_BYTES)}


def owner_of(port: int) -> str:
    """Who listens on a port, as far as this user may know: " (python, process 123)" or nothing."""
    try:
        for connection in psutil.net_connections(kind="tcp"):
            listens = connection.status == psutil.CONN_LISTEN and tuple(connection.laddr)[1:] == (port,)
            if listens and connection.pid:
                return f" by {psutil.Process(connection.pid).name()} (process {connection.pid})"
    except psutil.Error:
        return ""
    return ""


def check_ports(plan: Plan) -> None:
    """Raise ClusterError naming every port that is taken, before anything is started."""
    wanted = {
        **{plan.base_port + i: f"REST of {name}" for i, name in enumerate(plan.names)},
        plan.replication_port: "replication of master",
    }
    taken = []
    for port, purpose in wanted.items():
        with socket.socket() as probe:
            # As the server does: a port whose last connections are still closing is free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as error:
                taken.append(f"  {port} ({purpose}): {error.strerror}{owner_of(port)}")
    if taken:
        raise ClusterError(
            "Nothing was started, because these ports cannot be had:\n"
            + "\n".join(taken)
            + "\nscripts/cluster --stop ends a cluster left behind; "
            "--base-port and --replication-port choose other ports."
        )


class Cluster:
    """The running nodes, and the record that lets `--stop` find them."""

    def __init__(self, plan: Plan, interruption: Interruption) -> None:
        self.plan = plan
        self.interruption = interruption
        self.processes: list[Process] = []
        if plan.keep:
            self.directory = plan.root / ".cluster" / f"data-{plan.base_port}"
            self.directory.mkdir(parents=True, exist_ok=True)
        else:
            self.directory = Path(tempfile.mkdtemp(prefix="vectorizer-cluster-"))
        self.script = Process.of("scripts/cluster", os.getpid())

    def log_of(self, name: str) -> Path:
        return self.directory / f"{name}.log"

    def start(self) -> None:
        """Start all nodes and wait until each answers; if one does not, stop the others and show its log."""
        self.write_record()
        try:
            for name in self.plan.names:
                with self.interruption.held():
                    self.processes.append(Process.of(name, self.launch(name)))
                    self.write_record()
            for process in self.processes:
                self.wait_until_it_answers(process)
        except BaseException:
            self.stop()
            raise

    def launch(self, name: str) -> int:
        """Start a node, in a session of its own so that Ctrl-C reaches this script alone; return its pid."""
        directory = self.directory / name
        directory.mkdir(exist_ok=True)
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("VECTORIZER_", "REPLICATION_"))}
        port = self.plan.urls[name].rpartition(":")[2]
        options = ["--host", "127.0.0.1", "--port", port, "--data-dir", str(directory / "data")]
        with self.log_of(name).open("ab") as log:
            node = subprocess.Popen(
                [sys.executable, "-m", "vectorizer", "serve", *options],
                cwd=directory,  # where no config.yml lies that would be taken up by chance
                env={**inherited, **self.plan.settings(name)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return node.pid

    def wait_until_it_answers(self, process: Process) -> None:
        deadline = time.monotonic() + START_SECS
        url = self.plan.urls[process.name]
        while not answers(url):
            if process.find() is None:
                raise ClusterError(f"{process.name} ended while starting. {self.last_words(process.name)}")
            if time.monotonic() > deadline:
                told = f"{process.name} does not answer at {url} after {START_SECS:g} s."
                raise ClusterError(f"{told} {self.last_words(process.name)}")
            time.sleep(0.05)

    def last_words(self, name: str) -> str:
        lines = self.log_of(name).read_text(errors="replace").splitlines()[-LOG_LINES:]
        return "The last lines of its log:\n" + "\n".join(f"  {line}" for line in lines)

    def dead(self) -> list[str]:
        """Names of the nodes that have ended by themselves."""
        return [process.name for process in self.processes if process.find() is None]

    def write_record(self) -> None:
        record = {
            "script": asdict(self.script),
            "nodes": [asdict(process) for process in self.processes],
            "directory": str(self.directory),
            "keep": self.plan.keep,
        }
        self.plan.record_file.parent.mkdir(exist_ok=True)
        aside = self.plan.record_file.with_suffix(".new")
        aside.write_text(json.dumps(record, indent=2))
        aside.replace(self.plan.record_file)

    def stop(self) -> list[str]:
        """Stop the nodes, the master first so that its replicas get the rest; return those it had to kill."""
        killed = [process.name for process in self.processes if not process.stop()]
        forget(self.plan.record_file, self.directory, self.plan.keep)
        return killed


def forget(record_file: Path, directory: Path, keep: bool) -> None:
    """Remove the record and, unless it is to be kept, the data."""
    if not keep:
        shutil.rmtree(directory, ignore_errors=True)
    record_file.unlink(missing_ok=True)


@dataclass(frozen=True)
class Record:
    """What a cluster wrote about itself."""

    script: Process
    nodes: list[Process]
    directory: Path
    keep: bool

    @classmethod
    def read(cls, plan: Plan) -> Record | None:
        try:
            fields = json.loads(plan.record_file.read_text())
        except FileNotFoundError:
            return None
        nodes = [Process(**node) for node in fields["nodes"]]
        return cls(Process(**fields["script"]), nodes, Path(fields["directory"]), fields["keep"])

    @property
    def running(self) -> list[Process]:
        return [process for process in (self.script, *self.nodes) if process.find() is not None]


def forget_the_dead(plan: Plan) -> None:
    """Clear away what a cluster left of which nothing runs any more."""
    record = Record.read(plan)
    if record is not None and not record.running:
        forget(plan.record_file, record.directory, record.keep)


def stop_left_behind(plan: Plan) -> str:
    """End what the record names and still runs; return what was done, as a sentence."""
    record = Record.read(plan)
    if record is None:
        return f"No cluster is recorded at port {plan.base_port}; nothing to stop."
    names = ", ".join(process.name for process in record.running)
    script = record.script.find()
    if script is not None:
        # It stops its nodes and removes their data itself; only if it fails to is the rest done here.
        script.send_signal(signal.SIGTERM)
        ended(script, STOP_SECS * (len(plan.names) + 1))
    for node in record.nodes:
        node.stop()
    forget(plan.record_file, record.directory, record.keep)
    return f"Stopped at port {plan.base_port}: {names or 'nothing, it had ended already'}."
