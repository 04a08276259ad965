"""What master and replica say to each other: one dataclass a message, every field checked on arrival.

House rules
-----------
1. A peer is hostile until its message has passed the checks here. Nothing behind this door tests a type, a
   range or a length again, and nothing before it believes one.
2. What a field may hold is written once, beside the field. `decode` and `encode` are made from that.
3. A message's document begins with the key "m", an operation's with "o", "e", "t". The first key of a frame
   tells which of the two it is, and an operation's vectors are not decoded to find its offset.

Theory
------
A frame is length | crc32 | BSON (vectorizer.frame). Operations travel as the very frames that rest in the
log, so this module only reads their head (offset, epoch, time). Everything else on the line is a message of
the table KINDS. Unknown fields are passed over: a newer peer of the same protocol number may say more.
Unknown kinds, missing fields and fields of the wrong shape are a PeerError, which closes that link only.

Caveats
-------
Integers are BSON int64; bool is not an integer here, although Python thinks so. The ceiling for a message
that has not been authenticated is HELLO_BYTES_MAX; the connection enforces it, before allocating.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from struct import Struct
from typing import Any, ClassVar, Literal, TypeVar, get_args

from vectorizer import codec, frame
from vectorizer.codec import CodecError
from vectorizer.errors import PeerError
from vectorizer.replication.history import ENTRIES_MAX, History
from vectorizer.runs import Run, is_operation

PROTOCOL = 1
HELLO_BYTES_MAX = 1 << 20  # a hello with a history of 1,000 entries takes a tenth of it
OFFSET_MAX = 2**63 - 1
PATH_MAX = 64
NONCE_BYTES = PROOF_BYTES = 32
SENTENCE_MAX = 1000
FILES_MAX = 1_000_000
FRAME_BYTES_MIN = 64 << 10

Check = Callable[[Any], Any]
"""Takes what came over the wire, returns the value to keep, raises ValueError with the rest of a sentence."""


class _Unfit(ValueError):
    """What came does not fit; the text is the rest of a sentence about the field."""


def _integer(minimum: int, maximum: int) -> Check:
    def check(value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool):
            raise _Unfit(f"must be an integer, not {type(value).__name__}")
        if not minimum <= value <= maximum:
            raise _Unfit(f"must be from {minimum} to {maximum}, not {value}")
        return int(value)

    return check


def _number(minimum: float, maximum: float) -> Check:
    def check(value: Any) -> float:
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            raise _Unfit(f"must be a number, not {type(value).__name__}")
        if not math.isfinite(value) or not minimum <= value <= maximum:
            raise _Unfit(f"must be from {minimum} to {maximum}, not {value}")
        return float(value)

    return check


def _string(length_max: int, pattern: str | None = None) -> Check:
    allowed = re.compile(pattern) if pattern else None

    def check(value: Any) -> str:
        if not isinstance(value, str):
            raise _Unfit(f"must be a string, not {type(value).__name__}")
        if len(value) > length_max:
            raise _Unfit(f"must have at most {length_max} characters, not {len(value)}")
        if allowed and not allowed.fullmatch(value):
            raise _Unfit(f"is not of the form {pattern}: {value[:80]!r}")
        return value

    return check


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise _Unfit(f"must be true or false, not {type(value).__name__}")
    return value


def _optional(inner: Check) -> Check:
    return lambda value: None if value is None else inner(value)


def _list(inner: Check, length_max: int) -> Check:
    def check(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, (list, tuple)):
            raise _Unfit(f"must be a list, not {type(value).__name__}")
        if len(value) > length_max:
            raise _Unfit(f"must have at most {length_max} items, not {len(value)}")
        return tuple(inner(item) for item in value)

    return check


def _document(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _Unfit(f"must be a document, not {type(value).__name__}")
    return value


def _binary(value: Any) -> bytes:
    if not isinstance(value, bytes):
        raise _Unfit(f"must be binary, not {type(value).__name__}")
    return value


def _bytes(count: int) -> Check:
    def check(value: Any) -> bytes:
        data = _binary(value)
        if len(data) != count:
            raise _Unfit(f"must have {count} bytes, not {len(data)}")
        return data

    return check


def _history(value: Any) -> History:
    if isinstance(value, list) and len(value) > ENTRIES_MAX:
        raise _Unfit(f"must have at most {ENTRIES_MAX} entries, not {len(value)}")
    try:
        history = History.from_document(value)
        for entry in history.entries:
            _OFFSET(entry.epoch), _OFFSET(entry.start_offset)
    except ValueError as error:
        raise _Unfit(f"is no history: {error}") from error
    return history


def _checksums(value: Any) -> dict[str, int]:
    names = _document(value)
    if len(names) > FILES_MAX:
        raise _Unfit(f"must have at most {FILES_MAX} files, not {len(names)}")
    return {_FILE_NAME(name): _CRC32(checksum) for name, checksum in names.items()}


def _files(value: Any) -> tuple[FileEntry, ...]:
    entries = _list(_document, FILES_MAX)(value)
    files = tuple(_read(FileEntry, entry) for entry in entries)
    if len({file.name for file in files}) != len(files):
        raise _Unfit("names a file twice")
    return files


_OFFSET = _integer(0, OFFSET_MAX)
_CRC32 = _integer(0, 2**32 - 1)
_NODE_ID = _string(64, r"[A-Za-z0-9_.:-]{1,64}")
_FILE_NAME = _string(255, r"[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*){0,3}")
_CODE = _string(64, r"[a-z][a-z0-9_]*")
_SENTENCE = _string(1000)


def _is(check: Check) -> Mapping[str, Check]:
    """Metadata of a field: what it may hold."""
    return {"check": check}


@dataclass(frozen=True, slots=True)
class Greet:
    """Replica → master, before hello where there is a secret: who I am, let us prove to each other."""

    KIND: ClassVar[str] = "greet"
    protocol: int = field(metadata=_is(_integer(1, 65535)))
    node_id: str = field(metadata=_is(_NODE_ID))
    nonce: bytes = field(metadata=_is(_bytes(NONCE_BYTES)))


@dataclass(frozen=True, slots=True)
class Challenge:
    """Master → replica: who I am; prove first."""

    KIND: ClassVar[str] = "challenge"
    node_id: str = field(metadata=_is(_NODE_ID))
    nonce: bytes = field(metadata=_is(_bytes(NONCE_BYTES)))


@dataclass(frozen=True, slots=True)
class Proof:
    """Replica → master, then master → replica: I hold the secret (see authentication.py)."""

    KIND: ClassVar[str] = "proof"
    mac: bytes = field(metadata=_is(_bytes(PROOF_BYTES)))


@dataclass(frozen=True, slots=True)
class Hello:
    """Replica → master, the first message of a link: who I am and what I hold."""

    KIND: ClassVar[str] = "hello"
    protocol: int = field(metadata=_is(_integer(1, 65535)))
    node_id: str = field(metadata=_is(_NODE_ID))
    # own id first, then the masters above, nearest first
    path: tuple[str, ...] = field(metadata=_is(_list(_NODE_ID, PATH_MAX)))
    history: History = field(metadata=_is(_history))
    offset: int = field(metadata=_is(_OFFSET))
    # of my frame at `offset`, null where I do not have it any more
    checksum: int | None = field(metadata=_is(_optional(_CRC32)))
    frame_bytes_max: int = field(metadata=_is(_integer(FRAME_BYTES_MIN, 2**31 - 1)))
    rest_address: str = field(metadata=_is(_string(255)))
    listen_port: int = field(metadata=_is(_integer(0, 65535)))
    # why I want a full sync whatever my position; "" = I do not
    full: str = field(metadata=_is(_string(64)), default="")
    # an operator told me to take a foreign history
    force: bool = field(metadata=_is(_boolean), default=False)
    # where I take replicas; "" = at the host that this connection comes from
    listen_host: str = field(metadata=_is(_string(255)), default="")


@dataclass(frozen=True, slots=True)
class Welcome:
    """Master → replica: who I am, and by which kind of sync you come in. `path` as in Hello."""

    KIND: ClassVar[str] = "welcome"
    protocol: int = field(metadata=_is(_integer(1, 65535)))
    node_id: str = field(metadata=_is(_NODE_ID))
    path: tuple[str, ...] = field(metadata=_is(_list(_NODE_ID, PATH_MAX)))
    history: History = field(metadata=_is(_history))
    offset: int = field(metadata=_is(_OFFSET))
    epoch: int = field(metadata=_is(_OFFSET))
    sync: Literal["partial", "full"] = field(metadata=_is(_string(8, "partial|full")))
    reason: str = field(metadata=_is(_CODE))
    fork_offset: int = field(metadata=_is(_OFFSET))  # up to here our histories are the same
    window_first: int = field(metadata=_is(_OFFSET))
    window_last: int = field(metadata=_is(_OFFSET))
    heartbeat_interval_secs: float = field(metadata=_is(_number(0.001, 86400.0)))
    frame_bytes_max: int = field(metadata=_is(_integer(FRAME_BYTES_MIN, 2**31 - 1)))
    rest_address: str = field(metadata=_is(_string(255)))
    # REST of the master above me, where writes belong; "" = that is me, or I do not know
    writes_address: str = field(metadata=_is(_string(255)), default="")


@dataclass(frozen=True, slots=True)
class Refuse:
    """Either way: no link between us, and why. The sender closes after it."""

    KIND: ClassVar[str] = "refuse"
    reason: str = field(metadata=_is(_CODE))
    message: str = field(metadata=_is(_SENTENCE))
    details: dict[str, Any] = field(metadata=_is(_document), default_factory=dict)


@dataclass(frozen=True, slots=True)
class Accept:
    """Replica → master: I take the full sync; these files I hold already (name → crc32)."""

    KIND: ClassVar[str] = "accept"
    have: dict[str, int] = field(metadata=_is(_checksums), default_factory=dict)


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of a snapshot. `crc32` is null where it is only known when the file has been read."""

    KIND: ClassVar[str] = "file"
    name: str = field(metadata=_is(_FILE_NAME))
    bytes: int = field(metadata=_is(_OFFSET))
    crc32: int | None = field(metadata=_is(_optional(_CRC32)))


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Master → replica: a full sync begins. `files` are those that follow in chunks, in this order."""

    KIND: ClassVar[str] = "snapshot"
    offset: int = field(metadata=_is(_OFFSET))
    manifest: dict[str, Any] = field(metadata=_is(_document))
    files: tuple[FileEntry, ...] = field(metadata=_is(_files))
    bytes_total: int = field(metadata=_is(_OFFSET))


@dataclass(frozen=True, slots=True)
class Chunk:
    """Master → replica: a piece of one file. Its CRC32 is that of the frame it travels in."""

    KIND: ClassVar[str] = "chunk"
    file: str = field(metadata=_is(_FILE_NAME))
    position: int = field(metadata=_is(_OFFSET))
    data: bytes | bytearray | memoryview = field(metadata=_is(_binary))  # bytes, if it came from a peer
    crc32: int | None = field(default=None, compare=False)  # of the data, if known


@dataclass(frozen=True, slots=True)
class Received:
    """Replica → master: so many bytes of files are written. Its sign of life during a full sync."""

    KIND: ClassVar[str] = "received"
    bytes: int = field(metadata=_is(_OFFSET))


@dataclass(frozen=True, slots=True)
class Complete:
    """Master → replica: that was all of the snapshot, and I hold everything up to `offset` durably."""

    KIND: ClassVar[str] = "complete"
    offset: int = field(metadata=_is(_OFFSET))


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Master → replica: I live; my newest and newest durable offset, your lag, my clock (Unix ms)."""

    KIND: ClassVar[str] = "heartbeat"
    offset: int = field(metadata=_is(_OFFSET))
    durable: int = field(metadata=_is(_OFFSET))
    lag_ms: int = field(metadata=_is(_OFFSET))
    timestamp_ms: int = field(metadata=_is(_OFFSET))
    # How old the sender's own data is, where it is a replica itself.
    above_lag_ms: int = field(metadata=_is(_OFFSET), default=0)


