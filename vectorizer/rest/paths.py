"""Paths and query strings as they came over the wire.

Bottle drops what is not UTF-8 from a path, and a decoded ``%2F`` can no longer be told from a slash. So
routing is done on the percent-encoded path, and each part is decoded once, strictly, afterwards.
"""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

from vectorizer.errors import validation

RAW_TARGET = "vectorizer.target"
"""Key in the WSGI environment of the request target as the client wrote it."""

_BAD_ESCAPE = re.compile("%(?![0-9A-Fa-f]{2})")
_NOT_ASCII = re.compile("[^\x21-\x7e]")
_AUTHORITY = re.compile("[A-Za-z][A-Za-z0-9+.-]*://[^/?]*")


def split_target(target: str) -> tuple[str, str]:
    """(path, query) of a request target, still percent-encoded and pure ASCII.

    ``target`` is what the client sent, decoded as Latin-1. Bytes that should have been percent-encoded are
    now.
    """
    if not target.startswith("/"):
        target = _AUTHORITY.sub("", target, count=1)
    target = _NOT_ASCII.sub(lambda found: f"%{ord(found.group()):02X}", target)
    path, _, query = target.partition("?")
    return path, query


def decode_part(text: str, what: str) -> str:
    """One part of a path, percent-decoded once. ``what`` names it in the error."""
    if "%" not in text:
        return text
    return _decode(text, what)


def query_pairs(query: str) -> list[tuple[str, str]]:
    """Names and values of a query string, percent-decoded; ``+`` is a space."""
    pairs = []
    for part in query.split("&") if query else []:
        name, _, value = part.replace("+", " ").partition("=")
        pairs.append((_decode(name, "the query string"), _decode(value, "the query string")))
    return pairs


def _decode(text: str, what: str) -> str:
    if _BAD_ESCAPE.search(text):
        raise validation(f"{what} is not correctly percent-encoded: {text[:64]!r}")
    try:
        return unquote_to_bytes(text).decode()
    except UnicodeDecodeError as error:
        raise validation(f"{what} is not UTF-8: {error.reason} at byte {error.start}") from error
