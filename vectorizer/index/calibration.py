"""Calibration: what a graph's recall costs, measured, and the choice that follows from it.

256 rows of each segment stay out of its graph. They are unseen queries whose exact neighbours in the graph
are known, so they tell how much of them a search with a given ``ef`` finds, and how long it takes, next to
the exact scan of the same rows. The user states a recall; :meth:`Calibration.choose` finds the cheapest way
that reaches it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

HOLDOUT_ROWS = 256
EF_LADDER = (16, 20, 24, 32, 40, 48, 64, 80, 96, 128, 160, 192, 256, 320, 384, 512, 768, 1024, 1536, 2048)
"""The values of ef that are measured, until recall is complete or the exact scan is cheaper."""
NEIGHBOURS = 10
"""Recall is promised, and measured, for this many neighbours."""
DEVIATIONS = 3.0
"""A measured recall counts as this many standard errors less, because 256 queries are only a sample: a graph
at the edge of the target is then below it in fewer than one case of a hundred.
"""
FORMAT = 1


@dataclass(frozen=True, slots=True)
class Point:
    """One measured value of ef: mean recall@10 of unseen queries, its standard error, microseconds of one
    query.
    """

    ef: int
    recall: float
    error: float
    query_us: float

    @property
    def safe_recall(self) -> float:
        """The recall that may be promised."""
        return self.recall - DEVIATIONS * self.error


@dataclass(frozen=True, slots=True)
class Calibration:
    """Measurements of one graph.

    ``graph_rows``: rows in the graph. ``graph_bytes``: size of its file. ``holdout``: ascending numbers of
    the rows that are not. ``points``: by rising ef. ``scan_us``: one exact search of all rows by one thread,
    alone; ``batch_scan_us``: the same per query of a batch.
    """

    graph_rows: int
    graph_bytes: int
    holdout: tuple[int, ...]
    points: tuple[Point, ...]
    scan_us: float
    batch_scan_us: float

    def choose(self, recall: float, limit: int = NEIGHBOURS, batch: bool = False) -> int | None:
        """The smallest ef that reaches this recall for ``limit`` neighbours, or None if the exact scan is the
        better way.

        For more than ten neighbours ef grows in proportion, which keeps the share of the neighbourhood that
        is looked at: a cautious choice, since recall at a fixed ratio of ef to neighbours rises with their
        number.
        """
        for point in self.points:
            if point.safe_recall >= recall:
                ef = point.ef * max(limit, NEIGHBOURS) // NEIGHBOURS
                scan_us = self.batch_scan_us if batch else self.scan_us
                return ef if self.query_us(ef) < scan_us else None
        return None

    def query_us(self, ef: int) -> float:
        """Estimated microseconds of one query of the graph.

        Measured points are joined by lines; beyond the last it grows in proportion.
        """
        before: Point | None = None
        for point in self.points:  # a handful; np.interp would take longer than the loop
            if ef <= point.ef:
                if before is None:
                    return point.query_us
                share = (ef - before.ef) / (point.ef - before.ef)
                return before.query_us + share * (point.query_us - before.query_us)
            before = point
        return float("inf") if before is None else before.query_us * ef / before.ef

    def to_document(self) -> dict[str, Any]:
        """For graph.json."""
        return {"format": FORMAT, **asdict(self)}

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> Calibration:
        """The reverse. Raises ValueError for what is not such a document."""
        try:
            if document["format"] != FORMAT:
                raise ValueError(
                    f"a calibration of format {document['format']!r}, this version reads {FORMAT}"
                )
            points = tuple(
                Point(
                    int(point["ef"]), float(point["recall"]), float(point["error"]), float(point["query_us"])
                )
                for point in document["points"]
            )
            holdout = tuple(int(row) for row in document["holdout"])
            rows, size = int(document["graph_rows"]), int(document["graph_bytes"])
            scan_us, batch_scan_us = float(document["scan_us"]), float(document["batch_scan_us"])
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a calibration: {type(error).__name__} {error}") from error
        return cls(rows, size, holdout, points, scan_us, batch_scan_us)


def holdout_rows(order: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
    """The rows that stay out of the graph, ascending. ``order``: the segment's rows by the hash of their ids.

    The smallest hashes: a function of the ids alone, and as good as drawn at random.
    """
    return np.sort(order[:HOLDOUT_ROWS]).astype(np.int64)
