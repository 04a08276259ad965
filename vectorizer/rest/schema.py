"""What requests may contain: small declarative tables, read by all routes.

A table names its fields; each field has a kind, which checks a value and gives it back in its final form. The
tables are data, so that documents about the API can be made from what really validates.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from vectorizer.errors import RequestError, validation
from vectorizer.rest.shapes import AnyShape, Named, Shape, described, list_of, or_null, record


class Kind(Protocol):
    """One kind of value."""

    @property
    def expected(self) -> str:
        """What is accepted, to follow "must be"."""

    @property
    def shape(self) -> AnyShape:
        """The same as JSON Schema."""

    def read(self, value: Any, where: str) -> Any:
        """The value in its final form, or RequestError 400 that names ``where``."""

    def from_text(self, text: str, where: str) -> Any:
        """The value written in a query string."""


def name_of(value: Any) -> str:
    """What a value of JSON or BSON is called in a message."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "a string"
    if isinstance(value, bytes):
        return "binary"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, Mapping):
        return "an object"
    return f"a {type(value).__name__}"


def wrong(where: str, expected: str, value: Any) -> RequestError:
    """400: a value of another kind than the one accepted there."""
    shown = f", not {value!r}" if isinstance(value, int | float) and not isinstance(value, bool) else ""
    return validation(f"{where} must be {expected}{shown or f', not {name_of(value)}'}", field=where)


@dataclass(frozen=True)
class Integer:
    """A whole number in a range, given back as int."""

    minimum: int
    maximum: int

    @property
    def expected(self) -> str:
        return f"a whole number from {self.minimum} to {self.maximum}"

    @property
    def shape(self) -> Shape:
        return {"type": "integer", "minimum": self.minimum, "maximum": self.maximum}

    def read(self, value: Any, where: str) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not self.minimum <= value <= self.maximum:
            raise wrong(where, self.expected, value)
        return int(value)

    def from_text(self, text: str, where: str) -> int:
        if not re.fullmatch("-?[0-9]{1,19}", text):
            raise validation(f"{where} must be {self.expected}, not {text!r}", field=where)
        return self.read(int(text), where)


@dataclass(frozen=True)
class Number:
    """A finite number, given back as float; the ends of the range can be left out."""

    above: float | None = None
    maximum: float | None = None

    @property
    def expected(self) -> str:
        ends = [f"above {self.above:g}"] if self.above is not None else []
        ends += [f"at most {self.maximum:g}"] if self.maximum is not None else []
        return " ".join(["a finite number", *[" and ".join(ends)][: len(ends)]])

    @property
    def shape(self) -> Shape:
        ends = {"exclusiveMinimum": self.above, "maximum": self.maximum}
        return {"type": "number", **{name: end for name, end in ends.items() if end is not None}}

    def read(self, value: Any, where: str) -> float:
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise wrong(where, self.expected, value)
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        low = self.above is not None and number <= self.above
        high = self.maximum is not None and number > self.maximum
        if not math.isfinite(number) or low or high:
            raise wrong(where, self.expected, value)
        return number

    def from_text(self, text: str, where: str) -> float:
        try:
            return self.read(float(text), where)
        except ValueError:
            raise validation(f"{where} must be {self.expected}, not {text!r}", field=where) from None


@dataclass(frozen=True)
class Boolean:
    """true or false."""

    expected = "true or false"
    shape: ClassVar[Shape] = {"type": "boolean"}

    def read(self, value: Any, where: str) -> bool:
        if not isinstance(value, bool):
            raise wrong(where, self.expected, value)
        return value

    def from_text(self, text: str, where: str) -> bool:
        if text not in ("true", "false"):
            raise validation(f"{where} must be {self.expected}, not {text!r}", field=where)
        return text == "true"


@dataclass(frozen=True)
class Text:
    """A string of a bounded number of UTF-8 bytes; with ``pattern`` all of it must match."""

    bytes_max: int
    bytes_min: int = 1
    pattern: str | None = None

    @property
    def expected(self) -> str:
        matching = f" that matches {self.pattern}" if self.pattern else ""
        return f"a string of {self.bytes_min} to {self.bytes_max} bytes of UTF-8{matching}"

    @property
    def shape(self) -> Shape:
        """JSON Schema counts characters: fewer than ``bytes_max`` of them may already be too many bytes."""
        pattern = {"pattern": f"^(?:{self.pattern})$"} if self.pattern is not None else {}
        return {"type": "string", "minLength": self.bytes_min, "maxLength": self.bytes_max, **pattern}

    def read(self, value: Any, where: str) -> str:
        if not isinstance(value, str):
            raise wrong(where, self.expected, value)
        size = len(value.encode())
        if not self.bytes_min <= size <= self.bytes_max:
            raise validation(
                f"{where} must be {self.expected}, it has {size} bytes", field=where, size_bytes=size
            )
        if self.pattern is not None and not re.fullmatch(self.pattern, value):
            raise validation(f"{where} must be {self.expected}, not {value[:64]!r}", field=where)
        return value

    def from_text(self, text: str, where: str) -> str:
        return self.read(text, where)


@dataclass(frozen=True)
class Choice:
    """One of a few strings."""

    values: tuple[str, ...]

    @property
    def expected(self) -> str:
        return "one of " + ", ".join(self.values)

    @property
    def shape(self) -> Shape:
        return {"type": "string", "enum": list(self.values)}

    def read(self, value: Any, where: str) -> str:
        if not isinstance(value, str):
            raise wrong(where, self.expected, value)
        if value not in self.values:
            raise validation(f"{where} must be {self.expected}, not {value[:64]!r}", field=where)
        return value

    def from_text(self, text: str, where: str) -> str:
        return self.read(text, where)


