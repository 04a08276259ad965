"""Where a node says that it listens."""

from __future__ import annotations

import errno

import pytest

from vectorizer.config import Settings, Source
from vectorizer.listening import advertised_address, listening_address, refused_bind, unusable


def test_the_advertised_address() -> None:
    settings = Settings().replaced({"server.host": "::1"}, source=Source.YAML)
    assert advertised_address(settings, 15002) == "[::1]:15002"
    assert advertised_address(Settings(), 8) == "127.0.0.1:8"
    settings = settings.replaced({"server.advertise_address": "db.example:99"}, source=Source.YAML)
    assert advertised_address(settings, 15002) == "db.example:99"


@pytest.mark.parametrize(
    ("bind", "advertised", "rest", "told"),
    [
        ("10.0.0.2:7001", "", "node-2:15002", "10.0.0.2:8"),
        ("node-2:7001", "", "", "node-2:8"),
        ("0.0.0.0:7001", "", "", ":8"),
        ("[::]:7001", "", "node-2:15002", "node-2:8"),
        ("0.0.0.0:7001", "node-2.example:17001", "node-2:15002", "node-2.example:17001"),
    ],
)
def test_the_address_for_replicas(bind: str, advertised: str, rest: str, told: str) -> None:
    said = {"bind_address": bind, "advertise_address": advertised}
    settings = Settings().replaced(said, source=Source.YAML, section="replication")
    settings = settings.replaced({"server.advertise_address": rest}, source=Source.YAML)
    assert str(listening_address(settings, 8)) == told


def test_what_is_said_when_it_cannot_listen() -> None:
    in_use = OSError(errno.EADDRINUSE, "Address already in use")
    elsewhere = OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address")
    assert (refused_bind("a:1", in_use).status_code, refused_bind("a:1", elsewhere).status_code) == (409, 400)
    assert unusable("a:1", Settings(), in_use).key == "replication.bind_address"
