"""What a filter looks like. It is read by ``vectorizer.filters``, whose words and limits these are."""

from __future__ import annotations

from vectorizer.filters import BOUNDS, CLAUSES, KEY_BYTES_MAX, VALUES_MAX
from vectorizer.rest.schema import Raw
from vectorizer.rest.shapes import BOOLEAN, NUMBER, STRING, Named, Shape, list_of, record

_FILTER: Shape = {"$ref": "#/components/schemas/Filter"}
_SCALAR: Shape = {"type": ["string", "number", "boolean", "null"]}
_KEY: Shape = {
    "type": "string",
    "minLength": 1,
    "maxLength": KEY_BYTES_MAX,
    "description": "Keys of the payload, joined by dots.",
}
_ANY: Shape = {**list_of(_SCALAR), "minItems": 1, "maxItems": VALUES_MAX}
_MATCH: Shape = {"oneOf": [record({"value": _SCALAR}), record({"any": _ANY})]}
_RANGE: Shape = {
    "anyOf": [
        {**record(dict.fromkeys(BOUNDS, bound), optional=BOUNDS), "minProperties": 1}
        for bound in (NUMBER, STRING)
    ]
}
_CONDITION = Named(
    "Condition",
    {
        "oneOf": [
            record({"key": _KEY, "match": _MATCH}),
            record({"key": _KEY, "range": _RANGE}),
            record({"key": _KEY, "exists": BOOLEAN}),
        ]
    },
)
_CLAUSES: Shape = {**list_of({"anyOf": [_CONDITION, _FILTER]}), "minItems": 1}
FILTER = Raw(
    "a filter",
    Named(
        "Filter",
        {**record(dict.fromkeys(CLAUSES, _CLAUSES), optional=CLAUSES), "minProperties": 1},
    ),
)
