"""The latest events: a bounded number, with numbers that rise."""

from __future__ import annotations

import pytest

from vectorizer import logs
from vectorizer.events import EVENTS_MAX, FIELD_CHARACTERS_MAX, FIELDS_MAX, ROUTINE, EventRing


def filled(number: int) -> EventRing:
    ring = EventRing(100)
    for n in range(number):
        ring.note(float(n), "info", f"event_{n}", {"n": str(n)})
    return ring


def test_events_are_told_in_order_after_a_number() -> None:
    ring = filled(5)
    assert [event.number for event in ring.after(0, 10)] == [100, 101, 102, 103, 104]
    assert [event.name for event in ring.after(102, 10)] == ["event_3", "event_4"]
    assert [event.name for event in ring.after(0, 2)] == ["event_3", "event_4"]
    assert ring.after(104, 10) == []


def test_the_oldest_make_room() -> None:
    events = filled(EVENTS_MAX + 3).after(0, EVENTS_MAX)
    assert len(events) == EVENTS_MAX
    assert (events[0].name, events[-1].name) == ("event_3", f"event_{EVENTS_MAX + 2}")


def test_each_is_bounded() -> None:
    ring = EventRing(1)
    ring.note(0.0, "info", "x" * 1000, {str(n): "y" * 1000 for n in range(100)})
    [event] = ring.after(0, 10)
    assert len(event.name) == FIELD_CHARACTERS_MAX
    assert len(event.fields) == FIELDS_MAX
    assert {len(value) for value in event.fields.values()} == {FIELD_CHARACTERS_MAX}


def test_what_comes_in_any_number_is_left_out() -> None:
    ring = EventRing(1)
    for name in ROUTINE:
        ring.note(0.0, "info", name, {})
    assert ring.after(0, 10) == []


@pytest.mark.usefixtures("logging_as_before")
def test_it_hears_the_log() -> None:
    ring = EventRing(1)
    listening = logs.listen(ring.note)
    logs.get("tests").warning("link_down", reason="lost", offset=5)
    listening.close()
    logs.get("tests").warning("link_down")
    [event] = ring.after(0, 10)
    assert (event.level, event.name, event.fields) == (
        "warning",
        "link_down",
        {"reason": "lost", "offset": "5"},
    )
