"""Which road was taken: the counters of /replication/status as one small value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Syncs:
    """Syncs finished since the process started, on the side that was asked."""

    full: int
    partial: int
    refusals: Mapping[str, int] = field(default_factory=dict)
    reasons: Mapping[str, int] = field(default_factory=dict)
    """Why full syncs began, as far as this side counts it."""

    def since(self, earlier: Syncs) -> tuple[int, int]:
        """(full, partial) syncs between `earlier` and now, same process."""
        return self.full - earlier.full, self.partial - earlier.partial


def syncs_of(status: Mapping[str, Any]) -> Syncs:
    """Read the counters out of a /replication/status document."""
    counters = status["counters"]
    return Syncs(
        counters["full_syncs"],
        counters["partial_syncs"],
        counters["refusals"],
        counters["full_sync_reasons"],
    )