@dataclass(frozen=True, slots=True)
class Ack:
    """Replica → master: applied and durable offset. Repeated without news, it is the replica's heartbeat."""

    KIND: ClassVar[str] = "ack"
    applied: int = field(metadata=_is(_OFFSET))
    durable: int = field(metadata=_is(_OFFSET))


@dataclass(frozen=True, slots=True)
class Goodbye:
    """Either way: I close this link on purpose."""

    KIND: ClassVar[str] = "goodbye"
    reason: str = field(metadata=_is(_CODE))
    message: str = field(metadata=_is(_SENTENCE), default="")


@dataclass(frozen=True, slots=True)
class Promote:
    """Master → replica: take the mastership over. You hold everything, up to `offset`; I write no more."""

    KIND: ClassVar[str] = "promote"
    switchover: str = field(metadata=_is(_NODE_ID))
    offset: int = field(metadata=_is(_OFFSET))


@dataclass(frozen=True, slots=True)
class Promoted:
    """Replica → master, its last word on this link: I am the master now, durably, with this history."""

    KIND: ClassVar[str] = "promoted"
    switchover: str = field(metadata=_is(_NODE_ID))
    history: History = field(metadata=_is(_history))


@dataclass(frozen=True, slots=True)
class Declined:
    """Replica → master, its last word on this link: I am not promoted, and shall not be by this link."""

    KIND: ClassVar[str] = "declined"
    switchover: str = field(metadata=_is(_NODE_ID))
    reason: str = field(metadata=_is(_CODE))
    message: str = field(metadata=_is(_SENTENCE))


