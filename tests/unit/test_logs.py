"""Logs: a line is one line, bounded, and no value can break it."""

from __future__ import annotations

import io
import json
import logging
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gevent.threadpool import ThreadPool
from hypothesis import given
from hypothesis import strategies as st

from vectorizer import logs

pytestmark = pytest.mark.usefixtures("logging_as_before")


class Unspeakable:
    """An object that cannot be shown."""

    def __str__(self) -> str:
        raise RuntimeError("no")


class Colour(Enum):
    RED = "red"


def text_of(event: str, /, **fields: object) -> str:
    """Return the part after the level of the text line of an event."""
    stream = io.StringIO()
    logs.configure("debug", "text", stream)
    logs.get("vectorizer.tests").info(event, **fields)
    time, level, rest = stream.getvalue().split(maxsplit=2)
    assert time.endswith("Z")
    assert level == "info"
    assert rest.endswith("\n")
    return rest[:-1]


def document_of(event: str, /, **fields: object) -> dict[str, Any]:
    """Return the JSON line of an event without its time."""
    stream = io.StringIO()
    logs.configure("debug", "json", stream)
    logs.get("vectorizer.tests").warning(event, **fields)
    (line,) = stream.getvalue().splitlines()
    document = json.loads(line)
    assert document.pop("time").endswith("Z")
    assert document.pop("level") == "warning"
    return dict(document)


def test_text() -> None:
    assert text_of("link_up", master="127.0.0.1:7001", offset=5, lag=0.5, partial=True, reason=None) == (
        "link_up master=127.0.0.1:7001 offset=5 lag=0.5 partial=true reason=null"
    )


def test_time_and_level_stand_in_front() -> None:
    assert logs.text_line(0.0, "error", "stop", {}) == "1970-01-01T00:00:00.000Z error   stop"
    assert logs.json_line(1.5, "info", "stop", {"n": 1}) == (
        '{"time":"1970-01-01T00:00:01.500Z","level":"info","event":"stop","n":1}'
    )


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("", '""'),
        ("a b", '"a b"'),
        ('say "no"', r'"say \"no\""'),
        ("a=b", '"a=b"'),
        ("a\\b", r'"a\\b"'),
        ("a\nb", r'"a\nb"'),
        ("a\r\x1b[31m", r'"a\r\u001b[31m"'),
        ("\x7f", r'"\u007f"'),
        ("a\u2028b", r'"a\u2028b"'),
        ("\ud800", r'"\ud800"'),
        ("größe", "größe"),
        (b"id", "id"),
        (b"\xff\x00", "ff00"),
        (bytearray(b"x"), "x"),
        (memoryview(b"x"), "x"),
        ([1, "a"], r'"[1,\"a\"]"'),
        ((1, 2), "[1,2]"),
        ({1: 2}, r'"{\"1\":2}"'),
        (10**40, str(10**40)),
        (np.float32(0.5), "0.5"),
        (np.arange(3), '"[0 1 2]"'),
        (ValueError("it broke"), '"it broke"'),
        (Path("/a/b"), "/a/b"),
        (Unspeakable(), '"<Unspeakable that raises RuntimeError>"'),
        ({1}, "{1}"),
    ],
)
def test_text_of_odd_values(value: object, shown: str) -> None:
    assert text_of("event", value=value) == f"event value={shown}"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("a\nb", "a\nb"),
        ("\ud800", "\\ud800"),
        (b"\xff", "ff"),
        (10**40, str(10**40)),
        (float("nan"), None),
        ([1, {"a": None}], [1, {"a": None}]),
        ({1: b"x"}, {"1": "x"}),
        (np.arange(3), [0, 1, 2]),
        (Colour.RED, "red"),
        (Unspeakable(), "<Unspeakable that raises RuntimeError>"),
        ([Unspeakable()], ["<Unspeakable that raises RuntimeError>"]),
    ],
)
def test_json_of_odd_values(value: object, expected: object) -> None:
    assert document_of("event", value=value) == {"event": "event", "value": expected}


def test_a_value_that_holds_itself() -> None:
    value: list[object] = []
    value.append(value)
    assert text_of("event", value=value) == "event value=[[...]]"
    assert document_of("event", value=value)["value"] == "[[...]]"


def test_fields_cannot_hide_time_level_and_event() -> None:
    assert document_of("a", event="b", time=1, level=2) == {
        "event": "a",
        "event_": "b",
        "time_": 1,
        "level_": 2,
    }


def test_an_event_cannot_forge_a_line() -> None:
    assert text_of("a\nb", **{"c\nd": 1}) == r'"a\nb" "c\nd"=1'
    assert document_of("a\nb\ud800", **{"c\ud800": 1}) == {"event": "a\nb\\ud800", "c\\ud800": 1}


def test_values_are_bounded() -> None:
    for shown in (
        text_of("event", value="x" * 10**6),
        str(document_of("event", value=["x" * 10**6])["value"]),
    ):
        assert len(shown) < logs.VALUE_CHARACTERS_MAX + 100
        assert "(1000" in shown


@given(
    st.text(), st.text(), st.one_of(st.text(), st.binary(), st.floats(), st.integers(), st.lists(st.text()))
)
def test_any_event_is_one_line(event: str, name: str, value: object) -> None:
    for render in (logs.text_line, logs.json_line):
        line = render(0.0, "info", event, {name: value})
        assert len(line.splitlines()) == 1
    json.loads(logs.json_line(0.0, "info", event, {name: value}))


