"""Addresses: what is accepted, and half a sentence about what is not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vectorizer.address import Address, parse_address, parse_host, peer_address, seen_from_elsewhere


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:7001", "127.0.0.1", 7001),
        ("0.0.0.0:0", "0.0.0.0", 0),
        ("vectorizer-master:7001", "vectorizer-master", 7001),
        ("node_1.internal.:65535", "node_1.internal.", 65535),
        ("[::1]:7001", "::1", 7001),
        ("[fe80::1%eth0]:7001", "fe80::1%eth0", 7001),
        ("a:1", "a", 1),
    ],
)
def test_accepted(text: str, host: str, port: int) -> None:
    address = parse_address(text)
    assert address == Address(host, port)
    assert str(address) == text


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "no port"),
        ("localhost", "no port"),
        (":7001", "no host"),
        ("::1:7001", "brackets"),
        ("http://a:7001", "brackets"),
        ("[::1]", "brackets"),
        ("a:", "port"),
        ("a:-1", "port"),
        ("a:65536", "port"),
        ("a:7001x", "port"),
        ("a:٣", "port"),
        ("[::g]:1", "IPv6"),
        ("[127.0.0.1]:1", "IPv6"),
        ("[]:1", "IPv6"),
        ("256.0.0.1:1", "IPv4"),
        ("10.0.0:1", "IPv4"),
        ("a b:1", "host name"),
        ("-a:1", "host name"),
        ("a..b:1", "host name"),
        ("ä:1", "host name"),
        ("a\n:1", "host name"),
        ("a" * 64 + ":1", "host name"),
        (".".join(["a" * 60] * 5) + ":1", "host name"),
    ],
)
def test_refused(text: str, part: str) -> None:
    with pytest.raises(ValueError, match=part):
        parse_address(text)


def test_hosts_alone() -> None:
    assert parse_host("[::]") == parse_host("::") == "::"
    assert parse_host("localhost") == "localhost"
    with pytest.raises(ValueError, match="host name"):
        parse_host("")


@given(st.ip_addresses(), st.integers(0, 65535))
def test_every_ip_address_survives(ip: object, port: int) -> None:
    address = Address(str(ip), port)
    assert parse_address(str(address)) == address


@given(st.text(max_size=40))
def test_any_text_is_an_address_or_a_value_error(text: str) -> None:
    try:
        address = parse_address(text)
    except ValueError:
        return
    assert str(address).lower() == text.lower() or int(text.rpartition(":")[2]) == address.port


@pytest.mark.parametrize(
    ("told", "host", "seen"),
    [
        ("0.0.0.0:15002", "master.example", "master.example:15002"),
        ("[::]:15002", "fd00::2", "[fd00::2]:15002"),
        ("0.0.0.0:15002", "", "0.0.0.0:15002"),
        ("db:15002", "10.0.0.2", "db:15002"),
        ("", "10.0.0.2", ""),
        ("what is this", "10.0.0.2", "what is this"),
    ],
)
def test_every_interface_is_no_address_for_others(told: str, host: str, seen: str) -> None:
    assert seen_from_elsewhere(told, host) == seen


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (("10.0.0.2", 7), "10.0.0.2:7"),
        (("::ffff:10.0.0.2", 7, 0, 0), "10.0.0.2:7"),
        (("::ffff:1", 7, 0, 0), "[::ffff:1]:7"),
        (("fd00::2", 7, 0, 0), "[fd00::2]:7"),
    ],
)
def test_where_a_connection_comes_from(name: tuple[object, ...], told: str) -> None:
    assert str(peer_address(name)) == told
