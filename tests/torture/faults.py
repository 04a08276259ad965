"""Faults that come by themselves, every few seconds: of links in one thread, of processes in another."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from tests.cluster.harness import Node, NotStarted, Proxy
from tests.cluster.harness.crew import Crew
from tests.cluster.harness.proxy import Direction
from tests.torture.trio import Trio

SLOW_BYTES_PER_SEC = (2_000, 20_000)
CUT_WITHIN_BYTES = (100, 20_000)


@dataclass(frozen=True, slots=True)
class Event:
    """One fault or one act of the operator, from its beginning until it was taken back (monotonic)."""

    kind: str
    began_at: float
    ended_at: float


class Events:
    """What happened so far, told by everybody who does something."""

    def __init__(self) -> None:
        self.told: list[Event] = []
        self.not_started: list[tuple[str, str]] = []
        """(kind, why): nodes that did not start again."""

    @contextlib.contextmanager
    def happening(self, kind: str) -> Iterator[None]:
        """An event that begins now and ends with the context; counted also if it fails."""
        began_at = time.monotonic()
        try:
            yield
        except NotStarted as error:
            self.not_started.append((kind, str(error)))
            raise
        finally:
            self.told.append(Event(kind, began_at, time.monotonic()))


class Faults(Crew):
    """Breaks links and processes of a trio as long as the context lasts; all is whole again after it."""

    def __init__(
        self, trio: Trio, events: Events, *, seed: int, link_secs: float, process_secs: float
    ) -> None:
        self._trio = trio
        self._events = events
        links, processes = random.Random(seed * 10 + 1), random.Random(seed * 10 + 2)
        tasks = [
            partial(self._break, self._break_link, links, link_secs),
            partial(self._break, self._break_process, processes, process_secs),
        ]
        super().__init__("a fault", tasks)

    def stop(self) -> None:
        """End them, and let everything be whole again."""
        super().stop()
        self._trio.heal()

    def _break(
        self, break_one: Callable[[random.Random], None], chance: random.Random, every_secs: float
    ) -> None:
        while not self.stopped.wait(every_secs * chance.uniform(0.5, 1.5)):
            break_one(chance)

    # -- links ---------------------------------------------------------------------------------------------

    def _break_link(self, chance: random.Random) -> None:
        ways = [proxy for proxy in self._trio.ways() if proxy.in_use]
        if not ways:
            return
        way = chance.choice(ways)
        kinds = {
            "link cut": self._cut,
            "link cut within a frame": self._cut_within,
            "link slow": self._slow,
            "link half-open": self._half_open,
            "link refused": self._refuse,
        }
        kind = chance.choices(list(kinds), weights=[4, 3, 2, 2, 1])[0]
        with self._events.happening(kind):
            kinds[kind](way, chance)

    def _cut(self, way: Proxy, chance: random.Random) -> None:
        way.cut()

    def _cut_within(self, way: Proxy, chance: random.Random) -> None:
        """The next connection, too, ends within something."""
        directions: list[Direction] = ["down", "up"]
        way.cut_after(chance.randrange(*CUT_WITHIN_BYTES), direction=chance.choice(directions))
        way.cut()

    def _slow(self, way: Proxy, chance: random.Random) -> None:
        way.bytes_per_sec = chance.uniform(*SLOW_BYTES_PER_SEC)
        way.delay_secs = chance.choice([0.0, 0.05])
        self.stopped.wait(chance.uniform(0.5, 2))
        way.heal()

    def _half_open(self, way: Proxy, chance: random.Random) -> None:
        """Nothing passes in one direction or both, and nobody is told; also for longer than the timeout."""
        directions: list[tuple[Direction, ...]] = [("down",), ("up",), ("down", "up")]
        way.swallow(*chance.choice(directions))
        self.stopped.wait(chance.uniform(0.5, 4))
        way.heal()

    def _refuse(self, way: Proxy, chance: random.Random) -> None:
        way.refuse()
        self.stopped.wait(chance.uniform(0.5, 2))
        way.heal()

    # -- processes -----------------------------------------------------------------------------------------

    def _break_process(self, chance: random.Random) -> None:
        node = chance.choice(self._trio.nodes)
        kill = chance.random() < 0.5
        with self._trio.locks[node]:
            if kill:
                with self._events.happening("kill -9"):
                    self._kill(node, chance)
            else:
                with self._events.happening("process frozen"):
                    self._freeze(node, chance)

    def _kill(self, node: Node, chance: random.Random) -> None:
        node.kill()
        self.stopped.wait(chance.choice([0.0, 0.5, 1.5]))
        node.start()

    def _freeze(self, node: Node, chance: random.Random) -> None:
        node.freeze()
        self.stopped.wait(chance.choice([0.3, 1.0, 2.0, 4.0]))
        node.thaw()
