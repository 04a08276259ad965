"""All rows, in the order of the table."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks import rows_ingest
from benchmarks.measurement import Row

ROWS: Sequence[Row] = (*rows_ingest.ROWS,)