@dataclass(frozen=True)
class Items:
    """A list of a bounded length; what is in it is checked by its reader."""

    count_max: int
    count_min: int = 1
    of: AnyShape = field(default_factory=dict)
    """The shape of an item."""

    @property
    def expected(self) -> str:
        return f"a list of {self.count_min} to {self.count_max} items"

    @property
    def shape(self) -> Shape:
        return {**list_of(self.of), "minItems": self.count_min, "maxItems": self.count_max}

    def read(self, value: Any, where: str) -> list[Any]:
        if not isinstance(value, list):
            raise wrong(where, self.expected, value)
        if not self.count_min <= len(value) <= self.count_max:
            raise validation(
                f"{where} must be {self.expected}, it has {len(value)}",
                field=where,
                count=len(value),
                limit=self.count_max,
            )
        return value

    def from_text(self, text: str, where: str) -> list[Any]:
        raise validation(f"{where} cannot be given in a query string", field=where)


@dataclass(frozen=True)
class Raw:
    """A value that its reader checks, as it came: a vector, a payload, a filter."""

    expected: str
    shape: AnyShape = field(default_factory=dict)

    def read(self, value: Any, where: str) -> Any:
        return value

    def from_text(self, text: str, where: str) -> Any:
        raise validation(f"{where} cannot be given in a query string", field=where)


@dataclass(frozen=True)
class Field:
    """One field of a table.

    ``null`` in an optional field is the same as leaving it out, unless ``nullable``.
    """

    kind: Kind
    help: str
    required: bool = False
    default: Any = None
    nullable: bool = False

    @property
    def shown_default(self) -> Shape:
        """The default, where it is one that a client could also say."""
        try:
            said = self.default is not None and self.kind.read(self.default, "") == self.default
        except RequestError:  # it stands for "not said"
            return {}
        return {"default": self.default} if said else {}


class Table:
    """The fields of one body or one query string. ``packed``: only BSON can hold such a body."""

    def __init__(
        self,
        name: str,
        fields: Mapping[str, Field],
        aliases: Mapping[str, str] | None = None,
        *,
        packed: bool = False,
    ) -> None:
        self.name = name
        self.packed = packed
        self.fields = dict(fields)
        self.aliases = dict(aliases or {})
        self._known = {**{name: name for name in self.fields}, **self.aliases}
        self._required = [name for name, field in self.fields.items() if field.required]
        self._defaults = {
            name: field.default
            for name, field in self.fields.items()
            if not field.required and not field.nullable
        }

    def extended(self, other: Table) -> Table:
        """This table with the fields of another one; its own win."""
        return Table(self.name, {**other.fields, **self.fields}, {**other.aliases, **self.aliases})

    @property
    def named(self) -> Named:
        """A document with these fields, for the description of the API."""
        shapes = {}
        for name, row in self.fields.items():
            shape = row.kind.shape if row.required else or_null(row.kind.shape)
            shapes[name] = {**described(shape, row.help), **row.shown_default}
        for alias, name in self.aliases.items():
            shapes[alias] = {**shapes[name], "description": f"Another name of {name}."}
        optional = [name for name in shapes if name not in self._required]
        return Named(self.name, record(shapes, optional))

    def read(self, document: Any, where: str = "") -> dict[str, Any]:
        """The checked fields of a document; optional ones that are absent have their default.

        A nullable field is in the result only if it was given.
        """
        if not isinstance(document, Mapping):
            raise wrong(where or "the body", "an object", document)
        prefix = f"{where}." if where else ""
        values = dict(self._defaults)
        given: set[str] = set()
        for key, value in document.items():
            name = self._name(key, where)
            if name in given:
                raise validation(f"{prefix}{name} is given twice: once as {key}", field=f"{prefix}{name}")
            given.add(name)
            field = self.fields[name]
            if value is not None:
                values[name] = field.kind.read(value, prefix + key)
            elif field.nullable:
                values[name] = None
            elif field.required:
                raise wrong(prefix + key, field.kind.expected, value)
        self._check_required(given, prefix)
        return values

    def read_query(self, pairs: Iterable[tuple[str, str]]) -> dict[str, Any]:
        """The checked parameters of a query string."""
        values = dict(self._defaults)
        given: set[str] = set()
        for key, text in pairs:
            name = self._name(key, "", "query parameter")
            if name in given:
                raise validation(f"query parameter {name} is given twice", field=name)
            given.add(name)
            values[name] = self.fields[name].kind.from_text(text, f"query parameter {key}")
        self._check_required(given, "query parameter ")
        return values

    def _name(self, key: str, where: str, what: str = "field") -> str:
        name = self._known.get(key)
        if name is not None:
            return name
        close = difflib.get_close_matches(key[:64], self._known, 1)
        place = f" in {where}" if where else ""
        hint = f"; did you mean {close[0]}?" if close else ""
        known = f"; known: {', '.join(self._known)}" if self._known else "; this route takes none"
        raise validation(
            f"unknown {what} {key[:64]!r}{place}{hint or known}", field=key[:64], known=list(self._known)
        )

    def _check_required(self, given: set[str], prefix: str) -> None:
        for name in self._required:
            if name not in given:
                raise validation(f"{prefix}{name} is missing", field=f"{prefix}{name}")