@dataclass(frozen=True, slots=True)
class Repoint:
    """Master → replica: the mastership has moved; follow the node that takes its replicas there."""

    KIND: ClassVar[str] = "repoint"
    master_address: str = field(metadata=_is(_string(255)))


Message = (
    Greet
    | Challenge
    | Proof
    | Hello
    | Welcome
    | Refuse
    | Accept
    | Snapshot
    | Chunk
    | Received
    | Complete
    | Heartbeat
    | Ack
    | Goodbye
    | Promote
    | Promoted
    | Declined
    | Repoint
)
KINDS: Mapping[str, type[Message]] = {kind.KIND: kind for kind in get_args(Message)}


@dataclass(frozen=True, slots=True)
class OperationFrame:
    """An operation on the line: the head of its document, and the frame as it came; or the first of a run of
    operations that came together.
    """

    offset: int
    epoch: int
    timestamp_ms: int
    frame: bytes
    run: Run | None = None

    @property
    def last_offset(self) -> int:
        """Of the last operation that it stands for."""
        return self.offset if self.run is None else self.run.last_offset


_WRITERS: Mapping[type[Any], Callable[[Any], Any]] = {
    History: lambda history: history.to_document(),
    tuple: lambda items: [_plain(item) for item in items],
    FileEntry: lambda entry: _to_document(entry),
}
_M = TypeVar("_M")
_INT32, _INT64 = Struct("<i"), Struct("<q")
_HEAD = ((b"o\0", "offset"), (b"e\0", "epoch"), (b"t\0", "time"))


