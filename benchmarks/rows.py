"""All rows, in the order of the table."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks import rows_core, rows_ingest, rows_lag, rows_replicas, rows_sync
from benchmarks.measurement import Row

ROWS: Sequence[Row] = (
    *rows_ingest.ROWS,
    *rows_lag.ROWS,
    *rows_sync.ROWS,
    *rows_replicas.ROWS,
    *rows_core.ROWS,
)
