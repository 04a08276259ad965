"""The command line as a client of a running node."""

from __future__ import annotations
