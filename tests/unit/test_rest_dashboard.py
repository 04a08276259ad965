"""The page of the dashboard and what it asks for; how it looks and works is tested in a real browser."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable
from http.client import HTTPConnection

import bottle  # type: ignore[import-untyped]

from tests.unit.served import Served
from vectorizer import logs
from vectorizer.rest.dashboard import assembled

Serve = Callable[..., Served]


def test_the_page_holds_everything_and_its_headers_allow_just_that(serve: Serve) -> None:
    connection = HTTPConnection(*serve().server.rest_address, timeout=20)
    try:
        connection.request("GET", "/dashboard")
        answer = connection.getresponse()
        text = answer.read().decode()
    finally:
        connection.close()
    assert (answer.status, answer.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    policy = dict(part.split(" ", 1) for part in answer.headers["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == policy["base-uri"] == policy["frame-ancestors"] == "'none'"
    assert policy["connect-src"] == "'self'"
    for tag, name in (("style", "style-src"), ("script", "script-src")):
        [content] = re.findall(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert policy[name] == f"'sha256-{digest}'"
    assert "{{" not in text
    assert re.findall(r'(?:src|href)="(?!data:)', text) == []
    assert re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", text) == []


def test_its_headers_are_legal() -> None:
    _, headers = assembled()
    assert bottle.HTTPResponse(b"", 200, headers).headers["X-Content-Type-Options"] == "nosniff"


def test_events_are_answered_after_a_number(serve: Serve) -> None:
    node = serve()
    started = [event for event in node.told("GET", "/events")["events"] if event["event"] == "started"]
    assert [(event["level"], event["fields"]["role"]) for event in started] == [("info", "standalone")]
    last = node.told("GET", "/events")["events"][-1]["number"]
    assert node.told("GET", f"/events?after={last}") == {"events": []}
    logs.get("tests").warning("link_down", reason="<b>", offset=7)
    [event] = node.told("GET", f"/events?after={last}")["events"]
    assert event["number"] == last + 1
    assert (event["event"], event["fields"]) == ("link_down", {"reason": "<b>", "offset": "7"})
    assert len(node.told("GET", "/events?limit=1")["events"]) == 1
    assert node.request("GET", "/events?limit=0")[0] == 400


def test_numbers_go_on_rising_after_a_restart(serve: Serve) -> None:
    node = serve()
    last = node.told("GET", "/events")["events"][-1]["number"]
    node.restart()
    assert "started" in [event["event"] for event in node.told("GET", f"/events?after={last}")["events"]]


def test_a_stopped_server_listens_no_more(serve: Serve) -> None:
    node = serve()
    node.stop()
    before = node.server.events.after(0, 1000)
    logs.get("tests").warning("link_down")
    assert node.server.events.after(0, 1000) == before


def test_without_keys_everybody_is_an_admin(serve: Serve) -> None:
    assert serve().told("GET", "/dashboard/access") == {"enforced": False, "role": "admin"}
