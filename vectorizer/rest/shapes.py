"""What documents look like, as data: JSON Schema (draft 2020-12) in a few words.

Shapes stand beside what they describe: kinds of fields have one, routes have one for each of their answers.
The OpenAPI document is put together from them, and the tests hold real answers against them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

Shape = Mapping[str, Any]
"""A JSON Schema; ``Named`` may stand for any schema inside it."""


@dataclass(frozen=True, eq=False)
class Named:
    """A shape that the document describes once, under its name, and refers to elsewhere."""

    name: str
    shape: Shape


AnyShape = Shape | Named

NULL: Shape = {"type": "null"}
STRING: Shape = {"type": "string"}
BOOLEAN: Shape = {"type": "boolean"}
NUMBER: Shape = {"type": "number"}
COUNT: Shape = {"type": "integer", "minimum": 0}
"""Offsets, sizes in bytes, numbers of things."""
ID: Shape = {"type": "string", "minLength": 1}
TIME: Shape = {"type": "string", "format": "date-time"}

VECTOR = Named(
    "Vector",
    {
        "type": "array",
        "items": NUMBER,
        "minItems": 1,
        "description": "As many finite float32 as the collection has dimensions. In BSON: binary, packed "
        "little-endian float32 of subtype 0, or subtype 9 with the header of float32 (27 00).",
    },
)
PAYLOAD = Named(
    "Payload",
    {
        "type": ["object", "null"],
        "description": "Null, booleans, 64-bit integers, finite floats, strings, lists and objects.",
    },
)


def record(fields: Mapping[str, AnyShape], optional: Iterable[str] = (), *, open: bool = False) -> Shape:
    """An object with these fields; with ``open`` it may have others, which clients must not rely on."""
    left_out = set(optional)
    return {
        "type": "object",
        "required": [name for name in fields if name not in left_out],
        "properties": dict(fields),
        **({} if open else {"additionalProperties": False}),
    }


def described(shape: AnyShape, text: str) -> Shape:
    """The same with a description."""
    return {**({"$ref": shape} if isinstance(shape, Named) else shape), "description": text}


def list_of(shape: AnyShape) -> Shape:
    """A list of them."""
    return {"type": "array", "items": shape}


def map_of(shape: AnyShape) -> Shape:
    """An object whose names are data."""
    return {"type": "object", "additionalProperties": shape}


def choice(*values: str) -> Shape:
    """One of a few strings."""
    return {"type": "string", "enum": list(values)}


def or_null(shape: AnyShape) -> Shape:
    """The same, or null."""
    if isinstance(shape, Named) or "enum" in shape or not isinstance(shape.get("type"), str):
        return {"anyOf": [shape, NULL]}
    return {**shape, "type": [shape["type"], "null"]}
