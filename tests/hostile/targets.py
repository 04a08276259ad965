"""What hostile bytes are given to. Each target takes any bytes; what is not foreseen comes out as an error.

The foreseen ones are caught here and nowhere else, so this is the list of the right classes of error.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.hostile import peers, stored_bytes
from tests.hostile.mutation import Mutate, mutated_frames, mutated_request
from vectorizer import codec, frame
from vectorizer.errors import PeerError
from vectorizer.frame import FrameDecoder, FrameError
from vectorizer.replication import messages

FRAME_BYTES_MAX = 1 << 16
Take = Callable[[bytes], None]


@dataclass(frozen=True, slots=True)
class Target:
    """``make`` gives what takes the inputs; ``seeds`` are inputs that the code itself has made."""

    make: Callable[[], Take]
    seeds: Callable[[], list[bytes]]
    mutate: Callable[[bytes, int, int, Mutate], bytes] = mutated_frames


def _frames() -> Take:
    def take(data: bytes) -> None:
        """The first byte says in what pieces the rest arrives."""
        decoder, size = FrameDecoder(FRAME_BYTES_MAX), (data[0] if data else 0) + 1
        pieces = [data[start : start + size] for start in range(1, len(data), size)]
        given = 0
        try:
            for piece in pieces:
                decoder.feed(piece)
                while (line := decoder.next()) is not None:
                    assert len(line) <= FRAME_BYTES_MAX, "over the ceiling"
                    frame.body_of(line)
                    given += len(line)
            decoder.finish()
        except FrameError:
            return
        assert given == max(0, len(data) - 1), "bytes have vanished"

    return take


def _messages() -> Take:
    def take(data: bytes) -> None:
        try:
            line = bytes(data)
            frame.body_of(line)
            message = messages.decode(line)
        except PeerError:
            return
        if not isinstance(message, messages.OperationFrame):
            again = messages.decode(messages.encode(message))
            assert codec.encode(vars_of(again)) == codec.encode(vars_of(message)), "it changes on its way"

    return take


def vars_of(message: object) -> dict[str, object]:
    """A message as BSON carries it."""
    return codec.decode(frame.body_of(messages.encode(message)))  # type: ignore[arg-type]


TARGETS: dict[str, Target] = {
    "frames": Target(_frames, lambda: [b"\x07" + b"".join(peers.said_by_replica()), b"\xff"]),
    "messages": Target(_messages, lambda: [*peers.said_by_replica(), *peers.said_by_master()]),
    "master's side of the link": Target(
        lambda: peers.to_master(secret=False), lambda: peers.streams(peers.said_by_replica())
    ),
    "replica's side of the link": Target(
        lambda: peers.to_replica(secret=False), lambda: peers.streams(peers.said_by_master())
    ),
    "master's authentication": Target(
        lambda: peers.to_master(secret=True), lambda: peers.streams(peers.said_by_replica(secret=True))
    ),
    "replica's authentication": Target(
        lambda: peers.to_replica(secret=True), lambda: peers.streams(peers.said_by_master(secret=True))
    ),
    "operations": Target(stored_bytes.operations, stored_bytes.operation_seeds),
    "snapshot": Target(stored_bytes.snapshot, stored_bytes.snapshot_seeds),
    "journal": Target(stored_bytes.journal, stored_bytes.journal_seeds),
    "manifest": Target(stored_bytes.manifest, stored_bytes.manifest_seeds),
}


def requests() -> dict[str, Target]:
    """The targets that need gevent and a data directory."""
    from tests.hostile import requesting

    return {
        "REST, JSON": Target(requesting.take, requesting.json_seeds, mutated_request),
        "REST, BSON": Target(requesting.take, requesting.bson_seeds, mutated_request),
    }


NAMES = (*TARGETS, "REST, JSON", "REST, BSON")
"""All targets."""
