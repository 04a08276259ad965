"""The choice between a graph, at which ef, and a scan."""

from __future__ import annotations

import json

import numpy as np
import pytest

from vectorizer.index.calibration import DEVIATIONS, HOLDOUT_ROWS, Calibration, Point, holdout_rows

MEASURED = Calibration(
    graph_rows=10_000,
    graph_bytes=3_000_000,
    holdout=tuple(range(0, 2560, 10)),
    points=(Point(16, 0.90, 0.01, 20.0), Point(32, 0.96, 0.005, 30.0), Point(64, 0.999, 0.001, 50.0)),
    scan_us=400.0,
    batch_scan_us=40.0,
)


def test_the_smallest_ef_whose_recall_is_safe() -> None:
    assert [MEASURED.choose(recall) for recall in (0.5, 0.87, 0.88, 0.94, 0.95, 0.99)] == [
        16,
        16,
        32,
        32,
        64,
        64,
    ]
    assert MEASURED.points[0].safe_recall == pytest.approx(0.90 - DEVIATIONS * 0.01)


def test_the_scan_where_the_target_is_out_of_reach() -> None:
    assert MEASURED.choose(0.999) is None
    assert MEASURED.choose(1.0) is None
    assert Calibration(10, 0, (), (), 1.0, 1.0).choose(0.1) is None


def test_the_scan_where_it_is_cheaper() -> None:
    assert MEASURED.choose(0.94, batch=True) == 32
    assert MEASURED.choose(0.95, batch=True) is None


def test_more_neighbours_need_more() -> None:
    assert MEASURED.choose(0.87, 1) == MEASURED.choose(0.87, 10) == 16
    assert MEASURED.choose(0.87, 25) == 40
    assert MEASURED.choose(0.87, 5000) is None


def test_cost_between_and_beyond_the_measured_points() -> None:
    assert [MEASURED.query_us(ef) for ef in (1, 16, 24, 32, 48, 64, 640)] == [20, 20, 25, 30, 40, 50, 500]
    assert Calibration(10, 0, (), (), 1.0, 1.0).query_us(16) == float("inf")


def test_the_document_survives_json_and_other_documents_are_refused() -> None:
    document = json.loads(json.dumps(MEASURED.to_document()))
    assert Calibration.from_document(document) == MEASURED
    with pytest.raises(ValueError, match="format 2"):
        Calibration.from_document({**document, "format": 2})
    with pytest.raises(ValueError, match="KeyError 'format'"):
        Calibration.from_document({})
    with pytest.raises(ValueError, match="TypeError"):
        Calibration.from_document({**document, "points": 3})


def test_the_rows_with_the_smallest_hashes_stay_out() -> None:
    order = np.random.default_rng(1).permutation(1000).astype(np.int32)
    rows = holdout_rows(order)
    assert rows.dtype == np.int64
    assert rows.tolist() == sorted(order[:HOLDOUT_ROWS].tolist())
    assert holdout_rows(order[:7]).size == 7
