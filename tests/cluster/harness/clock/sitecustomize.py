"""First on the path of a node: its wall clock is off by the seconds in the file that CLOCK_FILE names."""

from __future__ import annotations

import os
import time
from pathlib import Path

FILE = Path(os.environ["CLOCK_FILE"])
true_time_ns = time.time_ns


def time_ns() -> int:
    """Unix nanoseconds on a clock that somebody sets."""
    return true_time_ns() + int(float(FILE.read_text() or "0") * 1e9)


time.time_ns = time_ns
time.time = lambda: time_ns() / 1e9
