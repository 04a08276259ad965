"""What many seeds have shown, as a table for people and as JSON for programs."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table

from tests.simulation.simulation import Outcome
from tests.simulation.swarm import FAULTS

VERSION = 1
FAULT = "fault: "
KINDS = ("lost", "doubled", "not started", "other")
"""Of violations."""


@dataclass(slots=True)
class Report:
    """Of the seeds that are done."""

    first: int
    plant: str | None = None
    seeds: int = 0
    events: int = 0
    virtual_secs: float = 0.0
    stall_ms: float = 0.0
    counts: Counter[str] = field(default_factory=Counter)
    failures: list[Outcome] = field(default_factory=list)

    def add(self, outcome: Outcome) -> None:
        """One more seed."""
        self.seeds += 1
        self.events += outcome.events
        self.virtual_secs += outcome.virtual_secs
        self.stall_ms = max(self.stall_ms, outcome.stall_ms)
        self.counts += outcome.counts
        if outcome.violations:
            self.failures.append(outcome)
            # The stories of the first ones are enough to keep.
            if len(self.failures) > 1:
                outcome.trace.clear()

    def faults(self) -> dict[str, int]:
        """How many of each kind happened."""
        return {kind: self.counts[FAULT + kind] for kind in FAULTS}

    def violations(self) -> dict[str, int]:
        """How many seeds failed first by a violation of each kind."""
        firsts = Counter(outcome.kinds[0] for outcome in self.failures)
        return {kind: firsts[kind] for kind in KINDS}

    def document(self, seconds: float) -> dict[str, Any]:
        """For programs; all numbers are of the seeds that are done. ``seconds`` of the clock on the wall."""
        violations = self.violations()
        return {
            "version": VERSION,
            "first_seed": self.first,
            "seeds": self.seeds,
            "seconds": round(seconds, 1),
            "virtual_seconds": round(self.virtual_secs, 1),
            "events": self.events,
            "faults": self.faults(),
            "acknowledged": self.counts["acknowledged"],
            "lost": violations["lost"],
            "doubled": violations["doubled"],
            "not_started": violations["not started"],
            "other_violations": violations["other"],
            "lost_by_promotion": self.counts["lost by promotion"],
            "longest_stall_virtual_ms": round(self.stall_ms, 1),
            "failing_seeds": sorted(outcome.seed for outcome in self.failures),
            "failures": [
                {"seed": item.seed, "kind": item.kinds[0], "sentence": item.violations[0]}
                for item in sorted(self.failures, key=lambda item: item.seed)
            ],
            "happened": {
                name: count for name, count in sorted(self.counts.items()) if not name.startswith(FAULT)
            },
        }

    def write(self, path: Path, seconds: float) -> None:
        """Replace the file by one with the document."""
        draft = path.with_name(path.name + ".new")
        draft.write_text(json.dumps(self.document(seconds), indent=1) + "\n", encoding="utf-8")
        draft.replace(path)

    def tables(self, seconds: float) -> RenderableType:
        """For people."""
        state = "no violation" if not self.failures else f"{len(self.failures)} FAILED"
        title = f"{self.seeds} seeds from {self.first}, {state}, {seconds:.0f} s"
        faults = Table(title=title, title_justify="left")
        faults.add_column("kind of fault or order")
        faults.add_column("times", justify="right")
        for kind, count in self.faults().items():
            faults.add_row(kind, f"{count:,}")
        others = Table()
        others.add_column("what happened")
        others.add_column("times", justify="right")
        for name, count in sorted(self.counts.items()):
            if not name.startswith(FAULT):
                others.add_row(name, f"{count:,}")
        others.add_section()
        for kind, count in self.violations().items():
            others.add_row(f"seeds violated: {kind}", f"{count:,}")
        others.add_row("longest stall of an acknowledged write, virtual ms", f"{self.stall_ms:,.0f}")
        return Group(faults, others)
