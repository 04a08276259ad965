"""A master's session and a replica's link joined by a wire in memory, under a clock that only the test moves.

The nodes are twins: the same facts and rules as vectorizer.node.Node, but their data is the list of frames.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any
from zlib import crc32

from vectorizer import codec, frame
from vectorizer.config import Settings
from vectorizer.errors import ApplyError
from vectorizer.frame import FrameDecoder
from vectorizer.operations import Drop, encode_operation
from vectorizer.replication import messages
from vectorizer.replication.history import History
from vectorizer.replication.intentions import (
    AbortSnapshot,
    AdoptHistory,
    Apply,
    BeginSnapshot,
    CaptureSnapshot,
    Close,
    CloseReplaced,
    Install,
    Prepare,
    ReadChunk,
    ReadJournal,
    ReleaseSnapshot,
    Report,
    Send,
    SendFrames,
    WriteChunk,
)
from vectorizer.replication.link import ReplicaLink
from vectorizer.replication.log import ReplicationLog
from vectorizer.replication.messages import FileEntry, OperationFrame
from vectorizer.replication.progress import ReplicaTable
from vectorizer.replication.session import MasterSession
from vectorizer.replication.states import LinkState, SessionState
from vectorizer.replication.sync import Position

START_MS = 1_700_000_000_000


def settings_of(**replication: Any) -> Settings:
    """Settings with these of section replication, the rest by default."""
    settings = Settings()
    return replace(settings, replication=replace(settings.replication, **replication))


@dataclass
class TwinNode:
    """A node whose data is its operations' frames; `manifests` are offsets it can go back to."""

    node_id: str
    history: History = field(default_factory=History)
    frames: list[bytes] = field(default_factory=list)
    log: ReplicationLog = field(default_factory=lambda: ReplicationLog(1000, 1 << 20))
    journal_first: int = 1
    log_size: int = 1_000_000
    durable_only: bool = False
    durable_offset: int = 0
    has_complete_data: bool = True
    manifests: list[int] = field(default_factory=list)
    poison: set[int] = field(default_factory=set)
    saved: list[bytes] = field(default_factory=list)
    kept_aside: bool = False

    @property
    def offset(self) -> int:
        return len(self.frames)

    @property
    def sendable_offset(self) -> int:
        return self.durable_offset if self.durable_only else self.offset

    @property
    def window(self) -> tuple[int, int]:
        first = min(self.journal_first, self.log.first_offset)
        return max(first, self.offset - self.log_size + 1), self.offset

    @property
    def position(self) -> Position:
        return Position(self.history, self.offset, self.checksum_at(self.offset))

    def checksum_at(self, offset: int) -> int | None:
        if offset == self.offset and offset:
            return frame.checksum(self.frames[-1])
        held = self.log.frame_at(offset)
        return None if held is None else frame.checksum(held)

    def lead(self, replication_id: str, *, raise_epoch: bool = False) -> TwinNode:
        self.history = self.history.opened(replication_id, self.history.epoch + raise_epoch or 1, self.offset)
        return self

    def commit(self, count: int, now: float = 0.0, text: str = "c", size: int = 1) -> TwinNode:
        for _ in range(count):
            offset = self.offset + 1
            operation = Drop(f"{text}{offset}".ljust(size, "x"))
            self._take(encode_operation(operation, offset, self.history.epoch, START_MS), now)
        self.durable_offset = self.offset
        return self

    def apply(self, offset: int, line: bytes, now: float) -> None:
        if offset in self.poison:
            raise ApplyError("apply_failed", f"operation {offset} cannot be applied")
        assert offset == self.offset + 1
        self._take(line, now)
        self.durable_offset = self.offset

    def _take(self, line: bytes, now: float) -> None:
        self.frames.append(line)
        self.log.append(self.offset, line, now)

    def put(self, frames: list[bytes], history: History) -> None:
        """Other data in place of what was there."""
        self.frames, self.history = list(frames), history
        self.log = ReplicationLog(1000, 1 << 20, len(frames))
        self.durable_offset, self.journal_first = len(frames), len(frames) + 1

    def forget(self, through: int, *, journal: bool = False) -> None:
        """What memory (and the journal) has up to there is dropped."""
        self.log = ReplicationLog(1000, 1 << 20, through)
        for offset in range(through + 1, self.offset + 1):
            self.log.append(offset, self.frames[offset - 1], 0.0)
        if journal:
            self.journal_first = through + 1

    def journal(self, after: int, through: int) -> list[bytes] | None:
        return None if after + 1 < self.journal_first else self.frames[after : min(through, after + 2)]


