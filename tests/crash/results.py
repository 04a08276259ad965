"""What a run of faults showed, in the form that all such runs share: one row a kind of fault."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

FAILURES_KEPT = 50


@dataclass(slots=True)
class Kind:
    """One kind of fault. ``longest_stall_ms``: the longest that one of them kept a node (or an answer)."""

    kind: str
    count: int = 0
    lost: int = 0
    doubled: int = 0
    not_started: int = 0
    longest_stall_ms: float = 0.0


@dataclass(slots=True)
class Results:
    """All kinds, and what went wrong, a sentence each."""

    kinds: dict[str, Kind] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def add(self, name: str, found: str = "", stall_ms: float = 0.0, count: int = 1) -> None:
        """Count one; ``found`` is empty, lost, doubled or not_started."""
        kind = self.kinds.setdefault(name, Kind(name))
        kind.count += count
        kind.longest_stall_ms = max(kind.longest_stall_ms, stall_ms)
        if found:
            setattr(kind, found, getattr(kind, found) + 1)

    def failed(self, sentence: str) -> None:
        """Note what went wrong; beyond some, they are only counted."""
        if len(self.failures) < FAILURES_KEPT:
            self.failures.append(sentence)

    def merge(self, other: Results) -> None:
        """Take in what another process found."""
        for name, kind in other.kinds.items():
            own = self.kinds.setdefault(name, Kind(name))
            own.count += kind.count
            own.lost += kind.lost
            own.doubled += kind.doubled
            own.not_started += kind.not_started
            own.longest_stall_ms = max(own.longest_stall_ms, kind.longest_stall_ms)
        self.failures = [*self.failures, *other.failures][:FAILURES_KEPT]

    @property
    def count(self) -> int:
        """All faults."""
        return sum(kind.count for kind in self.kinds.values())

    def write(self, path: str | None) -> None:
        """As a JSON file; None: nowhere."""
        if path is not None:
            kinds = [asdict(kind) for _, kind in sorted(self.kinds.items())]
            text = json.dumps({"kinds": kinds, "failures": self.failures}, indent=1)
            Path(path).write_text(text + "\n", encoding="utf-8")

    def show(self, console: Console, title: str) -> None:
        """The table, and the failures behind it."""
        table = Table(title=title, title_justify="left")
        table.add_column("kind of fault")
        for column in ("times", "lost", "doubled", "not started", "longest stall, ms"):
            table.add_column(column, justify="right")
        for _, kind in sorted(self.kinds.items()):
            counts = (kind.count, kind.lost, kind.doubled, kind.not_started)
            table.add_row(kind.kind, *(f"{count:,}" for count in counts), f"{kind.longest_stall_ms:,.0f}")
        console.print(table)
        for sentence in self.failures:
            console.print(f"FAILED: {sentence}", markup=False, highlight=False)
