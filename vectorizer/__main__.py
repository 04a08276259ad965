"""Entry of the process: gevent patches the standard library before anything else is imported."""
# ruff: noqa: E402

from __future__ import annotations

import os

# The machine's cores are shared with the event loop; a scan's matrix product gains little from more threads
# of its own.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import vectorizer.native_lock  # noqa: F401  isort: skip  # keeps the unpatched lock

from gevent import monkey  # isort: skip

monkey.patch_all()

import sys

from vectorizer.cli import main

if __name__ == "__main__":
    sys.exit(main())
