"""Entry of the process: gevent patches the standard library before anything else is imported."""
# ruff: noqa: E402

from __future__ import annotations

import os
import sys

# A closed standard stream would be the number of the next file, and what is printed would go into that: a
# journal, for example.
for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
    try:
        os.fstat(descriptor)
    except OSError:
        os.open(os.devnull, os.O_RDWR)
        setattr(sys, name, os.fdopen(descriptor, "r" if name == "stdin" else "w"))

# The machine's cores are shared with the event loop; a scan's matrix product gains little from more threads
# of its own.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import vectorizer.native_lock  # noqa: F401  isort: skip  # keeps the unpatched lock

from gevent import monkey  # isort: skip

monkey.patch_all()

from vectorizer.cli import main

if __name__ == "__main__":
    sys.exit(main())
