"""Who may do what: each route needs a level, and a request shows a key that has it.

A key comes as ``X-API-Key: KEY`` or ``Authorization: Bearer KEY``. It is looked at before anything else of
the request: without it nothing is parsed, waited for or told, but that a path exists.

Measured with 100 keys: 5 microseconds a request, on one core of a small machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vectorizer import logs
from vectorizer.errors import forbidden, unauthorized
from vectorizer.keys import Key, Level
from vectorizer.rest.exchange import Route
from vectorizer.security import Keys

OPEN = frozenset(
    {
        "/health",
        "/primary",
        "/replica",
        "/readiness",
        "/liveness",
        "/dashboard",
        "/docs",
        "/openapi.json",
    }
)
"""Paths that tell what everybody may know: whether the node lives, and pages that ask for a key."""
_BEARER = "bearer "

log = logs.get(__name__)


def needed(route: Route) -> Level | None:
    """The level that a route needs; None = it is open. What neither reads nor writes data is the admin's."""
    if route.method == "GET" and route.path in OPEN:
        return None
    if route.writes:
        return Level.WRITE
    if route.reads or route.method == "GET":
        return Level.READ
    return Level.ADMIN


class Access:
    """The guard before all routes of one node."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._refusals = logs.Recurring(log)

    def check(self, level: Level | None, environ: Mapping[str, Any]) -> None:
        """RequestError 401 or 403 if the request may not have what it wants."""
        if level is None:
            return
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            _refuse_other_sites(environ)
        if not self._keys.enforced:
            return
        key = self._key(environ)
        if key is not None and key.level >= level:
            return
        if key is not None:
            self._note(environ, key.name)
            raise forbidden(
                f"the key {key.name!r} has the role {key.role}, and this needs {level.word}",
                role=key.role,
                needed=level.word,
            )
        self._note(environ, None)
        raise unauthorized(given=_token(environ) is not None)

    @property
    def enforced(self) -> bool:
        """Whether keys are asked for."""
        return self._keys.enforced

    def level(self, environ: Mapping[str, Any]) -> Level | None:
        """What this request may do; None = only what is open."""
        if not self._keys.enforced:
            return Level.ADMIN
        key = self._key(environ)
        return None if key is None else key.level

    def _key(self, environ: Mapping[str, Any]) -> Key | None:
        token = _token(environ)
        return None if token is None else self._keys.find(token)

    def _note(self, environ: Mapping[str, Any], name: str | None) -> None:
        self._refusals.warning(
            "request_refused",
            host=environ.get("REMOTE_ADDR", ""),
            client=environ.get("REMOTE_ADDR"),
            method=environ["REQUEST_METHOD"][:16],
            path=environ["PATH_INFO"][:256],
            key=name,
        )


def _refuse_other_sites(environ: Mapping[str, Any]) -> None:
    """RequestError 403 if a browser sends this for a page of another site.

    Any page may let a browser post to an address that only its user reaches, a node without keys on his own
    machine for example. It needs the browser's leave only to show a key or to name a type of content.
    """
    site, origin = environ.get("HTTP_SEC_FETCH_SITE"), environ.get("HTTP_ORIGIN")
    if site is not None:
        foreign = site not in ("same-origin", "none")
    else:  # not sent to a plain address of another machine, nor by old browsers
        foreign = origin is not None and origin.partition("://")[2] != environ.get("HTTP_HOST")
    if foreign:
        raise forbidden("a browser sends this for a page of another site, which may not change anything here")


def _token(environ: Mapping[str, Any]) -> str | None:
    token: str | None = environ.get("HTTP_X_API_KEY")
    if token is not None:
        return token
    authorization: str = environ.get("HTTP_AUTHORIZATION", "")
    if authorization[: len(_BEARER)].lower() == _BEARER:
        return authorization[len(_BEARER) :].strip()
    return None
