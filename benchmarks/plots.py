"""The plots of docs/PERFORMANCE.md, drawn from stored outcomes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.measurement import Outcome, Point

SIZE_INCHES = (7.0, 4.2)


def draw(outcomes: Sequence[Outcome], directory: Path) -> list[Path]:
    """An SVG for each outcome that has points: growth.svg, recall.svg; their paths."""
    known = {"growth": ("growth.svg", _growth), "recall-gaussian": ("recall.svg", _recall)}
    drawn = []
    for outcome in outcomes:
        if outcome.name in known and outcome.points:
            name, plot = known[outcome.name]
            drawn.append(directory / name)
            _save(plot(outcome.points), drawn[-1])
    return drawn


def _figure() -> tuple[Any, Any]:
    import matplotlib  # type: ignore[import-not-found,unused-ignore]  # only who draws needs it

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "bench"  # the same figures give the same file
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=SIZE_INCHES)
    axes.grid(alpha=0.3)
    return figure, axes


def _column(points: Sequence[Point], name: str) -> list[float]:
    return [float(point[name]) for point in points]


def _growth(points: Sequence[Point]) -> Any:
    figure, latency = _figure()
    sizes = _column(points, "vectors")
    lines = [
        *latency.plot(sizes, _column(points, "search p50 ms"), "o-", color="C0", label="search p50, ms"),
        *latency.plot(sizes, _column(points, "search p99 ms"), "o--", color="C0", label="search p99, ms"),
    ]
    latency.set(xscale="log", xlabel="vectors of 128 components", ylabel="ms", ylim=(0, None))
    rate = latency.twinx()
    lines += rate.plot(sizes, _column(points, "ingest /s"), "s-", color="C1", label="ingest, vectors/s")
    rate.set(ylabel="vectors/s", ylim=(0, None))
    latency.legend(lines, [line.get_label() for line in lines], loc="lower right")
    return figure


def _recall(points: Sequence[Point]) -> Any:
    figure, axes = _figure()
    by_ef = [point for point in points if str(point["way"]).startswith("ef ")]
    axes.plot(_column(by_ef, "recall@10"), _column(by_ef, "searches /s"), "o-", label="graph, by ef")
    for point in by_ef:
        place = float(point["recall@10"]), float(point["searches /s"])
        axes.annotate(str(point["way"]), place, xytext=(5, 5), textcoords="offset points", fontsize=8)
    for marker, point in zip("*D", (point for point in points if point not in by_ef), strict=False):
        place = float(point["recall@10"]), float(point["searches /s"])
        axes.plot(*place, marker, markersize=11, label=str(point["way"]))
    axes.set(xlabel="recall@10", ylabel="searches/s, one client", yscale="log")
    axes.legend()
    return figure


def _save(figure: Any, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
