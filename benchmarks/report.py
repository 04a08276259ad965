"""Outcomes as a table in the terminal, as JSON, and as Markdown for docs/PERFORMANCE.md."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson
import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.measurement import Outcome

BEGIN = "<!-- figures -->"
END = "<!-- end of figures -->"
HEADINGS = ("what", "value", "beside it", "references in the same run", "target", "of it", "met")
PLAIN_COLUMNS = 180
VERSION = 1


def number(value: float) -> str:
    """Three or more digits, thousands apart."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def named(values: Mapping[str, float]) -> str:
    """``name value`` of each."""
    return ", ".join(f"{name} {number(value)}" for name, value in values.items())


def cells(outcome: Outcome) -> tuple[str, ...]:
    """The outcome's line of the table."""
    share = outcome.share
    return (
        outcome.what,
        f"{number(outcome.value)} {outcome.unit}",
        named(outcome.details),
        named(outcome.references),
        outcome.target + ("" if outcome.bound is None else f" ({number(outcome.bound)})"),
        "" if share is None else f"{share:.2f}",
        {None: "", True: "yes", False: "no"}[outcome.met],
    )


def show(outcomes: Sequence[Outcome]) -> None:
    """Print the table."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=PLAIN_COLUMNS)
    table = Table(*HEADINGS)
    for outcome in outcomes:
        table.add_row(*cells(outcome), style="red" if outcome.met is False else None)
    console.print(table)


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def read(path: Path) -> list[Outcome]:
    """The outcomes in a file of ``write``; none if there is no file."""
    if not path.exists():
        return []
    document = orjson.loads(path.read_bytes())
    return [
        Outcome(**{**row, "runs": tuple(row["runs"]), "points": tuple(row.get("points", ()))})
        for row in document["rows"]
    ]


def write(path: Path, outcomes: Sequence[Outcome], order: Sequence[str] = ()) -> None:
    """Store the outcomes; rows of the file that were not measured now stay as they are.

    ``order``: names of rows, as they follow each other in the file; others come last.
    """
    kept = {outcome.name: outcome for outcome in read(path)}
    kept.update((outcome.name, outcome) for outcome in outcomes)
    ranks = {name: rank for rank, name in enumerate(order)}
    kept = dict(sorted(kept.items(), key=lambda item: ranks.get(item[0], len(ranks))))
    document = {
        "version": VERSION,
        "machine": machine(),
        "rows": [asdict(outcome) for outcome in kept.values()],
    }
    path.write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


def markdown(outcomes: Sequence[Outcome]) -> str:
    """The table in Markdown, and below it the tables of the rows that have their own."""
    tables = [_table(HEADINGS, [cells(outcome) for outcome in outcomes])]
    loads = [outcome.load for outcome in outcomes if outcome.load is not None]
    if loads:
        span = f"{min(loads):.1f} to {max(loads):.1f}, on {os.cpu_count()} cores"
        tables.append(f"Load average before {len(loads)} of the {len(outcomes)} rows: {span}.")
    for outcome in outcomes:
        if outcome.points:
            lines = [
                [number(cell) if isinstance(cell, float) else str(cell) for cell in point.values()]
                for point in outcome.points
            ]
            tables += [f"{outcome.name}:", _table(list(outcome.points[0]), lines)]
    return "\n\n".join(tables)


def _table(headings: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [headings, ["---"] * len(headings), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def put_into(document: str, table: str) -> str:
    """The document with the table between its two marks; ValueError if it has none."""
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the document has no line {BEGIN} with a line {END} after it")
    return f"{before}{BEGIN}\n\n{table}\n\n{END}{after}"