def encode(message: Message) -> bytes:
    """The message's frame."""
    return frame.encode(codec.encode({"m": message.KIND, **_to_document(message)}))


def decode(line: bytes) -> Message | OperationFrame:
    """What a whole, verified frame says. Raises PeerError (`message_malformed`, `message_unknown`)."""
    body = memoryview(line)[frame.HEADER_BYTES :]
    if is_operation(line):
        return _read_head(body, line)
    try:
        document = codec.decode(body)
    except CodecError as error:
        raise PeerError("message_malformed", f"a frame whose body is {error}") from error
    kind = document.get("m")
    wanted = KINDS.get(kind) if isinstance(kind, str) else None
    if wanted is None:
        raise PeerError("message_unknown", f"a message of the unknown kind {str(kind)[:80]!r}")
    try:
        return _read(wanted, document)
    except ValueError as error:
        raise PeerError("message_malformed", f"{kind}: {error}") from error


def _plain(value: Any) -> Any:
    writer = _WRITERS.get(type(value))
    return value if writer is None else writer(value)


def _fields(kind: Any) -> list[dataclasses.Field[Any]]:
    return [item for item in dataclasses.fields(kind) if item.metadata]  # the others are never sent


def _to_document(message: Any) -> dict[str, Any]:
    return {item.name: _plain(getattr(message, item.name)) for item in _fields(message)}


def _read(kind: type[_M], document: Mapping[str, Any]) -> _M:
    """A message from a document. Raises ValueError naming the field that does not fit."""
    values: dict[str, Any] = {}
    for item in _fields(kind):
        if item.name not in document:
            if item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING:
                raise _Unfit(f"{item.name} is missing")
            continue
        try:
            values[item.name] = item.metadata["check"](document[item.name])
        except ValueError as error:
            raise _Unfit(f"{item.name} {error}") from error
    return kind(**values)


def _read_head(body: memoryview, line: bytes) -> OperationFrame:
    """Offset, epoch and time of an operation, the rest undecoded: BSON integers of 32 or 64 bits."""
    values, position = [], 4
    for key, name in _HEAD:
        integer = {0x10: _INT32, 0x12: _INT64}.get(body[position]) if position < len(body) else None
        end = position + 3 + (integer.size if integer else 0)
        if integer is None or body[position + 1 : position + 3] != key or end > len(body):
            raise PeerError("message_malformed", f"an operation whose {name} is not where it belongs")
        value = integer.unpack_from(body, position + 3)[0]
        if value < 0:
            raise PeerError("message_malformed", f"an operation whose {name} is {value}")
        values.append(value)
        position = end
    return OperationFrame(values[0], values[1], values[2], line)