@dataclass
class Pair:
    """The conversation of one master and one replica; `reports` are what both said to people."""

    master: TwinNode
    replica: TwinNode
    settings: Settings = field(default_factory=Settings)
    force: bool = False
    table: ReplicaTable = field(default_factory=ReplicaTable)
    now: float = 1000.0
    session: MasterSession | None = None
    down: bytearray = field(default_factory=bytearray)  # master to replica
    up: bytearray = field(default_factory=bytearray)
    reports: list[Report] = field(default_factory=list)
    said: list[messages.Message] = field(default_factory=list)  # all messages, in order of sending
    closed: list[tuple[str, str]] = field(default_factory=list)
    released: int = 0
    received_files: dict[str, bytearray] | None = None
    before_install: Callable[[], None] | None = None
    snapshot: dict[str, bytes] = field(default_factory=dict)
    corrupt: bool = False

    def __post_init__(self) -> None:
        self.link = ReplicaLink(self.replica, lambda: self.settings, self.now, lambda: 0.5, force=self.force)

    @property
    def now_ms(self) -> int:
        return START_MS + int(self.now * 1000)

    # -- time and wire

    def connect(self) -> Pair:
        self.link.connecting(self.now)
        ceiling = self.settings.limits.frame_bytes_max
        self._down_decoder, self._up_decoder = FrameDecoder(ceiling), FrameDecoder(ceiling)
        self.down.clear(), self.up.clear()
        self.session = MasterSession(
            self.master, self.table, lambda: self.settings, "10.0.0.2", 4000, self.now, rest_address="m:15002"
        )
        self.link.connected(self.now)
        return self

    def cut(self, reason: str = "connection_lost") -> None:
        assert self.session is not None
        self.session.closed(reason, self.now)
        self.link.disconnected(reason, "cut", self.now)
        self._work()
        self.session = None

    def run(self, rounds: int = 500) -> Pair:
        """Until neither side has anything to say."""
        for _ in range(rounds):
            moved = self.speak()
            moved |= self.deliver_up(len(self.up)) | self.deliver_down(len(self.down))
            if not moved:
                return self
        raise AssertionError("the two never fall silent")

    def pass_time(self, seconds: float, step: float = 0.5) -> Pair:
        end = self.now + seconds
        while self.now < end and self.session is not None:
            self.now = min(end, self.now + step)
            self.run()
        self.now = end
        return self

    def speak(self) -> bool:
        """Whatever both sides want to do now, once."""
        if self.session is None:
            return False
        moved = False
        for intention in self.session.ready(self.now, self.now_ms):
            moved = True
            self._master_does(intention)
        for wish in self.link.ready(self.now, self.now_ms):
            moved = True
            self._replica_does(wish)
        return moved

    def deliver_up(self, count: int) -> bool:
        data, self.up[:count] = bytes(self.up[:count]), b""
        self._up_decoder.feed(data)
        while self.session is not None and (line := self._up_decoder.next()) is not None:
            self.session.receive(messages.decode(line), self.now, self.now_ms, len(line))
        return bool(data)

    def deliver_down(self, count: int) -> bool:
        data, self.down[:count] = bytes(self.down[:count]), b""
        self._down_decoder.feed(data)
        while self.session is not None and (line := self._down_decoder.next()) is not None:
            self.link.receive(messages.decode(line), self.now, self.now_ms, len(line))
            self._work()
        return bool(data)

    # -- what the master's side wants

    def _master_does(self, intention: Any) -> None:
        session = self.session
        if session is None:
            return
        match intention:
            case Send(message):
                self.said.append(message)
                line = messages.encode(message)
                self.down += line
                session.sent(len(line))
            case SendFrames(frames):
                self.down += b"".join(frames)
                session.sent(sum(map(len, frames)))
            case ReadJournal(after, _, through):
                session.journal_read(self.master.journal(after, through), self.now, self.now_ms)
            case CaptureSnapshot():
                self.snapshot = {"empty": b"", "data/rows.bson": b"".join(self.master.frames)}
                self.manifest = {"history": self.master.history.to_document(), "count": self.master.offset}
                files = [FileEntry(name, len(data), crc32(data)) for name, data in self.snapshot.items()]
                session.snapshot_captured(self.master.offset, self.manifest, files, self.now)
            case ReadChunk(number, position, count):
                data = list(self.snapshot.values())[number][position : position + count]
                session.chunk_read(bytes(len(data)) if self.corrupt else data, self.now)
            case ReleaseSnapshot():
                self.released += 1
            case CloseReplaced(_):
                pass
            case Report():
                self.reports.append(intention)
            case Close(reason, _):
                self.closed.append(("master", reason))
                session.closed(reason, self.now)
                # What is on the way still arrives; then the connection ends.
                self.deliver_down(len(self.down))
                self.link.disconnected("connection_lost", "the master closed", self.now)
                self._work()
                self.session = None

    # -- what the replica's side wants

    def _replica_does(self, wish: Any) -> None:
        match wish:
            case Send(message):
                self.said.append(message)
                line = messages.encode(message)
                self.up += line
                self.link.sent(len(line))
            case Report():
                self.reports.append(wish)
            case Close(reason, _):
                self.closed.append(("replica", reason))
                self.deliver_up(len(self.up))
                if self.session is not None:
                    self.session.ready(self.now, self.now_ms)
                    self.session.closed("connection_lost", self.now)
                self.link.disconnected("connection_lost", "closed here", self.now)
                self._work()
                self.session = None

    def _work(self) -> None:
        while work := self.link.work():
            for item in work:
                self._replica_works(item)

    def _replica_works(self, item: Any) -> None:
        link, node = self.link, self.replica
        match item:
            case AdoptHistory(history):
                node.history = history
            case Apply(offset, line):
                try:
                    node.apply(offset, line, self.now)
                    link.applied(offset, self.now)
                except ApplyError as error:
                    link.apply_failed(offset, error.code, str(error), self.now)
            case Prepare(fork, rewind):
                if fork is not None:
                    node.saved = node.frames[fork:]
                usable = [offset for offset in node.manifests if fork is not None and offset <= fork]
                if rewind and usable:
                    node.put(node.frames[: max(usable)], node.history.truncated(max(usable)))
                link.prepared(rewind and bool(usable), {}, self.now)
            case BeginSnapshot(_, _, files, keep_aside):
                self.received_files = {file.name: bytearray() for file in files}
                node.kept_aside = keep_aside
            case WriteChunk(name, position, data):
                assert self.received_files is not None and len(self.received_files[name]) == position
                self.received_files[name] += data
                link.written(len(data), self.now)
            case Install(offset):
                self._install(offset)
            case AbortSnapshot():
                self.received_files = None

    def _install(self, offset: int) -> None:
        assert self.received_files is not None
        if self.before_install is not None:
            self.before_install()
        decoder = FrameDecoder(1 << 20)
        data = bytes(self.received_files["data/rows.bson"])
        if crc32(data) != crc32(self.snapshot["data/rows.bson"]):
            self.link.snapshot_failed("snapshot_corrupt", "CRC32", self.now)
            return
        decoder.feed(data)
        frames = []
        while (line := decoder.next()) is not None:
            frames.append(line)
        self.replica.put(frames, History.from_document(self.manifest["history"]))
        self.replica.has_complete_data = True
        assert self.replica.offset == offset
        self.received_files = None
        self.link.installed(self.now, self.now_ms)

    # -- questions

    def streaming(self) -> bool:
        return (
            self.session is not None
            and self.session.state is SessionState.STREAMING
            and self.link.state is LinkState.STREAMING
        )

    def equal(self) -> bool:
        return self.master.frames == self.replica.frames

    def events(self) -> list[str]:
        return [report.event for report in self.reports]


def head(line: bytes) -> OperationFrame:
    """An operation's head as the receiver sees it."""
    read = messages.decode(line)
    assert isinstance(read, OperationFrame)
    return read


def document_of(message: messages.Message) -> dict[str, Any]:
    """A message's document as it travels."""
    return codec.decode(frame.body_of(messages.encode(message)))
