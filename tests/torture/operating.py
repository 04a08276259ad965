"""An operator who knows only what docs/OPERATIONS.md and docs/REPLICATION.md say, and who is never hasty.

To take the mastership from a node it is stopped first; the replica with the highest (epoch, offset) of
all that are left is promoted, the other one is pointed at it, and only then the old master is started, to
follow. Each is done by a script or by hand, as the docs show both.
"""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.cluster.harness import Node, Refused, wait_until
from tests.cluster.harness.node import ROOT, clean_environment
from tests.torture.faults import Events
from tests.torture.trio import Trio

SETTLE_SECS = 60.0
NOBODY_SECS = 3.0
UNHEARD_SECS = 0.5
SCRIPT_SECS = 150.0
TRIES = 5
BEHIND_SECS = 0.4
SPLIT = "failover of a frozen master"

Status = Mapping[str, Any]


@dataclass
class Look:
    """What a status showed before a mastership was ended: how far it was, and how far others were behind."""

    act: str
    replication_id: str
    offset: int
    behind: dict[str, int] = field(default_factory=dict)
    """Operations by node id."""
    successor: str = ""
    """Node id of who went on."""

    @property
    def lag_operations(self) -> int:
        """So many operations may be lost, of those that this status counted."""
        return self.behind.get(self.successor, self.offset)


