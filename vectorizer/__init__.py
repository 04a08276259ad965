"""Vectorizer: a vector database that replicates from one master to any number of replicas."""

from __future__ import annotations

__version__ = "1.0.0"
