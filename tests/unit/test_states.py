"""The tables of states, and docs/PROTOCOL.md, which is held to the code."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from vectorizer.replication.messages import KINDS, Ack, encode
from vectorizer.replication.states import (
    CONNECTED,
    FINAL,
    FULL_SYNC,
    LINK_LEGAL,
    SESSION_LEGAL,
    LinkState,
    SessionState,
    as_markdown,
)

DOCUMENT = (Path(__file__).resolve().parents[2] / "docs" / "PROTOCOL.md").read_text(encoding="utf-8")


def part(name: str) -> str:
    found = re.search(rf"<!-- {name} -->\n(.*?)\n<!-- end of {name} -->", DOCUMENT, re.DOTALL)
    assert found is not None
    return found[1]


def test_every_state_has_a_line() -> None:
    assert set(SESSION_LEGAL) == set(SessionState)
    assert set(LINK_LEGAL) == set(LinkState)


def test_states_without_a_connection_take_no_message() -> None:
    assert {state for state, legal in LINK_LEGAL.items() if not legal} == set(LinkState) - CONNECTED - {
        LinkState.CLOSING
    }
    assert FULL_SYNC < CONNECTED
    assert not FINAL & CONNECTED


@pytest.mark.parametrize(("name", "table"), [("session", SESSION_LEGAL), ("link", LINK_LEGAL)])
def test_the_document_shows_the_tables_of_the_code(name: str, table: dict[object, dict[type, str]]) -> None:
    assert part(name) == as_markdown(table)


def test_the_worked_example_is_true() -> None:
    written = [line[:50].strip() for line in part("example").splitlines()]
    assert bytes.fromhex(" ".join(written)) == encode(Ack(5, 4))


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_the_document_names_every_message_and_field(kind: str) -> None:
    [line] = [line for line in DOCUMENT.splitlines() if line.startswith(f"| `{kind}` |")]
    fields = {item.name for item in dataclasses.fields(KINDS[kind]) if item.metadata}  # those that are sent
    assert {field for field in fields if f"`{field}`" not in line} == set()


def test_each_side_says_what_the_other_may_hear() -> None:
    """Whatever a message is, one of the two sides expects it somewhere."""
    heard = {kind for table in (*SESSION_LEGAL.values(), *LINK_LEGAL.values()) for kind in table}
    assert set(KINDS.values()) <= heard
