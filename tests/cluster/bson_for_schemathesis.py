"""Hooks of schemathesis, which knows no BSON: how bodies are written."""

from __future__ import annotations

import json
from typing import Any

import bson
import schemathesis


@schemathesis.serializer("application/bson")
def write(context: schemathesis.SerializationContext, value: Any) -> bytes:
    """BSON where a value can be a document of it, else bytes that are none."""
    try:
        return bson.encode(value)
    except (bson.errors.BSONError, TypeError, ValueError, OverflowError):
        return json.dumps(value, default=str).encode()
