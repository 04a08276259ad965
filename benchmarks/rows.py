"""All rows, in the order of the table."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks import (
    rows_core,
    rows_filter,
    rows_ingest,
    rows_lag,
    rows_recall,
    rows_replicas,
    rows_search,
    rows_size,
    rows_sync,
)
from benchmarks.measurement import Row

ROWS: Sequence[Row] = (
    *rows_ingest.ROWS,
    *rows_lag.ROWS,
    *rows_search.ROWS,
    *rows_filter.ROWS,
    *rows_sync.ROWS,
    *rows_replicas.ROWS,
    *rows_core.ROWS,
    *rows_size.ROWS,
    *rows_recall.ROWS,
)