class Operator:
    """Changes masters of a trio, one act after the other."""

    def __init__(self, trio: Trio, events: Events, *, seed: int, careless: bool) -> None:
        self._trio = trio
        self._events = events
        self._chance = random.Random(seed * 10 + 3)
        self._careless = careless
        """Takes masters away also while replicas are behind, and without stopping them."""
        self._nobody: tuple[float, float] | None = None
        """Since when nobody is the master, and when that was last seen (monotonic)."""
        self._act = ""
        self.looks: list[Look] = []

    # -- acts ----------------------------------------------------------------------------------------------

    def act(self) -> None:
        """One change, and then everybody follows one master."""
        kinds = {"failover": self._failover, "switchover": self._switchover, "chain": self._chain}
        weights = [4, 3, 1]
        if self._careless:
            kinds[SPLIT] = self._split
            weights.append(2)
        kind = self._chance.choices(list(kinds), weights=weights)[0]
        self._act = kind
        with self._events.happening(kind):
            kinds[kind](self.settle())
            self.settle()

    def settle(self) -> Node:
        """Until one node is the master and both others follow it, each by its own link; the master."""
        try:
            found = wait_until(self._settled, "one master, whom both others follow", SETTLE_SECS)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self._trio.log_tails()}") from None
        assert found is not None
        return found

    def _switchover(self, master: Node) -> None:
        target = self._chance.choice([node for node in self._trio.nodes if node is not master])
        to = f"127.0.0.1:{target.port}"
        way = self._chance.randrange(3)
        # Whether it comes about, under these faults, is seen by who settles it afterwards.
        if way == 0:
            self._script("switchover", "--yes", "--to", to, _url(master))
        elif way == 1:
            self._run(sys.executable, "-m", "vectorizer", "switchover", _url(master), "--to", to)
        else:
            try:
                master.request("POST", "/replication/switchover", {"target": to})
            except OSError:
                return

    def _chain(self, master: Node) -> None:
        """A replica follows the other one for a while."""
        middle, last = self._others(master)
        self._follow(last, middle)
        time.sleep(self._chance.uniform(0.5, 2))

    def _failover(self, master: Node) -> None:
        left = self._others(master)
        with self._trio.locks[master]:
            if self._careless and self._chance.random() < 0.7:
                for way in self._trio.ways_to(master):
                    way.swallow("down")
                time.sleep(self._chance.uniform(0, BEHIND_SECS))
            look = self._look(master)
            master.kill()
            for way in self._trio.ways_to(master):
                way.cut()  # what was on its way is lost with the master
                way.heal()
            chosen = self._promoted(left, scripts=self._chance.choice([0, 2]))
            look.successor = wait_until(lambda: chosen.status()["node_id"], f"{chosen.name} answers")
            master.start()
        # It came back as what it was, and takes writes until it follows.
        self._make_follow(master, chosen)

    def _split(self, master: Node) -> None:
        """A master that is silent, and not stopped: it takes writes again beside its successor."""
        left = self._others(master)
        with self._trio.locks[master]:
            master.freeze()
            chosen = self._promoted(left, scripts=0)
            master.thaw()
        time.sleep(self._chance.uniform(0, 1))
        self._make_follow(master, chosen)

    def _promoted(self, left: list[Node], scripts: int) -> Node:
        """The most advanced of these is the master, and the other follows; by so many calls, else by hand."""
        for _ in range(scripts):
            for node in left:
                wait_until(node.status, f"{node.name} answers", SETTLE_SECS)
            if self._script("failover", "--yes", *map(_url, left)):
                break
        found = wait_until(lambda: self._led(left), f"one of {left} leads", SETTLE_SECS)
        assert found is not None
        return found

    def _led(self, left: list[Node]) -> Node | None:
        """One step by hand towards one master among these that the other follows; that master."""
        statuses = {node: node.status() for node in left}
        masters = [node for node in left if statuses[node]["role"] == "Master"]
        if not masters:
            self._promote(max(left, key=lambda node: _advance(statuses[node])))
            return None
        [master] = masters
        [other] = [node for node in left if node is not master]
        if not self._follows(other, statuses[other], master):
            return None
        return master

    # -- settling ------------------------------------------------------------------------------------------

    def _settled(self) -> Node | None:
        statuses = {node: node.status() for node in self._trio.nodes}
        masters = [node for node in statuses if statuses[node]["role"] == "Master"]
        if any(status["switchover"]["current"] for status in statuses.values()):
            return None
        if not masters:
            self._without_master(statuses)
            return None
        self._nobody = None
        master = max(masters, key=lambda node: _advance(statuses[node]))
        for node in masters:
            if node is not master:
                self._make_follow(node, master)
        others = self._others(master)
        following = [self._follows(node, statuses[node], master) for node in others]
        return master if all(following) and statuses[master]["writes"]["taken"] else None

    def _without_master(self, statuses: Mapping[Node, Status]) -> None:
        """A switchover that was cut leaves nobody for a moment, or for good: then the docs say, promote."""
        now = time.monotonic()
        since, seen_at = self._nobody or (now, now)
        if now - seen_at > UNHEARD_SECS:
            since = now  # somebody was frozen or dead meanwhile, and may have heard of a promotion
        self._nobody = (since, now)
        if now - since > NOBODY_SECS:
            self._promote(max(statuses, key=lambda node: _advance(statuses[node])))
            self._nobody = None

    def _follows(self, node: Node, status: Status, master: Node) -> bool:
        """Whether a replica follows that master by its own link; it is told to if it does not."""
        link = status["link"]
        if link is None or status["role"] != "Replica":
            return False
        if link["master_address"] != self._trio.address(node, master) or link["state"] in (
            "refused",
            "failed",
        ):
            self._follow(node, master)
            return False
        return bool(link["state"] == "streaming")

    def _make_follow(self, old: Node, master: Node) -> None:
        """An old master gives up what only it has; how much that is, its status shows before."""
        look = wait_until(lambda: self._look(old), f"{old.name} answers", SETTLE_SECS)
        new = wait_until(master.status, f"{master.name} answers", SETTLE_SECS)
        history = wait_until(old.status, f"{old.name} answers")["history"]
        known = {entry["replication_id"] for entry in history}
        forks = [entry["start_offset"] for entry in new["history"] if entry["replication_id"] not in known]
        # What it wrote under its last mastership alone: the one before was looked at when it was ended.
        begun = max([*forks[:1], history[-1]["start_offset"]])
        look.successor = new["node_id"]
        look.behind = {new["node_id"]: max(0, look.offset - begun)}
        for _ in range(TRIES):
            if self._follow(old, master):
                return

    def _look(self, master: Node) -> Look:
        status = master.status()
        behind = {row["id"]: row["lag_operations"] for row in status["replicas"]}
        look = Look(self._act, status["replication_id"], status["offset"], behind)
        self.looks.append(look)
        return look

    # -- commands ------------------------------------------------------------------------------------------

    def _promote(self, node: Node) -> bool:
        return self._asked(node, "promote", {})

    def _follow(self, node: Node, master: Node) -> bool:
        address = self._trio.address(node, master)
        if self._chance.random() < 0.2:
            return self._script("follow", "--yes", _url(node), address)
        return self._asked(node, "follow", {"master_address": address})

    def _asked(self, node: Node, verb: str, document: Mapping[str, Any]) -> bool:
        try:
            node.post(f"/replication/{verb}", document)
        except (OSError, Refused):
            return False  # killed, frozen or busy at the moment: whoever settles looks again
        return True

    def _script(self, name: str, *words: str) -> bool:
        return self._run(str(ROOT / "scripts" / name), *words)

    def _run(self, *words: str) -> bool:
        done = subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            cwd=ROOT,
            env=clean_environment(),
            timeout=SCRIPT_SECS,
            check=False,
        )
        return done.returncode == 0

    def _others(self, master: Node) -> list[Node]:
        return [node for node in self._trio.nodes if node is not master]


def _advance(status: Status) -> tuple[int, int]:
    return status["epoch"], status["offset"]


def _url(node: Node) -> str:
    return f"http://127.0.0.1:{node.port}"