def test_levels() -> None:
    stream = io.StringIO()
    logs.configure("warning", "text", stream)
    log = logs.get("vectorizer.tests")
    log.debug("a")
    log.info("b")
    log.warning("c")
    log.error("d")
    assert [line.split()[1:] for line in stream.getvalue().splitlines()] == [["warning", "c"], ["error", "d"]]
    logs.configure("debug", "text", stream)
    log.debug("e")
    assert stream.getvalue().endswith("debug   e\n")


def test_a_second_call_replaces_the_first() -> None:
    first, second = io.StringIO(), io.StringIO()
    logs.configure("info", "text", first)
    logs.configure("info", "json", second)
    logs.get("vectorizer").info("once")
    assert first.getvalue() == ""
    assert second.getvalue().count("once") == 1


def test_the_default_stream_is_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", "text")
    logs.get("__main__").info("started")
    assert capsys.readouterr().err.endswith("started\n")


def test_what_libraries_say_has_the_same_form() -> None:
    stream = io.StringIO()
    logs.configure("debug", "text", stream)
    library = logging.getLogger("library")
    library.info("not shown")
    library.warning("odd %s", "thing\nhere")
    library.warning("odd %d", "thing")
    first, second = stream.getvalue().splitlines()
    assert first.endswith(r'warning "odd thing\nhere" logger=library')
    assert second.endswith('warning "odd %d (TypeError while formatting)" logger=library')


class Collecting(logging.Handler):
    """A handler as other programs have them."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


def test_a_foreign_handler_sees_event_and_fields() -> None:
    handler = Collecting()
    logging.getLogger("vectorizer").addHandler(handler)
    logs.get("vectorizer.tests").info("link_up", offset=5)
    assert handler.messages == ["link_up offset=5"]


def test_a_listener_hears_everything_from_info_on_until_it_is_closed() -> None:
    stream = io.StringIO()
    logs.configure("error", "text", stream)
    heard: list[tuple[str, str, dict[str, str]]] = []
    listening = logs.listen(lambda created, *event: heard.append(event))
    log = logs.get("vectorizer.tests")
    log.debug("never_heard")
    log.info("link_up", offset=5, name="\udc80", odd=Unspeakable())
    log.error("failed", parts=[1, "a"])
    logs.configure("error", "text", stream)
    log.info("still_heard")
    listening.close()
    log.info("not_heard")
    assert [event for _, event, _ in heard] == ["link_up", "failed", "still_heard"]
    level, _, fields = heard[0]
    assert (level, fields["offset"], fields["name"]) == ("info", "5", r"\udc80")
    assert "raises" in fields["odd"]
    assert heard[1][2] == {"parts": '[1,"a"]'}
    assert [line.split()[2] for line in stream.getvalue().splitlines()] == ["failed"]


class Stuttering(io.StringIO):
    """A stream that sometimes cannot be written to."""

    broken: Exception | None = None

    def write(self, text: str) -> int:
        if self.broken is not None:
            raise self.broken
        return super().write(text)


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), BrokenPipeError(), ValueError("closed")]
)
def test_lines_that_cannot_be_written_are_counted(error: Exception) -> None:
    stream = Stuttering()
    logs.configure("info", "text", stream)
    log = logs.get("vectorizer.tests")
    stream.broken = error
    log.info("lost")
    log.info("lost")
    stream.broken = None
    log.info("heard", n=1)
    log.info("heard", n=2)
    assert [line.split()[2:] for line in stream.getvalue().splitlines()] == [
        ["heard", "n=1", "log_lines_lost=2"],
        ["heard", "n=2"],
    ]


def test_native_threads_and_greenlets_write_whole_lines() -> None:
    stream = io.StringIO()
    logs.configure("info", "text", stream)
    log = logs.get("vectorizer.tests")

    def write(writer: int) -> None:
        for n in range(200):
            log.info("line", writer=writer, n=n, rest="x" * 50)

    pool = ThreadPool(4)
    jobs = [pool.spawn(write, writer) for writer in range(4)]
    write(4)
    for job in jobs:
        job.get(timeout=30)
    pool.kill()
    lines = stream.getvalue().splitlines()
    assert len(lines) == 1000
    assert all(line.endswith("rest=" + "x" * 50) for line in lines)


def test_what_recurs_is_said_ever_less_often() -> None:
    stream = io.StringIO()
    logs.configure("debug", "text", stream)
    recurring = logs.Recurring(logs.get("x"))
    for _ in range(100):
        recurring.warning("refused", host="h", reason="why", peer="h:1")
    recurring.warning("refused", host="h", reason="another")
    recurring.warning("refused", host="g", reason="why")
    lines = stream.getvalue().splitlines()
    assert [line.split("so_far=")[1] for line in lines] == ["1", "2", "4", "8", "16", "32", "64", "1", "1"]
    assert all("reason=" in line for line in lines)


def test_kinds_of_what_recurs_are_bounded() -> None:
    recurring = logs.Recurring(logs.get("x"))
    for index in range(logs.KINDS_MAX + 10):
        recurring.warning("refused", host=f"{index}")
    assert len(recurring._counts) == logs.KINDS_MAX
