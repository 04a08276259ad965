"""The invariants. What breaks one ends the simulation.

- One history: any two nodes agree on the operation at each (replication id, offset) that both hold,
  and on all before it.
- What was claimed survives: an acknowledged write (``fsync: always``), an acknowledged replica's
  offset, whatever the journal calls durable, is there after any crash of that node.
- Nothing is applied twice, skipped or half: a node's data equals the model at its offset of its
  history; so does every view for as long as somebody holds it.
- Data is given up only for a history that shares an entry with it, or by force; what was diverged
  is saved aside.
- A partial sync is given exactly where it is safe and possible, and nobody follows in a circle.
- A promotion loses exactly what the promoted node had not got.

What was promised beyond that is in `promises.py`, switchovers in `handovers.py`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any

from tests.simulation.handovers import Handovers
from tests.simulation.machine import Machine, machine_of_current_process
from tests.simulation.promises import Promises
from tests.simulation.truth import ROOT, Key, Truth, difference, key_of

if TYPE_CHECKING:
    from vectorizer.node import Node
    from vectorizer.operations import Entry
    from vectorizer.replication.history import History

COMPARE_CHANCE = 0.06


@dataclass(slots=True)
class Seen:
    """A machine as it was last looked at."""

    node: Node
    generation: int
    offset: int
    history: History


@dataclass(slots=True)
class Claim:
    """What a machine's disk must hold after its next start: all up to ``key``, in this generation
    or a newer one.
    """

    key: Key
    generation: int
    replaceable: bool  # its data was just being replaced: a newer generation may be what is found


@dataclass(slots=True)
class Acknowledged:
    """A write that a client was told is done."""

    key: Key
    machine: str
    at: float


@dataclass(slots=True)
class Checks:
    """``violations`` are sentences; the first one matters."""

    machines: list[Machine]
    random: Random
    durable: bool  # fsync: always
    truth: Truth = field(default_factory=Truth)
    violations: list[str] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)  # of the violations: lost, doubled, not started, other
    acknowledged: list[Acknowledged] = field(default_factory=list)
    openings: dict[str, History] = field(default_factory=dict)  # by replication id: the history it began with
    promoted: set[str] = field(default_factory=set)  # replication ids that promotions opened
    forced: set[str] = field(default_factory=set)  # names of machines that were told to give up their data
    ever_forced: bool = False
    counts: Counter[str] = field(default_factory=Counter)
    by_node: dict[int, Machine] = field(default_factory=dict)  # id() of the living nodes
    stall_secs: float = 0.0  # the longest that an acknowledged write took
    promises: Promises = field(init=False)
    handovers: Handovers = field(init=False)
    _linked: bool = False  # a link has come up in this event
    _seen: dict[str, Seen] = field(default_factory=dict)
    _claims: dict[str, Claim] = field(default_factory=dict)
    _promised: dict[str, tuple[str, int]] = field(
        default_factory=dict
    )  # newest operation acknowledged to clients in this life

    def __post_init__(self) -> None:
        self.promises = Promises(self)
        self.handovers = Handovers(self)

    def violated(self, text: str, kind: str = "other") -> None:
        """An invariant is broken."""
        self.violations.append(text)
        self.kinds.append(kind)

    # -- what the machines tell --------------------------------------------------------------------

    def built(self, machine: Machine) -> None:
        """A process has opened its data."""
        node = machine.node
        assert node is not None
        self.by_node[id(node)] = machine
        self._promised.pop(machine.name, None)
        self.promises.got[machine.name] = {}
        self.counts["starts"] += 1
        self.handovers.built(machine)
        claim = self._claims.pop(machine.name, None)
        key = key_of(node.history, node.offset)
        if key != ROOT and key not in self.truth.facts:
            self.violated(f"{machine.name} starts with operation {key}, which nobody has written")
            return
        replaced = claim is not None and claim.replaceable and node.generation > claim.generation
        if claim is not None and not replaced and not self.truth.holds(key, claim.key):
            self.violated(
                f"{machine.name} had promised to hold {claim.key}, after its restart it stands at {key}",
                "lost",
            )
        if replaced:
            self.promises.gave_up(machine, key)
        self._look_closely(machine, node, "after its start")
        self._remember(machine, node)

    def dying(self, machine: Machine) -> None:
        """Its process is about to die: note what must survive."""
        node = machine.node
        if node is None or machine.server is None:
            return
        offset = max(
            node.durable_offset, self._promised_offset(machine, node), self._told_master(machine, node)
        )
        key = key_of(node.history, min(offset, node.offset))
        self.promises.ended(machine, key, key_of(node.history, node.offset))
        self.handovers.dying(machine)
        self._claims[machine.name] = Claim(key, node.generation, machine.server.snapshots.installing)
        self.by_node.pop(id(node), None)
        self._seen.pop(machine.name, None)

    def disk_lost(self, machine: Machine) -> None:
        """Its disk is a new one: what it alone had is gone."""
        self._claims.pop(machine.name, None)
        self.promises.disk_lost(machine)
        self.handovers.disk_lost(machine)
        self.acknowledged = [write for write in self.acknowledged if write.machine != machine.name]

    def _told_master(self, machine: Machine, node: Node) -> int:
        """The newest offset that this replica told a master to be durable, if that is of its
        present data.
        """
        told = 0
        for other in self.machines:
            master = None if other.server is None else other.server.roles.master
            row = None if master is None else master.table.get(node.node_id)
            if row is None or row.phase != "streaming" or other.node is None:
                continue
            if self.truth.holds(
                key_of(other.node.history, other.node.offset), key_of(node.history, node.offset)
            ):
                told = max(told, row.acked_durable)
        return told

    def _promised_offset(self, machine: Machine, node: Node) -> int:
        """The newest acknowledged offset of this life; 0 if it was overruled since, and this data goes
        another way.
        """
        promised = self._promised.get(machine.name)
        if promised is None or promised[1] > node.offset or key_of(node.history, promised[1]) != promised:
            return 0
        return promised[1]

    def wrote(self, machine: Machine, replication_id: str, offset: int) -> None:
        """A client was told that its write is done."""
        self.counts["acknowledged"] += 1
        self.acknowledged.append(Acknowledged((replication_id, offset), machine.name, machine.kernel.now))
        if (
            self.durable
            and machine.node is not None
            and key_of(machine.node.history, offset) == (replication_id, offset)
            and offset > self._promised_offset(machine, machine.node)
        ):
            self._promised[machine.name] = replication_id, offset

    def opened(self, node: Node, *, promotion: bool) -> None:
        """A node has opened a mastership."""
        self.openings[node.replication_id] = node.history
        if promotion and any(entry.epoch >= node.epoch for entry in node.history.entries[:-1]):
            self.violated(f"a promotion did not raise the epoch: {node.history.to_document()}")
        if promotion:
            self.counts["promotions"] += 1
            self.promoted.add(node.replication_id)
            machine = machine_of_current_process()
            self.handovers.opened(machine, node)
            self.promises.opened(machine, node)

    def applied(self, node: Node, entry: Entry) -> None:
        """A node has applied an operation, its own or its master's."""
        assert node.last_checksum is not None
        wrong = self.truth.saw(node.history, entry.offset, node.last_checksum, entry.operation)
        machine = self.by_node.get(id(node))
        if wrong is not None:
            self.violated(f"{'?' if machine is None else machine.name}: {wrong}", "doubled")
        if machine is not None:
            self.promises.got[machine.name][key_of(node.history, entry.offset)] = machine.kernel.now
        self._sent_too_soon(node, entry.offset)
        if node.offset != entry.offset:
            self.violated(f"offset {node.offset} after operation {entry.offset}", "doubled")
        self.counts[f"applied {entry.operation.kind}"] += 1

    def _sent_too_soon(self, node: Node, offset: int) -> None:
        """Whether a replica got what its master could still lose."""
        key = key_of(node.history, offset)
        for machine in self.machines if self.durable else ():
            writer = machine.node
            if writer is None or writer is node or writer.replication_id != key[0]:
                continue
            if writer.role == "master" and writer.durable_offset < offset:
                self.violated(
                    f"{machine.name} sent operation {offset}, durable is only {writer.durable_offset}"
                )
        feeder = self._followed(node)
        if feeder is None or feeder.node is None or feeder.node.role != "replica":
            return
        durable = feeder.node.durable_offset
        if key_of(feeder.node.history, offset) != key or durable >= offset:
            return
        if not self.promises.ever_held(feeder, key):  # what it passed on earlier may have been slow
            self.violated(f"{feeder.name} passed on operation {offset}, durable is only {durable}")

    def _followed(self, node: Node) -> Machine | None:
        """The machine that this node streams from."""
        machine = self.by_node.get(id(node))
        link = None if machine is None or machine.server is None else machine.server.roles.replica
        if link is None:
            return None
        return next((item for item in self.machines if item.address == link.master_address), None)

    # -- after each event --------------------------------------------------------------------------

    def after_event(self) -> None:
        """Look at every node that has changed."""
        for machine in self.machines:
            server = machine.server
            if server is None:
                continue
            node = server.database.node
            seen = self._seen.get(machine.name)
            if seen is not None and (
                seen.offset != node.offset
                or seen.generation != node.generation
                or seen.history is not node.history
            ):
                self._look(machine, node, seen)
        if self._linked:  # asked now: what a machine gave up for the link is known only since this look
            self._linked = False
            self.promises.believed()

    def _look(self, machine: Machine, node: Node, seen: Seen) -> None:
        key = key_of(node.history, node.offset)
        fact = self.truth.facts.get(key)
        if key != ROOT and (fact is None or fact.checksum != node.last_checksum):
            self.violated(
                f"{machine.name} stands at {key} with checksum {node.last_checksum}, known is {fact}"
            )
            return
        if seen.generation != node.generation:
            self._replaced(machine, node, seen)
            self._look_closely(machine, node, "after its data was replaced")
        else:
            if node.offset < seen.offset:
                self.violated(
                    f"{machine.name} went back from {seen.offset} to {node.offset} in one generation",
                    "lost",
                )
            if key_of(node.history, seen.offset) != key_of(seen.history, seen.offset):
                self.violated(f"{machine.name} changed the history of what it holds, at {seen.offset}")
            if self.random.random() < COMPARE_CHANCE:
                self._look_closely(machine, node, "while running")
        self._remember(machine, node)

    def _replaced(self, machine: Machine, node: Node, seen: Seen) -> None:
        """Data was swapped for other data."""
        self.counts["data replaced"] += 1
        old, new = key_of(seen.history, seen.offset), key_of(node.history, node.offset)
        self.promises.got[machine.name] = {}
        self.promises.ended(machine, old, old)
        self.promises.gave_up(machine, new)
        if old == ROOT or machine.name in self.forced:
            self.forced.discard(machine.name)
            return
        if not seen.history.shares_entry(node.history):
            self.violated(f"{machine.name} gave up {old} for the foreign {new} without being forced")
            return
        fork = self.truth.fork_of(old, new)
        newest = seen.history.entry_at(seen.offset)
        follows = None if machine.server is None else machine.server.roles.replica
        if fork < seen.offset and newest is not None and follows is not None:
            theirs = follows.link.master.history
            if key_of(theirs, node.offset) != new:
                self.violated(f"{machine.name} gave up {old} for {new}, which is not its master's either")
            known = {entry.replication_id for entry in theirs.entries}
            if newest.replication_id not in known and newest.epoch >= theirs.epoch:
                self.violated(
                    f"{machine.name} gave up {old} of epoch {newest.epoch} for epoch {theirs.epoch}"
                )
            told = key_of(theirs, follows.link.master.offset)
            if told in self.truth.facts:
                fork = self.truth.fork_of(old, told)  # what follows the snapshot comes as operations again
        if fork < seen.offset and not self._saved(machine, fork, seen.offset):
            self.violated(
                f"{machine.name} gave up {fork + 1}..{seen.offset} for {new}, nothing was saved aside"
            )

    def _saved(self, machine: Machine, fork: int, offset: int) -> bool:
        from vectorizer import codec, frame
        from vectorizer.errors import PeerError

        folder = f"{machine.root}/diverged"
        if not machine.disk.exists(folder):
            return False
        for name in machine.disk.list(folder):
            content = machine.disk.read(f"{folder}/{name}")
            size = 4 + int.from_bytes(content[:4], "big")
            try:
                header: dict[str, Any] = codec.decode(frame.body_of(content[:size]))
            except PeerError:
                continue  # a crash cut it while it was written
            if header["fork_offset"] <= fork and header["offset"] == offset:
                return True
        return False

    def _look_closely(self, machine: Machine, node: Node, when: str) -> None:
        """Compare all data with the model."""
        if not node.has_complete_data and node.offset == 0:
            return
        self.counts["compared"] += 1
        wrong = difference(node.store, self.truth.state(key_of(node.history, node.offset)), node.offset)
        if wrong is not None:
            key = key_of(node.history, node.offset)
            self.violated(f"{machine.name} at {key} differs from the model {when}: {wrong}")

    def _remember(self, machine: Machine, node: Node) -> None:
        self._seen[machine.name] = Seen(node, node.generation, node.offset, node.history)

    # -- decisions ---------------------------------------------------------------------------------

    def joined(self, master: Machine, facts: dict[str, Any]) -> None:
        """A master has let a replica in: was it the right kind of sync?"""
        self.counts[f"{facts['sync']} sync: {facts['reason']}"] += 1
        replica = next(
            (
                item
                for item in self.machines
                if item.node is not None and item.node.node_id == facts["replica"]
            ),
            None,
        )
        if replica is None or replica.node is None or master.node is None:
            return
        self._shared_a_secret(master, replica, facts["peer"])
        node, upstream = replica.node, master.node
        place = f"({node.history.replication_id or 'no history'}, epoch {node.epoch}, offset {node.offset})"
        if place not in facts["replica_place"]:
            return  # it has moved on meanwhile, or is another life
        mine, theirs = key_of(node.history, node.offset), key_of(upstream.history, upstream.offset)
        common = node.offset <= upstream.offset and self.truth.holds(theirs, mine)
        sync = f"a {facts['sync']} sync ({facts['reason']})"
        text = f"{master.name} at {theirs} gave {replica.name} at {mine} {sync}"
        if facts["sync"] == "partial" and not common:
            self.violated(f"{text}, which has other operations")
        served = facts["window"][0] <= node.offset + 1
        if facts["sync"] == "full" and common and served and node.offset and facts["reason"] != "requested":
            self.violated(f"{text}, although its window {facts['window']} reaches back to it")
        if facts["sync"] == "partial" and not served:
            self.violated(f"{text}, although its window is {facts['window']}")

    def linked(self, machine: Machine) -> None:
        """A replica streams: it is not above itself, nor is any other node twice."""
        client = None if machine.server is None else machine.server.roles.replica
        if client is not None and machine.node is not None:
            path = (machine.node.node_id, *client.link.master.path)
            if len(set(path)) < len(path):
                self.violated(f"{machine.name} follows in a circle: {path}")
            self._linked = True

    def _shared_a_secret(self, master: Machine, replica: Machine, peer: str) -> None:
        """Both sides of a link came with one secret, which their files have or had."""
        assert master.server is not None and replica.server is not None and replica.node is not None
        client, door = replica.server.roles.replica, master.server.roles.master
        if client is None or door is None or client._connection is None:
            return
        if f"{replica.host}:{client._connection._sock.port}" != peer:
            return  # the replica has begun another connection meanwhile, perhaps with another secret
        mine = client.link._exchange.credentials.secret
        theirs = [
            line.session.credentials.secret
            for line in door.lines
            if line.session.hello is not None and line.session.hello.node_id == replica.node.node_id
        ]
        if mine not in theirs:
            self.violated(f"{master.name} let {replica.name} in, and their secrets differ")
        for machine, secret in ((replica, mine), (master, theirs[-1] if theirs else b"")):
            if secret not in machine.secrets:
                self.violated(f"{machine.name} has a link with the secret {secret!r}, which it never had")

    # -- the end -----------------------------------------------------------------------------------

    def nothing_lost(self, master: Machine) -> None:
        """Every acknowledged write is in the final data, or a promotion explains where it went."""
        node = master.node
        assert node is not None
        if not self.durable:
            return  # a crash may have taken the newest ones
        final = key_of(node.history, node.offset)
        for write in self.acknowledged:
            if self.truth.holds(final, write.key):
                continue
            fork = self.truth.fork_of(final, write.key)
            self.counts["lost by promotion"] += 1
            sides = (node.history, self.openings[write.key[0]])
            explained = any(
                entry.start_offset == fork and entry.replication_id in self.promoted
                for side in sides
                for entry in side.entries
            )
            if not explained and not self.ever_forced:
                histories = [side.to_document() for side in sides]
                self.violated(
                    f"the write {write.key}, acknowledged by {write.machine} at {write.at:.3f}, is lost: the "
                    f"histories part at {fork}, where nobody was promoted; final is {final}, {histories}",
                    "lost",
                )
                return

    def look_at_all(self, when: str) -> None:
        """Compare all living nodes with the model."""
        for machine in self.machines:
            if machine.node is not None:
                self._look_closely(machine, machine.node, when)
