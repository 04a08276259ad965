"""What a run of faults found, as JSON between processes and as one table for people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import orjson
from rich.table import Table

COLUMNS = ("kind of fault", "how many", "lost", "doubled", "not started", "longest stall")
UNKNOWN = "?"
NOT_MEASURED = "–"


@dataclass
class Kind:
    """One kind of fault. None where it cannot be told; ``lost_allowed`` is what was announced beforehand."""

    kind: str
    count: int = 0
    lost: int | None = 0
    doubled: int | None = 0
    not_started: int | None = 0
    longest_stall_ms: float | None = None
    lost_allowed: int = 0

    @property
    def wrong(self) -> bool:
        """Whether something was lost beyond what is allowed, doubled, or did not start."""
        return (self.lost or 0) > self.lost_allowed or bool(self.doubled) or bool(self.not_started)

    def __add__(self, other: Kind) -> Kind:
        """Both; what one of them cannot tell is not known of both, but a stall that only one measured is."""
        stalls = [stall for stall in (self.longest_stall_ms, other.longest_stall_ms) if stall is not None]
        return Kind(
            self.kind,
            self.count + other.count,
            _sum(self.lost, other.lost),
            _sum(self.doubled, other.doubled),
            _sum(self.not_started, other.not_started),
            max(stalls, default=None),
            self.lost_allowed + other.lost_allowed,
        )

    def cells(self) -> list[str]:
        """As the table shows it."""
        lost = _count(self.lost) + (f" of at most {self.lost_allowed:,}" if self.lost_allowed else "")
        return [
            self.kind,
            f"{self.count:,}",
            lost,
            _count(self.doubled),
            _count(self.not_started),
            _duration(self.longest_stall_ms),
        ]


@dataclass
class Report:
    """All kinds of one run, what did not hold, and what else is worth a line."""

    kinds: list[Kind] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def wrong(self) -> bool:
        """Whether anything must not be as it is."""
        return bool(self.failures) or any(kind.wrong for kind in self.kinds)

    def write(self, path: Path) -> None:
        """As JSON that ``read`` understands."""
        path.write_bytes(orjson.dumps(asdict(self), option=orjson.OPT_INDENT_2))

    @classmethod
    def read(cls, path: Path) -> Report:
        """What ``write`` wrote, or another program in the same form; fields it does not tell are left out."""
        return cls.from_document(orjson.loads(path.read_bytes()))

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> Report:
        """A report out of decoded JSON."""
        kinds = [Kind(**row) for row in document["kinds"]]
        return cls(kinds, list(document["failures"]), list(document.get("notes", [])))

    @classmethod
    def together(cls, reports: Iterable[Report]) -> Report:
        """One report of several."""
        whole = cls()
        for report in reports:
            whole.kinds += report.kinds
            whole.failures += report.failures
            whole.notes += report.notes
        return whole

    def by_kind(self) -> Report:
        """The same with one row for each kind."""
        kinds: dict[str, Kind] = {}
        for row in self.kinds:
            kinds[row.kind] = kinds[row.kind] + row if row.kind in kinds else row
        return Report(list(kinds.values()), self.failures, self.notes)


def markdown(kinds: Sequence[Kind]) -> str:
    """The table as docs show it."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "| --- " + "| ---: " * (len(COLUMNS) - 1) + "|"]
    lines += ["| " + " | ".join(kind.cells()) + " |" for kind in kinds]
    return "\n".join(lines)


def _sum(one: int | None, other: int | None) -> int | None:
    return None if one is None or other is None else one + other


def _count(number: int | None) -> str:
    return UNKNOWN if number is None else f"{number:,}"


def _duration(milliseconds: float | None) -> str:
    if milliseconds is None:
        return NOT_MEASURED
    return f"{milliseconds:.0f} ms" if milliseconds < 1000 else f"{milliseconds / 1000:.1f} s"


def table(kinds: Sequence[Kind], title: str | None = None) -> Table:
    """The table for a terminal."""
    made = Table(title=title, title_justify="left")
    made.add_column(COLUMNS[0])
    for column in COLUMNS[1:]:
        made.add_column(column, justify="right")
    for kind in kinds:
        made.add_row(*kind.cells(), style="bold red" if kind.wrong else None)
    return made
