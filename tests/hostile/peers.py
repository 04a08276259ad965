"""Both sides of a replication link, fed with what a peer might say."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from tests.unit.pair import Pair, TwinNode
from vectorizer.errors import PeerError
from vectorizer.replication import messages
from vectorizer.replication.authentication import Credentials

SECRET = b"a secret that is shared"
WORDS_MAX = 100


def _pair(*, secret: bool) -> Pair:
    """A master with operations and a replica that has none of them: a full sync, and then the stream."""
    pair = Pair(TwinNode("m").lead("A").commit(6), TwinNode("r")).connect()
    pair.master.forget(4, journal=True)
    if secret:
        assert pair.session is not None
        pair.session.credentials = Credentials(SECRET, b"m" * 32)
        pair.session.__post_init__()
        pair.link.connected(pair.now, Credentials(SECRET, b"r" * 32))
    return pair


@lru_cache
def _said(secret: bool) -> tuple[list[bytes], list[bytes]]:
    pair = _pair(secret=secret)
    up, down = bytearray(), bytearray()
    for _ in range(200):
        moved = pair.speak()
        up += pair.up
        down += pair.down
        moved |= pair.deliver_up(len(pair.up)) | pair.deliver_down(len(pair.down))
        if not moved:
            break
    pair.master.commit(3)
    pair.now += 10.0
    pair.speak()
    down += pair.down
    return _lines(bytes(up)), _lines(bytes(down))


def _lines(data: bytes) -> list[bytes]:
    decoder = messages.frame.FrameDecoder(1 << 20)
    decoder.feed(data)
    lines = []
    while (line := decoder.next()) is not None:
        lines.append(line)
    return lines


def said_by_replica(*, secret: bool = False) -> list[bytes]:
    """The frames of a conversation that went well."""
    return _said(secret)[0]


def said_by_master(*, secret: bool = False) -> list[bytes]:
    """The other side's."""
    return _said(secret)[1]


def streams(lines: list[bytes]) -> list[bytes]:
    """The conversation as it was cut after each word."""
    return [b"".join(lines[: number + 1]) for number in range(len(lines))]


def to_master(*, secret: bool) -> Callable[[bytes], None]:
    """A master's session hears these bytes; it may end the link, and nothing else."""

    def take(data: bytes) -> None:
        pair = _pair(secret=secret)
        offset = pair.master.offset
        pair.up.clear()
        pair.link.ready(pair.now, pair.now_ms)  # what the true replica would say is not heard
        for line in _heard(data):
            if pair.session is None:
                return
            pair.now += 0.01
            pair.session.receive(line, pair.now, pair.now_ms, 100)
            _let_speak(pair, master=True)
        assert pair.master.offset == offset, "a replica has changed its master's data"

    return take


def to_replica(*, secret: bool) -> Callable[[bytes], None]:
    """A replica's link hears these bytes. It may take operations, one after the other, or end the link."""

    def take(data: bytes) -> None:
        pair = _pair(secret=secret)
        _let_speak(pair, master=False)
        for line in _heard(data):
            if pair.session is None:
                return
            pair.now += 0.01
            pair.link.receive(line, pair.now, pair.now_ms, 100)
            try:
                pair._work()
            except PeerError:  # the twin's snapshot is no snapshot: its real receiver is a target of its own
                return
            except (KeyError, TypeError, AssertionError) as error:
                if not _of_the_twin(error):
                    raise
                return
            _let_speak(pair, master=False)

    return take


def _of_the_twin(error: BaseException) -> bool:
    """Whether the twin node, which believes its master, has raised this, and not the link."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and "/tests/unit/pair.py" in trace.tb_frame.f_code.co_filename


def _heard(data: bytes) -> list[messages.Message | messages.OperationFrame]:
    """The messages in these bytes, up to the first that is none."""
    heard = []
    decoder = messages.frame.FrameDecoder(1 << 20)
    decoder.feed(data)
    try:
        while (line := decoder.next()) is not None and len(heard) < WORDS_MAX:
            heard.append(messages.decode(line))
    except PeerError:
        return heard
    return heard


def _let_speak(pair: Pair, *, master: bool) -> None:
    """One side does what it wants; the other one is not there."""
    side = pair.session if master else pair.link
    assert side is not None
    for wish in side.ready(pair.now, pair.now_ms):
        if pair.session is None:
            return
        if master:
            pair._master_does(wish)
        else:
            pair._replica_does(wish)
