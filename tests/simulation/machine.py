"""A machine: a host on the network, a disk that outlives everything, and at most one process
running the server.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.simulation import virtual_gevent
from tests.simulation.disk import SimulatedDisk
from tests.simulation.kernel import Kernel, Process, ProcessKilled, Task
from tests.simulation.network import Network

if TYPE_CHECKING:
    from vectorizer.config import Settings
    from vectorizer.node import Node
    from vectorizer.server import Server

PORT = 7001
STEP_SECS = 0.0006  # the mean time that one changing step on a disk takes
SLOW_STEP_CHANCE = 0.01
RESTART_SECS = 1.0  # after a start that found no room on disk
MACHINES: dict[Process, Machine] = {}
"""Of the living processes: whose disk and settings they have."""


class PacedDisk(SimulatedDisk):
    """A disk whose steps take time. A native task lets others run meanwhile; a task of the loop
    holds its process.
    """

    def __init__(self, kernel: Kernel) -> None:
        super().__init__()
        self.kernel = kernel
        self.process: Process | None = None
        self.power_off: Callable[[], None] | None = None
        self.broken = False  # an error was injected in this life of the process: it may well give up

    def sync(self, content: Any, path: str = "") -> None:
        """An injected error is remembered."""
        try:
            super().sync(content, path)
        except OSError:
            self.broken = True
            raise

    def step(self) -> None:
        """Before anything changes; here the power may go off, and here time passes."""
        kernel, task = self.kernel, self.kernel.current()
        self.steps += 1
        if task is None:
            return
        if task.process is not self.process or not task.process.alive:
            raise ProcessKilled
        if self.stop_after is not None:
            self.stop_after -= 1
            if self.stop_after < 0:
                assert self.power_off is not None
                kernel.at(0.0, self.power_off)
                kernel.park()
        seconds = kernel.random.expovariate(1.0 / STEP_SECS)
        if kernel.random.random() < SLOW_STEP_CHANCE:
            seconds += kernel.random.random() * 0.1
        if task.native:
            kernel.pause(seconds)
        else:
            task.process.hold_loop(seconds)


def machine_of_current_process() -> Machine:
    """On which the task that runs is."""
    return MACHINES[virtual_gevent.here().process]


def disk_of_current_process() -> PacedDisk:
    """In the place of ``RealDisk``."""
    return machine_of_current_process().disk


def look_at_file(file: Any) -> None:
    """In the place of ``WatchedFile._read``: the files of the machine."""
    files = machine_of_current_process().files
    if file.path not in files:
        raise FileNotFoundError(file.path)
    file.content, file.problem = files[file.path], ""


@dataclass(slots=True)
class Watch:
    """Who hears what happens to the process."""

    built: Callable[[Machine], None]
    dying: Callable[[Machine], None]
    trouble: Callable[[Machine, str], None]
    note: Callable[[str, str], None]


class Machine:
    """``settings`` gives the node's settings at each start."""

    def __init__(
        self,
        kernel: Kernel,
        network: Network,
        number: int,
        settings: Callable[[Machine], Settings],
        watch: Watch,
    ) -> None:
        self.kernel = kernel
        self.network = network
        self.number = number
        self.name = f"n{number}"
        self.host = f"10.0.0.{number + 1}"
        self.root = f"/{self.name}"
        self.disk = PacedDisk(kernel)
        self.settings = settings
        self.watch = watch
        self.process: Process | None = None
        self.server: Server | None = None
        self.started = False
        self.starts = 0
        self.skew_ms = kernel.random.randint(-5000, 5000)
        self.files: dict[str, bytes] = {}  # outside its data: what an operator writes
        self.secrets: set[bytes] = set()  # all that its processes may come with
        self.forgets_secret = False  # the next start's settings do not name the file
        self.taking_over = ""  # the switchover by which it becomes the master

    @property
    def address(self) -> str:
        """Where it listens for replicas."""
        return f"{self.host}:{PORT}"

    def new_disk(self) -> None:
        """Its disk is replaced by an empty one; while no process runs."""
        self.disk = PacedDisk(self.kernel)

    @property
    def secret_path(self) -> str:
        """Where its secret is kept."""
        return f"/etc/{self.name}/secret"

    def give_secret(self, content: bytes) -> None:
        """An operator writes its file."""
        self.files[self.secret_path] = content
        self.secrets.add(content)

    @property
    def secret_unusable(self) -> bool:
        """Whether an operator has spoilt its file: then a start is refused, until the file is mended."""
        return self.files.get(self.secret_path) not in self.secrets

    @property
    def lets_anybody_in(self) -> bool:
        """Whether its process, or a later one before anybody looks, asks for no secret."""
        return b"" in self.secrets

    @property
    def running(self) -> bool:
        """Whether there is a process, however far it is."""
        return self.process is not None

    @property
    def node(self) -> Node | None:
        """The node, from the moment at which its data is open."""
        return None if self.server is None else self.server.database.node

    # -- life --------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the server, unless it runs."""
        if self.process is not None:
            return
        self.starts += 1
        self.disk.broken = False
        process = Process(self.kernel, f"{self.name}.{self.starts}", self.skew_ms)
        self.process = self.disk.process = process
        self.disk.power_off = lambda: self.crash(power=True) if self.process is process else None
        MACHINES[process] = self
        process.on_error = self._task_died
        self.network.join(process, self.host)
        self.watch.note(self.name, "starts")
        virtual_gevent.Greenlet(self._serve).start(process=process)

    def _serve(self) -> None:
        from vectorizer import server as product
        from vectorizer.errors import VectorizerError
        from vectorizer.node import NodeFailure

        try:
            self.server = server = product.Server(self.settings(self))
            self.watch.built(self)
            server.start()
        except OSError as error:
            self._give_up(f"cannot start: {error}", expected=self.disk.full or self.disk.broken)
            return
        except VectorizerError as error:
            full = getattr(error, "status_code", 0) == 507
            unusable = getattr(error, "key", "") == "security.replication_secret_file"
            failed = isinstance(error, NodeFailure) and self.disk.broken
            expected = full or failed or (unusable and self.secret_unusable)
            self._give_up(f"cannot start: {error}", expected=expected)
            return
        self.started = True
        server.database.failed._event.wait()
        self._give_up(f"the node has failed: {server.database.failed.value}", expected=self.disk.broken)

    def _give_up(self, text: str, *, expected: bool) -> None:
        self.watch.note(self.name, text)
        if expected:
            self.kernel.at(RESTART_SECS, self.start)
        else:
            self.watch.trouble(self, text)
        self.kernel.at(0.0, lambda: self.crash(power=False))
        self.kernel.park()

    def _task_died(self, task: Task, error: BaseException) -> None:
        for line in traceback.format_exception(error):
            self.watch.note(self.name, f"died: {line.rstrip()}")
        if self.disk.broken and type(error).__name__ == "NodeFailure":
            return  # whoever asked for something hears of it, and the process ends
        if not task.native and not task.watched:
            self.watch.trouble(self, f"a greenlet has died of {error!r}")

    def stop(self) -> None:
        """Ask the server to end in order (SIGTERM)."""
        server, process = self.server, self.process
        if server is None or process is None or not self.started:
            return

        def end() -> None:
            from vectorizer.node import NodeFailure

            try:
                server.stop()
            except (OSError, NodeFailure) as error:  # as ``serve`` does; recovery decides about the rest
                self.watch.note(self.name, f"could not stop in order: {error}")
                if not self.disk.broken and not self.disk.full:
                    self.watch.trouble(self, f"could not stop in order: {error!r}")
            self.kernel.at(0.0, lambda: self._ended(process))

        self.watch.note(self.name, "is asked to stop")
        self.started = False
        self.kernel.spawn(process, end)

    def _ended(self, process: Process) -> None:
        if self.process is process:
            self.watch.note(self.name, "has stopped")
            self.crash(power=False, quiet=True)

    def crash(self, *, power: bool, silent: bool = False, quiet: bool = False) -> None:
        """The process dies; without power also what was not synced. ``silent``: its peers are not told."""
        process = self.process
        if process is None:
            return
        if not quiet:
            self.watch.note(
                self.name, f"{'loses power' if power else 'is killed'}, disk at step {self.disk.steps}"
            )
        self.watch.dying(self)
        self.process = self.server = None
        self.started = False
        process.kill()
        del MACHINES[process]
        self.network.leave(process, silent)
        if power:
            self.disk.crash(self.kernel.random)
        else:
            self.disk.stop_process()

    def run(self, function: Callable[[], Any]) -> Task | None:
        """Let a task of this process call something; None if nothing runs."""
        if self.process is None or not self.started:
            return None
        return self.kernel.spawn(self.process, function)
