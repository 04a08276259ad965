"""Chunks of payloads, and a breath that counts itself."""

from __future__ import annotations

from typing import Any

import numpy as np

from vectorizer import codec
from vectorizer.storage.growing import GrowingChunk


class Breaths:
    """Counts how often others could have run."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1


def chunk_of(payloads: list[dict[str, Any] | None], capacity: int | None = None) -> GrowingChunk:
    count = len(payloads)
    chunk = GrowingChunk("s0000000000000000", capacity or max(count, 1), 1)
    ids = [b"%d" % index for index in range(count)]
    rows = [codec.encode_payload(payload) for payload in payloads]
    chunk.append(
        ids, np.ones((count, 1), np.float32), np.ones(count, np.float32), np.zeros(count, np.uint64), rows
    )
    return chunk
